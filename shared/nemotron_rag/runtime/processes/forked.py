"""What PyTorch needs in a forked child, and what it cannot do there."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import torch

from nemotron_rag.errors import ForkError

__all__ = ["check_device", "lost", "settle_torch"]


@dataclass(slots=True)
class _Fork:
    """What is known of the last fork.

    Args:
        uses_cuda: whether this process used CUDA when it forked.
        lost_cuda: whether the process that this one was forked from did.
        unsettled: the thread that forked, until `settle_torch`.
    """

    uses_cuda: bool = False
    lost_cuda: bool = False
    unsettled: int | None = None

    def before(self) -> None:
        self.uses_cuda = torch.cuda.is_initialized()

    def in_child(self) -> None:
        self.lost_cuda = self.lost_cuda or self.uses_cuda
        self.unsettled = threading.get_ident()


_fork = _Fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_fork.before, after_in_child=_fork.in_child)


def settle_torch() -> None:
    """Keep the thread that forked to itself when it calls PyTorch; to be called before it does.

    It would wait for ever for the other threads of its OpenMP team, which stayed in the parent. New threads have teams
    of their own.
    """
    if _fork.unsettled != threading.get_ident():
        return
    _fork.unsettled = None
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    later = threading.Thread(target=torch.set_num_threads, args=(count,))  # the number that new threads begin with
    later.start()
    later.join()


def check_device(name: str, device: str | None) -> None:
    """Raise if a model cannot be loaded, because its device does not survive a fork.

    Args:
        name: of the model, for the message.
        device: where it is to be loaded; None for the best one.

    Raises:
        ForkError: CUDA was in use when this process was forked.
    """
    if _fork.lost_cuda and (device is None or device.startswith("cuda")):
        raise lost(name, "cuda")


def lost(name: str, device: str) -> ForkError:
    """The error of a model on a device that was in use when this process was forked."""
    return ForkError(
        f"{name} on {device}: this process was forked from one that uses that device, which does not survive a fork; "
        "load models after the fork only (gunicorn: without preload_app), or start processes with 'spawn'"
    )
