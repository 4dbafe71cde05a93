"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_PATHS = frozenset(
    {"/", "/metrics", "/rerank", "/v1/embeddings", "/v1/heatmap", "/v1/index", "/v1/models", "/v1/ranking"}
    | {"/v1/regions", "/v1/rerank", "/v1/search", "/v2/rerank"}
)
_FOLDERS = ("/v1/images/",)
_OTHER = "other"  # a client must not be able to make new rows
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server; no two servers of a process share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "nemotron_rag_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "nemotron_rag_request_seconds",
            "From request to answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._under_way = Gauge("nemotron_rag_requests_under_way", "Requests under way.", registry=self._registry)
        self._items = Counter(
            "nemotron_rag_items", "Inputs embedded, and passages scored.", ["what"], registry=self._registry
        )

    @contextmanager
    def request(self, path: str, method: str) -> Iterator[MutableMapping[str, Any]]:
        """Count a request; the mapping takes the status of its answer."""
        place = _place(path) if method in ("GET", "POST") else _OTHER
        noted: dict[str, Any] = {"status": 500}
        begun = time.perf_counter()
        self._under_way.inc()
        try:
            yield noted
        finally:
            self._under_way.dec()
            self._seconds.labels(place).observe(time.perf_counter() - begun)
            self._requests.labels(place, str(noted["status"])).inc()

    def count(self, what: str, number: int) -> None:
        """Count inputs or passages."""
        self._items.labels(what).inc(number)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


def _place(path: str) -> str:
    return path if path in _PATHS else next((each for each in _FOLDERS if path.startswith(each)), _OTHER)
