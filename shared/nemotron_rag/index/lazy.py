"""An index that is opened at first use, for components that are made before there is need of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Unpack, cast

from nemotron_rag._forking import Lock
from nemotron_rag.documents.pdf import PdfEngine, check_pdf_engine
from nemotron_rag.errors import InputError
from nemotron_rag.index.models import IndexModels, Rerank
from nemotron_rag.index.page_index import PageIndex
from nemotron_rag.index.state import Images
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.models.load import LoadOptions, ModelName, options_of
from nemotron_rag.protocols import AnyEmbedder
from nemotron_rag.remote.endpoint import Endpoint
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.server import Connection, ConnectionOptions, connection_options
from nemotron_rag.stores.tenant import Tenant, TenantKey

__all__ = ["IndexOptions", "LazyIndex"]


class IndexOptions(LoadOptions, ConnectionOptions, total=False):
    """Arguments of `PageIndex` for an index that is given by its location."""

    embedder: ModelName | AnyEmbedder | None
    collection: str
    tenant: TenantKey | None
    collection_options: CollectionOptions | Mapping[str, Any] | None
    images: Images
    dpi: float | None
    max_pixels: int | None
    pdf_engine: PdfEngine | None
    token_vectors: TokenVectors | None
    reranker_options: LoadOptions | None


class LazyIndex:
    """An index that is opened by its first use, or was given open.

    Args:
        index: an open `PageIndex`, which stays open; or the folder or url of one, which must be there when it
            is opened.
        rerank: what will be searched with; see `PageIndex.search`.
        **options: of `PageIndex`, for an index by location.

    Raises:
        InputError: an option cannot be used, or options came with an open index.
        UnknownModelError: a model's name is neither in the catalog nor a folder.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> LazyIndex("./index", embedder=FakeEmbedder())
        './index'
    """

    def __init__(
        self, index: PageIndex | str | os.PathLike[str], *, rerank: Rerank = True, **options: Unpack[IndexOptions]
    ) -> None:
        if isinstance(index, PageIndex):
            if options:
                verb = "belongs" if len(options) == 1 else "belong"
                raise InputError(f"{', '.join(options)} {verb} to an index by location; set them where it is opened")
            index.reranker(rerank)
        else:
            _check(index, rerank, options)
        # Apart from the others, for it hides what it holds.
        self._connection = Connection(**connection_options(options))
        rest: dict[str, Any] = {k: v for k, v in options.items() if k not in ConnectionOptions.__annotations__}
        if rest.get("endpoint") is not None:
            rest["endpoint"] = Endpoint.of(rest["endpoint"])  # which hides what it holds, too
        self._given, self._options = index, cast("IndexOptions", rest)
        self._opened: PageIndex | None = None
        self._lock = Lock()

    def get(self) -> PageIndex:
        """The index, opened by the first call; concurrent calls open it once.

        Raises:
            InputError: there is no index.
            NemotronRagError: it cannot be opened.
        """
        if isinstance(self._given, PageIndex):
            return self._given
        with self._lock:
            if self._opened is None:
                options = cast("IndexOptions", {**self._options, **self._connection.options})
                self._opened = PageIndex(self._given, create=False, **options)
            return self._opened

    async def aget(self) -> PageIndex:
        """Async `get`."""
        return await asyncio.to_thread(self.get)

    def close(self) -> None:
        """Close the index if it was opened here; the next `get` opens it again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def __repr__(self) -> str:
        """Of the index, or its location."""
        return repr(self._given if isinstance(self._given, PageIndex) else os.fspath(self._given))


def _check(location: str | os.PathLike[str], rerank: Rerank, options: IndexOptions) -> None:
    """Refuse what `PageIndex` would refuse when it is opened, as far as that can be known."""
    if unknown := [name for name in options if name not in IndexOptions.__annotations__]:
        known = ", ".join(IndexOptions.__annotations__)
        raise InputError(f"{', '.join(unknown)} is no option of an index by location; give one of: {known}")
    Connection(**connection_options(options)).to(os.fspath(location))
    Tenant.of(options.get("tenant"))
    CollectionOptions.of(options.get("collection_options"))
    if (engine := options.get("pdf_engine")) is not None:
        check_pdf_engine(engine)
    models = IndexModels(
        os.fspath(location),
        options.get("embedder"),
        None,
        options=options_of(options),
        reranker_options=options.get("reranker_options"),
    )
    models.reranker(rerank)
