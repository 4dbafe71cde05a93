"""The nouns of the package: plain values, frozen, comparable and picklable."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "PAGE_FIELDS",
    "AddReport",
    "Box",
    "CheckReport",
    "Failure",
    "Filter",
    "FloatArray",
    "Hit",
    "ImageReference",
    "ImageSource",
    "IndexedType",
    "Kind",
    "Modality",
    "ModelSpec",
    "Notice",
    "Page",
    "PageFile",
    "PageVectors",
    "Passage",
    "Query",
    "Ranked",
    "Region",
    "RegionEvidence",
    "StoredPage",
    "TokenStorage",
    "WordBoxes",
    "page_id",
    "page_uuid",
]

Modality: TypeAlias = Literal["text", "image", "image_text"]
"""What a passage holds, and so which default maximum length applies to it."""

Kind: TypeAlias = Literal["embedder", "multivector_embedder", "reranker"]
"""Which protocol a model meets."""

FloatArray: TypeAlias = NDArray[np.float32]


@runtime_checkable
class ImageReference(Protocol):
    """An image that is somewhere else and is decoded when it is opened; a page of an index has one.

    Where `size` and `pixel_hash` are known, a model whose vision features of the image are cached opens nothing.
    """

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, pixels; None if they are not known before it is opened."""

    @property
    def pixel_hash(self) -> str | None:
        """`nemotron_rag.documents.images.pixel_hash` of the RGB image that `open` gives; None if it is not known."""

    def open(self) -> Image.Image:
        """Decode it: a new image each time.

        Raises:
            ImageError: it is missing, broken or beyond the budget.
        """


TokenStorage: TypeAlias = Literal["float32", "float16", "int8", "binary", "turbo4"]
"""Number format of token vectors; see `TokenVectors`."""

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.generic] | ImageReference"
)
"""Every form of an image that `load_image` reads; a str is a path or a ``data:`` URI, never a URL."""

PageVectors: TypeAlias = NDArray[np.floating[Any]]
"""Of one page: (dimensions,), or (tokens, dimensions)."""

Filter: TypeAlias = "Mapping[str, Any] | Any"
"""``{"source": "a.pdf", "page_number": [1, 2], "year": {"gte": 2020}}``, see `nemotron_rag.stores.filters`; or the
store's own kind of filter, such as `qdrant_client.models.Filter`."""

IndexedType: TypeAlias = Literal["keyword", "integer", "float", "bool", "datetime"]
"""What a metadata key holds, "keyword" for texts."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom in fractions, 0 to 1, of the width and height of a page's image; the origin is its top
left corner."""

RegionEvidence: TypeAlias = Literal["words", "vectors", "reranker"]
"""What a region was found by: words that are also in the query, token vectors (and words), or a reranker's score."""

PAGE_FIELDS = ("id", "source", "page_number", "content_hash")
"""Keys of a filter that are fields of a page; every other key is looked up in the page's metadata."""

_LONGEST_REASON = 500  # characters; some libraries quote whole files
_STORED_NAMESPACE = uuid.UUID("5b0f3c0e-6a1d-5c57-9a39-3a4f9f6b1c52")
_PAGE_NAMESPACE = uuid.UUID("6f1c7a54-8e0b-5d0e-9a53-2f3a7c1f0b1d")


def page_id(content_hash: str, number: int) -> str:
    """The deterministic id of a page: uuid5 of what its document contains and where in it the page stands.

    Args:
        content_hash: hex digest of the document's bytes.
        number: page number, starting at 1.
    """
    return str(uuid.uuid5(_PAGE_NAMESPACE, f"{content_hash}/{number}"))


@lru_cache(maxsize=512)  # each page of a batch is asked for several times
def page_uuid(page_id: str) -> str:
    """The id of a page as a UUID: its own id where that is one, else a uuid5 of it."""
    try:
        return str(uuid.UUID(page_id))
    except ValueError:
        return str(uuid.uuid5(_STORED_NAMESPACE, page_id))


@dataclass(frozen=True, slots=True)
class Passage:
    """What a model reads: a text, an image, or both.

    Args:
        text: the text; empty if there is none.
        image: the image in any form of `ImageSource`, or None.

    Example:
        >>> Passage(text="Revenue rose by 4 %.").modality
        'text'
    """

    text: str = ""
    image: ImageSource | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """All fields, of an image's bytes their number alone: traces and logs hold it."""
        hidden = {"image"} if getattr(self, "word_boxes", None) is not None else {"image", "word_boxes"}
        values = {each.name: repr(getattr(self, each.name)) for each in fields(self) if each.name not in hidden}
        image = f"<image of {len(self.image)} bytes>" if _is_bytes(self.image) else repr(self.image)
        shown = {"text": values.pop("text"), "image": image} | values
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    @property
    def modality(self) -> Modality:
        """Which inputs are there; a passage with neither is an empty text."""
        if self.image is None:
            return "text"
        return "image_text" if self.text else "image"


def _is_bytes(image: ImageSource | None) -> TypeGuard[str | bytes]:
    """Whether it is a file's bytes, or holds them as a data URI."""
    return isinstance(image, bytes) or (isinstance(image, str) and image[:5].lower() == "data:")


Query: TypeAlias = str | Passage
"""What is asked: words, or an image with or without words, for models whose `query_modalities` have images."""


@dataclass(frozen=True, slots=True, eq=False)
class WordBoxes:
    """The words of a page in reading order, and where they stand in its image.

    Args:
        words: without spaces.
        boxes: (words, 4) float32, a `Box` in each row.
        lines: (words,) int32, the number of the line in which each word stands: from 0, never less than before.
    """

    words: tuple[str, ...]
    boxes: FloatArray
    lines: NDArray[np.int32]

    def __repr__(self) -> str:
        """How many words there are; not the words."""
        return f"<boxes of {len(self.words)} words>"


@dataclass(frozen=True, slots=True)
class Region:
    """A place on a page where a query is answered.

    Args:
        box: where it is on the page's image.
        score: the higher the better, comparable on one page alone: the share of the query that is found there, from 0
            to 1; the reranker's logit where one was asked.
        text: what stands there, a line of the page on each line; empty where the page has no text.
        evidence: what it was found by.
    """

    box: Box
    score: float
    text: str
    evidence: RegionEvidence


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Page(Passage):
    """A passage with provenance: one page of a document.

    Args:
        id: uuid5 of the document's content and the page number; see `page_id`.
        source: where the document came from, as the caller named it.
        number: page number, starting at 1.
        metadata: plain JSON values that travel with the page and can be filtered on.
        word_boxes: where its words stand; None if that is not known here. Hits have none: see `PageIndex.word_boxes`.
    """

    id: str
    source: str = ""
    number: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    word_boxes: WordBoxes | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One document that holds a page: metadata belongs to the two together.

    Args:
        source: the document, as the caller named it; empty if it has no name.
        metadata: of the page in this document: plain JSON values.
    """

    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPage:
    """A page as a store keeps it.

    Args:
        page: the page without its image and its word boxes, as the first of `files` has it.
        files: every document that holds this page, with the metadata of the page in it; files of equal content share
            their pages. At least one.
        content_hash: hex digest of the document's bytes, or ``page:`` and the digest of a page that was added alone.
        content_metadata: what the content itself says, whichever file it comes from.
        image_key: where `PageImages` keeps the image; None if there is none.
        image_size: its width and height, pixels; None if they were not noted.
        image_hash: `pixel_hash` of the image as it is read back; None if it was not noted.
    """

    page: Page
    files: tuple[PageFile, ...]
    content_hash: str
    content_metadata: Mapping[str, Any] = field(default_factory=dict)
    image_key: str | None = None
    image_size: tuple[int, int] | None = None
    image_hash: str | None = None

    @classmethod
    def of(cls, page: Page, *, content_hash: str, metadata: Mapping[str, Any] | None = None) -> StoredPage:
        """A page as it comes from one document, without its image.

        Args:
            page: of `Page.source`.
            content_hash: see the class.
            metadata: of this document alone, laid over the page's, which its content says; None if all of the page's
                metadata is of this document alone.
        """
        merged = page.metadata if metadata is None else {**page.metadata, **metadata}
        return cls(
            page=replace(page, image=None, word_boxes=None, metadata=merged),
            files=(PageFile(page.source, merged),),
            content_hash=content_hash,
            content_metadata={} if metadata is None else page.metadata,
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the documents that hold this page."""
        return tuple(file.source for file in self.files if file.source)

    def with_source(self, source: str, metadata: Mapping[str, Any]) -> StoredPage:
        """The same page, also held by `source`, with `metadata` over what it had there, or over the content's."""
        known = {file.source: file.metadata for file in self.files}
        return self._held({**known, source: {**known.get(source, self.content_metadata), **metadata}})

    def held_by(self, files: Sequence[PageFile]) -> StoredPage | None:
        """The same page, held by these documents only, in their order; None if there are none."""
        if not files:
            return None
        page = replace(self.page, source=files[0].source, metadata=files[0].metadata)
        return replace(self, page=page, files=tuple(files))

    def replacing(self, old: StoredPage | None) -> StoredPage:
        """The same page, also held by the other documents of an older one of the same content."""
        if old is None or old.content_hash != self.content_hash:
            return self
        return self._held({file.source: file.metadata for file in (*old.files, *self.files)})

    def _held(self, by: Mapping[str, Mapping[str, Any]]) -> StoredPage:
        """In one order, whoever came first: by name, those without a name last."""
        files = [PageFile(source, by[source]) for source in sorted(by, key=lambda name: (not name, name))]
        return self.held_by(files) or self


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search: a plain value.

    Args:
        page: the page found. Its image, if there is one, is an `ImageReference` that decodes when it is opened.
        score: what the hits are ordered by: after reranking the reranker's score, else the retrieval score. Minus
            infinity for a page that the reranker could not score (see `ranking`).
        retrieval_score: the first stage's score: cosine similarity for one vector, MaxSim for many, a fusion score in
            hybrid mode.
        rank: place in the final order, starting at 1.
        neighbours: pages before and after it in its document, if they were asked for, in the document's order. They
            are not scored; one that is a hit itself, or stands at an earlier hit, is not among them.
    """

    page: Page
    score: float
    retrieval_score: float
    rank: int
    neighbours: tuple[Page, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranked:
    """One passage with its reranker score.

    Args:
        index: place of the passage in the caller's list, starting at 0.
        score: raw logit; higher is more relevant.
        passage: the passage itself.
    """

    index: int
    score: float
    passage: Passage


@dataclass(frozen=True, slots=True)
class Failure:
    """A document or page that could not be read and was left out.

    Args:
        source: the document.
        reason: one line saying what was wrong.
        number: page number starting at 1, or None when the whole document failed.
    """

    source: str
    reason: str
    number: int | None = None

    @classmethod
    def of(cls, source: str, error: Exception, number: int | None = None) -> Self:
        """The failure that an error means; its message may name the source, which is then not said twice."""
        reason = " ".join(str(error).split()).removeprefix(f"{source}: ") or type(error).__name__
        return cls(source, reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} ...", number)

    def __str__(self) -> str:
        """``file.pdf, page 3: reason``."""
        page = "" if self.number is None else f", page {self.number}"
        return f"{self.source}{page}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Notice(Failure):
    """What the pages of a document do not show, though they could be read: one is a cover, and the rest elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport:
    """What `PageIndex.add` did.

    Args:
        added: pages written, among them the `replaced` ones.
        unchanged: pages that were already there with the same content.
        removed: pages deleted because their document changed, or, by `PageIndex.sync`, vanished.
        failures: what could not be read and was skipped.
        left_out: files in the folders that were named, which are no documents.
        optimized: whether the store put its files in order afterwards, for faster searches.
        seconds: wall-clock time by stage (``render``, ``embed``, ``store``, ``optimize``, ``total``), and of ``embed``
            the part in which images were decoded and cut (``preprocess``). Stages run side by side: they add up to more
            than the total, and the one nearest to it is the narrow one.
    """

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    failures: tuple[Failure, ...] = ()
    left_out: tuple[str, ...] = ()
    optimized: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What `PageIndex.check` found, or `PageIndex.repair` mended.

    Args:
        pages: how many can be read.
        faults: of pages; a repair removes these pages, so that the next `add` reads them again.
        leftovers: image files that no page has; a repair removes them.
        repaired: whether that was done.
    """

    pages: int
    faults: tuple[Failure, ...] = ()
    leftovers: tuple[str, ...] = ()
    repaired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One checkpoint of the catalog. Facts only; `None` means not known or not applicable.

    Args:
        id: the name users type.
        repo: the model hub's ``owner/name``, or None for a checkpoint that is not there.
        revision: 40 hex digits of the pinned commit, or None without a `repo`.
        kind: which protocol the model meets.
        family: module name under `nemotron_rag.models`.
        licence: of the weights.
        commercial: whether that licence allows commercial use.
        parameters: number of weights.
        dimensions: sizes an embedding can have, the full one last; empty for rerankers.
        modalities: what a passage may hold.
        max_input_tiles: tiles per image, thumbnail not counted; None for models without tiles.
        max_length: default maximum number of tokens by modality.
        verified: True if golden vectors of the published reference implementation are reproduced by a test.
        starter: whether the weights are those of the extra `starters`, the package ``nemotron-rag-starters``.
        page_vectors: vectors of a page image, those of the prompt not counted: 1, for tiles those of the largest
            image, for grids a published mean.
        instruction: what queries are embedded for, unless told otherwise; None for the default of the model's own code.
        note: one line for people, empty if there is nothing to add.
    """

    id: str
    repo: str | None
    revision: str | None
    kind: Kind
    family: str
    licence: str
    commercial: bool
    parameters: int | None
    dimensions: tuple[int, ...]
    modalities: tuple[Modality, ...]
    max_input_tiles: int | None
    max_length: Mapping[Modality, int]
    verified: bool
    starter: bool = False
    page_vectors: int = 1
    instruction: str | None = None
    note: str = ""
