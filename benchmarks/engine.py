"""The storage formats of a Qdrant server, measured in this process with its engine, qdrant-edge, if installed."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from nemotron_rag.late_interaction.projection import fit_basis, project, projected_dimensions
from nemotron_rag.late_interaction.token_vectors import Storage
from nemotron_rag.protocols import FloatArray
from nemotron_rag.stores.qdrant import DEFAULT_PREFETCH
from nemotron_rag.types import PageVectors

__all__ = ["FIRST", "Engine", "installed", "storages"]

FIRST = 16  # pages that the projection basis is fitted on
_BATCH = 32  # pages written at once
_BITS: dict[Storage, str] = {
    "float32": "32",
    "float16": "16",
    "int8": "8, and 16 on disk",
    "binary": "1, and 16 on disk",
    "turbo4": "4",
}


def installed() -> bool:
    """Whether qdrant-edge-py is installed."""
    return importlib.util.find_spec("qdrant_edge") is not None


def storages() -> Sequence[Storage]:
    """List all storage formats."""
    return get_args(Storage)


class Engine:
    """One collection with the layout of `stores`, in a temporary folder.

    Args:
        storage: of the token vectors.
        pages: (rows, dimensions) of each.
    """

    def __init__(self, storage: Storage, pages: Sequence[PageVectors]) -> None:
        import qdrant_edge  # noqa: PLC0415

        self.edge: Any = qdrant_edge
        self.bits = _BITS[storage]
        self._basis = fit_basis(pages[:FIRST])
        self._folder = tempfile.TemporaryDirectory()
        dimensions = pages[0].shape[1]
        vectors = {
            "tokens": self._multivector(dimensions, **self._format(storage)),
            "sketches": self._multivector(
                projected_dimensions(dimensions), datatype=self.edge.VectorStorageDatatype.Float16
            ),
        }
        path = Path(self._folder.name, "shard")
        path.mkdir()
        self._shard = self.edge.EdgeShard.create(str(path), self.edge.EdgeConfig(vectors=vectors))
        for start in range(0, len(pages), _BATCH):
            points = [self._point(n, pages[n]) for n in range(start, min(start + _BATCH, len(pages)))]
            self._shard.update(self.edge.UpdateOperation.upsert_points(points))
        self._shard.flush()
        self._shard.optimize()

    def exhaustively(self, query: FloatArray, k: int) -> list[int]:
        """Search all pages by their stored token vectors, without quantized copies."""
        exact = self.edge.SearchParams(exact=True, quantization=self.edge.QuantizationSearchParams(ignore=True))
        return self._found(self.edge.QueryRequest(limit=k, query=self._near(query, "tokens"), params=exact))

    def in_two_stages(self, query: FloatArray, k: int) -> list[int]:
        """Search as `PageIndex` does on a server."""
        edge = self.edge
        rescored = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0))
        first = edge.Prefetch(limit=DEFAULT_PREFETCH, query=self._near(project(query, self._basis), "sketches"))
        request = edge.QueryRequest(limit=k, query=self._near(query, "tokens"), prefetches=[first], params=rescored)
        return self._found(request)

    def close(self) -> None:
        """Close the collection and delete its folder."""
        self._shard.close()
        self._folder.cleanup()

    def _format(self, storage: Storage) -> dict[str, Any]:
        datatypes = self.edge.VectorStorageDatatype
        if storage == "int8":
            quantized = self.edge.ScalarQuantizationConfig(self.edge.ScalarType.Int8, 0.99, True)
        elif storage == "binary":
            quantized = self.edge.BinaryQuantizationConfig(True)
        else:
            return {"datatype": getattr(datatypes, storage.capitalize())}
        return {"datatype": datatypes.Float16, "quantization_config": quantized}

    def _multivector(self, size: int, **options: Any) -> Any:
        edge = self.edge
        return edge.EdgeVectorParams(
            size,
            edge.Distance.Dot,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
            **options,
        )

    def _point(self, number: int, rows: PageVectors) -> Any:
        return self.edge.Point(number, {"tokens": rows.tolist(), "sketches": project(rows, self._basis).tolist()})

    def _near(self, rows: FloatArray, using: str) -> Any:
        return self.edge.Query.Nearest(rows.tolist(), using=using)

    def _found(self, request: Any) -> list[int]:
        return [point.id for point in self._shard.query(request)]
