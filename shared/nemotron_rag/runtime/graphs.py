"""One short sequence replayed from a CUDA graph: to start a network's kernels one by one takes longer than to run them.

It knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from nemotron_rag.runtime.attention import Packing

__all__ = ["Forward", "Replay"]

Forward: TypeAlias = Callable[[torch.Tensor, Packing], torch.Tensor]
"""From (tokens,) int64 ids and where their sequences lie to (tokens, hidden). What it does on the device depends on
shapes alone, and it neither waits for the device nor sends anything there."""

_LENGTHS = (32, 64, 128)  # tokens of a graph; most questions fit into the first or the second
_WARM_UP = 3  # runs in which libraries set up what a graph cannot hold, as torch's documentation has it


class Replay:
    """Runs a network on one sequence, by graphs of fixed lengths that are recorded when first needed.

    A shorter sequence is followed by tokens of a second one, which it does not see.

    Args:
        forward: of the network.
        device: a CUDA device whose attention kernel takes its lengths from the device.
    """

    def __init__(self, forward: Forward, *, device: torch.device) -> None:
        self._forward, self._device = forward, device
        self._recorded: dict[int, _Recorded] = {}

    def fits(self, tokens: int) -> bool:
        """Whether there is a graph for so many tokens."""
        return tokens < _LENGTHS[-1]

    def __call__(self, ids: Sequence[int]) -> torch.Tensor:
        """The network's output for a sequence that fits: (tokens, hidden), overwritten by the next call."""
        length = next(length for length in _LENGTHS if length > len(ids))
        with torch.cuda.device(self._device):
            if length not in self._recorded:
                self._recorded[length] = _Recorded(self._forward, length, self._device)
            return self._recorded[length].run(ids)


class _Recorded:
    """A graph, and the memory that it reads and writes."""

    def __init__(self, forward: Forward, length: int, device: torch.device) -> None:
        self._ids = torch.zeros(length, dtype=torch.int64, device=device)
        self._ends = torch.tensor([0, 1, length], dtype=torch.int32, device=device)
        packing = Packing((length, 0), self._ends)  # the longest that the first sequence may get
        self._replay = _record(lambda: forward(self._ids, packing))

    def run(self, ids: Sequence[int]) -> torch.Tensor:
        self._ids[: len(ids)] = torch.tensor(ids)
        self._ends[1] = len(ids)
        return self._replay()[: len(ids)]


def _record(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Something that does again what `run` does on the device, into the same output."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may allocate meanwhile
        output = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return output

    return replay
