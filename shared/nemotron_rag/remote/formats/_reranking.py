"""How each dialect asks for scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from nemotron_rag.remote.answers import field
from nemotron_rag.remote.endpoint import ScoreScale
from nemotron_rag.remote.formats._asked import ALL, TEXT, Asked, content_parts, text_and_image
from nemotron_rag.remote.inputs import Input
from nemotron_rag.types import Modality

__all__ = ["Cohere", "Jina", "NimRanking", "OurScores", "TeiRerank", "VllmRerank", "VllmScore"]


class Cohere:
    """``POST /v2/rerank`` of texts, answered with probabilities."""

    operation: ClassVar[str] = "rerank"
    version: ClassVar[str | None] = "v2"
    modalities: ClassVar[tuple[Modality, ...]] = TEXT
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


class Jina(Cohere):
    """``POST /v1/rerank`` of Jina: a document is a text or an image."""

    version = "v1"
    modalities = ("text", "image")

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        body = super().body(query, inputs, asked, raw=raw)
        return {**body, "query": self.document(query), "return_documents": False}

    def document(self, each: Input) -> Any:
        return each.text if each.image is None else {"image": each.image}


class OurScores(Cohere):
    """``POST /v1/rerank`` of `nemotron_rag.serve`, which writes the logit beside the probability."""

    version = "v1"
    modalities = ALL
    scale = "logit"

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        return {**super().body(query, inputs, asked, raw=raw), "query": self.document(query)}

    def document(self, each: Input) -> Any:
        # A text that holds what looks like a data URI must say that it is a text.
        return {"text": each.text} if each.image is None and "data:image/" in each.text else text_and_image(each)

    def score(self, row: Any, where: str) -> Any:
        return field(row, "logit", where=where)


class VllmRerank(Cohere):
    """``POST /v1/rerank`` of vLLM; whether the activation can be left out depends on its version."""

    version: ClassVar[str | None] = "v1"
    modalities = ALL
    scale = None

    def body(self, query: Input, inputs: Sequence[Input], asked: Asked, *, raw: bool) -> dict[str, Any]:
        body = super().body(query, inputs, asked, raw=raw)
        return {**body, "query": self.document(query), **_activation(raw)}

    def document(self, each: Input) -> Any:
        return each.text if each.image is None else {"content": content_parts(each)}


class VllmScore(VllmRerank):
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


class NimRanking(Cohere):
    """``POST /v1/ranking`` of NVIDIA NIM: raw logits."""

    operation, version = "ranking", "v1"
    modalities, scale = ALL, "logit"
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


class TeiRerank(Cohere):
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


def _activation(raw: bool) -> dict[str, bool]:
    return {"use_activation": not raw, "activation": not raw}  # older versions know the second alone
