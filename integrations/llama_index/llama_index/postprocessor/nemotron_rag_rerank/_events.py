"""The events of one rerank: start and end always come in pairs, and carry no picture. It knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index.embeddings.nemotron_rag.nodes import light_nodes

__all__ = ["dispatcher", "rerank_events"]

dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported without saying so


@contextmanager
def rerank_events(
    callback_manager: CallbackManager,
    *,
    query: QueryBundle,
    nodes: Sequence[NodeWithScore],
    top_n: int | None,
    model_name: str,
) -> Iterator[list[NodeWithScore]]:
    """Report a rerank to the dispatcher and, as tracing front ends still expect, to the callback manager.

    Args:
        callback_manager: of the component.
        query: the question.
        nodes: what is about to be ranked.
        top_n: None for all of them.
        model_name: of the reranker.

    Yields:
        A list for the result; empty when the rerank fails.
    """
    result: list[NodeWithScore] = []
    shown = light_nodes(nodes)
    limit = len(nodes) if top_n is None else top_n
    dispatcher.event(ReRankStartEvent(query=query, nodes=shown, top_n=limit, model_name=model_name))
    payload: dict[str, Any] = {
        EventPayload.NODES: shown,
        EventPayload.MODEL_NAME: model_name,
        EventPayload.QUERY_STR: query.query_str,
        EventPayload.TOP_K: limit,
    }
    try:
        with callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield result
            event.on_end(payload={EventPayload.NODES: light_nodes(result)})
    except Exception as error:
        dispatcher.event(ExceptionEvent(exception=error))
        raise
    finally:
        dispatcher.event(ReRankEndEvent(nodes=light_nodes(result)))
