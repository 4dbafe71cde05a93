"""Documents in parts, as they are read: from lists, iterators and async iterators, each with its id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from itertools import zip_longest
from typing import Any, TypeVar, cast

from langchain_core.documents import Document

from langchain_nemotron_rag._documents import Ids
from nemotron_rag.errors import InputError

__all__ = ["abatches", "apaired", "batches", "length_of", "paired"]

T = TypeVar("T")
_NOTHING: Any = object()


def batches(documents: Iterable[T], size: int) -> Iterator[list[T]]:
    """Parts of what is read as it is needed; if reading fails, what was read before comes first."""
    part: list[T] = []
    try:
        for document in documents:
            part.append(document)
            if len(part) == size:
                yield part
                part = []
    except Exception:
        if part:
            yield part
        raise
    if part:
        yield part


async def abatches(documents: Iterable[T] | AsyncIterable[T], size: int) -> AsyncIterator[list[T]]:
    """`batches` for event loops, which are not blocked by what reads the documents."""
    if not isinstance(documents, AsyncIterable):
        parts = batches(documents, size)
        while part := await asyncio.to_thread(next, parts, None):
            yield part
        return
    part = []
    try:
        async for document in documents:
            part.append(document)
            if len(part) == size:
                yield part
                part = []
    except Exception:
        if part:
            yield part
        raise
    if part:
        yield part


def length_of(documents: Any) -> int | None:
    """How many there are, if that is known."""
    return len(documents) if isinstance(documents, Sized) else None


def paired(documents: Iterable[Document], ids: Ids) -> Iterator[tuple[Document, str | None]]:
    """Each document with its id.

    Raises:
        InputError: there are more of the one than of the other.
    """
    if ids is None:
        yield from ((document, None) for document in documents)
        return
    for document, id in zip_longest(documents, ids, fillvalue=_NOTHING):
        if document is _NOTHING or id is _NOTHING:
            raise InputError("documents need as many ids, got more of the one than of the other")
        yield document, id


async def apaired(documents: AsyncIterable[Document], ids: Ids) -> AsyncIterator[tuple[Document, str | None]]:
    """`paired` of documents that come from an event loop."""
    given = None if ids is None else iter(ids)
    async for document in documents:
        id = None if given is None else next(given, _NOTHING)
        if id is _NOTHING:
            raise InputError("documents need as many ids, got fewer")
        yield document, cast("str | None", id)
