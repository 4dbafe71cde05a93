"""What every request passes first: its key, its size, and the number of those under way."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemotron_rag.serve.metrics import Metrics
from nemotron_rag.serve.served import ServeSettings

__all__ = ["OPEN_FOLDER", "OPEN_PATHS", "Limits", "failure"]

# What is answered without a key: whether it runs, what it understands, and the search page, which asks for the key.
OPEN_PATHS = frozenset({"/", "/health", "/v1/health/live", "/v1/health/ready", "/openapi.json"})
OPEN_FOLDER = "/page/"
_RETRY_AFTER = "1"  # seconds
_HELD = 8  # times as many bytes as one request may have are held of all requests under way
_READING = 60.0  # seconds for a request to arrive


def failure(status: int, message: str, kind: str, **headers: str) -> JSONResponse:
    """An error as clients of every dialect find it: ``error.message`` and ``detail`` hold the same line."""
    line = " ".join(message.split())
    body = {"error": {"message": line, "type": kind, "code": status}, "detail": line}
    return JSONResponse(body, status, headers=headers)


class Limits:
    """ASGI middleware that holds requests to `ServeSettings`.

    Args:
        app: what comes behind.
        settings: the limits.
        metrics: count what was answered.
    """

    def __init__(self, app: ASGIApp, *, settings: ServeSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._under_way = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._metrics.request(scope["path"], scope["method"]) as noted:
            await self._answer(scope, receive, _noting(send, noted))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope["path"], Headers(scope=scope))
        if refused is not None:
            await refused(scope, receive, send)
            return
        body = bytearray()
        self._under_way += 1
        try:
            refused = await self._read(receive, body)
            if refused is not None:
                await refused(scope, receive, send)
            else:
                await self._app(scope, _replayed(bytes(body), receive), send)
        finally:
            self._under_way -= 1
            self._held -= len(body)

    def _refused(self, path: str, headers: Headers) -> JSONResponse | None:
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        if not self._knows(headers.get("authorization", "")):
            message = "wanted the server's key as Authorization: Bearer"
            return failure(401, message, "unauthorized", **{"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return failure(400, "content-length is not a number", "invalid_request")
        if int(length) > self._settings.max_body_bytes:
            return self._too_large()
        if self._under_way >= self._settings.max_waiting:
            return _overloaded(f"{self._under_way} requests are under way, as many as this server takes")
        return None

    def _knows(self, given: str) -> bool:
        wanted = self._settings.api_key
        scheme, _, key = given.partition(" ")
        return wanted is None or (
            scheme.lower() == "bearer" and secrets.compare_digest(key.strip().encode(), wanted.encode())
        )

    def _too_large(self) -> JSONResponse:
        return failure(413, f"a request has at most {self._settings.max_body_bytes} bytes", "too_large")

    async def _read(self, receive: Receive, body: bytearray) -> JSONResponse | None:
        """Read the body; what is answered if it is too large, whatever length it said, or takes too long."""
        more = True
        try:
            async with asyncio.timeout(_READING):
                while more:
                    message = await receive()
                    part = message.get("body", b"")
                    body += part
                    self._held += len(part)
                    if len(body) > self._settings.max_body_bytes:
                        return self._too_large()
                    if self._held > _HELD * self._settings.max_body_bytes:
                        return _overloaded("the requests under way hold as many bytes as this server takes")
                    more = message.get("more_body", False)
        except TimeoutError:
            return failure(408, f"the request did not arrive within {_READING:.0f} s", "too_slow")
        return None


def _overloaded(what: str) -> JSONResponse:
    return failure(429, f"{what}; try again", "overloaded", **{"Retry-After": _RETRY_AFTER})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, and what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return left.pop() if left else await receive()

    return replayed


def _noting(send: Send, noted: MutableMapping[str, Any]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            noted["status"] = message["status"]
        await send(message)

    return sending
