"""Run the notebooks in cookbook/ with this interpreter; as a script (`make notebooks`), store them with what they show.

The kernel talks over unix sockets, so that no port is opened, and is kept away from the user's settings and caches.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

COOKBOOK = Path(__file__).parents[2] / "cookbook"
NOTEBOOKS = sorted(COOKBOOK.glob("*.ipynb"))


def run(path: Path, **environment: str) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom in its folder; raises `CellExecutionError`."""
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
        }
        places = {"metadata": {"path": str(path.parent)}}
        client = NotebookClient(notebook, km=manager, timeout=600, record_timing=False, resources=places)
        client.execute(env={**os.environ, **own, **environment}, cleanup_kc=True)  # and stop the kernel
    return notebook


if __name__ == "__main__":
    for each in NOTEBOOKS:
        nbformat.write(run(each), each)
