"""Tokenize the prompts of Llama-Nemotron models.

Text from users or documents is plain text: a literal ``<IMG_CONTEXT>`` or ``<|end_of_text|>`` in it is split into
ordinary tokens. (The published processors read such text as control tokens, or delete it.)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from nemotron_rag.errors import CheckpointError, InputError, TokenLimitError

__all__ = ["Prompt", "PromptTokenizer"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text with at most one image in it.

    Args:
        before: text before the image, or all the text without an image.
        image_tokens: number of image tokens; 0 without an image.
        after: text after the image.
    """

    before: str
    image_tokens: int = 0
    after: str = ""


class PromptTokenizer:
    """Turns prompts into token ids that begin with the start-of-text token, without padding.

    Args:
        folder: a checkpoint with a ``tokenizer.json``.
        image_context_id: token id of an image token; None for a model that reads no images.

    Raises:
        CheckpointError: the tokenizer is missing, broken, or lacks image tokens that it needs.
    """

    def __init__(self, folder: Path, *, image_context_id: int | None = None) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"cannot read tokenizer.json of checkpoint {folder}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # special tokens inside text are split like any other text
        self._start: list[int] = self._tokenizer.encode("").ids
        self._image_ids = None if image_context_id is None else self._find_image_ids(folder, image_context_id)

    def encode(self, prompt: Prompt, *, max_length: int, index: int) -> list[int]:
        """Tokenize a prompt, and cut its text on the right to `max_length`.

        Args:
            prompt: to tokenize.
            max_length: most tokens, start token and image included.
            index: of the input in the caller's list, for the error message.

        Raises:
            TokenLimitError: the image does not fit; image tokens are never cut.
        """
        ids = self._start + self._encode(prompt.before).ids
        if prompt.image_tokens:
            ids += self._image_block(prompt.image_tokens)
            if len(ids) > max_length:
                raise TokenLimitError(
                    f"passage {index} needs {len(ids)} tokens for its image, max_length allows {max_length}; "
                    f"raise max_length or lower max_input_tiles"
                )
            ids += self._encode(prompt.after).ids
        return ids[:max_length]

    def spans(self, prompt: Prompt, text: str, *, max_length: int) -> NDArray[np.int64]:
        """Return the span of a text that each token of `encode` stands for, in a prompt without an image.

        Args:
            prompt: the prompt, which ends with `text`.
            text: whose characters are counted.
            max_length: as for `encode`.

        Returns:
            (tokens, 2) int64: half-open spans [start, end) of `text`; empty ones for other tokens.
        """
        offsets = [(0, 0)] * len(self._start) + self._encode(prompt.before).offsets
        counted = np.array(offsets[:max_length]).reshape(-1, 2) - (len(prompt.before) - len(text))
        return counted.clip(min=0)

    def _image_block(self, tokens: int) -> list[int]:
        if self._image_ids is None:
            raise InputError("this tokenizer has no image tokens; give a prompt without an image")
        start, context, end = self._image_ids
        return [start, *[context] * tokens, end]

    def _find_image_ids(self, folder: Path, context: int) -> tuple[int, int, int]:
        start, end = (self._tokenizer.token_to_id(token) for token in ("<img>", "</img>"))
        if start is None or end is None:
            raise CheckpointError(f"tokenizer.json of checkpoint {folder} has no <img> and </img> tokens")
        return start, context, end

    def _encode(self, text: str) -> Encoding:
        valid = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no encoding
        return self._tokenizer.encode(valid, add_special_tokens=False)
