"""Requests to one server: pooled connections, a deadline for each try, more tries while they help, bounded answers.

No redirect is followed, for the key would go along. Proxies are those of the environment, never for this machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from nemotron_rag.documents.files import one_line, shown_url
from nemotron_rag.errors import ClosedError, EndpointError, InputError
from nemotron_rag.remote.endpoint import Endpoint
from nemotron_rag.stores.patience import SHORT_PATIENCE, Waiting, seconds_of
from nemotron_rag.stores.server import LOOPBACK, warn_if_open

__all__ = ["MAX_ANSWER", "TooLargeError", "Transport"]

MAX_ANSWER = 512 << 20
"""Bytes of an answer; none of ours, with token vectors in Base64, comes near."""

_MAX_MESSAGE = 64 << 10  # bytes of an answer that is an error
_SHOWN = 300  # characters of a server's message
_BUSY = (408, 425, 429, 502, 503, 504)
_BROKEN = (500, 520, 521, 522, 523, 524)  # may as well stay as it is
_REFUSED = (400, 422)
_NEVER = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)
_IN_THREAD = 1 << 20  # bytes of JSON above which it is read in another thread
_log = logging.getLogger("nemotron_rag")


class TooLargeError(Exception):
    """The server takes no request of this size (413)."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class _Failure:
    """A try that failed: what to say, for how long others help, and how long the server asks to be left alone."""

    message: str
    patience: float
    at_least: float = 0.0


class Transport:
    """Makes requests to one server; every method belongs to the loop of `background`.

    Args:
        base_url: of the server, checked.
        endpoint: how.
    """

    def __init__(self, base_url: str, endpoint: Endpoint) -> None:
        self._base_url, self._endpoint = base_url, endpoint
        headers, self._secrets = endpoint.sent(base_url)
        if "authorization" in headers:
            warn_if_open(base_url)
        self._free = asyncio.Semaphore(endpoint.connections)
        self._client = httpx.AsyncClient(
            headers={"accept": "application/json", "accept-encoding": "identity", **headers},
            timeout=endpoint.timeout,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=endpoint.connections),
            trust_env=urlsplit(base_url).hostname not in LOOPBACK,
            verify=_certificates(),
        )

    @property
    def where(self) -> str:
        """The server, for messages."""
        return shown_url(self._base_url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, url: str) -> Any | None:
        """The JSON at an address; None if the server has none there.

        Raises:
            EndpointError: it cannot be reached, or does not know the key.
        """
        answer = await self._tried("GET", url, None, SHORT_PATIENCE)
        if answer.status in (401, 403):
            raise EndpointError(self._denied(answer))
        if answer.status != 200:
            return None
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            return None

    async def post(self, url: str, body: dict[str, Any], *, patience: float) -> Any:
        """The JSON that a request is answered with.

        Args:
            url: of the request.
            body: its JSON.
            patience: for how long it is tried again, seconds; that of the endpoint goes before.

        Raises:
            InputError: the server refuses what was sent.
            TooLargeError: the request is too large for it.
            EndpointError: it cannot be reached, or its answer is none.
        """
        content = _dump(body)
        answer = await self._tried("POST", url, content, patience)
        if answer.status == 200:
            return await self._read(answer, url)
        if answer.status == 413:
            raise TooLargeError
        message = self._message(answer)
        if answer.status in (401, 403):
            raise EndpointError(self._denied(answer))
        if answer.status in _REFUSED:
            raise InputError(f"{self.where} refuses what was sent (HTTP {answer.status}): {message}")
        raise EndpointError(f"{shown_url(url)} answered HTTP {answer.status}: {message}; {_advice(answer)}")

    async def _tried(self, method: str, url: str, content: bytes | None, patience: float) -> _Answer:
        limit = patience if self._endpoint.patience is None else self._endpoint.patience
        waiting = Waiting()
        while True:
            async with self._free:
                failure = await self._try(method, url, content, limit)
            if isinstance(failure, _Answer):
                return failure
            if waiting.is_first and failure.patience:
                _log.warning("%s; trying again for up to %d s", failure.message, failure.patience)
            if not await waiting.apause(failure.patience, at_least=failure.at_least):
                tried = "" if waiting.is_first else f", tried for {waiting.seconds:.0f} s"
                raise EndpointError(f"{failure.message}{tried}; check that the server runs and base_url= is right")

    async def _try(self, method: str, url: str, content: bytes | None, patience: float) -> _Answer | _Failure:
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                answer = await self._once(method, url, content)
        except TimeoutError:
            seconds = self._endpoint.timeout
            return _Failure(f"{shown_url(url)} did not answer within {seconds:g} s (timeout=)", patience)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = self._secrets.hide(one_line(str(error), limit=_SHOWN)) or type(error).__name__
            hopeless = isinstance(error, _NEVER) or "CERTIFICATE_VERIFY_FAILED" in reason
            return _Failure(f"{shown_url(url)} cannot be reached: {reason}", 0 if hopeless else patience)
        except RuntimeError as error:
            if not self._client.is_closed:
                raise
            raise ClosedError("the model was closed while it was asked; load it again") from error
        if answer.status in (*_BUSY, *_BROKEN):
            said = f"{shown_url(url)} answered HTTP {answer.status}: {self._message(answer)}"
            left = patience if answer.status in _BUSY else min(patience, SHORT_PATIENCE)
            return _Failure(said, left, seconds_of(answer.headers.get("retry-after")))
        return answer

    async def _once(self, method: str, url: str, content: bytes | None) -> _Answer:
        headers = {} if content is None else {"content-type": "application/json"}
        parts, size = [], 0
        async with self._client.stream(method, url, content=content, headers=headers) as response:
            is_error = response.status_code != 200
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > _MAX_MESSAGE and is_error:
                    break
                if size > MAX_ANSWER:
                    raise EndpointError(
                        f"{shown_url(url)} answers with more than {MAX_ANSWER >> 20} MiB; give a smaller batch_size"
                    )
        return _Answer(response.status_code, response.headers, b"".join(parts))

    async def _read(self, answer: _Answer, url: str) -> Any:
        try:
            if len(answer.body) > _IN_THREAD:
                return await asyncio.to_thread(json.loads, answer.body)
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            kind = answer.headers.get("content-type", "nothing known").partition(";")[0]
            raise EndpointError(
                f"{shown_url(url)} answered with {one_line(kind)}, not with JSON: {self._message(answer)!r}; "
                "check base_url= and dialect="
            ) from error

    def _message(self, answer: _Answer) -> str:
        """What an answer says, as the dialects write errors; its beginning if it is not understood."""
        text = answer.body[:_MAX_MESSAGE].decode("utf-8", "replace")
        try:
            found = _said(json.loads(text))
        except (ValueError, RecursionError):
            found = None
        return self._secrets.hide(one_line(found or text, limit=_SHOWN)) or "no message"

    def _denied(self, answer: _Answer) -> str:
        variable = self._endpoint.names_of_key(self._base_url)[0]
        return (
            f"{self.where} does not accept the key (HTTP {answer.status}): {self._message(answer)}; "
            f"set {variable}, or give endpoint={{'api_key': ...}}"
        )


@cache
def _certificates() -> ssl.SSLContext:
    """Those of certifi, or of SSL_CERT_FILE; they take a while to read."""
    return httpx.create_ssl_context()


def _dump(body: dict[str, Any]) -> bytes:
    """Lone surrogates, which UTF-8 cannot hold, become question marks."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _said(body: object) -> str | None:
    """The message of an error, where somebody's format puts it."""
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail", "title") if body.get(key)), None)
    if isinstance(body, list):
        return json.dumps(body, ensure_ascii=False)
    return body if isinstance(body, str) else None


def _advice(answer: _Answer) -> str:
    if 300 <= answer.status < 400:
        where = one_line(shown_url(answer.headers.get("location", "elsewhere")))
        return f"it points to {where}, and no redirect is followed: give that as base_url="
    if answer.status in (404, 405):
        return "check base_url=, dialect= and the model's name"
    return "the server's log says more"
