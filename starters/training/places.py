"""Where training keeps its files."""

from __future__ import annotations

from pathlib import Path

import nemotron_rag_starters

__all__ = ["CHECKPOINTS", "WORK"]

WORK = Path(__file__).resolve().parent / "output"
"""Downloads, pages, weights in the making and logs; ignored by git, safe to delete."""

CHECKPOINTS = Path(nemotron_rag_starters.__file__).resolve().parent / "checkpoints"
"""The folders of the package `nemotron_rag_starters`, where the finished weights go."""
