"""One piece of logic for the sync and the async form of a method: a generator that yields its slow steps.

It knows neither stores nor models.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import run_in_executor

__all__ = ["Step", "Steps", "arun", "compress", "in_thread", "run"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """Something slow, in both its forms.

    Args:
        now: does it, blocking.
        later: does it without blocking the event loop.
    """

    now: Callable[[], Any]
    later: Callable[[], Awaitable[Any]]


Steps: TypeAlias = Generator[Step, Any, T]
"""Logic that yields steps, is sent their results (or thrown their errors), and returns a `T`."""


def in_thread(work: Callable[..., Any], *args: Any) -> Step:
    """A step that has only a blocking form; an event loop gives it to a thread."""
    return Step(lambda: work(*args), lambda: run_in_executor(None, work, *args))


def run(steps: Steps[T]) -> T:
    """Carry the steps out one after another, blocking."""
    try:
        step = next(steps)
        while True:
            try:
                result = step.now()
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


async def arun(steps: Steps[T]) -> T:
    """Carry the steps out one after another, without blocking the event loop."""
    try:
        step = next(steps)
        while True:
            try:
                result = await step.later()
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


def compress(compressor: BaseDocumentCompressor, documents: list[Document], query: str, callbacks: Callbacks) -> Step:
    """A step that gives what a document compressor makes of documents."""

    async def later() -> list[Document]:
        return list(await compressor.acompress_documents(documents, query, callbacks))

    return Step(lambda: list(compressor.compress_documents(documents, query, callbacks)), later)
