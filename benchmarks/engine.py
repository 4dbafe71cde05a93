"""The number formats of a Qdrant server, measured with its own engine in this process: qdrant-edge, if installed."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from nemotron_rag.protocols import FloatArray
from nemotron_rag.stores.qdrant import CANDIDATES, PageVectors
from nemotron_rag.token_vectors import Storage
from nemotron_rag.token_vectors.sketch import main_directions, sketch, sketch_dimensions

__all__ = ["FIRST", "Engine", "installed", "storages"]

FIRST = 16  # pages that an index is usually started with
_BATCH = 32  # pages written at once
_BITS: dict[Storage, str] = {
    "float32": "32",
    "float16": "16",
    "int8": "8, and 16 on disk",
    "binary": "1, and 16 on disk",
    "turbo4": "4",
}


def installed() -> bool:
    """Whether ``pip install qdrant-edge-py`` was done."""
    return importlib.util.find_spec("qdrant_edge") is not None


def storages() -> Sequence[Storage]:
    """All number formats."""
    return get_args(Storage)


class Engine:
    """One collection as `stores` lays it out, in a folder that goes with it.

    Args:
        storage: of the token vectors.
        pages: (rows, dimensions) of each.
    """

    def __init__(self, storage: Storage, pages: Sequence[PageVectors]) -> None:
        import qdrant_edge  # noqa: PLC0415

        self.edge: Any = qdrant_edge
        self.bits = _BITS[storage]
        self._directions = main_directions(pages[:FIRST])
        self._folder = tempfile.TemporaryDirectory()
        dimensions = pages[0].shape[1]
        vectors = {
            "tokens": self._many(dimensions, **self._kept(storage)),
            "sketches": self._many(sketch_dimensions(dimensions), datatype=self.edge.VectorStorageDatatype.Float16),
        }
        path = Path(self._folder.name, "shard")
        path.mkdir()
        self._shard = self.edge.EdgeShard.create(str(path), self.edge.EdgeConfig(vectors=vectors))
        for start in range(0, len(pages), _BATCH):
            points = [self._point(n, pages[n]) for n in range(start, min(start + _BATCH, len(pages)))]
            self._shard.update(self.edge.UpdateOperation.upsert_points(points))
        self._shard.flush()
        self._shard.optimize()

    def exhaustively(self, question: FloatArray, k: int) -> list[int]:
        """All pages by what is stored of their tokens; quantized copies are left out."""
        exact = self.edge.SearchParams(exact=True, quantization=self.edge.QuantizationSearchParams(ignore=True))
        return self._found(self.edge.QueryRequest(limit=k, query=self._near(question, "tokens"), params=exact))

    def in_two_stages(self, question: FloatArray, k: int) -> list[int]:
        """As `PageIndex` asks a server."""
        edge = self.edge
        rescored = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0))
        first = edge.Prefetch(limit=CANDIDATES, query=self._near(sketch(question, self._directions), "sketches"))
        request = edge.QueryRequest(limit=k, query=self._near(question, "tokens"), prefetches=[first], params=rescored)
        return self._found(request)

    def close(self) -> None:
        """Remove the folder."""
        self._shard.close()
        self._folder.cleanup()

    def _kept(self, storage: Storage) -> dict[str, Any]:
        datatypes = self.edge.VectorStorageDatatype
        if storage == "int8":
            quantized = self.edge.ScalarQuantizationConfig(self.edge.ScalarType.Int8, 0.99, True)
        elif storage == "binary":
            quantized = self.edge.BinaryQuantizationConfig(True)
        else:
            return {"datatype": getattr(datatypes, storage.capitalize())}
        return {"datatype": datatypes.Float16, "quantization_config": quantized}

    def _many(self, size: int, **kept: Any) -> Any:
        edge = self.edge
        return edge.EdgeVectorParams(
            size,
            edge.Distance.Dot,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
            **kept,
        )

    def _point(self, number: int, rows: PageVectors) -> Any:
        return self.edge.Point(number, {"tokens": rows.tolist(), "sketches": sketch(rows, self._directions).tolist()})

    def _near(self, rows: FloatArray, using: str) -> Any:
        return self.edge.Query.Nearest(rows.tolist(), using=using)

    def _found(self, request: Any) -> list[int]:
        return [point.id for point in self._shard.query(request)]
