"""The search page at ``/``: it loads nothing from elsewhere, and shows nothing before it has the server's key."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response

from nemotron_rag.serve.limits import OPEN_FOLDER

__all__ = ["add_search_page"]

_FORBIDDEN_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": f"{_FORBIDDEN_ELSE}; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_search_page(app: FastAPI) -> None:
    """Add the page, its scripts, its icon, and its style, which begins with that of the report."""
    style = _file("report", "style.css") + _file("serve", "page/search.css")
    _add(app, "/", _file("serve", "page/search.html"), "text/html")
    _add(app, f"{OPEN_FOLDER}search.css", style, "text/css")
    for name in ("search.js", "regions.js", "server.js"):
        _add(app, f"{OPEN_FOLDER}{name}", _file("serve", f"page/{name}"), "text/javascript")
    _add(app, f"{OPEN_FOLDER}icon.svg", _file("serve", "page/icon.svg"), "image/svg+xml")


def _add(app: FastAPI, path: str, text: str, media_type: str) -> None:
    async def answer() -> Response:
        return Response(text, media_type=media_type, headers=_HEADERS)

    app.add_api_route(path, answer, include_in_schema=False)


def _file(room: str, path: str) -> str:
    return resources.files(f"nemotron_rag.{room}").joinpath(path).read_text(encoding="utf-8")
