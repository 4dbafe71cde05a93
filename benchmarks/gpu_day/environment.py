"""Part: what the figures are worth at all: card, driver, clocks, versions, and which fast paths are there."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu_day.part import Context, Failed
from benchmarks.setup import processor
from nemotron_rag.runtime import attention
from nemotron_rag.runtime.budget import tokens_at_once

__all__ = ["run"]

_PACKAGES = ("nemotron-rag", "torch", "triton", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
_OPTIONAL = ("pytest", "pytest_timeout")
_QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,pstate"


def run(context: Context) -> None:
    """Note everything; fails if there is no such device or it computes nothing."""
    facts = _machine() | _software()
    _keep(context, facts)
    if context.device == "cuda":
        if not torch.cuda.is_available():
            raise Failed("torch finds no CUDA device here; with --dry-run everything runs at toy size on the CPU")
        facts |= _card()
        _keep(context, facts)
    total = torch.ones(1000, device=context.device).sum().item()
    if total != 1000:
        raise Failed(f"the device adds 1000 ones up to {total}")


def _keep(context: Context, facts: dict[str, str]) -> None:
    context.note(**facts)
    context.table("Environment", ["", ""], list(facts.items()))
    for line in facts.items():
        print(*line, sep=": ")


def _machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores, {memory / 1e9:.0f} GB",
        "system": f"{platform.platform()}, Python {platform.python_version()} at {sys.executable}",
        "disk": f"{shutil.disk_usage('.').free / 1e9:.0f} GB are free",
        "torch threads": str(torch.get_num_threads()),
    }


def _software() -> dict[str, str]:
    found = {name: _version(name) for name in _PACKAGES}
    found |= {name: "yes" if importlib.util.find_spec(name) else "no" for name in _OPTIONAL}
    varlen = importlib.util.find_spec("torch.nn.attention.varlen")
    found["variable-length attention of torch"] = "yes" if varlen else "no, it came with 2.10"
    found["with a scale of ours"] = "yes" if attention._HAS_KERNEL else "no"
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout that is not installed
        return "not installed"


def _card() -> dict[str, str]:
    device = torch.device("cuda")
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "card": f"{properties.name}, {torch.cuda.device_count()} of them",
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "capability": f"{properties.major}.{properties.minor}, {properties.multi_processor_count} multiprocessors",
        "memory": f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB",
        "packed attention kernel": str(attention.has_kernel(device, torch.bfloat16, head_dim=64)),
        "tokens of a batch, at 256 kB each": str(tokens_at_once(device, token_bytes=1 << 18)),
        "TF32": f"products {torch.backends.cuda.matmul.allow_tf32}, convolutions {torch.backends.cudnn.allow_tf32}",
        _QUERY: _nvidia_smi(),
    }


def _nvidia_smi() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "no nvidia-smi here"
    command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout or done.stderr).strip().replace("\n", "; ")
