"""Is everything that an index has stored readable and right? And what is done about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from nemotron_rag.errors import StoreError
from nemotron_rag.index.state import IndexState
from nemotron_rag.protocols import PageStore, RepairableStore
from nemotron_rag.types import CheckReport, Failure, StoredPage

__all__ = ["check"]

_READERS = 4  # images decoded at the same time
_AT_ONCE = 256  # pages


def check(index: IndexState, *, repair: bool) -> CheckReport:
    """Read every page and image of an index.

    Args:
        index: to be read.
        repair: remove pages that are damaged, or whose image is missing, broken or another one, and leftovers.

    Raises:
        StoreError: the store cannot be reached, or a removal failed.
    """
    store = index.store
    if not index.exists():
        return CheckReport(pages=0, repaired=repair)
    damaged = store.damaged() if isinstance(store, RepairableStore) else {}
    faults = [Failure("a page", f"point {key} {reason}") for key, reason in damaged.items()]
    if repair and isinstance(store, RepairableStore):
        store.discard(list(damaged))
    pages = _pages(store, damaged)
    wrong = _wrong_images(index, pages)
    faults += [Failure(stored.page.source or stored.page.id, reason, stored.page.number) for stored, reason in wrong]
    leftovers = _leftovers(index, pages)
    if repair:
        index.remove([stored.page.id for stored, _ in wrong], None)
        if index.images is not None:
            index.images.remove(leftovers)
        store.optimize()
    return CheckReport(pages=len(pages), faults=tuple(faults), leftovers=tuple(leftovers), repaired=repair)


def _pages(store: PageStore, damaged: Collection[str]) -> list[StoredPage]:
    try:
        return list(store.pages())
    except StoreError:
        if not damaged:
            raise
        return []  # those that are damaged keep the others from being listed


def _wrong_images(index: IndexState, pages: Iterable[StoredPage]) -> list[tuple[StoredPage, str]]:
    images = index.images
    if images is None:
        return []
    with_image = [stored for stored in pages if stored.image_key is not None]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="nemotron-rag check") as pool:
        reasons = list(pool.map(images.fault, with_image, chunksize=_AT_ONCE))
    return [(stored, reason) for stored, reason in zip(with_image, reasons, strict=True) if reason]


def _leftovers(index: IndexState, pages: Iterable[StoredPage]) -> list[str]:
    """Image files without a page, where the folder is that of this index alone: beside the store."""
    images = index.images
    if images is None or images.root != index.store.image_root:
        return []
    return images.leftovers(stored.image_key for stored in pages if stored.image_key is not None)
