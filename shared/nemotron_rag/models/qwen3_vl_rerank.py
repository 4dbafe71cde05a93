"""Qwen3-VL-Reranker: a cross-encoder that answers "yes" or "no", for queries and passages of texts, images, or both.

Prompt, lengths, pixels and score are those of the published `Qwen3VLReranker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._base.reranker import CrossEncoder
from nemotron_rag.models._qwen.model import QwenInput, QwenModel, load_qwen_model
from nemotron_rag.models._qwen.pixels import MAX_IMAGE_TOKENS, blend_alpha, within_tokens
from nemotron_rag.models._qwen.tokenizer import Control, Image, Part
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Modality, Passage

__all__ = ["Qwen3VLRerank", "Side", "load", "rerank_prompt"]

_START, _END = Control("<|im_start|>"), Control("<|im_end|>")
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
_MAX_LENGTH = 10_240
_CLOSING = 5  # tokens of the closing turn, which the published code sets aside before it cuts


@dataclass(frozen=True, slots=True)
class Side:
    """A query or a passage in the prompt."""

    text: str
    image: Image | None = None

    @property
    def parts(self) -> list[Part]:
        """The image before the text."""
        return [self.text] if self.image is None else [self.image, self.text]


class Qwen3VLRerank(CrossEncoder[QwenModel]):
    """A `Reranker` over a Qwen3-VL-Reranker checkpoint; `nemotron_rag.load_reranker` makes it.

    Its logit is the output layer's value for ``yes`` minus that for ``no``; the published score is the logit's sigmoid.
    A query may be a text, an image, or both. Its files are those of plain Qwen3-VL, so that a folder of plain Qwen3-VL
    is loaded as this model too.

    Args:
        model: the loaded weights; other objects may share them.
        direction: (hidden,) float32, the output layer's row for ``yes`` minus that for ``no``.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens by modality of the passage, of query and passage together; the five of the closing turn come
            on top, as in the published code.
        max_image_tokens: larger images are shrunk.
        instruction: what a passage is judged by.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> reranker = load_reranker("Qwen3-VL-Reranker-2B")  # doctest: +SKIP
        >>> reranker.score("tornado warning", [Passage("A tornado warning.")]).shape  # doctest: +SKIP
        (1,)
    """

    query_modalities: tuple[Modality, ...] = ("text", "image", "image_text")

    def __init__(
        self,
        model: QwenModel,
        *,
        direction: torch.Tensor,
        name: str,
        revision: str,
        max_length: Mapping[str, int],
        max_image_tokens: int,
        instruction: str,
    ) -> None:
        super().__init__(model, name=name)
        self._direction = direction
        self._revision = revision
        self._max_length = max_length
        self._max_image_tokens = max_image_tokens
        self._pixels = within_tokens(model.config.pixels, max_image_tokens)
        self._instruction = instruction

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the scores are."""
        return {
            "family": "qwen3_vl_rerank",
            "revision": self._revision,
            "instruction": self._instruction,
            "max_image_tokens": self._max_image_tokens,
            **{f"max_length_{key}": value for key, value in self._max_length.items()},
        }

    def _prepare(self, model: QwenModel, query: str, passage: Passage, index: int) -> QwenInput:
        return self._prepare_with(model, Side(query), passage, index)

    def _read_query(self, model: QwenModel, query: Passage) -> Side:
        image = model.image(query, index=None, what="query", pixels=self._pixels, convert=blend_alpha)
        return Side(query.text, image)

    def _prepare_with(self, model: QwenModel, query: Side, passage: Passage, index: int) -> QwenInput:
        image = model.image(passage, index=index, pixels=self._pixels, convert=blend_alpha)
        parts = rerank_prompt(self._instruction, query, Side(passage.text, image))
        return model.prepare_keeping(parts, last=_CLOSING, max_length=self._max_length[passage.modality], index=index)

    def _logits(self, rows: list[torch.Tensor]) -> FloatArray:
        last = torch.stack(rows) if rows else torch.empty(0, len(self._direction))  # (passages, hidden)
        return (last @ self._direction).numpy()


def rerank_prompt(instruction: str, query: Side, document: Side) -> list[Part]:
    """Build the published prompt; nothing stands between instruction and ``<Query>``."""
    system: list[Part] = [_START, f"system\n{_SYSTEM}", _END, "\n"]
    asked: list[Part] = [f"user\n<Instruct>: {instruction}<Query>:", *query.parts]
    turn: list[Part] = [_START, *asked, "\n<Document>:", *document.parts]
    return [*system, *turn, _END, "\n", _START, "assistant\n"]


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_length: int | Mapping[str, int] | None = None,
    max_image_tokens: int | None = None,
    instruction: str | None = None,
) -> Qwen3VLRerank:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_reranker` explains the arguments."""
    lengths = resolve_lengths(dict.fromkeys(("text", "image", "image_text"), _MAX_LENGTH), max_length)
    model = load_qwen_model(folder, generation=3, pooling="last", device=device, dtype=dtype)
    return Qwen3VLRerank(
        model,
        direction=model.answer_direction("yes", "no"),
        name=name,
        revision=revision or fingerprint(folder),
        max_length=lengths,
        max_image_tokens=max_image_tokens or MAX_IMAGE_TOKENS,
        instruction=instruction or _INSTRUCTION,
    )
