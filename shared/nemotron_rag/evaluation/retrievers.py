"""Anything that finds pages, called in the way of its framework, which nothing here knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.page_ids import PageIds
from nemotron_rag.index import PageIndex
from nemotron_rag.types import Hit, Page

__all__ = ["Find", "as_find", "distinct_pages", "score_of", "text_of"]

Find = Callable[[str], Sequence[Any]]
"""Finds pages for a query: what it returns is told apart by `PageIds`."""

_METHODS = ("invoke", "retrieve")  # of LangChain's and LlamaIndex's BaseRetriever
_SCORES = ("relevance_score", "score", "_score")
_SHOWN = 240  # characters of a text that results keep


def as_find(retriever: Any, *, k: int) -> Find:
    """How a retriever is asked.

    Args:
        retriever: a `PageIndex`, a retriever of LangChain (``invoke``) or LlamaIndex (``retrieve``), or a function of
            the query.
        k: pages that a `PageIndex` is asked for; the others have a setting of their own.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(retriever, PageIndex):
        return lambda query: retriever.search(query, k=k)
    for name in _METHODS:
        method = getattr(retriever, name, None)
        if callable(method) and not isinstance(retriever, type):
            return _listed(method, retriever)
    if callable(retriever) and not isinstance(retriever, type):
        return _listed(retriever, retriever)
    raise InputError(
        f"a retriever must have invoke or retrieve, as those of LangChain and LlamaIndex, or be a function of the "
        f"query; got {one_line(type(retriever).__name__)}: of a store give store.as_retriever()"
    )


def distinct_pages(found: Sequence[Any], ids: PageIds, k: int) -> dict[str, Any]:
    """The first k pages found, each once, as their best part ranks them: by page id what returned it."""
    pages: dict[str, Any] = {}
    for each in found:
        page = ids.of(each)
        if page not in pages and len(pages) < k:
            pages[page] = each
    return pages


def text_of(found: Any) -> str:
    """What people may recognise a page by: the beginning of its text."""
    page = found.page if isinstance(found, Hit) else found
    if isinstance(page, Page):
        return one_line(page.text, limit=_SHOWN)
    inner = getattr(page, "node", page)
    texts = (getattr(inner, name, None) for name in ("page_content", "text"))
    return one_line(next((text for text in texts if isinstance(text, str)), ""), limit=_SHOWN)


def _listed(ask: Callable[[str], Any], retriever: Any) -> Find:
    def find(query: str) -> Sequence[Any]:
        found = ask(query)
        if isinstance(found, str | Mapping) or not isinstance(found, Iterable):
            raise InputError(
                f"{type(retriever).__name__} must return a list of pages, got {type(found).__name__}; of a chain give "
                "its retriever"
            )
        return list(found)

    return find


def score_of(found: Any) -> float | None:
    """The score of what a retriever returned, if it has one."""
    inner = getattr(found, "node", found)
    metadata = getattr(inner, "metadata", None)
    named = metadata if isinstance(metadata, Mapping) else {}
    given = getattr(found, "score", None)
    for value in (given, *(named.get(name) for name in _SCORES)):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None
