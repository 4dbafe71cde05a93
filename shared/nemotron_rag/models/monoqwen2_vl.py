"""MonoQwen2-VL: a reranker on Qwen2-VL, prompted to answer whether a page image is relevant to a query.

Prompt and score are those of the published `MonoVLMRanker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nemotron_rag.errors import InputError
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._base.reranker import CrossEncoder
from nemotron_rag.models._qwen.model import QwenInput, QwenModel, load_qwen_model
from nemotron_rag.models._qwen.pixels import shrunk
from nemotron_rag.models._qwen.tokenizer import Control, Image, Part
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["MonoQwen2VL", "load", "monoqwen_prompt"]

_START, _END = Control("<|im_start|>"), Control("<|im_end|>")
_SYSTEM = "You are a helpful assistant."  # the default of the chat template
_QUERY = (
    "Assert the relevance of the previous image document to the following query, answer True or False. "
    "The query is: {query}"
)


class MonoQwen2VL(CrossEncoder[QwenModel]):
    """A `Reranker` over a MonoQwen2-VL checkpoint; `nemotron_rag.load_reranker` makes it.

    Its logit is the output layer's value for ``True`` minus that for ``False``, so that the logit's sigmoid is the
    published score, the probability of ``True``. It reads images only: the text of a passage with
    an image is ignored, and a passage without an image is refused. Its config.json is that of plain Qwen2-VL, so that
    a folder of plain Qwen2-VL is loaded as this model too.

    Args:
        model: the loaded weights; other objects may share them.
        direction: (hidden,) float32, the output layer's row for ``True`` minus that for ``False``.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens under ``image``, of query and image together.
        max_image_tokens: larger images are shrunk; None for what the checkpoint's files say.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> reranker = load_reranker("path/to/MonoQwen2-VL-v0.1")  # doctest: +SKIP
        >>> reranker.score("tornado warning", [Passage(image="page.png")]).shape  # doctest: +SKIP
        (1,)
    """

    def __init__(
        self,
        model: QwenModel,
        *,
        direction: torch.Tensor,
        name: str,
        revision: str,
        max_length: Mapping[str, int],
        max_image_tokens: int | None = None,
    ) -> None:
        super().__init__(model, name=name)
        self._pixels = shrunk(model.config.pixels, max_image_tokens)
        self._max_image_tokens = max_image_tokens
        self._direction = direction
        self._revision = revision
        self._max_length = max_length

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the scores are."""
        return {
            "family": "monoqwen2_vl",
            "revision": self._revision,
            "max_length_image": self._max_length["image"],
            **({} if self._max_image_tokens is None else {"max_image_tokens": self._max_image_tokens}),
        }

    def _prepare(self, model: QwenModel, query: str, passage: Passage, index: int) -> QwenInput:
        image = model.image(passage, index=index, pixels=self._pixels)
        if image is None:
            raise InputError(f"passage {index} has no image, and {self.name} reads images only; give a page image")
        parts, ending = monoqwen_prompt(query, image)
        return model.prepare(parts, ending=ending, max_length=self._max_length["image"], index=index)

    def _logits(self, rows: list[torch.Tensor]) -> FloatArray:
        last = torch.stack(rows) if rows else torch.empty(0, len(self._direction))  # (passages, hidden)
        return (last @ self._direction).numpy()


def monoqwen_prompt(query: str, image: Image) -> tuple[list[Part], list[Part]]:
    """Build the published prompt, and its ending, which starts the model's answer and must not be cut."""
    system: list[Part] = [_START, f"system\n{_SYSTEM}", _END, "\n"]
    turn: list[Part] = [_START, "user\n", image, _QUERY.format(query=query)]
    return [*system, *turn], [_END, "\n", _START, "assistant\n"]


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_length: int | Mapping[str, int] | None = None,
    max_image_tokens: int | None = None,
) -> MonoQwen2VL:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_reranker` explains the arguments."""
    model = load_qwen_model(folder, generation=2, pooling="last", device=device, dtype=dtype)
    return MonoQwen2VL(
        model,
        direction=model.answer_direction("True", "False"),
        name=name,
        revision=revision or fingerprint(folder),
        max_length=resolve_lengths({"image": model.config.text.max_position_embeddings}, max_length),
        max_image_tokens=max_image_tokens,
    )
