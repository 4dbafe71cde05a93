"""Part: the tests that need a GPU; in a dry run they are collected, and their twins on the CPU are run."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.part import Context, Failed, Skipped

__all__ = ["run"]

_ROOT = Path(__file__).parents[2]
_MARKS = ("mark.gpu", "support.devices")  # a file that has tests for a GPU holds one of these
_ENOUGH = 10  # tests that must be found, or the search for them is broken
_ELSEWHERE = ("test_replica", "test_gpu_day")  # whose twins start processes, or are what the next part does
_TEST_SECONDS = 60
_INI = """[pytest]
pythonpath = {root}/tests {root}
markers =
    asyncio: needs an event loop
{markers}
"""


class _Noted:
    """Keeps how every test ended, the moment it has; stops when the device is lost to this process.

    Args:
        context: of the part.
        only: names of the tests that are run; None for all.
    """

    def __init__(self, context: Context, only: Collection[str] | None) -> None:
        self._context, self._only = context, only
        self.found: list[str] = []
        self.ended: dict[str, tuple[str, str]] = {}
        self.errors: list[str] = []
        self._session: Any = None

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self._only is not None:
            items[:] = [item for item in items if item.nodeid in self._only]

    def pytest_collection_finish(self, session: Any) -> None:
        self._session = session
        self.found = [item.nodeid for item in session.items]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.errors.append(f"{report.nodeid}: {_last_line(report)}")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        self.ended[report.nodeid] = (report.outcome, "" if report.passed else _last_line(report))
        rows = [[name, outcome, why] for name, (outcome, why) in self.ended.items()]
        self._context.table("Tests", ["test", "ended", "why"], rows)
        if report.failed and "CUDA error" in str(report.longrepr):
            self._session.shouldstop = "after a CUDA error nothing runs in this process any more"


def run(context: Context) -> str:
    """Run every test marked ``gpu``.

    Returns:
        How many passed.
    """
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("pytest is not installed here; bring it along with --wheels")
    files = [str(path) for path in sorted((_ROOT / "tests").rglob("test_*.py")) if _has_marks(path)]
    noted = _pytest(context, [*files, "-m", "gpu", *(["--collect-only", "-q"] if context.dry_run else [])])
    if noted.errors or len(noted.found) < _ENOUGH:
        raise Failed(f"{len(noted.found)} tests marked gpu were found; {'; '.join(noted.errors)}")
    wanted = len(noted.found)
    if context.dry_run:
        twins = {name.replace("cuda", "cpu") for name in noted.found if _rehearsed(name)}
        noted = _pytest(context, [file for file in files if _rehearsed(file)], only=twins)
    return _answer(noted, wanted)


def _rehearsed(name: str) -> bool:
    return not any(other in name for other in _ELSEWHERE)


def _has_marks(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return any(mark in text for mark in _MARKS)


def _answer(noted: _Noted, wanted: int) -> str:
    outcomes = [outcome for outcome, _ in noted.ended.values()]
    failed, skipped = outcomes.count("failed"), outcomes.count("skipped")
    found = f"{wanted} marked gpu; {outcomes.count('passed')} passed, {failed} failed, {skipped} skipped"
    if failed or noted.errors or len(outcomes) < len(noted.found) or not outcomes:
        raise Failed(f"{found}, {len(noted.found) - len(outcomes)} not run")
    return found


def _pytest(context: Context, arguments: list[str], *, only: Collection[str] | None = None) -> _Noted:
    """Run pytest in this process, with settings that need none of its plugins."""
    import pytest  # noqa: PLC0415

    ini = context.work / "gpu_tests.ini"
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = "\n".join(f"    {marker}" for marker in project["tool"]["pytest"]["ini_options"]["markers"])
    ini.write_text(_INI.format(root=_ROOT, markers=markers), encoding="utf-8")
    settings = ["-c", str(ini), "--rootdir", str(_ROOT), "--confcutdir", str(_ROOT / "tests")]
    settings += ["--import-mode=importlib", "--strict-markers", "-p", "no:cacheprovider", "-v", "--tb=short"]
    if importlib.util.find_spec("pytest_timeout"):
        settings += ["-p", "pytest_timeout", f"--timeout={_TEST_SECONDS}"]
    noted = _Noted(context, only)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # whatever else is installed there
    pytest.main([*settings, *arguments], plugins=[noted])
    return noted


def _last_line(report: Any) -> str:
    return str(report.longrepr).strip().splitlines()[-1][:200]
