"""Deletes pages together with their pictures, in an order that survives interruptions. It knows no model."""

from __future__ import annotations

from collections.abc import Sequence

from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.stores.qdrant import QdrantStore, StoredPage, point_id

__all__ = ["remove_document", "remove_pages"]


def remove_pages(store: QdrantStore, images: PageImages | None, ids: Sequence[str], *, source: str | None) -> int:
    """Delete pages and their pictures; see `QdrantStore.remove`.

    Pictures go first: an interrupted removal leaves pages that the next one finds, never pictures that nobody does.
    """

    def remove_pictures(gone: Sequence[StoredPage]) -> None:
        for stored in gone:
            if images is not None and stored.image_key is not None:
                images.delete(point_id(stored.page.id))

    return store.remove(ids, source=source, before=remove_pictures)


def remove_document(store: QdrantStore, images: PageImages | None, source: str) -> int:
    """Delete what only this document holds; see `remove_pages`."""
    return remove_pages(store, images, [old.page.id for old in store.pages({"source": source})], source=source)
