"""Which systems an evaluation compares: models, modalities, modes and rerankers, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from nemotron_rag.documents.files import shown_url
from nemotron_rag.errors import InputError, UnknownModelError
from nemotron_rag.index import Mode
from nemotron_rag.models import catalog
from nemotron_rag.models.lazy import RANKERS, LazyModel
from nemotron_rag.models.load import LoadOptions, ModelName, takes
from nemotron_rag.protocols import AnyEmbedder, Reranker
from nemotron_rag.ranking import DEFAULT_CANDIDATES, check_count
from nemotron_rag.types import Kind, Modality, ModelSpec

__all__ = ["Planned", "as_list", "check_k", "lazy_models", "model_settings", "plan"]

_COMMON = ("device", "dtype", "max_input_tiles", "use_thumbnail", "max_image_tokens", "compile")
_SECRET = ("endpoint",)  # may hold a key
_SEEN: Mapping[Modality, str] = {"text": "text", "image": "image", "image_text": "image and text"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One system over an index.

    Args:
        name: for people, unlike that of any other system.
        modality: what models see of a page; None over an index of the user's.
        mode: see `PageIndex.search`.
        reranker: None for none.
        candidates: None for the default.
    """

    name: str
    modality: Modality | None
    mode: Mode | None
    reranker: LazyModel[Reranker] | None = None
    candidates: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Plain JSON values, all that decides what is found in an index."""
        reranker = None if self.reranker is None else model_settings(self.reranker)
        count = None if reranker is None else self.candidates or DEFAULT_CANDIDATES
        return {"modality": self.modality, "mode": self.mode, "reranker": reranker, "candidates": count}


def as_list(given: T | Sequence[T] | None) -> list[T]:
    """One or several -> a list."""
    if given is None:
        return []
    return [*given] if isinstance(given, list | tuple | set | frozenset) else [given]  # type: ignore[list-item]


def check_k(k: int | Sequence[int]) -> tuple[int, ...]:
    """The cut-offs, ascending.

    Raises:
        InputError: one is not a positive integer, or there is none.
    """
    found = as_list(k)
    for each in found:
        check_count("k", each)
    if not found or None in found:
        raise InputError(f"k must be one or several positive integers, got {k!r}")
    return tuple(sorted({*found}))


def lazy_models(
    embedders: Iterable[ModelName | AnyEmbedder], rerankers: Iterable[ModelName | Reranker], options: LoadOptions
) -> tuple[list[LazyModel[AnyEmbedder]], list[LazyModel[Reranker]]]:
    """The models, checked but not loaded. A reranker follows those of the options that it takes.

    Raises:
        NemotronRagError: a name or an option is wrong.
    """
    kinds: tuple[Kind, ...] = ("embedder", "multivector_embedder")
    found = [LazyModel[AnyEmbedder](each, *kinds, **_options_for(each, options)) for each in embedders]
    return found, [LazyModel(each, *RANKERS, **_options_of_reranker(each, options)) for each in rerankers]


def model_settings(model: LazyModel[Any]) -> dict[str, Any]:
    """All that tells a model from another one, as plain JSON: of a folder also the sizes and dates of its files."""
    options = {name: shown_url(str(value)) for name, value in model.options.items() if name not in _SECRET}
    settings: dict[str, Any] = {"name": shown_url(model.name), "options": options}
    if model.is_given:
        settings["identity"] = dict(model.identity or {})
    folder = Path(model.name)
    if _spec(model) is None and folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        settings["files"] = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return settings


def plan(
    embedder: LazyModel[AnyEmbedder] | None,
    *,
    name: str,
    modalities: Sequence[Modality],
    modes: Sequence[Mode | None],
    rerankers: Sequence[LazyModel[Reranker]],
    candidates: Sequence[int],
    k: int,
    notes: list[str],
) -> Iterator[Planned]:
    """The systems over one embedder, or over an index of the user's: without a reranker, then with each of them.

    Args:
        embedder: None for an index, which has its own.
        name: of the embedder or index.
        modalities: of them what the embedder can read.
        modes: of them those that it has.
        rerankers: each is tried.
        candidates: likewise; empty for the default.
        k: pages that are returned.
        notes: what was left out is added to these.

    Raises:
        InputError: there is no such modality or mode, or fewer candidates than `k`.
    """
    _check(modalities, modes, candidates, k)
    depths = [*candidates] or [max(DEFAULT_CANDIDATES, k)]
    seen: list[Modality | None] = [*modalities] if embedder is not None else [None]
    for modality, mode in product(seen, modes):
        if reason := _cannot(embedder, modality, mode):
            _note(notes, f"{name} is left out {reason}")
            continue
        label = [name, *([_SEEN[modality]] if modality and len(seen) > 1 else []), *([mode] if mode else [])]
        yield Planned(name=", ".join(label), modality=modality, mode=mode)
        for reranker, depth in product(rerankers, depths):
            if reason := _cannot(reranker, modality, None):
                _note(notes, f"{', '.join(label)} with {reranker.name} is left out {reason}")
                continue
            more = f" ({depth} candidates)" if len(depths) > 1 else ""
            yield Planned(
                name=f"{', '.join(label)}, then {_short(reranker.name)}{more}",
                modality=modality,
                mode=mode,
                reranker=reranker,
                candidates=depth,
            )


def _check(modalities: Sequence[Modality], modes: Sequence[Mode | None], candidates: Sequence[int], k: int) -> None:
    for name, given, choices in (("modality", modalities, Modality), ("mode", modes, Mode)):
        if wrong := [each for each in given if each is not None and each not in get_args(choices)]:
            raise InputError(f"{name} must be one of {', '.join(get_args(choices))}; got {wrong[0]!r}")
    for count in candidates:
        check_count("candidates", count)
        if count < k:
            raise InputError(f"candidates must be at least the largest k, {k}, got {count}")


def _note(notes: list[str], note: str) -> None:
    if note not in notes:
        notes.append(note)


def _cannot(model: LazyModel[Any] | None, modality: Modality | None, mode: Mode | None) -> str:
    """Why a model cannot do it; "" if it can, or if that is not known."""
    if model is None:
        return ""
    if mode == "multi" and model.kind == "embedder":
        return "in mode 'multi': it gives one vector a page"
    spec = _spec(model)
    if spec is None or modality is None or modality in spec.modalities:
        return ""
    if modality == "image_text" and "image" in spec.modalities:
        return ""  # it reads what it can of a page that has both
    return f"for {_SEEN[modality]}: it reads {' or '.join(_SEEN[each] for each in spec.modalities)}"


def _spec(model: LazyModel[Any]) -> ModelSpec | None:
    try:
        return catalog.find(model.name)
    except UnknownModelError:
        return None


def _short(name: str) -> str:
    return Path(name).name or name


def _options_of_reranker(model: object, options: LoadOptions) -> LoadOptions:
    """Those of the embedders' options that a reranker has, too."""
    if not isinstance(model, str | os.PathLike):
        return LoadOptions()
    common: Mapping[str, Any] = options
    taken = {name: common[name] for name in _COMMON if name in common and takes(model, name, *RANKERS)}
    return cast("LoadOptions", taken)


def _options_for(model: object, options: LoadOptions) -> LoadOptions:
    return options if isinstance(model, str | os.PathLike) else LoadOptions()
