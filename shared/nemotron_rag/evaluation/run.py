"""Runs an evaluation: every system over every query, in one run that goes on where it was killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from nemotron_rag.documents.pdf import PdfEngine
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.dataset import Dataset
from nemotron_rag.evaluation.documents import files_of
from nemotron_rag.evaluation.metrics import Metric
from nemotron_rag.evaluation.plan import as_list, check_k, lazy_models
from nemotron_rag.evaluation.results import Evaluation, SystemResult, measured, metric_names
from nemotron_rag.evaluation.sources import as_dataset
from nemotron_rag.evaluation.systems import Asked, Found, Given, Grid
from nemotron_rag.index import Mode, PageIndex
from nemotron_rag.models.load import LoadOptions, ModelName
from nemotron_rag.protocols import AnyEmbedder, Reranker
from nemotron_rag.types import Modality

__all__ = ["evaluate"]


def evaluate(
    dataset: Dataset | str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    *,
    pages: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    embedders: ModelName | AnyEmbedder | Sequence[ModelName | AnyEmbedder] = (),
    rerankers: ModelName | Reranker | Sequence[ModelName | Reranker] = (),
    modalities: Modality | Sequence[Modality] = ("image_text",),
    modes: Mode | Sequence[Mode | None] | None = None,
    candidates: int | Sequence[int] = (),
    indexes: Mapping[str, PageIndex | str | os.PathLike[str]] | None = None,
    retrievers: Mapping[str, Any] | None = None,
    k: int | Sequence[int] = (1, 5, 10),
    main: str | None = None,
    baseline: str | None = None,
    key: Callable[[Any], Any] | None = None,
    pdf_engine: PdfEngine = "auto",
    to: str | os.PathLike[str] | None = None,
    samples: int = 10_000,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[LoadOptions],
) -> Evaluation:
    """Measure how well systems find the pages that answer judged queries.

    Every embedder is tried with every modality, in every mode, without a reranker and with each; what a model cannot
    do is left out, and noted. Pages found twice, such as two chunks of one, count where they come first.

    Args:
        dataset: a `Dataset`, a file of queries (see `read_query_file`), a folder in a published layout (see
            `read_published`), or rows of queries.
        pages: documents, or folders of them, if the data set does not bring its pages.
        embedders: catalog ids, folders or loaded models; each makes an index of the pages.
        rerankers: likewise; they see what the embedder sees.
        modalities: what models see of a page: "text", "image" or "image_text".
        modes: "dense", "multi", "hybrid"; None for what the embedder gives. See `PageIndex.search`.
        candidates: pages that a reranker reads; several to compare them.
        indexes: indexes that there are, by name: open, or where they are.
        retrievers: by name: retrievers of LangChain or LlamaIndex as they are, or functions of the query. They must
            return as many pages as the largest `k`.
        k: cut-offs of the metrics; the largest is how many pages are asked for.
        main: metric by which systems are compared; None for NDCG at the largest k.
        baseline: name of the system that the others are compared with; None for the first.
        key: names what retrievers return, see `PageIds`.
        pdf_engine: what renders PDFs, see `nemotron_rag.documents.pdf.PdfEngine`.
        to: folder for what was found so far, and for the indexes: a run that was killed goes on there, and another one
            reuses what has not changed. A retriever is known by its name alone: give a new one to one you changed.
            None keeps nothing.
        samples: of the bootstrap.
        seed: of the bootstrap.
        progress: show bars on stderr.
        **options: for models that are named; see `LoadOptions`.

    Raises:
        InputError: an argument cannot be used; nothing was computed yet.
        NemotronRagError: a model or a store failed. What was found before is kept in `to`.

    Example:
        >>> queries = [{"question": "red apples", "file": "fruit.pdf", "page": 2}]
        >>> found = evaluate(queries, retrievers={"always page 1": lambda query: [("fruit.pdf", 1), ("fruit.pdf", 2)]})
        >>> found["always page 1"].intervals["mrr"].mean
        0.5
    """
    cutoffs = check_k(k)
    metrics = metric_names(cutoffs)
    main = str(Metric.of(main or f"ndcg@{cutoffs[-1]}"))
    metrics = metrics if main in metrics else (main, *metrics)
    data = as_dataset(dataset)
    named: list[str | os.PathLike[str]] = as_list(pages)
    files = files_of(named, pdf_engine=pdf_engine) if named else None
    if data.corpus is None and files is not None:
        data = files.one_name_each(data)
    lazy, ranking = lazy_models(as_list(embedders), as_list(rerankers), options)
    grid = Grid(
        embedders=lazy,
        rerankers=ranking,
        modalities=as_list(modalities),
        modes=as_list(modes) or [None],
        candidates=as_list(candidates),
    )
    given = Given(indexes=dict(indexes or {}), retrievers=dict(retrievers or {}), key=key)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(to if to is not None else scratch)
        asked = Asked(
            data,
            files,
            tuple(map(Path, named)),
            cutoffs[-1],
            folder,
            is_kept=to is not None,
            progress=progress,
            pdf_engine=pdf_engine,
        )
        systems, notes = asked.plan(grid, given)
        if baseline is not None and baseline not in systems:
            raise InputError(f"baseline must be one of the systems ({'; '.join(systems)}), got {baseline!r}")
        found = [_measured(each, data, metrics, samples, seed) for each in asked.answers()]
    return Evaluation(
        dataset=data,
        systems=tuple(found),
        metrics=metrics,
        main=main,
        baseline=baseline or found[0].name,
        seed=seed,
        samples=samples,
        notes=(*data.notes, *notes),
        files=files,
    )


def _measured(found: Found, data: Dataset, metrics: Sequence[str], samples: int, seed: int) -> SystemResult:
    values, intervals = measured(data, found.answers, metrics, samples=samples, seed=seed)
    return SystemResult(
        name=found.name,
        settings=found.settings,
        answers=found.answers,
        values=values,
        intervals=intervals,
        costs=found.costs,
        notes=found.notes,
        index=found.index,
        heatmap=found.heatmap,
    )
