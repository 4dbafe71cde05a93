"""How the command line opens an index that is named by a folder or a server's URL. It knows no terminal."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.qdrant import QdrantStore

__all__ = ["is_server", "open_existing", "open_index", "record", "record_of_existing"]


def is_server(location: str) -> bool:
    """Whether this is the URL of a server and not a folder."""
    return "://" in location


def open_index(location: str, collection: str, images: str | None, **settings: Any) -> PageIndex:
    """Open or make an index; unless `images` says where, a folder's pictures are beside it and a server has none."""
    beside: Literal[True] | None = None if is_server(location) else True
    return PageIndex(location, collection=collection, images=images or beside, **settings)


def open_existing(location: str, collection: str, images: str | None, **settings: Any) -> PageIndex:
    """Open an index.

    Raises:
        InputError: the folder is not there.
    """
    if not _is_there(location):
        raise _no_index(location, collection)
    return open_index(location, collection, images, **settings)


def record(location: str, collection: str) -> dict[str, Any] | None:
    """What wrote an index; None if there is none."""
    if not _is_there(location):
        return None
    with closing(QdrantStore(location, collection=collection)) as store:
        return store.read_record()


def record_of_existing(location: str, collection: str) -> dict[str, Any]:
    """What wrote an index.

    Raises:
        InputError: there is none.
    """
    found = record(location, collection)
    if found is None:
        raise _no_index(location, collection)
    return found


def _is_there(location: str) -> bool:
    return is_server(location) or Path(location).is_dir()


def _no_index(location: str, collection: str) -> InputError:
    return InputError(f"no index {collection!r} at {location}; make one with: nemotron-rag index FILES --to {location}")
