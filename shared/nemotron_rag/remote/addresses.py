"""From the base url that people have to the address of a request."""

from __future__ import annotations

import re

from nemotron_rag.errors import InputError
from nemotron_rag.remote.endpoint import key_variable
from nemotron_rag.stores.server import check_url, is_url, shown_url

__all__ = ["Address"]

_VERSION = re.compile(r"v\d+")
_OPERATIONS = {
    "embeddings": "embeddings",
    "embed": "embed",
    "ranking": "ranking",
    "reranking": "ranking",  # of NVIDIA's hosted models
    "rerank": "rerank",
    "score": "score",
    "pooling": "pooling",
}


class Address:
    """The addresses of a server.

    Args:
        base_url: ``https://host``, ``https://host/v1``, or a whole address such as ``https://host/v1/rerank``.

    Raises:
        InputError: it is no http(s) url, or holds credentials or a query.

    Example:
        >>> Address("https://host").of("embeddings", version="v1")
        'https://host/v1/embeddings'
        >>> Address("https://host/some/reranking").of("ranking", version="v1")
        'https://host/some/reranking'
    """

    def __init__(self, base_url: str) -> None:
        if not is_url(base_url):
            raise InputError(f"base_url must be an http(s):// url, got {shown_url(str(base_url))[:80]!r}")
        check_url(base_url, key_variable=key_variable(base_url))
        self.base_url = base_url.rstrip("/")
        root, _, last = self.base_url.rpartition("/")
        self.operation = _OPERATIONS.get(last)
        kept = root if self.operation else self.base_url
        above, _, version = kept.rpartition("/")
        self._version = version if _VERSION.fullmatch(version) else None
        self._root = above if self._version else kept

    def of(self, operation: str, *, version: str | None) -> str:
        """The address of an operation.

        Args:
            operation: as its format calls it.
            version: in the path where the base url has none; None for operations without one.
        """
        if operation == self.operation:
            return self.base_url
        if version is None:
            return f"{self._root}/{operation}"
        return f"{self._root}/{self._version or version}/{operation}"
