"""Images of any mode and size: encoded and decoded without loss, and told apart by their pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nemotron_rag.documents.images import (
    ImageBudget,
    encode_image,
    load_image,
    on_white,
    pixel_hash,
    to_data_uri,
)
from nemotron_rag.errors import ImageBudgetError

MODES = {"L": 1, "RGB": 3, "RGBA": 4}
sides = st.integers(1, 7)


@st.composite
def images(draw: st.DrawFn, *, modes: tuple[str, ...] = tuple(MODES)) -> Image.Image:
    mode, width, height = draw(st.sampled_from(modes)), draw(sides), draw(sides)
    count = width * height * MODES[mode]
    return Image.frombytes(mode, (width, height), draw(st.binary(min_size=count, max_size=count)))


@given(images())
def test_png_keeps_every_pixel(image):
    for source in (encode_image(image, "png"), to_data_uri(encode_image(image, "png"), "png")):
        decoded = load_image(source)
        assert (decoded.mode, decoded.size) == ("RGB", image.size)
        assert decoded.tobytes() == on_white(image).tobytes()
        assert pixel_hash(decoded) == pixel_hash(on_white(image))


@given(images(modes=("RGB",)), st.sampled_from(["jpeg", "webp"]))
def test_other_formats_keep_the_size(image, image_format):
    data = encode_image(image, image_format)
    assert Image.open(io.BytesIO(data)).format == image_format.upper()
    assert load_image(data).size == image.size


@given(images(), images(), st.booleans())
def test_the_pixel_hash_tells_images_apart(one, other, copied):
    other = one.copy() if copied else other
    equal = (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())
    assert (pixel_hash(one) == pixel_hash(other)) == equal


@given(images())
def test_the_same_values_in_another_shape_have_another_pixel_hash(image):
    turned = Image.frombytes(image.mode, image.size[::-1], image.tobytes())
    assert (pixel_hash(turned) == pixel_hash(image)) == (image.width == image.height)


@given(images(), st.data())
def test_one_changed_value_changes_the_pixel_hash(image, data):
    values = bytearray(image.tobytes())
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] ^= data.draw(st.integers(1, 255))
    assert pixel_hash(Image.frombytes(image.mode, image.size, bytes(values))) != pixel_hash(image)


@given(images(modes=("L",)), st.integers(0, 767), st.integers(1, 255))
def test_a_palette_tells_images_apart_where_they_use_it(image, place, change):
    palettes = [list(range(256)) * 3, list(range(256)) * 3]
    palettes[1][place] ^= change
    one, other = (Image.frombytes("P", image.size, image.tobytes()) for _ in range(2))
    one.putpalette(palettes[0])
    other.putpalette(palettes[1])
    assert (pixel_hash(one) == pixel_hash(other)) == (one.convert("RGB").tobytes() == other.convert("RGB").tobytes())


@given(images())
def test_loading_an_image_gives_an_equal_new_one(image):
    before = image.tobytes()
    loaded = load_image(image)
    assert loaded is not image
    assert (loaded.mode, loaded.size, loaded.tobytes()) == (image.mode, image.size, before)
    loaded.paste(0, (0, 0, 1, 1))
    assert image.tobytes() == before


@given(images(modes=("RGB",)))
def test_arrays_and_images_of_equal_pixels_load_alike(image):
    array = np.asarray(image)
    assert load_image(array).tobytes() == image.tobytes()
    assert load_image(array / np.float32(255)).tobytes() == image.tobytes()


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=16))
def test_deep_greys_keep_their_order(values):
    grey = np.asarray(load_image(np.array([values], dtype=np.uint16)))[0].astype(int)
    order = np.argsort(values, kind="stable")
    assert (np.diff(grey[order]) >= 0).all()
    full = next(scale for scale in (255, 4095, 65535) if max(values) <= scale)
    np.testing.assert_allclose(grey, np.array(values) * 255 / full, atol=0.51)


@given(images(), st.integers(1, 60), st.integers(1, 8))
def test_budgets_are_kept_to_the_pixel(image, max_pixels, max_side):
    budget = ImageBudget(max_pixels=max_pixels, max_side=max_side)
    if image.width * image.height > max_pixels or max(image.size) > max_side:
        with pytest.raises(ImageBudgetError):
            load_image(encode_image(image, "png"), budget=budget)
    else:
        assert load_image(encode_image(image, "png"), budget=budget).size == image.size
