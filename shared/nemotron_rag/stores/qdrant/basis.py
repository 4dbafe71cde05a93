"""The projection basis of a collection of token vectors: fitted to its first pages, then frozen."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from nemotron_rag.errors import StoreError
from nemotron_rag.late_interaction.projection import fit_basis
from nemotron_rag.stores.qdrant.collection import Collection
from nemotron_rag.stores.qdrant.layout import BASIS_ID
from nemotron_rag.types import FloatArray, PageVectors

__all__ = ["ProjectionBasis"]

_KEY = "nemotron_rag_directions"


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
                    f"{self._collection} was written by an earlier version; index its pages anew, elsewhere"
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
        basis = fit_basis(pages).astype("<f2")
        payload = {_KEY: base64.b64encode(basis.tobytes()).decode(), "shape": list(basis.shape)}
        self._collection.insert(models.PointStruct(id=BASIS_ID, vector={}, payload=payload))
        stored = self.read()
        if stored is None:
            raise StoreError(f"{self._collection} lost its projection basis just now; add the pages again")
        return stored

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
