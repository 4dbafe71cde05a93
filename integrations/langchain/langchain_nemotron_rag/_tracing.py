"""One run of its own in LangChain's traces, with counts and timings. It knows no model and no documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.runnables.config import (
    RunnableConfig,
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)

__all__ = ["atraced", "traced"]


@contextmanager
def traced(callbacks: Callbacks, *, name: str, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A child run around the block; what the block puts into the yielded dict becomes the run's outputs.

    Args:
        callbacks: of the parent run; None takes those of the chain that is being run, if any.
        name: of the run.
        inputs: of the run.
    """
    manager = get_callback_manager_for_config(_config(callbacks))
    run = manager.on_chain_start(None, dict(inputs), name=name)
    outputs: dict[str, Any] = {}
    try:
        yield outputs
    except BaseException as error:  # a cancelled run has ended too
        run.on_chain_error(error)
        raise
    run.on_chain_end(outputs)


@asynccontextmanager
async def atraced(callbacks: Callbacks, *, name: str, inputs: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The same as `traced`, for coroutines."""
    manager = get_async_callback_manager_for_config(_config(callbacks))
    run = await manager.on_chain_start(None, dict(inputs), name=name)
    outputs: dict[str, Any] = {}
    try:
        yield outputs
    except BaseException as error:
        await run.on_chain_error(error)
        raise
    await run.on_chain_end(outputs)


def _config(callbacks: Callbacks) -> RunnableConfig:
    return ensure_config() if callbacks is None else RunnableConfig(callbacks=callbacks)
