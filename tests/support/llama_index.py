"""Images, nodes of every form, and listeners for the tests of the LlamaIndex adapters."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, TextBlock
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.schema import BaseNode, Document, ImageDocument, ImageNode, MediaResource, Node, QueryBundle
from PIL import Image, ImageDraw
from pydantic import PrivateAttr

from nemotron_rag.documents.images import load_image
from nemotron_rag.testing import FakeReranker


def make_image(red: int = 255) -> Image.Image:
    image = Image.new("RGB", (40, 60), (red, 10, 10))
    ImageDraw.Draw(image).rectangle((5, 5, 20, 30), fill=(red, 0, 200))
    return image


def png(red: int = 255) -> bytes:
    file = io.BytesIO()
    make_image(red).save(file, "PNG")
    return file.getvalue()


def b64(red: int = 255) -> str:
    return base64.b64encode(png(red)).decode()


def uri(red: int = 255) -> str:
    return f"data:image/png;base64,{b64(red)}"


def png_file(folder: Path, red: int = 255) -> Path:
    path = folder / f"page-{red}.png"
    path.write_bytes(png(red))
    return path


def image_nodes(folder: Path, red: int = 255, text: str = "") -> dict[str, BaseNode]:
    """The same image (and text) in every form a node can have."""
    path = png_file(folder, red)
    resource = MediaResource(text=text) if text else None
    return {
        "ImageNode base64": ImageNode(text=text, image=b64(red)),
        "ImageNode data URI": ImageNode(text=text, image=uri(red)),
        "ImageNode path": ImageNode(text=text, image_path=str(path)),
        "ImageNode data URL": ImageNode(text=text, image_url=uri(red)),
        "Node data": Node(text_resource=resource, image_resource=MediaResource(data=png(red))),
        "Node path": Node(text_resource=resource, image_resource=MediaResource(path=path)),
        "Node data URL": Node(text_resource=resource, image_resource=MediaResource(url=uri(red))),
        "Document": Document(text=text, image_resource=MediaResource(data=png(red))),
        "ImageDocument base64": ImageDocument(text=text, image=b64(red)),
        "ImageDocument data URI": ImageDocument(text=text, image=uri(red)),
        "ImageDocument path": ImageDocument(text=text, image_path=str(path)),
    }


with TemporaryDirectory() as _folder:
    FORMS = tuple(image_nodes(Path(_folder)))


class RedReranker(FakeReranker):
    """Sees and reads: 1 for a red image, 10 more for a text that holds the query; remembers what it was shown."""

    name = "red-reranker"

    def __init__(self, *, seconds: float = 0.0) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.seconds = seconds

    def score(self, query, passages):
        time.sleep(self.seconds)
        self.calls.append(len(passages))
        return np.array([_redness(p.image) + 10 * (query in p.text) for p in passages], dtype=np.float32)


def _redness(image: Any) -> float:
    return 0.0 if image is None else np.asarray(load_image(image).convert("RGB"))[..., 0].mean() / 255


class Listener(BaseEventHandler):
    """Keeps every event of the dispatcher."""

    _events: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Listener"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self._events.append(event)

    def named(self, *names: str) -> list[Any]:
        return [event for event in self._events if event.class_name() in names]

    def names(self) -> list[str]:
        return [event.class_name() for event in self._events]


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    root = get_dispatcher()
    root.add_event_handler(listener)
    try:
        yield listener
    finally:
        root.event_handlers.remove(listener)


def debug_manager() -> tuple[CallbackManager, LlamaDebugHandler]:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    return CallbackManager([handler]), handler


class SeeingLLM(MockFunctionCallingLLM):
    """Remembers the messages of every call."""

    _seen: list[list[ChatMessage]] = PrivateAttr(default_factory=list)

    def __init__(self) -> None:
        super().__init__(is_chat_model=True, response_generator=self._answer)

    def _answer(self, messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        self._seen.append(list(messages))
        return ChatMessage(role="assistant", content="It rose.")

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True, context_window=32_000)

    def blocks(self, kind):
        return [block for call in self._seen for message in call for block in message.blocks if isinstance(block, kind)]

    def text(self):
        return "\n".join(block.text for block in self.blocks(TextBlock))


PAGE_TEXTS = ("red apples", "green apples and pears", "", "blue whales")


def texts(nodes):
    return [item.node.text for item in nodes]


def same(found, expected):
    """Equal nodes in equal order; sums of floats may differ in their last bit."""
    assert [item.node.to_dict() for item in found] == [item.node.to_dict() for item in expected]
    assert [item.score for item in found] == pytest.approx([item.score for item in expected])


def ask(**fields):
    return QueryBundle(**{"query_str": "", **fields})
