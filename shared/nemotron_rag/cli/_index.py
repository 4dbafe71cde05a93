"""Open an index by its folder or server URL."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Literal, Unpack

from nemotron_rag.batch.parquet import ParquetStage, is_stage
from nemotron_rag.cli._options import Place
from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.qdrant import QdrantStore

__all__ = ["engine", "images_argument", "open_existing", "record", "record_of_existing", "salvage"]


def images_argument(images: str | None) -> str | Literal[True] | None:
    """Convert ``--images`` for `PageIndex`: by default beside the index, "none" for nowhere."""
    return True if images is None else None if images == "none" else images


def open_existing(location: str, collection: str, images: str | None, place: Place, **settings: Any) -> PageIndex:
    """Open an existing index.

    Args:
        location: its folder or url.
        collection: its name.
        images: as ``--images`` has it.
        place: how the server is reached, and whose pages are meant.
        **settings: of `PageIndex`.

    Raises:
        InputError: it does not exist.
    """
    record_of_existing(location, collection, **place)
    where = images_argument(images)
    return PageIndex(location, collection=collection, images=where, create=False, **place, **settings)


def record(location: str, collection: str, **place: Unpack[Place]) -> dict[str, Any] | None:
    """Read the record of an index, or of a stage; None if it does not exist."""
    if is_stage(location):
        return ParquetStage(location).read_record()
    with closing(QdrantStore(location, collection=collection, **place)) as store:
        return store.read_record()


def engine(location: str) -> str:
    """What computes at a place: Qdrant Edge, qdrant-client's local mode, a server, or nothing."""
    if is_stage(location):
        return "nothing, a stage of Parquet files"
    with closing(QdrantStore(location)) as store:
        return {"edge": "Qdrant Edge", "local": "qdrant-client, local mode", "server": "a server"}[store.engine]


def salvage(location: str, collection: str, place: Place) -> list[str]:
    """Put aside damaged files that keep an index from being opened; returns what was."""
    with closing(QdrantStore(location, collection=collection, **place)) as store:
        return store.salvage()


def record_of_existing(location: str, collection: str, **place: Unpack[Place]) -> dict[str, Any]:
    """Read the record of an existing index.

    Raises:
        InputError: it does not exist.
    """
    found = record(location, collection, **place)
    if found is None:
        raise InputError(
            f"no index {collection!r} at {location}; make one with: nemotron-rag index FILES --to {location}"
        )
    return found
