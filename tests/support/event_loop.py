"""Whether an event loop stays free while something runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_TICK = 0.002  # seconds
_RUNS = 5


async def stays_free(work: Callable[[], Awaitable[object]], *, within: float) -> bool:
    """Whether the loop was never kept for `within` seconds at a stretch, in one of several runs at least.

    What blocks the loop does so in each run; a busy machine, which keeps any thread waiting, does not.
    """
    for _ in range(_RUNS):
        if await _longest_wait(work) < within:
            return True
    return False


async def _longest_wait(work: Callable[[], Awaitable[object]]) -> float:
    waits: list[float] = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_TICK)
            waits.append(time.perf_counter() - started - _TICK)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(5 * _TICK)
    await work()
    await asyncio.sleep(5 * _TICK)  # a wait that has begun ends first
    ticking.cancel()
    return max(waits)
