"""Whether pages that were written are found: each is looked for by its own vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nemotron_rag.protocols import PageStore
from nemotron_rag.types import PageVectors

__all__ = ["Sample", "look_for"]

_DEPTH = 10  # hits among which a page must find itself
_EQUAL = 1e-3  # of its own score: pages that look alike share it


@dataclass(frozen=True, slots=True)
class Sample:
    """Pages that were looked for by their own vectors.

    Args:
        asked: so many.
        found: those that were among the first ten, or as good as these.
        lost: ids of the others.
    """

    asked: int = 0
    found: int = 0
    lost: tuple[str, ...] = ()


def look_for(store: PageStore, vectors: Mapping[str, PageVectors]) -> Sample:
    """Look for pages by their own vectors.

    Args:
        store: of the index.
        vectors: (dimensions,) or (tokens, dimensions), by page id.
    """
    lost = []
    for page_id, rows in vectors.items():
        hits = store.query(rows, k=_DEPTH)
        own = float(np.linalg.norm(rows, axis=-1).sum()) if rows.ndim == 2 else 1.0
        if all(stored.page.id != page_id for stored, _ in hits) and not (hits and hits[-1][1] >= own * (1 - _EQUAL)):
            lost.append(page_id)
    return Sample(len(vectors), len(vectors) - len(lost), tuple(lost))
