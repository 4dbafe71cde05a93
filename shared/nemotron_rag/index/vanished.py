"""Documents of an index that are no longer in the place from which they were added."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron_rag.documents.urls import check_url, is_url, local_path, url_below, url_exists
from nemotron_rag.errors import InputError
from nemotron_rag.index.found_sources import clean_source
from nemotron_rag.protocols import PageStore
from nemotron_rag.types import Page

__all__ = ["check_places", "places_of", "vanished"]

Place = str | os.PathLike[str]


def places_of(sources: Place | Iterable[Place]) -> list[Place]:
    """The files, folders and URLs that the caller named.

    Raises:
        InputError: something else is among them: a feed of pages does not say what is missing from it. Or a URL cannot
            be used.
    """
    places: list[Any] = [sources] if isinstance(sources, str | os.PathLike | Page) else list(sources)
    for place in places:
        if not isinstance(place, str | os.PathLike):
            kind = "Pages" if isinstance(place, Page) else type(place).__name__
            raise InputError(f"sync wants files and folders, got {kind}; use add and delete for anything else")
        if is_url(given := os.fspath(place)) and local_path(given) is None:
            check_url(given)
    return places


def check_places(store: PageStore, places: Sequence[Place]) -> None:
    """Raise if a folder is missing from which there are documents: a disk may just not be there.

    Raises:
        InputError: one is, or a URL cannot be looked at.
    """
    for place in places:
        name = clean_source(place)
        if not _is_there(place) and any(source != name for source in _held(store, name)):
            raise InputError(
                f"there is no folder {name}, but {store} holds documents of it, which stay; mount it, or if it is gone "
                f"for good: delete(filter={{'source': {{'prefix': {_below(name)[0]!r}}}}})"
            )


def vanished(store: PageStore, places: Sequence[Place], listings: Mapping[str, frozenset[str]]) -> list[str]:
    """The documents in these places, or below them, whose files are gone; sorted.

    Files that cannot be looked for are not gone, and pages that were added alone are of no file.

    Args:
        store: of the index.
        places: files, folders and URLs.
        listings: what was found at each URL, by its name; one that is not among them could not be listed.
    """
    gone = set[str]()
    for name in map(clean_source, places):
        if not is_url(name):
            gone |= {source for source in _held(store, name) if _is_gone(source)}
        elif name in listings:
            gone |= set(_held(store, name)) - listings[name]
    return sorted(gone)


def _is_there(place: Place) -> bool:
    given = os.fspath(place)
    path = local_path(given) if is_url(given) else given
    return os.path.lexists(path) if path is not None else url_exists(given)


def _held(store: PageStore, name: str) -> Iterator[str]:
    """The documents of an index that are, or are below, what has this name."""
    below, ending = _below(name)
    filter: Any = {"or": [{"source": name}, {"source": {"prefix": below}}]} if below else None
    for stored in store.pages(filter):
        if stored.content_hash.startswith("page:"):
            continue
        for source in stored.sources:
            if source == name or (
                source.startswith(below)
                and source.endswith(ending)
                and (below or not (Path(source).is_absolute() or is_url(source)))
            ):
                yield source


def _below(name: str) -> tuple[str, str]:
    """What names of files in a folder begin with, and end with."""
    if is_url(name):
        head, _, rest = url_below(name, "").partition("::")
        return head, f"::{rest}" if rest else ""
    return "" if name == "." else f"{name.rstrip('/')}/", ""


def _is_gone(source: str) -> bool:
    try:
        os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return not {"?", "\\"} & set(source) or not _is_written_otherwise(source)
    except (OSError, ValueError):  # no right to look, or no name of a file
        return False
    return False


def _is_written_otherwise(source: str) -> bool:
    """Whether a name with backslashes or, of before, question marks stands for one that is no Unicode, or may do so."""
    try:
        names = {clean_source(path): path for path in Path(source).parent.iterdir()}
        before = {os.fspath(path).encode("utf-8", "replace").decode() for path in names.values()}
        return source in names or source in before
    except OSError:
        return True
