"""Fetch a file by http or https from a host that was allowed, within one deadline and a size limit; no redirects.

The deadline holds for all of it: the name's address, the connection, TLS, headers and body, however slowly they come.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, cast

from nemotron_rag.documents.files import one_line, shown_url
from nemotron_rag.errors import ImageBudgetError, ImageError

__all__ = ["check_url", "fetch", "is_url"]

_NETLOC = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?")  # no user, no password, nothing to be read twice
_SAFE = "/%:=&?~+!$,;'@()*[]#"  # characters of a url that stay as they are; all others are percent-encoded
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_CHUNK = 2**16  # bytes read at a time


def is_url(source: object) -> bool:
    """Whether a source is an http or https url."""
    return isinstance(source, str) and source.lstrip()[:8].lower().startswith(("http://", "https://"))


def fetch(url: str, *, hosts: Sequence[str], seconds: float, max_bytes: int) -> bytes:
    """The file that a url names.

    Args:
        url: http or https.
        hosts: that are allowed, as in the url, with a port or for any port.
        seconds: from now until the last byte.
        max_bytes: of the file.

    Raises:
        ImageBudgetError: it has more bytes.
        ImageError: the host is not allowed, or the file could not be fetched; whatever went wrong.
    """
    shown = one_line(shown_url(url))
    address = check_url(url, hosts=hosts)
    deadline = time.monotonic() + seconds
    try:
        opener = _opener(deadline, urllib.parse.urlsplit(address).hostname or "", hosts)
        request = urllib.request.Request(address)  # noqa: S310  http or https, as was checked
        with opener.open(request, timeout=seconds) as response:
            return _read(response, deadline, max_bytes, shown)
    except ImageError:
        raise
    except TimeoutError as error:
        raise ImageError(f"image URL {shown!r} cannot be fetched: not there after {seconds:g} seconds") from error
    except Exception as error:  # http.client, ssl, idna and urllib each have errors of their own
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # its body is not read
        if _is_late(error):
            raise ImageError(f"image URL {shown!r} cannot be fetched: not there after {seconds:g} seconds") from error
        raise ImageError(f"image URL {shown!r} cannot be fetched: {_reason(error)}") from error


def check_url(url: str, *, hosts: Sequence[str]) -> str:
    """The url as it is sent, once it is clear which host every part of the program will read in it.

    Raises:
        ImageError: its host is not allowed, or is not clear.
    """
    shown = one_line(shown_url(url))
    try:
        parts = urllib.parse.urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ImageError(f"image URL {shown!r} cannot be read: {one_line(str(error))}") from error
    if not host or _CONTROL.search(url.strip()) or not _NETLOC.fullmatch(parts.netloc):
        raise ImageError(f"image URL {shown!r} cannot be read: wanted http(s)://host:port/path and no user")
    allowed = [name.lower() for name in hosts]
    if host not in allowed and f"{host}:{port}" not in allowed:
        known = ", ".join(hosts) or "none"
        raise ImageError(
            f"image URL {shown!r} is not on an allowed host ({known}); give image_hosts=[it] if you trust it"
        )
    path, query = (urllib.parse.quote(part, safe=_SAFE) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme.lower(), parts.netloc, path, query, ""))


def _read(response: http.client.HTTPResponse, deadline: float, max_bytes: int, shown: str) -> bytes:
    data = bytearray()
    while len(data) <= max_bytes:
        _left(deadline)
        more = response.read(min(_CHUNK, max_bytes + 1 - len(data)))
        if not more:
            return bytes(data)
        data += more
    raise ImageBudgetError(f"image URL {shown!r} has more than the {max_bytes} bytes allowed")


def _left(deadline: float) -> float:
    """Seconds until a deadline, more than 0.

    Raises:
        TimeoutError: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


def _is_late(error: BaseException) -> bool:
    reason = getattr(error, "reason", None)
    return isinstance(error, TimeoutError) or isinstance(reason, TimeoutError)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(error, urllib.error.HTTPError) and 300 <= error.code < 400:
        return f"HTTP Error {error.code}: redirects are not followed"
    inner = reason if isinstance(reason, BaseException) else error
    return one_line(getattr(inner, "strerror", None) or str(inner)) or type(inner).__name__


class _Timed:
    """A socket each of whose reads and writes ends at the deadline; a mixin for `socket.socket` and its children."""

    deadline: float | None = None

    def _in_time(self) -> None:
        if self.deadline is not None:
            self.settimeout(_left(self.deadline))  # type: ignore[attr-defined]

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        """As of `socket.socket`."""
        self._in_time()
        return super().recv_into(*arguments, **options)  # type: ignore[misc,no-any-return]

    def sendall(self, *arguments: Any, **options: Any) -> None:
        """As of `socket.socket`."""
        self._in_time()
        super().sendall(*arguments, **options)  # type: ignore[misc]


class _TimedSocket(_Timed, socket.socket):
    pass


class _TimedTLS(_Timed, ssl.SSLSocket):
    pass


def _opener(deadline: float, host: str, hosts: Sequence[str]) -> urllib.request.OpenerDirector:
    """Knows http, https and the proxies of the environment, and nothing else: no file, no ftp, no redirect."""
    context = ssl.create_default_context()
    context.sslsocket_class = _TimedTLS

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        return _connected(*address, deadline, hosts if address[0] == host else None)

    class Plain(http.client.HTTPConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._create_connection = connect

    class Encrypted(http.client.HTTPSConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options, context=context)
            self._create_connection = connect

        def connect(self) -> None:
            super().connect()
            cast("_TimedTLS", self.sock).deadline = deadline

    class Handler(urllib.request.AbstractHTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Encrypted, request)

        http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    opener = urllib.request.OpenerDirector()
    handlers: Sequence[Callable[[], urllib.request.BaseHandler]] = (
        urllib.request.ProxyHandler,
        Handler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    )
    for make in handlers:
        opener.add_handler(make())
    return opener


def _connected(host: str, port: int, deadline: float, hosts: Sequence[str] | None = None) -> socket.socket:
    """A connection to the first address of a host that answers.

    Args:
        host: its name or address.
        port: of it.
        deadline: see `fetch`.
        hosts: that are allowed; None for a proxy, which the environment chose.
    """
    failure: OSError = OSError("the host has no address")
    for family, kind, protocol, _, address in _addresses(host, port, deadline):
        if hosts is not None and not _may_be(host, str(address[0]), hosts):
            failure = OSError(
                f"its name stands for {address[0]}, an address of this machine or its link; allow that too"
            )
            continue
        timed = _TimedSocket(family, kind, protocol)
        timed.deadline = deadline
        try:
            timed.settimeout(_left(deadline))
            timed.connect(address)
            timed.settimeout(_left(deadline))  # of a TLS handshake as a whole
        except OSError as error:
            timed.close()
            failure = error
        else:
            return timed
    raise failure


def _may_be(host: str, address: str, hosts: Sequence[str]) -> bool:
    """Whether a name may stand for an address: whoever gives it the address must not reach this machine's services."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    inward = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast
    return not inward or host == "localhost" or host in (address, str(ip)) or str(ip) in hosts


def _addresses(host: str, port: int, deadline: float) -> list[Any]:
    """What `socket.getaddrinfo` says, which cannot be interrupted: a thread of its own waits for it."""
    found: list[Any] = []
    errors: list[Exception] = []

    def resolve() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except Exception as error:  # raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=resolve, name="nemotron-rag resolve", daemon=True)
    thread.start()
    thread.join(_left(deadline))
    if thread.is_alive():
        raise TimeoutError("the host's name was not resolved in time")
    if errors:
        raise errors[0]
    return found
