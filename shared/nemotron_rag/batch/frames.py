"""The stages over pandas frames, as Spark's `mapInPandas` gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nemotron_rag.batch.job import Stage
from nemotron_rag.batch.rows import Row
from nemotron_rag.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas

__all__ = ["PAGE_COLUMNS", "SPAN_COLUMNS", "map_in_pandas"]

SPAN_COLUMNS = "path string, source string, content_hash string, metadata string, numbers string"
"""The columns of `span_rows`, as a schema of Spark."""

PAGE_COLUMNS = (
    "id string, source string, number bigint, text string, content_hash string, content_metadata string, "
    "metadata string, words binary, replaces boolean, others string, error string, image binary, stored_image string, "
    "vector array<float>, tokens bigint"
)
"""The columns of `nemotron_rag.batch.rows`, as a schema of Spark."""


def map_in_pandas(
    make: Callable[[], Stage], *, size: int = 16
) -> Callable[[Iterable[pandas.DataFrame]], Iterator[pandas.DataFrame]]:
    """A stage as a function from frames to frames.

    Args:
        make: makes the stage where it runs, such as ``partial(EmbedPages, "llama-nemotron-embed-vl-1b-v2")``; a model
            that is named is loaded once in each process.
        size: rows that the stage is given at once; frames hold more.

    Example:
        >>> from functools import partial
        >>> import pandas
        >>> from nemotron_rag.batch.pages import NewPage
        >>> from nemotron_rag.batch.rows import to_row
        >>> from nemotron_rag.batch.stages import EmbedPages
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> from nemotron_rag.types import Page
        >>> frame = pandas.DataFrame([to_row(NewPage(Page("red apples", id="p1"), "page:1"))])
        >>> (embedded,) = map_in_pandas(partial(EmbedPages, FakeEmbedder(dimensions=8)))([frame])
        >>> len(embedded["vector"][0])
        8
    """

    def run(frames: Iterable[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
        stage = make()
        for frame in frames:
            for start in range(0, len(frame), size):
                rows = [_plain(row) for row in frame.iloc[start : start + size].to_dict("records")]
                yield _frame(stage(rows))

    return run


def _plain(row: dict[Any, Any]) -> Row:
    """A row with None for what pandas has in the place of null."""
    return {str(name): None if isinstance(value, float) and value != value else value for name, value in row.items()}


def _frame(rows: Sequence[Row]) -> pandas.DataFrame:
    try:
        import pandas  # noqa: PLC0415  of the caller's engine
    except ImportError as error:
        raise MissingExtraError("pandas", "ray") from error
    names = [column.split()[0] for column in PAGE_COLUMNS.split(", ")]
    return pandas.DataFrame(list(rows), columns=names)
