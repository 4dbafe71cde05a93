"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden vectors of the published reference implementation on tiny random checkpoints."""
    return Path(__file__).parent / "data" / "reference"
