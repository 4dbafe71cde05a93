"""Verify a model: compute the examples of its card with the real weights and compare the printed scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageBudget, load_image, to_rgb
from nemotron_rag.errors import InputError
from nemotron_rag.models import catalog
from nemotron_rag.models.load import load_row
from nemotron_rag.protocols import FloatArray
from nemotron_rag.types import Kind, Passage
from nemotron_rag.verification.cards import CARDS, IMAGE_HOSTS, Example

__all__ = ["TOLERANCE", "Verified", "compute_scores", "find_images", "verify"]

TOLERANCE = 0.02
"""Allowed difference, as a fraction of an example's largest score. The cards were computed in bfloat16, whose rounding
alone changes golden values by 1 % to 2 %."""

_IMAGE_BYTES = 20 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """One example of a card and the scores that were computed.

    Args:
        example: of the card.
        scores: (queries, passages) float32; None if an image was missing.
        allowed: the largest allowed difference.
    """

    example: Example
    scores: FloatArray | None
    allowed: float

    @property
    def difference(self) -> float | None:
        """Largest difference between printed and computed scores; None if nothing was computed."""
        return None if self.scores is None else float(abs(self.scores - np.array(self.example.scores)).max())

    @property
    def passed(self) -> bool:
        """Whether scores were computed and differ by no more than `allowed`; False for NaN."""
        return self.difference is not None and self.difference <= self.allowed


def verify(
    model: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    download: bool = False,
    images: str | os.PathLike[str] | None = None,
    download_images: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    max_input_tiles: int | None = None,
    tolerance: float = TOLERANCE,
) -> list[Verified]:
    """Compute the examples of a model's card and compare the scores.

    Args:
        model: a catalog id or its hub repository.
        weights: a folder with the published files; None for the model hub's cache.
        download: whether weights that are not in the cache may be downloaded.
        images: a folder with the card's images, under the file names of their URLs.
        download_images: whether missing images may be downloaded, from NVIDIA's hosts only.
        device: as in `load_embedder`.
        dtype: as in `load_embedder`.
        max_input_tiles: as in `load_embedder`.
        tolerance: allowed difference as a fraction of an example's largest score.

    Returns:
        The examples in the order of the card; those with missing images have no scores.

    Raises:
        UnknownModelError: no catalog row has that name.
        InputError: the scores of the model's card are not known.
        CheckpointError: the weights are missing.
        ImageError: an image cannot be read.
    """
    spec = catalog.find(model)
    examples = CARDS.get(spec.id)
    if examples is None:
        raise InputError(
            f"cannot verify {spec.id}: the scores of its card are not known; those of {', '.join(CARDS)} are"
        )
    addresses = {address for example in examples for address in example.images if address}
    found = find_images(addresses, folder=images, download=download_images)
    folder = None if weights is None else Path(weights)
    loaded = load_row(
        spec, folder=folder, download=download, device=device, dtype=dtype, max_input_tiles=max_input_tiles
    )
    return [
        Verified(
            example,
            compute_scores(loaded, spec.kind, example, found),
            tolerance * float(abs(np.array(example.scores)).max()),
        )
        for example in examples
    ]


def find_images(
    addresses: Iterable[str], *, folder: str | os.PathLike[str] | None, download: bool
) -> dict[str, Image.Image]:
    """Read or download the images of a card, by URL; converted to RGB, as in the code of the cards.

    Args:
        addresses: https URLs on `IMAGE_HOSTS`.
        folder: with image files under the last part of their URL.
        download: whether missing images may be downloaded, up to 20 MiB each and without redirects.

    Raises:
        ImageError: an image cannot be read or fetched.
    """
    access = ImageAccess(hosts=IMAGE_HOSTS, budget=ImageBudget(max_bytes=_IMAGE_BYTES))
    found = {}
    for address in addresses:
        file = None if folder is None else Path(folder, PurePosixPath(urlsplit(address).path).name)
        if file is not None and file.is_file():
            found[address] = to_rgb(load_image(file))
        elif download:
            found[address] = to_rgb(access.open(address))
    return found


def compute_scores(model: Any, kind: Kind, example: Example, images: Mapping[str, Image.Image]) -> FloatArray | None:
    """Compute the scores of an example: (queries, passages) float32; None if an image is missing.

    Args:
        model: loaded, or at a server.
        kind: of the model.
        example: its queries and passages.
        images: by the names that the example has for them.
    """
    if not {address for address in example.images if address} <= images.keys():
        return None
    passages = [Passage(text, images.get(where)) for text, where in zip(example.texts, example.images, strict=True)]
    if kind == "reranker":
        return np.stack([model.score(query, passages) for query in example.queries])
    queries, rows = model.embed_queries(example.queries), model.embed_passages(passages)
    found: FloatArray = model.score(queries, rows) if kind == "multivector_embedder" else queries @ rows.T
    return found
