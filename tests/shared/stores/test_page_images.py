"""Pictures beside a collection: kept whole, exact, and read only under keys of our own making."""

from __future__ import annotations

import io
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemotron_rag.errors import ImageBudgetError, ImageError, InputError, StoreError
from nemotron_rag.images import ImageBudget
from nemotron_rag.stores.page_images import PageImages

ID = "0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10"


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 20, 3), dtype=np.uint8))


@pytest.fixture(params=["folder", "memory"])
def images(request, tmp_path):
    root = tmp_path / "pictures" if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    opened = PageImages(root)
    yield opened
    opened.clear()


def test_pictures_come_back_pixel_by_pixel(images):
    key = images.write(ID, noise())
    assert key == f"0b/{ID}.png"
    assert np.array_equal(images.read(key), noise())
    assert Image.open(io.BytesIO(images.read_bytes(key))).format == "PNG"


def test_pictures_of_any_mode_are_kept_as_rgb(images):
    key = images.write(ID, Image.new("RGBA", (3, 2), (10, 20, 30, 40)))
    assert (images.read(key).mode, images.read(key).getpixel((0, 0))) == ("RGB", (10, 20, 30))


def test_writing_again_replaces_and_deleting_twice_is_allowed(images):
    key = images.write(ID, noise(1))
    assert images.write(ID, noise(2)) == key
    assert np.array_equal(images.read(key), noise(2))
    images.delete(ID)
    images.delete(ID)
    with pytest.raises(ImageError, match="cannot be read"):
        images.read(key)


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_smaller_formats(tmp_path, image_format):
    images = PageImages(tmp_path, image_format=image_format)
    key = images.write(ID, Image.new("RGB", (40, 30), (200, 100, 50)))
    assert key.endswith(f".{image_format}")
    assert np.abs(np.asarray(images.read(key), dtype=int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize(
    "key",
    [
        "/etc/passwd",
        "../../etc/passwd",
        f"0b/../{ID}.png",
        f"0b/{ID}.png/../../x",
        f"0b\\{ID}.png",
        f"file:///0b/{ID}.png",
        f"http://host/0b/{ID}.png",
        f"0b/{ID}.svg",
        f"0b/{ID}.png\n",
        f"0b/{ID}.png\0",
        f"0B/{ID.upper()}.png",
        "",
        None,
        5,
    ],
)
def test_keys_of_others_are_never_followed(images, key):
    for method in (images.read, images.read_bytes):
        with pytest.raises(ImageError, match="none of this index"):
            method(key)


@pytest.mark.parametrize("page_id", ["p1", "../x", ID.upper(), ID + "x"])
def test_keys_are_made_from_uuids_only(images, page_id):
    with pytest.raises(InputError, match="UUID"):
        images.write(page_id, noise())
    with pytest.raises(InputError, match="UUID"):
        images.delete(page_id)


def test_a_picture_written_in_another_format_is_removed_too(tmp_path):
    PageImages(tmp_path, image_format="jpeg").write(ID, noise())
    PageImages(tmp_path).delete(ID)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_broken_and_oversized_pictures_are_image_errors(tmp_path):
    images = PageImages(tmp_path, budget=ImageBudget(max_bytes=5000, max_pixels=600))
    key = images.write(ID, noise())
    path = tmp_path / key
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match="broken"):
        images.read(key)
    images.write(ID, Image.new("RGB", (100, 10)))
    with pytest.raises(ImageBudgetError):
        images.read(key)
    path.write_bytes(b"x" * 6000)
    with pytest.raises(ImageBudgetError):
        images.read(key)


def test_a_failed_write_leaves_the_old_picture_and_no_rest(tmp_path, monkeypatch):
    images = PageImages(tmp_path)
    key = images.write(ID, noise(1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nemotron_rag.stores.page_images.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        images.write(ID, noise(2))
    assert np.array_equal(images.read(key), noise(1))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{ID}.png"]


def test_readers_never_see_half_a_picture(tmp_path):
    images = PageImages(tmp_path)
    key = images.write(ID, noise(0))
    done = threading.Event()

    def write():
        for seed in range(60):
            images.write(ID, noise(seed))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert images.read(key).size == (20, 30)
    writer.join()


def test_writing_what_is_no_picture_is_an_image_error(images):
    with pytest.raises(ImageError):
        images.write(ID, b"no picture")


def test_roots_and_formats_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="fsspec URL"):
        PageImages("nowhere://x")
    with pytest.raises(InputError, match="image_format"):
        PageImages(tmp_path, image_format="gif")


def test_nothing_is_made_before_the_first_write(tmp_path):
    PageImages(tmp_path / "pictures").clear()
    assert not (tmp_path / "pictures").exists()
    assert isinstance(PageImages(Path(tmp_path)).root, str)
