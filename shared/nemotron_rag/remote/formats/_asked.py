"""What every wire format is given and must do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from nemotron_rag.remote.endpoint import ScoreScale
from nemotron_rag.remote.inputs import Input
from nemotron_rag.types import Modality

__all__ = ["ALL", "TEXT", "Asked", "EmbeddingFormat", "RerankFormat", "Role", "content_parts", "text_and_image"]

Role: TypeAlias = Literal["query", "passage"]

TEXT: tuple[Modality, ...] = ("text",)
ALL: tuple[Modality, ...] = ("text", "image", "image_text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is the same in all requests of a call.

    Args:
        model: as the server calls it.
        role: what the inputs are.
        prefix: put before texts by formats that have no role.
        dimensions: to ask for; None for all.
        truncate: see `Endpoint`.
        has_images: whether the model reads images, as far as that is known.
        length: of the vectors, once it is known.
    """

    model: str
    role: Role = "passage"
    prefix: str = ""
    dimensions: int | None = None
    truncate: str = "END"
    has_images: bool = True
    length: int | None = None


class _Format(Protocol):
    operation: ClassVar[str]
    version: ClassVar[str | None]
    modalities: ClassVar[tuple[Modality, ...]]
    """Of passages."""
    most: ClassVar[int]
    """Inputs of a request."""


class EmbeddingFormat(_Format, Protocol):
    """How inputs are embedded."""

    has_roles: ClassVar[bool]
    """Whether a request says if its inputs are queries or passages."""

    def together(self, one: Input, other: Input) -> bool:
        """Whether two inputs may be in one request."""

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        """The request."""

    def rows(self, answer: object, where: str) -> Any:
        """The answer's list of rows."""

    def vector(self, row: Any, where: str) -> Any:
        """The numbers of a row."""


class RerankFormat(_Format, Protocol):
    """How passages are scored."""

    scale: ClassVar[ScoreScale | None]
    """Of the scores; None where the server decides."""

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        """The request; `raw` asks for logits."""

    def rows(self, answer: object, where: str) -> Any:
        """The answer's list of rows."""

    def score(self, row: Any, where: str) -> Any:
        """The number of a row."""


def text_and_image(each: Input) -> Any:
    """An input in our own format: a bare text, or both under their names."""
    return each.text if each.image is None else {"text": each.text, "image": each.image}


def content_parts(each: Input) -> list[dict[str, Any]]:
    """An input as chat models take it: the image before the text."""
    image = [] if each.image is None else [{"type": "image_url", "image_url": {"url": each.image}}]
    text = [{"type": "text", "text": each.text}] if each.text or not image else []
    return [*image, *text]
