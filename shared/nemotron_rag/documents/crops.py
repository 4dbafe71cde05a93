"""Parts of a page's image that regions frame, for rerankers and chat models."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, cast

from PIL import Image

from nemotron_rag.documents.images import (
    DEFAULT_BUDGET,
    ImageBudget,
    ImageFormat,
    load_page_image,
    read_image_bytes,
)
from nemotron_rag.documents.llm_images import MAX_BYTES, MAX_SIDE, EncodedImage, check_limits, encode_part
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.types import Box, ImageSource, Region

__all__ = ["REGIONS_KEY", "check_max_crops", "crop", "encode_crops", "warn_of_no_regions"]

REGIONS_KEY = "regions"
"""Metadata key of both frameworks: where on a page a query is answered."""

_MARGIN = 0.02  # of the page around a crop
_log = logging.getLogger("nemotron_rag")


def crop(image: Image.Image, box: Box, *, margin: float = _MARGIN) -> Image.Image:
    """What an image shows in a box, and a little around it; a new image of at least one pixel.

    Args:
        image: of a page.
        box: of a region.
        margin: in fractions of the larger side of the image.
    """
    width, height = image.size
    around = margin * max(width, height)
    left, top = (int(max(0, box[i] * side - around)) for i, side in enumerate(image.size))
    right, bottom = (math.ceil(min(side, box[i] * side + around)) for i, side in enumerate(image.size, 2))
    left, top = min(left, width - 1), min(top, height - 1)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def encode_crops(
    source: ImageSource,
    regions: Sequence[Region | Mapping[str, Any]],
    *,
    max_crops: int,
    image_format: ImageFormat | None = None,
    max_side: int | None = MAX_SIDE,
    max_bytes: int | None = MAX_BYTES,
    budget: ImageBudget = DEFAULT_BUDGET,
) -> list[EncodedImage]:
    """Encode what the first regions of a page show for a chat model, each at the full resolution of the page's image.

    A region that is as large as the page is left out: it would only show the page again.

    Args:
        source: the page's image, as for `nemotron_rag.documents.images.load_image`.
        regions: best first, as `PageIndex.regions` gives them, or as mappings with a ``box``, as retrievers do.
        max_crops: so many regions at most.
        image_format: as for `nemotron_rag.documents.llm_images.encode_for_llm`.
        max_side: of a crop, pixels.
        max_bytes: of a crop. It loses quality before it is larger than the file of the page, except as "png".
        budget: for reading and decoding the source.

    Raises:
        InputError: a limit or the format cannot be used.
        ImageError: the image cannot be read, or not be made small enough; or a region has no box on it.

    Example:
        >>> page = Image.new("RGB", (400, 600), "white")
        >>> encode_crops(page, [{"box": [0.1, 0.1, 0.5, 0.2]}, {"box": [0.1, 0.5, 0.5, 0.6]}], max_crops=1)
        [EncodedImage(image_format='png')]
    """
    check_limits(image_format, max_side, max_bytes)
    check_max_crops(max_crops)
    if isinstance(regions, str) or not isinstance(regions, Sequence):
        raise ImageError(f"regions must be a list of mappings with a box, got {type(regions).__name__}")
    boxes = [_box_of(region, index) for index, region in enumerate(regions[:max_crops])]
    if not boxes:
        return []
    data = read_image_bytes(source, budget=budget)
    image = load_page_image(source if data is None else data, budget=budget)
    parts = [part for box in boxes if (part := crop(image, box)).size != image.size]
    limits = {"image_format": image_format, "max_side": max_side, "max_bytes": max_bytes}
    return [encode_part(part, of=None if data is None else len(data), **cast("Any", limits)) for part in parts]


def check_max_crops(max_crops: int) -> None:
    """Raise unless it is a number of crops.

    Raises:
        InputError: it is not.
    """
    if type(max_crops) is not int or max_crops < 0:
        raise InputError(f"max_crops must be 0 or a positive integer, got {max_crops!r}")


def warn_of_no_regions(max_crops: int) -> None:
    """Say that crops were wanted of pages of which nobody looked for regions."""
    _log.warning("max_crops=%d shows nothing, for no page came with regions; give the retriever regions=", max_crops)


def _box_of(region: object, index: int) -> Box:
    """The box of a region, which may come from metadata that anybody wrote."""
    box = region.box if isinstance(region, Region) else region.get("box") if isinstance(region, Mapping) else None
    if isinstance(box, Sequence) and not isinstance(box, str) and len(box) == 4 and all(map(_is_share, box)):
        left, top, right, bottom = map(float, box)
        if left <= right and top <= bottom:
            return left, top, right, bottom
    raise ImageError(
        f"region {index} must have a box of left, top, right and bottom, in fractions of the image, got {box!r:.100}"
    )


def _is_share(side: object) -> bool:
    return isinstance(side, Real) and not isinstance(side, bool) and 0 <= cast("float", side) <= 1
