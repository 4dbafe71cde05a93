"""Pages in Qdrant, on a server or embedded in a folder or in memory; and what adapters need of other collections."""

from __future__ import annotations

from nemotron_rag.errors import MissingExtraError

try:
    import qdrant_client  # noqa: F401  # the one door: no module of this package is imported without it
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

from nemotron_rag.stores.qdrant.connection import Qdrant
from nemotron_rag.stores.qdrant.filters import compile_filter
from nemotron_rag.stores.qdrant.foreign import PAGE_LAYOUT, ForeignCollection, Identity, Layout, Shape, point_id
from nemotron_rag.stores.qdrant.layout import from_payload
from nemotron_rag.stores.qdrant.opening import migrate
from nemotron_rag.stores.qdrant.store import DEFAULT_PREFETCH, QdrantStore
from nemotron_rag.stores.qdrant.vectors import VECTOR
from nemotron_rag.types import Filter

__all__ = [
    "DEFAULT_PREFETCH",
    "PAGE_LAYOUT",
    "VECTOR",
    "Filter",
    "ForeignCollection",
    "Identity",
    "Layout",
    "Qdrant",
    "QdrantStore",
    "Shape",
    "compile_filter",
    "from_payload",
    "migrate",
    "point_id",
]
