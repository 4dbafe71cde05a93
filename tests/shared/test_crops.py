"""Parts of pages for chat models: what regions frame, at full resolution, within limits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nemotron_rag.documents.crops import encode_crops
from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.report import region_json
from nemotron_rag.types import Region

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 400, 3), np.uint8))
BOX = (0.25, 0.5, 0.75, 0.6)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_crops_show_what_stands_in_the_box():
    region = Region(BOX, 1.0, "a line", "words")
    for regions in ([region], [region_json(region)], [{"box": list(BOX)}], ({"box": BOX},)):
        (sent,) = encode_crops(saved(NOISE, "png"), regions, max_crops=3, image_format="png")
        wanted = NOISE.crop((88, 288, 312, 372))  # 12 pixels around, 2 % of the longer side
        assert load_image(sent.data).tobytes() == wanted.tobytes()
    assert encode_crops(NOISE, [region] * 5, max_crops=2) == encode_crops(NOISE, [region] * 2, max_crops=5)
    assert encode_crops(NOISE, [region], max_crops=0) == encode_crops(NOISE, [], max_crops=3) == []


def test_a_crop_is_no_second_page():
    assert encode_crops(NOISE, [{"box": [0, 0, 1, 1]}, {"box": [0.01, 0.01, 0.99, 0.99]}], max_crops=2) == []


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("wanted", [None, "jpeg", "webp", "png"])
def test_crops_have_limits(kind, wanted):
    data = saved(NOISE, kind, quality=60)
    regions = [{"box": [0, 0, 1, 0.9]}]
    (sent,) = encode_crops(data, regions, max_crops=1, image_format=wanted, max_bytes=None)
    assert load_image(sent.data).size == (400, 552)  # never enlarged
    assert wanted in (None, sent.image_format)
    assert wanted == "png" or len(sent.data) <= len(data)
    (small,) = encode_crops(data, regions, max_crops=1, image_format=wanted, max_side=100, max_bytes=8_000)
    assert max(load_image(small.data).size) <= 100
    assert len(small.data) <= 8_000


@pytest.mark.parametrize(
    "regions",
    ["EMEA", 3, {"box": BOX}, ["EMEA"], [None], [{}], [{"box": "0123"}], [{"box": [0, 0, 1]}]]
    + [[{"box": box}] for box in ([0, 0, 1, float("nan")], [0, 0, 1, 2], [-0.1, 0, 1, 1], [0.5, 0, 0.4, 1])]
    + [[{"box": box}] for box in ([True, 0, 1, 1], ["0", "0", "1", "1"], [0, 0, 1e999, 1], [None] * 4)],
)
def test_regions_of_others_are_read_with_care(regions):
    with pytest.raises(ImageError, match="must (be a list of mappings with|have) a box"):
        encode_crops(NOISE, regions, max_crops=1)


def test_numbers_are_checked():
    for wrong in (-1, True, 1.0, "1", None):
        with pytest.raises(InputError, match="max_crops must be 0 or a positive integer"):
            encode_crops(NOISE, [], max_crops=wrong)
    with pytest.raises(InputError, match="max_side"):
        encode_crops(NOISE, [], max_crops=1, max_side=0)
