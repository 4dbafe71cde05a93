"""What a server offers, and its limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import InputError, UnknownModelError
from nemotron_rag.index import PageIndex
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.protocols import AnyEmbedder, Reranker

__all__ = ["API_KEY_VARIABLE", "ROLES", "ServeSettings", "Served"]

API_KEY_VARIABLE = "NEMOTRON_RAG_API_KEY"
"""The environment variable that holds the bearer key of a server."""

ROLES = ("query", "passage")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Limits of a server.

    Args:
        api_key: that clients must send as ``Authorization: Bearer``; None to ask for none.
        max_waiting: requests that may be under way at once; more are answered with 429.
        max_body_bytes: of a request; larger ones are answered with 413 before they are read.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Models and an index that are offered.

    Args:
        embedder: for ``/v1/embeddings``; None for none.
        reranker: for ``/v1/rerank`` and ``/v1/ranking``; None for none.
        index: for ``/v1/search`` and the search page; None for none.

    Raises:
        InputError: nothing is offered.
    """

    embedder: LazyModel[AnyEmbedder] | None = None
    reranker: LazyModel[Reranker] | None = None
    index: PageIndex | None = None
    _since: int = field(default_factory=lambda: int(time.time()), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.embedder is None and self.reranker is None and self.index is None:
            raise InputError("nothing to serve; give an embedder, a reranker or an index")

    def names(self) -> Iterator[dict[str, object]]:
        """The rows of ``/v1/models``, with what clients of ours need to know of a model; loads those that are not."""
        for model in (self.embedder, self.reranker):
            if model is not None:
                loaded = model.get()
                yield {
                    "id": model.name,
                    "object": "model",
                    "created": self._since,
                    "owned_by": "nemotron-rag",
                    "kind": model.kind,
                    "identity": dict(loaded.identity),
                    "query_modalities": list(getattr(loaded, "query_modalities", ("text",))),
                }

    def embedder_for(self, name: str) -> tuple[LazyModel[AnyEmbedder], str | None]:
        """The embedder that a request names, and the role of its inputs where the name ends with one.

        Clients that cannot send ``input_type`` write ``NAME-query`` or ``NAME-passage``.

        Raises:
            UnknownModelError: there is no such model here.
        """
        found = self.embedder
        if found is not None:
            if name in ("", found.name):
                return found, None
            for role in ROLES:
                if name == f"{found.name}-{role}":
                    return found, role
        raise UnknownModelError(_missing("embedder", name, [] if found is None else [found.name]))

    def reranker_for(self, name: str) -> LazyModel[Reranker]:
        """The reranker that a request names.

        Raises:
            UnknownModelError: there is no such model here.
        """
        found = self.reranker
        if found is not None and name in ("", found.name):
            return found
        raise UnknownModelError(_missing("reranker", name, [] if found is None else [found.name]))


def _missing(kind: str, name: str, known: Sequence[str]) -> str:
    there = f"it has {known[0]!r}" if known else f"it has no {kind}"
    return f"this server has no {kind} named {name!r}; {there}"
