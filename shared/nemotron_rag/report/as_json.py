"""Search results as JSON, the same from the command line and from a server."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nemotron_rag.types import Hit, ImageReference, Page

__all__ = ["hit_json"]


def _place_of_image(page: Page) -> str | None:
    return str(page.image) if isinstance(page.image, ImageReference) else None


def hit_json(hit: Hit, *, image: Callable[[Page], str | None] = _place_of_image) -> dict[str, Any]:
    """Return a hit as JSON.

    The stable keys are rank, score (null where a reranker gave none), retrieval_score (null without a first stage), id,
    source, page_number, text, metadata, image (path or URL, null for none), and neighbours, a list of pages with the
    keys from id to image.

    Args:
        hit: of a search.
        image: says where the image of a page is.
    """
    return {
        "rank": hit.rank,
        "score": hit.score if math.isfinite(hit.score) else None,
        "retrieval_score": hit.retrieval_score if math.isfinite(hit.retrieval_score) else None,
        **_page_json(hit.page, image),
        "neighbours": [_page_json(page, image) for page in hit.neighbours],
    }


def _page_json(page: Page, image: Callable[[Page], str | None]) -> dict[str, Any]:
    return {
        "id": page.id,
        "source": page.source,
        "page_number": page.number,
        "text": page.text,
        "metadata": dict(page.metadata),
        "image": image(page),
    }
