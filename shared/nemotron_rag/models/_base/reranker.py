"""Base classes of all rerankers: check inputs, run the model, turn its rows into logits."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch

from nemotron_rag._ranks import RanksByScore
from nemotron_rag._tracing import traced_rerank
from nemotron_rag.documents.passages import check_passage, check_query
from nemotron_rag.errors import CheckpointError, ClosedError
from nemotron_rag.models._base.packed import PackedModel
from nemotron_rag.models._base.weights import load_weight
from nemotron_rag.protocols import FloatArray
from nemotron_rag.types import Kind, Modality, Passage, Query

__all__ = ["CrossEncoder", "LinearCrossEncoder", "load_head"]

M = TypeVar("M", bound=PackedModel[Any])


class CrossEncoder(RanksByScore, ABC, Generic[M]):
    """Scores passages against a query.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
    """

    kind: Kind = "reranker"
    query_modalities: tuple[Modality, ...] = ("text",)

    def __init__(self, model: M, *, name: str) -> None:
        self._model: M | None = model
        self.name = name

    @traced_rerank
    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32; higher is more relevant.

        Raises:
            InputError: an item is not a passage, or of a modality that this model does not read; or the query is
                neither a string nor a passage that it reads.
            ImageError: an image cannot be read; the message names its index, or the query.
            TokenLimitError: an image needs more tokens than max_length.
        """
        model, prepare = self._checked(query)
        return self._logits(model.run(passages, prepare))

    @traced_rerank
    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Async `score`."""
        model, prepare = self._checked(query)
        return self._logits(await model.arun(passages, prepare))

    def close(self) -> None:
        """Release the weights; they are freed when no other object shares them."""
        self._model = None

    @abstractmethod
    def _prepare(self, model: M, query: str, passage: Passage, index: int) -> Any:
        """Build the token sequence of a query and a passage."""

    def _read_query(self, model: M, query: Passage) -> Any:
        """Read a query with an image, once for all passages; for models whose `query_modalities` have images."""
        raise NotImplementedError

    def _prepare_with(self, model: M, query: Any, passage: Passage, index: int) -> Any:
        """Build the token sequence of a passage and what `_read_query` gave."""
        raise NotImplementedError

    @abstractmethod
    def _logits(self, rows: list[torch.Tensor]) -> FloatArray:
        """Convert the model's rows to (n,) float32 logits; n may be 0."""

    def _checked(self, query: Query) -> tuple[M, Callable[[Passage, int], Any]]:
        checked = check_query(query, "query", reader=self.name, modalities=self.query_modalities)
        read = _Once(lambda: self._read_query(self._opened(), cast("Passage", checked)))

        def prepare(passage: Passage, index: int) -> Any:
            check_passage(passage, index)
            if isinstance(checked, str):
                return self._prepare(self._opened(), checked, passage, index)
            return self._prepare_with(self._opened(), read(), passage, index)

        return self._opened(), prepare

    def _opened(self) -> M:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        return self._model


class _Once:
    """The value of a function that threads ask for, computed by the first of them."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._values: list[Any] = []

    def __call__(self) -> Any:
        with self._lock:
            if not self._values:
                self._values.append(self._compute())
            return self._values[0]


class LinearCrossEncoder(CrossEncoder[M]):
    """A cross-encoder with one pooled (hidden,) vector and one linear layer as its head.

    Args:
        model: the loaded weights.
        name: catalog id or folder.
        head: (1, hidden) float32.
        temperature: logits are divided by it.
    """

    def __init__(self, model: M, *, name: str, head: torch.Tensor, temperature: float) -> None:
        super().__init__(model, name=name)
        self._weight = head
        self._temperature = temperature

    def _logits(self, rows: list[torch.Tensor]) -> FloatArray:
        pooled = torch.stack(rows) if rows else torch.empty(0, self._weight.shape[1])  # (passages, hidden)
        logits = pooled @ self._weight.T / self._temperature  # (passages, 1)
        return logits.squeeze(-1).numpy()


def load_head(folder: Path, *, hidden: int) -> torch.Tensor:
    """Load the head of a checkpoint: (1, hidden) float32, without a bias.

    Raises:
        CheckpointError: it is missing, or has another shape.
    """
    head = load_weight(folder, "score.weight")
    if head.shape != (1, hidden):
        raise CheckpointError(
            f"score.weight of checkpoint {folder} has shape {tuple(head.shape)}, its config.json needs {(1, hidden)}"
        )
    return head
