"""What goes wrong in a call of Qdrant, by REST, gRPC or embedded: in one line, and whether to try again."""

from __future__ import annotations

import sqlite3

import grpc
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from nemotron_rag.documents.files import one_line
from nemotron_rag.stores.server import KEY_VARIABLE

__all__ = ["FAILURES", "advice", "is_transient", "reason"]

FAILURES: tuple[type[Exception], ...] = (
    ApiException,
    QdrantException,
    grpc.RpcError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    sqlite3.Error,
)
"""Everything that qdrant-client raises."""

_MESSAGE_LENGTH = 300  # characters; servers quote whole requests
_TRANSIENT_HTTP = (408, 429, 500, 502, 503, 504)
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_TRANSIENT_GRPC = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
)


def is_transient(error: BaseException | None) -> bool:
    """Whether the same call to a server may succeed a moment later."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _TRANSIENT_HTTP
    if isinstance(error, grpc.RpcError):
        return not isinstance(error, grpc.Call) or error.code() in _TRANSIENT_GRPC
    return not isinstance(error, ValueError)


def reason(error: Exception) -> str:
    """What happened, in one line."""
    if isinstance(error, UnexpectedResponse):
        content = error.content.decode("utf-8", "replace") if isinstance(error.content, bytes) else str(error.content)
        return one_line(f"HTTP {error.status_code} {content}", limit=_MESSAGE_LENGTH)
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return one_line(f"gRPC {error.code().name} {error.details()}", limit=_MESSAGE_LENGTH)
    return one_line(str(error) or type(error).__name__, limit=_MESSAGE_LENGTH)


def advice(error: Exception) -> str:
    """What to do about it."""
    if isinstance(error, ApiException) and not isinstance(error, UnexpectedResponse):
        return "check that the server runs and its url is right"
    if isinstance(error, UnexpectedResponse) and error.status_code in (401, 403):
        return f"check api_key= or the environment variable {KEY_VARIABLE}"
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call) and error.code() in _DENIED:
        return f"check api_key= or the environment variable {KEY_VARIABLE}"
    return "check the request, and the server's log if there is one"
