"""A copy of the model in a process of its own, on another device: batches are sent to it, rows come back.

The process is started with `subprocess`, not `multiprocessing`, so that the caller's program is not imported again.
Messages are pickled: both ends are this package, and nobody else writes into the pipes.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from nemotron_rag._forking import renewed_in_child
from nemotron_rag.errors import ClosedError, NemotronRagError
from nemotron_rag.runtime.batching import Compute, Sized
from nemotron_rag.runtime.features import vision_features
from nemotron_rag.runtime.processes.frames import read_frame, write_frame

__all__ = ["Replica", "dump", "load"]

S = TypeVar("S", bound=Sized)

_GRACE = 5.0  # seconds


class Replica(Generic[S]):
    """A process that holds the model on one device; it ends with this object, or with this process.

    Args:
        make: called in that process; returns the model's `Compute`. It must be picklable.
        device: for messages.

    Raises:
        NemotronRagError: the process cannot be started.
    """

    def __init__(self, make: Callable[[], Compute[S]], *, device: str) -> None:
        self._make, self._device = make, device
        try:
            self._process = _start()
        except OSError as error:
            raise _cannot_start(device) from error
        self._end = weakref.finalize(self, _stop, self._process)
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        renewed_in_child(self)
        self._send((make, vision_features.settings))

    def again(self) -> Replica[S]:
        """Another process like this one; for a forked child, in which this object is dead."""
        return Replica(self._make, device=self._device)

    def wait(self) -> None:
        """Wait until the model is loaded.

        Raises:
            NemotronRagError: it could not be loaded.
        """
        try:
            self._answer()
        except ClosedError as error:
            raise _cannot_start(self._device) from error

    def compute(self, batch: Sequence[S]) -> Sequence[torch.Tensor]:
        """Compute a batch in the process; see `Compute`.

        Raises:
            ClosedError: the process has ended.
        """
        self._send(list(batch))
        return cast("Sequence[torch.Tensor]", self._answer())

    def close(self) -> None:
        """End the process."""
        self._end()

    def _after_fork(self) -> None:
        """Leave the process to the parent. Buffers are passed over: a thread of the parent may hold their locks."""
        self._end.detach()
        self._process.returncode = 0  # not a child of this process: never wait for it or kill it
        for pipe in (self._process.stdin, self._process.stdout):
            cast("io.BufferedRandom", pipe).raw.close()

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError, ValueError):  # a dead process is noticed when its answer is read
            write_frame(self._requests, {}, dump(message))

    def _answer(self) -> object:
        try:
            answer = load(read_frame(self._replies)[1])
        except (EOFError, ValueError, OSError) as error:
            self._end()
            raise ClosedError(
                f"the process that computed on {self._device} has ended (status {self._process.returncode}); "
                "close the model and load it again"
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _cannot_start(device: str) -> NemotronRagError:
    return NemotronRagError(
        f"could not start a worker process ({sys.executable!r}) for {device}, see its stderr; "
        "check that 'import torch' works in it, or give one device"
    )


def _start() -> subprocess.Popen[bytes]:
    paths = [path for path in sys.path if path]  # the process can import whatever this program can
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
        [sys.executable or "", "-P", "-m", "nemotron_rag.runtime.processes.replica_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        cast("IO[bytes]", process.stdin).close()  # the process ends when its stdin does, after its current batch
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    cast("IO[bytes]", process.stdout).close()  # only now: a thread may still be reading it


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays of raw bytes, without torch's own container."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        data = value.contiguous().flatten().view(torch.uint8).numpy()
        return _tensor, (data, value.dtype, tuple(value.shape))


def dump(message: object) -> bytes:
    """Pickle a message for `load`."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(message)
    return buffer.getvalue()


def load(data: bytes) -> object:
    """Unpickle a message that the other end wrote with `dump`."""
    return pickle.loads(data)  # noqa: S301 - both ends are this package


def _tensor(data: NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(data).view(dtype).view(shape)
