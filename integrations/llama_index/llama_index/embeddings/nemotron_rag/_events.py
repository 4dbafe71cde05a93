"""The events of one batch of pictures, for which LlamaIndex sends none of its own. It knows no model.

Events name pictures, they never hold them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent

from nemotron_rag.types import Passage

__all__ = ["dispatcher", "embedding_events"]

dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported without saying so


@contextmanager
def embedding_events(
    callback_manager: CallbackManager, *, payload: dict[str, Any], passages: Sequence[Passage]
) -> Iterator[list[list[float]]]:
    """Report a batch to the dispatcher and to the callback manager.

    Args:
        callback_manager: of the component.
        payload: what the component says of itself.
        passages: what is embedded.

    Yields:
        A list for the vectors; empty when the batch fails.
    """
    vectors: list[list[float]] = []
    chunks = [_name(passage) for passage in passages]
    dispatcher.event(EmbeddingStartEvent(model_dict=payload))
    try:
        with callback_manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: payload}) as event:
            yield vectors
            event.on_end(payload={EventPayload.CHUNKS: chunks, EventPayload.EMBEDDINGS: vectors})
    except Exception as error:
        dispatcher.event(ExceptionEvent(exception=error))
        raise
    finally:
        dispatcher.event(EmbeddingEndEvent(chunks=chunks, embeddings=vectors))


def _name(passage: Passage) -> str:
    """The picture's path, or its kind, and the text."""
    image = passage.image
    if image is None:
        return passage.text
    if isinstance(image, str) and image[:5].lower() == "data:":
        name = "<data URI>"
    else:
        name = str(image) if isinstance(image, str | os.PathLike) else f"<{type(image).__name__}>"
    return f"{name} {passage.text}".strip()
