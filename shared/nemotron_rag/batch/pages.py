"""A page on its way into an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.types import Failure, Page, StoredPage

__all__ = ["NewPage"]


@dataclass(frozen=True, slots=True)
class NewPage:
    """A page to embed and write.

    Args:
        page: with the metadata of its content.
        content_hash: see `StoredPage`.
        metadata: of the document, over those of the content; None if the page came alone and all of it is its own.
        replaces: whether another page of its id is stored.
    """

    page: Page
    content_hash: str
    metadata: Mapping[str, Any] | None = None
    replaces: bool = False

    def failure(self, error: Exception) -> Failure:
        """The failure that an error about this page means."""
        return Failure.of(self.page.source, error, self.page.number)

    def stored(self, image: StoredImage | None) -> StoredPage:
        """As a store keeps it."""
        stored = StoredPage.of(self.page, content_hash=self.content_hash, metadata=self.metadata)
        if image is None:
            return stored
        return replace(stored, image_key=image.key, image_size=image.size, image_hash=image.pixel_hash)
