"""Index documents on Daft: `PageIndex.add` lists and settles them, Daft's workers render, embed and write.

    python cookbook/scale_daft.py /mnt/documents parquet:///mnt/stage --embedder llama-nemotron-embed-vl-1b-v2

In the place of the stage, a Qdrant server and --images may stand. On a cluster call `daft.set_runner_ray()` before, and
give `Settle` the GPUs that a model takes: ``@daft.cls(gpus=1)``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import daft
import pyarrow

from nemotron_rag import PageIndex
from nemotron_rag.batch.job import Job, Stage
from nemotron_rag.batch.rows import Row, from_table, to_table


@daft.cls(max_concurrency=1)
class Render:
    """One span of pages in, these pages out, as an Arrow table in bytes."""

    def __init__(self, make: Callable[[], Stage]) -> None:
        self.stage = make()

    def __call__(self, path: str, source: str, content_hash: str, metadata: str, numbers: str) -> bytes:
        """Render a span."""
        span = {"path": path, "source": source, "content_hash": content_hash, "metadata": metadata, "numbers": numbers}
        return _packed(self.stage([span]))


@daft.cls(max_concurrency=1)
class Settle:
    """Pages in, what was written out."""

    def __init__(self, make: Callable[[], Stage]) -> None:
        self.stage = make()

    def __call__(self, pages: bytes) -> bytes:
        """Embed and write pages."""
        return _packed(self.stage(_unpacked(pages)))


def on_daft(job: Job) -> Iterator[list[Row]]:
    """An engine for `PageIndex.add`."""
    if job.spans:
        spans = daft.from_pylist(list(job.spans))
        columns = [daft.col(name) for name in ("path", "source", "content_hash", "metadata", "numbers")]
        rendered = spans.select(Render(job.render)(*columns).alias("pages"))
        written = rendered.select(Settle(job.settle())(daft.col("pages")).alias("pages"))
        for row in written.iter_rows():
            yield _unpacked(row["pages"])
    if job.pages:  # single pages that were given to `add`
        yield job.settle()()(job.pages)


def _packed(rows: list[Row]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = to_table(rows)
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(data: bytes) -> list[Row]:
    return from_table(pyarrow.ipc.open_stream(data).read_all())


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents")
    parser.add_argument("to")
    parser.add_argument("--embedder", required=True)
    parser.add_argument("--images")
    given = parser.parse_args(arguments)
    with PageIndex(given.to, embedder=given.embedder, images=given.images or True) as index:
        print(index.add(given.documents, engine=on_daft))


if __name__ == "__main__":
    main()
