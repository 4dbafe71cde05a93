"""Checks of queries and passages, the same for every model, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence

from nemotron_rag.errors import InputError
from nemotron_rag.types import Modality, Passage, Query

__all__ = ["check_list", "check_passage", "check_query", "check_words", "text_of"]


def check_list(inputs: Sequence[object]) -> None:
    """Refuse a single string, which is a sequence too.

    Raises:
        InputError: it is one.
    """
    if isinstance(inputs, str):
        raise InputError("expected a list, got a single string; put it into a list")


def check_query(query: Query, what: str, *, reader: str, modalities: Sequence[Modality] = ("text",)) -> Query:
    """Return a query as a text, if that is all it has.

    Args:
        query: a text, or a passage.
        what: it is, for the error message.
        reader: name of the model, for the error message.
        modalities: that a query of the model may have.

    Raises:
        InputError: it is something else, or has an image and the model reads none there.
    """
    if not isinstance(query, Passage):
        check_words(query, what)
        return query
    if query.image is None:
        return query.text
    if "image" not in modalities:
        raise InputError(
            f"{what} has an image, and {reader} reads queries as words alone; give words, or take another model"
        )
    return query


def check_words(query: object, what: str) -> None:
    """Raise unless a query is a text.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(query, str):
        raise InputError(f"{what} must be a str, got {type(query).__name__}")


def check_passage(passage: Passage, index: int) -> None:
    """Raise unless the item is a passage.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(passage, Passage):
        raise InputError(f"passage {index} must be a nemotron_rag.Passage, got {type(passage).__name__}")


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
