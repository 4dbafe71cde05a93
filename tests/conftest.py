"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")  # a folder in memory, where there is one
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))  # index folders are synchronised to the disk


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden vectors of the published reference implementation on tiny random checkpoints."""
    return Path(__file__).parent / "data" / "reference"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two tries of a request; the pauses are counted all the same."""
    monkeypatch.setattr("nemotron_rag.stores.patience._wait", lambda seconds: True)
    monkeypatch.setattr("nemotron_rag.stores.patience._await", _at_once)


async def _at_once(seconds: float) -> bool:
    return True
