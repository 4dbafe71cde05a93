"""OpenTelemetry spans of retrieval, embedding and reranking, by the conventions for generative AI.

Names are those of https://github.com/open-telemetry/semantic-conventions-genai, v0.1.0; those of ``rerank`` are
proposed there in issue 253. A program that has not imported OpenTelemetry gets no spans, and nothing is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from nemotron_rag._token_count import counting_tokens
from nemotron_rag.types import Hit

__all__ = ["CONTENT_VARIABLE", "rerank_span", "traced_embedding", "traced_rerank", "traced_retrieval"]

CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The environment variable with which spans hold what users wrote and what was found; see `_shows_content`."""

_PROVIDER = "nemotron_rag"
F = TypeVar("F", bound=Any)
S = TypeVar("S", bound=Iterable[Any])
_innermost: ContextVar[str] = ContextVar("nemotron_rag_span", default="")


class _Span:
    """What is known of an operation once it is done; does nothing where no span is recorded."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, **attributes: object) -> None:
        """Add attributes, dots written as two underscores; None is left out."""
        if self._span is not None:
            self._span.set_attributes(_dotted(attributes))

    def set_content(self, **attributes: Callable[[], object]) -> None:
        """Add attributes that may hold what users wrote, if the program has asked for these."""
        if self._span is not None and _shows_content():
            self.set(**{name: value() for name, value in attributes.items()})

    def rows(self, rows: Any) -> None:
        """Note how long the vectors of an embedding are."""
        if self._span is not None and len(rows):
            self.set(gen_ai__embeddings__dimension__count=int(rows[0].shape[-1]))

    def scored(self, scores: S) -> S:
        """Note the scores of a rerank, and give them back."""
        self.set_content(gen_ai__rerank__scores=lambda: [float(score) for score in scores])
        return scores

    def found(self, hits: list[Hit]) -> list[Hit]:
        """Note the pages found, as the convention writes them, and give them back."""
        self.set_content(
            gen_ai__retrieval__documents=lambda: json.dumps([{"id": hit.page.id, "score": hit.score} for hit in hits])
        )
        return hits


def traced_embedding(role: Literal["query", "passage"]) -> Callable[[F], F]:
    """Decorate a method of an embedder, sync or async, that takes inputs and gives a row for each."""

    def decorate(method: F) -> F:
        return _within(method, lambda self, inputs, _: _embedding(self, inputs, role), _Span.rows)

    return decorate


def traced_rerank(method: F) -> F:
    """Decorate the method of a reranker, sync or async, that takes a query and passages, and gives a score for each."""
    return _within(method, lambda self, _, given: rerank_span(self, given["passages"]), _Span.scored)


def traced_retrieval(method: F) -> F:
    """Decorate the method of an index, sync or async, that takes a query and ``k``, and gives hits."""
    return _within(method, lambda self, query, given: _retrieval(self, query, given["k"]), _Span.found)


def _within(method: F, open_span: Callable[[Any, Any, dict[str, Any]], Any], note: Callable[[_Span, Any], Any]) -> F:
    """The method within a span.

    Args:
        method: sync or async.
        open_span: opens the span, of the object, its first argument, and all arguments by name.
        note: puts the result into the span.
    """
    parameters = signature(method)

    def opened(self: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if not _is_traced():
            return nullcontext(_Span())
        bound = parameters.bind(self, *arguments, **options)
        bound.apply_defaults()
        return open_span(self, bound.args[1] if len(bound.args) > 1 else None, bound.arguments)

    @wraps(method)
    def traced(self: Any, *arguments: Any, **options: Any) -> Any:
        with opened(self, arguments, options) as span:
            result = method(self, *arguments, **options)
            note(span, result)
        return result

    @wraps(method)
    async def atraced(self: Any, *arguments: Any, **options: Any) -> Any:
        with opened(self, arguments, options) as span:
            result = await method(self, *arguments, **options)
            note(span, result)
        return result

    return atraced if iscoroutinefunction(method) else traced  # type: ignore[return-value]


@contextmanager
def rerank_span(reranker: Any, passages: Sequence[Any], *, top_n: int | None = None) -> Iterator[_Span]:
    """The span of a rerank; within another one there is none of its own."""
    with _span("rerank", reranker) as span:
        span.set(gen_ai__rerank__candidate__count=len(passages), gen_ai__rerank__top_n=top_n)
        yield span


@contextmanager
def _retrieval(index: Any, query: object, k: object) -> Iterator[_Span]:
    with _span("retrieval", None, gen_ai__data_source__id=str(index._state)) as span:
        words = query if isinstance(query, str) else getattr(query, "text", None)
        span.set(gen_ai__retrieval__top_k=k if isinstance(k, int) else None)
        span.set_content(gen_ai__retrieval__query__text=lambda: words if isinstance(words, str) else None)
        yield span


@contextmanager
def _embedding(embedder: Any, inputs: Sequence[Any], role: str) -> Iterator[_Span]:
    with _span("embeddings", embedder) as span:
        is_list = isinstance(inputs, Sequence) and not isinstance(inputs, str)
        span.set(nemotron_rag__inputs=len(inputs) if is_list else None, nemotron_rag__input_type=role)
        yield span


@contextmanager
def _span(operation: str, model: Any, **attributes: object) -> Iterator[_Span]:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or _innermost.get() == operation:
        yield _Span()
        return
    named = {"gen_ai__operation__name": operation, "gen_ai__provider__name": _PROVIDER, **attributes, **_of(model)}
    about = named.get("gen_ai__request__model") or named.get("gen_ai__data_source__id")
    kind = trace.SpanKind.CLIENT if "server__address" in named else trace.SpanKind.INTERNAL
    tracer = trace.get_tracer("nemotron_rag")
    token = _innermost.set(operation)
    try:
        with (
            tracer.start_as_current_span(
                f"{operation} {about}" if about else operation,
                kind=kind,
                attributes=_dotted(named),
                record_exception=False,  # its message may hold what a user wrote
                set_status_on_exception=False,
            ) as span,
            counting_tokens() as tokens,
        ):
            try:
                yield _Span(span)
            except BaseException as error:
                _note_error(trace, span, error)
                raise
            finally:
                span.set_attributes(_dotted({"gen_ai__usage__input_tokens": tokens.total}))
    finally:
        _innermost.reset(token)


def _of(model: Any) -> Mapping[str, object]:
    """The model's name, and the server that has it; no server is asked for it."""
    if model is None:
        return {}
    url = urlsplit(getattr(model, "base_url", None) or "")
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    server = {"server__address": url.hostname, "server__port": port} if url.hostname else {}
    return {"gen_ai__request__model": model.named if server else model.name, **server}


def _note_error(trace: Any, span: Any, error: BaseException) -> None:
    name = type(error).__qualname__
    span.set_attributes({"error.type": name})
    shown = _shows_content()
    span.set_status(trace.Status(trace.StatusCode.ERROR, str(error) if shown else name))
    if shown:
        span.record_exception(error)


def _dotted(attributes: Mapping[str, object]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}


def _is_traced() -> bool:
    """Whether somebody in this process can have asked for spans."""
    return "opentelemetry.trace" in sys.modules


def _shows_content() -> bool:
    """Whether the program's owner has asked for contents in spans, in the words of OpenTelemetry's own packages."""
    return os.environ.get(CONTENT_VARIABLE, "").strip().lower() in ("true", "span_only", "span_and_event")
