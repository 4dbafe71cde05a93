"""Open an index by its folder or server URL."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Literal, Unpack

from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.stores.server import ConnectionOptions

__all__ = ["engine", "images_argument", "open_existing", "record", "record_of_existing"]


def images_argument(images: str | None) -> str | Literal[True] | None:
    """Convert ``--images`` for `PageIndex`: by default beside the index, "none" for nowhere."""
    return True if images is None else None if images == "none" else images


def open_existing(
    location: str, collection: str, images: str | None, connection: ConnectionOptions, **settings: Any
) -> PageIndex:
    """Open an existing index.

    Raises:
        InputError: it does not exist.
    """
    record_of_existing(location, collection, **connection)
    place = images_argument(images)
    return PageIndex(location, collection=collection, images=place, create=False, **connection, **settings)


def record(location: str, collection: str, **connection: Unpack[ConnectionOptions]) -> dict[str, Any] | None:
    """Read the record of an index; None if it does not exist."""
    with closing(QdrantStore(location, collection=collection, **connection)) as store:
        return store.read_record()


def engine(location: str) -> str:
    """What computes at a place: Qdrant Edge, qdrant-client's local mode, or a server."""
    with closing(QdrantStore(location)) as store:
        return {"edge": "Qdrant Edge", "local": "qdrant-client, local mode", "server": "a server"}[store.engine]


def record_of_existing(location: str, collection: str, **connection: Unpack[ConnectionOptions]) -> dict[str, Any]:
    """Read the record of an existing index.

    Raises:
        InputError: it does not exist.
    """
    found = record(location, collection, **connection)
    if found is None:
        raise InputError(
            f"no index {collection!r} at {location}; make one with: nemotron-rag index FILES --to {location}"
        )
    return found
