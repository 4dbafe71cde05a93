"""Embedded pages -> store and image files; a page that the store refuses costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from nemotron_rag.batch.pages import NewPage
from nemotron_rag.errors import InputError, RefusedError
from nemotron_rag.protocols import PageStore
from nemotron_rag.stores.page_images import PageImages, StoredImage
from nemotron_rag.types import PageVectors, StoredPage, page_uuid

__all__ = ["PageWriter", "Refused"]

Refused: TypeAlias = tuple[NewPage, Exception]


class PageWriter:
    """Writes batches of pages, images first: a stored page always has its image.

    Args:
        store: where pages go.
        images: where their images go; None for nowhere.
        raises: raise what the store says of a page instead of reporting it.
    """

    def __init__(self, store: PageStore, images: PageImages | None, *, raises: bool = False) -> None:
        self._store, self._images, self._raises = store, images, raises
        self.added = 0
        """Pages written so far."""

    def write(
        self,
        pages: Sequence[NewPage],
        vectors: Sequence[PageVectors],
        *,
        map: Callable[[Callable[[NewPage], Any], Sequence[NewPage]], Iterable[Any]] = map,
    ) -> list[Refused]:
        """Write a batch; it is acknowledged when this returns.

        Args:
            pages: n pages.
            vectors: n arrays; row i belongs to page i.
            map: of a thread pool, for the images.

        Returns:
            The pages that the store refuses, with what it says.

        Raises:
            StoreError: the store cannot be reached, or refuses every page.
        """
        if not pages:
            return []
        stored = [new.stored(image) for new, image in zip(pages, self._write_images(pages, map), strict=True)]
        try:
            self._store.put(stored, vectors)
        except (RefusedError, InputError) as error:  # it may be for one page; the others must not suffer
            if self._raises:
                raise
            return self._one_by_one(pages, stored, vectors, error)
        self.added += len(pages)
        return []

    def _one_by_one(
        self, pages: Sequence[NewPage], stored: Sequence[StoredPage], vectors: Sequence[PageVectors], last: Exception
    ) -> list[Refused]:
        refused: list[Refused] = []
        for new, page, rows in zip(pages, stored, vectors, strict=True):
            try:
                self._store.put([page], [rows])
                self.added += 1
            except (RefusedError, InputError) as error:
                last = error
                refused.append((new, error))
                if self._images is not None and not new.replaces:
                    self._images.delete(page_uuid(new.page.id))
        if not self.added:
            raise last  # not one page got through: the index is at fault, or the request, not the pages
        return refused

    def _write_images(self, pages: Sequence[NewPage], map: Callable[..., Iterable[Any]]) -> Iterable[Any]:
        if self._images is None or not any(new.page.image is not None or new.replaces for new in pages):
            return [None] * len(pages)
        return map(self._write_image, pages)

    def _write_image(self, new: NewPage) -> StoredImage | None:
        if self._images is None:
            return None
        page_id = page_uuid(new.page.id)
        if new.page.image is not None:
            image = self._images.write(page_id, new.page.image)
            if new.page.word_boxes is not None or new.replaces:
                self._images.write_words(page_id, new.page.word_boxes)
            return image
        if new.replaces:
            self._images.delete(page_id)
        return None
