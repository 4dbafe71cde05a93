"""A reranker at a server; what answers with probabilities is turned into logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from nemotron_rag._ranks import RanksByScore
from nemotron_rag._tracing import traced_rerank
from nemotron_rag.documents.passages import check_list, check_passage
from nemotron_rag.errors import EndpointError, ImageError, NonFiniteError
from nemotron_rag.remote.answers import as_logits, in_order, numbers
from nemotron_rag.remote.endpoint import ScoreScale
from nemotron_rag.remote.inputs import Input, as_input, encoded
from nemotron_rag.remote.model import Connected, RemoteModel
from nemotron_rag.stores.patience import SHORT_PATIENCE
from nemotron_rag.types import FloatArray, Kind, Passage, Query

__all__ = ["RemoteReranker"]

_PROBE_QUERY = Input("Which city is the capital of France?")
_PROBES = (Input("Paris is the capital of France."), Input("Bread needs flour, water and salt."))


class RemoteReranker(RanksByScore, RemoteModel):
    """A `Reranker` at a server; `nemotron_rag.load_reranker` makes one of a url.

    Scores are logits. Those of servers that answer with probabilities are computed from them: their sigmoid is what the
    server said, and two passages that it gives 1.0 are equal.

    Args:
        model: as the server calls it; None for the only one.
        base_url: of the server.
        dialect: that it speaks; None to find out.
        endpoint: how requests are made: an `Endpoint`, or its options.
        known: what is known of the model.

    Raises:
        InputError: an argument cannot be used.

    Example:
        >>> RemoteReranker(base_url="http://localhost:8000/v1/ranking", dialect="nim")
        RemoteReranker(None, base_url='http://localhost:8000/v1/ranking')
    """

    kind: ClassVar[Kind] = "reranker"

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Model and dialect, and of our server all that it says of its model."""
        state = self._connected_now
        said = state.row.get("identity")
        return {**(said if isinstance(said, Mapping) else {"model": self.name}), "dialect": state.dialect}

    @traced_rerank
    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Logits: (n,) float32; higher is more relevant.

        Raises:
            InputError: an item is not a passage, or the query is neither a str nor a passage that the model reads; or
                the server refuses it.
            ImageError: an image cannot be read, or the server takes none; the message names its index.
            NonFiniteError: the server answered NaN.
            EndpointError: the server cannot be reached, or its answer cannot be used.
        """
        check_list(passages)
        return self._run(self._score(query, passages))

    @traced_rerank
    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """`score` for event loops."""
        check_list(passages)
        return await self._arun(self._score(query, passages))

    async def _learn(self, connected: Connected) -> Connected:
        scale = self._endpoint.scores or connected.format.scale
        return replace(connected, scale=scale or await self._found_scale(connected))

    async def _found_scale(self, state: Connected) -> ScoreScale:
        """Of a server that may or may not leave out the activation: whether it makes a difference."""
        bare = await self._asked_scores(state, _PROBE_QUERY, _PROBES, raw=True)
        active = await self._asked_scores(state, _PROBE_QUERY, _PROBES, raw=False)
        inside = bool(((bare >= 0) & (bare <= 1)).all())
        if not inside or not np.allclose(bare, active, atol=1e-4, rtol=1e-4):
            return "logit"
        self._say_once(
            f"{state.transport.where} scores with probabilities: logits are computed from them, and scores that it "
            "rounds to 1 cannot be told apart"
        )
        return "probability"

    async def _score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        state = await self._connected()
        asked = self._checked_query(query, "query", state.query_modalities)
        if not passages:
            return np.zeros(0, np.float32)
        try:
            sent = as_input(asked)
        except ImageError as error:
            raise error.at(None, what="query") from error
        self._check_passages(state, passages)

        async def send(batch: Sequence[Input]) -> list[float]:
            scores = await self._asked_scores(state, sent, batch, raw=True)
            if not np.isfinite(scores).all():
                where = state.transport.where
                raise NonFiniteError(f"{where} answered NaN or infinity; its model may need another number format")
            is_probability = state.scale == "probability"
            return list(as_logits(scores, where=state.transport.where) if is_probability else scores)

        inputs = encoded(passages, "passage", lambda index: passages[index])
        rows = await self._send_all(
            inputs, send, most=state.format.most, together=lambda one, other: True, what="passage"
        )
        return np.array(rows, np.float32)

    def _check_passages(self, state: Connected, passages: Sequence[Passage]) -> None:
        """Before anything is sent: an image is never left out without a word."""
        readable = self._modalities(state)
        for index, passage in enumerate(passages):
            check_passage(passage, index)
            if passage.image is not None and passage.modality not in readable:
                takes = "text or an image, not both" if "image" in readable else "text only"
                raise ImageError(
                    f"the image would be lost, for {self.name} at {state.transport.where} takes {takes}; give the "
                    "text alone, or take a server and model that read both"
                ).at(index)

    async def _asked_scores(self, state: Connected, query: Input, batch: Sequence[Input], *, raw: bool) -> FloatArray:
        body = state.format.body(query, batch, self._asked(state), raw=raw)
        answer = await self._post(state, body, patience=SHORT_PATIENCE)
        where = state.transport.where
        rows = state.format.rows(answer, where)
        values = in_order(rows, lambda row: state.format.score(row, where), count=len(batch), where=where)
        scores = numbers(values, where=where)
        if scores.shape != (len(batch),):
            raise EndpointError(f"{where} answered scores of shape {scores.shape} for {len(batch)} passages")
        return scores
