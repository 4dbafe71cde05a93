"""Images for chat models: within limits, upright, and never larger than what they came from."""

from __future__ import annotations

import copy
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageBudget, ImageText, encode_image, load_image, to_data_uri
from nemotron_rag.documents.llm_images import encode_for_llm
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError
from nemotron_rag.stores.page_images import PageImages

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))


def drawing(size=(300, 400)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    for row in range(20, size[1], 40):
        ImageDraw.Draw(image).text((10, row), "Revenue rose by four per cent.", fill="black")
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_small_file_is_sent_as_it_is():
    for kind, options in (("png", {}), ("jpeg", {"quality": 40}), ("webp", {"quality": 40})):
        data = saved(drawing(), kind, **options)
        for source in (data, to_data_uri(data, kind), io.BytesIO(data), ImageAccess().reference(data)):
            sent = encode_for_llm(source)
            assert (sent.data, sent.image_format, sent.mime_type) == (data, kind, f"image/{kind}")


def test_stored_images_are_sent_as_they_are(tmp_path):
    stored = PageImages(tmp_path).write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", drawing())
    assert encode_for_llm(stored).data == stored.read_bytes()
    assert encode_for_llm(ImageAccess(roots=[tmp_path]).reference(stored)).data == stored.read_bytes()
    with pytest.raises(ImageError, match="outside the allowed folders"):
        encode_for_llm(ImageAccess().reference(stored))


@pytest.mark.parametrize("image", [NOISE, drawing(), drawing().convert("L"), Image.new("RGB", (1, 1))])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("wanted", [None, "jpeg", "webp"])
def test_nothing_is_larger_than_what_it_came_from(image, kind, wanted):
    data = saved(image, kind)
    sent = encode_for_llm(data, image_format=wanted)
    assert len(sent.data) <= len(data)
    assert load_image(sent.data).size == image.size
    assert Image.open(io.BytesIO(sent.data)).format.lower() == sent.image_format


def test_photographs_lose_what_nobody_sees():
    data = saved(NOISE, "png")
    sent = encode_for_llm(data)
    assert sent.image_format == "jpeg"
    assert len(sent.data) < 0.8 * len(data)
    assert encode_for_llm(NOISE, image_format="png").data == encode_image(NOISE, "png")


def test_limits_are_kept():
    sent = encode_for_llm(drawing((3000, 1000)))
    assert load_image(sent.data).size == (2048, 683)
    assert load_image(encode_for_llm(drawing(), max_side=100).data).size == (75, 100)
    for wanted in (None, "jpeg", "webp", "png"):
        sent = encode_for_llm(saved(NOISE, "png"), image_format=wanted, max_bytes=5000)
        assert len(sent.data) <= 5000
        assert sent.image_format == (wanted or sent.image_format)
    assert load_image(encode_for_llm(drawing((3000, 1000)), max_side=None).data).size == (3000, 1000)
    with pytest.raises(ImageError, match="max_bytes=20"):
        encode_for_llm(NOISE, max_bytes=20)


def test_what_is_sent_is_upright_and_holds_nothing_but_pixels():
    rotated = Image.Exif()
    rotated[0x0112], rotated[0x010F] = 6, "camera"
    sent = encode_for_llm(saved(drawing((60, 40)), "jpeg", exif=rotated))
    assert load_image(sent.data).size == (40, 60)
    assert not Image.open(io.BytesIO(sent.data)).getexif()
    for odd in (saved(drawing(), "gif"), saved(drawing().convert("RGBA"), "png"), saved(drawing(), "tiff")):
        assert encode_for_llm(odd).image_format in ("png", "jpeg")
        assert Image.open(io.BytesIO(encode_for_llm(odd).data)).mode in ("RGB", "L")


def test_wrong_input_is_refused():
    for wrong in ({"max_side": 0}, {"max_bytes": -1}, {"max_side": True}, {"image_format": "gif"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            encode_for_llm(NOISE, **wrong)
    with pytest.raises(ImageError, match=r"^broken image|^expected an image"):
        encode_for_llm(b"\x89PNG and nothing more")
    with pytest.raises(ImageBudgetError):
        encode_for_llm(saved(NOISE, "png"), budget=ImageBudget(max_pixels=100))


def test_an_image_as_text_is_a_str_with_a_short_repr():
    plain = str(to_data_uri(b"x" * 9000, "png"))
    text = to_data_uri(b"x" * 9000, "png")
    assert isinstance(text, ImageText)
    assert repr({"image": text}) == f"{{'image': <image/png, {len(plain)} characters>}}"
    assert (str(text), f"{text}", json.dumps([text]), hash(text)) == (plain, plain, json.dumps([plain]), hash(plain))
    assert text == plain
    assert type(pickle.loads(pickle.dumps(text))) is str
    assert pickle.loads(pickle.dumps(text)) == plain
    assert copy.deepcopy({"image": text})["image"] is text
    assert repr(ImageText("iVBORw0KGgo")) == "<base64, 11 characters>"
