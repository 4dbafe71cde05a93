"""Settings of a VL model, tiles and lengths, with the defaults of the model cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemotron_rag.errors import InputError
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._llama.config import VLConfig
from nemotron_rag.types import Modality

__all__ = ["DEFAULT_MAX_LENGTH", "VLSettings", "resolve_settings"]

# Tokens by modality, from the model cards of llama-nemotron-embed-vl-1b-v2 and llama-nemotron-rerank-vl-1b-v2.
DEFAULT_MAX_LENGTH: Mapping[Modality, int] = {"image": 2048, "text": 8192, "image_text": 10240}
_ROOM_FOR_TEXT = 256  # tokens: 2048 of the cards less 7 tiles of 256


@dataclass(frozen=True, slots=True)
class VLSettings:
    """How images are cut and texts are limited.

    Args:
        max_input_tiles: tiles per image, thumbnail not counted.
        use_thumbnail: whether the whole image follows its tiles as one small tile.
        max_length: tokens by modality, and under ``query`` for queries embedded on their own.
    """

    max_input_tiles: int
    use_thumbnail: bool
    max_length: Mapping[str, int]

    @property
    def identity(self) -> Mapping[str, int | bool]:
        """The settings as plain values, for a model's `identity`."""
        lengths = {f"max_length_{key}": value for key, value in self.max_length.items()}
        return {"max_input_tiles": self.max_input_tiles, "use_thumbnail": self.use_thumbnail, **lengths}


def resolve_settings(
    config: VLConfig,
    *,
    max_input_tiles: int | None,
    use_thumbnail: bool | None,
    max_length: int | Mapping[str, int] | None,
) -> VLSettings:
    """Fill in the settings that the caller did not set.

    Args:
        config: of the checkpoint.
        max_input_tiles: None for the checkpoint's default.
        use_thumbnail: None for the checkpoint's default.
        max_length: one limit for all passages, limits by ``text``, ``image``, ``image_text`` or ``query``, or None.
            The default for images grows with the tiles, so that images always fit.

    Raises:
        InputError: a number is below 1 or a key is unknown.
    """
    tiles = config.max_input_tiles if max_input_tiles is None else max_input_tiles
    if tiles < 1:
        raise InputError(f"max_input_tiles must be at least 1, got {tiles}")
    thumbnail = config.use_thumbnail if use_thumbnail is None else use_thumbnail
    image_tokens = (tiles + int(thumbnail and tiles > 1)) * config.tokens_per_tile
    limits: dict[str, int] = {
        modality: limit if modality == "text" else max(limit, image_tokens + _ROOM_FOR_TEXT)
        for modality, limit in DEFAULT_MAX_LENGTH.items()
    }
    limits["query"] = config.max_query_length
    lengths = resolve_lengths(limits, max_length)
    return VLSettings(max_input_tiles=tiles, use_thumbnail=thumbnail, max_length=lengths)
