"""A loaded model that computes packed sequences on its one worker. It knows neither prompts nor architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch

from nemotron_rag.runtime.batching import Sized
from nemotron_rag.runtime.windows import arun_windows, run_windows
from nemotron_rag.runtime.worker import Worker

__all__ = ["PackedModel"]

T = TypeVar("T")
S = TypeVar("S", bound=Sized)

_TOKEN_BUDGET = {"cuda": 32_768}  # tokens per batch, memory permitting: see compute_batch


class PackedModel(ABC, Generic[S]):
    """The weights of one checkpoint on one device, for all who share them.

    Args:
        folder: the checkpoint.
        device: where it runs.
    """

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        self._device = device
        self._worker: Worker[S] = Worker(folder.name, self._compute, budget=_TOKEN_BUDGET.get(device.type, 8_192))

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
