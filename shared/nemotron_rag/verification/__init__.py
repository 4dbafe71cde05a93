"""A model's real weights against the scores that its card prints. It knows neither terminals nor architectures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from nemotron_rag import catalog
from nemotron_rag.access import ImageAccess
from nemotron_rag.errors import InputError
from nemotron_rag.images import ImageBudget, load_image, to_rgb
from nemotron_rag.load import load_row
from nemotron_rag.protocols import FloatArray
from nemotron_rag.types import Kind, Passage
from nemotron_rag.verification.cards import CARDS, PICTURE_HOSTS, Example

__all__ = ["TOLERANCE", "Verified", "find_pictures", "verify"]

TOLERANCE = 0.02
"""Of an example's largest score. The cards were computed in bfloat16, which alone moves golden values by 1 % to 2 %."""

_PICTURE_BYTES = 20 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """One example of a card beside what was computed.

    Args:
        example: of the card.
        scores: (queries, passages) float32; None if a picture was not at hand.
        allowed: the largest difference that counts as equal.
    """

    example: Example
    scores: FloatArray | None
    allowed: float

    @property
    def difference(self) -> float | None:
        """The largest one between printed and computed; None if nothing was computed."""
        return None if self.scores is None else float(abs(self.scores - np.array(self.example.scores)).max())

    @property
    def passed(self) -> bool:
        """Whether the scores were computed and are near enough; NaN is not."""
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
    """Compute the examples of a model's card again and compare.

    Args:
        model: a catalog id or its hub repository.
        weights: a folder with the published files; None for the model hub's cache.
        download: whether weights that are not in the cache may be downloaded.
        images: a folder with the card's pictures, under the names they have in their addresses.
        download_images: whether the other pictures may be downloaded, from NVIDIA's hosts alone.
        device: as in `load_embedder`.
        dtype: as in `load_embedder`.
        max_input_tiles: as in `load_embedder`.
        tolerance: how much of an example's largest score a difference may be.

    Returns:
        The examples in the card's order; those whose pictures are not at hand without scores.

    Raises:
        UnknownModelError: no catalog row has that name.
        InputError: no score of the model's card is known.
        CheckpointError: the weights are not at hand.
        ImageError: a picture cannot be read.
    """
    spec = catalog.find(model)
    examples = CARDS.get(spec.id)
    if examples is None:
        raise InputError(f"cannot verify {spec.id}: no scores of its card are known; known are: {', '.join(CARDS)}")
    addresses = {address for example in examples for address in example.pictures if address}
    pictures = find_pictures(addresses, folder=images, download=download_images)
    folder = None if weights is None else Path(weights)
    loaded = load_row(
        spec, folder=folder, download=download, device=device, dtype=dtype, max_input_tiles=max_input_tiles
    )
    return [
        Verified(
            example,
            _scores(loaded, spec.kind, example, pictures),
            tolerance * float(abs(np.array(example.scores)).max()),
        )
        for example in examples
    ]


def find_pictures(
    addresses: Iterable[str], *, folder: str | os.PathLike[str] | None, download: bool
) -> dict[str, Image.Image]:
    """The pictures that are at hand, by their address; RGB, as the cards' code makes them.

    Args:
        addresses: https, on `PICTURE_HOSTS`.
        folder: where they may lie under the last part of their address.
        download: whether those that are not there may be downloaded, up to 20 MiB each and without redirects.

    Raises:
        ImageError: one cannot be read or fetched.
    """
    access = ImageAccess(hosts=PICTURE_HOSTS, budget=ImageBudget(max_bytes=_PICTURE_BYTES))
    found = {}
    for address in addresses:
        file = None if folder is None else Path(folder, PurePosixPath(urlsplit(address).path).name)
        if file is not None and file.is_file():
            found[address] = to_rgb(load_image(file))
        elif download:
            found[address] = to_rgb(access.open(address))
    return found


def _scores(model: Any, kind: Kind, example: Example, pictures: Mapping[str, Image.Image]) -> FloatArray | None:
    """What the model says of an example: (queries, passages) float32; None if a picture is not at hand."""
    if not {address for address in example.pictures if address} <= pictures.keys():
        return None
    passages = [Passage(text, pictures.get(where)) for text, where in zip(example.texts, example.pictures, strict=True)]
    if kind == "reranker":
        return np.stack([model.score(query, passages) for query in example.queries])
    queries, rows = model.embed_queries(example.queries), model.embed_passages(passages)
    found: FloatArray = model.score(queries, rows) if kind == "multivector_embedder" else queries @ rows.T
    return found
