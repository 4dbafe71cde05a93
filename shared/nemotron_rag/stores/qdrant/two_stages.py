"""A search by token vectors in an embedded Qdrant, which would compare all pages in the second stage too.

qdrant-client's embedded mode applies what the first stage found only after it has compared every page. Here the same
stages are taken one by one, and the second compares the candidates alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.hybrid.fusion import reciprocal_rank_fusion
from qdrant_client.local.multi_distances import calculate_multi_distance

from nemotron_rag.stores.qdrant.search import Search
from nemotron_rag.stores.qdrant.vectors import TERMS, TOKENS

__all__ = ["search_in_stages"]


def search_in_stages(client: QdrantClient, collection: str, search: Search) -> list[models.ScoredPoint]:
    """What `Search.request` finds, with payloads; the caller holds the client's lock."""
    pages = _pages(client, collection)
    if pages is None:
        return client.query_points(collection, **search.request()).points
    first = _order(client, collection, search.first_stage())
    found = _by_tokens(pages, search, [point.id for point in first])
    if search.terms is not None:
        words = _order(client, collection, search.stage(TERMS, search.terms, search.depth))
        found = reciprocal_rank_fusion([found[: search.depth], words], limit=search.k)
    found = found[: search.k]
    payloads = {point.id: point.payload for point in client.retrieve(collection, [point.id for point in found])}
    return [point.model_copy(update={"payload": payloads[point.id]}) for point in found]


def _order(client: QdrantClient, collection: str, stage: models.Prefetch) -> list[models.ScoredPoint]:
    answer = client.query_points(
        collection,
        query=stage.query,
        using=stage.using,
        query_filter=stage.filter,
        limit=stage.limit or 0,
        with_payload=False,
    )
    return answer.points


def _pages(client: QdrantClient, collection: str) -> Any:
    """Where the client holds its points; None in a version that holds them in another way.

    The public methods hand vectors out as lists only, which takes longer than comparing all pages.
    """
    collections: Mapping[str, Any] = getattr(getattr(client, "_client", None), "collections", {})
    pages = collections.get(collection)
    return pages if hasattr(pages, "multivectors") and hasattr(pages, "ids") else None


def _by_tokens(pages: Any, search: Search, ids: list[Any]) -> list[models.ScoredPoint]:
    """These points by MaxSim, best first."""
    rows = [pages.multivectors[TOKENS][pages.ids[id]] for id in ids]
    scores = calculate_multi_distance(search.vectors.astype(np.float32), rows, models.Distance.DOT)
    found = [models.ScoredPoint(id=id, version=0, score=float(score)) for id, score in zip(ids, scores, strict=True)]
    return sorted(found, key=lambda point: -point.score)
