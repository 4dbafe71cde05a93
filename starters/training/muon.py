"""Muon for the matrices of a network: momentum whose singular values are made equal.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the three coefficients are theirs.
`torch.optim.Muon` computes in bfloat16, which CPUs without such instructions do several times slower than float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["Muon"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def _equalised(matrices: torch.Tensor, steps: int) -> torch.Tensor:
    """(n, rows, columns), rows <= columns: the nearest matrices with singular values near 1."""
    a, b, c = _COEFFICIENTS
    x: torch.Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Matrices of the same shape are computed together.

    Args:
        params: tensors of two or more dimensions; those behind the first are joined.
        lr: rate.
        momentum: of the gradients.
        steps: Newton-Schulz steps.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, steps: int = 4) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._momentum(parameter, group).flatten(1)
                    lying = update if update.shape[0] <= update.shape[1] else update.T
                    shapes[lying.shape[0], lying.shape[1]].append((parameter, lying))
            for some in shapes.values():
                equal = _equalised(torch.stack([update for _, update in some]), group["steps"])
                for (parameter, _), update in zip(some, equal, strict=True):
                    flat = parameter.flatten(1)
                    turned = update if flat.shape[0] <= flat.shape[1] else update.T
                    stretch = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
                    parameter.add_(turned.reshape(parameter.shape), alpha=-group["lr"] * stretch)

    def _momentum(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Nesterov's: what the gradient will be one step on."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["momentum"]
        assert parameter.grad is not None
        momentum.lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(momentum, group["momentum"])
