"""What a server offers, and its limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import InputError, UnknownModelError
from nemotron_rag.index import PageIndex
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.public_identity import public_identity
from nemotron_rag.protocols import AnyEmbedder, Reranker

__all__ = ["API_KEY_VARIABLE", "ROLES", "Chosen", "Offered", "ServeSettings", "Served", "public_name"]

API_KEY_VARIABLE = "NEMOTRON_RAG_API_KEY"
"""The environment variable that holds the bearer key of a server."""

ROLES = ("query", "passage")

M = TypeVar("M", bound=AnyEmbedder | Reranker)

Offered: TypeAlias = LazyModel[M] | Sequence[LazyModel[M]] | Mapping[str, LazyModel[M]] | None
"""One model, several, several with the names by which clients call them, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Limits of a server.

    Args:
        api_key: that clients must send as ``Authorization: Bearer``; None to ask for none.
        max_waiting: requests that may be under way at once; more are answered with 429.
        max_body_bytes: of a request; larger ones are answered with 413 before they are read. All requests under way
            together hold eight times as much at most; beyond it they are answered with 429.
        max_items: inputs, passages or documents of one request.
        images: from where images may be taken. Data URIs are always read; a URL only from a host that it allows.

    Raises:
        InputError: a value is impossible.
    """

    api_key: str | None = field(default=None, repr=False)
    max_waiting: int = 256
    max_body_bytes: int = 64 << 20
    max_items: int = 512
    images: ImageAccess = field(default_factory=ImageAccess)

    def __post_init__(self) -> None:
        for name in ("max_waiting", "max_body_bytes", "max_items"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise InputError("api_key must be printable ASCII")
        if self.images.roots:
            raise InputError("a server opens no files that clients name; leave image roots out")


class Chosen(NamedTuple, Generic[M]):
    """The model that a request names.

    Args:
        name: by which clients call it.
        model: loaded at first use.
        role: of its inputs, "query" or "passage", where the name that was asked for ends with one.
    """

    name: str
    model: LazyModel[M]
    role: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Models and an index that are offered.

    Args:
        embedder: one or several for ``/v1/embeddings``; None for none.
        reranker: one or several for ``/v1/rerank`` and ``/v1/ranking``; None for none.
        index: for ``/v1/search`` and the search page; None for none.

    Raises:
        InputError: nothing is offered, or two models of a kind have one name.
    """

    embedder: Offered[AnyEmbedder] = None
    reranker: Offered[Reranker] = None
    index: PageIndex | None = None
    embedders: Mapping[str, LazyModel[AnyEmbedder]] = field(init=False, repr=False)
    rerankers: Mapping[str, LazyModel[Reranker]] = field(init=False, repr=False)
    _since: int = field(default_factory=lambda: int(time.time()), init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedders", _named(self.embedder))
        object.__setattr__(self, "rerankers", _named(self.reranker))
        if not self.embedders and not self.rerankers and self.index is None:
            raise InputError("nothing to serve; give an embedder, a reranker or an index")

    def names(self) -> Iterator[dict[str, object]]:
        """The rows of ``/v1/models``, with what clients of ours need to know of a model; loads those that are not."""
        offered: Mapping[str, LazyModel[Any]]
        for offered in (self.embedders, self.rerankers):
            for name, model in offered.items():
                yield self._row(name, model)

    def load(self) -> None:
        """Load every model now, so that the first request is answered as fast as the others.

        Raises:
            NemotronRagError: one cannot be loaded.
        """
        offered: Mapping[str, LazyModel[Any]]
        for offered in (self.embedders, self.rerankers):
            for model in offered.values():
                model.get()
        if self.index is not None:
            self.index.load()

    def _row(self, name: str, model: LazyModel[Any]) -> dict[str, object]:
        loaded = model.get()
        return {
            "id": name,
            "object": "model",
            "created": self._since,
            "owned_by": "nemotron-rag",
            "kind": model.kind,
            "identity": public_identity(loaded.identity),
            "query_modalities": list(getattr(loaded, "query_modalities", ("text",))),
        }

    def embedder_for(self, name: str) -> Chosen[AnyEmbedder]:
        """The embedder that a request names, and the role of its inputs where the name ends with one.

        Clients that cannot send ``input_type`` write ``NAME-query`` or ``NAME-passage``.

        Raises:
            UnknownModelError: there is no such model here.
        """
        exact = _found(self.embedders, name)
        if exact is not None:
            return exact
        base, _, role = name.rpartition("-")
        if role in ROLES and base in self.embedders:
            return Chosen(base, self.embedders[base], role)
        raise _missing("embedder", name, self.embedders)

    def reranker_for(self, name: str) -> Chosen[Reranker]:
        """The reranker that a request names.

        Raises:
            UnknownModelError: there is no such model here.
        """
        exact = _found(self.rerankers, name)
        if exact is None:
            raise _missing("reranker", name, self.rerankers)
        return exact


def public_name(name: str) -> str:
    """What clients call a model: a local folder by its last part, so that they see no paths of this machine."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _named(offered: Offered[M]) -> Mapping[str, LazyModel[M]]:
    """The models by the names that clients call them by."""
    if offered is None:
        return {}
    if isinstance(offered, Mapping):
        return dict(offered)
    models = [offered] if isinstance(offered, LazyModel) else offered
    found: dict[str, LazyModel[M]] = {}
    for model in models:
        name = public_name(model.name)
        if name in found:
            raise InputError(f"two models of a kind are named {name!r}; give each a name of its own")
        found[name] = model
    return found


def _found(models: Mapping[str, LazyModel[M]], name: str) -> Chosen[M] | None:
    """The model of a name; of no name the only one."""
    if not name and len(models) == 1:
        name = next(iter(models))
    return Chosen(name, models[name]) if name in models else None


def _missing(kind: str, name: str, known: Mapping[str, object]) -> UnknownModelError:
    there = ", ".join(map(repr, known)) or f"no {kind}"
    if not name and known:
        return UnknownModelError(f"the request names no {kind}, and this server has several; give one of {there}")
    return UnknownModelError(f"this server has no {kind} named {name!r}; it has {there}")
