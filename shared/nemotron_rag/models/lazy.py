"""Models that are loaded at first use, for the index and the adapters.

A wrong name, kind or option is refused at construction. Equal names and options share weights. Copies share the model;
a pickle contains its name and options, never its weights.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, Unpack, cast

from nemotron_rag._forking import Lock
from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.reranker import as_reranker
from nemotron_rag.models.adopted import adopt
from nemotron_rag.models.load import LoadOptions, ModelName, check_model, load_model, normalised
from nemotron_rag.protocols import AnyEmbedder, Embedder, MultiVectorEmbedder, Reranker
from nemotron_rag.types import Kind

__all__ = ["RANKERS", "Identity", "LazyModel", "Lock", "lazy_embedder", "lazy_reranker"]

M = TypeVar("M", bound=AnyEmbedder | Reranker)

RANKERS: tuple[Kind, ...] = ("reranker", "multivector_embedder")
"""The kinds of models that rank passages; a `LazyModel` of these gives a `Reranker`."""

Identity = Mapping[str, str | int | bool | None]
"""Everything that decides a model's outputs; see `protocols`."""


class LazyModel(Generic[M]):
    """A model that is loaded at first use, or was given loaded.

    Args:
        model: a catalog id, its hub repository, a local folder, the url of a server, or a loaded model, of
            sentence-transformers too.
        kinds: the kinds allowed.
        identity: that the loaded model must have; None to accept any.
        **options: see `LoadOptions`; None means not given.

    Raises:
        UnknownModelError: there is no such id or folder.
        CheckpointError: the folder is not a supported checkpoint.
        InputError: the model is of another kind or identity, an option cannot be used, or options were given with a
            loaded model.
        MissingExtraError: it is a starter, and the extra `starters` is not installed.

    Example:
        >>> from nemotron_rag import Passage
        >>> model = lazy_reranker("starter-rerank-vl")
        >>> model.get().score("tornadoes", [Passage("Tornadoes form in storms.")]).shape
        (1,)
    """

    def __init__(
        self,
        model: ModelName | M,
        *kinds: Kind,
        identity: Identity | None = None,
        **options: Unpack[LoadOptions],
    ) -> None:
        self._kinds = kinds
        self._options = normalised(options)
        self._lock = Lock()
        self._given: M | None = None
        self._loaded: M | None = None
        self.identity = identity
        if isinstance(model, str | os.PathLike):
            self.name = os.fspath(model)
            if identity is None:  # with one, the name may be known only in the process that loaded the model
                self.kind = check_model(self.name, *kinds, **self._options)
            else:
                self.kind = kinds[0]
        else:
            model = adopt(model)
            _check_given(model, kinds, self._options)
            self.name, self.kind = model.name, model.kind
            self._check_identity(model)
            self.identity, self._given = dict(model.identity), self._wanted(model)

    @property
    def is_given(self) -> bool:
        """Whether a loaded model was given, not a name."""
        return self._given is not None

    @property
    def options(self) -> LoadOptions:
        """How it is loaded, as far as that was given."""
        return self._options

    def get(self) -> M:
        """Return the model, loaded by the first call; concurrent calls load it once.

        Raises:
            InputError: the loaded model has another identity.
            NemotronRagError: the model cannot be loaded.
        """
        if self._given is not None:
            return self._given
        with self._lock:
            if self._loaded is None:
                model = cast("M", load_model(self.name, *self._kinds, **self._options))
                self._check_identity(model)
                self._loaded = self._wanted(model)
            return self._loaded

    async def aget(self) -> M:
        """Async `get`."""
        loaded = self._loaded if self._given is None else self._given
        return await asyncio.to_thread(self.get) if loaded is None else loaded

    def close(self) -> None:
        """Close the model if it was loaded here; the next `get` loads it again. A given model stays open."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def __copy__(self) -> LazyModel[M]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyModel[M]:
        return self

    def __reduce__(self) -> tuple[Callable[..., LazyModel[M]], tuple[Any, ...]]:
        return _restore, (self.name, self._kinds, self.identity, dict(self._options))

    def __repr__(self) -> str:
        """``LazyModel('starter-rerank-vl', not loaded)``."""
        state = "given" if self.is_given else "not loaded" if self._loaded is None else "loaded"
        return f"LazyModel({self.name!r}, {state})"

    def _wanted(self, model: M) -> M:
        """The model in the role that is asked for: a late-interaction model may stand in for a reranker."""
        is_stand_in = "reranker" in self._kinds and model.kind == "multivector_embedder"
        return cast("M", as_reranker(cast("MultiVectorEmbedder", model))) if is_stand_in else model

    def _check_identity(self, model: M) -> None:
        if self.identity is not None and dict(model.identity) != dict(self.identity):
            raise InputError(
                f"wanted {self.name} with {dict(self.identity)}, got {dict(model.identity)}; "
                "pass a model loaded with the first settings"
            )


def lazy_embedder(
    model: ModelName | Embedder, *, identity: Identity | None = None, **options: Unpack[LoadOptions]
) -> LazyModel[Embedder]:
    """Return a lazy single-vector embedder; see `LazyModel`."""
    return LazyModel(model, "embedder", identity=identity, **options)


def lazy_reranker(
    model: ModelName | Reranker, *, identity: Identity | None = None, **options: Unpack[LoadOptions]
) -> LazyModel[Reranker]:
    """Return a lazy reranker; see `LazyModel`. A late-interaction model (ColEmbed) ranks by MaxSim."""
    return LazyModel(model, *RANKERS, identity=identity, **options)


def _check_given(model: object, kinds: tuple[Kind, ...], options: LoadOptions) -> None:
    allowed = " or ".join(kinds)
    kind = getattr(model, "kind", None)
    if kind not in kinds:
        what = f"a {kind}, {type(model).__name__}" if isinstance(kind, str) else type(model).__name__
        raise InputError(f"wanted a catalog id, a local folder or a loaded {allowed}, got {what}")
    if options:
        raise InputError(f"{', '.join(options)} came with a loaded model; set them where it is loaded")


def _restore(name: str, kinds: tuple[Kind, ...], identity: Identity | None, options: LoadOptions) -> LazyModel[Any]:
    return LazyModel(name, *kinds, identity=identity, **options)
