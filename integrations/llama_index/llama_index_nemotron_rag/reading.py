"""How nodes are read: which image and text of each a model gets, and what may be opened for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypedDict, cast

from llama_index.core.bridge.pydantic import BeforeValidator, Field
from llama_index.core.schema import BaseNode, ImageDocument, ImageNode, MetadataMode
from PIL import Image

from llama_index_nemotron_rag.nodes import NodeImage, image_of
from llama_index_nemotron_rag.settings import Component
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.held import in_parts
from nemotron_rag.documents.images import DEFAULT_BUDGET, ImageBudget, load_image
from nemotron_rag.errors import ImageError
from nemotron_rag.ranking import OnImageError
from nemotron_rag.types import ImageReference, ImageSource, Modality, Passage

__all__ = ["NodeReading", "ReadingSettings", "Strings", "image_hint"]

_log = logging.getLogger("nemotron_rag")


def _as_strings(value: Any) -> Any:
    """One string or path, or several -> a list of strings."""
    several = [value] if isinstance(value, str | os.PathLike) else value
    return [os.fspath(item) for item in several] if isinstance(several, list | tuple | set | frozenset) else several


Strings: TypeAlias = Annotated[list[str], BeforeValidator(_as_strings)]


class ReadingSettings(TypedDict, total=False):
    """Keyword arguments of `NodeReading`."""

    modality: Modality
    metadata_mode: MetadataMode
    on_image_error: OnImageError
    image_keys: Sequence[str]
    image_roots: Sequence[str | os.PathLike[str]] | None
    image_hosts: Sequence[str]
    image_budget: ImageBudget


@dataclass(frozen=True, slots=True)
class Reading:
    """A node as it was read.

    Args:
        index: of the node in the caller's list.
        passage: for the model, its image decoded.
        image_lost: the image could not be read, and the text alone stands for the node.
    """

    index: int
    passage: Passage
    image_lost: bool = False


class NodeReading(Component):
    """How a node becomes a passage.

    A node's own image file (`image_path`, `MediaResource.path`) is opened wherever it is, as LlamaIndex itself does,
    unless `image_roots` says where. An image named in metadata is opened only below `image_roots`, and URLs are
    fetched only from `image_hosts`. Base64 and data URIs are always read.

    Args:
        modality: ``image_text`` takes image and text together, ``image`` the text only of nodes without an image,
            ``text`` no images at all.
        metadata_mode: which metadata goes before the text; an image without text of its own goes alone.
        on_image_error: an image cannot be read: ``raise``, ``skip`` the node, or go on with its ``text``.
        image_keys: metadata keys that may hold an image's data URI, path or URL.
        image_roots: folders below which images may be opened; None as said above.
        image_hosts: hosts from which images may be fetched.
        image_budget: the largest image that is decoded.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> NodeReading().read([TextNode(text="Revenue rose.")])[0].passage.text
        'Revenue rose.'
    """

    modality: Modality = "image_text"
    metadata_mode: MetadataMode = MetadataMode.EMBED
    on_image_error: OnImageError = "raise"
    image_keys: Strings = Field(default_factory=list)
    image_roots: Strings | None = None
    image_hosts: Strings = Field(default_factory=list)
    image_budget: ImageBudget = DEFAULT_BUDGET

    def passages(self, nodes: Sequence[BaseNode]) -> list[Passage]:
        """A passage for each node, its image a reference: nothing is opened.

        An `ImageNode` with neither image nor text gives an empty passage.
        """
        references: dict[Hashable, ImageReference] = {}
        return [self._passage(node, references) for node in nodes]

    def read(self, nodes: Sequence[BaseNode], *, start: int = 0) -> list[Reading]:
        """Passages with decoded images, without those that the policy leaves out.

        An image that several nodes have one after the other is decoded once.

        Args:
            nodes: of any form.
            start: index of the first one in the caller's list.

        Raises:
            ImageError: an image cannot be read and the policy is ``raise``; the message names index and id.
        """
        return [reading for part in self.read_in_parts(nodes, start=start) for reading in part]

    def read_in_parts(self, nodes: Sequence[BaseNode], *, start: int = 0) -> Iterator[list[Reading]]:
        """`read` a part at a time, so that few images are decoded at once where they are large."""
        return in_parts(self._read(nodes, start), lambda reading: pixels_of(reading.passage))

    def _read(self, nodes: Sequence[BaseNode], start: int) -> Iterator[Reading]:
        last: tuple[ImageSource | None, Image.Image | None] = None, None
        with image_hint():
            for index, (node, passage) in enumerate(zip(nodes, self.passages(nodes), strict=True), start):
                try:
                    decoded = self._decoded(node, passage, *last)
                    last = passage.image, cast("Image.Image | None", decoded.image)
                    yield Reading(index, decoded)
                except ImageError as error:
                    reason = f"node {index} ({node.node_id}): {error}"
                    if self.on_image_error == "raise":
                        raise type(error)(reason) from error
                    _log.warning("%s; policy: %s", reason, self.on_image_error)
                    if self.on_image_error == "text":
                        yield Reading(index, Passage(node.get_content(self.metadata_mode)), image_lost=True)

    def _decoded(
        self, node: BaseNode, passage: Passage, last: ImageSource | None, image: Image.Image | None
    ) -> Passage:
        """The passage with its image decoded, which is that of the last one if they have the same."""
        if passage.image is None:
            if self.modality != "text" and isinstance(node, ImageNode | ImageDocument) and not passage.text:
                raise ImageError("has neither an image nor a text")
            return passage
        return replace(passage, image=image if passage.image is last else load_image(passage.image))

    def _passage(self, node: BaseNode, references: dict[Hashable, ImageReference]) -> Passage:
        has_text = bool(node.get_content(MetadataMode.NONE).strip())
        image = None if self.modality == "text" else image_of(node, image_keys=self.image_keys)
        if image is None:
            is_empty = self.modality != "text" and isinstance(node, ImageNode | ImageDocument) and not has_text
            return Passage() if is_empty else Passage(node.get_content(self.metadata_mode))
        key = image.own, image.source if isinstance(image.source, str | bytes | Path) else id(image.source)
        if key not in references:
            references[key] = self._reference(image)
        if self.modality == "image":
            return Passage(image=references[key])
        return Passage(node.get_content(self.metadata_mode if has_text else MetadataMode.NONE), references[key])

    def _reference(self, image: NodeImage) -> ImageReference:
        access = ImageAccess(roots=self.image_roots or (), hosts=self.image_hosts, budget=self.image_budget)
        source, is_free = image.source, image.own and self.image_roots is None
        if is_free and isinstance(source, ImageReference):
            return source
        if is_free and isinstance(source, Path):
            access = replace(access, roots=[source.absolute().anchor])
        return access.reference(source)


def pixels_of(passage: Passage) -> int:
    """Of its decoded image."""
    return passage.image.width * passage.image.height if isinstance(passage.image, Image.Image) else 0


@contextmanager
def image_hint() -> Iterator[None]:
    """Add to an `ImageError` which settings of `NodeReading` decide about it."""
    try:
        yield
    except ImageError as error:
        raise type(error)(f"{error}; see image_roots=, image_hosts= and on_image_error=") from error
