"""Models by name at a server: what the catalog knows of them, and which options are left to the server."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nemotron_rag.errors import InputError, MissingExtraError, UnknownModelError
from nemotron_rag.models import catalog
from nemotron_rag.models.families import family_of
from nemotron_rag.stores.server import shown_url
from nemotron_rag.types import Kind, ModelSpec

__all__ = ["REMOTE_OPTIONS", "is_remote", "open_remote"]

REMOTE_OPTIONS = ("base_url", "dialect", "endpoint")
"""The options of `LoadOptions` that say where a model is; all others but ``dimensions`` say how it is loaded."""

_CLASSES = {
    "embedder": ("embedders", "RemoteEmbedder"),
    "multivector_embedder": ("embedders", "RemoteMultiVectorEmbedder"),
    "reranker": ("rerankers", "RemoteReranker"),
}


def is_remote(name: object, options: Mapping[str, Any]) -> bool:
    """Whether a server has the model."""
    return options.get("base_url") is not None or (isinstance(name, str) and "://" in name)


def open_remote(name: str | os.PathLike[str], kinds: Sequence[Kind], options: Mapping[str, Any]) -> Any:
    """The model of a server, which is not asked anything yet.

    Args:
        name: of the model, or the url of the server.
        kinds: that are allowed. Of a model that is not in the catalog it is the first of them.
        options: see `LoadOptions`.

    Raises:
        InputError: the model is of another kind, or an option is left to the server or cannot be used.
        MissingExtraError: httpx is not installed.
    """
    given = {key: value for key, value in options.items() if value is not None}
    is_place = "://" in os.fspath(name)
    if is_place and "base_url" in given:
        shown = shown_url(os.fspath(name))
        raise InputError(f"got two urls, {shown} and base_url=; give the model's name and base_url=")
    base_url = os.fspath(name) if is_place else given.pop("base_url")
    spec = None if is_place else _row(os.fspath(name))
    kind = _kind(spec, kinds)
    allowed = ("dialect", "endpoint", *(() if kind == "reranker" else ("dimensions",)))
    if left := [key for key in given if key not in allowed]:
        named = ", ".join(f"{key}=" for key in left)
        raise InputError(f"{named} is up to the server at {shown_url(base_url)}; leave it out")
    module, cls = _CLASSES[kind]
    return _import_remote(module, cls)(
        None if is_place else os.fspath(name), base_url=base_url, known=_known(spec), **given
    )


def _row(name: str) -> ModelSpec | None:
    try:
        return catalog.find(name)
    except UnknownModelError:
        return None


def _kind(spec: ModelSpec | None, kinds: Sequence[Kind]) -> Kind:
    if spec is None:
        return kinds[0]
    if spec.kind not in kinds:
        wanted = " or ".join(kinds)
        raise InputError(f"{spec.id} is of kind {spec.kind}, wanted {wanted}; load it with load_{spec.kind}")
    return spec.kind


def _known(spec: ModelSpec | None) -> Any:
    known = _import_remote("model", "Known")
    if spec is None:
        return known()
    prefixes = {"query_prefix": "query: ", "passage_prefix": "passage: "} if family_of(spec.family).has_prefixes else {}
    aliases = tuple(name for name in (spec.repo, spec.id, f"nvidia/{spec.id}") if name is not None)
    return known(name=spec.id, aliases=aliases, modalities=spec.modalities, **prefixes)


def _import_remote(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"nemotron_rag.remote.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise MissingExtraError("httpx", "remote") from error
