"""Qwen3-VL-Embedding: one vector for a text, a page image, or both, with an instruction that says what for.

Prompt, lengths, pixels and pooling are those of the published `Qwen3VLEmbedder`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemotron_rag.models._base.embedder import SingleVectorModel
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._qwen.model import QwenInput, QwenModel, load_qwen_model
from nemotron_rag.models._qwen.pixels import MAX_IMAGE_TOKENS, blend_alpha, within_tokens
from nemotron_rag.models._qwen.tokenizer import Control, Image, Part
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Modality, Passage

__all__ = ["Qwen3VLEmbed", "embed_instruction", "embed_prompt", "load"]

_START, _END = Control("<|im_start|>"), Control("<|im_end|>")
_INSTRUCTION = "Represent the user's input."
_MAX_LENGTH = 8192


class Qwen3VLEmbed(SingleVectorModel[QwenModel]):
    """An `Embedder` over a Qwen3-VL-Embedding checkpoint; `nemotron_rag.load_embedder` makes it.

    A query may be a text, an image, or both. Only its instruction distinguishes it from a passage, which has the
    published default; without ``instruction=`` queries of a folder have that too. Named by its catalog id, the model
    embeds queries as the authors do for a search: ``Retrieve images or text relevant to the user's query.``

    Its files are those of plain Qwen3-VL, so that a folder of plain Qwen3-VL is loaded as this model too. A literal
    ``<|im_end|>`` in a query of words is the control token, as the published tokenizer has it; in a passage, and in a
    query with an image, it is plain text, as those of images are anywhere.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens by modality, and under ``query`` for queries.
        max_image_tokens: larger images are shrunk.
        instruction: of queries.
        dimensions: length of the vectors (Matryoshka: the first ones, normalised again); None for all of them.

    Example:
        >>> from nemotron_rag import Passage, load_embedder
        >>> embedder = load_embedder("Qwen3-VL-Embedding-2B", dimensions=1024)  # doctest: +SKIP
        >>> embedder.embed_queries(["Where do tornadoes form?", Passage(image="photo.png")]).shape  # doctest: +SKIP
        (2, 1024)
    """

    query_modalities: tuple[Modality, ...] = ("text", "image", "image_text")

    def __init__(
        self,
        model: QwenModel,
        *,
        name: str,
        revision: str,
        max_length: Mapping[str, int],
        max_image_tokens: int,
        instruction: str,
        dimensions: int | None = None,
    ) -> None:
        super().__init__(model, name=name, full=model.config.text.hidden_size, dimensions=dimensions)
        self._revision = revision
        self._max_length = max_length
        self._max_image_tokens = max_image_tokens
        self._pixels = within_tokens(model.config.pixels, max_image_tokens)
        self._instruction = embed_instruction(instruction)

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are; of passages, all but the instruction."""
        return {
            "family": "qwen3_vl_embed",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": "last",
            "instruction": self._instruction,
            "max_image_tokens": self._max_image_tokens,
            **{f"max_length_{key}": value for key, value in self._max_length.items()},
        }

    def _prepare_query(self, model: QwenModel, query: str, index: int) -> QwenInput:
        parts = embed_prompt(self._instruction, model.tokenizer.as_published(query))
        return model.prepare(parts, max_length=self._max_length["query"], index=index)

    def _prepare_image_query(self, model: QwenModel, query: Passage, index: int) -> QwenInput:
        return self._prepare(model, query, self._instruction, length="query", index=index, what="query")

    def _prepare_passage(self, model: QwenModel, passage: Passage, index: int) -> QwenInput:
        return self._prepare(model, passage, _INSTRUCTION, length=passage.modality, index=index, what="passage")

    def _prepare(
        self, model: QwenModel, passage: Passage, instruction: str, *, length: str, index: int, what: str
    ) -> QwenInput:
        image = model.image(passage, index=index, what=what, pixels=self._pixels, convert=blend_alpha)
        parts = embed_prompt(instruction, [passage.text], image)
        return model.prepare(parts, max_length=self._max_length[length], index=index, what=what)


def embed_instruction(instruction: str) -> str:
    """Return an instruction as it is published to be written: stripped, with a full stop, the default if empty."""
    stripped = instruction.strip() or _INSTRUCTION
    return stripped if unicodedata.category(stripped[-1]).startswith("P") else f"{stripped}."


def embed_prompt(instruction: str, text: Sequence[Part], image: Image | None = None) -> list[Part]:
    """Build the published prompt: the image before the text."""
    content = [*([] if image is None else [image]), *text]
    system: list[Part] = [_START, f"system\n{instruction}", _END, "\n"]
    return [*system, _START, "user\n", *content, _END, "\n", _START, "assistant\n"]


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    dimensions: int | None = None,
    max_length: int | Mapping[str, int] | None = None,
    max_image_tokens: int | None = None,
    instruction: str | None = None,
) -> Qwen3VLEmbed:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_embedder` explains the arguments."""
    lengths = resolve_lengths(dict.fromkeys(("text", "image", "image_text", "query"), _MAX_LENGTH), max_length)
    model = load_qwen_model(folder, generation=3, pooling="last", device=device, dtype=dtype)
    return Qwen3VLEmbed(
        model,
        name=name,
        revision=revision or fingerprint(folder),
        max_length=lengths,
        max_image_tokens=max_image_tokens or MAX_IMAGE_TOKENS,
        instruction=instruction or _INSTRUCTION,
        dimensions=dimensions,
    )
