"""The nouns of the package: frozen, framework-free values. They know nothing of models, files or stores."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, Self, TypeAlias

from nemotron_rag.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from nemotron_rag.heatmap import Heatmap

__all__ = [
    "AddReport",
    "Failure",
    "Hit",
    "ImageSource",
    "Kind",
    "Modality",
    "ModelSpec",
    "Page",
    "Passage",
    "Ranked",
    "page_id",
]

Modality: TypeAlias = Literal["text", "image", "image_text"]
"""What a passage holds, and so which default maximum length applies to it."""

Kind: TypeAlias = Literal["embedder", "multivector_embedder", "reranker"]
"""Which protocol a model meets."""

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.generic]"
"""Every form of an image that `nemotron_rag.images` reads; a str is a path or a ``data:`` URI, never a URL."""

_LONGEST_REASON = 500  # characters; some libraries quote whole files
_PAGE_NAMESPACE = uuid.UUID("6f1c7a54-8e0b-5d0e-9a53-2f3a7c1f0b1d")


def page_id(content_hash: str, number: int) -> str:
    """The deterministic id of a page: uuid5 of what its document contains and where in it the page stands.

    Args:
        content_hash: hex digest of the document's bytes.
        number: page number, starting at 1.
    """
    return str(uuid.uuid5(_PAGE_NAMESPACE, f"{content_hash}/{number}"))


@dataclass(frozen=True, slots=True)
class Passage:
    """What a model reads: a text, an image, or both.

    Args:
        text: the text; empty if there is none.
        image: the picture in any form of `ImageSource`, or None.

    Example:
        >>> Passage(text="Revenue rose by 4 %.").modality
        'text'
    """

    text: str = ""
    image: ImageSource | None = field(default=None, compare=False)

    @property
    def modality(self) -> Modality:
        """Which inputs are there; a passage with neither is an empty text."""
        if self.image is None:
            return "text"
        return "image_text" if self.text else "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Passage):
    """A passage with provenance: one page of a document.

    Args:
        id: uuid5 of the document's content and the page number; see `page_id`.
        source: where the document came from, as the caller named it.
        number: page number, starting at 1.
        metadata: plain JSON values that travel with the page and can be filtered on.
    """

    id: str
    source: str = ""
    number: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search.

    Args:
        page: the page found.
        score: what the hits are ordered by: the reranker's raw logit after reranking, else the retrieval score.
        retrieval_score: the first stage's score (cosine similarity for one vector, MaxSim for many).
        rank: place in the final order, starting at 1.
        image_path: where the picture is kept, a path or a URL of fsspec; None if there is none that can be read.
        locate: computes the heatmap of a page and a query; None unless a model with a vector for each token found it.
    """

    page: Page
    score: float
    retrieval_score: float
    rank: int
    image_path: str | None = None
    locate: Callable[[Passage, str], Heatmap] | None = field(default=None, repr=False, compare=False)

    def heatmap(self, query: str, *, word: str | None = None) -> Image.Image:
        """Where on the page the words of a query match: the page in shades of grey, those places in colour.

        For hits of late interaction. Computed here, from the page's picture and by the model of its index, which must
        still be open. `PageIndex.heatmap` gives the numbers behind it.

        Args:
            query: the question, the same or another.
            word: of the query, in upper or lower case: only its places. None for all telling words together.

        Returns:
            An RGB image of the size of the page's picture.

        Raises:
            InputError: the hit is not of late interaction, its page has no picture, or the query no such word.
            NemotronRagError: the index was closed, or the model failed.
        """
        if self.locate is None:
            raise InputError("only a model with a vector for each token can show where it matched; this hit has none")
        return self.locate(self.page, query).image(word)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport:
    """What `PageIndex.add` did.

    Args:
        added: pages written, among them the `replaced` ones.
        unchanged: pages that were already there with the same content.
        removed: pages deleted because their document changed.
        failures: what could not be read and was skipped.
        seconds: wall-clock time by stage (``render``, ``embed``, ``store``, ``total``), and of ``embed`` the part in
            which pictures were decoded and cut (``preprocess``). Stages run side by side: they add up to more than
            the total, and the one nearest to it is the narrow one.
    """

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    failures: tuple[Failure, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


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
        shipped: whether the weights are part of this package.
        page_vectors: vectors of a page picture, those of the prompt not counted: 1, for tiles those of the largest
            picture, for grids a published mean.
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
    shipped: bool = False
    page_vectors: int = 1
    note: str = ""
