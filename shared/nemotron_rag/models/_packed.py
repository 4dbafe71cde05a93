"""A loaded model that computes packed sequences on its one worker. It knows neither prompts nor architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from nemotron_rag.runtime.batching import Sized
from nemotron_rag.runtime.budget import layer_bytes, tokens_at_once
from nemotron_rag.runtime.windows import arun_windows, run_windows
from nemotron_rag.runtime.worker import Worker

__all__ = ["PackedModel", "token_bytes"]

T = TypeVar("T")
S = TypeVar("S", bound=Sized)


class PackedModel(ABC, Generic[S]):
    """The weights of one checkpoint on one device, for all who share them.

    Args:
        folder: the checkpoint.
        device: where it runs.
        token_bytes: activations for each token of a batch; see `runtime.budget`.
    """

    def __init__(self, folder: Path, *, device: torch.device, token_bytes: int) -> None:
        self._device = device
        self._worker: Worker[S] = Worker(
            folder.name, self._compute, budget=tokens_at_once(device, token_bytes=token_bytes)
        )

    def run(self, inputs: Sequence[T], prepare: Callable[[T, int], S]) -> list[torch.Tensor]:
        """Prepare inputs and compute them in batches shared with all other callers.

        Args:
            inputs: any number.
            prepare: from an input and its index to a sequence.

        Returns:
            One float32 tensor for each input, on the CPU.
        """
        return run_windows(inputs, prepare=prepare, worker=self._worker) if len(inputs) else []

    async def arun(self, inputs: Sequence[T], prepare: Callable[[T, int], S]) -> list[torch.Tensor]:
        """The same as `run`, without blocking the event loop."""
        return await arun_windows(inputs, prepare=prepare, worker=self._worker) if len(inputs) else []

    @abstractmethod
    def _compute(self, batch: Sequence[S]) -> list[torch.Tensor]:
        """One float32 tensor for each sequence, on the CPU."""


def token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Activations of a language model for each token; see `layer_bytes`.

    Args:
        config: of its layers, with the field names that Llama and Qwen share.
        dtype: of its weights.
    """
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return layer_bytes(
        hidden=config.hidden_size,
        mlp=config.intermediate_size,
        queries=config.num_attention_heads * head_dim,
        keys=config.num_key_value_heads * head_dim,
        dtype=dtype,
    )
