"""The wire formats: how each dialect asks, and where its answers hold the numbers.

Sources: the API references of NVIDIA NIM (Embedding 2.2, Reranking 2.4), vLLM (pooling models), OpenAI (embeddings),
Cohere (rerank v2), Jina (rerank), and text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from nemotron_rag.remote.answers import field
from nemotron_rag.remote.endpoint import Dialect, ScoreScale
from nemotron_rag.remote.inputs import Input
from nemotron_rag.types import Kind, Modality

__all__ = ["Asked", "EmbeddingFormat", "RerankFormat", "Role", "format_of", "speakers"]

Role: TypeAlias = Literal["query", "passage"]

_TEXT: tuple[Modality, ...] = ("text",)
_ALL: tuple[Modality, ...] = ("text", "image", "image_text")
_MANY = 10**9  # no limit of a format


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


class _OpenAI:
    """``POST /v1/embeddings`` of texts."""

    operation: ClassVar[str] = "embeddings"
    version: ClassVar[str | None] = "v1"
    modalities: ClassVar[tuple[Modality, ...]] = _TEXT
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


class _Nim(_OpenAI):
    """The same with a role and a modality; an image is a data URI in the text, behind its words."""

    modalities, has_roles = _ALL, True

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


class _Ours(_OpenAI):
    """`nemotron_rag.serve`: inputs of any modality together, and numbers without loss."""

    modalities = _ALL
    has_roles = True

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        return {
            "model": asked.model,
            "input": [_fields(each) for each in inputs],
            "modality": [{"image_text": "text_image"}.get(each.modality, each.modality) for each in inputs],
            "input_type": asked.role,
            "encoding_format": "base64",
            **_dimensions(asked),
        }


class _OurTokens(_Ours):
    """The same of token vectors: lists of lists, and Base64 once their length is known."""

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        return {**super().body(inputs, asked), "encoding_format": "float" if asked.length is None else "base64"}


class _VllmTexts(_OpenAI):
    """vLLM with a model of texts: the prefix is part of the text."""


class _VllmChat(_OpenAI):
    """vLLM with a chat template, which writes what belongs to a role: one input a request."""

    modalities = _ALL
    most, has_roles = 1, True

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        (only,) = inputs
        message = {"role": "document" if asked.role == "passage" else "query", "content": _parts(only)}
        return {"model": asked.model, "messages": [message], "encoding_format": "float", **_dimensions(asked)}


class _VllmTokens(_VllmChat):
    """``POST /pooling`` of vLLM: a vector for each token."""

    operation, version = "pooling", None

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        return {**super().body(inputs, asked), "task": "token_embed"}

    def vector(self, row: Any, where: str) -> Any:
        return field(row, "data", "embedding", where=where)


class _Tei(_OpenAI):
    """``POST /embed`` of text-embeddings-inference."""

    operation, version = "embed", None

    def body(self, inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
        texts = [asked.prefix + each.text for each in inputs]
        return {"inputs": texts, "normalize": True, "truncate": asked.truncate == "END", **_dimensions(asked)}

    def rows(self, answer: object, where: str) -> Any:
        return answer

    def vector(self, row: Any, where: str) -> Any:
        return row


class _Cohere:
    """``POST /v2/rerank`` of texts, answered with probabilities."""

    operation: ClassVar[str] = "rerank"
    version: ClassVar[str | None] = "v2"
    modalities: ClassVar[tuple[Modality, ...]] = _TEXT
    most: ClassVar[int] = 1000
    scale: ClassVar[ScoreScale | None] = "probability"

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        return {"model": asked.model, "query": query.text, "documents": [self.document(each) for each in inputs]}

    def document(self, each: Input) -> Any:
        return each.text

    def rows(self, answer: object, where: str) -> Any:
        return field(answer, "results", where=where)

    def score(self, row: Any, where: str) -> Any:
        return field(row, "relevance_score", where=where)


class _Jina(_Cohere):
    """``POST /v1/rerank`` of Jina: a document is a text or an image."""

    version = "v1"
    modalities = ("text", "image")

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        body = super().body(query, inputs, asked, raw=raw)
        return {**body, "query": self.document(query), "return_documents": False}

    def document(self, each: Input) -> Any:
        return each.text if each.image is None else {"image": each.image}


class _OurScores(_Cohere):
    """``POST /v1/rerank`` of `nemotron_rag.serve`, which writes the logit beside the probability."""

    version = "v1"
    modalities = _ALL
    scale = "logit"

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        return {**super().body(query, inputs, asked, raw=raw), "query": self.document(query)}

    def document(self, each: Input) -> Any:
        # A text that holds what looks like a data URI must say that it is a text.
        return {"text": each.text} if each.image is None and "data:image/" in each.text else _fields(each)

    def score(self, row: Any, where: str) -> Any:
        return field(row, "logit", where=where)


class _VllmRerank(_Cohere):
    """``POST /v1/rerank`` of vLLM; whether the activation can be left out depends on its version."""

    version: ClassVar[str | None] = "v1"
    modalities = _ALL
    scale = None

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        body = super().body(query, inputs, asked, raw=raw)
        return {**body, "query": self.document(query), **_activation(raw)}

    def document(self, each: Input) -> Any:
        return each.text if each.image is None else {"content": _parts(each)}


class _VllmScore(_VllmRerank):
    """``POST /score`` of vLLM."""

    operation = "score"
    version = None

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        documents = [self.document(each) for each in inputs]
        return {"model": asked.model, "data_1": self.document(query), "data_2": documents, **_activation(raw)}

    def rows(self, answer: object, where: str) -> Any:
        return field(answer, "data", where=where)

    def score(self, row: Any, where: str) -> Any:
        return field(row, "score", where=where)


class _NimRanking(_Cohere):
    """``POST /v1/ranking`` of NVIDIA NIM: raw logits."""

    operation, version = "ranking", "v1"
    modalities, scale = _ALL, "logit"
    most = 512

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        passages = [self.document(each) for each in inputs]
        return {
            "model": asked.model,
            "query": {"text": query.text},
            "passages": passages,
            "truncate": asked.truncate,
        }

    def document(self, each: Input) -> Any:
        text = {"text": each.text} if each.text or each.image is None else {}
        return {**text, **({} if each.image is None else {"image": each.image})}

    def rows(self, answer: object, where: str) -> Any:
        return field(answer, "rankings", where=where)

    def score(self, row: Any, where: str) -> Any:
        return field(row, "logit", where=where)


class _TeiRerank(_Cohere):
    """``POST /rerank`` of text-embeddings-inference: raw logits, if asked."""

    operation, version = "rerank", None
    scale = "logit"

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        texts = [each.text for each in inputs]
        return {"query": query.text, "texts": texts, "raw_scores": True, "truncate": asked.truncate == "END"}

    def rows(self, answer: object, where: str) -> Any:
        return answer

    def score(self, row: Any, where: str) -> Any:
        return field(row, "score", where=where)


_FORMATS: dict[tuple[Kind, Dialect], Any] = {
    ("embedder", "nemotron-rag"): _Ours(),
    ("embedder", "nim"): _Nim(),
    ("embedder", "vllm"): _VllmChat(),
    ("embedder", "openai"): _OpenAI(),
    ("embedder", "tei"): _Tei(),
    ("multivector_embedder", "nemotron-rag"): _OurTokens(),
    ("multivector_embedder", "vllm"): _VllmTokens(),
    ("reranker", "nemotron-rag"): _OurScores(),
    ("reranker", "nim"): _NimRanking(),
    ("reranker", "vllm"): _VllmRerank(),
    ("reranker", "cohere"): _Cohere(),
    ("reranker", "jina"): _Jina(),
    ("reranker", "tei"): _TeiRerank(),
}


def speakers(kind: Kind) -> list[Dialect]:
    """The dialects that have a format for models of a kind."""
    return [dialect for of, dialect in _FORMATS if of == kind]


def format_of(kind: Kind, dialect: Dialect, *, operation: str | None, has_images: bool) -> Any:
    """The format of a dialect for models of a kind; None if it has none.

    Args:
        kind: of the model.
        dialect: of the server.
        operation: that the base url ends with; None if it does not.
        has_images: whether the model reads images, as far as that is known.
    """
    if dialect == "vllm" and kind == "reranker" and operation == "score":
        return _VllmScore()
    if dialect == "vllm" and kind == "embedder" and not has_images:
        return _VllmTexts()
    return _FORMATS.get((kind, dialect))


def _dimensions(asked: Asked) -> dict[str, int]:
    return {} if asked.dimensions is None else {"dimensions": asked.dimensions}


def _activation(raw: bool) -> dict[str, bool]:
    return {"use_activation": not raw, "activation": not raw}  # older versions know the second alone


def _with_uri(each: Input) -> str:
    return " ".join(filter(None, (each.text, each.image)))


def _fields(each: Input) -> Any:
    return each.text if each.image is None else {"text": each.text, "image": each.image}


def _parts(each: Input) -> list[dict[str, Any]]:
    image = [] if each.image is None else [{"type": "image_url", "image_url": {"url": each.image}}]
    text = [{"type": "text", "text": each.text}] if each.text or not image else []
    return [*image, *text]
