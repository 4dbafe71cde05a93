"""Events of embedding and reranking, for LlamaIndex's dispatcher and callback managers: always in pairs, no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import BaseNode, ImageNode, Node, NodeWithScore, QueryBundle

from nemotron_rag.documents.files import is_data_uri, name_of
from nemotron_rag.types import Passage

__all__ = ["dispatcher", "embedding_events", "light", "light_nodes", "rerank_events"]

dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # not in its __all__


def embedding_events(
    callback_manager: CallbackManager, *, payload: dict[str, Any], passages: Sequence[Passage]
) -> AbstractContextManager[list[list[float]]]:
    """Report a batch of images, for which LlamaIndex sends no events; enters with a list for the vectors.

    The list stays empty if the batch fails. `payload` describes the component.
    """
    chunks = [p.text if p.image is None else f"{name_of(p.image)} {p.text}".strip() for p in passages]
    return _reported(
        callback_manager,
        CBEventType.EMBEDDING,
        payload={EventPayload.SERIALIZED: payload},
        start=EmbeddingStartEvent(model_dict=payload),
        end=lambda vectors: EmbeddingEndEvent(chunks=chunks, embeddings=vectors),
        result=lambda vectors: {EventPayload.CHUNKS: chunks, EventPayload.EMBEDDINGS: vectors},
    )


def rerank_events(
    callback_manager: CallbackManager,
    *,
    query: QueryBundle,
    nodes: Sequence[NodeWithScore],
    top_n: int | None,
    model_name: str,
) -> AbstractContextManager[list[NodeWithScore]]:
    """Report a rerank; enters with a list for the result, which stays empty if the rerank fails."""
    shown, limit = light_nodes(nodes), len(nodes) if top_n is None else top_n
    payload: dict[str, Any] = {
        EventPayload.NODES: shown,
        EventPayload.MODEL_NAME: model_name,
        EventPayload.QUERY_STR: query.query_str,
        EventPayload.TOP_K: limit,
    }
    return _reported(
        callback_manager,
        CBEventType.RERANKING,
        payload=payload,
        start=ReRankStartEvent(query=query, nodes=shown, top_n=limit, model_name=model_name),
        end=lambda result: ReRankEndEvent(nodes=light_nodes(result)),
        result=lambda result: {EventPayload.NODES: light_nodes(result)},
    )


def light(node: BaseNode) -> BaseNode:
    """A copy for events and traces: paths and URLs stay, the bytes of images go."""
    metadata = {key: value for key, value in node.metadata.items() if not isinstance(value, bytes)}
    update: dict[str, Any] = {"metadata": {key: value for key, value in metadata.items() if not is_data_uri(value)}}
    if isinstance(node, ImageNode):
        references = {"image_path": node.image_path, "image_url": node.image_url}
        update |= {"image": None, **{name: None for name, value in references.items() if is_data_uri(value)}}
    elif isinstance(node, Node) and node.image_resource is not None:
        resource = node.image_resource
        url = None if is_data_uri(str(resource.url)) else resource.url
        update["image_resource"] = resource.model_copy(update={"data": None, "url": url})
    return node.model_copy(update=update)


def light_nodes(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """`light` for scored nodes; also, an event that was sent does not change with them."""
    return [NodeWithScore(node=light(item.node), score=item.score) for item in nodes]


@contextmanager
def _reported(
    callback_manager: CallbackManager,
    kind: CBEventType,
    *,
    payload: dict[str, Any],
    start: BaseEvent,
    end: Callable[[list[Any]], BaseEvent],
    result: Callable[[list[Any]], dict[str, Any]],
) -> Iterator[list[Any]]:
    """Send `start` and `end` to the dispatcher, and the payloads to the callback manager, which tracers still use."""
    items: list[Any] = []
    dispatcher.event(start)
    try:
        with callback_manager.event(kind, payload=payload) as event:
            yield items
            event.on_end(payload=result(items))
    except Exception as error:
        dispatcher.event(ExceptionEvent(exception=error))
        raise
    finally:
        dispatcher.event(end(items))
