"""A page on its way into an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.types import Failure, ImageSource, Page, PageFile, StoredPage, WordBoxes

__all__ = ["NewPage"]


@dataclass(frozen=True, slots=True)
class NewPage:
    """A page to embed and write.

    Args:
        page: with the metadata of its content.
        content_hash: see `StoredPage`.
        metadata: of the document, over those of the content; None if the page came alone and all of it is its own.
        replaces: whether another page of its id is stored.
        others: other documents that hold it, with all of their metadata.
    """

    page: Page
    content_hash: str
    metadata: Mapping[str, Any] | None = None
    replaces: bool = False
    others: tuple[PageFile, ...] = ()

    @classmethod
    def of_stored(
        cls, stored: StoredPage, image: ImageSource | None, words: WordBoxes | None = None, *, replaces: bool = False
    ) -> NewPage:
        """A page that is stored somewhere, to be stored elsewhere.

        Args:
            stored: with its text.
            image: of it.
            words: where its words stand.
            replaces: see the class.
        """
        first, *others = stored.files
        page = replace(
            stored.page, source=first.source, image=image, metadata=stored.content_metadata, word_boxes=words
        )
        return cls(page, stored.content_hash, first.metadata, replaces, tuple(others))

    def failure(self, error: Exception) -> Failure:
        """The failure that an error about this page means."""
        return Failure.of(self.page.source, error, self.page.number)

    def stored(self, image: StoredImage | None) -> StoredPage:
        """As a store keeps it."""
        stored = StoredPage.of(self.page, content_hash=self.content_hash, metadata=self.metadata)
        for file in self.others:
            stored = stored.with_source(file.source, file.metadata)
        if image is None:
            return stored
        return replace(stored, image_key=image.key, image_size=image.size, image_hash=image.pixel_hash)
