"""What has been found so far, in two files that are whole at any moment: ``results.json``, and ``report.md``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Results"]

_TITLE = "# The GPU day"


class Results:
    """The files of one run. Whoever writes rewrites both; the parts run one at a time, so no two write at once.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._json = folder / "results.json"

    def read(self) -> dict[str, Any]:
        """``{"facts", "aims", "parts": {name: {"state", "why", "seconds", "cpu", "data", "tables"}}}``."""
        if not self._json.exists():
            return {"facts": {}, "aims": {}, "parts": {}}
        found: dict[str, Any] = json.loads(self._json.read_text(encoding="utf-8"))
        return found

    def add_facts(self, **facts: Any) -> None:
        """Note what holds for the whole run."""
        found = self.read()
        found["facts"] |= facts
        self._write(found)

    def set_state(self, part: str, state: str, *, why: str = "", seconds: float = 0.0, cpu: float = 0.0) -> None:
        """Note how far a part is: ``waiting``, ``running``, ``done``, ``failed``, ``late`` or ``skipped``."""
        found = self.read()
        _part(found, part).update(state=state, why=why, seconds=round(seconds, 1), cpu=round(cpu, 1))
        self._write(found)

    def put_aims(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Note what was hoped for beside what came out."""
        found = self.read()
        found["aims"] = {title: _as_table(columns, rows)}
        self._write(found)

    def add_data(self, part: str, **data: Any) -> None:
        """Note numbers of a part, for programs."""
        found = self.read()
        _part(found, part)["data"] |= data
        self._write(found)

    def put_table(self, part: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Note a table of a part; one of the same title is replaced, so that a table can grow."""
        found = self.read()
        _part(found, part)["tables"][title] = _as_table(columns, rows)
        self._write(found)

    def _write(self, found: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self._json, json.dumps(found, indent=1))
        _replace(self.folder / "report.md", _markdown(found))


def _part(found: dict[str, Any], name: str) -> dict[str, Any]:
    part: dict[str, Any] = found["parts"].setdefault(name, {"state": "waiting", "why": "", "seconds": 0.0, "cpu": 0.0})
    part.setdefault("data", {})
    part.setdefault("tables", {})
    return part


def _as_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"columns": list(columns), "rows": [list(row) for row in rows]}


def _replace(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)  # noqa: PTH105


def _markdown(found: dict[str, Any]) -> str:
    lines = [_TITLE, "", *(f"- {key}: {value}" for key, value in found["facts"].items())]
    states = [
        [name, part["state"], f"{part['seconds']:.1f} s", f"{part['cpu']:.1f} s", part["why"]]
        for name, part in found["parts"].items()
    ]
    lines += _table("Parts", ["part", "state", "took", "processor time", "why"], states)
    for title, table in found["aims"].items():
        lines += _table(title, table["columns"], table["rows"])
    for name, part in found["parts"].items():
        if part["tables"]:
            lines += ["", f"## {name}"]
        for title, table in part["tables"].items():
            lines += _table(title, table["columns"], table["rows"])
    return "\n".join(lines) + "\n"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["", f"**{title}**", "", _row(columns), _row(["---"] * len(columns))]
    return [*lines, *(_row(row) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"
