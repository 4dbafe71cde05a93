"""What the LangChain tests share: a handler that records runs, encoded images, and a reranker that obeys."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.callbacks import BaseCallbackHandler
from PIL import Image

from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import ImageError
from nemotron_rag.testing import FakeReranker


class Runs(BaseCallbackHandler):
    """Everything a tracer is told about chain, retriever and tool runs."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.ended: dict[Any, Any] = {}
        self.failed: dict[Any, BaseException] = {}

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, name=None, **kwargs):
        self.started.append({"id": run_id, "parent": parent_run_id, "name": name, "inputs": inputs})

    def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, name=None, **kwargs):
        self.started.append({"id": run_id, "parent": parent_run_id, "name": name, "inputs": query})

    def on_chain_end(self, outputs, *, run_id, **kwargs):
        self.ended[run_id] = outputs

    def on_chain_error(self, error, *, run_id, **kwargs):
        self.failed[run_id] = error

    def only(self, name: str) -> dict[str, Any]:
        (run,) = [run for run in self.started if run["name"] == name]
        return run


class ScriptedReranker(FakeReranker):
    """Gives the scores it was told, and counts what it was asked."""

    def __init__(self, scores: Sequence[float] = ()) -> None:
        super().__init__()
        self.scores = list(scores)
        self.asked: list[list[str]] = []

    def score(self, query, passages):
        self.asked.append([passage.text for passage in passages])
        return np.array(self.scores[: len(passages)], dtype=np.float32)


class OpeningReranker(ScriptedReranker):
    """Opens every image before it scores, as models do, and names the passage of one that cannot be opened."""

    def score(self, query, passages):
        for index, passage in enumerate(passages):
            try:
                _ = passage.image is None or load_image(passage.image)
            except ImageError as error:
                error.index = index
                raise
        return super().score(query, passages)


class OneAtATime(FakeReranker):
    """Async calls wait for each other as they do for one device; tells how many were inside at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.most_inside = 0
        self.finished: list[str] = []
        self.device = asyncio.Semaphore(1)
        self.entered = threading.Event()

    async def ascore(self, query, passages):
        async with self.device:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            try:
                await asyncio.sleep(0.02)
                self.finished.append(query)
                return self.score(query, passages)
            finally:
                self.inside -= 1


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
