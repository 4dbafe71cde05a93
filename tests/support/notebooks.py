"""Run the notebooks in cookbook/ with this interpreter; as a script (`make notebooks`), store them with what they show.

They run in a copy of the folder, which they may write to and share. The kernel talks over unix sockets, and is kept
away from the user's settings and caches.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

_RAY = re.compile(r"\[?\d[\d-]+ [\d:,]+\s(?:\w \d+ \d+\] core_worker\.cc|INFO util\.py)")  # what its processes say
COOKBOOK = Path(__file__).parents[2] / "cookbook"
NOTEBOOKS = sorted(COOKBOOK.glob("*.ipynb"))


def copy_cookbook(to: Path) -> Path:
    """A copy to run in, without the indexes of earlier runs."""
    return shutil.copytree(COOKBOOK, to / COOKBOOK.name, ignore=shutil.ignore_patterns("indexes"))


def run(path: Path, cookbook: Path, **environment: str) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom in a copy of its folder; raises `CellExecutionError`."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:  # not pytest's: the paths of sockets must be short
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # an installed one may be another interpreter
            transport="ipc",
            connection_file=str(Path(folder, "kernel.json")),
        )
        own = {
            "IPYTHONDIR": folder,
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm misses ipywidgets
            "RAY_raylet_start_wait_time_s": "120",  # where the machine is busy
        }
        places = {"metadata": {"path": str(cookbook)}}
        client = NotebookClient(notebook, km=manager, timeout=600, record_timing=False, resources=places)
        client.execute(env={**os.environ, **own, **environment}, cleanup_kc=True)  # and stop the kernel
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _RAY.match(output.get("text", ""))]
    return notebook


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        copy = copy_cookbook(Path(scratch))
        for each in NOTEBOOKS:
            if not sys.argv[1:] or each.stem in sys.argv[1:]:
                nbformat.write(run(each, copy), each)
