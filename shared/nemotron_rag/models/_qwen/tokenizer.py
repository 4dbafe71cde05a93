"""Tokenize the prompts of Qwen-VL models.

Text from users or documents is plain text: a literal ``<|image_pad|>`` or ``<|im_end|>`` in it is split into
ordinary tokens. (The published processors read such text as control tokens.) `QwenTokenizer.as_published` is for a
query that is embedded alone: it can change nobody's vector but its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer

from nemotron_rag.errors import CheckpointError, TokenLimitError

__all__ = ["Control", "Image", "Part", "QwenTokenizer"]

_IMAGE = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_CONTROLS = (*_IMAGE, "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Control:
    """A control token in a prompt, by its name.

    Args:
        name: for example ``<|im_start|>``.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a prompt.

    Args:
        grid: rows and columns of its image tokens.
        key: cache key of its vision features.
        pixels: (height, width, 3) uint8, resized or not yet; None if `features` are cached.
        features: cached features, or None.
    """

    grid: tuple[int, int]
    key: bytes = b""
    pixels: torch.Tensor | None = None
    features: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return self.grid[0] * self.grid[1]


Part: TypeAlias = str | int | Control | Image
"""A part of a prompt: plain text, a token id, a control token, or an image."""


class QwenTokenizer:
    """Turns prompts into token ids, without added tokens or padding.

    Args:
        folder: a checkpoint with a ``tokenizer.json``.
        image_token_id: token id of an image token, from config.json.

    Raises:
        CheckpointError: the tokenizer is missing, broken, or lacks a control token.
    """

    def __init__(self, folder: Path, *, image_token_id: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"cannot read tokenizer.json of checkpoint {folder}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {
            token.content: i for i, token in added.items() if token.special and not _of_images(token.content)
        }
        self._controls = {name: self.token_id(name) for name in _CONTROLS}
        if self._controls[_IMAGE[1]] != image_token_id:
            raise CheckpointError(
                f"tokenizer.json of checkpoint {folder} has id {self._controls[_IMAGE[1]]} for {_IMAGE[1]}, "
                f"its config.json needs {image_token_id}"
            )
        # Some files declare them as ordinary added tokens, which would be found in text.
        self._tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _CONTROLS])
        self._tokenizer.encode_special_tokens = True  # special tokens inside text are split like any other text

    def token_id(self, token: str) -> int:
        """Return the id of a token.

        Raises:
            CheckpointError: it is not in the vocabulary.
        """
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(
                f"the checkpoint's tokenizer.json has no token {token!r}; expected the tokenizer of a Qwen-VL model"
            )
        return int(found)

    def cut(self, text: str, max_tokens: int) -> str:
        """Cut a text to its first `max_tokens` tokens."""
        found = self._encode(text)
        return text if len(found) <= max_tokens else _valid(text)[: found.offsets[max_tokens - 1][1]]

    def as_published(self, text: str) -> list[Part]:
        """Split a text as the published tokenizer does: control tokens are control tokens, save those of images."""
        if not self._special:
            return [text]
        longest_first = sorted(self._special, key=len, reverse=True)
        pieces = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        return [self._special.get(piece, piece) for piece in pieces if piece]

    def encode(
        self, parts: Sequence[Part], *, ending: Sequence[Part], max_length: int, index: int, what: str = "passage"
    ) -> list[int]:
        """Tokenize a prompt, and cut it on the right to `max_length`.

        Args:
            parts: of the prompt.
            ending: last parts, which are never cut.
            max_length: most tokens, images and ending included.
            index: of the input in the caller's list, for the error message.
            what: the input is, for the error message.

        Raises:
            TokenLimitError: an image does not fit; image tokens are never cut.
        """
        last = [i for part in ending for i in self._ids(part)]
        room = max_length - len(last)
        ids: list[int] = []
        needed = 0
        for part in _joined(parts):
            ids += self._ids(part)
            needed = len(ids) if isinstance(part, Image) else needed
        if needed > room or room < 1:
            raise _too_long(f"{what} {index}", max(needed, 1) + len(last), max_length)
        return ids[:room] + last

    def encode_keeping(self, parts: Sequence[Part], *, last: int, max_length: int, index: int) -> list[int]:
        """Tokenize a prompt, and cut its texts so that `max_length` tokens stand before the last ones.

        Args:
            parts: of the prompt. Control and image tokens are never cut; of the texts, the last tokens are cut first.
            last: how many tokens at the end are never cut either.
            max_length: most tokens before these.
            index: of the passage in the caller's list, for the error message.

        Raises:
            TokenLimitError: tokens that are never left out are too many.
        """
        ids: list[int] = []
        is_text: list[bool] = []
        for part in _joined(parts):
            found = self._ids(part)
            ids += found
            is_text += [isinstance(part, str)] * len(found)
        left = max_length - is_text[:-last].count(False)  # room for texts
        if left < 1:
            raise _too_long(f"passage {index}", max_length - left + 1, max_length)
        is_text[-last:] = [False] * last
        rank = np.cumsum(is_text)
        return [i for i, text, place in zip(ids, is_text, rank.tolist(), strict=True) if not text or place <= left]

    def spans(self, parts: Sequence[Part], text: str, *, holder: int, max_length: int) -> NDArray[np.int64]:
        """Return the span of a text that each token of `encode` stands for, in a prompt without an ending.

        Args:
            parts: of the prompt.
            text: whose characters are counted; one part ends with it.
            holder: index of that part.
            max_length: as for `encode`.

        Returns:
            (tokens, 2) int64: half-open spans [start, end) of `text`; empty ones for other tokens.
        """
        before = sum(len(self._ids(part)) for part in parts[:holder])
        after = sum(len(self._ids(part)) for part in parts[holder + 1 :])
        part = str(parts[holder])
        offsets = np.array(self._encode(part).offsets).reshape(-1, 2) - (len(part) - len(text))
        return np.pad(offsets.clip(min=0), ((before, after), (0, 0)))[:max_length]

    def _ids(self, part: Part) -> list[int]:
        if isinstance(part, int):
            return [part]
        if isinstance(part, Control):
            return [self._controls[part.name]]
        if isinstance(part, Image):
            start, image, end = (self._controls[name] for name in _IMAGE)
            return [start, *[image] * part.tokens, end]
        ids: list[int] = self._encode(part).ids
        return ids

    def _encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(_valid(text), add_special_tokens=False)


def _joined(parts: Iterable[Part]) -> list[Part]:
    """The parts with neighbouring texts put together: they are one for the tokenizer."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _of_images(token: str) -> bool:
    return token.startswith(("<|vision_", "<|image_", "<|video_"))


def _too_long(what: str, needed: int, max_length: int) -> TokenLimitError:
    return TokenLimitError(
        f"{what} needs at least {needed} tokens, max_length leaves it {max_length}; "
        "raise max_length or give a smaller image"
    )


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no encoding
