"""How long a server that does not answer is waited for, and how the waiting ends when nobody needs it any more."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["DEFAULT_PATIENCE", "SHORT_PATIENCE", "Waiting", "seconds_of", "stoppable"]

DEFAULT_PATIENCE = 120.0
"""Seconds for which a request to a server that answered before is tried again, unless the caller says otherwise."""

SHORT_PATIENCE = 5.0
"""The same where somebody waits for the answer, or a name may be wrong: in searches, and at first contact."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds; each pause is twice as long as the one before
_SPREAD = 0.2  # so that many processes do not come back at once
_LOOKS = 0.1  # seconds between two looks at whether anybody still waits
_stop: ContextVar[threading.Event | None] = ContextVar("nemotron_rag_stop", default=None)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Whoever waits in this context, or in a copy of it, stops waiting when the event is set."""
    event = threading.Event()
    token = _stop.set(event)
    try:
        yield event
    finally:
        _stop.reset(token)


class Waiting:
    """The pauses between the tries of one request."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._paused = 0.0
        self._next = _FIRST_PAUSE

    @property
    def is_first(self) -> bool:
        """Whether nobody has waited yet."""
        return not self._paused

    @property
    def seconds(self) -> float:
        """Since the first try failed."""
        return max(self._paused, time.monotonic() - self._begun)

    def pause(self, patience: float, *, at_least: float = 0.0) -> bool:
        """Wait before the next try.

        Args:
            patience: for all tries together, seconds.
            at_least: what the server asked for, seconds.

        Returns:
            Whether there is a next try: False if the patience is over, or does not reach as far as the server asks, or
            nobody waits for the result any more.
        """
        seconds = self._seconds_to(patience, at_least)
        return seconds is not None and _wait(seconds)

    async def apause(self, patience: float, *, at_least: float = 0.0) -> bool:
        """`pause` for event loops."""
        seconds = self._seconds_to(patience, at_least)
        return seconds is not None and await _await(seconds)

    def _seconds_to(self, patience: float, at_least: float) -> float | None:
        """How long the next pause is, which is taken; None if there is no next try."""
        left = patience - self.seconds
        if left <= 0 or at_least > left:
            return None
        spread = random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311  not a secret
        seconds = min(left, max(at_least, self._next * spread))
        self._next = min(2 * self._next, _LONGEST_PAUSE)
        self._paused += seconds
        return seconds


def seconds_of(value: str | None) -> float:
    """Of a Retry-After, which is a number or a date; 0 if there is none that can be read."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    zoned = at if at.tzinfo else at.replace(tzinfo=datetime.UTC)
    return max(0.0, (zoned - datetime.datetime.now(datetime.UTC)).total_seconds())


def _wait(seconds: float) -> bool:
    stop = _stop.get()
    if stop is None:
        time.sleep(seconds)
        return True
    return not stop.wait(seconds)


async def _await(seconds: float) -> bool:
    stop, until = _stop.get(), time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stop is not None and stop.is_set():
            return False
        await asyncio.sleep(left if stop is None else min(left, _LOOKS))
    return True
