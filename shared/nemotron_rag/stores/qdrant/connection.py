"""Where a Qdrant is, and how to call it: the one registry of the places that this process has open.

An embedded Qdrant takes one call at a time, and has one client that may write for each folder. So all who name a folder
in this process share its client, and all who share a client share its locks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, Unpack

from qdrant_client import AsyncQdrantClient, QdrantClient

from nemotron_rag._forking import Lock, renewed_in_child
from nemotron_rag.errors import ClosedError, InputError, RefusedError, StoreError
from nemotron_rag.stores.patience import DEFAULT_PATIENCE, SHORT_PATIENCE, Waiting
from nemotron_rag.stores.qdrant.failures import FAILURES, advice, asked_pause, is_refusal, patience_with, reason
from nemotron_rag.stores.qdrant.opening import Engine, check_readable, engine_of, holds_qdrant, is_edge, open_client
from nemotron_rag.stores.server import KEY_VARIABLE, Connection, ConnectionOptions, Secrets, shown_url

__all__ = ["Call", "Calls", "Qdrant", "held_collections"]

T = TypeVar("T")

_JSON_BYTES = 20  # of a float32, at most
_GRPC_BYTES = 4
_WRITES = ("upsert", "delete", "set_payload", "batch_update_points", "create_payload_index")
_READS = {
    "collection_exists": "look for a collection",
    "count": "count",
    "get_aliases": "list aliases",
    "get_collection": "describe a collection",
    "get_collections": "list collections",
    "query_points": "search",
    "retrieve": "read points",
    "scroll": "list points",
}
_DOING = {
    **_READS,
    **dict.fromkeys(_WRITES, "write"),
    "create_collection": "make a collection",
    "optimize": "optimize a collection",
    "update_collection": "change the settings of a collection",
    "update_collection_aliases": "change an alias",
}


_log = logging.getLogger("nemotron_rag")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the client that is still to be made, blocking or not.

    Args:
        method: its name.
        arguments: for it, by name.
    """

    method: str
    arguments: dict[str, Any]


Calls: TypeAlias = Generator[Call, Any, T]
"""Logic that yields calls, is sent their results (or thrown their errors), and returns a `T`; see `Qdrant.run`."""


def held_collections() -> Calls[str]:
    """What a place holds, for messages about a collection that it does not: ``, which holds 'a', 'b'``; or nothing."""
    try:
        found = (yield Call("get_collections", {})).collections
    except StoreError:  # nothing was written there, or the key may not list them
        return ""
    names = ", ".join(sorted(repr(each.name) for each in found))
    return f", which holds {names}" if names else ""


class Qdrant:
    """A Qdrant in memory, in a folder, or on a server; opened by the first call that needs it.

    In one process, all objects for a folder share one client, which is closed with the last of them. Memory is never
    shared. Nothing is written to a folder before the first write. Copies share the connection; a pickle holds the place
    and connects again, so what is in memory cannot be pickled. Any thread may call. A forked child connects to a server
    anew, by REST; of what is in memory, or in a folder that was open, it has a copy that it can read.

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a server.
        client: an open client instead; never closed here.
        async_client: for the ``acall`` of a server; None makes one like `client` for each event loop.
        prefer_grpc: send to a server by gRPC, if it answers at that port.
        **options: of the connection to a url: ``api_key``, ``headers``, ``timeout``, and to any server ``patience``;
            see `ConnectionOptions`.

    Raises:
        InputError: both `location` and `client` are given, the location is a url of another kind or holds
            credentials, or `options` cannot be used.

    Example:
        >>> qdrant = Qdrant()
        >>> qdrant.call("collection_exists", collection_name="pages"), qdrant.in_memory, qdrant.folder
        (False, True, None)
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        client: QdrantClient | None = None,
        async_client: AsyncQdrantClient | None = None,
        prefer_grpc: bool = False,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        if location is not None and client is not None:
            raise InputError("give a location or an open client, not both; a client brings its own location")
        self._location = None if location in (None, ":memory:") else os.fspath(location)
        self._connection = Connection(**options).to(self._location)
        is_folder = self._location is not None and "://" not in self._location
        self._folder = Path(self._location or "").absolute() if is_folder else None  # the working folder may change
        self._given, self._async_given, self._prefer_grpc = client, async_client, prefer_grpc
        self._opened: _Opened | None = None
        self._closed = False
        self._opening = Lock()
        self._release: Callable[[], object] = _nothing
        self._is_inherited = self._is_given_to_parent = False
        self._is_known = False  # whether it ever answered
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncQdrantClient]
        self._async_clients = weakref.WeakKeyDictionary()
        renewed_in_child(self)

    @property
    def in_memory(self) -> bool:
        """Whether it ends with this process."""
        if self._given is not None:
            return bool(self._given.init_options.get("location") == ":memory:")
        return self._location is None

    @property
    def folder(self) -> Path | None:
        """Where it is, if it is embedded in a folder: absolute, unless a client was handed in with another path."""
        path = None if self._given is None else self._given.init_options.get("path")
        return self._folder if path is None else Path(path)

    @property
    def embedded(self) -> bool:
        """Whether it runs in this process, in memory or in a folder."""
        return self.in_memory or self.folder is not None

    @property
    def engine(self) -> Engine:
        """What computes: "edge" (Qdrant Edge) or "local" (qdrant-client) in this process, or a "server".

        Of a folder that nobody has written to: what it will be.
        """
        if not self.embedded:
            return "server"
        if self._given is not None or self.folder is None:
            return "local"
        if self._opened is not None:
            return "edge" if is_edge(self._opened.client) else "local"
        return engine_of(self.folder)

    @property
    def name(self) -> str:
        """The place, for messages."""
        if self._given is None:
            return self._location or "memory"
        options = self._given.init_options
        place = options.get("path") or options.get("url") or options.get("host") or options.get("location")
        return shown_url(str(place))

    @property
    def client(self) -> QdrantClient:
        """The client of the sync calls, opened if need be; embedded ones are not safe among threads.

        Raises:
            StoreError: the folder is in use or unreadable.
            ClosedError: this was closed.
        """
        return self._open().client

    @property
    def bytes_per_number(self) -> int:
        """How many bytes a float32 takes in a request, at most."""
        return _GRPC_BYTES if self.client.init_options.get("prefer_grpc") else _JSON_BYTES

    @property
    def writing(self) -> AbstractContextManager[object]:
        """A lock to hold from reading a point to writing it back; all who share the client share it.

        Raises:
            StoreError: the place belongs to the process that this one was forked from.
        """
        self._check_own("write")
        return self._open().writing

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client; several threads are let in one by one where that is needed.

        When a server is busy or does not answer, it is asked again after a pause that grows, or that it asks for, until
        the patience is over: see `ConnectionOptions`.

        Args:
            method: its name.
            **arguments: for it.

        Raises:
            StoreError: Qdrant refused, could not be reached, or is not in the folder and cannot be read from.
            ClosedError: this was closed.
        """
        doing = _DOING.get(method, method)
        if method not in _READS:
            self._check_own(doing)
        if method in _READS and self._is_unwritten():
            if method == "collection_exists":
                return False
            raise StoreError(f"could not {doing} in {self.name}: no index was written there yet; write one first")
        waiting: Waiting | None = None
        while True:
            try:
                return self._answer(lambda client: getattr(client, method)(**arguments))
            except FAILURES as error:
                waiting = waiting or Waiting()
                self._wait(waiting, method, error)

    def _wait(self, waiting: Waiting, method: str, error: Exception) -> None:
        """Wait before a call is made again; raises the error if it is not."""
        failure = self._failure(_DOING.get(method, method), error)
        patience = 0 if self.embedded else patience_with(error, self._patience(method))
        if waiting.is_first and patience:
            _log.warning("%s; trying again for up to %d s", failure, patience)
        if not waiting.pause(patience, at_least=asked_pause(error)):
            raise failure from self._shown(error)

    def _patience(self, method: str) -> float:
        given = self._connection.patience
        if method == "query_points":
            return min(SHORT_PATIENCE, SHORT_PATIENCE if given is None else given)
        if given is None:
            return DEFAULT_PATIENCE if self._is_known else SHORT_PATIENCE
        return given

    async def acall(self, method: str, **arguments: Any) -> Any:
        """The same as `call`, without blocking the event loop: natively with a server, else in a thread."""
        if self.embedded:
            return await asyncio.to_thread(self.call, method, **arguments)
        try:
            client = await self._async_client()
            return await getattr(client, method)(**arguments)
        except Exception:  # the sync call words the error, and tries writes again
            return await asyncio.to_thread(self.call, method, **arguments)

    def run(self, calls: Calls[T]) -> T:
        """Make the calls of some logic one after another, blocking; see `Calls`."""
        try:
            call = next(calls)
            while True:
                try:
                    result = self.call(call.method, **call.arguments)
                except Exception as error:
                    call = calls.throw(error)
                else:
                    call = calls.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    async def arun(self, calls: Calls[T]) -> T:
        """The same as `run`, without blocking the event loop."""
        try:
            call = next(calls)
            while True:
                try:
                    result = await self.acall(call.method, **call.arguments)
                except Exception as error:
                    call = calls.throw(error)
                else:
                    call = calls.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    def use(self, doing: str, work: Callable[[QdrantClient], T]) -> T:
        """Work with the client, alone where that is needed.

        Args:
            doing: completes "could not ..." in the error.
            work: is given the client.

        Raises:
            StoreError: Qdrant refused, or could not be reached.
            ClosedError: this was closed.
        """
        try:
            return self._answer(work)
        except FAILURES as error:
            raise self._failure(doing, error) from self._shown(error)

    def _answer(self, work: Callable[[QdrantClient], T]) -> T:
        opened = self._open()
        try:
            with opened.calling:
                answer = work(opened.client)
        except FAILURES:
            self.check_open()
            raise
        self._is_known = True
        return answer

    def close(self) -> None:
        """Let go of the client; later calls raise `ClosedError`. A client that was handed in stays open."""
        with self._opening:
            self._opened, self._closed = None, True
            self._release()

    async def aclose(self) -> None:
        """The same as `close`, and the async client of this event loop with it."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
        await asyncio.to_thread(self.close)

    def _open(self) -> _Opened:
        with self._opening:
            self.check_open()
            if self._opened is None:
                if self._given is not None:
                    if self._is_given_to_parent:
                        own = {"prefer_grpc": False, "check_compatibility": False}
                        self._given, self._is_given_to_parent = QdrantClient(**self._given.init_options | own), False
                    check_readable(self._given)
                    self._opened = _Opened.of(self._given)
                else:
                    self._opened = _acquire(self._location, self.folder, self._prefer_grpc, self._connection)
                    # Also for those who never close: the client's own __del__ fails noisily at the interpreter's end.
                    self._release = weakref.finalize(self, _release, self._opened)
            return self._opened

    def check_open(self) -> None:
        """Raise if this was closed.

        Raises:
            ClosedError: it was.
        """
        if self._closed:
            raise ClosedError(f"the Qdrant at {self.name} was closed; open it again")

    @property
    def _secrets(self) -> Secrets:
        if self._given is None:
            return self._connection.secrets
        options = self._given.init_options
        return Secrets(options.get("api_key"), options.get("headers") or {})

    def _failure(self, doing: str, error: Exception) -> StoreError:
        kind = RefusedError if is_refusal(error) else StoreError
        return kind(self._secrets.hide(f"could not {doing} in {self.name}: {reason(error)}; {advice(error)}"))

    def _shown(self, error: Exception) -> Exception:
        """The error as a cause that a traceback may show."""
        if str(error) in self._secrets:
            return ValueError(f"{type(error).__name__} that quotes the API key or a header; not shown")
        return error

    def _is_unwritten(self) -> bool:
        """Whether it is a folder that no Qdrant has written to yet, and that a read must not make one of."""
        self.check_open()
        if self._opened is not None or self._given is not None or self.folder is None:
            return False
        return not holds_qdrant(self.folder)

    def _check_own(self, doing: str) -> None:
        if self._is_inherited:
            raise StoreError(
                f"could not {doing} in {self.name}: it was opened before this process was forked, and belongs to the "
                "other one; open it after the fork only, or run a Qdrant server and give its url"
            )

    def _after_fork(self) -> None:
        """Leave folders to the parent, and keep away from its sockets."""
        _inherited.append((self._opened, self._given, self._async_given, dict(self._async_clients)))
        self._async_clients.clear()
        if isinstance(self._release, weakref.finalize):
            self._release.detach()
        self._release = _nothing
        if self.embedded:
            self._leave_to_parent()
            return
        self._opened = self._async_given = None
        self._prefer_grpc = False  # its threads do not survive a fork either
        self._is_given_to_parent = self._given is not None

    def _leave_to_parent(self) -> None:
        if self._opened is None or self.folder is None:
            return
        _folders.clear()
        if is_edge(self._opened.client) and self._given is None:
            self._opened = None  # opened again, it reads a copy
        else:
            self._is_inherited = True
            _keep_locked(self._opened.client)

    async def _async_client(self) -> AsyncQdrantClient:
        self.check_open()
        if self._async_given is not None:
            return self._async_given
        loop = asyncio.get_running_loop()  # connections of a client belong to one loop
        if loop not in self._async_clients:
            options = (await asyncio.to_thread(self._open)).client.init_options
            self._async_clients.setdefault(loop, AsyncQdrantClient(**options))
        return self._async_clients[loop]

    def __copy__(self) -> Qdrant:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Qdrant:
        return self

    def __reduce__(self) -> tuple[Callable[..., Qdrant], tuple[Any, ...]]:
        if self.in_memory:
            raise InputError("a Qdrant in memory cannot be pickled; give a folder or a server")
        if self._given is None or self.folder is not None:
            return _reopen, (self.folder or self._location, self._prefer_grpc, self._connection)
        return _reconnect, (_without_secrets(self._given.init_options),)


def _reopen(location: str | os.PathLike[str] | None, prefer_grpc: bool, connection: Connection) -> Qdrant:
    return Qdrant(location, prefer_grpc=prefer_grpc, **connection.options)


def _without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """How to connect like a client, less its key, which then comes from the environment; see `Connection`."""
    if options.get("headers") or options.get("auth_token_provider") or options.get("metadata"):
        raise InputError("a client with headers or tokens is not pickled; give a url, or make it where it is used")
    return {name: value for name, value in options.items() if name != "api_key"}


def _nothing() -> None:
    """Release what was not acquired."""


def _keep_locked(client: QdrantClient) -> None:
    """Close this process's copy of a folder's lock file; closing the client would unlock it for the parent too."""
    lock = getattr(getattr(client, "_client", None), "_flock_file", None)
    if lock is not None:
        lock.close()


def _reconnect(options: dict[str, Any]) -> Qdrant:
    return Qdrant(client=QdrantClient(**options, api_key=os.environ.get(KEY_VARIABLE)))


@dataclass(slots=True)
class _Opened:
    """An open client, with its locks and its users.

    Args:
        client: the client.
        calling: held during each call of an embedded client.
        writing: see `Qdrant.writing`.
        place: its folder, in the registry; None if it is not there.
        users: how many objects have not let go of it.
        closed: whether the last one has.
    """

    client: QdrantClient
    calling: AbstractContextManager[object]
    writing: AbstractContextManager[object]
    place: Path | None = None
    users: int = 0
    closed: bool = field(default=False)

    @classmethod
    def of(cls, client: QdrantClient, place: Path | None = None) -> _Opened:
        options = client.init_options
        embedded = options.get("location") == ":memory:" or options.get("path") is not None
        with _guard:
            calling, writing = _locks.setdefault(client, (Lock(reentrant=True), Lock(reentrant=True)))
        return cls(client, calling if embedded else nullcontext(), writing, place)


_inherited: list[Any] = []  # what a forked child must not close, not even by collecting it
_guard = Lock(reentrant=True)  # reentrant: garbage collection may let go of a client while another one is acquired
_locks: weakref.WeakKeyDictionary[QdrantClient, tuple[Any, Any]] = weakref.WeakKeyDictionary()
_folders: dict[Path, _Opened] = {}


def _acquire(location: str | None, folder: Path | None, prefer_grpc: bool, connection: Connection) -> _Opened:
    if folder is None:
        opened = _Opened.of(open_client(location, prefer_grpc=prefer_grpc, connection=connection))
        opened.users = 1
        return opened
    place = folder.resolve()
    with _guard:
        while True:
            found = _folders.get(place)
            if found is None:
                found = _folders[place] = _Opened.of(open_client(str(folder), prefer_grpc=False), place)
            found.users += 1
            if not found.closed:
                return found


def _release(opened: _Opened) -> None:
    with _guard:
        opened.users -= 1
        if opened.users or opened.closed:
            return
        opened.closed = True
        if opened.place is not None:
            del _folders[opened.place]
        with opened.calling:
            opened.client.close()
