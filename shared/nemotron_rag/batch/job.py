"""What an engine is given to run, by `PageIndex.add` and `reembed`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from nemotron_rag.batch.rows import Row

__all__ = ["Engine", "Job", "Stage", "run_here"]

Stage: TypeAlias = Callable[[Sequence[Row]], list[Row]]
"""Rows in, rows out; see `nemotron_rag.batch.stages`."""


@dataclass(frozen=True, slots=True)
class Job:
    """Rows, and what makes the stages through which they go; all of it can be pickled.

    Args:
        spans: go through `render`, `embed` and `write`: each is some pages of one document. In any order.
        pages: go through `embed` and `write`.
        render: makes the stage where it runs.
        embed: makes the stage, which loads the model at its first call.
        write: makes the stage; None if whoever runs the engine writes what comes out of it.
    """

    spans: Sequence[Row]
    pages: Sequence[Row]
    render: Callable[[], Stage]
    embed: Callable[[], Stage]
    write: Callable[[], Stage] | None = field(default=None)

    def settle(self) -> Callable[[], Stage]:
        """Makes the last two stages as one."""
        return _Both(self.embed, self.write)


Engine: TypeAlias = Callable[[Job], Iterable[Sequence[Row]]]
"""Runs a job, and yields the rows that come out of its last stage, each once, in any order, in lists of any length."""


def run_here(job: Job) -> Iterator[list[Row]]:
    """The simplest of engines: a loop in this process.

    Example:
        >>> from nemotron_rag import Page, PageIndex
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> with PageIndex(embedder=FakeEmbedder()) as index:
        ...     index.add([Page(id="p1", text="apples")], engine=run_here, progress=False).added
        1
    """
    render, settle = job.render(), job.settle()()
    for span in job.spans:
        yield settle(render([span]))
    if job.pages:
        yield settle(job.pages)


@dataclass(frozen=True, slots=True)
class _Both:
    embed: Callable[[], Stage]
    write: Callable[[], Stage] | None

    def __call__(self) -> Stage:
        embed, write = self.embed(), None if self.write is None else self.write()
        return embed if write is None else lambda rows: write(embed(rows))
