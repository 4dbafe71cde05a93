"""Downloads the Debian packages of `sources` and unpacks them. Nothing is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from training.sources import HELD_OUT, TRAIN

__all__ = ["fetch"]


def fetch(work: Path) -> Path:
    """Put the files of every package under ``work/root/<package>``; packages already there are left alone.

    Needs ``apt-get`` with a current package list (``apt-get update``) and about 4 GB.

    Args:
        work: folder of training's files.

    Returns:
        The folder ``root`` below it.

    Raises:
        subprocess.CalledProcessError: a package could not be downloaded or unpacked.
    """
    root, debs = work / "root", work / "deb"
    debs.mkdir(parents=True, exist_ok=True)
    for package in (*HELD_OUT, *TRAIN):
        target = root / package
        if target.is_dir():
            continue
        subprocess.run(["apt-get", "-q", "download", package], cwd=debs, check=True)
        target.mkdir(parents=True)
        for archive in debs.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)
    return root
