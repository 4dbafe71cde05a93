"""Nemotron ColEmbed V2 on Qwen3-VL: one vector for each token of a query, a page image, or a text.

Prompts and lengths are those of the published `Qwen3VLNemotronEmbedProcessor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.late_interaction.boxes import grid_boxes, place_boxes
from nemotron_rag.models._base.embedder import MultiVectorModel
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._qwen.model import QwenInput, QwenModel, load_qwen_model
from nemotron_rag.models._qwen.pixels import shrunk
from nemotron_rag.models._qwen.tokenizer import Control, Image, Part
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["NemotronColEmbedQwen3VL", "load", "passage_prompt", "query_prompt"]

_START, _END = Control("<|im_start|>"), Control("<|im_end|>")
# Defaults of the published processor class.
_QUERY_LENGTH, _PASSAGE_LENGTH, _RESERVED = 512, 4096, 100
_TURN_END: tuple[Part, ...] = (_END, "\n", _START, "assistant\n")


class NemotronColEmbedQwen3VL(MultiVectorModel[QwenModel]):
    """A `MultiVectorEmbedder` over a nemotron-colembed-vl-4b-v2 or -8b-v2 checkpoint.

    `nemotron_rag.load_multivector_embedder` makes it. Vectors are the last layer's output before the final norm, each
    of length 1, from attention in both directions. All tokens have one, those of the prompt too.

    For a passage with an image, `max_length` is reduced by the image's tokens and by 100 more, as in the published
    processor. A text alone, which that processor does not take, uses the same prompt.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens by modality, and under ``query`` for queries.
        max_image_tokens: larger images are shrunk; None for what the checkpoint's files say.

    Example:
        >>> from nemotron_rag import Passage, load_multivector_embedder
        >>> embedder = load_multivector_embedder("nemotron-colembed-vl-4b-v2")  # doctest: +SKIP
        >>> embedder.embed_queries(["Where do tornadoes form?"])[0].shape[1]  # doctest: +SKIP
        2560
    """

    def __init__(
        self,
        model: QwenModel,
        *,
        name: str,
        revision: str,
        max_length: Mapping[str, int],
        max_image_tokens: int | None = None,
    ) -> None:
        super().__init__(model, name=name, dimensions=model.config.text.hidden_size)
        self._revision = revision
        self._max_length = max_length
        self._max_image_tokens = max_image_tokens
        self._pixels = shrunk(model.config.pixels, max_image_tokens)
        self._processor = model.config.processor

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are."""
        lengths = {f"max_length_{key}": value for key, value in self._max_length.items()}
        return {
            "family": "nemotron_colembed_qwen3_vl",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": "colbert",
            **({} if self._max_image_tokens is None else {"max_image_tokens": self._max_image_tokens}),
            **lengths,
        }

    def _prepare_query(self, model: QwenModel, query: str, index: int) -> QwenInput:
        return model.prepare(self._query_parts(query), max_length=self._max_length["query"], index=index)

    def _prepare_passage(self, model: QwenModel, passage: Passage, index: int) -> QwenInput:
        image = model.image(passage, index=index, pixels=self._pixels)
        parts = passage_prompt(self._processor.get("passage_prefix", "passage:"), passage.text, image)
        room = self._max_length[passage.modality]
        if image is not None:
            room -= image.tokens + int(self._processor.get("reserve_tokens_for_images", _RESERVED))
        return model.prepare(parts, max_length=room, index=index)

    def _query_spans(self, model: QwenModel, query: str, index: int) -> NDArray[np.int64]:
        limit = self._max_length["query"]
        return model.tokenizer.spans(self._query_parts(query), query, holder=1, max_length=limit)

    def _passage_boxes(self, model: QwenModel, passage: Passage, index: int) -> FloatArray:
        item = self._prepare_passage(model, passage, index)
        in_image = np.array(item.ids) == model.config.image_token_id
        boxes = [grid_boxes(image.grid[1], image.grid[0]) for image in item.images]
        return place_boxes(in_image, np.concatenate(boxes) if boxes else np.empty((0, 4), np.float32))

    def _query_parts(self, query: str) -> list[Part]:
        return query_prompt(self._processor.get("query_prefix", "query:"), query)


def query_prompt(prefix: str, query: str) -> list[Part]:
    """Build the published prompt of a query; "Query: query:" is no mistake.

    Args:
        prefix: ``query:``.
        query: the text.
    """
    return [_START, f"user\nQuery: {prefix} {query}", *_TURN_END]


def passage_prompt(prefix: str, text: str, image: Image | None) -> list[Part]:
    """Build the published prompt of a passage: image, then text; the space stays when the text is empty.

    Args:
        prefix: ``passage:``.
        text: may be empty.
        image: None for a text alone.
    """
    words = f"{prefix} {text}"
    turn: list[Part] = [f"user\n{words}"] if image is None else ["user\n", image, words]
    return [_START, *turn, *_TURN_END]


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_length: int | Mapping[str, int] | None = None,
    max_image_tokens: int | None = None,
) -> NemotronColEmbedQwen3VL:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_multivector_embedder` explains the arguments."""
    model = load_qwen_model(folder, generation=3, pooling="colbert", device=device, dtype=dtype)
    processor = model.config.processor
    passage = int(processor.get("p_max_length") or _PASSAGE_LENGTH)
    defaults = {"text": passage, "image": passage, "image_text": passage}
    defaults["query"] = int(processor.get("q_max_length") or _QUERY_LENGTH)
    limits = resolve_lengths(defaults, max_length)
    return NemotronColEmbedQwen3VL(
        model,
        name=name,
        revision=revision or fingerprint(folder),
        max_length=limits,
        max_image_tokens=max_image_tokens,
    )
