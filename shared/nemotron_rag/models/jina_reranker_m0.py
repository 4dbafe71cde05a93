"""jina-reranker-m0: a cross-encoder on Qwen2-VL that reads a query with a text or with a page image.

Prompt, lengths and offset are those of the published `JinaVLForRanking.compute_score`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import linear, relu

from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._base.reranker import CrossEncoder
from nemotron_rag.models._base.weights import load_weight
from nemotron_rag.models._qwen.model import QwenInput, QwenModel, load_qwen_model
from nemotron_rag.models._qwen.pixels import shrunk
from nemotron_rag.models._qwen.tokenizer import Image, Part
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Modality, Passage

__all__ = ["JinaRerankerM0", "jina_prompt", "load"]

_MAX_LENGTHS = {"text": 10_240, "image": 10_240}
_QUERY_LENGTH = 512  # reserved for the query when a long text is cut
_MAX_PIXELS = 602_112  # 768 image tokens
_SCORE_TOKEN = 100  # its hidden state is what the head reads
_LOGIT_BIAS = 2.65
_HEAD = ("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")


class JinaRerankerM0(CrossEncoder[QwenModel]):
    """A `Reranker` over a jina-reranker-m0 checkpoint; `nemotron_rag.load_reranker` makes it.

    Its logit is the head's output minus 2.65, the offset of the published code, whose scores from 0 to 1 are the
    logits' sigmoid. The model reads one modality of a passage: the image if there is one, else the text. The same holds
    for a query, which may be an image too.

    Args:
        model: the loaded weights; other objects may share them.
        head: weight and bias of the first layer, then of the second, float32.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens under ``text`` and ``image``, of query and passage together.
        max_image_tokens: larger images are shrunk; None for 768.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> reranker = load_reranker("jina-reranker-m0")  # doctest: +SKIP
        >>> reranker.score("tornado warning", [Passage("A tornado warning.")]).shape  # doctest: +SKIP
        (1,)
    """

    query_modalities: tuple[Modality, ...] = ("text", "image")

    def __init__(
        self,
        model: QwenModel,
        *,
        head: Sequence[torch.Tensor],
        name: str,
        revision: str,
        max_length: Mapping[str, int],
        max_image_tokens: int | None = None,
    ) -> None:
        super().__init__(model, name=name)
        self._head = head
        self._revision = revision
        self._max_length = max_length
        pixels = model.config.pixels
        self._pixels = shrunk(replace(pixels, max_pixels=min(pixels.max_pixels, _MAX_PIXELS)), max_image_tokens)

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the scores are."""
        lengths = {f"max_length_{key}": value for key, value in self._max_length.items()}
        return {
            "family": "jina_reranker_m0",
            "revision": self._revision,
            "max_pixels": self._pixels.max_pixels,
            **lengths,
        }

    def _prepare(self, model: QwenModel, query: str, passage: Passage, index: int) -> QwenInput:
        return self._prepare_with(model, query, passage, index)

    def _read_query(self, model: QwenModel, query: Passage) -> str | Image:
        return model.image(query, index=None, what="query", pixels=self._pixels) or query.text

    def _prepare_with(self, model: QwenModel, query: str | Image, passage: Passage, index: int) -> QwenInput:
        max_length = self._max_length["text" if passage.image is None else "image"]
        document: str | Image | None = model.image(passage, index=index, pixels=self._pixels)
        if document is None:
            document = model.tokenizer.cut(passage.text, max(max_length - _QUERY_LENGTH, _QUERY_LENGTH))
        return model.prepare(jina_prompt(query, document), ending=(_SCORE_TOKEN,), max_length=max_length, index=index)

    def _logits(self, rows: list[torch.Tensor]) -> FloatArray:
        weight, bias, last_weight, last_bias = self._head
        last = torch.stack(rows) if rows else torch.empty(0, weight.shape[1])  # (passages, hidden)
        logits = linear(relu(linear(last, weight, bias)), last_weight, last_bias)  # (passages, 1)
        return (logits.squeeze(-1) - _LOGIT_BIAS).numpy()


def jina_prompt(query: str | Image, document: str | Image) -> list[Part]:
    """Build the published prompt, the document first."""
    return ["**Document**:\n", document, "\n**Query**:\n", query]


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_length: int | Mapping[str, int] | None = None,
    max_image_tokens: int | None = None,
) -> JinaRerankerM0:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_reranker` explains the arguments."""
    lengths = resolve_lengths(_MAX_LENGTHS, max_length)
    model = load_qwen_model(folder, generation=2, pooling="last", device=device, dtype=dtype)
    return JinaRerankerM0(
        model,
        head=_load_head(folder, hidden=model.config.text.hidden_size),
        name=name,
        revision=revision or fingerprint(folder),
        max_length=lengths,
        max_image_tokens=max_image_tokens,
    )


def _load_head(folder: Path, *, hidden: int) -> list[torch.Tensor]:
    """Load weight and bias of both layers, float32."""
    head = [load_weight(folder, name) for name in _HEAD]
    for tensor, name, shape in zip(head, _HEAD, ((hidden, hidden), (hidden,), (1, hidden), (1,)), strict=True):
        if tensor.shape != shape:
            raise CheckpointError(
                f"{name} of checkpoint {folder} has shape {tuple(tensor.shape)}, its config.json needs {shape}"
            )
    return head
