"""Opens Qdrant clients: in memory, in a folder, or to a server, by gRPC where it answers.

Folders are written by Qdrant Edge, or where it is not installed by qdrant-client's local mode; each folder stays with
the engine that wrote it.
"""

from __future__ import annotations

import logging
import math
import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import grpc
import portalocker
from qdrant_client import QdrantClient

from nemotron_rag.errors import InputError, StoreError
from nemotron_rag.stores.qdrant.edge.place import holds_edge
from nemotron_rag.stores.qdrant.failures import reason
from nemotron_rag.stores.server import Connection, is_url, shown_url

try:
    from nemotron_rag.stores.qdrant.edge.client import EdgeClient
except ImportError:  # pragma: no cover - no wheel for this system; covered in a subprocess
    EdgeClient = None  # type: ignore[assignment,misc]

__all__ = [
    "GRPC_PORT",
    "Engine",
    "answers_grpc",
    "check_readable",
    "engine_of",
    "holds_qdrant",
    "is_edge",
    "migrate",
    "open_client",
]

Engine: TypeAlias = Literal["edge", "local", "server"]
"""What computes: Qdrant Edge, qdrant-client's local mode, or a server."""

GRPC_PORT = 6334
"""Where Qdrant listens for gRPC unless it is configured otherwise."""

_TIMEOUT = 60  # seconds; a write that waits for its acknowledgement takes longer than the client's default of 5
_GRPC_TIMEOUT = 2.0  # seconds; a port that a firewall swallows never answers
_NO_OPTIONS = Connection()
_ANSWERS = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
_log = logging.getLogger("nemotron_rag")


def open_client(location: str | None, *, prefer_grpc: bool, connection: Connection = _NO_OPTIONS) -> QdrantClient:
    """Open a client.

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a server.
        prefer_grpc: send to a server by gRPC, which takes 4 bytes for a number where JSON takes up to 20.
        connection: what a server is sent besides.

    Raises:
        InputError: the location is a url of another kind.
        StoreError: the folder is in use, or is not one that Qdrant can read.
    """
    if location is None:
        return QdrantClient(location=":memory:")
    if is_url(location):
        return _connect(location, prefer_grpc, connection)
    if "://" in location:
        raise InputError(f"a location is a folder or an http(s):// url, got {shown_url(location)!r}")
    return _open_folder(Path(location))


def holds_qdrant(folder: Path) -> bool:
    """Whether a Qdrant has written to a folder; looks, and leaves nothing there."""
    return holds_edge(folder) or _holds_local(folder)


def engine_of(folder: Path) -> Engine:
    """Which engine a folder has, or would get."""
    if holds_edge(folder):
        return "edge"
    return "local" if EdgeClient is None or _holds_local(folder) else "edge"


def check_readable(client: QdrantClient) -> None:
    """Refuse a client of the local mode for a folder that Qdrant Edge has written: it would find nothing there.

    Raises:
        StoreError: it is one.
    """
    path = client.init_options.get("path")
    if path is not None and holds_edge(Path(path)) and not client.get_collections().collections:
        raise StoreError(
            f"the index folder {path} was written by Qdrant Edge, which this client does not read; "
            "give the folder itself, not a client"
        )


def migrate(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Move the collections of a folder of the local mode to Qdrant Edge; the old files go when the new are complete.

    Args:
        folder: of an index that nobody has open.

    Returns:
        By the name of each collection, how many points were moved, and how many were left out because they cannot be
        read.

    Raises:
        InputError: there is no index of the local mode.
        StoreError: the folder is in use, cannot be moved, or Qdrant Edge is not installed.
    """
    if EdgeClient is None:
        raise StoreError("Qdrant Edge is not installed; install it with: pip install qdrant-edge-py")
    from nemotron_rag.stores.qdrant.edge.migration import migrate as move  # noqa: PLC0415  needs Edge

    moved = move(folder)
    return {name: (points, moved.unreadable[name]) for name, points in moved.points.items()}


def is_edge(client: object) -> bool:
    """Whether a client is that of Qdrant Edge."""
    return EdgeClient is not None and isinstance(client, EdgeClient)


def answers_grpc(url: str, *, port: int = GRPC_PORT) -> bool:
    """Whether a server takes a gRPC connection; nothing is sent.

    Args:
        url: of its REST port, ``http(s)://``.
        port: of gRPC on the same host.
    """
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    if parts.scheme == "https":
        channel = grpc.secure_channel(f"{host}:{port}", grpc.ssl_channel_credentials())
    else:
        channel = grpc.insecure_channel(f"{host}:{port}")
    states: queue.Queue[Any] = queue.Queue()
    with channel:
        channel.subscribe(states.put, try_to_connect=True)
        try:
            while (state := states.get(timeout=_GRPC_TIMEOUT)) not in _ANSWERS:
                pass
        except queue.Empty:
            return False
        finally:
            channel.unsubscribe(states.put)
    return bool(state is grpc.ChannelConnectivity.READY)


def _connect(url: str, prefer_grpc: bool, connection: Connection) -> QdrantClient:
    by_grpc = prefer_grpc and answers_grpc(url)
    if prefer_grpc and not by_grpc:
        _log.info("%s does not answer gRPC at port %d; REST is used, which sends vectors more slowly", url, GRPC_PORT)
    return QdrantClient(
        url=url,
        timeout=math.ceil(connection.timeout or _TIMEOUT),
        headers=connection.sent(),  # the key too: as an argument the client would warn of it at every http:// url
        check_compatibility=False,  # it runs in a thread of its own that can only warn
        prefer_grpc=by_grpc,
        grpc_port=GRPC_PORT,
    )


def _holds_local(folder: Path) -> bool:
    meta = folder / "meta.json"
    return meta.is_file() and meta.stat().st_size > 0


def _open_folder(folder: Path) -> QdrantClient:
    return _open_edge(folder) if engine_of(folder) == "edge" else _open_local(folder)


def _open_edge(folder: Path) -> QdrantClient:
    if EdgeClient is None:
        raise StoreError(
            f"the index folder {folder} was written by Qdrant Edge; install it with: pip install qdrant-edge-py"
        )
    try:
        return cast("QdrantClient", EdgeClient(folder))
    except OSError as error:
        raise StoreError(f"could not open the index folder {folder}: {reason(error)}; give another folder") from error


def _open_local(folder: Path) -> QdrantClient:
    _refuse_if_locked(folder)
    meta = folder / "meta.json"
    if meta.is_file() and not holds_qdrant(folder):
        meta.unlink()  # all that a process killed in its first moment leaves; Qdrant would not read it
    try:
        # Its SQLite would refuse other threads on some systems; our lock lets in one at a time.
        return QdrantClient(path=str(folder), force_disable_check_same_thread=True)
    except Exception as error:  # whatever a damaged folder makes Qdrant raise
        raise StoreError(f"could not open the index folder {folder}: {reason(error)}; give another folder") from error


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
            f"the index folder {folder} is in use by another process, or by another QdrantClient of this one; "
            "close that one, or run a Qdrant server and give its url"
        ) from error
