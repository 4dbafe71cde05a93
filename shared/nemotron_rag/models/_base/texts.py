"""The text of a passage, for models that read no images."""

from __future__ import annotations

from nemotron_rag.errors import InputError
from nemotron_rag.types import Passage

__all__ = ["text_of"]


def text_of(passage: Passage, *, index: int, reader: str) -> str:
    """Return the text of a passage, for a model that reads text only.

    The image of a passage with text is ignored. An image alone is an error, since all such passages would be embedded
    as the same empty text.

    Args:
        passage: with text.
        index: of the passage in the caller's list, for the error message.
        reader: name of the model, for the error message.

    Raises:
        InputError: the passage is an image without text.
    """
    if passage.image is not None and not passage.text.strip():
        raise InputError(
            f"passage {index} is an image without text, and {reader} reads text only; "
            f"give its text (OCR finds it), or use a model that reads images"
        )
    return passage.text
