"""Opens Qdrant clients, keeps embedded ones safe among threads, and words their errors. It knows no pages."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ParamSpec, TypeVar

from nemotron_rag._inputs import one_line
from nemotron_rag.errors import InputError, MissingExtraError, StoreError
from nemotron_rag.stores._grpc import GRPC_PORT, answers_grpc, is_transient

try:
    import grpc
    import portalocker
    from qdrant_client import QdrantClient
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException, UnexpectedResponse
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["Connection"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_FAILURES = (
    ApiException,
    QdrantException,
    grpc.RpcError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    sqlite3.Error,
)
_TIMEOUT = 60  # seconds; a write that waits for its acknowledgement takes longer than the client's default of 5
_PAUSES = (0.5, 2.0)  # seconds before the second and the third try of a write
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_MESSAGE_LENGTH = 300
_JSON_BYTES = 20  # of a float32, at most
_GRPC_BYTES = 4
_log = logging.getLogger("nemotron_rag")

# Embedded Qdrant is plain Python objects without locks: all users of one client must share one lock.
_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


class Connection:
    """One client, every call of which comes back with a result or with a one-line `StoreError`.

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a server.
        client: an open client to use instead; it is not closed with the connection.
        prefer_grpc: send to a server by gRPC, if it answers at that port.

    Raises:
        InputError: the location is a url of another kind.
        StoreError: the folder is in use, or is not one that Qdrant can read.
    """

    def __init__(
        self,
        location: str | Path | None = None,
        *,
        client: QdrantClient | None = None,
        prefer_grpc: bool = False,
    ) -> None:
        self.client = client if client is not None else _open(location, prefer_grpc)
        # Also for those who never close: the client's own __del__ fails noisily when the interpreter shuts down.
        self._close = weakref.finalize(self, self.client.close) if client is None else None
        options = self.client.init_options
        self.embedded: bool = options.get("location") == ":memory:" or options.get("path") is not None
        self.name = str(options.get("path") or options.get("url") or options.get("host") or options.get("location"))
        self.bytes_per_number = _GRPC_BYTES if options.get("prefer_grpc") else _JSON_BYTES
        self._lock: AbstractContextManager[object] = nullcontext()
        if self.embedded:
            with _locks_guard:
                self._lock = _locks.setdefault(self.client, threading.RLock())

    def read(self, doing: str, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call the client.

        Args:
            doing: completes "could not ..." in the error.
            work: a method of the client.
            *args: its arguments.
            **kwargs: its named arguments.

        Raises:
            StoreError: the client refused, or the server could not be reached.
        """
        try:
            with self._lock:
                return work(*args, **kwargs)
        except _FAILURES as error:
            raise StoreError(f"could not {doing} in {self.name}: {_reason(error)}; {_advice(error)}") from error

    def write(self, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call the client, again after a pause when a server is busy or does not answer; see `read`.

        All our writes may safely run twice: they name the ids of what they write.

        Args:
            work: a method of the client.
            *args: its arguments.
            **kwargs: its named arguments.

        Raises:
            StoreError: as from `read`, at the last try.
        """
        for pause in () if self.embedded else _PAUSES:
            try:
                return self.read("write", work, *args, **kwargs)
            except StoreError as error:
                if not _is_transient(error.__cause__):
                    raise
            time.sleep(pause)
        return self.read("write", work, *args, **kwargs)

    def close(self) -> None:
        """Close the client if this connection opened it."""
        if self._close is not None:
            with self._lock:
                self._close()


def _open(location: str | Path | None, prefer_grpc: bool) -> QdrantClient:
    if location is None:
        return QdrantClient(location=":memory:")
    if str(location).startswith(("http://", "https://")):
        return _connect(str(location), prefer_grpc)
    if "://" in str(location):
        raise InputError(f"a location is a folder or an http(s):// url, got {str(location)!r}")
    folder = Path(location)
    _refuse_if_locked(folder)
    meta = folder / "meta.json"
    if meta.is_file() and meta.stat().st_size == 0:
        meta.unlink()  # all that a process killed in its first moment leaves; Qdrant would not read it
    try:
        # Its SQLite would refuse other threads on some systems; our lock lets in one at a time.
        return QdrantClient(path=str(folder), force_disable_check_same_thread=True)
    except Exception as error:  # whatever a damaged folder makes Qdrant raise
        raise StoreError(f"could not open the index folder {folder}: {_reason(error)}; give another folder") from error


def _connect(url: str, prefer_grpc: bool) -> QdrantClient:
    by_grpc = prefer_grpc and answers_grpc(url)
    if prefer_grpc and not by_grpc:
        _log.info("%s does not answer gRPC at port %d; REST is used, which sends vectors more slowly", url, GRPC_PORT)
    # The version check runs in a thread of its own that can only warn.
    return QdrantClient(url=url, timeout=_TIMEOUT, check_compatibility=False, prefer_grpc=by_grpc, grpc_port=GRPC_PORT)


def _refuse_if_locked(folder: Path) -> None:
    """Ask before Qdrant does, which would leave files open when it finds the folder locked."""
    lock = folder / ".lock"
    if not lock.exists():
        return
    try:
        with lock.open("r+") as file:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            portalocker.unlock(file)
    except portalocker.exceptions.LockException as error:
        raise StoreError(
            f"the index folder {folder} is in use by another process or another open PageIndex; "
            "close that one, or run a Qdrant server and give its url"
        ) from error


def _is_transient(error: BaseException | None) -> bool:
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _TRANSIENT
    if isinstance(error, grpc.RpcError):
        return is_transient(error)
    return not isinstance(error, ValueError)


def _reason(error: Exception) -> str:
    if isinstance(error, UnexpectedResponse):
        content = error.content.decode("utf-8", "replace") if isinstance(error.content, bytes) else str(error.content)
        return one_line(f"HTTP {error.status_code} {content}", limit=_MESSAGE_LENGTH)
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return one_line(f"gRPC {error.code().name} {error.details()}", limit=_MESSAGE_LENGTH)
    return one_line(str(error) or type(error).__name__, limit=_MESSAGE_LENGTH)


def _advice(error: Exception) -> str:
    if isinstance(error, ApiException) and not isinstance(error, UnexpectedResponse):
        return "check that the server runs and its url is right"
    return "check the request, and the server's log if there is one"
