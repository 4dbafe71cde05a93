"""Search results as JSON, the same from the command line and from a server."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from nemotron_rag.types import Hit, ImageReference, Page, Region

__all__ = ["hit_json", "page_link", "region_json"]

_HTTP = re.compile(r"https?://", re.IGNORECASE)


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


def region_json(region: Region) -> dict[str, Any]:
    """Return a region as JSON: box (left, top, right, bottom in fractions of the image), score, text, evidence."""
    box = [round(side, 5) for side in region.box]
    return {"box": box, "score": round(region.score, 4), "text": region.text, "evidence": region.evidence}


def page_link(page: Page) -> str | None:
    """Return a link that opens the PDF of a page at this page: its source with ``#page=N``, as viewers understand it.

    There is one for PDFs at an ``http(s)`` address without user or password in it, and for those that are local files
    now. No other scheme is ever linked: what names a source may come from others.

    Example:
        >>> page_link(Page(id="1", source="https://example.org/a b.pdf", number=3))
        'https://example.org/a%20b.pdf#page=3'
    """
    if _HTTP.match(page.source):
        return _web_link(page)
    if ":" in page.source.partition("/")[0] and not Path(page.source).drive:
        return None  # another scheme
    try:
        path = Path(page.source).absolute()
        if path.suffix.lower() != ".pdf" or not path.is_file():
            return None
        return f"{path.as_uri()}#page={int(page.number)}"
    except (OSError, ValueError):  # no name of a file
        return None


def _web_link(page: Page) -> str | None:
    try:
        parts = urlsplit(page.source)
        if not parts.hostname or parts.username is not None or not parts.path.lower().endswith(".pdf"):
            return None
        path, query = quote(parts.path, safe="/%:@!$&'()*+,;=~"), quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        return urlunsplit((parts.scheme, parts.netloc, path, query, f"page={int(page.number)}"))
    except ValueError:
        return None
