"""Fields that the LlamaIndex components have in common: how a model is loaded and how nodes become passages.

It knows no model: it names settings for `nemotron_rag` and reads pictures through `nemotron_rag.access`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from llama_index.core.bridge.pydantic import BaseModel, BeforeValidator, Field
from llama_index.core.schema import BaseNode, MetadataMode
from PIL import Image

from llama_index.embeddings.nemotron_rag.nodes import Picture, is_picture_node, picture_of
from nemotron_rag.access import ImageAccess
from nemotron_rag.errors import ImageError
from nemotron_rag.images import DEFAULT_BUDGET, ImageBudget, load_image
from nemotron_rag.types import Modality, Passage

__all__ = [
    "ModelFields",
    "ModelSettings",
    "NodeReading",
    "OnMissingImage",
    "Reading",
    "ReadingSettings",
    "load_options",
]

_log = logging.getLogger("nemotron_rag")

OnMissingImage: TypeAlias = Literal["raise", "skip", "text"]
"""What to do about a picture that cannot be read: raise, leave the node out, or go on with its text."""


def _as_strings(value: Any) -> Any:
    """One string or path, or several -> a list of strings."""
    several = [value] if isinstance(value, str | os.PathLike) else value
    return [os.fspath(item) for item in several] if isinstance(several, list | tuple | set | frozenset) else several


Strings: TypeAlias = Annotated[list[str], BeforeValidator(_as_strings)]


class ModelSettings(TypedDict, total=False):
    """Keyword arguments of `ModelFields`."""

    device: str | None
    dtype: str | None
    revision: str | None
    max_input_tiles: int | None
    use_thumbnail: bool | None
    max_length: int | dict[str, int] | None
    identity: dict[str, Any] | None


class ModelFields(BaseModel):
    """How a model is loaded; see `nemotron_rag.load_embedder`. None is the model's own default everywhere.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        revision: of the hub repository.
        max_input_tiles: tiles per image.
        use_thumbnail: show a cut image as one small tile too.
        max_length: most tokens of a passage, or numbers by modality.
        identity: of a model that was given loaded; what is later loaded under its name must be the same.

    They cannot be changed later: the loaded model would not follow.

    Example:
        >>> ModelFields(device="cpu").device
        'cpu'
    """

    device: str | None = Field(default=None, frozen=True)
    dtype: str | None = Field(default=None, frozen=True)
    revision: str | None = Field(default=None, frozen=True)
    max_input_tiles: int | None = Field(default=None, frozen=True)
    use_thumbnail: bool | None = Field(default=None, frozen=True)
    max_length: int | dict[str, int] | None = Field(default=None, frozen=True)
    identity: dict[str, Any] | None = Field(default=None, frozen=True)


def load_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `lazy_embedder` and `lazy_reranker` need out of a component's settings."""
    return {name: settings.get(name) for name in ModelFields.model_fields}


class ReadingSettings(TypedDict, total=False):
    """Keyword arguments of `NodeReading`."""

    modality: Modality
    metadata_mode: MetadataMode
    on_missing_image: OnMissingImage
    image_keys: Sequence[str]
    image_roots: Sequence[str | os.PathLike[str]] | None
    image_hosts: Sequence[str]
    image_budget: ImageBudget


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one node.

    Args:
        index: the node's place in the caller's list.
        passage: what the model gets.
        missing: the picture could not be read, and the text alone stands for the node.
    """

    index: int
    passage: Passage
    missing: bool = False


class NodeReading(BaseModel):
    """How a node becomes a passage.

    A node's own picture file (`image_path`, `MediaResource.path`) is opened wherever it lies, as LlamaIndex itself
    does, unless `image_roots` says where. What is named in metadata is opened only below `image_roots`, and URLs are
    fetched only from `image_hosts`. Base64 and data URIs are always read.

    Args:
        modality: ``image_text`` takes picture and text together, ``image`` the text only of nodes without a picture,
            ``text`` no pictures at all.
        metadata_mode: which metadata goes before the text; a picture without text of its own goes alone.
        on_missing_image: about a picture that cannot be read: ``raise``, ``skip`` the node, or take its ``text``.
        image_keys: metadata keys that may hold a picture's data URI, path or URL.
        image_roots: folders below which pictures may be opened; None as said above.
        image_hosts: hosts from which pictures may be fetched.
        image_budget: the largest picture that is decoded.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> NodeReading().read([TextNode(text="Revenue rose.")])[0].passage.text
        'Revenue rose.'
    """

    modality: Modality = "image_text"
    metadata_mode: MetadataMode = MetadataMode.EMBED
    on_missing_image: OnMissingImage = "raise"
    image_keys: Strings = Field(default_factory=list)
    image_roots: Strings | None = None
    image_hosts: Strings = Field(default_factory=list)
    image_budget: ImageBudget = DEFAULT_BUDGET

    def read(self, nodes: Sequence[BaseNode], *, start: int = 0) -> list[Reading]:
        """Passages for the nodes, without those that the policy leaves out; a picture that recurs is decoded once.

        Args:
            nodes: of any form.
            start: place of the first one in the caller's list.

        Raises:
            ImageError: a picture cannot be read and the policy is ``raise``; the message names index and id.
        """
        open_picture = self._opener()
        found = (self._read_one(node, start + i, open_picture) for i, node in enumerate(nodes))
        return [reading for reading in found if reading is not None]

    def _read_one(self, node: BaseNode, index: int, open_picture: Callable[[Picture], Image.Image]) -> Reading | None:
        try:
            return Reading(index, self._passage(node, open_picture))
        except ImageError as error:
            reason = f"node {index} ({node.node_id}): {error}"
            if self.on_missing_image == "raise":
                raise type(error)(f"{reason}; see image_roots=, image_hosts= and on_missing_image=") from error
            _log.warning("%s; policy: %s", reason, self.on_missing_image)
        if self.on_missing_image == "skip":
            return None
        return Reading(index, Passage(node.get_content(self.metadata_mode)), missing=True)

    def _passage(self, node: BaseNode, open_picture: Callable[[Picture], Image.Image]) -> Passage:
        has_text = bool(node.get_content(MetadataMode.NONE).strip())
        picture = None if self.modality == "text" else picture_of(node, image_keys=self.image_keys)
        if picture is None:
            if self.modality != "text" and is_picture_node(node) and not has_text:
                raise ImageError("has neither a picture nor a text")
            return Passage(node.get_content(self.metadata_mode))
        text = node.get_content(self.metadata_mode) if has_text and self.modality == "image_text" else ""
        return Passage(text, open_picture(picture))

    def _opener(self) -> Callable[[Picture], Image.Image]:
        access = ImageAccess(roots=self.image_roots or (), hosts=self.image_hosts, budget=self.image_budget)
        opened: dict[Hashable, Image.Image] = {}

        def open_picture(picture: Picture) -> Image.Image:
            source = picture.source
            key = picture.own, source if isinstance(source, str | bytes | Path) else id(source)
            if key not in opened:
                free = picture.own and isinstance(source, Path) and self.image_roots is None
                opened[key] = load_image(source, budget=self.image_budget) if free else access.open(source)
            return opened[key]

        return open_picture
