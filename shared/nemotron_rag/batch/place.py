"""Where an index is, in plain values: what a worker needs to open its store and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemotron_rag.batch.parquet import STAGED_IMAGES, ParquetStage, is_stage
from nemotron_rag.documents.images import ImageFormat
from nemotron_rag.protocols import PageStore
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.stores.server import Connection, is_url
from nemotron_rag.stores.tenant import Tenant

__all__ = ["IndexPlace"]


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """An index on a server, or in a folder, which one process at a time writes to.

    A pickle leaves the API key out: a worker takes it from the environment variable ``QDRANT_API_KEY``.

    Args:
        location: a folder, a url, or that of a `ParquetStage`.
        collection: of the index.
        connection: to the server.
        tenant: whose pages these are; None if it is not divided.
        images: folder or fsspec URL of the page images; None for none.
        image_format: of these.

    Example:
        >>> IndexPlace("http://localhost:6333").is_shared
        True
    """

    location: str
    collection: str = "pages"
    connection: Connection = field(default_factory=Connection)
    tenant: Tenant | None = None
    images: str | None = None
    image_format: ImageFormat = "png"

    @property
    def is_shared(self) -> bool:
        """Whether many processes may write to it at once."""
        return is_url(self.location) or is_stage(self.location)

    def open(self) -> tuple[PageStore, PageImages | None]:
        """The store and the images; the store is to be closed.

        Raises:
            StoreError: it cannot be opened.
        """
        store, root = self._qdrant() if not is_stage(self.location) else ParquetStage(self.location), self.images
        if isinstance(store, ParquetStage) and root is not None and root.startswith(STAGED_IMAGES):
            root = store.image_root  # that of another process
        images = None if root is None else PageImages(root, image_format=self.image_format)
        if images is not None and self.tenant is not None:
            images = images.of_tenant(self.tenant)
        return store, images

    def _qdrant(self) -> PageStore:
        from nemotron_rag.stores.qdrant import QdrantStore  # noqa: PLC0415  needs the extra `qdrant`

        options: Mapping[str, Any] = self.connection.options
        return QdrantStore(self.location, collection=self.collection, tenant=self.tenant, **options)
