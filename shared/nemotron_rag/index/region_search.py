"""`PageIndex.regions`: gets the words of a page, its heatmap and a reranker, and finds regions with them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from nemotron_rag.documents.pdf import PdfEngine, PdfOptions
from nemotron_rag.documents.reading import Document
from nemotron_rag.errors import InputError, NemotronRagError
from nemotron_rag.index.models import Rerank
from nemotron_rag.index.regions import RegionsBy, check_by, find_regions, rerank_regions
from nemotron_rag.index.state import IndexState
from nemotron_rag.late_interaction.heatmap import compute_heatmap
from nemotron_rag.protocols import LocatingEmbedder
from nemotron_rag.types import ImageReference, Page, Passage, Region, WordBoxes, page_id

__all__ = ["FindsRegions", "found_regions", "regions_of", "word_boxes_of_page"]

_MORE = 4  # times as many regions are found for a reranker to choose from
_PIXELS = 10_000  # of a page that is read again for its words alone
_log = logging.getLogger("nemotron_rag")


class FindsRegions(Protocol):
    """What `found_regions` needs of a `PageIndex`."""

    def page_images(self, ids: Sequence[str]) -> dict[str, ImageReference]:
        """See `PageIndex.page_images`."""

    def regions(self, page: Passage, query: str, *, k: int = 3) -> list[Region]:
        """See `PageIndex.regions`."""


def found_regions(index: FindsRegions, pages: Sequence[Page], query: str, *, k: int) -> list[list[Region]]:
    """The regions of pages that were found, for those who show them in the results of a framework.

    Args:
        index: an open `PageIndex`.
        pages: with id, source and number; images are those of the index.
        query: in words; empty for none, which gives no regions.
        k: of each page, at most.

    Returns:
        As many lists as there are pages; an empty one, with a warning, where a page could not be looked at.
    """
    if not pages or not query.strip():
        return [[] for _ in pages]
    images = index.page_images([page.id for page in pages])
    found: list[list[Region]] = []
    for page in pages:
        try:
            found.append(index.regions(replace(page, image=images.get(page.id)), query, k=k))
        except NemotronRagError as error:
            _log.warning("a result comes without its regions: page %s of %s: %s", page.number, page.source, error)
            found.append([])
    return found


def regions_of(state: IndexState, page: Passage, query: str, *, k: int, by: RegionsBy, rerank: Rerank) -> list[Region]:
    """See `PageIndex.regions`."""
    check_by(by)
    if not isinstance(query, str):
        raise InputError(f"query must be a str, got {type(query).__name__}; regions are found by words")
    if type(k) is not int or k < 1:
        raise InputError(f"k must be a positive integer, got {k!r}")
    reranker = state.models.reranker(rerank)
    words = word_boxes_of_page(state, page) if isinstance(page, Page) else None
    heatmap = compute_heatmap(state.embedder(), page, query) if _uses_vectors(state, page, query, by) else None
    more = k if reranker is None else _MORE * k
    found = find_regions(words, query, k=more, heatmap=heatmap, aspect=_aspect(page))
    return found if reranker is None else rerank_regions(reranker.get(), query, page, found, k=k)


def word_boxes_of_page(state: IndexState, page: Page) -> WordBoxes | None:
    """See `PageIndex.word_boxes`."""
    if page.word_boxes is not None:
        return page.word_boxes
    _ = state.store
    stored = state.store.get([page.id]).get(page.id) if state.exists() else None
    found = None if stored is None or state.images is None else state.images.words(stored)
    if found is None:
        found = _read_again(page, state.render_settings()["pdf_engine"])
    if found is None and page.text:
        _say_unknown(page.source)
    return found


def _uses_vectors(state: IndexState, page: Passage, query: str, by: RegionsBy) -> bool:
    if by == "words":
        return False
    if not state.exists():
        state.models.check(None)
    if by == "vectors" and not state.is_multivector:
        raise InputError(
            "by='vectors' needs a late-interaction model, and this index has one vector a page; leave it out"
        )
    is_located = state.is_multivector and isinstance(state.embedder(), LocatingEmbedder)
    return is_located and page.image is not None and bool(query.strip())


def _aspect(page: Passage) -> float:
    """Height of a page by its width, 1 where that is not known without opening it."""
    width, height = (page.image.size if isinstance(page.image, ImageReference) else None) or (1, 1)
    return height / width


def _read_again(page: Page, pdf_engine: PdfEngine) -> WordBoxes | None:
    """The words of a page from its document, if that is a local file with the very bytes that the page's id is made of.

    An office file is not converted for that, unless its PDF is still there.

    Args:
        page: of the index.
        pdf_engine: of the index; a page that pdfium has rendered is read by pdfium again.
    """
    options: PdfOptions = {
        "pages": [page.number],
        "max_pixels": _PIXELS,
        "on_error": "raise",
        "workers": 1,
        "ocr": "never",
    }
    if page.metadata.get("text_source") == "ocr":
        options["ocr"] = "auto"
    try:
        if not page.source or not Path(page.source).is_file():
            return None
        engine = "pdfium" if page.metadata.get("pdf_engine") == "pdfium" else pdf_engine
        document = Document(page.source, page.source, pdf_engine=engine)
        if page_id(document.content_hash, page.number) != page.id or not document.is_quick:
            return None
        (found,) = document.pages(**options)
    except (NemotronRagError, OSError, ValueError):  # no document, or it cannot be read any more
        return None
    return found.word_boxes


@lru_cache(maxsize=256)
def _say_unknown(source: str) -> None:
    """Once for each document."""
    _log.warning(
        "%s: where its words stand is not known: an earlier version stored its pages, and the file is not there as it "
        "was; delete the document from the index and add it again",
        source or "a page",
    )
