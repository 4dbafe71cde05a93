"""The one language of filters: plain dicts, read once into conditions that each store translates, or applies itself.

``{"source": {"prefix": "reports/"}, "page_number": [1, 2], "year": {"gte": 2020, "ne": 2022}, "draft": None}``

All entries must hold, in one of the files that hold a page. A key is a field of the page
(`nemotron_rag.types.PAGE_FIELDS`; ``number`` is an older name of ``page_number``), else a key of its metadata, where
dots step into nested objects. A value is

* a str, number or bool to be equal to, or a list of allowed values. Where the page has a list, one equal element is
  enough. Numbers are equal by size, 2024 and 2024.0; they never equal bools. Whole ones from 2**53 on are compared
  exactly with whole ones, and else, as by bounds, as floats, which have gaps there. A date is that day, a datetime that
  moment, of metadata that hold ISO strings;
* None for "absent": no such key, None, or an empty list;
* operators, all of which must hold:

  ============================== =====================================================================================
  ``eq``, ``ne``                 equal, not equal
  ``gt``, ``gte``, ``lt``, ``lte`` bounds: numbers; or dates, datetimes or ISO strings of them, UTC unless they say
                                 otherwise
  ``in``, ``nin``                one of a list, none of a list
  ``all``                        a list with all of these elements
  ``exists``                     True or False: whether there is a value; False is the same as None
  ``contains``, ``not_contains`` of a text: these characters stand in it; of a list: it is an element
  ``prefix``                     a text begins with these characters, such as a ``source`` with a folder
  ``text``                       a text has all of these words, in any order and case
  ``not``                        anything that a value may be, which must not hold
  ============================== =====================================================================================

The keys ``and`` and ``or`` take a list of filters, ``not`` and ``nor`` one filter or a list of them: none may hold.
Operators may be written as in MongoDB, Chroma and Pinecone, ``$gte`` or ``$or``. A metadata key that is called like one
is ``metadata.or``. What is negated, by ``ne``, ``nin``, ``not_contains`` or ``not``, also holds for pages without the
key.
"""

from nemotron_rag.stores.filters.conditions import (
    Absent,
    AllOf,
    AnyOf,
    Condition,
    Contains,
    DateRange,
    Equals,
    Expression,
    Not,
    NumberRange,
    OneOf,
    Prefix,
    Test,
    Words,
    is_whole,
    keys_of,
)
from nemotron_rag.stores.filters.matching import matches, matching_files, metadata_steps, page_found, words_of
from nemotron_rag.stores.filters.parsing import check_key, is_empty, parse_filter, rename_keys

__all__ = [
    "Absent",
    "AllOf",
    "AnyOf",
    "Condition",
    "Contains",
    "DateRange",
    "Equals",
    "Expression",
    "Not",
    "NumberRange",
    "OneOf",
    "Prefix",
    "Test",
    "Words",
    "check_key",
    "is_empty",
    "is_whole",
    "keys_of",
    "matches",
    "matching_files",
    "metadata_steps",
    "page_found",
    "parse_filter",
    "rename_keys",
    "words_of",
]
