"""Queries and passages as they go over the wire: images as data URIs, encoded a few ahead, cut by bytes."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from nemotron_rag.documents.files import name_of
from nemotron_rag.documents.held import holding_images
from nemotron_rag.documents.images import ImageText, load_image, read_image_bytes, to_data_uri, to_rgb
from nemotron_rag.documents.llm_images import as_it_is
from nemotron_rag.errors import ImageError
from nemotron_rag.types import ImageSource, Modality, Passage, Query

__all__ = ["Input", "as_input", "batches", "encoded", "halves"]

_AHEAD = 4  # inputs that are encoded while others are sent
_FRAME = 100  # bytes of JSON around an input
_MODES = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA"), "JPEG": ("L", "RGB")}  # those that every server decodes alike


@dataclass(frozen=True, slots=True)
class Input:
    """A query or passage, ready to be sent.

    Args:
        text: may be empty.
        image: a data URI; None without an image.
    """

    text: str
    image: ImageText | None = field(default=None, repr=False)

    @property
    def modality(self) -> Modality:
        """What it holds."""
        return "text" if self.image is None else "image_text" if self.text else "image"

    @property
    def bytes(self) -> int:
        """About what it adds to a request."""
        return _FRAME + len(self.text.encode("utf-8", "replace")) + (0 if self.image is None else len(self.image))


def as_input(given: Query) -> Input:
    """Encode the image: a PNG or JPEG file that is upright goes as it is, all others without loss.

    Raises:
        ImageError: it cannot be read.
    """
    if not isinstance(given, Passage):
        return Input(given)
    return Input(given.text, None if given.image is None else _data_uri(given.image))


async def encoded(given: Sequence[Query], what: str, check: Callable[[int], Query]) -> AsyncIterator[Input]:
    """The inputs, in order, a few of them encoded ahead in other threads.

    Args:
        given: queries or passages.
        what: they are, for messages.
        check: the input of an index, checked.

    Raises:
        InputError: of `check`.
        ImageError: an image cannot be read; the message names its index.
    """
    ahead = deque[tuple[int, asyncio.Task[Input]]]()
    try:
        for index in range(len(given)):
            ahead.append((index, asyncio.create_task(_one(check(index)))))
            if len(ahead) > _AHEAD:
                yield await _named(what, *ahead.popleft())
        while ahead:
            yield await _named(what, *ahead.popleft())
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)


async def batches(
    inputs: AsyncIterator[Input], *, most: int, most_bytes: int, together: Callable[[Input, Input], bool]
) -> AsyncIterator[list[Input]]:
    """Cut inputs into batches; one that is larger than allowed is alone.

    Args:
        inputs: in order.
        most: inputs of a batch.
        most_bytes: of a batch.
        together: whether two inputs may be in one batch.
    """
    batch, size = list[Input](), 0
    async for each in inputs:
        full = len(batch) == most or size + each.bytes > most_bytes
        if batch and (full or not together(batch[0], each)):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.bytes
    if batch:
        yield batch


def halves(batch: Sequence[Input]) -> Iterator[Sequence[Input]]:
    """The two halves of a batch."""
    middle = len(batch) // 2
    yield batch[:middle]
    yield batch[middle:]


async def _one(given: Query) -> Input:
    if isinstance(given, Passage) and given.image is not None:
        return await asyncio.to_thread(as_input, given)
    return as_input(given)


async def _named(what: str, index: int, task: asyncio.Task[Input]) -> Input:
    try:
        return await task
    except ImageError as error:
        raise error.at(index, what=what) from error


def _data_uri(source: ImageSource) -> ImageText:
    with holding_images():
        data = read_image_bytes(source)
        try:
            image = load_image(source if data is None else data)
        except ImageError as error:
            raise type(error)(str(error).replace("<bytes>", name_of(source), 1)) from error
        found = None if data is None else as_it_is(data, _MODES, transparent=True)
        if found is not None:
            return found.data_uri
        file = io.BytesIO()
        kept = image if image.mode in _MODES["PNG"] else to_rgb(image)
        kept.save(file, format="png", compress_level=1)  # see `encode_image`, which drops what is transparent
        return to_data_uri(file.getvalue(), "png")
