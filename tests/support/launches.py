"""How many batches a model computed, where its first batch waits until all calls are in its queue."""

from __future__ import annotations

import threading

import pytest

from nemotron_rag.runtime import worker

__all__ = ["Launches"]

_PATIENCE = 60.0  # seconds for which the first batch waits


class Launches:
    """Counts from when it is made, so that calls which share batches can be told from calls one by one.

    Args:
        monkeypatch: undoes it.
        calls: windows that must have been submitted before anything is computed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, calls: int) -> None:
        self.count, self._submitted, self._calls = 0, 0, calls
        self._changed = threading.Condition()
        compute, submit = worker.compute_batch, worker.Worker.submit

        def computing(*args, **kwargs):
            with self._changed:
                self.count += 1
                assert self._changed.wait_for(lambda: self._submitted >= self._calls, _PATIENCE)
            return compute(*args, **kwargs)

        def submitting(*args, **kwargs):
            submitted = submit(*args, **kwargs)
            with self._changed:
                self._submitted += 1
                self._changed.notify_all()
            return submitted

        monkeypatch.setattr(worker, "compute_batch", computing)
        monkeypatch.setattr(worker.Worker, "submit", submitting)
