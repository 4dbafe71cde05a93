"""The directions that a collection's sketches keep: found from its first pages, and the same ever after."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemotron_rag.errors import MissingExtraError, StoreError
from nemotron_rag.protocols import FloatArray
from nemotron_rag.stores._collection import Collection
from nemotron_rag.stores._points import DIRECTIONS_ID
from nemotron_rag.stores._vectors import PageVectors
from nemotron_rag.token_vectors.sketch import main_directions

try:
    from qdrant_client import models
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["Directions"]

_KEY = "nemotron_rag_directions"


class Directions:
    """Kept as float16 in a point without a vector, which no search finds.

    Args:
        collection: of many vectors a page.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._connection = collection.connection
        self._client = collection.connection.client
        self._known: FloatArray | None = None

    def read(self) -> FloatArray | None:
        """(dimensions, sketch dimensions) float32; None if no page was written yet.

        Raises:
            StoreError: they cannot be read, or there are pages without them.
        """
        if self._known is None:
            self._known = self._stored()
        if self._known is None and self._has_points():
            self._known = self._stored()  # another process may have written them, and pages, just now
            if self._known is None:
                raise StoreError(
                    f"{self._collection} was written by an earlier version; index its pages anew, elsewhere"
                )
        return self._known

    def fit(self, pages: Sequence[PageVectors]) -> FloatArray:
        """The same, found from these pages if they are the first.

        Args:
            pages: (tokens, dimensions) of each, at least one.

        Raises:
            StoreError: as from `read`, or they could not be written.
        """
        known = self.read()
        if known is not None:
            return known
        found = main_directions(pages).astype("<f2")
        payload = {_KEY: base64.b64encode(found.tobytes()).decode(), "shape": list(found.shape)}
        self._connection.write(
            self._client.upsert,
            self._collection.name,
            points=[models.PointStruct(id=DIRECTIONS_ID, vector={}, payload=payload)],
            wait=True,
            update_mode=models.UpdateMode.INSERT_ONLY,  # another process may have been the first, just now
        )
        kept = self.read()
        assert kept is not None
        return kept

    def _stored(self) -> FloatArray | None:
        name = self._collection.name
        points = self._connection.read("read directions", self._client.retrieve, name, ids=[DIRECTIONS_ID])
        return self._decoded(points[0].payload or {}) if points else None

    def _has_points(self) -> bool:
        """Whether there are others than the record."""
        return self._connection.read("count", self._client.count, self._collection.name).count > 1

    def _decoded(self, payload: dict[str, Any]) -> FloatArray:
        try:
            rows, columns = payload["shape"]
            numbers = np.frombuffer(base64.b64decode(payload[_KEY], validate=True), dtype="<f2")
            return numbers.reshape(rows, columns).astype(np.float32)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise StoreError(f"the directions of {self._collection} are damaged; index its pages anew") from error
