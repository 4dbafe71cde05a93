"""A model that is named now and loaded at first use: what the adapters hold. It knows no framework and no family.

Copies share it; a pickle holds its name and settings, never its weights.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from nemotron_rag import catalog
from nemotron_rag.errors import InputError, UnknownModelError
from nemotron_rag.load import load_embedder, load_reranker
from nemotron_rag.protocols import Embedder, Reranker
from nemotron_rag.types import Kind

__all__ = ["Identity", "LazyModel", "check_name", "lazy_embedder", "lazy_reranker"]

M = TypeVar("M", bound=Embedder | Reranker)

Identity = Mapping[str, str | int | bool | None]
"""What decides the outputs of a model; see `protocols`."""


class LazyModel(Generic[M]):
    """One model for a component: given, or loaded when it is first needed; `lazy_embedder`, `lazy_reranker` make it.

    Args:
        model: a catalog id, its hub repository, a local folder, or a loaded model.
        kind: what it must be.
        load: makes the model from its name and the options.
        options: for `load`; those that are None count as not given.
        identity: what the model must turn out to be, where the name alone does not say it.

    Raises:
        UnknownModelError: no such id or folder.
        InputError: it is of another kind, has another identity, or options came with a loaded model.

    Example:
        >>> from nemotron_rag import Passage
        >>> model = lazy_reranker("starter-rerank-vl")
        >>> model.get().score("tornadoes", [Passage("Tornadoes form in storms.")]).shape
        (1,)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | M,
        *,
        kind: Kind,
        load: Callable[..., M],
        options: Mapping[str, Any],
        identity: Identity | None = None,
    ) -> None:
        self._kind: Kind = kind
        self._load = load
        self._options = {name: value for name, value in options.items() if value is not None}
        self._lock = threading.Lock()
        self._given: M | None = None
        self._loaded: M | None = None
        self.identity = identity
        if isinstance(model, str | os.PathLike):
            self.name = os.fspath(model)
            if identity is None:  # else the name may be one that only the process which gave the model knew
                check_name(self.name, kind)
        else:
            self.name = _checked(model, kind, self._options).name
            self._check_identity(model)
            self.identity, self._given = dict(model.identity), model

    def get(self) -> M:
        """The model, loaded by the first call; threads that ask at the same time load it once.

        Raises:
            InputError: what was loaded is not what `identity` says.
            NemotronRagError: it cannot be loaded.
        """
        if self._given is not None:
            return self._given
        with self._lock:
            if self._loaded is None:
                model = self._load(self.name, **self._options)
                self._check_identity(model)
                self._loaded = model
            return self._loaded

    async def aget(self) -> M:
        """The same as `get`, without blocking the event loop."""
        ready = self._loaded if self._given is None else self._given
        return await asyncio.to_thread(self.get) if ready is None else ready

    def close(self) -> None:
        """Let go of what was loaded here, the next `get` loads it again; a model that was given stays open."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def __copy__(self) -> LazyModel[M]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyModel[M]:
        return self

    def __reduce__(self) -> tuple[Callable[..., LazyModel[M]], tuple[Any, ...]]:
        return _restore, (self.name, self._kind, self._load, self._options, self.identity)

    def _check_identity(self, model: M) -> None:
        if self.identity is not None and dict(model.identity) != dict(self.identity):
            raise InputError(
                f"wanted {self.name} with {dict(self.identity)}, got {dict(model.identity)}; "
                "pass a model loaded with the first settings"
            )


def lazy_embedder(
    model: str | os.PathLike[str] | Embedder, *, identity: Identity | None = None, **options: Any
) -> LazyModel[Embedder]:
    """An embedder by name or given; `options` are those of `load_embedder`."""
    return LazyModel(model, kind="embedder", load=load_embedder, options=options, identity=identity)


def lazy_reranker(
    model: str | os.PathLike[str] | Reranker, *, identity: Identity | None = None, **options: Any
) -> LazyModel[Reranker]:
    """A reranker by name or given; `options` are those of `load_reranker`."""
    return LazyModel(model, kind="reranker", load=load_reranker, options=options, identity=identity)


def check_name(name: str | os.PathLike[str], *kinds: Kind) -> None:
    """Raise unless a model of one of these kinds has this name; what a folder holds is seen when it is loaded.

    Raises:
        UnknownModelError: no such id or folder.
        InputError: the model is of another kind.
    """
    try:
        spec = catalog.find(os.fspath(name))
    except UnknownModelError:
        if not Path(name).is_dir():
            raise
        return
    if spec.kind not in kinds:
        raise InputError(f"{spec.id} is of kind {spec.kind}, wanted {' or '.join(kinds)}; see nemotron_rag.CATALOG")


def _checked(model: M, kind: Kind, options: Mapping[str, Any]) -> M:
    """The loaded model, known to be of its kind and to come alone."""
    fits = isinstance(model, Reranker if kind == "reranker" else Embedder)
    if not fits or (kind == "embedder" and hasattr(model, "score")):  # with many vectors a page
        raise InputError(f"wanted a catalog id, a local folder or a loaded {kind}, got {type(model).__name__}")
    if options:
        raise InputError(f"{', '.join(options)} came with a loaded model; set them where it is loaded")
    return model


def _restore(
    name: str, kind: Kind, load: Callable[..., M], options: Mapping[str, Any], identity: Identity | None
) -> LazyModel[M]:
    return LazyModel(name, kind=kind, load=load, options=options, identity=identity)
