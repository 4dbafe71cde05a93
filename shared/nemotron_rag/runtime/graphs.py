"""Replay one short sequence from a CUDA graph, where launching kernels one by one would take longer than they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from nemotron_rag.runtime.attention import Packing

__all__ = ["Forward", "Replay"]

Forward: TypeAlias = Callable[[torch.Tensor, Packing], torch.Tensor]
"""From (tokens,) int64 ids and their packing to (tokens, hidden). The kernels depend on shapes alone, and it neither
synchronizes with the device nor copies to it."""

_LENGTHS = (32, 64, 128)  # tokens of each graph; most queries fit into the first or the second
_WARM_UP = 3  # runs before the capture, as in torch's documentation


class Replay:
    """Runs a network on one sequence, with graphs of fixed lengths that are captured at first use.

    A shorter sequence is padded by a second sequence in the same pack, which it does not attend to.

    Args:
        forward: of the network.
        device: a CUDA device with an attention kernel that reads the lengths on the device; see `has_kernel`.
    """

    def __init__(self, forward: Forward, *, device: torch.device) -> None:
        self._forward, self._device = forward, device
        self._recorded: dict[int, _Recorded] = {}

    def fits(self, tokens: int) -> bool:
        """Whether a sequence of that many tokens can be replayed."""
        return tokens < _LENGTHS[-1]

    def __call__(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the network's output for a sequence that fits: (tokens, hidden), overwritten by the next call."""
        length = next(length for length in _LENGTHS if length > len(ids))
        with torch.cuda.device(self._device):
            if length not in self._recorded:
                self._recorded[length] = _Recorded(self._forward, length, self._device)
            return self._recorded[length].run(ids)


class _Recorded:
    """A captured graph with its input and output buffers."""

    def __init__(self, forward: Forward, length: int, device: torch.device) -> None:
        self._ids = torch.zeros(length, dtype=torch.int64, device=device)
        self._ends = torch.tensor([0, 1, length], dtype=torch.int32, device=device)
        packing = Packing((length, 0), self._ends)  # the longest that the first sequence may be
        self._replay = _record(lambda: forward(self._ids, packing))

    def run(self, ids: Sequence[int]) -> torch.Tensor:
        self._ids[: len(ids)] = torch.tensor(ids)
        self._ends[1] = len(ids)
        return self._replay()[: len(ids)]


def _record(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Capture `run` as a CUDA graph; the function returned replays it into the same output tensor."""
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
