"""Filters as conditions: how they are read, what they match in plain Python, and that Qdrant means the same."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.local.payload_filters import check_filter

from nemotron_rag.errors import InputError
from nemotron_rag.stores.filters import (
    Absent,
    AllOf,
    AnyOf,
    Condition,
    DateRange,
    Equals,
    Not,
    NumberRange,
    OneOf,
    keys_of,
    matches,
    metadata_steps,
    parse_filter,
    rename_keys,
)
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.stores.qdrant.filters import compile_filter, field_path
from nemotron_rag.stores.qdrant.layout import PageLayout
from nemotron_rag.testing import FakePageStore
from nemotron_rag.types import Page, StoredPage


def page_of(metadata: dict, **fields) -> StoredPage:
    return StoredPage.of(Page(id="p1", source="a.pdf", number=3, metadata=metadata, **fields), content_hash="h")


def holds_in_qdrant(filter: dict, page: StoredPage) -> bool:
    return check_filter(PageLayout().filter(filter), PageLayout().payload(page), "p1", {})


def test_values_are_read_once():
    day = datetime.date(2024, 5, 1)
    filter = {
        "source": "a.pdf",
        "page_number": [1, 2],
        "year": {"gte": 2020, "lt": 2022.5},
        "date": {"gt": "2024-01-01", "lte": day},
        "draft": None,
        "mixed": ("x", None, {"gt": 1}),
        "day": day,
    }
    assert parse_filter(filter) == (
        Condition("source", Equals("a.pdf")),
        Condition("page_number", AnyOf((Equals(1), Equals(2)))),
        Condition("year", NumberRange(gte=2020, lt=2022.5)),
        Condition("date", DateRange(gt="2024-01-01", lte=day)),
        Condition("draft", Absent()),
        Condition("mixed", AnyOf((Equals("x"), Absent(), NumberRange(gt=1)))),
        Condition("day", DateRange(gte=day, lt=datetime.date(2024, 5, 2))),
    )
    assert parse_filter({}) == parse_filter(None) == ()
    assert set(parse_filter({"tags": {"x", "y"}})[0].test.tests) == {Equals("x"), Equals("y")}


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (["year"], "filter must be a dict, got list"),
        ({"": 1}, "a filter key must be a non-empty str without \", got ''"),
        ({3: 1}, 'a filter key must be a non-empty str without ", got 3'),
        ({"year": {"above": 1, "gt": 2}}, r"filter on 'year' takes the operators gt, gte, .*; got \['above'\]"),
        ({"year": {"$regex": "x"}}, r"filter on 'year' takes the operators .*; got \['regex'\]"),
        ({"year": {"gte": 1, "$gte": 2}}, r"filter on 'year' takes the operators .*; got \['gte', '\$gte'\]"),
        ({"year": {}}, "filter on 'year' takes the operators .*; got none"),
        ({"year": {"in": "2024"}}, "filter on 'year': in wants a list, got str"),
        ({"year": {"nin": 2024}}, "filter on 'year': nin wants a list, got int"),
        ({"year": {"exists": 1}}, "filter on 'year': exists wants True or False, got int"),
        ({"title": {"text": ""}}, "filter on 'title': text wants a non-empty str, got ''"),
        ({"source": {"prefix": 3}}, "filter on 'source': prefix wants a non-empty str, got int"),
        ({"or": []}, r"filter 'or' wants a list of filters, got \[\]; a metadata key of that name is 'metadata.or'"),
        ({"or": {"a": 1}}, "filter 'or' wants a list of filters, got dict"),
        ({"not": 5}, "filter 'not' wants a filter or a list of them, got int; .* 'metadata.not'"),
        ({"$and": [3]}, "filter must be a dict, got int"),
        ({"$where": "x"}, r"a filter knows no '\$where'; between filters there are and, or, not, nor"),
        ({"year": 2**63}, "a whole number must fit into 64 bits"),
        ({"year": float("nan")}, "a number must be finite, got nan"),
        ({"year": {"lt": float("inf")}}, "a number must be finite, got inf; leave a bound out"),
        ({"year": {"gt": "soon"}}, r"filter on 'year': {'gt': 'soon'} are not ISO dates or datetimes"),
        ({"year": {"gt": "2024-13-01"}}, "are not ISO dates or datetimes"),
        ({"year": {"gt": 1, "lt": "2024-01-01"}}, "bounds must all be numbers or all be dates"),
        ({"year": {"gt": True}}, "bounds must all be numbers or all be dates"),
        ({"year": object()}, "got a object; give a str, number, bool, date, list, operators or None"),
        ({"year": [b"x"]}, "got a bytes; give a str"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(filter, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_filter(filter)
    assert "\n" not in str(caught.value)


def test_filters_that_hold_themselves_are_refused():
    values: list = [1]
    values.append(values)
    filters: dict = {"or": []}
    filters["or"].append(filters)
    operators: dict = {}
    operators["not"] = operators
    for endless in ({"year": values}, filters, {"year": operators}):
        with pytest.raises(InputError, match="nested 32 deep"):
            parse_filter(endless)
    with pytest.raises(InputError, match="nested 32 deep"):
        rename_keys(filters, lambda key, value: (key, value))


def test_the_words_of_other_stores_mean_the_same():
    ours = {"or": [{"year": {"gte": 2020, "ne": 2022}}, {"not": {"tags": {"in": ["x"]}}}], "a": {"eq": 1}}
    theirs = {"$or": [{"year": {"$gte": 2020, "$ne": 2022}}, {"$not": {"tags": {"$in": ["x"]}}}], "a": {"$eq": 1}}
    assert parse_filter(ours) == parse_filter(theirs)
    assert parse_filter({"$nor": [{"a": 1}, {"b": 2}]}) == (
        Not(OneOf((*parse_filter({"a": 1}), *parse_filter({"b": 2})))),
    )
    assert parse_filter({"$and": [{"a": 1}, {"b": 2}]}) == (AllOf(parse_filter({"a": 1, "b": 2})),)
    assert matches(parse_filter({"metadata.or": 1, "metadata.$x": 2}), page_of({"or": 1, "$x": 2}))


def test_numbers_of_numpy_and_paths_are_read():
    page = page_of({"year": 2024})
    for filter in ({"year": np.int64(2024)}, {"year": np.array([2023, 2024])}, {"year": {"gte": np.float32(2024)}}):
        assert matches(parse_filter(filter), page)
    assert matches(parse_filter({"source": Path("a.pdf")}), page)
    assert matches(parse_filter({"source": {"prefix": Path("a")}}), page)


def test_keys_that_must_be_there():
    filter = {"or": [{"a": 1}, {"not": {"b": {"ne": 2}}}], "c": None, "d": {"exists": False}, "e": {"exists": True}}
    assert set(keys_of(parse_filter(filter))) == {"a", "b"}


def test_keys_are_renamed_at_any_depth():
    def rename(key, value):
        return {"page": "page_number"}.get(key, key), value

    filter = {"$or": [{"page": 1}, {"not": {"page": {"gt": 2}}}], "page": 3}
    before = copy.deepcopy(filter)
    assert rename_keys(filter, rename) == {
        "$or": [{"page_number": 1}, {"not": {"page_number": {"gt": 2}}}],
        "page_number": 3,
    }
    assert filter == before
    with pytest.raises(InputError, match="two keys of the filter mean the same: page, page_number"):
        rename_keys({"page": 1, "page_number": 2}, rename)
    assert rename_keys(None, rename) is None


def test_page_fields_are_not_metadata_unless_they_are_said_to_be():
    page = page_of({"source": "m", "page_number": 9, "id": "x", "metadata": {"deep": 1}})
    assert matches(
        parse_filter({"source": "a.pdf", "page_number": 3, "number": 3, "id": "p1", "content_hash": "h"}), page
    )
    assert matches(parse_filter({"metadata.source": "m", "metadata.page_number": 9}), page)
    assert not matches(parse_filter({"source": "m"}), page)
    assert not matches(parse_filter({"metadata.source": "a.pdf"}), page)
    assert matches(parse_filter({"metadata.metadata.deep": 1}), page)
    assert metadata_steps("metadata.a.b") == metadata_steps("a.b") == ["a", "b"]


def test_places_in_payloads():
    assert [field_path(key) for key in ("page_number", "number", "source", "year")] == [
        *("number", "number", "source", "metadata.year")
    ]
    assert field_path('a b.c"'.replace('"', "")) == 'metadata."a b".c'
    assert field_path("source", fields=(), metadata="about") == "about.source"
    assert field_path("about.year", fields=(), metadata="about") == "about.year"
    assert field_path("metadata.year", fields=(), metadata="") == "metadata.year"
    assert field_path("when", fields={"when": "node.date"}) == "node.date"


def test_qdrants_own_filters_pass_and_other_things_do_not():
    own = models.Filter(must=[models.HasIdCondition(has_id=[1])])
    assert compile_filter(own) is own
    assert compile_filter(None) is None
    with pytest.raises(InputError, match="filter must be a dict or a qdrant_client.models.Filter, got list"):
        compile_filter(["year"])


def test_the_conditions_that_qdrant_is_sent():
    compiled = compile_filter({"a": 1, "b": ["x"], "c": 0.5, "d": {"gt": 1}, "e": None, "f": {"lt": "2024-01-01"}})
    assert compiled.must == [
        models.FieldCondition(key="metadata.a", range=models.Range(gte=1, lte=1)),
        models.FieldCondition(key="metadata.b", match=models.MatchAny(any=["x"])),
        models.FieldCondition(key="metadata.c", range=models.Range(gte=0.5, lte=0.5)),
        models.FieldCondition(key="metadata.d", range=models.Range(gt=1)),
        models.IsEmptyCondition(is_empty=models.PayloadField(key="metadata.e")),
        models.FieldCondition(key="metadata.f", range=models.DatetimeRange(lt="2024-01-01")),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-01",
        " 2024-05-01",
        "2024-05-01T10:30",
        "2024-05-01 10:30:15",
        "2024-05-01T10:30:15.5",
        "2024-05-01T10:30:15.123456789Z",
        "2024-05-01T10:30:15z",
        "2024-05-01T12:30:15+02:00",
        "2024-05-01T12:30:15+0200",
        "2024-05-01T12:30:15+02",
        "2024-05-01 10:30:15 UTC",
        "2024-05-01 10:30:15 +00:00",
        "2024-05-01T10",
        "2024-05-01T10:30Z",
        "2024-5-1",
        "20240501",
        "2024-W18-3",
        "2024-02-30",
        "2024-05-01T25:00",
        "1714559415",
        "soon",
        "",
        "2024-05-01T12:30:15+25:00",
        "2024-05-01T05:00:15-0530",
    ],
)
def test_stored_dates_are_read_as_qdrant_reads_them(text):
    page = page_of({"date": text})
    for bounds in ({"gte": "2024-05-01"}, {"gt": "2024-05-01T10:30:15"}, {"lt": "2024-05-01T10:30:15.123457Z"}):
        assert matches(parse_filter({"date": bounds}), page) == holds_in_qdrant({"date": bounds}, page)


texts = st.sampled_from(["x", "y", "1", "", "2024-01-01", "2024-01-01T12:00:00+02:00", "x y", "a.pdf", "Xy_z"])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1]),
    st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    texts,
)
nested = st.recursive(
    values | st.lists(values, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=2) | st.lists(inner, max_size=2),
    max_leaves=6,
)
numbers = st.integers(-3, 3) | st.sampled_from([-0.5, 0.5, 1.0])
dates = st.sampled_from(["2024-01-01", "2023-12-31T23:00:00Z", datetime.date(2024, 1, 1)])
days = st.sampled_from([datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1, 10)])
names = st.sampled_from(["gt", "gte", "lt", "lte"])
ranges = st.dictionaries(names, numbers, min_size=1) | st.dictionaries(names, dates, min_size=1)
pieces = st.sampled_from(["x", "y", "a", "1", "2024-", "X y", "y_x", "?"])


def operators(inner):
    """One or two operators over what a value may be."""
    some = st.lists(inner, max_size=2)
    each = {
        **{"eq": inner, "$ne": inner, "not": inner, "in": some, "$nin": some, "all": some, "exists": st.booleans()},
        **{"contains": pieces | st.integers(0, 2) | st.booleans(), "not_contains": pieces},
        **{"prefix": pieces, "text": pieces},
    }
    one = st.one_of([st.tuples(st.just(name), value) for name, value in each.items()])
    return st.lists(one, min_size=1, max_size=2).map(dict)


tests = st.recursive(values | ranges | days, lambda inner: st.lists(inner, max_size=2) | operators(inner), max_leaves=3)
keys = st.sampled_from(["a", "b", "a.b", "a.b.c", "metadata.a", "source", "page_number", "number", "id", "a b"])
leaves = st.dictionaries(keys, tests, max_size=2)
joined = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(st.sampled_from(["and", "$or", "nor"]), st.lists(inner, min_size=1, max_size=2), max_size=2)
        | st.dictionaries(st.sampled_from(["not", "$not"]), inner, min_size=1, max_size=1)
        | st.tuples(leaves, st.lists(inner, min_size=1, max_size=2)).map(lambda pair: {**pair[0], "or": pair[1]})
    ),
    max_leaves=4,
)


@st.composite
def filters(draw):
    """Any filter; a function, so that messages do not describe how it is made."""
    return draw(joined)


@settings(deadline=None)
@example(metadata={"a": True}, filter={"a": 1}, other=None)
@example(metadata={"a": [1.0, False]}, filter={"a": [1, 0]}, other=None)
@example(metadata={"a": True, "b": [1]}, filter={"a": {"gte": 0}, "b": 1.0}, other=None)
@example(metadata={"a": 2024.0}, filter={"a": 2024}, other=None)
@example(metadata={"a": 2**53}, filter={"a": 2**53 + 1}, other=None)
@example(metadata={"a": ["xy"], "b": "xy"}, filter={"b": {"contains": "x"}, "a": {"not_contains": "x"}}, other=None)
@example(metadata={}, filter={"$not": {"or": [{"a": {"$ne": 1}}, {}]}}, other=None)
@example(metadata={}, filter={"source": {"contains": ".pdf"}, "page_number": {"nin": [3.0]}}, other=None)
@example(metadata={"a": 1}, filter={"a": 1, "b": 2}, other={"b": 2})
@example(metadata={"a": 1}, filter={"a": None}, other={"b": 2})
@example(metadata={"a": 1}, filter={"or": [{"a": {"ne": 1}}, {"page_number": 9}], "source": "a.pdf"}, other={"a": 2})
@given(
    metadata=st.dictionaries(st.sampled_from(["a", "b", "a b"]), nested),
    filter=filters(),
    other=st.none() | st.dictionaries(st.sampled_from(["a", "b", "a b"]), nested),
)
def test_plain_python_and_qdrant_agree(metadata, filter, other):
    page = page_of(metadata)
    page = page if other is None else page.with_source("b.pdf", other)
    assert matches(parse_filter(filter), page) == holds_in_qdrant(filter, page)


def test_floats_and_bounds_are_compared_as_the_engine_does(tmp_path):
    numbers = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, 2.0**53, 2**62, 1e300, -(2**53) - 1, 10**25]
    pages = [
        StoredPage.of(Page(id=f"p{n}", number=n, metadata={"a": number}), content_hash="h")
        for n, number in enumerate(numbers)
    ]
    fake, edge = FakePageStore(), QdrantStore(tmp_path)  # the local mode compares whole numbers exactly with bounds
    for store in (fake, edge):
        store.create(dimensions=2, record={})
        store.put(pages, np.eye(len(pages), 2, dtype=np.float32) + 1)
    for value in (*numbers[:-1], float(10**25)):
        for filter in ({"a": value}, {"a": {"gt": value}}, {"a": {"gte": value}}, {"a": {"lt": value, "ne": 3}}):
            found = [{stored.page.number for stored in store.pages(filter)} for store in (fake, edge)]
            assert found[0] == found[1], filter
    edge.close()


@settings(deadline=None)
@given(metadata=st.dictionaries(st.sampled_from(["a", "b"]), nested), filter=filters(), other=filters())
def test_filters_follow_the_laws_of_logic(metadata, filter, other):
    page = page_of(metadata)

    def holds(given):
        return matches(parse_filter(given), page)

    assert holds({"not": filter}) != holds(filter)
    assert holds({"and": [filter, other]}) == (holds(filter) and holds(other))
    assert holds({"or": [filter, other]}) == (holds(filter) or holds(other))
    assert holds({"nor": [filter, other]}) == holds({"and": [{"not": filter}, {"not": other}]})


VALUES = [2024, 2024.0, True, [True, 1], ["x", "xy"], 2**53, 2**53 + 1, [], [None], None, [[1]], "Äpfel über x", ""]
METADATA = [
    *({"a": value, "b": -1} for value in VALUES),
    *({"a": {"b": {"c": 1.0}}}, {"a": {"b": ["x", {"c": 1}]}}, {"b": "xy", "a b": 0.5}, {}),
    *({"a": "2024-01-01", "b": ["2024-01-01T12:00:00+02:00", 3]}, {"a": 1.0, "b": 1}, {"b": "a.pdf"}),
]


@pytest.fixture(scope="module", params=["folder", "memory"])
def store(request, tmp_path_factory):
    opened = QdrantStore(tmp_path_factory.mktemp("filters") / "index" if request.param == "folder" else None)
    opened.create(dimensions=2, record={})
    pages = [
        StoredPage.of(
            Page(id=f"p{n}", source=["a.pdf", "x/y.pdf", ""][n % 3], number=n % 4, metadata=each), content_hash="h"
        )
        for n, each in enumerate(METADATA)
    ]
    opened.put(pages, [np.ones(2, np.float32)] * len(pages))
    yield opened
    opened.close()


@settings(deadline=None, max_examples=60)
@given(filter=filters())
def test_plain_python_and_a_store_agree(store, filter):
    """In a folder Qdrant's own engine answers, where there is one for this system."""
    expected = {stored.page.id for stored in store.pages() if matches(parse_filter(filter), stored)}
    assert {stored.page.id for stored in store.pages(filter)} == expected
