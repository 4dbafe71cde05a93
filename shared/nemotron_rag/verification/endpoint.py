"""Verify a server: compare its scores with those of the model here or of its card, and name the likely cause."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from nemotron_rag.errors import CheckpointError, ImageError, InputError, MissingExtraError, NemotronRagError
from nemotron_rag.models import catalog
from nemotron_rag.models.load import LoadOptions, checkpoint_folder, load_model, load_row
from nemotron_rag.protocols import FloatArray
from nemotron_rag.types import ModelSpec, Passage
from nemotron_rag.verification import TOLERANCE, Verified, compute_scores, find_images
from nemotron_rag.verification.cards import CARDS, Example
from nemotron_rag.verification.probes import drawn_images, probes_of
from nemotron_rag.verification.variants import Variant, loaded, variants_of

__all__ = ["EndpointReport", "verify_endpoint"]

_UNKNOWN = "none of the known ones: compare revision, prompt, number format and the version of the server"
_SIGMOID = (
    "it answers with probabilities where its format has logits: give endpoint={'scores': 'probability'}, or have the "
    "server leave out the sigmoid"
)
_NO_IMAGES = "images are not read: passages with an image score as if they had none"
_ROLES = {
    "query": "queries are embedded as passages: the server does not use input_type, or the role of a chat",
    "passage": "passages are embedded as queries: the server does not use input_type, or the role of a chat",
}
_ROUNDED = 0.02  # of probabilities, for what bfloat16 does to logits
_SAME = 1e-4  # scores of images that differ by less were computed without the images
_FAR = 0.5  # a cause that leaves more than this share of the difference explains nothing


@dataclass(frozen=True, slots=True, eq=False)
class EndpointReport:
    """What a server computes, beside what the model does.

    Args:
        results: one for each example.
        against: what it was compared with: the weights here, or the scores printed on the model's card.
        cause: the likely one of differences, and what to do; None if there are none.
    """

    results: Sequence[Verified]
    against: Literal["local", "card"]
    cause: str | None

    @property
    def passed(self) -> bool:
        """Whether something was computed, and all of that is right."""
        computed = [each for each in self.results if each.scores is not None]
        return bool(computed) and all(each.passed for each in computed)


def verify_endpoint(
    model: str,
    *,
    base_url: str,
    dialect: str | None = None,
    endpoint: Any = None,
    weights: str | os.PathLike[str] | None = None,
    download: bool = False,
    images: str | os.PathLike[str] | None = None,
    download_images: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    tolerance: float = TOLERANCE,
) -> EndpointReport:
    """Score inputs at a server and compare: with the model here if its weights are, else with its card.

    Args:
        model: a catalog id or its hub repository.
        base_url: of the server.
        dialect: that it speaks; None to find out.
        endpoint: see `nemotron_rag.remote.Endpoint`.
        weights: a folder with the published files; None for the extra `starters` or the model hub's cache.
        download: whether weights that are not in the cache may be downloaded.
        images: a folder with the card's images, if the card is what there is.
        download_images: whether missing ones may be downloaded.
        device: of the model here.
        dtype: likewise.
        tolerance: allowed difference as a fraction of an example's largest score.

    Raises:
        UnknownModelError: no catalog row has that name, or the server has no such model.
        InputError: neither weights nor card are there.
        EndpointError: the server cannot be reached or used.
    """
    spec = catalog.find(model)
    place = cast("LoadOptions", {"base_url": base_url, "dialect": dialect, "endpoint": endpoint})
    remote: Any = load_model(spec.id, spec.kind, **place)
    try:
        folder = _folder(spec, weights, download)
        if folder is None:
            return _against_card(spec, remote, images, download_images, tolerance)
        here = _Here(spec, folder, {"device": device, "dtype": dtype})
        return _against_weights(here, remote, tolerance)
    finally:
        remote.close()


def _folder(spec: ModelSpec, weights: str | os.PathLike[str] | None, download: bool) -> Path | None:
    if weights is not None:
        return Path(weights)
    try:
        return checkpoint_folder(spec, download=download)
    except (CheckpointError, MissingExtraError) as error:
        if spec.id not in CARDS:
            raise InputError(
                f"cannot verify {spec.id}: its weights are not here ({error}), and the scores of its card are not "
                "known; give --weights"
            ) from error
        return None


@dataclass(frozen=True, slots=True)
class _Here:
    """The model in this process."""

    spec: ModelSpec
    folder: Path
    options: Mapping[str, Any]

    def scores(self, examples: Sequence[Example], images: Mapping[str, Image.Image]) -> list[FloatArray]:
        model: Any = load_row(self.spec, folder=self.folder, **self.options)
        try:
            return [_needed(compute_scores(model, self.spec.kind, example, images)) for example in examples]
        finally:
            model.close()

    def varied(
        self, variant: Variant, examples: Sequence[Example], images: Mapping[str, Image.Image]
    ) -> list[FloatArray]:
        with loaded(self.spec, self.folder, variant, **self.options) as model:
            return [_needed(compute_scores(model, self.spec.kind, example, images)) for example in examples]


def _against_card(spec: ModelSpec, remote: Any, images: Any, download_images: bool, tolerance: float) -> EndpointReport:
    examples = CARDS[spec.id]
    found = find_images(
        {address for example in examples for address in example.images if address},
        folder=images,
        download=download_images,
    )
    results = [_compared(remote, spec, example, found, tolerance * _largest([example])) for example in examples]
    return EndpointReport(results, "card", _cause(results, iter(())))


def _against_weights(here: _Here, remote: Any, tolerance: float) -> EndpointReport:
    examples, images = probes_of(here.spec), drawn_images()
    expected = here.scores(examples, images)
    examples = tuple(
        replace(example, scores=tuple(map(tuple, rows.tolist())))
        for example, rows in zip(examples, expected, strict=True)
    )
    allowed = tolerance * _largest(examples)
    results = [_compared(remote, here.spec, example, images, allowed) for example in examples]
    return EndpointReport(results, "local", _cause(results, _predictions(here, results, images)))


def _compared(
    remote: Any, spec: ModelSpec, example: Example, images: Mapping[str, Image.Image], allowed: float
) -> Verified:
    try:
        return Verified(example, compute_scores(remote, spec.kind, example, images), allowed)
    except ImageError as error:  # the format takes no images
        return Verified(replace(example, note=str(error)), None, allowed)


def _largest(examples: Sequence[Example]) -> float:
    return max(float(abs(np.array(example.scores)).max()) for example in examples)


_Prediction = tuple[str, list[FloatArray]]


def _cause(results: Sequence[Verified], predictions: Iterator[_Prediction]) -> str | None:
    """The first use of the model that gives what the server gave, else one that comes much nearer than its own."""
    computed = [each for each in results if each.scores is not None]
    if all(each.passed for each in computed):
        return None
    if found := _by_scores_alone(computed):
        return found
    nearest, least = _UNKNOWN, _FAR * _distance(computed, [_wanted(each) for each in computed])
    for cause, scores in predictions:
        if all(_apart(one, each) <= each.allowed for one, each in zip(scores, computed, strict=True)):
            return cause
        if (distance := _distance(computed, scores)) < least:
            nearest, least = f"perhaps {cause}", distance
    return nearest


def _by_scores_alone(computed: Sequence[Verified]) -> str | None:
    if all(_apart(_sigmoid(_wanted(each)), each) <= _ROUNDED for each in computed):
        return _SIGMOID
    for each in computed:
        if each.example.name == "image" and each.scores is not None:
            spread, wanted = np.ptp(each.scores, axis=1).max(), np.ptp(_wanted(each), axis=1).max()
            if spread < _SAME < wanted:
                return _NO_IMAGES
    return None


def _predictions(here: _Here, results: Sequence[Verified], images: Mapping[str, Image.Image]) -> Iterator[_Prediction]:
    """What the server would answer for each cause, computed here as it is asked for."""
    computed = [each for each in results if each.scores is not None]
    examples = [each.example for each in computed]
    has_images = any(any(example.images) for example in examples)
    texts_are_right = has_images and all(each.passed for each in computed if not any(each.example.images))
    yield from _other_inputs(here, examples, images, texts_are_right=texts_are_right)
    for variant in variants_of(here.spec):
        if not has_images if variant.needs_images else texts_are_right:
            continue
        try:
            yield variant.cause, here.varied(variant, examples, images)
        except NemotronRagError:
            continue  # these weights cannot be used so


def _other_inputs(
    here: _Here, examples: Sequence[Example], images: Mapping[str, Image.Image], *, texts_are_right: bool
) -> Iterator[_Prediction]:
    """The model as it is, given something else than was sent."""
    model: Any = load_row(here.spec, folder=here.folder, **here.options)
    try:
        bare = [replace(example, images=("",) * len(example.images)) for example in examples]
        if bare != list(examples):
            yield _NO_IMAGES, [_needed(compute_scores(model, here.spec.kind, one, {})) for one in bare]
        if here.spec.kind != "reranker" and not texts_are_right:
            for role, cause in _ROLES.items():
                yield cause, [_swapped(model, here.spec, example, images, role) for example in examples]
    finally:
        model.close()


def _swapped(model: Any, spec: ModelSpec, example: Example, images: Mapping[str, Image.Image], role: str) -> FloatArray:
    """Scores of an embedder that takes one role for the other; what has an image is always a passage."""
    passages = [Passage(text, images.get(where)) for text, where in zip(example.texts, example.images, strict=True)]
    if role == "query":
        queries = model.embed_passages([Passage(query) for query in example.queries])
    else:
        queries = model.embed_queries(list(example.queries))
    is_text = role == "passage" and not any(example.images)
    rows = model.embed_queries(list(example.texts)) if is_text else model.embed_passages(passages)
    found: FloatArray = model.score(queries, rows) if spec.kind == "multivector_embedder" else queries @ rows.T
    return found


def _distance(computed: Sequence[Verified], scores: Sequence[FloatArray]) -> float:
    return max(_apart(one, each) for one, each in zip(scores, computed, strict=True))


def _apart(scores: FloatArray, verified: Verified) -> float:
    return float(abs(scores - _needed(verified.scores)).max())


def _wanted(verified: Verified) -> FloatArray:
    return np.array(verified.example.scores, dtype=np.float32)


def _needed(scores: FloatArray | None) -> FloatArray:
    assert scores is not None  # no image is missing
    return scores


def _sigmoid(logits: FloatArray) -> FloatArray:
    found: FloatArray = 1 / (1 + np.exp(-logits.astype(np.float64).clip(-500, 500)))
    return found
