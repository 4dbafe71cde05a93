"""One worker thread for each device of a loaded model: calls that wait together are merged into common batches.

Any number of threads and event loops may submit. A thread lives as long as the object whose method it calls, and ends
with the process, whatever it computes. A forked child gets threads of its own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from nemotron_rag._forking import Lock, renewed_in_child
from nemotron_rag.errors import ClosedError
from nemotron_rag.runtime.batching import Compute, Sized, compute_batch

__all__ = ["Worker"]

S = TypeVar("S", bound=Sized)
_MAX_WAITING = (
    262_144  # tokens of prepared inputs, some 150 pages of 5 to 16 MB; `submit` blocks above it (back-pressure)
)
_PATIENCE = 60.0  # seconds that one operation of torch may take when the process ends
_FORK_PATIENCE = 5.0  # seconds that a fork waits for the batch that is being computed
_LEAST_SHARE = 8  # a batch is never split among devices below this fraction of the budget


@dataclass(slots=True)
class _Job(Generic[S]):
    """One call: the indices still to be computed, longest input last, and the rows computed so far."""

    items: Sequence[S]
    left: list[int]
    future: Future[list[torch.Tensor]] = field(default_factory=Future)
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, items: Sequence[S], future: Future[list[torch.Tensor]] | None) -> _Job[S]:
        left = sorted(range(len(items)), key=lambda i: items[i].tokens)
        return cls(items, left) if future is None else cls(items, left, future)

    @property
    def tokens(self) -> int:
        return sum(self.items[i].tokens for i in self.left)

    def starts(self) -> bool:
        """Mark the job as running; False if its caller has cancelled it."""
        return self.future.running() or (not self.future.done() and self.future.set_running_or_notify_cancel())

    def put(self, place: int, row: torch.Tensor) -> None:
        """Store a row; the last one resolves the future."""
        with self.lock:
            self.rows[place] = row
            if len(self.rows) == len(self.items):
                self.future.set_result([self.rows[i] for i in range(len(self.items))])

    def fail(self, error: Exception) -> None:
        """Resolve the future with an error, unless it is resolved; the remaining inputs are not computed."""
        with self.lock:
            if self.starts():
                self.future.set_exception(error)


class _Waiting(Generic[S]):
    """The queue of jobs between callers and worker threads, bounded by tokens."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._closed = False
        self.forget()

    def forget(self) -> None:
        """Begin anew, with neither jobs nor devices."""
        self._changed = threading.Condition()
        self._devices = self._computing = self._forks = 0
        self._jobs: list[_Job[S]] = []
        self._broken: Exception | None = None

    @property
    def tokens(self) -> int:
        return sum(job.tokens for job in self._jobs)

    def put(self, job: _Job[S]) -> None:
        """Add a job once the queue has room; a job larger than the queue waits until the queue is empty.

        Returns at once when the job is cancelled meanwhile.
        """
        job.future.add_done_callback(lambda future: self._notify() if future.cancelled() else None)
        with self._changed:
            self._changed.wait_for(
                lambda: job.future.cancelled() or not self._jobs or self.tokens + job.tokens <= _MAX_WAITING
            )
            if job.future.cancelled():
                return
            if self._broken is None:
                self._jobs.append(job)
            else:
                job.fail(self._broken)
            self._changed.notify_all()

    def add_device(self) -> None:
        """Count one more device that takes batches."""
        with self._changed:
            self._devices += 1

    def next_batch(self) -> list[tuple[_Job[S], int]]:
        """Wait for work and take a batch of it; an empty batch once the model is closed.

        Jobs with the fewest tokens left go first, so that a query need not wait for a long indexing run; the room
        that they leave goes to the others. Within a job the longest inputs go first: if they do not fit into memory,
        that shows at once. With several devices, a short queue is divided evenly among them.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._forks and (self._jobs or self._closed))
            batch: list[tuple[_Job[S], int]] = []
            share = -(-self.tokens // self._devices)
            room = min(self._budget, max(share, self._budget // _LEAST_SHARE))
            for job in sorted(self._jobs, key=lambda job: job.tokens):
                if not job.starts():
                    job.left.clear()
                while job.left and (not batch or job.items[job.left[-1]].tokens <= room):
                    place = job.left.pop()
                    batch.append((job, place))
                    room -= job.items[place].tokens
            self._jobs = [job for job in self._jobs if job.left]
            self._computing += 1
            self._changed.notify_all()
            return batch

    def finished(self) -> None:
        """Note that the last batch was computed."""
        with self._changed:
            self._computing -= 1
            self._changed.notify_all()

    def pause(self) -> None:
        """Take no batch until `resume`; wait a while for those that are being computed."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._computing, timeout=_FORK_PATIENCE)

    def resume(self) -> None:
        """Take batches again."""
        with self._changed:
            self._forks = max(0, self._forks - 1)
            self._changed.notify_all()

    def lower_budget(self, too_many: int) -> None:
        """Halve the batch size after a batch of `too_many` tokens did not fit into memory."""
        with self._changed:
            self._budget = min(self._budget, too_many // 2)

    def break_off(self, error: Exception, running: Sequence[_Job[S]]) -> None:
        """Fail the running jobs, all waiting jobs, and all jobs still to come."""
        with self._changed:
            self._broken = error
            for job in (*running, *self._jobs):
                job.fail(error)
            self._jobs.clear()
            self._changed.notify_all()

    @property
    def is_computing(self) -> bool:
        """Whether a batch was taken and not yet finished."""
        return self._computing > 0

    def done(self) -> bool:
        """Whether the queue is closed and empty."""
        return self._closed and not self._jobs

    def close(self) -> None:
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


_threads: weakref.WeakKeyDictionary[threading.Thread, _Waiting[Any]] = weakref.WeakKeyDictionary()


@atexit.register
def _end_threads() -> None:
    """End the threads before the interpreter exits: one that is stopped inside torch would abort the process."""
    ending = list(_threads.items())
    for thread, waiting in ending:
        waiting.close()
        if waiting.is_computing and thread.ident is not None:  # nobody is left to wait for the batch
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    for thread, _ in ending:
        thread.join(timeout=_PATIENCE)


def _pause_all() -> None:
    """Before a fork: torch's own locks must not be held by threads that the child does not have."""
    for thread, waiting in list(_threads.items()):
        if thread is not threading.current_thread():
            waiting.pause()


def _resume_all() -> None:
    for waiting in list(_threads.values()):
        waiting.resume()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause_all, after_in_parent=_resume_all, after_in_child=_threads.clear)


class Worker(Generic[S]):
    """Computes rows for submitted inputs on threads of its own, one batch at a time on each device.

    Args:
        name: shown as the threads' name.
        compute: a bound method; when its object is deleted, the threads end. If it raises `ClosedError`, all calls
            fail with it.
        budget: tokens a batch may hold; lowered when one did not fit into memory.
    """

    def __init__(self, name: str, compute: Compute[S], *, budget: int) -> None:
        self._name = name
        self._waiting: _Waiting[S] = _Waiting(budget)
        self._first = weakref.WeakMethod(compute)
        self._starting, self._is_inherited = Lock(), False
        weakref.finalize(compute.__self__, self._waiting.close)  # type: ignore[attr-defined]
        self._start(self._first)
        renewed_in_child(self)

    def add(self, compute: Compute[S]) -> None:
        """Add a thread for one more device; `compute` is a bound method, and the thread ends with its object."""
        self._start(weakref.WeakMethod(compute))

    def _start(self, method: weakref.WeakMethod[Compute[S]]) -> None:
        self._waiting.add_device()
        arguments = (self._waiting, method)
        thread = threading.Thread(target=_work, args=arguments, name=f"nemotron-rag {self._name}", daemon=True)
        _threads[thread] = self._waiting
        thread.start()

    def submit(
        self, items: Sequence[S], future: Future[list[torch.Tensor]] | None = None
    ) -> Future[list[torch.Tensor]]:
        """Queue inputs; blocks while the queue is full.

        Args:
            items: at least one.
            future: to resolve, for a caller who may cancel it while this blocks; None makes one.

        Returns:
            A future with one row for each item, in order, on the CPU. Cancelled before it runs, it is never computed.
        """
        job = _Job.of(items, future)
        self._start_in_child()
        self._waiting.put(job)
        return job.future

    def _start_in_child(self) -> None:
        """In a forked child, start the thread of the first device once more; others are added again."""
        if self._is_inherited:
            with self._starting:
                if self._is_inherited:
                    self._start(self._first)
                    self._is_inherited = False

    def _after_fork(self) -> None:
        self._waiting.forget()
        self._is_inherited = True


def _work(waiting: _Waiting[S], method: weakref.WeakMethod[Compute[S]]) -> None:
    while _run_next(waiting, method):
        pass


def _run_next(waiting: _Waiting[S], method: weakref.WeakMethod[Compute[S]]) -> bool:
    """Compute one batch; False when the thread should end. A call of its own, so that no batch outlives its turn."""
    batch = waiting.next_batch()
    try:
        if batch:
            _run_batch(batch, method(), waiting)
    finally:
        waiting.finished()
    return not waiting.done()


def _run_batch(places: Sequence[tuple[_Job[S], int]], compute: Compute[S] | None, waiting: _Waiting[S]) -> None:
    """Compute items of one or several jobs; if a merged batch fails, each job is computed alone."""
    jobs = list({id(job): job for job, _ in places}.values())
    try:
        if compute is None:
            raise ClosedError("the model was closed; load it again")
        rows = list(compute_batch([job.items[i] for job, i in places], compute, too_many=waiting.lower_budget))
    except ClosedError as error:
        waiting.break_off(error, jobs)
        return
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].fail(error)
            return
    else:
        for (job, i), row in zip(places, rows, strict=True):
            job.put(i, row)
        return
    for alone in jobs:
        _run_batch([(job, i) for job, i in places if job is alone], compute, waiting)
