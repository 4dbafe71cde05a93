"""`Reranker` over a loaded cross-encoder of sentence-transformers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from nemotron_rag._ranks import RanksByScore
from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.models.adopted.identity import identity_of, name_of
from nemotron_rag.models.adopted.inputs import Reading, lock_of
from nemotron_rag.types import FloatArray, Kind, Modality, Passage, Query

__all__ = ["AdoptedReranker"]

T = TypeVar("T")


class AdoptedReranker(RanksByScore):
    """A `Reranker` over a loaded ``CrossEncoder``.

    Scores are its logits, without the activation that ``predict`` applies by itself (a sigmoid for most models);
    ``score_transform="sigmoid"`` of the index and the adapters gives the other ones. The order is the same.

    Args:
        model: a loaded ``CrossEncoder``; it stays the caller's, and closing this only lets go of it.
        name: for messages and records; None for the repository or folder it came from.
        modalities: what it reads; None asks the model.
        batch_size: pairs that it computes at once.

    Raises:
        InputError: it has more than one label.

    Example:
        >>> from sentence_transformers import CrossEncoder  # doctest: +SKIP
        >>> from nemotron_rag import Passage
        >>> reranker = AdoptedReranker(CrossEncoder("BAAI/bge-reranker-v2-m3"))  # doctest: +SKIP
        >>> reranker.score("tornadoes", [Passage("Tornadoes form in storms.")]).shape  # doctest: +SKIP
        (1,)
    """

    kind: Kind = "reranker"

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        modalities: Sequence[Modality] | None = None,
        batch_size: int = 32,
    ) -> None:
        self.name = name_of(model) if name is None else name
        labels = getattr(model, "num_labels", 1)
        if labels != 1:
            raise InputError(f"{self.name} has {labels} labels, wanted a model that gives one score; take a reranker")
        if batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, got {batch_size}")
        self._model: Any = model
        self._reading = Reading(model, name=self.name, modalities=modalities)
        self._batch_size = batch_size
        self._lock = lock_of(model)
        self._identity: Mapping[str, str | int | bool | None] | None = None

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """What a query may be: the same as a passage."""
        return self._reading.modalities

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the model computes; see `nemotron_rag.models.adopted.identity`."""
        if self._identity is None:
            self._identity = identity_of(self._opened())
        return self._identity

    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Logits: (n,) float32; higher is more relevant.

        Raises:
            InputError: an item is not a passage, or an image for a model that reads text only; or the query is neither
                a string nor a passage that the model reads.
            ImageError: an image cannot be read; the message names its index, or the query.
        """
        self._opened()
        asked, checked = self._reading.query(query), self._reading.passages(passages)
        if not checked:
            return np.zeros(0, dtype=np.float32)
        scores: list[float] = []
        for part in self._reading.parts(checked, "passage"):
            scores += self._predicted([(asked, each) for each in part])
        return np.asarray(scores, dtype=np.float32)

    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Async `score`."""
        return await asyncio.to_thread(self.score, query, passages)

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _predicted(self, pairs: list[tuple[Any, Any]]) -> list[float]:
        with self._lock:
            scores = self._opened().predict(
                pairs,
                batch_size=self._batch_size,
                show_progress_bar=False,
                activation_fn=_as_it_is,
                convert_to_numpy=True,
            )
        values: list[float] = np.asarray(scores, dtype=np.float32).reshape(-1).tolist()
        if len(values) != len(pairs):
            raise InputError(f"{self.name} computed {len(values)} scores for {len(pairs)} pairs; see to its predict()")
        return values

    def _opened(self) -> Any:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        return self._model


def _as_it_is(scores: T) -> T:
    return scores
