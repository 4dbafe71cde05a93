"""How a server is reached: its url, key, headers and timeout, which no message, no repr and no pickle shows."""

from __future__ import annotations

import base64
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, Self, TypedDict, TypeGuard, cast
from urllib.parse import urlsplit

from nemotron_rag.documents.files import shown_url
from nemotron_rag.errors import InputError

__all__ = [
    "KEY_VARIABLE",
    "LOOPBACK",
    "Connection",
    "ConnectionOptions",
    "HoldsSecret",
    "Secrets",
    "check_url",
    "connection_options",
    "is_url",
    "shown_url",
    "warn_if_open",
]

KEY_VARIABLE = "QDRANT_API_KEY"
"""The environment variable that holds the API key of servers, unless one is given."""

_SCHEMES = ("http://", "https://")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that are this machine."""

_HEADER = re.compile(r"[a-z0-9_.-]+")  # what gRPC takes as well as HTTP
_HIDDEN = "***"
_SHORTEST = 4  # characters of a secret; shorter ones are in any text
_log = logging.getLogger("nemotron_rag")


class HoldsSecret(Protocol):
    """A text in a wrapper that does not show it, such as `pydantic.SecretStr`."""

    def get_secret_value(self) -> str:
        """The text."""


class ConnectionOptions(TypedDict, total=False):
    """How to reach a server that is given by its url; an open client brings its own.

    ``api_key`` is None for the environment variable ``QDRANT_API_KEY``. ``headers`` are sent with every request.
    ``timeout`` are the seconds that one request may take; None for 60. ``patience`` are the seconds for which requests
    are tried again when the server is busy or does not answer, 3600 to ride out an hour, 0 for never; None for 120, and
    for 5 at first contact. Searches are tried again for 5 at most.
    """

    api_key: str | HoldsSecret | None
    headers: Mapping[str, str] | None
    timeout: float | None
    patience: float | None


@dataclass(frozen=True, slots=True, init=False)
class Connection:
    """`ConnectionOptions`, checked.

    A pickle leaves the key out, which then comes from the environment variable; with headers there is no pickle.

    Args:
        api_key: of the server.
        headers: by name; None for none.
        timeout: seconds.
        patience: seconds.

    Raises:
        InputError: a value cannot be sent; the message does not show it.

    Example:
        >>> Connection(api_key="t0ps3cret", timeout=5)
        Connection(timeout=5)
    """

    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    patience: float | None = None

    def __init__(
        self,
        *,
        api_key: str | HoldsSecret | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        patience: float | None = None,
    ) -> None:
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
            raise InputError(f"timeout must be a positive number of seconds, got {timeout!r}")
        if patience is not None and (
            isinstance(patience, bool) or not isinstance(patience, int | float) or not 0 <= patience < math.inf
        ):
            raise InputError(f"patience must be a number of seconds, 0 for none, got {patience!r}")
        object.__setattr__(self, "api_key", _key(api_key))
        object.__setattr__(self, "headers", dict(map(_header, (headers or {}).items())))
        object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "patience", patience)

    def __bool__(self) -> bool:
        """Whether anything was given that only a url has a use for."""
        return bool(self.api_key or self.headers or self.timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.headers:
            raise InputError(
                "headers= may hold credentials and are not pickled; open the store in the process that uses it, or "
                f"give the server an API key in {KEY_VARIABLE}"
            )
        return _restored, (self.timeout, self.patience)

    @property
    def options(self) -> ConnectionOptions:
        """What it was made of, less what was not given."""
        given: ConnectionOptions = {}
        if self.api_key:
            given["api_key"] = self.api_key
        if self.headers:
            given["headers"] = self.headers
        if self.timeout:
            given["timeout"] = self.timeout
        if self.patience is not None:
            given["patience"] = self.patience
        return given

    def to(self, location: str | os.PathLike[str] | None) -> Self:
        """The connection to a place, with the key of the environment if none was given.

        Raises:
            InputError: the place is no server and needs none of this, or its url cannot be used.
        """
        if location is not None and "://" in os.fspath(location) and not is_url(location):
            raise InputError(f"a location is a folder or an http(s):// url, got {shown_url(os.fspath(location))!r}")
        if not is_url(location):
            if self:
                named = ", ".join(f"{name}=" for name in self.options if name != "patience")
                raise InputError(f"{named} belongs to the http(s):// url of a server; leave it out here")
            return self
        check_url(location)
        key = self.api_key or _key(os.environ.get(KEY_VARIABLE))
        if key is not None:
            warn_if_open(location)
        return type(self)(api_key=key, headers=self.headers, timeout=self.timeout, patience=self.patience)

    def sent(self) -> dict[str, str]:
        """All headers, that of the key among them."""
        return {**self.headers, **({} if self.api_key is None else {"api-key": self.api_key})}

    @property
    def secrets(self) -> Secrets:
        """What no message may show."""
        return Secrets(self.api_key, self.headers)


class Secrets:
    """Finds and hides an API key and the values of headers in texts: a server may quote what it was sent.

    Args:
        api_key: as it is sent.
        headers: as they are sent.
    """

    def __init__(self, api_key: str | None, headers: Mapping[str, str]) -> None:
        values = [*([api_key] if api_key else []), *headers.values()]
        parts = [part for value in values for part in (value, value.rpartition(" ")[2])]  # "Bearer s3cret"
        encoded = [base64.b64encode(part.encode()).decode() for part in parts]
        self._found = sorted({part for part in (*parts, *encoded) if len(part) >= _SHORTEST}, key=len, reverse=True)

    def __contains__(self, text: str) -> bool:
        """Whether a text holds one of them."""
        return any(secret in text for secret in self._found)

    def hide(self, text: str) -> str:
        """The text without them."""
        for secret in self._found:
            text = text.replace(secret, _HIDDEN)
        return text


def connection_options(options: Mapping[str, Any]) -> ConnectionOptions:
    """Those of some options that are about the connection."""
    return cast("ConnectionOptions", {k: v for k, v in options.items() if k in ConnectionOptions.__annotations__})


def is_url(location: object) -> TypeGuard[str]:
    """Whether a location names a server, and no folder or memory."""
    return isinstance(location, str) and location[:8].lower().startswith(_SCHEMES)


def _restored(timeout: float | None, patience: float | None) -> Connection:
    return Connection(timeout=timeout, patience=patience)


def _key(given: str | HoldsSecret | None) -> str | None:
    if given is None:
        return None
    value = given if isinstance(given, str) else _secret(given)
    key = value.strip()  # read from a file, it ends with a line break
    if not (key.isascii() and key.isprintable()):
        raise InputError("api_key has characters that cannot be sent; wanted printable ASCII")
    return key or None


def _secret(given: object) -> str:
    value = getattr(given, "get_secret_value", lambda: None)()
    if not isinstance(value, str):
        raise InputError(f"api_key must be a str, got {type(given).__name__}")
    return value


def _header(item: tuple[object, object]) -> tuple[str, str]:
    name, value = item
    if not isinstance(name, str) or not isinstance(value, str):
        raise InputError(f"headers= must be str by str, got {type(name).__name__} by {type(value).__name__}")
    lower, text = name.strip().lower(), value.strip()
    if not _HEADER.fullmatch(lower) or lower.endswith("-bin"):
        raise InputError(f"headers= names must be letters, digits, '-', '_' and '.', got {name!r}")
    if not (text.isascii() and text.isprintable()):
        raise InputError(f"header {name!r} has characters that cannot be sent; wanted printable ASCII")
    return lower, text


def check_url(url: str, *, key_variable: str = KEY_VARIABLE) -> None:
    """Refuse a server's url that cannot be used, or that holds credentials.

    Args:
        url: http or https.
        key_variable: the environment variable that takes the key, for the message.

    Raises:
        InputError: it cannot be used; the message does not show its credentials.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise InputError(f"a server's url is http(s)://host:port, got {shown_url(url)!r}")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"a server's url holds no user and no password, got some for {shown_url(url)!r}; "
            f"give api_key= or set {key_variable}, or give headers={{'Authorization': ...}}"
        )
    if parts.query or parts.fragment:
        raise InputError(
            f"a server's url ends with its path, got a query behind {shown_url(url)!r}; "
            f"give api_key= or set {key_variable}"
        )


@lru_cache(maxsize=64)
def warn_if_open(url: str) -> None:
    """Say once that a key would be sent unencrypted to another machine."""
    parts = urlsplit(url)
    if parts.scheme.lower() == "http" and parts.hostname not in LOOPBACK:
        _log.warning("the API key goes to %s unencrypted; use https:// where others can listen", url)
