"""Our models as a pipeline of vidore-benchmark, for its pipeline board.

Its command line takes this file as ``--module-path`` and `NemotronPipeline` as ``--class-name``; the arguments of the
class are its ``--pipeline-args``.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemotron_rag.errors import InputError
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.load import LoadOptions, ModelName
from nemotron_rag.protocols import AnyEmbedder, Reranker
from nemotron_rag.ranking import RankingPolicy, rank
from nemotron_rag.types import FloatArray, Modality, Passage

__all__ = ["NemotronPipeline"]

_BATCH = 64  # pages given to the embedder at a time


def _base() -> type:
    """Its base class, where the package is installed: its command line takes only subclasses."""
    try:
        found: type = importlib.import_module("vidore_benchmark.pipeline_evaluation.base_pipeline").BasePipeline
    except ModuleNotFoundError:
        return object
    return found


class NemotronPipeline(_base()):  # type: ignore[misc]
    """Finds pages by their vectors, compared exactly, and ranks the best with a reranker if there is one.

    Args:
        embedder: a catalog id, a local folder, or a loaded `Embedder` or `MultiVectorEmbedder`.
        reranker: likewise a reranker; None for none.
        modality: what is read of a page: "image", "text", or "image_text" for both.
        top_k: pages returned for each query.
        candidates: pages that the reranker reads.
        options: of the embedder, see `LoadOptions`.
        reranker_options: of the reranker.

    Raises:
        InputError: a number is not positive, or a model is of another kind.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> pipeline = NemotronPipeline(FakeEmbedder(), modality="text", top_k=1)
        >>> pipeline.index(["p1", "p2"], [None, None], ["red apples", "blue whales"])
        >>> list(pipeline.search(["q1"], ["red apples"])[0]["q1"])
        ['p1']
    """

    def __init__(
        self,
        embedder: ModelName | AnyEmbedder = "llama-nemotron-embed-vl-1b-v2",
        reranker: ModelName | Reranker | None = None,
        *,
        modality: Modality = "image",
        top_k: int = 100,
        candidates: int = 100,
        options: LoadOptions | None = None,
        reranker_options: LoadOptions | None = None,
    ) -> None:
        for name, value in (("top_k", top_k), ("candidates", candidates)):
            if value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        self._embedder: LazyModel[Any] = LazyModel(embedder, "embedder", "multivector_embedder", **(options or {}))
        self._reranker: LazyModel[Any] | None = None
        if reranker is not None:
            self._reranker = LazyModel(reranker, "reranker", **(reranker_options or {}))
        self._modality, self._top_k, self._candidates = modality, top_k, candidates
        self._ids: list[str] = []
        self._passages: list[Passage] = []
        self._rows: list[FloatArray] = []

    def index(
        self,
        corpus_ids: Sequence[str],
        corpus_images: Sequence[Any],
        corpus_texts: Sequence[str],
        dataset_name: str | None = None,
    ) -> None:
        """Embed the pages.

        Args:
            corpus_ids: n ids.
            corpus_images: n images.
            corpus_texts: n texts.
            dataset_name: not needed.

        Raises:
            InputError: there are not as many of each.
        """
        if not len(corpus_ids) == len(corpus_images) == len(corpus_texts):
            counts = f"{len(corpus_ids)}, {len(corpus_images)} and {len(corpus_texts)}"
            raise InputError(f"pages need an id, an image and a text each, got {counts} of them")
        self._ids = [str(each) for each in corpus_ids]
        pairs = zip(corpus_images, corpus_texts, strict=True)
        self._passages = [self._passage(image, text) for image, text in pairs]
        model, self._rows = self._embedder.get(), []
        for start in range(0, len(self._passages), _BATCH):
            self._rows += list(model.embed_passages(self._passages[start : start + _BATCH]))

    def search(
        self, query_ids: Sequence[str], queries: Sequence[str]
    ) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
        """Find pages.

        Args:
            query_ids: n ids.
            queries: n texts.

        Returns:
            By query id the scores of pages by id, higher is better; and what the board shows of the pipeline.
        """
        started = time.perf_counter()
        found = {str(query_id): self._found(query) for query_id, query in zip(query_ids, queries, strict=True)}
        infos = {
            "embedder": self._embedder.name,
            "reranker": None if self._reranker is None else self._reranker.name,
            "modality": self._modality,
            "search_seconds": time.perf_counter() - started,
        }
        return found, infos

    def _found(self, query: str) -> dict[str, float]:
        if not self._rows:
            return {}
        model = self._embedder.get()
        (row,) = model.embed_queries([query])
        scores = np.stack(self._rows) @ row if model.kind == "embedder" else model.score([row], self._rows)[0]
        count = self._top_k if self._reranker is None else self._candidates
        best = np.argsort(-scores, kind="stable")[:count].tolist()
        if self._reranker is None:
            return {self._ids[place]: float(scores[place]) for place in best}
        passages = [self._passages[place] for place in best]
        places = rank(self._reranker.get(), query, passages, policy=RankingPolicy(top_n=self._top_k))
        return {self._ids[best[each.index]]: each.score for each in places if each.score is not None}

    def _passage(self, image: Any, text: str) -> Passage:
        if self._modality == "image":
            return Passage(image=image)
        return Passage(text or "", None if self._modality == "text" else image)
