"""Open an index by its folder or server URL."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Literal

from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.qdrant import QdrantStore

__all__ = ["images_argument", "open_existing", "record", "record_of_existing"]


def images_argument(images: str | None) -> str | Literal[True] | None:
    """Convert ``--images`` for `PageIndex`: by default beside the index, "none" for nowhere."""
    return True if images is None else None if images == "none" else images


def open_existing(location: str, collection: str, images: str | None, **settings: Any) -> PageIndex:
    """Open an existing index.

    Raises:
        InputError: it does not exist.
    """
    record_of_existing(location, collection)
    return PageIndex(location, collection=collection, images=images_argument(images), create=False, **settings)


def record(location: str, collection: str) -> dict[str, Any] | None:
    """Read the record of an index; None if it does not exist."""
    with closing(QdrantStore(location, collection=collection)) as store:
        return store.read_record()


def record_of_existing(location: str, collection: str) -> dict[str, Any]:
    """Read the record of an existing index.

    Raises:
        InputError: it does not exist.
    """
    found = record(location, collection)
    if found is None:
        raise InputError(
            f"no index {collection!r} at {location}; make one with: nemotron-rag index FILES --to {location}"
        )
    return found
