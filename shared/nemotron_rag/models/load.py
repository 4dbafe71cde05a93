"""Load models by catalog id, hub repository or local folder; equal settings share one set of weights.

Nothing imports torch until a model is loaded.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from nemotron_rag.errors import CheckpointError, InputError, MissingExtraError, UnknownModelError
from nemotron_rag.models import catalog, endpoints, families
from nemotron_rag.models._base.folders import refuse_adapter, refuse_quantized, saved_as
from nemotron_rag.models.families import Family
from nemotron_rag.remote.endpoint import Dialect, Endpoint, EndpointOptions
from nemotron_rag.runtime import import_local
from nemotron_rag.stores.server import is_url
from nemotron_rag.types import Kind, ModelSpec

if TYPE_CHECKING:
    from nemotron_rag.protocols import Embedder, MultiVectorEmbedder, Reranker

__all__ = [
    "LoadOptions",
    "ModelName",
    "check_model",
    "checkpoint_folder",
    "load_embedder",
    "load_model",
    "load_multivector_embedder",
    "load_reranker",
    "load_row",
    "model_kind",
    "normalised",
    "options_of",
    "takes",
]

ModelName = str | os.PathLike[str]
"""A catalog id, its hub repository, a local folder with a ``config.json``, or the url of a model server."""

_log = logging.getLogger("nemotron_rag")
_STARTERS = "nemotron_rag_starters"
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")
_DTYPES = ("float32", "bfloat16", "float16", "fp32", "bf16", "fp16")
_LENGTHS = ("text", "image", "image_text", "query")


class LoadOptions(TypedDict, total=False):
    """How a model is loaded: the keyword arguments of every function and class that takes a model by name.

    None means "not given". Options that do not apply to a model are refused.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best one available. Several between commas, as in
            ``cuda:0,cuda:1``, share the work, in a process for each but the first; results are the same.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None takes bfloat16 on CUDA, float16 on MPS, float32 on CPU.
        revision: of the hub repository, instead of the pinned one.
        dimensions: shorter vectors (Matryoshka), for models trained for it; None for all.
        max_input_tiles: tiles per image, thumbnail not counted; None for the catalog's or the folder's default.
        use_thumbnail: add the whole image as one small tile; None for the checkpoint's default.
        max_length: most tokens of a passage: one number, or numbers by ``text``, ``image``, ``image_text`` and
            ``query``; None for the model's own. Text is cut; image tokens never are. Of a reranker it counts the query.
        max_image_tokens: most tokens of an image, for models that read it at its own aspect ratio: those on Qwen-VL,
            and Nemotron 3.5. Larger ones are shrunk. None for the model's own. Fewer are faster and see less.
        instruction: for models that take one: what a query is embedded for, or what a reranker judges by. None for the
            published default, which passages always have; of an embedder that is named by its catalog id, for the
            authors' example of a search.
        compile: let torch.compile fuse the vision tower of a Llama-Nemotron VL model: minutes at its first images,
            and needs a C++ compiler or Triton. On a CPU it brings nothing; on a GPU it has not been measured.
        base_url: of a server that has the model, instead of this process: ``https://host`` or ``https://host/v1``. The
            name is then the server's. Options of how a model is loaded are the server's own; `dimensions` is sent.
        dialect: that the server speaks: ``nemotron-rag``, ``nim``, ``vllm``, ``openai``, ``cohere``, ``jina`` or
            ``tei``; None to find out.
        endpoint: how requests to it are made: a `nemotron_rag.remote.Endpoint`, or its options, such as ``api_key``
            and ``timeout``.
    """

    device: str | None
    dtype: str | None
    revision: str | None
    dimensions: int | None
    max_input_tiles: int | None
    use_thumbnail: bool | None
    max_length: int | Mapping[str, int] | None
    max_image_tokens: int | None
    instruction: str | None
    compile: bool | None
    base_url: str | None
    dialect: Dialect | None
    endpoint: Endpoint | EndpointOptions | Mapping[str, Any] | None


def options_of(settings: Mapping[str, Any]) -> LoadOptions:
    """The loading options among other settings of a component."""
    return cast("LoadOptions", {name: settings[name] for name in LoadOptions.__annotations__ if name in settings})


def normalised(options: Mapping[str, Any]) -> LoadOptions:
    """The options that are given, and among them an `Endpoint`, which does not show its key.

    Raises:
        InputError: an option of the endpoint is unknown or impossible.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "endpoint" in given:
        given["endpoint"] = Endpoint.of(given["endpoint"])
    return cast("LoadOptions", given)


def load_embedder(name_or_folder: ModelName, *, model: str | None = None, **options: Unpack[LoadOptions]) -> Embedder:
    """Load a model that turns queries and passages into one vector each, or connect to the server that has it.

    Args:
        name_or_folder: a catalog id, its hub repository, a local folder with a ``config.json``, or the url of a server.
        model: what a server that is given by its url calls the model; None for the only one of its kind.
        **options: see `LoadOptions`: ``device``, ``dtype``, ``revision``, ``dimensions``, ``max_input_tiles``,
            ``use_thumbnail``, ``max_length``, ``max_image_tokens``, ``instruction``, ``compile``; of servers
            ``base_url``, ``dialect``, ``endpoint``.

    Raises:
        UnknownModelError: no such id or folder, or the server has no such model.
        CheckpointError: the checkpoint is broken, or cannot be downloaded.
        InputError: the model is of another kind, or an option has an impossible value or means nothing to this model.
        EndpointError: the server cannot be reached, or its answer cannot be used.
        MissingExtraError: torch or transformers is not installed, or of a starter the extra `starters`.

    Example:
        >>> from nemotron_rag import load_embedder
        >>> load_embedder("starter-embed-vl").embed_queries(["Where do tornadoes form?"]).shape
        (1, 1024)
    """
    return cast("Embedder", _load(name_or_folder, model, "embedder", options))


def load_multivector_embedder(
    name_or_folder: ModelName, *, model: str | None = None, **options: Unpack[LoadOptions]
) -> MultiVectorEmbedder:
    """Load a model that turns queries and passages into one vector for each token, to be compared by MaxSim.

    Arguments and errors are those of `load_embedder`.

    Example:
        >>> from nemotron_rag import load_multivector_embedder
        >>> model = load_multivector_embedder("llama-nemotron-colembed-vl-3b-v2")  # doctest: +SKIP
        >>> model.embed_queries(["Where do tornadoes form?"])[0].shape[1]  # doctest: +SKIP
        3072
    """
    return cast("MultiVectorEmbedder", _load(name_or_folder, model, "multivector_embedder", options))


def load_reranker(name_or_folder: ModelName, *, model: str | None = None, **options: Unpack[LoadOptions]) -> Reranker:
    """Load a model that reads a query and a passage together and scores how well they match.

    Arguments and errors are those of `load_embedder`; `max_length` counts the query too.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> load_reranker("starter-rerank-vl").score("tornadoes", [Passage("Tornadoes form in storms.")]).shape
        (1,)
    """
    return cast("Reranker", _load(name_or_folder, model, "reranker", options))


def load_model(name_or_folder: ModelName, *kinds: Kind, **options: Unpack[LoadOptions]) -> object:
    """Load a model of one of these kinds; arguments and errors are those of `load_embedder`."""
    options = normalised(options)
    if endpoints.is_remote(name_or_folder, options):
        return endpoints.open_remote(name_or_folder, kinds, options).connect()
    found = _checked(name_or_folder, kinds, options)
    folder = _folder(name_or_folder, found.spec, options.get("revision"))
    return _build(folder, found, options)


def check_model(name_or_folder: ModelName, *kinds: Kind, **options: Unpack[LoadOptions]) -> Kind:
    """Check a name, kind and options as `load_model` does, without loading anything.

    Returns:
        The model's kind.

    Raises:
        UnknownModelError: no such id or folder.
        CheckpointError: the folder's config.json is missing, or of no supported family.
        InputError: the model is of another kind, or an option has an impossible value or means nothing to this model.
        MissingExtraError: it is a starter, and the extra `starters` is not installed.
    """
    options = normalised(options)
    if endpoints.is_remote(name_or_folder, options):
        return cast("Kind", endpoints.open_remote(name_or_folder, kinds, options).kind)
    return _checked(name_or_folder, kinds, options).family.kind


def load_row(
    spec: ModelSpec, *, folder: Path | None = None, download: bool = True, **options: Unpack[LoadOptions]
) -> object:
    """Load the model of a catalog row, of any kind.

    Args:
        spec: the row; it decides the family, whatever the config.json says.
        folder: with the weights; None for the extra `starters` or the model hub.
        download: whether weights that are not in the hub's cache may be downloaded.
        **options: see `LoadOptions`.

    Raises:
        CheckpointError: the weights are broken, or not in the cache.
        InputError: an option means nothing to this model.
        MissingExtraError: it is a starter, and the extra `starters` is not installed.
    """
    place = folder or _folder(spec.id, spec, None, download=download)
    refuse_adapter(place)
    found = _Found(spec.id, families.family_of(spec.family), spec)
    _check_options(found, options)
    return _build(place, found, options, pinned=folder is None)


def checkpoint_folder(spec: ModelSpec, *, download: bool = True) -> Path:
    """The folder with the weights of a catalog row, from the extra `starters` or the model hub.

    Raises:
        CheckpointError: they are not in the hub's cache and may not be downloaded, or the row is not on the hub.
        MissingExtraError: an extra is not installed.
    """
    return _folder(spec.id, spec, None, download=download)


def model_kind(name_or_folder: ModelName) -> Kind:
    """Return the kind of a model, without loading it.

    A folder of Qwen3-VL can be an embedder or a reranker, its files are alike; it counts as an embedder here.

    Raises:
        UnknownModelError: no such id or folder.
        CheckpointError: the folder's config.json is missing, or of no supported family.

    Example:
        >>> model_kind("starter-embed-vl")
        'embedder'
    """
    return _find(name_or_folder).family.kind


def takes(name_or_folder: ModelName, option: str, *kinds: Kind) -> bool:
    """Whether an option of `LoadOptions` applies to a model of these kinds; errors are those of `model_kind`."""
    return option in ("device", "dtype") or option in _find(name_or_folder, *kinds).family.options


def _load(name: ModelName, model: str | None, kind: Kind, options: LoadOptions) -> object:
    if model is None:
        return load_model(name, kind, **options)
    if not is_url(name) or options.get("base_url") is not None:
        raise InputError(f"model={model!r} goes with the url of a server in first place; give base_url= with a name")
    return load_model(model, kind, **cast("LoadOptions", {**options, "base_url": name}))


@dataclass(frozen=True, slots=True)
class _Found:
    """A name that was resolved; `spec` is None for a local folder."""

    name: str
    family: Family
    spec: ModelSpec | None


def _find(name_or_folder: ModelName, *kinds: Kind) -> _Found:
    name = os.fspath(name_or_folder)
    try:
        spec = catalog.find(name, *kinds)
    except UnknownModelError:
        if not Path(name).is_dir():
            raise
        return _Found(name, _family(Path(name), *kinds), None)
    return _Found(spec.id, families.family_of(spec.family), spec)


def _checked(name_or_folder: ModelName, kinds: tuple[Kind, ...], options: LoadOptions) -> _Found:
    found = _find(name_or_folder, *kinds)
    if found.family.kind not in kinds:
        kind, wanted = found.family.kind, " or ".join(kinds)
        instead = f"load it with load_{kind}"
        if kind == "multivector_embedder":
            instead += f", or make an index with PageIndex(embedder={found.name!r}), which the retrievers search"
        raise InputError(f"{found.name} is of kind {kind}, wanted {wanted}; {instead}")
    _check_options(found, options)
    if found.spec and found.spec.starter:
        _import_starters()
    return found


def _check_options(found: _Found, options: LoadOptions) -> None:
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in LoadOptions.__annotations__:
            raise InputError(f"{key!r} is not an option; give one of: {', '.join(LoadOptions.__annotations__)}")
        if key in ("dialect", "endpoint"):
            raise InputError(f"{key}= is about a server, and {found.name} is loaded here; give base_url= as well")
        if key not in found.family.options and key not in ("device", "dtype", "revision", "compile"):
            raise InputError(f"{found.name} has no use for {key}; leave it out")
    if given.get("compile") and "compile" not in found.family.options:
        raise InputError(f"{found.name} has no use for compile; leave it out")
    if "revision" in given and (found.spec is None or found.spec.repo is None):
        raise InputError(
            f"revision={given['revision']!r} was given, but {found.name} is not on the model hub; leave it out"
        )
    _check_values(given)
    dimensions = given.get("dimensions")
    if found.spec and dimensions is not None and dimensions not in found.spec.dimensions:
        known = ", ".join(map(str, found.spec.dimensions))
        raise InputError(f"{found.name} has vectors of {known} dimensions, got dimensions={dimensions}")


def _check_values(given: Mapping[str, Any]) -> None:
    for name in ("dimensions", "max_input_tiles", "max_image_tokens"):
        if name in given and not _is_positive(given[name]):
            raise InputError(f"{name} must be a positive integer, got {given[name]!r}")
    devices = given.get("device", "cpu")
    if not isinstance(devices, str) or not all(_DEVICE.fullmatch(one.strip()) for one in devices.split(",")):
        raise InputError(f"device must be 'cpu', 'cuda', 'cuda:N' or 'mps', got {devices!r}")
    if given.get("dtype", "float32") not in _DTYPES:
        raise InputError(f"dtype must be one of {', '.join(_DTYPES[:3])}, got {given['dtype']!r}")
    _check_length(given.get("max_length", 1))
    if not isinstance(given.get("instruction", ""), str):
        raise InputError(f"instruction must be a str, got {given['instruction']!r}")


def _check_length(length: object) -> None:
    numbers = length if isinstance(length, Mapping) else {"text": length}
    for key, number in numbers.items():
        if key not in _LENGTHS:
            raise InputError(f"max_length has no key {key!r}; give an int or keys out of: {', '.join(_LENGTHS)}")
        if not _is_positive(number):
            raise InputError(f"max_length must be a positive integer, or such integers by modality; got {length!r}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _build(folder: Path, found: _Found, options: LoadOptions, *, pinned: bool = True) -> object:
    spec = found.spec
    refuse_quantized(folder, found.family.module)
    if spec and spec.starter:
        _log.info("%s is a tiny model of the nemotron-rag project for trying things out, not one of NVIDIA's", spec.id)
    if spec and not spec.commercial:
        _warn_of_licence(spec.id, spec.licence)
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if not given.get("compile"):
        given.pop("compile", None)
    if spec and spec.max_input_tiles:
        given.setdefault("max_input_tiles", spec.max_input_tiles)
    if spec and spec.instruction:
        given.setdefault("instruction", spec.instruction)
    revision = given.pop("revision", None)
    if spec and spec.repo and pinned:
        revision = revision or spec.revision
    place = {name: given.pop(name, None) for name in ("device", "dtype")}
    module = import_local(f"nemotron_rag.models.{found.family.module}")
    return cast("object", module.load(folder, name=found.name, revision=revision, **place, **given))


def _folder(name_or_folder: ModelName, spec: ModelSpec | None, revision: str | None, *, download: bool = True) -> Path:
    if spec is None:
        return Path(name_or_folder).resolve()
    if spec.starter:
        return cast("Path", _import_starters().checkpoint(spec.id))
    if spec.repo is None:
        raise CheckpointError(f"the weights of {spec.id} are not on the model hub; give a local folder that holds them")
    wanted = revision or spec.revision
    assert wanted is not None  # a test holds every hub row to a pinned revision
    return cast(
        "Path", import_local("nemotron_rag.runtime.hub").download(spec.repo, revision=wanted, only_cached=not download)
    )


def _family(folder: Path, *kinds: Kind) -> Family:
    """Detect the family of a local checkpoint by its config.json."""
    refuse_adapter(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = families.find_family({**config, "saved_as": saved_as(folder)}, *kinds)
    except UnknownModelError as error:
        raise CheckpointError(f"folder {folder} holds {error}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"folder {folder} holds no config.json with a model_type: {error!r}") from error
    refuse_quantized(folder, found.module)
    return found


@cache  # logged once
def _warn_of_licence(name: str, licence: str) -> None:
    _log.warning("the weights of %s may not be used commercially; their licence: %s", name, licence)


def _import_starters() -> Any:
    """The package with the starter checkpoints."""
    try:
        return importlib.import_module(_STARTERS)
    except ModuleNotFoundError as error:
        if error.name != _STARTERS:
            raise
        raise MissingExtraError(_STARTERS, "starters") from error
