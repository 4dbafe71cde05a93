"""What a hit of late interaction holds of the index that found it: enough for a heatmap, and nothing kept alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nemotron_rag.errors import ClosedError

if TYPE_CHECKING:
    from nemotron_rag.heatmap import Heatmap
    from nemotron_rag.types import Passage

__all__ = ["Locate"]


class Locate:
    """Calls a method of an index as long as that is there; copies do too, a pickle has no index any more.

    Args:
        heatmap: bound to what makes heatmaps; None for no index.
    """

    def __init__(self, heatmap: Callable[[Passage, str], Heatmap] | None = None) -> None:
        self._heatmap = None if heatmap is None else weakref.WeakMethod(heatmap)

    def __call__(self, page: Passage, query: str) -> Heatmap:
        """Where the query's words match on the page.

        Raises:
            ClosedError: the index is gone.
        """
        heatmap = None if self._heatmap is None else self._heatmap()
        if heatmap is None:
            raise ClosedError("the index that found this hit is gone; keep it open, or ask PageIndex.heatmap")
        return heatmap(page, query)

    def __copy__(self) -> Locate:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Locate:
        return self

    def __reduce__(self) -> tuple[type[Locate], tuple[()]]:
        return Locate, ()
