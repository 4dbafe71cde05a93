"""An index over HTTP: its documents, searches, and the images of pages that were found."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

from fastapi import FastAPI, Query
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from nemotron_rag.documents.llm_images import EncodedImage, encode_for_llm
from nemotron_rag.documents.text import excerpt, split_marked
from nemotron_rag.errors import ImageError
from nemotron_rag.index import PageIndex
from nemotron_rag.report import hit_json, region_json
from nemotron_rag.serve.requests import HeatmapRequest, RegionsRequest, SearchRequest
from nemotron_rag.serve.served import public_name
from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.types import Hit, ImageSource, Page

__all__ = ["add_search"]

_log = logging.getLogger("nemotron_rag")
_SHOWN = 10_000  # pages
_LISTED = 1000  # documents
_HEATMAP_SIDE = 1600  # pixels
_IMAGE_HEADERS = {
    "Cache-Control": "private, max-age=3600",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Vary": "Authorization",
    "X-Content-Type-Options": "nosniff",
}


def add_search(app: FastAPI, index: PageIndex) -> None:
    """Add the routes."""
    shown = _Shown()

    @app.get("/v1/index")
    async def about() -> dict[str, Any]:
        """What can be searched; of very many documents the first thousand are named."""
        sources = await asyncio.to_thread(index.sources)
        reranker = index.reranker()
        return {
            "pages": await index.acount(),
            "document_count": len(sources),
            "documents": sources[:_LISTED],
            "reranker": None if reranker is None else public_name(reranker.name),
            "heatmaps": index.is_multivector,
            "regions": True,  # with every model; servers of earlier versions lack it
        }

    @app.post("/v1/search")
    async def search(request: SearchRequest) -> dict[str, Any]:
        options = request.model_dump()
        has_excerpts = options.pop("excerpts")
        hits = await index.asearch(**options)
        return {"query": request.query, "hits": [_hit(hit, shown, request, has_excerpts) for hit in hits]}

    @app.get("/v1/images/{image_id}")
    async def image(image_id: str, max_side: Annotated[int | None, Query(ge=16, le=8192)] = None) -> Response:
        """The image of a page that was found lately: as it is stored, or no larger than `max_side` pixels."""
        return await asyncio.to_thread(_image, shown.get(image_id), max_side)

    @app.post("/v1/heatmap")
    async def heatmap(request: HeatmapRequest) -> Response:
        """Where on a page that was found lately the words of a query match, painted over its image."""
        return await asyncio.to_thread(_heatmap, index, shown.get(request.image), request.query)

    @app.post("/v1/regions")
    async def regions(request: RegionsRequest) -> dict[str, Any]:
        """Where on a page that was found lately a query is answered, in boxes."""
        page = shown.get(request.image)
        with _readable(page):
            found = await index.aregions(page, request.query, k=request.k, by=request.by, rerank=request.rerank)
        return {"query": request.query, "regions": [region_json(region) for region in found]}


class _Shown:
    """The pages that were found lately: clients get the images of these, by ids that tell nothing, and no others."""

    def __init__(self) -> None:
        self._pages: OrderedDict[str, Page] = OrderedDict()
        self._secret = secrets.token_bytes()

    def put(self, page: Page) -> str:
        """The id of its image, the same as long as the server runs."""
        image_id = hmac.new(self._secret, page.id.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:32]
        self._pages[image_id] = page
        self._pages.move_to_end(image_id)
        if len(self._pages) > _SHOWN:
            self._pages.popitem(last=False)
        return image_id

    def get(self, image: str) -> Page:
        """The page of an image, which is named by its id or its path.

        Raises:
            HTTPException: 404, there is none.
        """
        page = self._pages.get(image.rpartition("/")[2])
        if page is None:
            raise HTTPException(404, "no page with this image was found lately; search again")
        return page


def _hit(hit: Hit, shown: _Shown, request: SearchRequest, has_excerpts: bool) -> dict[str, Any]:
    """A hit as JSON; images are paths on this server."""

    def path(page: Page) -> str | None:
        return None if page.image is None else f"/v1/images/{shown.put(page)}"

    found = hit_json(hit, image=path)
    if has_excerpts:
        pieces = split_marked(excerpt(hit.page.text, request.query), request.query)
        found["excerpt"] = [{"text": text, "is_match": is_match} for text, is_match in pieces]
    return found


def _image(page: Page, max_side: int | None) -> Response:
    stored = page.image
    with _readable(page):
        if max_side is None and isinstance(stored, StoredImage):
            return _response(EncodedImage(stored.read_bytes(), stored.image_format))
        return _response(encode_for_llm(cast("ImageSource", stored), max_side=max_side))


def _heatmap(index: PageIndex, page: Page, query: str) -> Response:
    with _readable(page):
        return _response(encode_for_llm(index.heatmap(page, query).image(), max_side=_HEATMAP_SIDE))


@contextmanager
def _readable(page: Page) -> Iterator[None]:
    """What is wrong with an image, and where it is, stands in the log; clients hear that it cannot be read."""
    try:
        yield
    except ImageError as error:
        _log.warning("page %s of %s: %s", page.number, page.source or page.id, error)
        raise HTTPException(404, "the image of this page cannot be read; check the index") from error


def _response(image: EncodedImage) -> Response:
    return Response(image.data, media_type=image.mime_type, headers=_IMAGE_HEADERS)
