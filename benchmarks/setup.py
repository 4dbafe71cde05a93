"""The setup of a run: device, number format, model size, checkpoints, and the device's peak."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.checkpoints import Kind, write_checkpoint
from benchmarks.measure import matmul_peak
from benchmarks.padded import PaddedLoop
from benchmarks.sizes import Size
from nemotron_rag import load_embedder, load_reranker
from nemotron_rag.protocols import Embedder, Reranker

__all__ = ["Setup", "processor"]


@dataclass(slots=False)
class Setup:
    """The settings of a run.

    Args:
        folder: for the checkpoints.
        device: where everything runs.
        dtype: number format of the weights.
        size: of models and loads.
        rounds: timed runs of each contender.
        pages: page images to embed.
        peers: whether other libraries that are installed are timed too.
        seconds: after which no further round of a load starts; None for no limit.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype
    size: Size
    rounds: int
    pages: int
    peers: bool = True
    seconds: float | None = None
    _written: dict[Kind, Path] = field(default_factory=dict)

    @cached_property
    def peak(self) -> float:
        """Operations per second of a large matrix product here."""
        return matmul_peak(self.device, self.dtype, rows=self.size.matrix[self.device.type])

    @property
    def hardware(self) -> str:
        """The device by name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{processor()}, {torch.get_num_threads()} threads"

    @property
    def number_format(self) -> str:
        """The dtype as an option of the package."""
        return str(self.dtype).removeprefix("torch.")

    def checkpoint(self, kind: Kind) -> Path:
        """A folder of random weights, written when first asked for; see `write_checkpoint`."""
        if kind not in self._written:
            self._written[kind] = write_checkpoint(
                kind, self.folder, size=self.size, device=self.device, dtype=self.dtype
            )
        return self._written[kind]

    def embedder(self, kind: Kind) -> Embedder:
        """Load our embedder."""
        return load_embedder(self.checkpoint(kind), device=str(self.device), dtype=self.number_format)

    def reranker(self) -> Reranker:
        """Load our reranker."""
        return load_reranker(self.checkpoint("rerank_vl"), device=str(self.device), dtype=self.number_format)

    def padded_batch(self, *, images: bool) -> int:
        """Return the batch size of padded loops: small on a CPU and with images, where larger ones only add padding."""
        return 8 if images or self.device.type == "cpu" else 32

    def padded(self, kind: Kind) -> PaddedLoop:
        """Load the model card's loop over the same weights."""
        batch = self.padded_batch(images=kind != "embed_text")
        return PaddedLoop(self.checkpoint(kind), device=self.device, dtype=self.dtype, batch=batch)


def processor() -> str:
    """Return the processor's name; on Linux `platform` knows the architecture only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
