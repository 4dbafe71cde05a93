"""What systems have found so far, on disk: a run that was killed goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.results import Answered

__all__ = ["AnswerLog", "file_stem", "fingerprint"]

_FORMAT = 1


def fingerprint(value: Any) -> str:
    """SHA-256, hex, of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_stem(name: str, value: Any) -> str:
    """A file name for people that also tells the settings apart."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-')[:60]}-{fingerprint(value)[:12]}"


class AnswerLog:
    """The answers of one system to one data set, a line each, appended as they come.

    Args:
        folder: of the log; None keeps nothing.
        name: of the system.
        settings: all that decides the answers: other settings have another log.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, name: str, settings: Mapping[str, Any]) -> None:
        self.answers: dict[str, Answered] = {}
        self._file: IO[bytes] | None = None
        if folder is None:
            return
        header = {"format": _FORMAT, "system": name, "settings": dict(settings)}
        path = folder / f"{file_stem(name, header)}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            whole = self._read(path, fingerprint(header))
            self._file = path.open("r+b" if whole else "wb")
            self._file.seek(whole)
            self._file.truncate()  # a line that was being written when the run was killed
            if not whole:
                self._write({**header, "fingerprint": fingerprint(header)})
        except OSError as error:
            raise InputError(f"cannot write the results to {path}: {error.strerror}; give another folder") from error

    def add(self, answer: Answered) -> None:
        """Keep an answer; it is on disk when this returns."""
        self.answers[answer.query] = answer
        if self._file is not None:
            self._write(asdict(answer))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row).encode("ascii") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _read(self, path: Path, wanted: str) -> int:
        """Take over the answers of an earlier run; returns how many bytes of the file are whole lines of it."""
        if not path.is_file():
            return 0
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    if number == 0 and row["fingerprint"] != wanted:
                        return 0
                    if number:
                        answer = Answered.from_json(row)
                        self.answers[answer.query] = answer
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{path}, line {number + 1}, is not of this program; delete the file to compute it anew"
                    ) from error
                whole += len(line)
        return whole
