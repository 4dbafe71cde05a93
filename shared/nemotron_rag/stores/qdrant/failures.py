"""What goes wrong in a call of Qdrant, by REST, gRPC or embedded: in one line, and whether to try again."""

from __future__ import annotations

import json
import sqlite3

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from nemotron_rag.documents.files import one_line
from nemotron_rag.stores.patience import SHORT_PATIENCE, seconds_of
from nemotron_rag.stores.server import KEY_VARIABLE

__all__ = ["FAILURES", "advice", "asked_pause", "is_refusal", "patience_with", "reason"]

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
_BUSY_HTTP = (408, 425, 429, 502, 503, 504)
_BROKEN_HTTP = (500,)
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_BUSY_GRPC = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
)
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError)  # of an answer that is cut short, or somebody else's
_REFUSED_HTTP = (400, 413, 422)
_REFUSED_GRPC = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)
_BROKEN_GRPC = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
_NEVER = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)


def patience_with(error: BaseException | None, patience: float) -> float:
    """For how many seconds a call to a server is worth trying again after such an error; 0 if it will not help.

    Args:
        error: of the client.
        patience: with a server that is down, or asks to wait. An error of its own, or an answer that is none, may as
            well stay as it is: no longer than `SHORT_PATIENCE`.
    """
    if isinstance(error, UnexpectedResponse):
        code = error.status_code
        return _patience(patience, asked=code in _BUSY_HTTP, once=code in _BROKEN_HTTP)
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return _patience(patience, asked=error.code() in _BUSY_GRPC, once=error.code() in _BROKEN_GRPC)
    source = getattr(error, "source", None)  # of what qdrant-client wraps
    if isinstance(source, _NEVER) or "CERTIFICATE_VERIFY_FAILED" in str(source):
        return 0
    is_answer = isinstance(source, ValueError) or isinstance(error, _UNREADABLE)
    return _patience(patience, asked=not is_answer and not isinstance(error, ValueError), once=is_answer)


def is_refusal(error: Exception) -> bool:
    """Whether what was sent is at fault, and not the server, the way to it or the right to send."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _REFUSED_HTTP
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return error.code() in _REFUSED_GRPC
    return isinstance(error, ValueError | RecursionError) and not isinstance(error, _UNREADABLE)


def asked_pause(error: BaseException | None) -> float:
    """How many seconds a server asks to be left alone; 0 if it asks for none."""
    if isinstance(error, ResourceExhaustedResponse):
        return max(0.0, float(error.retry_after_s))
    headers = error.headers if isinstance(error, UnexpectedResponse) else None
    return seconds_of(headers.get("Retry-After") if headers is not None else None)


def _patience(patience: float, *, asked: bool, once: bool) -> float:
    return patience if asked else min(patience, SHORT_PATIENCE) if once else 0


def reason(error: Exception) -> str:
    """What happened, in one line."""
    if isinstance(error, UnexpectedResponse):
        content = error.content.decode("utf-8", "replace") if isinstance(error.content, bytes) else str(error.content)
        return one_line(f"HTTP {error.status_code} {content}", limit=_MESSAGE_LENGTH)
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return one_line(f"gRPC {error.code().name} {error.details()}", limit=_MESSAGE_LENGTH)
    return one_line(str(error) or type(error).__name__, limit=_MESSAGE_LENGTH)


def _is_denied(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse):
        return error.status_code in (401, 403)
    return isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call) and error.code() in _DENIED


def advice(error: Exception) -> str:
    """What to do about it."""
    if isinstance(error, ApiException) and not isinstance(error, UnexpectedResponse):
        return "check that the server runs and its url is right"
    if _is_denied(error):
        return f"check api_key= or the environment variable {KEY_VARIABLE}"
    if "Index required" in reason(error):
        return "the server is in strict mode: give the key an index, by PageIndex.index_metadata or metadata_indexes="
    return "check the request, and the server's log if there is one"
