"""Read scans with the program `tesseract`, for the engine that has none built in."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
import sys
from functools import lru_cache
from typing import Any

from nemotron_rag.documents.pdf._common import OCR_DPI, clean_word
from nemotron_rag.documents.word_boxes import PlacedWord

__all__ = ["installed_languages", "recognize"]

_WORD = "5"  # the level of a word in Tesseract's tables
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_KILL = 9


@lru_cache(maxsize=1)
def installed_languages() -> list[str]:
    """The languages that the program has data for; none if it is not installed."""
    program = shutil.which("tesseract")
    if program is None:
        return []
    listed = subprocess.run([program, "--list-langs"], capture_output=True, check=False, timeout=30)  # noqa: S603
    return sorted(line.strip() for line in listed.stdout.decode("utf-8", "replace").splitlines()[1:] if line.strip())


def recognize(image: Any, language: str, *, dpi: float, seconds: float) -> list[PlacedWord]:
    """The words of an image, placed in its pixels.

    Args:
        image: a PIL image.
        language: Tesseract's names, such as ``deu+eng``.
        dpi: of the image.
        seconds: for all of it.

    Raises:
        OSError, subprocess.SubprocessError: the program cannot be run, failed, or took too long.
    """
    program = shutil.which("tesseract")
    if program is None:
        raise OSError("tesseract is not installed")
    page = io.BytesIO()
    image.save(page, "PNG", compress_level=1)
    resolution = str(int(min(max(dpi, 70), 4 * OCR_DPI)))
    run = subprocess.run(  # noqa: S603 - a program of the system; the language was checked
        [program, "stdin", "stdout", "-l", language, "--dpi", resolution, "tsv"],
        input=page.getvalue(),
        capture_output=True,
        check=True,
        timeout=seconds if math.isfinite(seconds) else None,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    table = csv.DictReader(io.StringIO(run.stdout.decode("utf-8", "replace")), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [word for row in table if (word := _word(row)) is not None]


def _word(row: dict[str, str]) -> PlacedWord | None:
    if row.get("level") != _WORD:
        return None
    left, top, width, height, block, paragraph, line = (
        int(row[key]) for key in ("left", "top", "width", "height", "block_num", "par_num", "line_num")
    )
    text = clean_word(row["text"].strip())
    return PlacedWord(text, (left, top, left + width, top + height), 1000 * block + paragraph, line) if text else None


def _die_with_parent() -> None:
    """In the program, before it begins: it ends when the render process is killed."""
    import ctypes  # noqa: PLC0415 - needed here alone

    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, _KILL)
