"""From what a search finds to documents: their scores, their images, their neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.vectorstores import VectorStore
from PIL import Image

from langchain_nemotron_rag._documents import FoundMetadata, document_of_page, readable, text_of
from langchain_nemotron_rag._stored import with_images
from langchain_nemotron_rag.reranking import NemotronRerank
from nemotron_rag import Hit, Page, PageIndex, Passage
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.crops import REGIONS_KEY
from nemotron_rag.documents.images import ImageFormat
from nemotron_rag.errors import InputError
from nemotron_rag.index.region_search import found_regions
from nemotron_rag.report import region_json
from nemotron_rag.stores.page_images import ImageForm
from nemotron_rag.types import ImageReference

__all__ = ["SCORES", "FoundDocuments", "Search", "cannot", "page_id_of", "with_regions"]

SCORES = ("relevance_score", "retrieval_score")
"""Metadata keys of what documents are ordered by, and of the score of their vectors."""

_NEIGHBOUR = "neighbour_of"  # metadata key: the page that it stands beside


class Search(NamedTuple):
    """What to call where, what ranks the results, and how many are returned."""

    place: PageIndex | VectorStore
    method: str
    query: Any
    options: dict[str, Any]
    compressor: BaseDocumentCompressor | None
    returned: int
    select: dict[str, Any] | None = None
    threshold: float | None = None

    def above(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Those that reach the threshold with what they are ordered by."""
        if self.threshold is None:
            return documents
        key = self.compressor.score_key if isinstance(self.compressor, NemotronRerank) else SCORES[0]
        return [each for each in documents if each.metadata.get(key, -math.inf) >= self.threshold]

    @property
    def asked(self) -> Any:
        """The query as a reranker reads it."""
        if "image" not in self.method:
            return self.query
        return Passage(image=readable(self.query, ImageAccess().of_caller))

    def scoreless(self) -> VectorStore:
        """The vector store, whose search for texts has no scores.

        Raises:
            InputError: it is no search for texts.
        """
        if self.method != "similarity_search_with_score" or not isinstance(self.place, VectorStore):
            raise cannot(self.place, self.method)
        return self.place


def cannot(store: object, method: str) -> InputError:
    return InputError(f"{type(store).__name__} has no {method}; use NemotronPageVectorStore or an index")


@dataclass(frozen=True)
class FoundDocuments:
    """Makes documents of what was found.

    Args:
        image_key: where in the metadata images are.
        image_format: of data URIs; None for the stored file as it is.
    """

    image_key: str
    image_format: ImageFormat | None

    def of_scored(self, found: Sequence[tuple[Document, float]], store: VectorStore) -> list[Document]:
        """What a vector store found; distances become similarities, of which the largest is the best."""
        if not found:
            return []
        scores = [float(score) for _, score in found]
        if all(map(math.isfinite, scores)):
            scores = _similarities(store, scores)
        return [_with_scores(document, score, score) for (document, _), score in zip(found, scores, strict=True)]

    def of_hits(self, hits: Sequence[Hit]) -> list[Document]:
        """Hits as documents; their images are references."""
        documents = []
        for hit in hits:
            document = _with_scores(document_of_page(hit.page), hit.score, hit.retrieval_score)
            if hit.page.image is not None:
                document.metadata[self.image_key] = hit.page.image
            documents += [document, *(self.neighbour(page, hit) for page in hit.neighbours)]
        return documents

    def neighbour(self, page: Page, hit: Hit) -> Document:
        document = document_of_page(page)
        image = {} if page.image is None else {self.image_key: page.image}
        return document.model_copy(update={"metadata": {**document.metadata, _NEIGHBOUR: hit.page.id, **image}})

    def shown(
        self, documents: Sequence[Document], form: ImageForm, returned: int, *, include_scores: bool
    ) -> list[Document]:
        """New documents with images in a form; images that a vector store gave as text stay as they are."""
        pairs: list[tuple[Document, ImageReference | None]] = []
        for document in list(documents)[:returned]:
            image = document.metadata.get(self.image_key)
            if isinstance(image, Image.Image):
                image = ImageAccess().reference(image)
            changed = form == "none" or isinstance(image, ImageReference)
            metadata = {key: value for key, value in document.metadata.items() if not changed or key != self.image_key}
            scores = getattr(document.metadata, "scores", SCORES)
            found = FoundMetadata(metadata, scores)
            if not include_scores:
                found = FoundMetadata({key: value for key, value in metadata.items() if key not in scores}, scores)
            pairs.append((document.model_copy(update={"metadata": found}), image if changed else None))
        return with_images(pairs, form=form, image_key=self.image_key, image_format=self.image_format, write_type=True)

    def with_image(self, document: Document, image: Any) -> Document:
        metadata = {**document.metadata, self.image_key: image}
        found = FoundMetadata(metadata, getattr(document.metadata, "scores", SCORES))
        return document.model_copy(update={"metadata": found})

    def selected(self, search: Search, found: Any, documents: Sequence[Document]) -> Sequence[Document]:
        """Those of ranked documents that the index chooses, with the neighbours of their pages."""
        if search.select is None:
            return documents
        hits = {hit.page.id: hit for hit in cast("Sequence[Hit]", found)}
        by_id = {document.metadata["page_id"]: document for document in documents}
        if isinstance(search.compressor, NemotronRerank):
            key = getattr(search.compressor, "score_key", SCORES[0])
            scores = [document.metadata.get(key, -math.inf) for document in by_id.values()]
        else:  # it tells an order alone
            scores = [-float(place) for place in range(len(by_id))]
        ranked = [replace(hits[page_id], score=score) for page_id, score in zip(by_id, scores, strict=True)]
        chosen = cast("PageIndex", search.place).select(ranked, **search.select)
        return [
            document
            for hit in chosen
            for document in (by_id[hit.page.id], *(self.neighbour(page, hit) for page in hit.neighbours))
        ]


def with_regions(index: PageIndex, documents: Sequence[Document], query: str, *, k: int) -> list[Document]:
    """Copies with at most k regions each that answer a query; see `PageIndex.regions`."""
    pages = [
        Page(
            text_of(document),
            id=page_id_of(document),
            source=document.metadata.get("source", ""),
            number=document.metadata.get("page_number", 1),
        )
        for document in documents
    ]
    result = []
    for document, regions in zip(documents, found_regions(index, pages, query, k=k), strict=True):
        of_query = (*getattr(document.metadata, "scores", SCORES), REGIONS_KEY)
        metadata = {**document.metadata, REGIONS_KEY: [*map(region_json, regions)]}
        result.append(document.model_copy(update={"metadata": FoundMetadata(metadata, of_query)}))
    return result


def page_id_of(document: Document) -> str:
    return str(document.metadata.get("page_id", document.id))


def _with_scores(document: Document, score: float, retrieval_score: float) -> Document:
    """A copy with scores in its metadata; minus infinity stands for none."""
    scores = dict(zip(SCORES, (score, retrieval_score), strict=True))
    metadata = {key: value for key, value in document.metadata.items() if key not in scores}
    known = {key: value for key, value in scores.items() if math.isfinite(value)}
    return document.model_copy(update={"metadata": FoundMetadata({**metadata, **known}, scores)})


def _similarities(store: VectorStore, scores: Sequence[float]) -> list[float]:
    """The scores of what a store found, best first, so that the largest is the best: of distances the relevance."""
    relevance = _relevance_of(store)
    if scores[0] > scores[-1]:
        return list(scores)
    if scores[0] == scores[-1] and not (relevance is not None and relevance(1.0) < relevance(0.0)):
        return list(scores)
    turned = [] if relevance is None else [relevance(score) for score in scores]
    return turned if turned and turned == sorted(turned, reverse=True) else [1 - score for score in scores]


def _relevance_of(store: VectorStore) -> Callable[[float], float] | None:
    try:
        return store._select_relevance_score_fn()
    except (NotImplementedError, ValueError):  # it has none, or none for its measure
        return None
