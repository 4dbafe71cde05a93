"""What all rerankers of this package do alike: check inputs, score them, put them in order. It knows no prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from nemotron_rag.errors import CheckpointError, ClosedError, InputError
from nemotron_rag.models._embedder import check_passage
from nemotron_rag.models._packed import PackedModel
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import load_tensor
from nemotron_rag.types import Passage, Ranked

__all__ = ["CrossEncoder", "LinearCrossEncoder", "load_head"]

M = TypeVar("M", bound=PackedModel[Any])


class CrossEncoder(ABC, Generic[M]):
    """A query and passages in, logits out.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
    """

    def __init__(self, model: M, *, name: str) -> None:
        self._model: M | None = model
        self.name = name

    def score(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32; higher is more relevant.

        Raises:
            InputError: an item is not a passage, or not one that this model reads.
            ImageError: an image cannot be read; the message names its index.
            TokenLimitError: an image needs more tokens than max_length.
        """
        model, prepare = self._checked(query)
        return self._logits(model.run(passages, prepare))

    def rank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The passages from best to worst, at most `top_n`; equal scores keep the caller's order.

        Raises:
            InputError: `top_n` is negative, or as for `score`.
        """
        _check_top_n(top_n)
        return _ranked(self.score(query, passages), passages, top_n)

    async def ascore(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """The same as `score`, without blocking the event loop."""
        model, prepare = self._checked(query)
        return self._logits(await model.arun(passages, prepare))

    async def arank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The same as `rank`, without blocking the event loop."""
        _check_top_n(top_n)
        return _ranked(await self.ascore(query, passages), passages, top_n)

    def close(self) -> None:
        """Let go of the weights; they are freed when nobody else shares them."""
        self._model = None

    @abstractmethod
    def _prepare(self, model: M, query: str, passage: Passage, index: int) -> Any:
        """The sequence that `model` computes for a pair."""

    @abstractmethod
    def _logits(self, rows: list[torch.Tensor]) -> FloatArray:
        """(n,) float32, from what the model gives; n may be 0."""

    def _checked(self, query: str) -> tuple[M, Callable[[Passage, int], Any]]:
        if not isinstance(query, str):
            raise InputError(f"query is of type {type(query).__name__}, wanted str")

        def prepare(passage: Passage, index: int) -> Any:
            check_passage(passage, index)
            return self._prepare(self._opened(), query, passage, index)

        return self._opened(), prepare

    def _opened(self) -> M:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        return self._model


class LinearCrossEncoder(CrossEncoder[M]):
    """A cross-encoder whose model gives one pooled (hidden,) vector, and whose head is one linear layer.

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
    """The head of a checkpoint: (1, hidden) float32, without a bias.

    Raises:
        CheckpointError: it is not there, or has another shape.
    """
    head = load_tensor(folder, "score.weight")
    if head.shape != (1, hidden):
        raise CheckpointError(
            f"score.weight of checkpoint {folder} has shape {tuple(head.shape)}, its config.json wants {(1, hidden)}"
        )
    return head


def _check_top_n(top_n: int | None) -> None:
    if top_n is not None and top_n < 0:
        raise InputError(f"top_n must not be negative, got {top_n}")


def _ranked(scores: FloatArray, passages: Sequence[Passage], top_n: int | None) -> list[Ranked]:
    order = np.argsort(-scores, kind="stable")[:top_n].tolist()
    return [Ranked(index=i, score=float(scores[i]), passage=passages[i]) for i in order]
