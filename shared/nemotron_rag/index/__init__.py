"""What joins documents, models and a store: `PageIndex`."""

from __future__ import annotations

from nemotron_rag.index.page_index import PageIndex
from nemotron_rag.index.request import Mode

__all__ = ["Mode", "PageIndex"]
