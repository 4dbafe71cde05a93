"""Base class of loaded models: one set of weights, one worker, packed batches."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from nemotron_rag._forking import Lock, renewed_in_child
from nemotron_rag.documents.held import holding_images
from nemotron_rag.runtime.batching import Compute, Sized
from nemotron_rag.runtime.budget import layer_bytes, tokens_at_once
from nemotron_rag.runtime.device import resolve_device, resolve_dtype, split_devices
from nemotron_rag.runtime.processes.forked import check_device, lost, settle_torch
from nemotron_rag.runtime.processes.replica import Replica
from nemotron_rag.runtime.sharing import shared
from nemotron_rag.runtime.windows import arun_windows, run_windows
from nemotron_rag.runtime.worker import Worker

__all__ = ["PackedModel", "head_dim", "load_packed", "token_bytes"]

T = TypeVar("T")
S = TypeVar("S", bound=Sized)
M = TypeVar("M", bound="PackedModel[Any]")


class PackedModel(ABC, Generic[S]):
    """The weights of one checkpoint on one device, shared by all objects that use it.

    A forked child goes on with the weights of its parent, which it shares until one of them writes there.

    Args:
        folder: the checkpoint.
        device: where it runs.
        token_bytes: activations for each token of a batch; see `runtime.budget`.
    """

    def __init__(self, folder: Path, *, device: torch.device, token_bytes: int) -> None:
        self._device = device
        self._name = folder.name
        self._replicas: Sequence[Replica[S]] = ()
        self._renewing, self._is_inherited = Lock(), False
        renewed_in_child(self)
        self._worker: Worker[S] = Worker(
            folder.name, self._compute, budget=tokens_at_once(device, token_bytes=token_bytes)
        )

    def run(self, inputs: Sequence[T], prepare: Callable[[T, int], S]) -> list[torch.Tensor]:
        """Prepare inputs and compute them in batches shared with all other callers.

        Args:
            inputs: any number.
            prepare: turns an input and its index into a sequence.

        Returns:
            One float32 tensor for each input, on the CPU.

        Raises:
            ForkError: the model was loaded on a GPU, and this process was forked since then.
        """
        self._renew()
        return run_windows(inputs, prepare=_within_budget(prepare), worker=self._worker) if len(inputs) else []

    async def arun(self, inputs: Sequence[T], prepare: Callable[[T, int], S]) -> list[torch.Tensor]:
        """Async `run`."""
        if self._is_inherited:
            await asyncio.to_thread(self._renew)
        self._renew()
        return await arun_windows(inputs, prepare=_within_budget(prepare), worker=self._worker) if len(inputs) else []

    def join(self, replicas: Sequence[Replica[S]]) -> None:
        """Wait until the models of other processes are loaded, and let them compute as well.

        Raises:
            NemotronRagError: a model could not be loaded.
        """
        for replica in replicas:
            replica.wait()
        self._replicas = replicas
        for replica in replicas:
            self._worker.add(replica.compute)

    def _renew(self) -> None:
        """In a forked child: see that the model works there, with processes of its own for other devices."""
        settle_torch()
        if self._is_inherited:
            if self._device.type != "cpu":
                raise lost(self._name, str(self._device))
            with self._renewing:
                if self._is_inherited:
                    self.join([replica.again() for replica in self._replicas])
                    self._is_inherited = False

    def _after_fork(self) -> None:
        self._is_inherited = True

    @abstractmethod
    def _compute(self, batch: Sequence[S]) -> list[torch.Tensor]:
        """Compute one float32 tensor for each sequence, on the CPU."""


def load_packed(
    model: Callable[..., M], folder: Path, *, device: str | None, dtype: str | None, **settings: Hashable
) -> M:
    """Load a checkpoint, or share it if it is loaded already in the same format on the same devices.

    Args:
        model: the class to load.
        folder: the checkpoint.
        device: the first of several computes in this process; for each other one a process is started.
        dtype: number format of the weights; None for the default of the first device.
        **settings: for the class.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ForkError: this process was forked from one that uses the device.
        InputError: a device is not available, or the dtype is not known.
    """
    settle_torch()
    first, *others = split_devices(device)
    check_device(folder.name, first)
    place = resolve_device(first)
    number_format = resolve_dtype(dtype, place)

    def load() -> M:
        replicas: list[Replica[Any]] = []
        try:
            for other in others:
                format_name = str(number_format).removeprefix("torch.")
                make = partial(_load_compute, model, folder, device=other, dtype=format_name, **settings)
                replicas.append(Replica(make, device=str(other)))
            loaded = model(folder, device=place, dtype=number_format, **settings)
            loaded.join(replicas)
        except BaseException:
            for replica in replicas:
                replica.close()
            raise
        return loaded

    return shared((model, folder, place, *others, number_format, *settings.items()), load)


def _load_compute(model: Callable[..., PackedModel[Any]], folder: Path, **options: Any) -> Compute[Any]:
    """Load the model in a process for another device, and return its compute function."""
    place = resolve_device(options["device"])
    if place.type == "cuda" and place.index is not None:
        torch.cuda.set_device(place)  # else some memory of the first GPU is used too
    return load_packed(model, folder, **options)._compute


def token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Return the bytes of activations of a language model for each token; see `layer_bytes`.

    Args:
        config: of its layers, with the field names that Llama and Qwen share.
        dtype: of its weights.
    """
    width = head_dim(config)
    return layer_bytes(
        hidden=config.hidden_size,
        mlp=config.intermediate_size,
        queries=config.num_attention_heads * width,
        keys=config.num_key_value_heads * width,
        dtype=dtype,
    )


def head_dim(config: Any) -> int:
    """Return the width of an attention head, computed if the config does not state it."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _within_budget(prepare: Callable[[T, int], S]) -> Callable[[T, int], S]:
    """Of the images that are decoded meanwhile; what is left of each is small, and the decoded image is dropped."""

    def prepared(item: T, index: int) -> S:
        with holding_images():
            return prepare(item, index)

    return prepared
