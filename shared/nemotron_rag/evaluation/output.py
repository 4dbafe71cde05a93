"""Writes an evaluation: an HTML page, JSON, and a Markdown table."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from nemotron_rag.documents.files import write_whole
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.page import render_evaluation
from nemotron_rag.evaluation.results import Evaluation
from nemotron_rag.evaluation.shown import markdown

__all__ = ["Written", "write_evaluation"]


@dataclass(frozen=True, slots=True)
class Written:
    """The files of an evaluation."""

    html: Path
    json: Path
    markdown: Path


def write_evaluation(evaluation: Evaluation, folder: str | os.PathLike[str], *, misses: int = 20) -> Written:
    """Write ``evaluation.html``, ``evaluation.json`` and ``evaluation.md`` into a folder, replacing those of before.

    Args:
        evaluation: what was found.
        folder: created if missing.
        misses: most misses that the page shows.

    Raises:
        InputError: the folder cannot be written.
    """
    root = Path(folder)
    written = Written(root / "evaluation.html", root / "evaluation.json", root / "evaluation.md")
    contents = {
        written.json: json.dumps(evaluation.to_json(), indent=1, allow_nan=False),
        written.markdown: markdown(evaluation),
        written.html: render_evaluation(evaluation, misses=misses),
    }
    try:
        for path, text in contents.items():
            write_whole(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"cannot write the evaluation to {root}: {error.strerror}; give another folder") from error
    return written
