"""Every form of an image is read, upright, in its own mode, within its budget, and without touching the caller's."""

from __future__ import annotations

import base64
import io
import os
import struct
import threading
import urllib.parse
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from nemotron_rag.documents import images
from nemotron_rag.documents.images import DEFAULT_BUDGET, ImageBudget, load_image, to_rgb
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError


def make_image(mode: str = "RGB", size: tuple[int, int] = (20, 12)) -> Image.Image:
    values = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(size[1], size[0], 3) * 7 % 256
    return Image.fromarray(values.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


PNG = encoded(make_image())


def every_form(folder: Path) -> dict[str, object]:
    path = folder / "image.png"
    path.write_bytes(PNG)
    return {
        "str": str(path),
        "path": path,
        "bytes": PNG,
        "bytearray": bytearray(PNG),
        "stream": io.BytesIO(PNG),
        "image": make_image(),
        "base64": "data:image/png;base64," + base64.b64encode(PNG).decode(),
        "base64 unpadded": "data:image/png;base64," + base64.b64encode(PNG).decode().rstrip("="),
        "percent": "data:image/png," + urllib.parse.quote_from_bytes(PNG),
        "array": np.asarray(make_image()),
        "float array": np.asarray(make_image()) / 255,
    }


def test_every_form_gives_the_same_image(tmp_path: Path) -> None:
    for form, source in every_form(tmp_path).items():
        image = load_image(source)  # type: ignore[arg-type]
        assert image.mode == "RGB", form
        assert image.tobytes() == make_image().tobytes(), form


def test_a_stream_keeps_its_position_and_stays_open() -> None:
    stream = io.BytesIO(PNG)
    stream.seek(5)
    load_image(stream)
    assert stream.tell() == 5
    assert not stream.closed


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_a_file_is_not_kept_open(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [load_image(path) for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert len(kept) == 20


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_an_image_keeps_its_mode_and_is_copied(mode: str) -> None:
    original = make_image(mode)
    before = original.tobytes()
    image = load_image(original)
    assert image.mode == mode
    assert image.tobytes() == before
    image.paste(0, (0, 0, 20, 12))
    assert original.tobytes() == before


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_to_rgb_is_pillows_conversion(mode: str) -> None:
    original = make_image(mode)
    assert to_rgb(original).tobytes() == original.convert("RGB").tobytes()


def test_to_rgb_drops_alpha() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (200, 100, 50, 0))).getpixel((0, 0)) == (200, 100, 50)


def test_to_rgb_names_a_mode_it_cannot_convert() -> None:
    with pytest.raises(ImageError, match="mode .La."):
        to_rgb(Image.new("La", (2, 2)))


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_image(encoded(make_image(size=(20, 12)), "JPEG", exif=exif))
    assert image.size == (12, 20)
    assert image.getexif().get(0x0112) is None


def test_the_first_of_many_frames_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    for format in ("GIF", "TIFF", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **{"lossless": True})
        red, green, blue = to_rgb(load_image(data)).getpixel((0, 0))
        assert red > 240, format
        assert max(green, blue) < 15, format


def gray16(top: int) -> np.ndarray:
    return np.linspace(0, top, 256).astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_deep_gray_is_scaled_to_eight_bits(top: int) -> None:
    ramp = np.arange(256).reshape(16, 16)
    png = load_image(encoded(Image.fromarray(gray16(top)), "PNG"))
    tiff = load_image(encoded(Image.fromarray(gray16(top)), "TIFF"))
    array = load_image(gray16(top))
    big_endian = load_image(gray16(top).astype(">u2"))
    for image in (png, tiff, array, big_endian, load_image(Image.fromarray(gray16(top).astype(np.int32)))):
        assert image.mode == "L"
        assert np.abs(np.asarray(image).astype(int) - ramp).max() <= 1


def test_a_dim_scan_of_sixteen_bits_keeps_its_darkness() -> None:
    assert np.asarray(load_image(gray16(32768))).max() == 128


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([-10.0, 0.0, 10.0], [0, 128, 255])],
)
def test_float_images_are_scaled(values: list[float], expected: list[int]) -> None:
    image = load_image(Image.fromarray(np.array([values], dtype=np.float32)))
    assert np.asarray(image).tolist() == [expected]


def test_a_constant_or_nan_float_image_is_read() -> None:
    assert np.asarray(load_image(Image.new("F", (2, 1), -3.0))).tolist() == [[0, 0]]
    assert np.asarray(load_image(Image.fromarray(np.array([[np.nan, 1.0]], np.float32)))).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (np.zeros((3, 5), np.uint8), "L"),
        (np.zeros((3, 5, 1), np.uint8), "L"),
        (np.zeros((3, 5, 4), np.uint8), "RGBA"),
        (np.ones((3, 5), np.bool_), "L"),
        (np.zeros((3, 5, 3), np.float64), "RGB"),
        (np.zeros((3, 10, 3), np.uint8)[:, ::2], "RGB"),
    ],
)
def test_arrays(array: np.ndarray, mode: str) -> None:
    image = load_image(array)
    assert (image.mode, image.size) == (mode, (5, 3))


def test_true_is_white_and_an_array_is_copied() -> None:
    assert load_image(np.array([[True, False]])).tobytes() == b"\xff\x00"
    array = np.zeros((1, 2), np.uint8)
    image = load_image(array)
    array[:] = 9
    assert image.tobytes() == b"\x00\x00"


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 5, 5), np.uint8), r"\(3, 5, 5\)"),
        (np.zeros(3, np.uint8), r"\(3,\)"),
        (np.zeros((0, 5), np.uint8), "5x0"),
        (np.full((2, 2), 200.0), "from 0 to 1"),
        (np.full((2, 2), np.nan), "from 0 to 1"),
        (np.zeros((2, 2), np.int64), "int64"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        load_image(array)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("https://example.org/a.png", "never fetched"),
        ("HTTP://example.org/a.png", "never fetched"),
        ("file:///etc/passwd", "never fetched"),
        ("/no/such/file.png", "/no/such/file.png.*no such file"),
        ("a\0b.png", "no such file"),
        ("x" * 100_000, r"x\.\.\."),
        ("data:image/png;base64,@@@", "<data URI>"),
        ("data:image/png", "comma"),
        (b"", "<bytes>.*0 bytes"),
        (b"%PDF-1.7", "expected an image"),
        (PNG[:60], "<bytes>"),
        (io.StringIO("text"), "not as binary"),
        (3, "int"),
        (None, "NoneType"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(source: object, says: str) -> None:
    with pytest.raises(ImageError, match=says) as raised:
        load_image(source)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_truncated_files_raise() -> None:
    big = make_image(size=(200, 200))
    for format in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        data = encoded(big, format)
        with pytest.raises(ImageError):
            load_image(data[: len(data) // 2])


def test_formats_outside_the_list_are_refused() -> None:
    for format in ("ICO", "PCX", "EPS"):
        with pytest.raises(ImageError, match="expected an image"):
            load_image(encoded(make_image(), format))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes need POSIX")
def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(ImageError, match="not a regular file"):
            load_image(path)


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (ImageBudget(max_bytes=50), "max_bytes"),
        (ImageBudget(max_pixels=239), "20x12.*239 pixels.*max_pixels"),
        (ImageBudget(max_side=19), "20x12.*19 pixels.*max_side"),
    ],
)
def test_budgets_hold_for_every_form(budget: ImageBudget, says: str, tmp_path: Path) -> None:
    for form, source in every_form(tmp_path).items():
        if "max_bytes" in says and form in ("image", "array", "float array"):
            continue
        with pytest.raises(ImageBudgetError, match=says):
            load_image(source, budget=budget)  # type: ignore[arg-type]


def test_an_image_exactly_within_budget_passes() -> None:
    assert load_image(PNG, budget=ImageBudget(max_bytes=len(PNG), max_pixels=240, max_side=20)).size == (20, 12)


def test_the_size_is_checked_before_decoding() -> None:
    header = PNG[:16] + (10_001).to_bytes(4, "big") + (10_001).to_bytes(4, "big") + PNG[24:29]
    import zlib

    broken = header + zlib.crc32(header[12:29]).to_bytes(4, "big") + PNG[33:]
    with pytest.raises(ImageBudgetError, match="10001x10001"):
        load_image(broken)
    with pytest.raises(ImageError, match="broken"):  # had it been decoded, it would have been found broken
        load_image(broken, budget=ImageBudget(max_pixels=170_000_000))


def test_pillows_own_limit_is_a_budget_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageBudgetError, match="<bytes>"):
        load_image(PNG)


def test_pillows_warnings_do_not_leak_and_filters_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 240 pixels: between the warning and the error
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=lambda: [load_image(PNG) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert load_image(PNG).size == (20, 12)
    assert caught == []
    assert warnings.filters == filters


@pytest.mark.parametrize("limit", [0, -1, 1.5, None])
def test_a_budget_is_checked(limit: object) -> None:
    with pytest.raises(InputError, match="max_pixels"):
        ImageBudget(max_pixels=limit)  # type: ignore[arg-type]


def test_the_default_budget_admits_a_page_scan() -> None:
    a3_at_600_dpi = 7016 * 9921
    assert a3_at_600_dpi < DEFAULT_BUDGET.max_pixels


# ---- hostile files ----


def tiled_tiff(side: int, tile: int, data: bytes) -> bytes:
    """A TIFF whose one tile is larger than the image in it."""
    entries = [
        *((256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)),
        *((322, 4, tile), (323, 4, tile), (324, 4, 8 + 2 + 12 * 10 + 4), (325, 4, len(data))),
    ]
    tags = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + struct.pack("<I", 0) + data


def test_a_tile_may_be_no_larger_than_an_image_may():
    data = zlib.compress(b"\x07" * 256 * 256)
    assert load_image(tiled_tiff(1, 256, data)).size == (1, 1)
    with pytest.raises(ImageBudgetError, match="has tiles of 256x256, more than 10000 pixels"):
        load_image(tiled_tiff(1, 256, data), budget=ImageBudget(max_pixels=10_000))
    with pytest.raises(ImageBudgetError, match="has tiles of 40000x40000"):
        load_image(tiled_tiff(1, 40_000, data))


def test_a_jpeg_may_not_go_over_its_pixels_without_end():
    data = encoded(make_image("L", (200, 200)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert load_image(data, budget=ImageBudget(max_pixels=40_000)).size == (200, 200)
    with pytest.raises(ImageBudgetError, match=r"200x200 in \d+ scans is more work than 12 times 40000 pixels"):
        load_image(data[:-2] + last * 20 + data[-2:], budget=ImageBudget(max_pixels=40_000))


FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "PPM", "AVIF"]


@pytest.mark.parametrize("format", FORMATS)
def test_files_that_are_cut_off_or_damaged_anywhere_are_image_errors_or_images(format):
    whole = encoded(make_image("RGB", (40, 30)), format)
    generator = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            damaged[place] ^= 1 << int(generator.integers(8))
        cut = whole[: int(generator.integers(len(whole)))]
        for data in (bytes(damaged), cut):
            with suppress(ImageError):  # and nothing else
                load_image(data, budget=ImageBudget(max_pixels=1_000_000))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG", "AVIF"])
def test_of_many_frames_the_first_is_read(format):
    frames = [Image.new("RGB", (30, 20), (40 * n, 0, 0)) for n in range(5)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    image = load_image(data)
    assert image.size == (30, 20)
    assert to_rgb(image).getpixel((5, 5))[0] < 20
    assert getattr(image, "n_frames", 1) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_a_header_that_says_too_much_is_refused_before_anything_is_decoded(format, monkeypatch):
    data = encoded(make_image("RGB", (300, 200)), format)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageBudgetError, match="300x200"):
        load_image(data, budget=ImageBudget(max_pixels=50_000))


class Raising:
    """A source, of somebody else's, that raises what it likes."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.size = self.pixel_hash = None

    def open(self):
        raise self.error

    def read(self, *_):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("a\nb"), KeyError("k"), MemoryError(), RecursionError(), EOFError()])
def test_whatever_a_source_raises_is_an_image_error(error):
    stream = io.BytesIO()
    stream.read = Raising(error).read
    for source in (Raising(error), stream):
        with pytest.raises(ImageError) as caught:
            load_image(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "data:image/png;base64,\ud800",
        "data:,\udfff",
        "data:image/png;base64,ü",
        "data:image/png;base64",
        "\ud800.png",
        "a\0b.png",
        "x" * 10_000,
        "",
        np.zeros((2, 2), dtype=object),
        np.zeros((2, 2), dtype=complex),
        np.zeros((0, 2), dtype=np.uint8),
        memoryview(b""),
        5,
        None,
        object(),
    ],
)
def test_what_is_no_image_is_an_image_error(source):
    with pytest.raises(ImageError) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


def test_a_reference_that_opens_something_else_is_an_image_error():
    class Odd:
        size = pixel_hash = None

        def open(self):
            return b"bytes"

    with pytest.raises(ImageError, match="expected a decoded image from its open"):
        load_image(Odd())


def test_deep_images_are_scaled_as_a_whole_though_band_by_band(monkeypatch):
    monkeypatch.setattr(images, "_BAND", 50)
    values = np.arange(40 * 25, dtype=np.uint16).reshape(25, 40) * 3
    expected = np.rint(values.astype(np.float32) * np.float32(255 / 4095)).astype(np.uint8)
    assert np.array_equal(np.asarray(load_image(values)), expected)
    floats = Image.fromarray(np.linspace(-1, 1, 1000, dtype=np.float32).reshape(25, 40))
    scaled = np.asarray(load_image(floats))
    assert (scaled.min(), scaled.max()) == (0, 255)
    assert (np.diff(scaled.reshape(-1).astype(int)) >= 0).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_a_hash_does_not_depend_on_how_many_rows_are_read_at_a_time(mode, monkeypatch):
    image = make_image("RGBA" if mode in ("P", "PA") else "RGB", (37, 29)).convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    whole = images.pixel_hash(image)
    rgb = to_rgb(image).tobytes()
    monkeypatch.setattr(images, "_BAND", 100)
    assert images.pixel_hash(image) == whole
    assert b"".join(images.pixel_bytes(image, to_rgb)) == rgb
    assert len(list(images.pixel_bytes(image))) > 10
