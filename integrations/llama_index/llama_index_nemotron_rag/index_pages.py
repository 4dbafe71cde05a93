"""Pages that an index of ours finds, as nodes."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, TextNode

from llama_index_nemotron_rag.choosing import Chosen
from llama_index_nemotron_rag.documents import page_fields
from llama_index_nemotron_rag.filters import Filters, index_filter
from llama_index_nemotron_rag.nodes import PageNode
from llama_index_nemotron_rag.places import neighbour_node
from llama_index_nemotron_rag.reranking import NemotronRerank
from nemotron_rag.documents.crops import REGIONS_KEY
from nemotron_rag.errors import ImageError
from nemotron_rag.index import Mode
from nemotron_rag.index.lazy import LazyIndex
from nemotron_rag.index.models import Rerank
from nemotron_rag.index.region_search import found_regions
from nemotron_rag.index.selection import Selection
from nemotron_rag.report import region_json
from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.types import Filter, Hit, Page, Passage, Region

__all__ = ["IndexPages", "PageSearch"]

_LOST = "page %s comes without its image: %s"
_log = logging.getLogger("nemotron_rag")


@dataclass(frozen=True)
class IndexPages:
    """Finds pages of an index, which the first search opens; see `PageIndex.search` and `NemotronPageRetriever`."""

    index: LazyIndex
    rerank: Rerank
    mode: Mode | None
    inline_images: bool
    chosen: Chosen

    def filter(self, filters: Filters | None) -> Filter | None:
        """Filters in the words of nodes, in those of the index, which may be asked for the names of its files."""
        return index_filter(filters, lambda filter: self.index.get().sources(filter))

    def search(self, query: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """The k pages nearest to a text, or to an image; not reranked, and before `with_images`."""
        index, filter = self.index.get(), self.filter(filters)
        if query.image is not None:
            return self.nodes(index.search_image(query.image, k=k, filter=filter))
        return self.nodes(index.search(query.text, k=k, rerank=False, filter=filter, mode=self.mode))

    async def asearch(self, query: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """`search` for event loops."""
        index, filter = await self.index.aget(), await asyncio.to_thread(self.filter, filters)
        if query.image is not None:
            return self.nodes(await index.asearch_image(query.image, k=k, filter=filter))
        return self.nodes(await index.asearch(query.text, k=k, rerank=False, filter=filter, mode=self.mode))

    def reranker(self, callback_manager: CallbackManager) -> NemotronRerank | None:
        """Ranks as `PageIndex.search` does: pages by image and text, without metadata. None if nothing ranks."""
        lazy = self.index.get().reranker(self.rerank)
        if lazy is None:
            return None
        return NemotronRerank(lazy, top_n=None, metadata_mode=MetadataMode.NONE, callback_manager=callback_manager)

    def with_images(self, nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
        """The nodes with images that others can open, or as texts where these are lost; nothing is decoded."""
        return [NodeWithScore(node=self._with_image(item.node), score=item.score) for item in nodes]

    def located(self, nodes: Sequence[NodeWithScore], query: str, *, k: int) -> list[NodeWithScore]:
        """The nodes with at most k regions each that answer a query in their metadata; see `PageIndex.regions`."""
        pages = [
            Page(
                item.node.get_content(MetadataMode.NONE),
                id=item.node.node_id,
                source=str(item.node.metadata.get("file_path", "")),
                number=item.node.metadata.get("page_number", 1),
            )
            for item in nodes
        ]
        found = found_regions(self.index.get(), pages, query, k=k)
        return [
            NodeWithScore(node=_with_regions(item.node, regions), score=item.score)
            for item, regions in zip(nodes, found, strict=True)
        ]

    def __repr__(self) -> str:
        return repr(self.index)

    def nodes(self, hits: Sequence[Hit]) -> list[NodeWithScore]:
        """Hits as nodes, before `with_images`."""
        return [NodeWithScore(node=self._node(hit.page), score=float(hit.score)) for hit in hits]

    def neighbours(self, hit: Hit) -> list[NodeWithScore]:
        """The pages around a hit as nodes, before `with_images`."""
        return [neighbour_node(self._node(page), hit.page.id) for page in hit.neighbours]

    def _node(self, page: Page) -> BaseNode:
        image = page.image
        try:
            path = image.path if isinstance(image, StoredImage) else None
        except ImageError as error:
            _log.warning(_LOST, page.id, error)
            image = None
        if not isinstance(image, StoredImage):
            return TextNode(**page_fields(page))
        if path is None or self.inline_images:
            return PageNode(**page_fields(page)).with_image(image)
        return PageNode(**page_fields(page, image_path=str(path))).with_image(image, image_path=str(path))

    def _with_image(self, node: BaseNode) -> BaseNode:
        if not isinstance(node, PageNode):
            return node
        image = node.stored_image
        try:
            if not isinstance(image, StoredImage):
                raise ImageError("it could not be read")
            if node.image_path is None:
                data = base64.b64encode(image.read_bytes()).decode("ascii")
                return node.with_image(image, image=data, image_mimetype=f"image/{image.image_format}")
            if image.path is None or not image.path.is_file():
                raise ImageError(f"there is no {image}")
            return node
        except ImageError as error:
            _log.warning(_LOST, node.node_id, error)
            return _text_node(node)


@dataclass(frozen=True)
class PageSearch:
    """One search of an index of which not just the first pages are returned.

    Args:
        source: of the pages.
        k: how many.
        candidates: pages that a reranker reads; None if there is none.
        filters: see `NemotronPageRetriever`.
    """

    source: IndexPages
    k: int
    candidates: int | None
    filters: Filters | None
    _hits: dict[str, Hit] = field(default_factory=dict, init=False)

    def found(self, query: Passage) -> list[NodeWithScore]:
        """The pages near to a text, or to an image, of which k are to be chosen; see `PageIndex.candidates`."""
        index, filter, chosen = self.source.index.get(), self.source.filter(self.filters), self.source.chosen
        count = self.candidates or Selection(k=self.k).pool
        options: dict[str, Any] = {"filter": filter, "min_score": chosen.min_score}
        if query.image is not None:
            hits = index.search_image(query.image, k=count, **options)
        else:
            options |= {"mode": self.source.mode, "per_document": chosen.per_document}
            hits = index.candidates(query.text, k=self.k, candidates=count, **options)
        self._hits.update({hit.page.id: hit for hit in hits})
        return self.source.nodes(hits)

    async def afound(self, query: Passage) -> list[NodeWithScore]:
        """`found` for event loops."""
        return await asyncio.to_thread(self.found, query)

    def select(self, nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
        """Which of ranked nodes are returned, with their neighbours behind them; see `PageIndex.select`."""
        by_id = {item.node.node_id: item for item in nodes}
        ranked = [
            replace(self._hits[page_id], score=float("-inf") if item.score is None else item.score)
            for page_id, item in by_id.items()
        ]
        source, filter = self.source, self.source.filter(self.filters)
        chosen = source.index.get().select(ranked, k=self.k, filter=filter, **source.chosen.options)
        result = []
        for hit in chosen:
            result += [by_id[hit.page.id], *source.neighbours(hit)]
        return result


def _text_node(node: PageNode) -> TextNode:
    fields: dict[str, Any] = {name: getattr(node, name) for name in TextNode.model_fields}
    metadata = {key: value for key, value in node.metadata.items() if key != "page_image_path"}
    return TextNode(**{**fields, "metadata": metadata})


def _with_regions(node: BaseNode, regions: Sequence[Region]) -> BaseNode:
    """A copy that has them in its metadata, where neither an LLM nor an embedder sees them."""
    hidden = {
        name: [*dict.fromkeys([*getattr(node, name), REGIONS_KEY])]
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    metadata = {**node.metadata, REGIONS_KEY: [*map(region_json, regions)]}
    return node.model_copy(update={"metadata": metadata, **hidden})
