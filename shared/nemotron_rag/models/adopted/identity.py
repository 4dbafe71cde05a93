"""What tells one adopted model from another: its weights, how it pools, its prompts, lengths and dimensions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["identity_of", "name_of"]

_SAMPLE = 256  # numbers of each tensor; training changes all of them
_SUFFIX = " (sentence-transformers)"


def name_of(model: Any) -> str:
    """What the model calls itself: the repository or folder it came from, else its class.

    The ending keeps it apart from our own models of the same repository.
    """
    card = getattr(model, "model_card_data", None)
    known = getattr(card, "base_model", None) or getattr(_network(model), "name_or_path", None)
    return (os.fspath(known) if isinstance(known, str | os.PathLike) and known else type(model).__name__) + _SUFFIX


def identity_of(model: Any, **more: str | int | bool | None) -> dict[str, str | int | bool | None]:
    """Everything that decides what the model computes, as far as it shows from outside.

    Weights are compared by a sample of every tensor, rounded to bfloat16: the same in float32 and bfloat16, on every
    device, wherever the files lie. A model without PyTorch weights is known by its name and revision.

    Args:
        model: of sentence-transformers.
        **more: of one kind of model alone.
    """
    weights = _weights(model)
    prompts = getattr(model, "prompts", None)
    prompts = dict(prompts) if isinstance(prompts, Mapping) else {}
    card = getattr(model, "model_card_data", None)
    origin = {} if weights else {"model": name_of(model), "revision": getattr(card, "base_model_revision", None)}
    length = getattr(model, "max_seq_length", None)
    return {
        "family": "sentence_transformers",
        **origin,
        **({"weights": weights} if weights else {}),
        "instruction": str(prompts.pop("query", "")),
        "prompts": repr(sorted((str(name), str(text)) for name, text in prompts.items() if text)),
        "max_seq_length": int(length) if isinstance(length, int) else None,
        **more,
    }


def _network(model: Any) -> Any:
    """The transformers model in it, if it has one."""
    return getattr(model, "transformers_model", None)


def _weights(model: Any) -> str | None:
    """A digest of the weights and of how they are pooled; None if there are none to be read."""
    state = getattr(model, "state_dict", None)
    tensors = dict(state()) if callable(state) else {}
    if not tensors:
        return None
    digests = sorted(_digest(tensor) for tensor in tensors.values())  # names differ between versions of transformers
    whole = hashlib.sha256("\n".join([*digests, *_modules(model)]).encode())
    return whole.hexdigest()[:16]


def _digest(tensor: Any) -> str:
    found = hashlib.sha256(repr(tuple(tensor.shape)).encode())
    if getattr(tensor, "is_meta", False) or not tensor.numel():  # its values are elsewhere
        return found.hexdigest()
    step = max(1, tensor.numel() // _SAMPLE)
    sample = tensor.detach().reshape(-1)[::step][:_SAMPLE].cpu()
    found.update(sample.float().bfloat16().float().numpy().tobytes())
    return found.hexdigest()


def _modules(model: Any) -> Iterator[str]:
    """The kinds of its modules, and how they pool."""
    children = getattr(model, "children", None)
    for module in children() if callable(children) else ():
        pooling = getattr(module, "pooling_mode", "")
        yield f"{type(module).__name__} {pooling}"
