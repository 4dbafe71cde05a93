"""Queries with filters that a language model wrote, for LangChain's `SelfQueryRetriever`."""

from __future__ import annotations

import datetime
from typing import Any

from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery, Visitor

from nemotron_rag.errors import InputError

__all__ = ["NemotronTranslator"]


class NemotronTranslator(Visitor):
    """Translates LangChain's structured queries into filters of a `NemotronPageVectorStore`.

    Give it to ``SelfQueryRetriever.from_llm(..., structured_query_translator=NemotronTranslator())`` of
    ``langchain-classic``. The filters are plain dicts, see `nemotron_rag.stores.filters`, and so fit
    `NemotronPageRetriever` and `PageIndex.search` too.

    Example:
        >>> wanted = Comparison(comparator=Comparator.GTE, attribute="year", value=2020)
        >>> NemotronTranslator().visit_structured_query(StructuredQuery(query="sales", filter=wanted))
        ('sales', {'filter': {'year': {'gte': 2020}}})
    """

    allowed_comparators = tuple(Comparator)
    allowed_operators = tuple(Operator)

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """Filters joined by and, or, not: what `operation` holds, none of it in the case of not."""
        parts = [argument.accept(self) for argument in operation.arguments]
        return {"nor" if operation.operator == Operator.NOT else operation.operator.value: parts}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """A test of one key.

        Raises:
            InputError: "like" is given something else than a text, or a date is none.
        """
        name = _NAMES.get(comparison.comparator, comparison.comparator.value)
        value = _plain(comparison.attribute, comparison.value)
        if comparison.comparator == Comparator.LIKE:
            name, value = _like(comparison.attribute, value)
        elif comparison.comparator in (Comparator.IN, Comparator.NIN) and not isinstance(value, list):
            value = [value]
        return {comparison.attribute: {name: value}}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """The query, and the options of a search that has its filter."""
        filter = structured_query.filter
        return structured_query.query, {} if filter is None else {"filter": filter.accept(self)}


_NAMES = {Comparator.CONTAIN: "contains"}


def _plain(attribute: str, value: Any) -> Any:
    """A value as filters have it: the parser of structured queries describes dates by dicts."""
    if isinstance(value, list | tuple):
        return [_plain(attribute, each) for each in value]
    if not isinstance(value, dict):
        return value
    try:
        if "date" in value:
            return datetime.date.fromisoformat(value["date"])
        return datetime.datetime.fromisoformat(value["datetime"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"filter on {attribute!r}: {value} is no ISO date or datetime") from error


def _like(attribute: str, value: Any) -> tuple[str, str]:
    """SQL's pattern, as far as its ``%`` stand at the ends; a bare text stands anywhere."""
    if not isinstance(value, str):
        raise InputError(f"filter on {attribute!r}: like wants a text, got {type(value).__name__}")
    is_prefix = value.endswith("%") and not value.startswith("%")
    return "prefix" if is_prefix else "contains", value.strip("%")
