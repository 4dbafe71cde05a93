"""The command line: ``python -m benchmarks.gpu_day --out FOLDER`` on a GPU, with ``--dry-run`` on a CPU."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.aims import note_aims
from benchmarks.gpu_day.day import Day
from benchmarks.gpu_day.part import Part
from benchmarks.gpu_day.results import Results
from benchmarks.gpu_day.wheels import install_missing

_HERE = "benchmarks.gpu_day"
PARTS = (  # in order of worth
    Part("environment", f"{_HERE}.environment:run", 40, vital=True),
    Part("tests", f"{_HERE}.gpu_tests:run", 110, least=15),
    Part("golden", f"{_HERE}.golden:run", 110, least=15),
    Part("peak", f"{_HERE}.loads:peak", 20),
    Part("embed", f"{_HERE}.loads:embed", 100, least=25),
    Part("rerank", f"{_HERE}.loads:rerank", 80, least=25),
    Part("profile", f"{_HERE}.profiling:run", 60, least=20),
    Part("mixed", f"{_HERE}.loads:mixed", 80, least=25),
    Part("ablation", f"{_HERE}.loads:ablation", 120, least=25),
    Part("memory", f"{_HERE}.memory:run", 50, least=15),
)
_PRELOAD = ("numpy", "PIL.Image", "torch", "transformers", "nemotron_rag.models.load", "benchmarks.gpu_day.loads")
_MONITOR = ("timestamp", "clocks.sm", "clocks.mem", "utilization.gpu", "memory.used", "power.draw", "temperature.gpu")


def main(arguments: list[str] | None = None) -> int:
    """Run the day; returns the exit status."""
    given = _parse(arguments)
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the parts' processes are ended too
    results = Results(out)
    if results.read()["parts"]:
        sys.exit(f"{out} holds the results of an earlier run; give another folder")
    results.add_facts(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", _HERE, *(sys.argv[1:] if arguments is None else arguments)]),
        run="dry, at toy size on the CPU: no figure means anything" if given.dry_run else "at full size, for a GPU",
    )
    with tempfile.TemporaryDirectory(prefix="gpu_day_") as folder, _monitor(out):
        work = Path(folder)
        _extend_path(given.wheels, work, results)
        if given.dry_run:
            os.environ["OMP_NUM_THREADS"] = "1"  # more would only wait for each other over toys
        day = Day(
            parts=[part for part in PARTS if not given.parts or part.name in given.parts],
            out=out,
            work=work,
            seconds=given.seconds,
            device="cpu" if given.dry_run else "cuda",
            dry_run=given.dry_run,
            preload=() if given.spawn else _PRELOAD,
            after=lambda: note_aims(results, dry_run=given.dry_run),
        )
        status = day.run()
    print(f"\n{(out / 'report.md').read_text(encoding='utf-8').partition(chr(10) + '## ')[0]}")
    print(f"results: {out}")
    return status


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {_HERE}", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for all results; what is known is in it at once"
    )
    parser.add_argument("--seconds", type=float, default=480, help="that everything may take (default: 480)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, as benchmarks/gpu_wheels.sh fills it")
    parser.add_argument("--dry-run", action="store_true", help="every part at toy size on the CPU")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="only these")
    parser.add_argument("--spawn", action="store_true", help="start every part's process anew: slower, and never wrong")
    return parser.parse_args(arguments)


def _extend_path(wheels: Path | None, work: Path, results: Results) -> None:
    """Let the parts' processes find this checkout, and what comes out of wheels."""
    root = Path(__file__).parents[2]
    added = [str(root), str(root / "shared")]
    if wheels is not None:
        site = work / "site"
        done = install_missing(wheels.resolve(), site)
        print(f"wheels: {done}")
        results.add_facts(wheels=done)
        added.append(str(site))
    sys.path[:0] = added
    os.environ["PYTHONPATH"] = os.pathsep.join([*added, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else every forked process warns
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # what asks for a GPU before the processes are forked opens none


@contextlib.contextmanager
def _monitor(out: Path) -> Iterator[None]:
    """Clocks and power, once a second, all the time; nothing where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield
        return
    command: list[Any] = [tool, f"--query-gpu={','.join(_MONITOR)}", "--format=csv", "-l", "1"]
    with (out / "clocks.csv").open("w", encoding="utf-8") as file:
        watching = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            watching.terminate()
            watching.wait(5)


if __name__ == "__main__":
    sys.exit(main())
