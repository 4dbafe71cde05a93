"""Images beside a collection: kept whole, exact, and read only under keys of our own making."""

from __future__ import annotations

import io
import pickle
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageBudget, load_image, pixel_hash, to_data_uri
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError, StoreError
from nemotron_rag.stores.page_images import PageImages, ShownImage, StoredImage, show_images
from nemotron_rag.types import Page, PageFile, StoredPage

ID = "0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10"


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 20, 3), dtype=np.uint8))


@pytest.fixture(params=["folder", "memory"])
def images(request, tmp_path):
    root = tmp_path / "images" if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    opened = PageImages(root)
    yield opened
    opened.clear()


def test_images_come_back_pixel_by_pixel(images):
    image = images.write(ID, noise())
    assert (image.key, str(image)) == (f"0b/{ID}.png", f"{images.root}/0b/{ID}.png")
    assert np.array_equal(image.open(), noise())
    assert np.array_equal(images.reference(image.key).open(), noise())
    assert (image.image_format, Image.open(io.BytesIO(image.read_bytes())).format) == ("png", "PNG")


def test_images_of_any_mode_are_kept_as_rgb_on_white(images):
    image = images.write(ID, Image.new("RGBA", (3, 2), (10, 20, 30, 40))).open()
    on_white = tuple(round(255 + (value - 255) * 40 / 255) for value in (10, 20, 30))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", on_white)


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_size_and_hash_are_those_of_the_image_as_it_is_read_back(tmp_path, image_format):
    image = PageImages(tmp_path, image_format=image_format).write(ID, noise())
    assert image.size == image.open().size == (20, 30)
    assert image.pixel_hash == pixel_hash(image.open())
    assert (image.pixel_hash == pixel_hash(noise())) is (image_format == "png")


def test_a_reference_is_a_plain_value_that_opens_nothing_by_itself(tmp_path):
    images = PageImages(tmp_path / "none")
    image = images.reference(f"0b/{ID}.png", size=(20, 30), pixel_hash="h")
    assert pickle.loads(pickle.dumps(image)) == image
    assert (image.path, image.size, image.pixel_hash) == (tmp_path / "none" / "0b" / f"{ID}.png", (20, 30), "h")
    with pytest.raises(ImageError, match="cannot be read"):
        image.open()
    assert PageImages("memory://there").reference(f"0b/{ID}.png").path is None
    images.write(ID, noise())
    assert np.array_equal(load_image(image), noise())


def test_writing_again_replaces_and_deleting_twice_is_allowed(images):
    image = images.write(ID, noise(1))
    assert images.write(ID, noise(2)).key == image.key
    assert np.array_equal(image.open(), noise(2))
    images.delete(ID)
    images.delete(ID)
    with pytest.raises(ImageError, match="cannot be read"):
        image.open()


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_smaller_formats(tmp_path, image_format):
    images = PageImages(tmp_path, image_format=image_format)
    image = images.write(ID, Image.new("RGB", (40, 30), (200, 100, 50)))
    assert image.key.endswith(f".{image_format}")
    assert np.abs(np.asarray(image.open(), dtype=int) - (200, 100, 50)).max() <= 3


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
    image = images.reference(key)
    for use in (image.open, image.read_bytes):
        with pytest.raises(ImageError, match="does not belong to an index; not opening it"):
            use()
    with pytest.raises(ImageError, match="does not belong to an index; not opening it"):
        _ = image.path


@pytest.mark.parametrize("page_id", ["p1", "../x", ID.upper(), ID + "x"])
def test_keys_are_made_from_uuids_only(images, page_id):
    with pytest.raises(InputError, match="UUID"):
        images.write(page_id, noise())
    with pytest.raises(InputError, match="UUID"):
        images.delete(page_id)


def test_an_image_written_in_another_format_is_removed_too(tmp_path):
    PageImages(tmp_path, image_format="jpeg").write(ID, noise())
    PageImages(tmp_path).delete(ID)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_broken_and_oversized_images_are_image_errors(tmp_path):
    images = PageImages(tmp_path, budget=ImageBudget(max_bytes=5000, max_pixels=600))
    image = images.write(ID, noise())
    path = image.path
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match="broken"):
        image.open()
    images.write(ID, Image.new("RGB", (100, 10)))
    with pytest.raises(ImageBudgetError):
        image.open()
    path.write_bytes(b"x" * 6000)
    with pytest.raises(ImageBudgetError):
        image.open()


def test_a_failed_write_leaves_the_old_image_and_no_rest(tmp_path, monkeypatch):
    images = PageImages(tmp_path)
    image = images.write(ID, noise(1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nemotron_rag.documents.files.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        images.write(ID, noise(2))
    assert np.array_equal(image.open(), noise(1))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{ID}.png"]


def test_readers_never_see_half_an_image(tmp_path):
    images = PageImages(tmp_path)
    image = images.write(ID, noise(0))
    done = threading.Event()

    def write():
        for seed in range(60):
            images.write(ID, noise(seed))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert image.open().size == (20, 30)
    writer.join()


def test_writing_what_is_no_image_is_an_image_error(images):
    with pytest.raises(ImageError):
        images.write(ID, b"no image")


def test_roots_and_formats_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="fsspec URL"):
        PageImages("nowhere://x")
    with pytest.raises(InputError, match="image_format"):
        PageImages(tmp_path, image_format="gif")


def test_nothing_is_made_before_the_first_write(tmp_path):
    PageImages(tmp_path / "images").clear()
    assert not (tmp_path / "images").exists()
    assert isinstance(PageImages(Path(tmp_path)).root, str)


def test_the_image_of_a_stored_page(tmp_path):
    images = PageImages(tmp_path)
    page = Page(id=ID, source="a.pdf")
    assert images.of(StoredPage(page=page, files=(PageFile(),), content_hash="")) is None
    found = images.of(
        StoredPage(
            page=page,
            files=(PageFile(),),
            content_hash="",
            image_key=f"0b/{ID}.png",
            image_size=(20, 30),
            image_hash="h",
        )
    )
    assert found == images.reference(f"0b/{ID}.png", size=(20, 30), pixel_hash="h")


class TestForms:
    """How results carry their images."""

    def test_as_data_uri_of_the_stored_file(self, images, monkeypatch):
        stored = images.write(ID, noise())
        monkeypatch.setattr(StoredImage, "open", lambda self: pytest.fail("an image was decoded"))
        uri = to_data_uri(stored.read_bytes(), "png")
        for image_format in (None, "png"):
            assert show_images([None, stored], "data_uri", image_format=image_format) == [
                None,
                ShownImage(uri, "image/png"),
            ]

    def test_as_data_uri_of_another_format(self, images):
        (shown,) = show_images([images.write(ID, noise())], "data_uri", image_format="jpeg")
        assert shown.mime_type == "image/jpeg"
        assert load_image(shown.value).size == (20, 30)

    def test_as_path_reference_or_not_at_all(self, tmp_path):
        stored = PageImages(tmp_path).write(ID, noise())
        assert show_images([stored, None], "path") == [ShownImage(str(tmp_path / "0b" / f"{ID}.png")), None]
        assert show_images([stored, None], "reference") == [ShownImage(stored), None]
        assert show_images([stored, None], "none") == [None, None]
        assert show_images([], "data_uri") == []

    def test_of_any_reference(self):
        (shown,) = show_images([ImageAccess().reference(noise())], "data_uri")
        assert np.array_equal(load_image(shown.value), noise())
        with pytest.raises(InputError, match="image_form='path' needs images in a local folder"):
            show_images([ImageAccess().reference(noise())], "path")

    @pytest.mark.parametrize("form", ["data_uri", "path"])
    def test_a_planted_key_is_not_followed(self, tmp_path, caplog, form):
        stored = PageImages(tmp_path).write(ID, noise())
        planted = PageImages(tmp_path).reference("../secret.png")
        shown = show_images([planted, stored], form)
        assert (shown[0], shown[1] is None) == (None, False)
        assert "comes without its image" in caplog.text


def test_a_file_above_the_budget_is_not_passed_on(tmp_path):
    images = PageImages(tmp_path, budget=ImageBudget(max_bytes=100))
    written = images.write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", Image.new("RGB", (4, 3)))
    written.path.write_bytes(b"\0" * 101)
    with pytest.raises(ImageBudgetError, match="more than the 100 bytes allowed"):
        written.read_bytes()
