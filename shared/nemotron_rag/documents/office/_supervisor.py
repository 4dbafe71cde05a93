"""Entry point of the process that runs LibreOffice within limits, without network, and ends it with all its children.

Run as ``python -m nemotron_rag.documents.office._supervisor`` with the command and its limits as JSON in the first
line of stdin. It ends LibreOffice when time is up, when too much is written, and when stdin ends because the parent
has; then it says in one line of JSON how it went.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__: list[str] = []

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_POLL = 0.05  # seconds
_KEPT = 4000  # bytes of what LibreOffice says


def _without_network() -> bool:
    """Leave the network for good, in a namespace of one's own; False where the system does not allow that."""
    user, group = os.getuid(), os.getgid()
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
        if library.unshare(_NEW_NETWORK) == 0:
            return True
        if library.unshare(_NEW_USER | _NEW_NETWORK) != 0:
            return False
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with contextlib.suppress(OSError):
                Path("/proc/self", name).write_text(line)
    except (OSError, AttributeError):  # not Linux
        return False
    return True


def _limit(limits: dict[str, Any]) -> None:
    """In LibreOffice's process, before it starts."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        resource = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"],) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["disk_bytes"],) * 2)
        seconds = int(limits["seconds"]) + 10
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _run(request: dict[str, Any]) -> dict[str, Any]:
    isolated = _without_network()
    unix: dict[str, Any] = (
        {"start_new_session": True, "preexec_fn": lambda: _limit(request)} if os.name == "posix" else {}
    )
    said = Path(request["folder"], "said")
    with said.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the program that our parent found, without a shell
            request["command"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=request["environment"],
            cwd=request["folder"],
            **unix,
        )
        reason = "parent"
        try:
            reason = _watch(process, request)
        finally:
            pipes = _pipes() if isolated else []
            _end(process)
            for pipe in pipes:
                pipe.unlink(missing_ok=True)
            if reason == "parent":  # nobody else is left to do it
                shutil.rmtree(request["folder"], ignore_errors=True)
    if reason == "parent":
        return {}
    with said.open("rb") as file:
        text = file.read(_KEPT).decode("utf-8", "replace")
    return {"status": process.returncode, "reason": reason, "said": text, "isolated": isolated}


def _watch(process: subprocess.Popen[bytes], request: dict[str, Any]) -> str:
    """Wait for the end of LibreOffice; why it must be ended before, or nothing."""
    deadline = time.monotonic() + request["seconds"]
    looked = time.monotonic()
    while process.poll() is None:
        if time.monotonic() > deadline:
            return "time"
        if os.name == "posix" and select.select([0], [], [], _POLL)[0] and not os.read(0, 1):
            return "parent"
        if os.name != "posix":
            time.sleep(_POLL)
        if time.monotonic() - looked > 0.5:
            looked = time.monotonic()
            if _size(Path(request["folder"])) > request["disk_bytes"]:
                return "disk"
    return ""


def _pipes() -> list[Path]:
    """The sockets that LibreOffice has in the system's temporary folder, and leaves there when it is killed.

    Only where the network is its own: its sockets are then the only ones that are listed.
    """
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/net/unix").read_text().splitlines()[1:]
        found = [Path(line.split(maxsplit=7)[7]) for line in lines if len(line.split(maxsplit=7)) == 8]
        return [path for path in found if path.name.startswith("OSL_PIPE_")]
    return []


def _size(folder: Path) -> int:
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(where, name).lstat().st_size
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill LibreOffice and whatever it has started; orphans of other groups have become children of this process."""
    if os.name != "posix":
        process.kill()
        process.wait()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(100):
        for child in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return


def _children() -> list[int]:
    me = os.getpid()
    with contextlib.suppress(OSError, ValueError):
        return [int(child) for child in Path(f"/proc/{me}/task/{me}/children").read_text().split()]
    return []


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and closes stdin then
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return
        line += byte
    reply = _run(json.loads(line))
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
