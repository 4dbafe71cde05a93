"""Packages that a machine without a package index gets from a folder of wheels: those of them that it has not."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

__all__ = ["install_missing", "missing"]


def missing(folder: Path) -> list[Path]:
    """The wheels whose package is not installed here."""
    return [wheel for wheel in sorted(folder.glob("*.whl")) if not _installed(wheel.name.partition("-")[0])]


def install_missing(folder: Path, target: Path) -> str:
    """Install what is missing into a folder of its own, for the path of modules.

    Args:
        folder: of the wheels.
        target: for the packages; what is installed elsewhere is left as it is.

    Returns:
        What was done, or why it could not be.
    """
    wheels = missing(folder)
    if not wheels:
        return f"nothing of {folder} is missing here"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-compile", "--find-links", str(folder), "--target", str(target), *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    names = ", ".join(wheel.name.partition("-")[0] for wheel in wheels)
    if done.returncode:
        return f"{names} could not be installed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"
    return f"installed {names}"


def _installed(name: str) -> bool:
    try:
        distribution(name.replace("_", "-"))
    except PackageNotFoundError:
        return False
    return True
