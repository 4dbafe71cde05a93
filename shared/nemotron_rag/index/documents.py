"""What is noted of whole documents once their pages are stored: that they hold them, and what older versions left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nemotron_rag.index.plan import Finished, Known
from nemotron_rag.index.state import IndexState
from nemotron_rag.types import Failure

__all__ = ["Documents"]


class Documents:
    """The documents of one run.

    Args:
        index: where their pages are.
    """

    def __init__(self, index: IndexState) -> None:
        self._index = index
        self.unchanged = self.removed = 0
        """Pages that were stored already, and that went with older versions."""

    def attach(self, known: Iterable[Known]) -> list[Failure]:
        """Note the files of stored pages; returns a failure for each of which some are not there, or no longer."""
        return [failure for each in known for failure in self._attach(each)]

    def _attach(self, known: Known) -> list[Failure]:
        attached = self._index.store.attach(known.ids, source=known.source, metadata=known.metadata)
        self.unchanged += attached
        missing = len(known.ids) - attached
        if not missing:
            return []
        reason = f"{missing} of its pages are not stored: they failed, or were removed meanwhile; add it again"
        return [Failure(known.source, reason)]

    def finish(self, documents: Sequence[Finished]) -> None:
        """Delete what older versions of these documents left; a version without one stored page replaces nothing."""
        if not documents or not self._index.store.exists():
            return
        stored = list(self._index.store.pages({"source": [done.source for done in documents]}))
        for source, ids in {done.source: done.ids for done in documents}.items():
            mine = [page.page.id for page in stored if source in page.sources]
            stale = [page_id for page_id in mine if page_id not in ids]
            if stale and len(stale) < len(mine):
                self.removed += self._index.remove(stale, {"source": source})
