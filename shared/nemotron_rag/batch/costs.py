"""What many pages cost: machines, hours and bytes, from rates that were measured or are given."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nemotron_rag.batch.embedding import EmbedderFacts
from nemotron_rag.batch.pages import NewPage
from nemotron_rag.batch.place import IndexPlace
from nemotron_rag.batch.rows import Row, good_and_bad, to_row
from nemotron_rag.batch.stages import EmbedPages, WritePages
from nemotron_rag.documents.reading import Document
from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.token_vectors import TokenVectors

if TYPE_CHECKING:
    from nemotron_rag.models.load import LoadOptions

__all__ = ["GRAPH_BYTES", "Costs", "Rates", "measure"]

GRAPH_BYTES = 16 * 2 * 4
"""Of Qdrant's graph for one vector: twice m=16 links of 4 bytes."""

_WARM = 2  # pages that are embedded before the clock runs
_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one page takes, at each stage.

    Args:
        render: pages a second of one CPU.
        embed: pages a second of one GPU, or of one process without.
        write: pages a second of one process that writes; None if that is not known.
        vector_bytes: of the vectors of a page, as stored.
        payload_bytes: of its text and metadata.
        image_bytes: of its image, as a file.

    Raises:
        InputError: a number makes no sense.

    Example:
        >>> rates = Rates(render=5, embed=40, vector_bytes=8192)
        >>> costs = rates.costs(1_000_000, hours=24)
        >>> costs.gpus, round(costs.hours, 1), costs.render_cpus
        (1, 6.9, 8)
    """

    render: float
    embed: float
    write: float | None = None
    vector_bytes: int = 0
    payload_bytes: int = 0
    image_bytes: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value, is_rate = getattr(self, each.name), not each.name.endswith("_bytes")
            if value is None and each.name == "write":
                continue
            if not math.isfinite(value) or value < 0 or (is_rate and not value):
                raise InputError(f"{each.name} must be a number above zero, got {value!r}")

    def costs(self, pages: int, *, gpus: int | None = None, hours: float | None = None) -> Costs:
        """What so many pages cost.

        Args:
            pages: how many.
            gpus: that embed; or
            hours: in which it is to be done, on so many GPUs as that takes. Without either, one GPU.

        Raises:
            InputError: both are given, or one makes no sense.
        """
        if pages < 1 or (gpus is not None and gpus < 1) or (hours is not None and not 0 < hours < math.inf):
            raise InputError(f"pages, gpus and hours must be above zero, got {pages}, {gpus} and {hours}")
        if gpus is not None and hours is not None:
            raise InputError("give gpus or hours, not both: each follows from the other")
        gpu_hours = pages / self.embed / 3600
        count = gpus or (1 if hours is None else math.ceil(gpu_hours / hours))
        speed = self.embed * count
        return Costs(
            pages=pages,
            gpus=count,
            hours=gpu_hours / count,
            gpu_hours=gpu_hours,
            render_cpus=math.ceil(speed / self.render),
            writers=None if self.write is None else math.ceil(speed / self.write),
            vector_bytes=pages * self.vector_bytes,
            graph_bytes=pages * GRAPH_BYTES,
            payload_bytes=pages * self.payload_bytes,
            image_bytes=pages * self.image_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Machines, hours and bytes for so many pages.

    Args:
        pages: how many.
        gpus: that embed all the time.
        hours: until all is embedded.
        gpu_hours: of all GPUs together.
        render_cpus: that keep these GPUs busy.
        writers: processes that keep up with them; None if that is not known.
        vector_bytes: in the store; what is searched should be in memory, unless it is quantised or on fast disks.
        graph_bytes: of its graph, in memory.
        payload_bytes: in the store, on disk.
        image_bytes: in a folder or bucket; in a stage too.
    """

    pages: int
    gpus: int
    hours: float
    gpu_hours: float
    render_cpus: int
    writers: int | None
    vector_bytes: int
    graph_bytes: int
    payload_bytes: int
    image_bytes: int

    @property
    def stage_bytes(self) -> int:
        """Of Parquet files that hold all of it, at most."""
        return self.vector_bytes + self.payload_bytes + self.image_bytes


def measure(documents: Iterable[Document], model: Any, *, pages: int = 64, **options: Any) -> Rates:
    """Measure one after the other, on this machine, with documents like those that are to be indexed.

    Args:
        documents: whose first pages are taken.
        model: an embedder, or its name.
        pages: at most so many.
        **options: for a model that is named; see `LoadOptions`.

    Raises:
        InputError: no page can be read, or none embedded.
    """
    rows, rendering = _timed(lambda: list(_rendered(documents, pages)))
    if not rows:
        raise InputError("there is no page to measure with; give documents that can be read")
    load = cast("LoadOptions", options)
    loaded = EmbedPages(model, options=load)
    facts = loaded.facts()
    tokens = None
    if facts.kind == "multivector_embedder":
        tokens = TokenVectors(pooling=None if facts.locates else "hierarchical").resolved(facts.dimensions)
        loaded = EmbedPages(model, token_vectors=tokens.to_json(), options=load)
    loaded(rows[:_WARM])
    embedded, embedding = _timed(lambda: [row for some in _batches(rows) for row in loaded(some)])
    good, bad = good_and_bad(embedded)
    if not good:
        raise InputError(f"no page could be embedded: {bad[0]['error']}")
    writing = _write_seconds(good, facts, tokens)
    itemsize = 4 if tokens is None else {"float16": 2}.get(str(tokens.storage), 4)
    return Rates(
        render=len(rows) / rendering,
        embed=len(rows) / embedding,
        write=len(good) / writing,
        vector_bytes=sum(len(row["vector"]) for row in good) * itemsize // len(good),
        payload_bytes=sum(_payload_bytes(row) for row in good) // len(good),
        image_bytes=sum(len(row["image"] or b"") for row in good) // len(good),
    )


def _rendered(documents: Iterable[Document], pages: int) -> Iterable[Row]:
    count = 0
    for document in documents:
        for page in document.pages(workers=1):
            yield to_row(NewPage(page, document.content_hash, {}))
            count += 1
            if count == pages:
                return


def _write_seconds(rows: Sequence[Row], facts: EmbedderFacts, tokens: TokenVectors | None) -> float:
    """Of writing rows to an index in a folder."""
    from nemotron_rag.stores.qdrant import QdrantStore  # noqa: PLC0415  needs the extra `qdrant`

    with tempfile.TemporaryDirectory() as folder:
        storage = None if tokens is None else tokens.storage
        store = QdrantStore(folder)
        try:
            store.create(dimensions=facts.dimensions, record={}, token_storage=storage)
            write = WritePages(IndexPlace(folder, images=str(Path(folder, "images"))))
            return _timed(lambda: [write(some) for some in _batches(rows)])[1]
        finally:
            store.close()


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _batches(rows: Sequence[Row]) -> list[Sequence[Row]]:
    return [rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)]


def _payload_bytes(row: Row) -> int:
    return len(row["text"].encode("utf-8", "replace")) + 2 * len(row["content_metadata"]) + 4 * len(row["source"]) + 400
