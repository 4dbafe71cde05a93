"""Run LibreOffice once: a document in a private folder becomes a PDF beside it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.kinds import OFFICE_KINDS, Kind
from nemotron_rag.documents.office._profile import write_profile
from nemotron_rag.errors import DocumentError

__all__ = ["convert", "find_soffice"]

_INSTALL = (
    "needs LibreOffice, whose program soffice was not found; install it, for example with: "
    "apt-get install --no-install-recommends libreoffice-writer libreoffice-calc libreoffice-impress"
)
_PLACES = (
    "/Applications/LibreOffice.app/Contents/MacOS/soffice",
    r"C:\Program Files\LibreOffice\program\soffice.exe",
)
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "WINDIR", "LD_LIBRARY_PATH", "FONTCONFIG_PATH", "FONTCONFIG_FILE")
# Every slide, hidden ones too: page 7 of the PDF is slide 7. The outline names slides and sheets.
_OPTIONS = {
    "ExportBookmarks": {"type": "boolean", "value": "true"},
    "ExportHiddenSlides": {"type": "boolean", "value": "true"},
    "ExportNotes": {"type": "boolean", "value": "false"},
}
_LINGER = 10.0  # seconds for the supervisor to end after what it watches


def find_soffice() -> str:
    """Return the path of LibreOffice's program.

    Raises:
        DocumentError: it is not installed; the message says how it is.
    """
    found = shutil.which("soffice") or shutil.which("libreoffice")
    found = found or next((place for place in _PLACES if Path(place).is_file()), None)
    if found is None:
        raise DocumentError(_INSTALL)
    return found


@contextmanager
def convert(program: str, source: Path, kind: Kind, limits: dict[str, Any]) -> Iterator[Path]:
    """Convert a document; the PDF is there until the block ends.

    Args:
        program: see `find_soffice`.
        source: the document; LibreOffice gets a copy in a folder of its own, so that it finds no file beside it.
        kind: one of `OFFICE_KINDS`.
        limits: ``seconds``, ``memory_bytes`` and ``disk_bytes``.

    Raises:
        DocumentError: it cannot be converted within the limits; the message does not name it.
    """
    with tempfile.TemporaryDirectory(prefix="nemotron-rag-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        copy = folder / f"document.{kind}"
        shutil.copyfile(source, copy)
        write_profile(folder / "profile")
        (folder / "tmp").mkdir()
        outcome = _supervised(_request(program, copy, kind, folder) | limits)
        yield _result(outcome, folder / "out" / "document.pdf", limits)


def _request(program: str, copy: Path, kind: Kind, folder: Path) -> dict[str, Any]:
    to = f"pdf:{OFFICE_KINDS[kind]}_pdf_Export:{json.dumps(_OPTIONS)}"
    profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
    quiet = ["--headless", "--norestore", "--nolockcheck", "--nodefault", "--nologo", "--nofirststartwizard"]
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment |= dict.fromkeys((*_PROXIES, *map(str.upper, _PROXIES)), "http://127.0.0.1:9")
    environment |= {"HOME": str(folder), "TMPDIR": str(folder / "tmp"), "TEMP": str(folder / "tmp")}
    environment |= {"LC_ALL": "C.UTF-8", "SAL_USE_VCLPLUGIN": "svp", "SAL_DISABLE_OPENCL": "1"}
    command = [program, *quiet, profile, "--convert-to", to, "--outdir", str(folder / "out"), str(copy)]
    return {"command": command, "environment": environment, "folder": str(folder)}


def _supervised(request: dict[str, Any]) -> dict[str, Any]:
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        supervisor = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            [sys.executable or "", "-P", "-W", "ignore", "-m", "nemotron_rag.documents.office._supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except OSError as error:
        raise DocumentError(f"could not start a process to convert it: {error}") from error
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    try:
        with contextlib.suppress(OSError):
            supervisor.stdin.write(json.dumps(request).encode() + b"\n")
            supervisor.stdin.flush()
        line = supervisor.stdout.readline()
    finally:  # also at Ctrl-C: the end of its stdin tells the supervisor to end LibreOffice
        with contextlib.suppress(OSError):
            supervisor.stdin.close()
        try:
            supervisor.wait(_LINGER)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        supervisor.stdout.close()
    if not line.endswith(b"\n"):
        raise DocumentError("could not be converted: the process that watches LibreOffice ended before it answered")
    outcome: dict[str, Any] = json.loads(line)
    return outcome


def _result(outcome: dict[str, Any], pdf: Path, limits: dict[str, Any]) -> Path:
    if outcome["reason"] == "time":
        raise DocumentError(f"took LibreOffice longer than {limits['seconds']:g} seconds; raise OfficeBudget.seconds")
    if outcome["reason"] == "disk":
        raise DocumentError(
            f"made LibreOffice write more than {limits['disk_bytes']} bytes; raise OfficeBudget.disk_bytes"
        )
    try:
        with pdf.open("rb") as file:
            if file.read(5) == b"%PDF-" and outcome["status"] == 0:
                return pdf
    except OSError:
        pass
    said = [line for line in outcome["said"].splitlines() if line.strip() and "javaldx" not in line]
    why = one_line(said[-1]) if said else f"it ended with status {outcome['status']}"
    raise DocumentError(f"could not be converted by LibreOffice: {why}".replace(str(pdf.parent.parent), ""))
