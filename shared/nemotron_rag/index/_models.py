"""The models of one index: given or named, loaded at first use, closed if loaded here. It knows no store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

from nemotron_rag.errors import IndexMismatchError, InputError
from nemotron_rag.index._record import IndexRecord
from nemotron_rag.lazy import check_name
from nemotron_rag.load import load_embedder, load_multivector_embedder, load_reranker, model_kind
from nemotron_rag.protocols import Embedder, MultiVectorEmbedder, Reranker
from nemotron_rag.types import Kind

__all__ = ["AnyEmbedder", "IndexModels", "Named", "Rerank"]

AnyEmbedder: TypeAlias = Embedder | MultiVectorEmbedder
"""Of one vector a page, or of many."""

_M = TypeVar("_M", AnyEmbedder, Reranker)
_EMBEDDERS: tuple[Kind, ...] = ("embedder", "multivector_embedder")

Named: TypeAlias = "str | os.PathLike[str]"
"""A catalog id, its hub repository, or a local folder."""

Rerank: TypeAlias = "bool | Named | Reranker | None"
"""None: the index's own reranker if it has one; False: none; True: the own one; else that one."""


class IndexModels:
    """Loads what is named, once.

    Args:
        where: the index, for messages.
        embedder: a name or a loaded model; None for the one that wrote the index.
        reranker: a name, a loaded model, or None.
        device: for models loaded here.
        dtype: for models loaded here.
        max_input_tiles: for models loaded here; None for what the index or else the model says.

    Raises:
        InputError: the embedder is none.
        UnknownModelError: a name is neither in the catalog nor a folder.
    """

    def __init__(
        self,
        where: str,
        embedder: Named | AnyEmbedder | None,
        reranker: Named | Reranker | None,
        *,
        device: str | None,
        dtype: str | None,
        max_input_tiles: int | None,
    ) -> None:
        self._where = where
        self._embedder, self._reranker = embedder, reranker
        self._max_input_tiles = max_input_tiles
        self._place = {"device": device, "dtype": dtype}
        self._loaded: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        if isinstance(embedder, str | os.PathLike):
            check_name(embedder, *_EMBEDDERS)
        elif embedder is not None and not isinstance(embedder, Embedder | MultiVectorEmbedder):
            raise InputError(f"embedder must give one vector for each page, or many, got {type(embedder).__name__}")
        if isinstance(reranker, str | os.PathLike):
            check_name(reranker, "reranker")

    def check(self, record: IndexRecord | None) -> None:
        """Compare with what wrote the index, as far as that is possible without loading a model.

        Raises:
            IndexMismatchError: another model or setting wrote it.
            InputError: the index is new and no embedder was given.
        """
        if record is None:
            if self._embedder is None:
                raise InputError(f"{self._where} is new, so it needs embedder=, a catalog id, a folder or a model")
        elif isinstance(self._embedder, str | os.PathLike):
            record.check_name(self._where, os.fspath(self._embedder))
            record.check_settings(self._where, max_input_tiles=self._max_input_tiles)
        elif self._embedder is not None:
            record.check_embedder(self._where, self._embedder)

    def gives_many(self, record: IndexRecord | None) -> bool:
        """Whether the embedder gives many vectors for a page; nothing is loaded to know.

        Raises:
            NemotronRagError: it cannot be known.
        """
        if record is not None:
            return record.token_vectors is not None
        if self._embedder is None or isinstance(self._embedder, str | os.PathLike):
            return model_kind(self._name(record)) == "multivector_embedder"
        return hasattr(self._embedder, "score")

    def embedder(self, record: IndexRecord | None) -> AnyEmbedder:
        """The embedder, loaded if need be.

        Raises:
            IndexMismatchError: it does not compute what the index holds.
            NemotronRagError: it cannot be loaded.
        """
        if self._embedder is not None and not isinstance(self._embedder, str | os.PathLike):
            embedder = self._embedder
        else:
            name = self._name(record)
            options = record.load_options(name) if record is not None else {}
            if self._max_input_tiles is not None:
                options["max_input_tiles"] = self._max_input_tiles
            load: Callable[..., AnyEmbedder] = load_multivector_embedder if self.gives_many(record) else load_embedder
            try:
                embedder = self._load(load, name, options)
            except InputError as error:  # the name was accepted before: the settings of the record do not fit it
                raise IndexMismatchError(
                    f"{self._where} was written by {record.name if record else 'nobody yet'}, and {name} cannot be "
                    f"loaded as that: {error}; open it with the model that wrote it"
                ) from error
        if record is not None:
            record.check_embedder(self._where, embedder)
        return embedder

    def reranker(self, rerank: Rerank) -> Reranker | None:
        """The reranker meant, loaded if need be; None for none.

        Raises:
            InputError: True, but the index has no reranker of its own.
            NemotronRagError: it cannot be loaded.
        """
        if rerank is True and self._reranker is None:
            raise InputError("rerank=True needs an index opened with reranker=; open it so, or name the reranker here")
        wanted = self._reranker if rerank is None or rerank is True else rerank
        if wanted is None or wanted is False:
            return None
        if isinstance(wanted, str | os.PathLike):
            options = {"max_input_tiles": self._max_input_tiles} if self._max_input_tiles is not None else {}
            return self._load(load_reranker, os.fspath(wanted), options)
        if not isinstance(wanted, Reranker):
            raise InputError(f"rerank must be a bool, a name or a reranker, got {type(wanted).__name__}")
        return wanted

    def close(self) -> None:
        """Close what was loaded here; models that were given stay open."""
        with self._lock:
            while self._loaded:
                self._loaded.popitem()[1].close()

    def _name(self, record: IndexRecord | None) -> str:
        if self._embedder is not None:
            return os.fspath(cast("Named", self._embedder))
        if record is None:
            raise IndexMismatchError(f"{self._where} is gone, it was there when it was opened; open it again")
        return record.name

    def _load(self, load: Callable[..., _M], name: str, options: dict[str, Any]) -> _M:
        key = (load.__name__, name)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = load(name, **self._place, **options)
            return cast("_M", self._loaded[key])
