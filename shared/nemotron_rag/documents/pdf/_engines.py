"""Which engine renders a PDF: MuPDF, pdfium, or pdfium where MuPDF refuses.

The engines are imported only where rendering happens: in a worker process, or in the caller's for debugging.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

from nemotron_rag.documents.pdf._common import Reply

__all__ = ["Renderer", "has_second"]

_MODULES = {
    "mupdf": ("pymupdf", "nemotron_rag.documents.pdf._render"),
    "pdfium": ("pypdfium2", "nemotron_rag.documents.pdf._pdfium"),
}
_ORDER = {"auto": ("mupdf", "pdfium"), "mupdf": ("mupdf",), "pdfium": ("pdfium",)}


class Renderer:
    """Answers requests about at most one open document, each by the first engine that can.

    An engine that refuses a document is not asked for its pages; one that refuses a page is asked for the next one. A
    request for a page may name the engine: that of a page in which the first one has died. A password that MuPDF asks
    for is not asked for where pdfium shows the pages without: attachments may be locked alone.
    """

    def __init__(self) -> None:
        self._engines: dict[str, Any] = {}
        self._opening: tuple[dict[str, Any], bytes] = {}, b""
        self._having: list[str] = []  # the engines that may be asked for pages of the document
        self._open_in: set[str] = set()  # those that have it open

    def handle(self, request: dict[str, Any], body: bytes) -> Reply:
        """Answer one request: its ``op`` is open, render, languages or close."""
        with quiet():
            if request["op"] == "open":
                return self._open(request, body)
            if request["op"] == "render":
                return self._render(request)
            if request["op"] == "close":
                return self._close(request)
            languages: Reply = self._engine(_installed(request)[0]).handle(request, body)
            return languages

    def _open(self, request: dict[str, Any], body: bytes) -> Reply:
        self._close(request)
        self._opening = request, body
        refused: Reply | None = None
        names = _installed(request)
        for place, name in enumerate(names):
            reply: Reply = self._engine(name).handle(request, body)
            if "error" not in reply[0] and (reply[0]["page_count"] > 0 or name == names[-1]):
                self._having, self._open_in = names[place:], {name}
                return reply
            refused = refused or reply
        return refused or ({"error": "pdf", "reason": "no engine can open it"}, b"")

    def _render(self, request: dict[str, Any]) -> Reply:
        refused: Reply | None = None
        for name in self._having:
            if name != request.get("engine", name) or not self._opens(name):
                continue
            reply: Reply = self._engine(name).handle(request, b"")
            if "error" not in reply[0]:
                return reply
            refused = refused or reply
        return refused or ({"error": "pdf", "reason": "no document is open"}, b"")

    def _opens(self, name: str) -> bool:
        """Whether an engine has the document open, or opens it."""
        if name not in self._open_in and "error" not in self._engine(name).handle(*self._opening)[0]:
            self._open_in.add(name)
        return name in self._open_in

    def _close(self, request: dict[str, Any]) -> Reply:
        for engine in self._engines.values():
            engine.handle({**request, "op": "close"}, b"")
        self._having, self._open_in, self._opening = [], set(), ({}, b"")
        return {}, b""

    def _engine(self, name: str) -> Any:
        if name not in self._engines:
            self._engines[name] = importlib.import_module(_MODULES[name][1]).Renderer()
        return self._engines[name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what MuPDF's wrappers use that Python deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def has_second(request: dict[str, Any]) -> bool:
    """Whether another engine may be asked where the first one has died: of two, pdfium."""
    return _installed(request) == ["mupdf", "pdfium"]


def _installed(request: dict[str, Any]) -> list[str]:
    """The engines that may be asked, in order; other formats than PDF are MuPDF's alone."""
    names = [name for name in _ORDER[request.get("engine", "auto")] if importlib.util.find_spec(_MODULES[name][0])]
    if request.get("kind", "pdf") != "pdf" and "mupdf" in names:
        return ["mupdf"]
    return names
