"""From a name to a loaded model: catalog id or local folder -> family -> one shared set of weights.

It imports no torch until something is loaded.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nemotron_rag import catalog, families
from nemotron_rag.errors import CheckpointError, InputError, MissingExtraError, UnknownModelError
from nemotron_rag.types import Kind, ModelSpec

if TYPE_CHECKING:
    from nemotron_rag.protocols import Embedder, MultiVectorEmbedder, Reranker

__all__ = ["load_embedder", "load_multivector_embedder", "load_reranker", "load_row", "model_kind"]

_log = logging.getLogger("nemotron_rag")
_SHIPPED = Path(__file__).parent / "checkpoints"


def load_embedder(
    name_or_folder: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    dimensions: int | None = None,
    max_input_tiles: int | None = None,
    use_thumbnail: bool | None = None,
    max_length: int | Mapping[str, int] | None = None,
    compile: bool = False,
) -> Embedder:
    """Load a model that turns queries and passages into one vector each.

    Args:
        name_or_folder: a catalog id, its hub repository, or a local folder with a ``config.json``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best one there is. Several between commas, as in
            ``cuda:0,cuda:1``, share the work, in a process for each but the first; results are those of one.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None takes bfloat16 on CUDA, float16 on MPS, float32 on CPU.
        revision: of the hub repository, instead of the pinned one.
        dimensions: shorter vectors (Matryoshka), for models trained for it; None for all.
        max_input_tiles: tiles per image, thumbnail not counted; None for what the catalog or a local folder says.
        use_thumbnail: show a cut image as one small tile too; None for what the checkpoint says.
        max_length: most tokens of a passage: one number, or numbers by ``text``, ``image``, ``image_text`` and
            ``query``; None for 8192, 2048, 10240 and 512, for text models 8192. Text is cut; image tokens never are.
        compile: let torch.compile fuse the vision tower of a Llama-Nemotron VL model: minutes at its first pictures,
            and a C++ compiler or Triton must be there. On CUDA, single questions are replayed from CUDA graphs besides.
            On a CPU it brings nothing; on a GPU it has not been measured.

    Raises:
        UnknownModelError: no such id or folder.
        CheckpointError: the checkpoint is broken, of another kind, or cannot be downloaded.
        InputError: an argument has an impossible value, or means nothing to this model.
        MissingExtraError: torch or transformers is not installed.

    Example:
        >>> from nemotron_rag import load_embedder
        >>> load_embedder("starter-embed-vl").embed_queries(["Where do tornadoes form?"]).shape
        (1, 1024)
    """
    options = {
        "dimensions": dimensions,
        "max_input_tiles": max_input_tiles,
        "use_thumbnail": use_thumbnail,
        "max_length": max_length,
        "compile": compile or None,
    }
    return cast("Embedder", _load(name_or_folder, "embedder", device, dtype, revision, options))


def load_multivector_embedder(
    name_or_folder: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    max_input_tiles: int | None = None,
    use_thumbnail: bool | None = None,
    max_length: int | Mapping[str, int] | None = None,
    compile: bool = False,
) -> MultiVectorEmbedder:
    """Load a model that turns queries and passages into one vector for each token, to be compared by MaxSim.

    Arguments and errors are those of `load_embedder`.

    Example:
        >>> from nemotron_rag import load_multivector_embedder
        >>> model = load_multivector_embedder("llama-nemotron-colembed-vl-3b-v2")  # doctest: +SKIP
        >>> model.embed_queries(["Where do tornadoes form?"])[0].shape[1]  # doctest: +SKIP
        3072
    """
    options = {"max_input_tiles": max_input_tiles, "use_thumbnail": use_thumbnail, "max_length": max_length}
    options["compile"] = compile or None
    found = _load(name_or_folder, "multivector_embedder", device, dtype, revision, options)
    return cast("MultiVectorEmbedder", found)


def load_reranker(
    name_or_folder: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    max_input_tiles: int | None = None,
    use_thumbnail: bool | None = None,
    max_length: int | Mapping[str, int] | None = None,
    compile: bool = False,
) -> Reranker:
    """Load a model that reads a query and a passage together and scores how well they match.

    Arguments and errors are those of `load_embedder`; `max_length` counts the query too.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> load_reranker("starter-rerank-vl").score("tornadoes", [Passage("Tornadoes form in storms.")]).shape
        (1,)
    """
    options = {"max_input_tiles": max_input_tiles, "use_thumbnail": use_thumbnail, "max_length": max_length}
    options["compile"] = compile or None
    return cast("Reranker", _load(name_or_folder, "reranker", device, dtype, revision, options))


def load_row(
    spec: ModelSpec,
    *,
    folder: Path | None = None,
    download: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    max_input_tiles: int | None = None,
) -> object:
    """Load the model of a catalog row, of whatever kind it is.

    Args:
        spec: the row; it decides the family, whatever the config.json says.
        folder: with the weights; None for the package or the model hub.
        download: whether the hub may be asked for weights that are not in its cache.
        device: as for `load_embedder`.
        dtype: as for `load_embedder`.
        max_input_tiles: as for `load_embedder`.

    Raises:
        CheckpointError: the weights are broken or not at hand.
        InputError: an argument means nothing to this model.
    """
    place = folder or _folder(spec.id, spec, None, download=download)
    revision = None if folder else spec.revision
    options = {"max_input_tiles": max_input_tiles}
    return _build(place, spec.family, spec.id, spec, revision, device, dtype, options)


def model_kind(name_or_folder: str | os.PathLike[str]) -> Kind:
    """What a model is, and so which of the above loads it; nothing is loaded here.

    Raises:
        UnknownModelError: no such id or folder.
        CheckpointError: the folder's config.json is missing, or of no supported family.

    Example:
        >>> model_kind("starter-embed-vl")
        'embedder'
    """
    spec = _spec(name_or_folder)
    return spec.kind if spec else _family(Path(name_or_folder))[1]


def _load(
    name_or_folder: str | os.PathLike[str],
    kind: Kind,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    options: dict[str, Any],
) -> object:
    spec = _spec(name_or_folder)
    name = spec.id if spec else os.fspath(name_or_folder)
    _check_options(name, spec, revision, options)
    folder = _folder(name_or_folder, spec, revision)
    family, found = (spec.family, spec.kind) if spec else _family(folder)
    if found != kind:
        raise CheckpointError(f"{name} is of kind {found}, wanted {kind}; load it with load_{found}")
    pinned = (revision or spec.revision) if spec and spec.repo else None
    return _build(folder, family, name, spec, pinned, device, dtype, options)


def _build(
    folder: Path,
    family: str,
    name: str,
    spec: ModelSpec | None,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    options: dict[str, Any],
) -> object:
    if spec and spec.shipped:
        _log.info("%s is a tiny model of the nemotron-rag project for trying things out, not one of NVIDIA's", name)
    if spec and not spec.commercial:
        _warn_of_licence(spec.id, spec.licence)
    if spec and spec.max_input_tiles and options["max_input_tiles"] is None:
        options["max_input_tiles"] = spec.max_input_tiles
    module = _import_family(family)
    given = {key: value for key, value in options.items() if value is not None}
    _check_understood(name, given, module.load)
    return module.load(folder, name=name, revision=revision, device=device, dtype=dtype, **given)


def _spec(name_or_folder: str | os.PathLike[str]) -> ModelSpec | None:
    """The catalog row, or None for a local folder."""
    name = os.fspath(name_or_folder)
    try:
        return catalog.find(name)
    except UnknownModelError:
        if not Path(name).is_dir():
            raise
        return None


def _check_options(name: str, spec: ModelSpec | None, revision: str | None, options: Mapping[str, Any]) -> None:
    if revision is not None and (spec is None or spec.repo is None):
        raise InputError(f"revision={revision!r} was given, but {name} is not on the model hub; leave it out")
    dimensions = options.get("dimensions")
    if spec and dimensions is not None and dimensions not in spec.dimensions:
        known = ", ".join(map(str, spec.dimensions))
        raise InputError(f"{name} has vectors of {known} dimensions, got dimensions={dimensions}")


def _folder(
    name_or_folder: str | os.PathLike[str], spec: ModelSpec | None, revision: str | None, *, download: bool = True
) -> Path:
    if spec is None:
        return Path(name_or_folder).resolve()
    if spec.shipped:
        return _SHIPPED / spec.id
    if spec.repo is None:
        raise CheckpointError(f"the weights of {spec.id} are not on the model hub; give a local folder that holds them")
    wanted = revision or spec.revision
    assert wanted is not None  # a test holds every hub row to a pinned revision
    return cast("Path", import_runtime("hub").download(spec.repo, revision=wanted, only_cached=not download))


def _family(folder: Path) -> tuple[str, Kind]:
    """Family and kind of a local checkpoint, by its config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = families.find_family(config)
    except UnknownModelError as error:
        raise CheckpointError(f"folder {folder} holds {error}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"folder {folder} holds no config.json with a model_type: {error!r}") from error
    return family.module, family.kind


def _check_understood(name: str, options: Mapping[str, Any], load: Callable[..., object]) -> None:
    """A family takes the options that mean something to it; the others must not be ignored."""
    known = inspect.signature(load).parameters
    for key in options:
        if key not in known:
            raise InputError(f"{name} has no use for {key}; leave it out")


@cache  # said once
def _warn_of_licence(name: str, licence: str) -> None:
    _log.warning("the weights of %s may not be used commercially; their licence: %s", name, licence)


def _import_family(family: str) -> Any:
    return _import_local(f"nemotron_rag.models.{family}")


def import_runtime(module: str) -> Any:
    """A module of `runtime`, which needs torch.

    Raises:
        MissingExtraError: torch or what comes with it is not installed.
    """
    return _import_local(f"nemotron_rag.runtime.{module}")


def _import_local(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("nemotron_rag"):
            raise
        raise MissingExtraError(error.name, "local") from error
