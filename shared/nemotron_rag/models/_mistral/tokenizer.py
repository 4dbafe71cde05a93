"""Tokenize the prompts of Nemotron 3 and 3.5.

In a model with a chat template, text from users or documents is plain text: a literal ``[IMG]`` or ``<s>`` in it is
split into ordinary tokens, whether or not the template guards it. Text models without a template take such text for the
token, as the published ones do, whose vectors are met only so; there it stands for nothing that the model acts on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from nemotron_rag.errors import CheckpointError, TokenLimitError
from nemotron_rag.models._mistral.config import read_processor
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["Grid", "MistralTokenizer"]

Grid = tuple[int, int]
"""Rows and columns of an image's tokens."""

_MARK = "\ufdd0"  # a noncharacter: never part of a text that is exchanged
_IMAGE = ("image_token", "image_break_token", "image_end_token")


class MistralTokenizer:
    """Turns prompts into token ids, without padding.

    Args:
        folder: a checkpoint with a ``tokenizer.json``.
        image_token_id: token id of an image token, from config.json; None for a model that reads no images.
        is_chat: whether prompts come from a chat template.

    Raises:
        CheckpointError: the tokenizer is missing, broken, or lacks image tokens that it needs.
    """

    def __init__(self, folder: Path, *, image_token_id: int | None, is_chat: bool) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"cannot read tokenizer.json of checkpoint {folder}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._folder = folder
        self._image_ids: tuple[int, int, int] | None = None
        self._image_token: str | None = None
        if image_token_id is not None:
            self._find_image_tokens(folder, image_token_id)
        self._start, self._end = self._added_tokens()
        self._bos = _content(read_json(folder, "tokenizer_config.json", optional=True).get("bos_token"))
        self._controls: dict[str, int] = {}
        self._split: re.Pattern[str] | None = None
        if is_chat:
            self._part_controls()

    def protect(self, text: str) -> str:
        """Mark text that looks like a control token, so that `encode` tells it from a template's own."""
        if self._split is None:
            return text
        plain = text.replace(_MARK, "\ufffd")
        return self._split.sub(lambda found: f"{found[0][0]}{_MARK}{found[0][1:]}", plain)

    def encode(
        self, prompt: str, *, grid: Grid | None = None, max_length: int, index: int, ending: Sequence[int] = ()
    ) -> list[int]:
        """Tokenize a prompt, and cut its text on the right to `max_length`.

        Args:
            prompt: rendered, from texts that `protect` returned.
            grid: of its image, or None.
            max_length: most tokens, added ones and image included.
            index: of the input in the caller's list, for the error message.
            ending: last ids of the prompt, kept when its text is cut; those that the tokenizer adds always are.

        Raises:
            TokenLimitError: the image does not fit; image tokens are never cut.
            CheckpointError: the prompt has no image token where one is needed, or several.
        """
        # A template that writes the start token itself gets no second one, as in transformers.
        written = self._split is not None and self._bos and prompt.startswith(self._bos)
        start, end = ([], []) if written else (self._start, self._end)
        ids, needed, images = [*start], 0, 0
        for part in self._parts(prompt):
            if part == self._image_token and self._image_ids is not None:
                images += 1
                ids += self._image_block(grid or (0, 0))
                needed = len(ids)
            elif part in self._controls:
                ids.append(self._controls[part])
            else:
                ids += self._plain(part)
        if images != (grid is not None):
            raise CheckpointError(
                f"the chat template of checkpoint {self._folder} writes {images} image tokens "
                f"{'for an image' if grid else 'without an image'}"
            )
        if needed + len(end) > max_length:
            raise TokenLimitError(
                f"passage {index} needs {needed + len(end)} tokens for its image, max_length allows {max_length}; "
                f"raise max_length or give a smaller image"
            )
        ids += end
        tail = [*ending] or end
        return ids if len(ids) <= max_length else ids[: max(0, max_length - len(tail))] + tail

    def _parts(self, prompt: str) -> list[str]:
        """Split a prompt at its control tokens, which stay."""
        return [prompt] if self._split is None else [part for part in self._split.split(prompt) if part]

    def _plain(self, text: str) -> list[int]:
        valid = text.replace(_MARK, "") if self._split is not None else text
        valid = valid.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no encoding
        ids: list[int] = self._tokenizer.encode(valid, add_special_tokens=False).ids
        return ids

    def _image_block(self, grid: Grid) -> list[int]:
        """Rows of image tokens, each with a break after it, the last with the end."""
        assert self._image_ids is not None
        image, line_break, end = self._image_ids
        rows, columns = grid
        return ([*[image] * columns, line_break] * rows)[:-1] + [end] * (rows > 0)

    def _find_image_tokens(self, folder: Path, image_token_id: int) -> None:
        processor = read_processor(folder)
        missing = [name for name in _IMAGE if name not in processor]
        if missing:
            raise CheckpointError(f"processor_config.json of checkpoint {folder} has no {', '.join(missing)}")
        names = [_content(processor[name]) or "" for name in _IMAGE]
        ids = [self._tokenizer.token_to_id(name) for name in names]
        image, line_break, end = ids
        if image != image_token_id or line_break is None or end is None:
            raise CheckpointError(
                f"tokenizer.json of checkpoint {folder} has ids {ids} for {', '.join(names)}, "
                f"its config.json needs {image_token_id} for the first"
            )
        # Some files declare them as ordinary added tokens, which would be found in text.
        self._tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        self._image_ids, self._image_token = (image, line_break, end), names[0]

    def _part_controls(self) -> None:
        """Find control tokens by name; the library itself then splits them like any other text."""
        added: Mapping[int, AddedToken] = self._tokenizer.get_added_tokens_decoder()
        self._controls = {token.content: number for number, token in added.items() if token.special and token.content}
        if self._controls:
            longest_first = sorted(self._controls, key=len, reverse=True)
            self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._tokenizer.encode_special_tokens = True

    def _added_tokens(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after every text, as its own file says."""
        found: Any = self._tokenizer.encode("a")
        own = [place for place, added in enumerate(found.special_tokens_mask) if not added]
        return found.ids[: own[0]], found.ids[own[-1] + 1 :]


def _content(token: Any) -> str | None:
    found: str | None = token["content"] if isinstance(token, Mapping) else token
    return found
