"""The models of one index: given or named, loaded at first use, closed if they were loaded here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from nemotron_rag._forking import Lock
from nemotron_rag.errors import IndexMismatchError, InputError, UnknownModelError
from nemotron_rag.index.record import IndexRecord
from nemotron_rag.models.endpoints import REMOTE_OPTIONS, is_remote
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.load import LoadOptions, ModelName, check_model, normalised, takes
from nemotron_rag.protocols import AnyEmbedder, Reranker
from nemotron_rag.stores.server import is_url
from nemotron_rag.types import Kind

__all__ = ["IndexModels", "Rerank"]

Rerank: TypeAlias = bool | ModelName | Reranker
"""True: the index's own reranker if it has one; False: none; else that one, by name or loaded."""

_EMBEDDERS: tuple[Kind, ...] = ("embedder", "multivector_embedder")
# Options of the embedder that a named reranker follows too, if it has a use for them.
_COMMON = ("device", "dtype", "max_input_tiles", "use_thumbnail", "max_image_tokens", "compile")


class IndexModels:
    """The embedder and the rerankers of an index.

    Args:
        where: the index, for messages.
        embedder: a name or a loaded model; None for the one that wrote the index.
        reranker: a name, a loaded model, or None.
        options: for models that are named; see `PageIndex`.
        reranker_options: for named rerankers, over `options`.

    Raises:
        UnknownModelError: a name is neither in the catalog nor a folder.
        InputError: a model is of the wrong kind, or an option cannot be used.
    """

    def __init__(
        self,
        where: str,
        embedder: ModelName | AnyEmbedder | None,
        reranker: ModelName | Reranker | None,
        *,
        options: LoadOptions,
        reranker_options: LoadOptions | None = None,
    ) -> None:
        self._where = where
        self._options = normalised(options)
        self._reranker_options = _with_place(reranker_options)
        self._lock = Lock()
        self._rerankers: dict[str, LazyModel[Reranker]] = {}
        self._name: str | None = None
        self._embedder: LazyModel[AnyEmbedder] | None = None
        if isinstance(embedder, str | os.PathLike):
            self._name = os.fspath(embedder)
            check_model(self._name, *_EMBEDDERS, **self._options)
        elif embedder is not None:
            self._embedder = LazyModel(embedder, *_EMBEDDERS, **self._of_given_embedder(reranker))
        self._reranker = None if reranker is None else self._lazy_reranker(reranker)

    @property
    def embedder_name(self) -> str | None:
        """Of the embedder that was given or named; None for the one that wrote the index."""
        return self._embedder.name if self._embedder is not None else self._name

    @property
    def reranker_name(self) -> str | None:
        """Of the index's own reranker, if it has one."""
        return None if self._reranker is None else self._reranker.name

    def check(self, record: IndexRecord | None) -> None:
        """Compare with what wrote the index, as far as that is possible without loading a model.

        Raises:
            IndexMismatchError: another model or setting wrote it.
            InputError: the index is new and no embedder was given.
        """
        if record is None:
            if self.embedder_name is None:
                raise InputError(f"{self._where} is new, so it needs embedder=: a catalog id, a folder or a model")
        elif self._embedder is not None and self._embedder.is_given:
            record.check_embedder(self._where, self._embedder.get())
        else:
            if self._name is not None:
                record.check_name(self._where, self._name, revision=self._options.get("revision"))
            record.check_options(self._where, self._options)

    def is_multivector(self, record: IndexRecord | None) -> bool:
        """Whether a page has token vectors; nothing is loaded to know.

        Raises:
            NemotronRagError: it cannot be known.
        """
        if record is not None:
            return record.token_vectors is not None
        if self._embedder is not None:
            return self._embedder.kind == "multivector_embedder"
        return check_model(self._named(record), *_EMBEDDERS) == "multivector_embedder"

    def embedder(self, record: IndexRecord | None) -> AnyEmbedder:
        """The embedder, loaded if need be.

        Raises:
            IndexMismatchError: it does not compute what the index holds.
            NemotronRagError: it cannot be loaded.
        """
        try:
            embedder = self._lazy_embedder(record).get()
        except UnknownModelError as error:
            raise IndexMismatchError(self._unknown(record)) from error
        except InputError as error:  # the name was accepted before: the settings of the record do not fit it
            raise IndexMismatchError(
                f"{self._where} was written by {record.name if record else 'nobody yet'}, and {self._named(record)} "
                f"cannot be loaded as that: {error}; open it with the model that wrote it"
            ) from error
        if record is not None:
            record.check_embedder(self._where, embedder)
        return embedder

    def to_load(self, record: IndexRecord | None) -> tuple[str | AnyEmbedder, LoadOptions]:
        """The embedder as another process is told to load it: a name and options, or the model that was given."""
        lazy = self._lazy_embedder(record)
        return (lazy.get(), {}) if lazy.is_given else (lazy.name, lazy.options)

    def reranker(self, rerank: Rerank) -> LazyModel[Reranker] | None:
        """The reranker that a search asks for, not loaded yet; None for none.

        Raises:
            NemotronRagError: there is no such reranker.
        """
        if rerank is True:
            return self._reranker
        return None if rerank is False else self._lazy_reranker(rerank)

    def close(self) -> None:
        """Close what was loaded here; models that were given stay open."""
        with self._lock:
            for lazy in (self._embedder, *self._rerankers.values()):
                if lazy is not None:
                    lazy.close()

    def _named(self, record: IndexRecord | None) -> str:
        if self._name is not None:
            return self._name
        if record is None:
            raise IndexMismatchError(f"{self._where} no longer exists; open the index again")
        return record.name

    def _unknown(self, record: IndexRecord | None) -> str:
        """What to do about an embedder that cannot be found by its name."""
        written = f"{self._where} was written by {self._named(record)}"
        if record is not None and record.is_of_server and "base_url" not in self._options:
            return f"{written}, which a server had; give base_url= of one that has it"
        return f"{written}, which cannot be loaded by that name; open it with embedder= the model that wrote it"

    def _lazy_embedder(self, record: IndexRecord | None) -> LazyModel[AnyEmbedder]:
        with self._lock:
            if self._embedder is None:
                name = self._named(record)
                recorded = record.load_options(name) if record is not None else {}
                if is_remote(name, self._options):
                    recorded = {key: value for key, value in recorded.items() if key == "dimensions"}
                elif record is not None:
                    record.check_place(self._where)
                options = cast("LoadOptions", {**recorded, **self._options})
                self._embedder = LazyModel(name, *_EMBEDDERS, **options)
            return self._embedder

    def _of_given_embedder(self, reranker: object) -> LoadOptions:
        """The options that nobody can follow when the embedder is a loaded model."""
        if not isinstance(reranker, str | os.PathLike):
            return self._options
        left = {name: value for name, value in self._options.items() if name not in (*_COMMON, *REMOTE_OPTIONS)}
        return cast("LoadOptions", left)

    def _lazy_reranker(self, reranker: object) -> LazyModel[Reranker]:
        if not isinstance(reranker, str | os.PathLike):
            return LazyModel(cast("Reranker", reranker), "reranker")
        name = os.fspath(reranker)
        with self._lock:
            if name not in self._rerankers:
                self._rerankers[name] = LazyModel(name, "reranker", **self._options_of_reranker(name))
            return self._rerankers[name]

    def _options_of_reranker(self, name: str) -> LoadOptions:
        common: Mapping[str, Any] = self._options
        given: Mapping[str, Any] = self._reranker_options or {}
        place = {} if "base_url" in given else {key: common[key] for key in REMOTE_OPTIONS if key in common}
        if is_remote(name, {**place, **given}):
            return cast("LoadOptions", {**({} if is_url(name) else place), **given})
        shared = {key: common[key] for key in _COMMON if key in common and takes(name, key, "reranker")}
        return cast("LoadOptions", {**shared, **given})


def _with_place(options: LoadOptions | None) -> LoadOptions | None:
    """The options of rerankers; a ``base_url`` of None stays, for it says that they are in this process."""
    if options is None:
        return None
    return cast("LoadOptions", {**normalised(options), **({"base_url": None} if _is_here(options) else {})})


def _is_here(options: LoadOptions) -> bool:
    return "base_url" in options and options["base_url"] is None
