"""Queries and passages in the shapes that models of sentence-transformers read."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from nemotron_rag._forking import Lock
from nemotron_rag.documents.held import in_parts
from nemotron_rag.documents.images import load_image, to_rgb
from nemotron_rag.documents.passages import check_list, check_passage, check_query, text_of
from nemotron_rag.errors import ImageError
from nemotron_rag.types import Modality, Passage, Query

__all__ = ["Reading", "as_passage", "lock_of"]

_THEIRS: tuple[tuple[Modality, str | tuple[str, ...]], ...] = (
    ("text", "text"),
    ("image", "image"),
    ("image_text", ("image", "text")),
)
_locks: weakref.WeakKeyDictionary[Any, Lock] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def lock_of(model: Any) -> Lock:
    """The lock of a model, the same for everything that adopts it: its tokenizer bears one thread at a time."""
    with _making:
        try:
            return _locks.setdefault(model, Lock())
        except TypeError:  # there can be no weak reference to it
            return Lock()


def as_passage(query: Query) -> Passage:
    """A query as what it holds."""
    return query if isinstance(query, Passage) else Passage(query)


class Reading:
    """Which inputs a model reads, and how it wants them.

    A text is never given where the model would take it for the address of an image: sentence-transformers opens files
    and asks servers that such a text names.

    Args:
        model: of sentence-transformers.
        name: for messages.
        modalities: that it reads; None asks the model.
    """

    def __init__(self, model: Any, *, name: str, modalities: Sequence[Modality] | None = None) -> None:
        self._name = name
        supports = getattr(model, "supports", None)
        if modalities is None:
            modalities = [ours for ours, theirs in _THEIRS if callable(supports) and supports(theirs)] or ["text"]
        self.modalities: tuple[Modality, ...] = tuple(modalities)
        self._dicts = callable(supports) and (self.images or _writes_messages(model))

    @property
    def images(self) -> bool:
        """Whether it reads any."""
        return "image" in self.modalities or "image_text" in self.modalities

    def queries(self, queries: Sequence[Query]) -> list[Passage]:
        """Queries, checked.

        Raises:
            InputError: one is neither a text nor a passage, or has an image that the model does not read.
        """
        check_list(queries)
        named = ((f"query {index}", query) for index, query in enumerate(queries))
        return [
            as_passage(check_query(query, what, reader=self._name, modalities=self.modalities)) for what, query in named
        ]

    def passages(self, passages: Sequence[Passage]) -> list[Passage]:
        """Passages, checked, and without the images of those whose text is all that the model reads.

        Raises:
            InputError: one is not a passage, or an image alone for a model that reads text.
        """
        check_list(passages)
        for index, passage in enumerate(passages):
            check_passage(passage, index)
        if self.images:
            return list(passages)
        return [Passage(text_of(passage, index=index, reader=self._name)) for index, passage in enumerate(passages)]

    def parts(self, passages: Sequence[Passage], what: str) -> Iterator[list[Any]]:
        """Inputs for the model, a bounded number of decoded images at a time.

        Args:
            passages: checked ones.
            what: they are, for messages: "passage" or "query".

        Raises:
            ImageError: an image cannot be read; the message names its index.
        """
        for part in in_parts(_decoded(passages, what), _pixels):
            yield [self._input(passage) for passage in part]

    def query(self, query: Query) -> Any:
        """The one query of a reranker, checked, as an input for the model.

        Raises:
            InputError: it is neither a text nor a passage, or has an image that the model does not read.
            ImageError: its image cannot be read.
        """
        passage = as_passage(check_query(query, "query", reader=self._name, modalities=self.modalities))
        return self._input(passage if passage.image is None else _with_image(passage, "query"))

    def _input(self, passage: Passage) -> Any:
        """One input; a model that reads an image or a text, but not both together, gets the image."""
        if passage.image is None or not self.images:
            return {"text": passage.text} if self._dicts else passage.text
        if passage.text and "image_text" in self.modalities:
            return {"image": passage.image, "text": passage.text}
        return {"image": passage.image} if self._dicts else passage.image


def _writes_messages(model: Any) -> bool:
    """Whether it makes chat messages with parts of its inputs, and so looks at what a plain text might be."""
    children = getattr(model, "children", None)
    formatters = [getattr(module, "input_formatter", None) for module in children()] if callable(children) else []
    structured = any(getattr(each, "message_format", None) == "structured" for each in formatters)
    return structured and "message" in getattr(model, "modalities", ())


def _decoded(passages: Sequence[Passage], what: str) -> Iterator[Passage]:
    for index, passage in enumerate(passages):
        try:
            yield passage if passage.image is None else _with_image(passage, f"{what} {index}")
        except ImageError as error:
            error.index = index if what == "passage" else None
            raise


def _with_image(passage: Passage, what: str) -> Passage:
    """The passage with its image decoded."""
    assert passage.image is not None
    try:
        return replace(passage, image=to_rgb(load_image(passage.image)))
    except ImageError as error:
        raise type(error)(f"{what}: {error}") from error


def _pixels(passage: Passage) -> int:
    return passage.image.width * passage.image.height if isinstance(passage.image, Image.Image) else 0
