"""Our models as models of mteb, so that its own ``evaluate`` runs them; and one of its tasks, run from start to end.

mteb is imported at first use; the extra ``mteb`` brings it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from nemotron_rag.errors import InputError, MissingExtraError
from nemotron_rag.models.catalog import CATALOG
from nemotron_rag.models.lazy import RANKERS, LazyModel
from nemotron_rag.models.load import LoadOptions, ModelName
from nemotron_rag.runtime import import_local
from nemotron_rag.types import Kind, Modality, Passage

__all__ = ["MtebEncoder", "MtebReranker", "TaskScore", "run_task"]

_TYPES: Mapping[Kind, str] = {
    "embedder": "dense",
    "multivector_embedder": "late-interaction",
    "reranker": "cross-encoder",
}
_MODALITIES = ("text", "image", "image_text")


class _Model:
    """What both have in common; the arguments are those with which mteb makes a model by name.

    Args:
        model_name: a catalog id, its hub repository, a local folder, or a loaded model.
        revision: of the hub repository; None for the pinned one.
        device: see `LoadOptions`.
        modality: what is read of pages that have an image and a text: "image", "text", or "image_text" for both.
        **options: see `LoadOptions`.

    Raises:
        InputError: the model is of another kind, or an option means nothing to it.
        UnknownModelError: there is no such model.
    """

    _kinds: tuple[Kind, ...]

    def __init__(
        self,
        model_name: ModelName | Any,
        revision: str | None = None,
        *,
        device: str | None = None,
        modality: Modality = "image_text",
        **options: Any,
    ) -> None:
        if modality not in _MODALITIES:
            raise InputError(f"modality must be one of {', '.join(_MODALITIES)}; got {modality!r}")
        given = {"revision": revision, "device": device, **options}
        self._lazy: LazyModel[Any] = LazyModel(model_name, *self._kinds, **cast("LoadOptions", given))
        self._modality = modality
        self._settings = {name: value for name, value in options.items() if value is not None and name != "dtype"}

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb notes of the model: its repository, revision, kind, and the settings that were given."""
        model, spec = self._lazy.get(), next((row for row in CATALOG if row.id == self._lazy.name), None)
        kind: Kind = "reranker" if "reranker" in self._kinds else model.kind
        name = spec.repo if spec is not None and spec.repo else f"nemotron-rag/{Path(self._lazy.name).name}"
        reads = ["text"] if spec is not None and spec.modalities == ("text",) else ["text", "image"]
        settings = {**self._settings, **({} if self._modality == "image_text" else {"modality": self._modality})}
        facts = {
            "name": name,
            "revision": str(model.identity.get("revision") or model.identity.get("weights") or "no_revision_available"),
            "modalities": reads,
            "model_type": [_TYPES[kind]],
            "embed_dim": getattr(model, "dimensions", None),
            "n_parameters": spec.parameters if spec is not None else None,
            "similarity_fn_name": None if kind == "reranker" else _scoring(kind),
            "use_instructions": True,
            "framework": ["PyTorch"],
            "experiment_kwargs": {key: str(value) for key, value in settings.items()} or None,
        }
        return _facts().ModelMeta.create_empty(overwrites=facts)

    def _passages(self, batch: Mapping[str, Any]) -> list[Passage]:
        """The inputs of a batch, of pages that have both only what `modality` says."""
        texts, images = batch.get("text"), batch.get("image")
        if texts is None and images is None:
            raise InputError(f"a batch of mteb must have texts or images, got {', '.join(batch)}")
        if texts is not None and images is not None and self._modality != "image_text":
            texts, images = (texts, None) if self._modality == "text" else (None, images)
        count = len(texts if texts is not None else images or ())
        return [
            Passage("" if texts is None else texts[row] or "", None if images is None else images[row])
            for row in range(count)
        ]


class MtebEncoder(_Model):
    """An embedder, with one vector a text or image or many, by mteb's ``EncoderProtocol``.

    Example:
        >>> import mteb  # doctest: +SKIP
        >>> model = MtebEncoder("llama-nemotron-embed-vl-1b-v2", modality="image")  # doctest: +SKIP
        >>> mteb.evaluate(model, mteb.get_task("Vidore3HrRetrieval.v2"))  # doctest: +SKIP
    """

    _kinds = ("embedder", "multivector_embedder")

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        prompt_type: Any = None,
        **of_task: Any,
    ) -> Any:
        """Embed what mteb loads.

        Args:
            inputs: batches with ``text``, ``image`` or both.
            prompt_type: "query" for queries; everything else is embedded as passages.
            **of_task: what mteb says of its task, which changes nothing here; batches are cut to what the device has
                room for.

        Returns:
            (n, dimensions) float32; of a late-interaction model a list of (tokens, dimensions) float32.
        """
        model, rows = self._lazy.get(), list[Any]()
        is_query = getattr(prompt_type, "value", prompt_type) == "query"
        for batch in inputs:
            passages = self._passages(batch)
            if is_query:
                rows += list(model.embed_queries([_as_query(each) for each in passages]))
            else:
                rows += list(model.embed_passages(passages))
        if model.kind == "multivector_embedder":
            return rows
        return np.stack(rows) if rows else np.zeros((0, model.dimensions), dtype=np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines, or MaxSim: (n, m) tensor."""
        model, tensors = self._lazy.get(), import_local("nemotron_rag.runtime.tensors")
        if model.kind == "embedder":
            return tensors.similarity(embeddings1, embeddings2)
        return tensors.to_tensor(model.score(tensors.to_arrays(embeddings1), tensors.to_arrays(embeddings2)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Of row i with row i: (n,) tensor."""
        model, tensors = self._lazy.get(), import_local("nemotron_rag.runtime.tensors")
        if model.kind == "embedder":
            return tensors.similarity(embeddings1, embeddings2, pairwise=True)
        pairs = zip(tensors.to_arrays(embeddings1), tensors.to_arrays(embeddings2), strict=True)
        return tensors.to_tensor(np.array([model.score([one], [other])[0, 0] for one, other in pairs], np.float32))


class MtebReranker(_Model):
    """A reranker by mteb's ``CrossEncoderProtocol``; a late-interaction model ranks by MaxSim.

    Example:
        >>> model = MtebReranker("llama-nemotron-rerank-vl-1b-v2", modality="image")
        >>> model._lazy
        LazyModel('llama-nemotron-rerank-vl-1b-v2', not loaded)
    """

    _kinds = RANKERS

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        **of_task: Any,
    ) -> Any:
        """Score pairs.

        Args:
            inputs1: batches of queries.
            inputs2: batches of as many passages.
            **of_task: see `MtebEncoder.encode`.

        Returns:
            Logits, (pairs,) float32.
        """
        model, scores = self._lazy.get(), list[float]()
        for query, passages in _by_query(self._rows(inputs1), self._rows(inputs2)):
            scores += model.score(_as_query(query), passages).tolist()
        return np.asarray(scores, dtype=np.float32)

    def _rows(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[Passage]:
        for batch in batches:
            yield from self._passages(batch)


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What mteb found.

    Args:
        model: its repository, or ``nemotron-rag/`` and its name.
        main_score: of the task, for ViDoRe V3 NDCG@10; the mean over its languages.
        path: of the result file that mteb wrote.
    """

    model: str
    main_score: float
    path: Path


def run_task(
    task: Any,
    encoder: MtebEncoder,
    *,
    to: Path,
    reranker: MtebReranker | None = None,
    candidates: int = 50,
    overwrite: Literal["always", "only-missing"] = "only-missing",
) -> list[TaskScore]:
    """Run a retrieval task of mteb, and write its result files below a folder.

    Args:
        task: its name in mteb, as ``Vidore3HrRetrieval.v2``, or a task.
        encoder: finds.
        to: results go to ``results/``, what was found for each query to ``predictions/``.
        reranker: ranks what was found; None for none.
        candidates: pages that it reads for each query.
        overwrite: "only-missing" keeps results that are there.

    Returns:
        The encoder's, and the reranker's if there is one.

    Raises:
        InputError: there is no such task.
        MissingExtraError: mteb is not installed.

    Example:
        >>> encoder = MtebEncoder("llama-nemotron-embed-vl-1b-v2")
        >>> run_task("Vidore3HrRetrieval.v2", encoder, to=Path("mteb"))  # doctest: +SKIP
    """
    mteb, cache = _mteb(), _mteb().ResultCache(to)
    found = _task(task)
    predictions = to / "predictions"
    scores = [_run(found, encoder, cache, prediction_folder=predictions, overwrite_strategy=overwrite)]
    if reranker is not None:
        name = found.metadata.name
        if not (predictions / f"{name}_predictions.json").is_file():  # the results were there already
            mteb.evaluate(encoder, found, cache=None, prediction_folder=predictions, show_progress_bar=False)
        reranked = found.convert_to_reranking(predictions, top_k=candidates)
        scores.append(_run(reranked, reranker, cache, overwrite_strategy="always"))
    return scores


def _run(task: Any, model: _Model, cache: Any, **options: Any) -> TaskScore:
    (result,) = _mteb().evaluate(model, task, cache=cache, show_progress_bar=False, **options).task_results
    meta = model.mteb_model_meta
    return TaskScore(meta.name, float(result.get_score()), cache.get_task_result_path(task.metadata.name, meta))


def _task(task: Any) -> Any:
    if not isinstance(task, str):
        return task
    try:
        return _mteb().get_task(task)
    except KeyError as error:
        raise InputError(f"mteb has no task {task!r}: {error.args[0] if error.args else error}") from error


def _by_query(queries: Iterator[Passage], passages: Iterator[Passage]) -> Iterator[tuple[Passage, Sequence[Passage]]]:
    """Neighbouring pairs of one query together, so that it is read once; at most 64, since images are in memory."""
    group: list[Passage] = []
    current: Passage | None = None
    for query, passage in zip(queries, passages, strict=True):
        if current is not None and (len(group) == 64 or query != current or query.image is not current.image):
            yield current, group
            group = []
        current = query
        group.append(passage)
    if current is not None:
        yield current, group


def _as_query(passage: Passage) -> Any:
    return passage.text if passage.image is None else passage


def _scoring(kind: Kind) -> Any:
    scoring = _facts().ScoringFunction
    return scoring.MAX_SIM if kind == "multivector_embedder" else scoring.COSINE


def _facts() -> Any:
    """The module in which mteb describes models."""
    return _mteb("mteb.models.model_meta")


def _mteb(module: str = "mteb") -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "mteb":
            raise
        raise MissingExtraError("mteb", "mteb") from error
