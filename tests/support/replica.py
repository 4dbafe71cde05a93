"""What a process on another device computes with in tests: a network of one multiplication."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Item:
    """One input; `order` makes the process misbehave."""

    values: torch.Tensor
    order: str = ""

    @property
    def tokens(self) -> int:
        return len(self.values)


class OwnError(Exception):
    """It holds what cannot be sent."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def make_doubling() -> Callable[[Sequence[Item]], list[torch.Tensor]]:
    sys.stdout.write("libraries print when they are loaded")
    return _double


def make_nothing() -> Callable[[Sequence[Item]], list[torch.Tensor]]:
    raise ValueError("no weights here")


def _double(batch: Sequence[Item]) -> list[torch.Tensor]:
    orders = {item.order for item in batch}
    if "exit" in orders:
        os._exit(3)
    if "fail" in orders:
        raise OwnError("this input is bad")
    if len(batch) > 2:
        raise torch.OutOfMemoryError("full")
    sys.stdout.write("libraries print")
    return [item.values.float() * 2 for item in batch]
