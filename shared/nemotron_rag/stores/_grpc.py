"""Whether a Qdrant server answers gRPC, which sends a number in 4 bytes where JSON takes up to 20. It sends nothing."""

from __future__ import annotations

import queue
from typing import Any
from urllib.parse import urlsplit

from nemotron_rag.errors import MissingExtraError

try:
    import grpc
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["GRPC_PORT", "answers_grpc", "is_transient"]

GRPC_PORT = 6334
"""Where Qdrant listens for gRPC unless it is configured otherwise."""

_PATIENCE = 2.0  # seconds; a port that a firewall swallows never answers
_OVER = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
_TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
)


def answers_grpc(url: str, *, port: int = GRPC_PORT) -> bool:
    """Whether a server takes a gRPC connection.

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
            while (state := states.get(timeout=_PATIENCE)) not in _OVER:
                pass
        except queue.Empty:
            return False
        finally:
            channel.unsubscribe(states.put)
    return bool(state is grpc.ChannelConnectivity.READY)


def is_transient(error: grpc.RpcError) -> bool:
    """Whether the same call may succeed a moment later."""
    return not isinstance(error, grpc.Call) or error.code() in _TRANSIENT
