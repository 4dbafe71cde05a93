"""Arguments with which other packages load a model, as our own; and the model, loaded at first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import InputError
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.load import LoadOptions, ModelName, takes
from nemotron_rag.types import Kind

__all__ = ["Loaded", "options_from"]

_SAME = (
    "device",
    "dtype",
    "revision",
    "max_input_tiles",
    "use_thumbnail",
    "max_length",
    "max_image_tokens",
    "dimensions",
    "instruction",
)
_IGNORED = ("trust_remote_code", "attn_implementation", "low_cpu_mem_usage")  # settled here, whatever they say
_NESTED = ("model_kwargs", "processor_kwargs", "tokenizer_kwargs", "config_kwargs", "automodel_args")
_HARMLESS: Mapping[str, Any] = {"backend": "torch", "local_files_only": False, "similarity_fn_name": "cosine"}
_RENAMED = {
    "device_map": "device",
    "torch_dtype": "dtype",
    "truncate_dim": "dimensions",
    "p_max_length": "max_length",
    "rerank_max_length": "max_length",
    "model_max_length": "max_length",
}
_INSTEAD = {
    "cache_folder": "weights are in the hub's cache; set the environment variable HF_HOME",
    "cache_dir": "weights are in the hub's cache; set the environment variable HF_HOME",
    "token": "log in with the hub's own command, or set the environment variable HF_TOKEN",
    "use_auth_token": "log in with the hub's own command, or set the environment variable HF_TOKEN",
    "local_files_only": "set the environment variable HF_HUB_OFFLINE=1",
    "prompts": "prompts are the model's own; give instruction= to models that take one",
    "default_prompt_name": "prompts are the model's own; call encode_query or encode_document",
    "quantization_config": "quantised weights are not loaded; give dtype=",
}


def options_from(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments of another package's constructor are here.

    ``trust_remote_code`` and ``attn_implementation`` mean nothing: no code of a checkpoint runs, and attention is ours.

    Args:
        arguments: of ``SentenceTransformer(...)``, ``CrossEncoder(...)`` or ``from_pretrained(...)``; those in
            ``model_kwargs``, ``processor_kwargs`` and their like count as well. None is "not given".

    Raises:
        InputError: one of them means nothing here.
    """
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        flat |= dict(value or {}) if name in _NESTED else {name: value}
    options: dict[str, Any] = {}
    for name, value in flat.items():
        if value is None or name in _IGNORED or _HARMLESS.get(name, ...) == value:
            continue
        known = _RENAMED.get(name, name)
        if known not in _SAME:
            raise InputError(_refusal(name, value))
        options[known] = _READ.get(known, _as_it_is)(value)
    return {name: value for name, value in options.items() if value is not None}


def _refusal(name: str, value: Any) -> str:
    shown = "" if "token" in name else f"={value!r}"
    return f"{name}{shown} means nothing here; {_INSTEAD.get(name, 'leave it out')}"


def _as_it_is(value: Any) -> Any:
    return value


def _device(value: Any) -> str | None:
    if isinstance(value, Mapping):  # {"": 0}
        value = next(iter(value.values()), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"cuda:{value}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(each) for each in value)
    return None if value in ("auto", None) else str(value)


def _dtype(value: Any) -> str | None:
    name = str(value).removeprefix("torch.")
    return None if name == "auto" else name


_READ: Mapping[str, Callable[[Any], Any]] = {"device": _device, "dtype": _dtype}


class Loaded:
    """A model in another call shape: named now, loaded at first use, and moved like a module of PyTorch.

    Args:
        model: a catalog id, its hub repository, a local folder, or a loaded model.
        *kinds: that it may be.
        image_hosts: from which images named by their address may be fetched.
        **options: see `LoadOptions`.
    """

    def __init__(self, model: ModelName | Any, *kinds: Kind, image_hosts: Sequence[str] = (), **options: Any) -> None:
        self._source, self._kinds, self._options = model, kinds, options
        self._access = ImageAccess(hosts=image_hosts)
        self._lazy: LazyModel[Any] = LazyModel(model, *kinds, **cast("LoadOptions", options))

    @property
    def native(self) -> Any:
        """The `Embedder`, `MultiVectorEmbedder` or `Reranker` behind it, loaded if need be."""
        return self._lazy.get()

    def eval(self) -> Self:
        """Itself: nothing is trained here."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Itself, on another device or in another dtype from its next use on."""
        for value in (*args, *kwargs.values()):
            name = str(value).removeprefix("torch.")
            self._set(**({"device": name} if name.split(":")[0] in ("cpu", "cuda", "mps") else {"dtype": name}))
        return self

    def cuda(self, device: int | None = None) -> Self:
        """Itself, on a GPU from its next use on."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def cpu(self) -> Self:
        """Itself, on the CPU from its next use on."""
        return self.to("cpu")

    def half(self) -> Self:
        """Itself, in float16 from its next use on."""
        return self.to("float16")

    def close(self) -> None:
        """Free the weights; the next use loads them again."""
        self._lazy.close()

    def _set(self, **options: Any) -> None:
        """Load with these options from the next use on; those that the model has no use for are passed over."""
        known = {name: value for name, value in options.items() if self._takes(name)}
        if {**self._options, **known} != self._options:
            self._options = {**self._options, **known}
            self._lazy = LazyModel(self._source, *self._kinds, **cast("LoadOptions", self._options))

    def _takes(self, option: str) -> bool:
        return self._lazy.is_given or takes(self._lazy.name, option, *self._kinds)
