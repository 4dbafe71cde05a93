"""What a run is made on: device, number format, size, checkpoints, and what the device can do at most."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.checkpoints import Kind, write_checkpoint
from benchmarks.measure import matmul_peak
from benchmarks.padded import PaddedLoop
from nemotron_rag import load_embedder, load_reranker
from nemotron_rag.protocols import Embedder, Reranker

__all__ = ["Setup", "processor"]


@dataclass(slots=False)
class Setup:
    """The settings of a run.

    Args:
        folder: checkpoints are written into it.
        device: where everything runs.
        dtype: number format of the weights.
        full: the 1.7 B geometry instead of the small one.
        rounds: timed runs of each contender.
        pages: page pictures to embed.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype
    full: bool
    rounds: int
    pages: int
    _written: dict[Kind, Path] = field(default_factory=dict)

    @cached_property
    def peak(self) -> float:
        """Operations per second of a large matrix product here."""
        return matmul_peak(self.device, self.dtype)

    @property
    def hardware(self) -> str:
        """The device by name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{processor()}, {torch.get_num_threads()} threads"

    @property
    def number_format(self) -> str:
        """The dtype as the package's options spell it."""
        return str(self.dtype).removeprefix("torch.")

    def checkpoint(self, kind: Kind) -> Path:
        """A folder of random weights, written when first asked for."""
        if kind not in self._written:
            self._written[kind] = write_checkpoint(
                kind, self.folder, full=self.full, device=self.device, dtype=self.dtype
            )
        return self._written[kind]

    def embedder(self, kind: Kind) -> Embedder:
        """Ours."""
        return load_embedder(self.checkpoint(kind), device=str(self.device), dtype=self.number_format)

    def reranker(self) -> Reranker:
        """Ours."""
        return load_reranker(self.checkpoint("rerank_vl"), device=str(self.device), dtype=self.number_format)

    def padded_batch(self, *, pictures: bool) -> int:
        """Inputs that padded loops compute at a time: few on a CPU and with pictures, where more only pad more."""
        return 8 if pictures or self.device.type == "cpu" else 32

    def padded(self, kind: Kind) -> PaddedLoop:
        """The model card's loop over the same weights."""
        batch = self.padded_batch(pictures=kind != "embed_text")
        return PaddedLoop(self.checkpoint(kind), device=self.device, dtype=self.dtype, batch=batch)


def processor() -> str:
    """The processor's name; on Linux `platform` knows the architecture only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
