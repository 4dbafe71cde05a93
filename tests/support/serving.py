"""A server of ours on a port of this machine, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.serve.app import make_app
from nemotron_rag.serve.served import Served, ServeSettings
from nemotron_rag.testing import FakeEmbedder, FakeReranker

__all__ = ["fakes", "serving"]


def fakes(**more) -> Served:
    embedder = LazyModel(FakeEmbedder(), "embedder", "multivector_embedder")
    return Served(embedder=embedder, reranker=LazyModel(FakeReranker(), "reranker"), **more)


@contextmanager
def serving(served: Served, settings: ServeSettings | None = None) -> Iterator[str]:
    """Its url, until the block ends."""
    config = uvicorn.Config(make_app(served, settings), host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
