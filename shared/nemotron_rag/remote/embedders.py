"""Embedders at a server: one vector for each input, or one for each token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar, Unpack

import numpy as np

from nemotron_rag._tracing import traced_embedding
from nemotron_rag.documents.passages import check_list
from nemotron_rag.errors import EndpointError, InputError
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.ranking import check_count
from nemotron_rag.remote.answers import in_order, numbers, unit_rows
from nemotron_rag.remote.formats import Role
from nemotron_rag.remote.inputs import Input, encoded
from nemotron_rag.remote.model import Connected, RemoteModel, RemoteOptions
from nemotron_rag.stores.patience import DEFAULT_PATIENCE, SHORT_PATIENCE
from nemotron_rag.types import FloatArray, Kind, Passage, Query

__all__ = ["RemoteEmbedder", "RemoteMultiVectorEmbedder"]

R = TypeVar("R")
_PROBE = Input("dimensions")


class _RemoteEmbedder(RemoteModel, Generic[R]):
    _rank: ClassVar[int]
    """Of the array of one input."""

    def __init__(
        self, model: str | None = None, *, dimensions: int | None = None, **options: Unpack[RemoteOptions]
    ) -> None:
        check_count("dimensions", dimensions)
        self._wanted = dimensions
        super().__init__(model, **options)

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return self._connected_now.dimensions

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """What decides the vectors, as far as it is known: of our server all that it says of its model."""
        state = self._connected_now
        said = state.row.get("identity")
        if isinstance(said, Mapping):
            return {**_plain(said), "dialect": state.dialect}
        own = {} if state.format.has_roles else {f"{role}_prefix": self._prefix(role) for role in _ROLES}
        prefixes = {name: prefix for name, prefix in own.items() if prefix}
        return {"model": self.name, "dialect": state.dialect, "dimensions": state.dimensions, **prefixes}

    @traced_embedding("query")
    def embed_queries(self, queries: Sequence[Query]) -> R:
        """Embed queries, each vector of length 1.

        Raises:
            InputError: an item is neither a str nor a passage, or has an image and this model's `query_modalities`
                have none; or the server refuses it.
            ImageError: an image cannot be read; the message names its index.
            NonFiniteError: the server answered NaN.
            EndpointError: the server cannot be reached, or its answer cannot be used.
        """
        check_list(queries)
        return self._shaped(self._run(self._embed(queries, "query")))

    @traced_embedding("passage")
    def embed_passages(self, passages: Sequence[Passage]) -> R:
        """Embed texts, images, or both; errors are those of `embed_queries`.

        A server that takes text only gets the texts of passages with images, which is said once.
        """
        check_list(passages)
        return self._shaped(self._run(self._embed(passages, "passage")))

    @traced_embedding("query")
    async def aembed_queries(self, queries: Sequence[Query]) -> R:
        """`embed_queries` for event loops."""
        check_list(queries)
        return self._shaped(await self._arun(self._embed(queries, "query")))

    @traced_embedding("passage")
    async def aembed_passages(self, passages: Sequence[Passage]) -> R:
        """`embed_passages` for event loops."""
        check_list(passages)
        return self._shaped(await self._arun(self._embed(passages, "passage")))

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "dimensions": self._wanted}

    def _shaped(self, rows: tuple[int, list[FloatArray]]) -> R:
        raise NotImplementedError

    def _prefix(self, role: Role) -> str:
        given = self._endpoint.query_prefix if role == "query" else self._endpoint.passage_prefix
        own = self._known.query_prefix if role == "query" else self._known.passage_prefix
        return own if given is None else given

    async def _learn(self, connected: Connected) -> Connected:
        full = (await self._rows_of(connected, [_PROBE], "passage"))[0].shape[-1]
        if self._wanted in (None, full):
            return replace(connected, dimensions=full)
        shorter = replace(connected, asked_dimensions=self._wanted)
        found = (await self._rows_of(shorter, [_PROBE], "passage"))[0].shape[-1]
        if found != self._wanted:
            raise InputError(f"{connected.model} was asked for dimensions={self._wanted} and answers with {found}")
        return replace(shorter, dimensions=found)

    async def _embed(self, given: Sequence[Any], role: Role) -> tuple[int, list[FloatArray]]:
        state = await self._connected()

        def check(index: int) -> Query:
            if role == "query":
                return self._checked_query(given[index], f"query {index}", state.query_modalities)
            return self._checked_passage(state, given[index], index)

        async def send(batch: Sequence[Input]) -> list[FloatArray]:
            return await self._rows_of(state, batch, role)

        rows = await self._send_all(
            encoded(given, role, check), send, most=state.format.most, together=state.format.together, what=role
        )
        return state.dimensions, rows

    async def _rows_of(self, state: Connected, batch: Sequence[Input], role: Role) -> list[FloatArray]:
        asked = self._asked(
            state,
            role=role,
            prefix=self._prefix(role),
            dimensions=state.asked_dimensions,
            length=state.dimensions or None,
        )
        patience = DEFAULT_PATIENCE if role == "passage" and state.dimensions else SHORT_PATIENCE
        answer = await self._post(state, state.format.body(batch, asked), patience=patience)
        where = state.transport.where
        rows = in_order(
            state.format.rows(answer, where),
            lambda row: numbers(state.format.vector(row, where), where=where),
            count=len(batch),
            where=where,
        )
        return [self._checked(row, state, f"input {place} of {len(batch)}") for place, row in enumerate(rows)]

    def _checked(self, row: FloatArray, state: Connected, what: str) -> FloatArray:
        """A row of the right shape, and its vectors of length 1."""
        where = state.transport.where
        if self._rank == 2 and row.ndim == 1 and state.dimensions and row.size % state.dimensions == 0:
            row = row.reshape(-1, state.dimensions)  # of Base64
        if row.ndim != self._rank or not row.size:
            instead = "load_embedder" if row.ndim == 1 else "load_multivector_embedder"
            raise EndpointError(
                f"{where} answered an array of {row.ndim} axes and {row.size} numbers for {what}, wanted "
                f"{self._rank} axes; load {self.name} with {instead}"
            )
        if state.dimensions and row.shape[-1] != state.dimensions:
            raise EndpointError(
                f"{where} answered {row.shape[-1]} dimensions for {what}, and {state.dimensions} before: another "
                "model answers now"
            )
        return unit_rows(row, what=what, where=where)


class RemoteEmbedder(_RemoteEmbedder[FloatArray]):
    """An `Embedder` at a server; `nemotron_rag.load_embedder` makes one of a url.

    Args:
        model: as the server calls it; None for the only one.
        dimensions: shorter vectors, for servers and models that have them; None for all.
        **options: ``base_url``, ``dialect``, ``endpoint`` and ``known``, see `RemoteModel`.

    Raises:
        InputError: an argument cannot be used.

    Example:
        >>> RemoteEmbedder("text-embedding-3-small", base_url="https://api.openai.com/v1")
        RemoteEmbedder('text-embedding-3-small', base_url='https://api.openai.com/v1')
    """

    kind: ClassVar[Kind] = "embedder"
    _rank = 1

    def _shaped(self, rows: tuple[int, list[FloatArray]]) -> FloatArray:
        dimensions, found = rows
        return np.stack(found) if found else np.empty((0, dimensions), np.float32)  # (inputs, dimensions)


class RemoteMultiVectorEmbedder(_RemoteEmbedder[list[FloatArray]]):
    """A `MultiVectorEmbedder` at a server; arguments are those of `RemoteEmbedder`.

    Example:
        >>> RemoteMultiVectorEmbedder("starter-colembed", base_url="http://localhost:8000/v1")
        RemoteMultiVectorEmbedder('starter-colembed', base_url='http://localhost:8000/v1')
    """

    kind: ClassVar[Kind] = "multivector_embedder"
    _rank = 2

    def score(
        self, queries: Sequence[FloatArray], passages: Sequence[FloatArray], *, exact: bool = False
    ) -> FloatArray:
        """MaxSim, computed here: (queries, passages) float32.

        Args:
            queries: one (tokens, dimensions) array each.
            passages: likewise.
            exact: score each passage on its own; by default as the published models do, which count a query token
                whose similarities with a shorter passage are all negative as 0.

        Raises:
            InputError: an array is not (tokens, dimensions), or is empty.
        """
        return maxsim(queries, passages, padded=not exact)

    def _shaped(self, rows: tuple[int, list[FloatArray]]) -> list[FloatArray]:
        return rows[1]


_ROLES: tuple[Role, ...] = ("query", "passage")


def _plain(identity: Mapping[Any, Any]) -> dict[str, str | int | bool | None]:
    """What a server says, held to plain JSON values."""
    found = {str(key): value for key, value in identity.items()}
    if not all(value is None or isinstance(value, str | int | bool) for value in found.values()):
        raise EndpointError(f"a server says of its model what is not plain: {json.dumps(found)[:200]}")
    return found
