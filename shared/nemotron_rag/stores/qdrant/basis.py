"""The projection basis of a collection of token vectors: fitted to its first pages, then frozen."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from nemotron_rag.errors import StoreError
from nemotron_rag.late_interaction.projection import fit_basis
from nemotron_rag.stores.qdrant.collection import Collection
from nemotron_rag.stores.qdrant.layout import BASIS_ID
from nemotron_rag.stores.qdrant.vectors import PROJECTED, TOKENS
from nemotron_rag.types import FloatArray, PageVectors

__all__ = ["ProjectionBasis"]

_KEY = "nemotron_rag_directions"
_READ = 8  # pages at once, with their vectors
_ENOUGH = 4  # rows for each unknown of a column
_ROUNDED = 0.02  # that numbers of stored vectors are rounded by, at most


class ProjectionBasis:
    """Stored as float16 in a point without a vector, which no search finds; see `late_interaction.projection`.

    Args:
        collection: of token vectors.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._known: FloatArray | None = None

    def read(self) -> FloatArray | None:
        """(dimensions, projected dimensions) float32; None if no page was written yet.

        Raises:
            StoreError: it cannot be read, or there are pages without it.
        """
        if self._known is None:
            self._known = self._stored()
        if self._known is None and self._has_points():
            self._known = self._stored()  # another process may have written it, and pages, just now
            if self._known is None:
                raise StoreError(
                    f"{self._collection} has no projection basis; nemotron-rag repair computes it, unless an earlier "
                    "version wrote the pages: index these anew, elsewhere"
                )
        return self._known

    def fit(self, pages: Sequence[PageVectors]) -> FloatArray:
        """The same; fitted to these pages if they are the first.

        Args:
            pages: (tokens, dimensions) of each, at least one.

        Raises:
            StoreError: as from `read`, or it could not be written.
        """
        known = self.read()
        if known is not None:
            return known
        self._write(fit_basis(pages))
        stored = self.read()
        if stored is None:
            raise StoreError(f"{self._collection} lost its projection basis just now; add the pages again")
        return stored

    def fault(self) -> str:
        """What is wrong with it, in a few words; empty if nothing is.

        Raises:
            StoreError: the server could not be reached.
        """
        points = self._collection.call("retrieve", ids=[BASIS_ID])
        if not points:
            return "of the projection basis is not there" if self._has_points() else ""
        try:
            self._decoded(points[0].payload or {})
        except StoreError:
            return "of the projection basis is damaged"
        return ""

    def rebuild(self) -> None:
        """Compute it from the token vectors of pages and their projections, and write it over what is there.

        Raises:
            StoreError: the pages do not tell it, or it could not be written.
        """
        tokens, projected = self._pairs()
        basis, _, rank, _ = np.linalg.lstsq(tokens, projected, rcond=1e-3)
        if rank < tokens.shape[1] or np.abs(tokens @ basis - projected).max() > _ROUNDED:
            raise StoreError(f"the pages of {self._collection} do not tell its projection basis; index them anew")
        self._collection.delete_points([BASIS_ID])
        self._write(basis)
        self._known = None

    def _pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Token vectors and their projections, some more rows than it takes."""
        tokens, projected = list[Any](), list[Any]()
        rows, columns, offset = 0, 1, None
        while rows < _ENOUGH * columns:
            found, offset = self._collection.call(
                "scroll", limit=_READ, with_payload=False, with_vectors=[TOKENS, PROJECTED], offset=offset
            )
            for vectors in (each.vector for each in found if isinstance(each.vector, dict)):
                if TOKENS in vectors and PROJECTED in vectors:
                    tokens.append(np.asarray(vectors[TOKENS], np.float64))
                    projected.append(np.asarray(vectors[PROJECTED], np.float64))
                    rows, columns = rows + len(tokens[-1]), tokens[-1].shape[1]
            if offset is None:
                break
        if not tokens:
            raise StoreError(f"{self._collection} has no page that tells its projection basis; index its pages anew")
        return np.concatenate(tokens), np.concatenate(projected)

    def _write(self, basis: NDArray[np.floating[Any]]) -> None:
        numbers = basis.astype("<f2")
        payload = {_KEY: base64.b64encode(numbers.tobytes()).decode(), "shape": list(numbers.shape)}
        self._collection.insert(models.PointStruct(id=BASIS_ID, vector={}, payload=payload))

    def _stored(self) -> FloatArray | None:
        points = self._collection.call("retrieve", ids=[BASIS_ID])
        return self._decoded(points[0].payload or {}) if points else None

    def _has_points(self) -> bool:
        """Whether there are others than the record."""
        return self._collection.count_all() > 1

    def _decoded(self, payload: dict[str, Any]) -> FloatArray:
        try:
            rows, columns = payload["shape"]
            numbers = np.frombuffer(base64.b64decode(payload[_KEY], validate=True), dtype="<f2")
            return numbers.reshape(rows, columns).astype(np.float32)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise StoreError(f"the projection basis of {self._collection} is damaged; index its pages anew") from error
