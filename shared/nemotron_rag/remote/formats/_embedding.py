"""How each dialect asks for embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from nemotron_rag.remote.answers import field
from nemotron_rag.remote.formats._asked import ALL, TEXT, Asked, content_parts, text_and_image
from nemotron_rag.remote.inputs import Input
from nemotron_rag.types import Modality

__all__ = ["Nim", "OpenAI", "OurTokens", "Ours", "Tei", "VllmChat", "VllmTexts", "VllmTokens"]

_MANY = 10**9  # no limit of a format


class OpenAI:
    """``POST /v1/embeddings`` of texts."""

    operation: ClassVar[str] = "embeddings"
    version: ClassVar[str | None] = "v1"
    modalities: ClassVar[tuple[Modality, ...]] = TEXT
    most: ClassVar[int] = _MANY
    has_roles: ClassVar[bool] = False

    def together(self, one: Input, other: Input) -> bool:
        return True

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        texts = [asked.prefix + each.text for each in inputs]
        return {"model": asked.model, "input": texts, "encoding_format": "float", **_dimensions(asked)}

    def rows(self, answer: object, where: str) -> Any:
        return field(answer, "data", where=where)

    def vector(self, row: Any, where: str) -> Any:
        return field(row, "embedding", where=where)


class Nim(OpenAI):
    """The same with a role and a modality; an image is a data URI in the text, behind its words."""

    modalities, has_roles = ALL, True

    def together(self, one: Input, other: Input) -> bool:
        return one.modality == other.modality

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        body = {
            "model": asked.model,
            "input": [_with_uri(each) for each in inputs],
            "input_type": asked.role,
            "encoding_format": "float",
            "truncate": asked.truncate,
            **_dimensions(asked),
        }
        if asked.has_images:
            body["modality"] = {"image_text": "text_image"}.get(inputs[0].modality, inputs[0].modality)
        return body


class Ours(OpenAI):
    """`nemotron_rag.serve`: inputs of any modality together, and numbers without loss."""

    modalities = ALL
    has_roles = True

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        return {
            "model": asked.model,
            "input": [text_and_image(each) for each in inputs],
            "modality": [{"image_text": "text_image"}.get(each.modality, each.modality) for each in inputs],
            "input_type": asked.role,
            "encoding_format": "base64",
            **_dimensions(asked),
        }


class OurTokens(Ours):
    """The same of token vectors: lists of lists, and Base64 once their length is known."""

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        return {**super().body(inputs, asked), "encoding_format": "float" if asked.length is None else "base64"}


class VllmTexts(OpenAI):
    """vLLM with a model of texts: the prefix is part of the text."""


class VllmChat(OpenAI):
    """vLLM with a chat template, which writes what belongs to a role: one input a request."""

    modalities = ALL
    most, has_roles = 1, True

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        (only,) = inputs
        message = {"role": "document" if asked.role == "passage" else "query", "content": content_parts(only)}
        return {"model": asked.model, "messages": [message], "encoding_format": "float", **_dimensions(asked)}


class VllmTokens(VllmChat):
    """``POST /pooling`` of vLLM: a vector for each token."""

    operation, version = "pooling", None

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        return {**super().body(inputs, asked), "task": "token_embed"}

    def vector(self, row: Any, where: str) -> Any:
        return field(row, "data", "embedding", where=where)


class Tei(OpenAI):
    """``POST /embed`` of text-embeddings-inference."""

    operation, version = "embed", None

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        texts = [asked.prefix + each.text for each in inputs]
        return {"inputs": texts, "normalize": True, "truncate": asked.truncate == "END", **_dimensions(asked)}

    def rows(self, answer: object, where: str) -> Any:
        return answer

    def vector(self, row: Any, where: str) -> Any:
        return row


def _dimensions(asked: Asked) -> dict[str, int]:
    return {} if asked.dimensions is None else {"dimensions": asked.dimensions}


def _with_uri(each: Input) -> str:
    return " ".join(filter(None, (each.text, each.image)))
