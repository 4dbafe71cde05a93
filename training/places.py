"""Where training keeps its files. It knows no data and no model."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CHECKPOINTS", "REPOSITORY", "WORK"]

REPOSITORY = Path(__file__).resolve().parent.parent
WORK = REPOSITORY / "training" / "work"
"""Downloads, pages, weights in the making and logs; ignored by git, safe to delete."""

CHECKPOINTS = REPOSITORY / "shared" / "nemotron_rag" / "checkpoints"
"""Where the finished weights are shipped from."""
