"""What all remote models share: settings, the connection that their first use makes, and how inputs are sent."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Required, Self, TypedDict, TypeVar

from nemotron_rag._forking import renewed_in_child
from nemotron_rag._token_count import count_tokens, not_counting
from nemotron_rag.documents.passages import check_passage, check_query, text_of
from nemotron_rag.errors import ClosedError, InputError, ItemTooLargeError
from nemotron_rag.remote.addresses import Address
from nemotron_rag.remote.answers import tokens_of
from nemotron_rag.remote.background import BACKGROUND
from nemotron_rag.remote.endpoint import DIALECTS, Dialect, Endpoint, ScoreScale
from nemotron_rag.remote.formats import Asked, format_of, speakers
from nemotron_rag.remote.inputs import Input, batches, halves
from nemotron_rag.remote.probe import look_at
from nemotron_rag.remote.transport import TooLargeError, Transport
from nemotron_rag.types import Kind, Modality, Passage, Query

__all__ = ["Connected", "Known", "RemoteModel", "RemoteOptions"]

T = TypeVar("T")
_IN_FLIGHT = 4  # requests of one call
_log = logging.getLogger("nemotron_rag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a model before its server is asked.

    Args:
        name: that it has here; None for what the server calls it.
        aliases: other names under which servers may have it, the most usual first.
        modalities: that its passages may have; None if that is not known.
        query_prefix: that it was trained with, for formats without roles.
        passage_prefix: likewise.
    """

    name: str | None = None
    aliases: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] | None = None
    query_prefix: str = ""
    passage_prefix: str = ""

    @property
    def has_images(self) -> bool:
        """Whether it reads images; True if that is not known."""
        return self.modalities is None or self.modalities != ("text",)


@dataclass(frozen=True, slots=True)
class Connected:
    """A server that was asked what it is.

    Args:
        transport: to it.
        address: of it.
        dialect: that it speaks.
        model: as the server calls it.
        row: of the server's list of models; empty if it has none.
        format: how it is asked.
        dimensions: of an embedder's vectors; 0 until they are known.
        asked_dimensions: to be sent with each request; None if they are all that the model has.
        scale: of a reranker's scores.
    """

    transport: Transport
    address: Address
    dialect: Dialect
    model: str
    row: Mapping[str, Any]
    format: Any
    dimensions: int = 0
    asked_dimensions: int | None = None
    scale: ScoreScale = "logit"

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """What a query may be: words alone, unless the server says more."""
        said = self.row.get("query_modalities")
        return tuple(said) if isinstance(said, list) else ("text",)

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.address.of(self.format.operation, version=self.format.version)


class RemoteOptions(TypedDict, total=False):
    """Where a model is, and how it is asked; see `RemoteModel`."""

    base_url: Required[str]
    dialect: Dialect | None
    endpoint: Endpoint | Mapping[str, Any] | None
    known: Known | None


class RemoteModel:
    """A model at a server. Making one asks nothing; the first use connects, or `connect`.

    Args:
        model: as the server calls it; None for the only one of its kind.
        base_url: of the server: ``https://host``, ``https://host/v1``, or the whole address of an operation.
        dialect: that it speaks, see `Dialect`; None to find out.
        endpoint: how requests are made: an `Endpoint`, or its options.
        known: of the model.

    Raises:
        InputError: an argument cannot be used.
    """

    kind: ClassVar[Kind]

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str,
        dialect: Dialect | None = None,
        endpoint: Endpoint | Mapping[str, Any] | None = None,
        known: Known | None = None,
    ) -> None:
        if dialect is not None and dialect not in DIALECTS:
            raise InputError(f"dialect must be one of {', '.join(DIALECTS)}, got {dialect!r}")
        if model is not None and (not isinstance(model, str) or not model.strip()):
            raise InputError(f"a model is named by a str that is not empty, got {model!r}")
        self._model, self._dialect = model, dialect
        self._address = Address(base_url)
        if dialect is not None:
            self._check_format(dialect)
        self._endpoint = Endpoint.of(endpoint)
        self._known = known or Known()
        self._closed = False
        self._said: set[str] = set()
        self._transports: list[Transport] = []
        self._state: Connected | None = None
        self._connecting: asyncio.Lock | None = None
        renewed_in_child(self)
        weakref.finalize(self, _close_later, self._transports).atexit = False

    def connect(self) -> Self:
        """Ask the server what it is, unless that was done; every other call does it too.

        Raises:
            EndpointError: it cannot be reached or used.
            UnknownModelError: it has no such model.
            InputError: the model is of another kind, or its format cannot do what is asked.
        """
        self._run(self._connected())
        return self

    async def aconnect(self) -> Self:
        """`connect` for event loops."""
        await self._arun(self._connected())
        return self

    def close(self) -> None:
        """Close the connections; later calls raise `ClosedError`."""
        self._closed = True
        self._state = None
        _close_later(self._transports)

    @property
    def name(self) -> str:
        """Catalog id, or what the server calls it."""
        if self._known.name is not None:
            return self._known.name
        return self._model if self._model is not None else self._connected_now.model

    @property
    def base_url(self) -> str:
        """Of the server."""
        return self._address.base_url

    @property
    def named(self) -> str | None:
        """The model as it was asked for; None for the only one of the server. Unlike `name`, it asks nobody."""
        return self._known.name or self._model

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """What a query may be."""
        return self._connected_now.query_modalities

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._settings())

    def __repr__(self) -> str:
        """``RemoteEmbedder('starter-embed-vl', base_url='http://localhost:8000/v1')``."""
        named = repr(self._known.name or self._model)
        return f"{type(self).__name__}({named}, base_url={self._address.base_url!r})"

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "base_url": self._address.base_url,
            "dialect": self._dialect,
            "endpoint": self._endpoint,
            "known": self._known,
        }

    def _after_fork(self) -> None:
        self._state = self._connecting = None
        self._transports.clear()

    # The coroutines below belong to the loop of `background`.

    async def _connected(self) -> Connected:
        if self._state is None:
            if self._connecting is None:
                self._connecting = asyncio.Lock()
            async with self._connecting:
                if self._state is None:
                    with not_counting():
                        self._state = await self._connect_anew()
        return self._state

    async def _connect_anew(self) -> Connected:
        self._check_open()
        transport = Transport(self._address.base_url, self._endpoint)
        self._transports.append(transport)
        BACKGROUND.closes(transport)
        try:
            server = await look_at(transport, self._address, dialect=self._dialect, ask=self._model is None)
            found, row = server.model(self._model, self._known.aliases, self.kind)
            return await self._learn(
                Connected(transport, self._address, server.dialect, found, row, self._check_format(server.dialect))
            )
        except BaseException:
            self._transports.remove(transport)
            await transport.aclose()
            raise

    async def _learn(self, connected: Connected) -> Connected:
        """Find out what else has to be known of the model."""
        raise NotImplementedError

    def _check_format(self, dialect: Dialect) -> Any:
        known: Known = getattr(self, "_known", Known())
        found = format_of(self.kind, dialect, operation=self._address.operation, has_images=known.has_images)
        if found is None:
            those = ", ".join(speakers(self.kind))
            raise InputError(f"dialect {dialect!r} has no models of kind {self.kind}; those that have some: {those}")
        return found

    async def _post(self, state: Connected, body: dict[str, Any], *, patience: float) -> Any:
        answer = await state.transport.post(state.url, body, patience=patience)
        tokens = tokens_of(answer)
        if tokens is not None:
            count_tokens(tokens)
        return answer

    async def _send_all(
        self,
        inputs: AsyncIterator[Input],
        send: Callable[[Sequence[Input]], Coroutine[Any, Any, Sequence[Any]]],
        *,
        most: int,
        together: Callable[[Input, Input], bool],
        what: str,
    ) -> list[Any]:
        """One value for each input, in order; a few requests are under way at once."""
        running, values, first = deque[asyncio.Task[Sequence[Any]]](), list[Any](), 0
        endpoint = self._endpoint
        cut = batches(inputs, most=min(most, endpoint.batch_size), most_bytes=endpoint.batch_bytes, together=together)
        try:
            async for batch in cut:
                while len(running) >= (endpoint.connections if most == 1 else _IN_FLIGHT):
                    values += await running.popleft()
                running.append(asyncio.create_task(self._send_some(batch, send, what, first)))
                first += len(batch)
            while running:
                values += await running.popleft()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return values

    async def _send_some(
        self, batch: Sequence[Input], send: Callable[..., Coroutine[Any, Any, Sequence[Any]]], what: str, first: int
    ) -> Sequence[Any]:
        """The values of a batch; one that is too large for the server is sent in halves."""
        try:
            return await send(batch)
        except TooLargeError as error:
            if len(batch) == 1:
                raise ItemTooLargeError(
                    f"{what} {first} alone is larger than {self._address.base_url} takes (HTTP 413); send a smaller "
                    "image or text"
                ) from error
            left, right = halves(batch)
            return [
                *await self._send_some(left, send, what, first),
                *await self._send_some(right, send, what, first + len(left)),
            ]
        except InputError as error:
            named = f"{what} {first}" if len(batch) == 1 else f"{what}s {first} to {first + len(batch) - 1}"
            raise type(error)(f"{named}: {error}") from error

    # From here on, of any thread.

    def _checked_query(self, query: Query, what: str, modalities: Sequence[Modality]) -> Query:
        return check_query(query, what, reader=self.name, modalities=modalities)

    def _checked_passage(self, state: Connected, passage: Passage, index: int) -> Passage:
        """A passage that may be sent; of one whose image the format cannot hold, the text, and that is said once."""
        check_passage(passage, index)
        if passage.image is None or passage.modality in self._modalities(state):
            return passage
        text = text_of(passage, index=index, reader=self.name)
        self._say_once(f"{self.name} reads text only: images of passages are not sent, their texts are embedded alone")
        return Passage(text)

    def _modalities(self, state: Connected) -> tuple[Modality, ...]:
        """What a passage may hold: as far as both the format and the model are known to take it."""
        known = self._known.modalities
        return tuple(each for each in state.format.modalities if known is None or each in known)

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            _log.warning("%s", line)

    def _asked(self, state: Connected, **options: Any) -> Asked:
        asked = Asked(model=state.model, truncate=self._endpoint.truncate, has_images=self._known.has_images)
        return dataclasses.replace(asked, **options)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._known.name or self._model or self.kind} was closed; load it again")

    @property
    def _connected_now(self) -> Connected:
        return self._run(self._connected()) if self._state is None else self._state

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_open()
        except BaseException:
            work.close()
            raise
        return BACKGROUND.run(work)

    async def _arun(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_open()
        except BaseException:
            work.close()
            raise
        return await BACKGROUND.arun(work)


def _close_later(transports: list[Transport]) -> None:
    while transports:
        BACKGROUND.submit(transports.pop().aclose())


def _restored(cls: type[RemoteModel], settings: dict[str, Any]) -> RemoteModel:
    return cls(**settings)
