"""Qdrant for adapters that lay out their own points: calls from threads and event loops, and plain-dict filters.

It knows no collection and no payload.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemotron_rag.errors import ClosedError, InputError, MissingExtraError
from nemotron_rag.stores._connection import Connection
from nemotron_rag.stores._filters import Filter, compile_filter

try:
    from qdrant_client import AsyncQdrantClient, QdrantClient
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["Filter", "Qdrant", "compile_filter"]

_WRITES = ("upsert", "delete")  # tried again when a server is busy: they name the ids of what they write
_DOING = {
    "collection_exists": "look for a collection",
    "create_collection": "make a collection",
    "get_collection": "describe a collection",
    "query_points": "search",
    "retrieve": "read points",
    "scroll": "list points",
}

# An embedded folder has one client at a time, so all who name the folder in this process share it.
_folders: dict[Path, tuple[Connection, int]] = {}
_folders_guard = threading.Lock()


class Qdrant:
    """A Qdrant in memory, in a folder, or on a server; opened by the first call.

    In one process, all objects for a folder share one client. Copies share the connection; a pickle holds the place
    and connects again, so what lives in memory cannot be pickled.

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a server.
        client: an open client instead; never closed here. For a server with credentials.
        async_client: for the ``acall`` of a server; None makes one like `client` for each event loop.

    Raises:
        InputError: both `location` and `client` are given.

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
    ) -> None:
        if location is not None and client is not None:
            raise InputError("give a location or an open client, not both; a client brings its own location")
        self._location = None if location in (None, ":memory:") else os.fspath(location)
        self._given, self._async_given = client, async_client
        self._connection: Connection | None = None
        self._closed = False
        self._opening = threading.Lock()
        self._release: Callable[[], object] = lambda: None
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncQdrantClient]
        self._async_clients = weakref.WeakKeyDictionary()

    @property
    def in_memory(self) -> bool:
        """Whether it ends with this process."""
        if self._given is not None:
            return bool(self._given.init_options.get("location") == ":memory:")
        return self._location is None

    @property
    def folder(self) -> Path | None:
        """Where it lies, if it is embedded in a folder."""
        if self._given is not None:
            path = self._given.init_options.get("path")
        else:
            path = None if self._location is None or "://" in self._location else self._location
        return None if path is None else Path(path)

    @property
    def client(self) -> QdrantClient:
        """The client of the sync calls; embedded ones are not safe among threads.

        Raises:
            StoreError: the folder is in use or unreadable.
            ClosedError: this was closed.
        """
        return self._connect().client

    @property
    def name(self) -> str:
        """The place, for messages."""
        return self._location or (self._connect().name if self._given is not None else "memory")

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client; several threads are let in one by one where that is needed.

        Args:
            method: its name.
            **arguments: for it.

        Raises:
            StoreError: Qdrant refused, or could not be reached.
            ClosedError: this was closed.
        """
        connection = self._connect()
        work = getattr(connection.client, method)
        if method in _WRITES:
            return connection.write(work, **arguments)
        return connection.read(_DOING.get(method, method), work, **arguments)

    async def acall(self, method: str, **arguments: Any) -> Any:
        """The same as `call`, without blocking the event loop: natively with a server, else in a thread."""
        if self.in_memory or self.folder is not None:
            return await asyncio.to_thread(self.call, method, **arguments)
        try:
            return await getattr(self._async_client(), method)(**arguments)
        except Exception:  # the sync call words the error, and tries writes again
            return await asyncio.to_thread(self.call, method, **arguments)

    def close(self) -> None:
        """Let go of the client; later calls raise `ClosedError`. A client that was handed in stays open."""
        with self._opening:
            self._connection, self._closed = None, True
            self._release()

    async def aclose(self) -> None:
        """The same as `close`, and the async client of this event loop with it."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
        await asyncio.to_thread(self.close)

    def _connect(self) -> Connection:
        with self._opening:
            if self._closed:
                raise ClosedError(f"the Qdrant at {self._location or 'memory'} was closed; open it again")
            if self._connection is None:
                if self._given is not None:
                    self._connection = Connection(client=self._given)
                else:
                    self._connection = _acquire(self._location, self.folder)
                    self._release = weakref.finalize(self, _release, self._connection, self.folder)
            return self._connection

    def _async_client(self) -> AsyncQdrantClient:
        if self._async_given is not None:
            return self._async_given
        loop = asyncio.get_running_loop()  # connections of a client belong to one loop
        if loop not in self._async_clients:
            self._async_clients[loop] = AsyncQdrantClient(**self._connect().client.init_options)
        return self._async_clients[loop]

    def __copy__(self) -> Qdrant:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Qdrant:
        return self

    def __reduce__(self) -> tuple[Callable[..., Qdrant], tuple[Any, ...]]:
        if self.in_memory:
            raise InputError("a Qdrant in memory cannot be pickled; give a folder or a server")
        if self._given is None or self.folder is not None:
            return Qdrant, (self._location or self.folder,)
        return _reconnect, (self._given.init_options,)


def _reconnect(options: dict[str, Any]) -> Qdrant:
    return Qdrant(client=QdrantClient(**options))


def _acquire(location: str | None, folder: Path | None) -> Connection:
    if folder is None:
        return Connection(location)
    place = folder.resolve()
    with _folders_guard:
        connection, users = _folders.get(place) or (Connection(folder), 0)
        _folders[place] = (connection, users + 1)
    return connection


def _release(connection: Connection, folder: Path | None) -> None:
    if folder is None:
        connection.close()
        return
    place = folder.resolve()
    with _folders_guard:
        users = _folders[place][1] - 1
        if users:
            _folders[place] = (connection, users)
            return
        del _folders[place]
        connection.close()
