"""References in metadata: closed by default, open only where the caller said so."""

from __future__ import annotations

import base64
import io
import pickle
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageBudget, load_image
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError
from nemotron_rag.types import ImageReference

PNG = io.BytesIO()
Image.new("RGB", (3, 2), "red").save(PNG, "PNG")


def test_what_travels_inside_is_open():
    access = ImageAccess()
    uri = "data:image/png;base64," + base64.b64encode(PNG.getvalue()).decode()
    for reference in (uri, PNG.getvalue(), io.BytesIO(PNG.getvalue()), Image.new("L", (3, 2))):
        assert access.open(reference).size == (3, 2)


def test_paths_only_below_a_root(tmp_path):
    inside = tmp_path / "pages" / "deep" / "a.png"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(PNG.getvalue())
    outside = tmp_path / "secret.png"
    outside.write_bytes(PNG.getvalue())
    link = tmp_path / "pages" / "link.png"
    link.symlink_to(outside)
    access = ImageAccess(roots=[tmp_path / "pages"])
    assert access.open(str(inside)).size == access.open(inside).size == (3, 2)
    sneaky = tmp_path / "pages" / ".." / "secret.png"
    for path in (outside, link, sneaky, tmp_path / "pages-2" / "a.png", "/etc/passwd", f"file://{inside}"):
        with pytest.raises(ImageError, match="outside the allowed folders"):
            access.open(str(path))
    with pytest.raises(ImageError, match=r"allowed folders \(none\)"):
        ImageAccess().open(str(inside))
    with pytest.raises(ImageError):
        access.open("a\0b")


def test_a_reference_is_opened_when_something_needs_its_pixels(tmp_path):
    path = tmp_path / "a.png"
    image = ImageAccess(roots=[tmp_path]).reference(path)
    assert isinstance(image, ImageReference)
    assert (image.size, image.pixel_hash) == (None, None)
    path.write_bytes(PNG.getvalue())  # it was not looked for before
    assert image.open().size == load_image(image).size == (3, 2)
    assert image.open() is not image.open()
    assert pickle.loads(pickle.dumps(image)) == image


def test_a_reference_with_a_path_is_held_to_the_roots_and_keeps_what_it_knows(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG.getvalue())

    class Stored:
        size, pixel_hash = (3, 2), "ab"

        def __init__(self, path):
            self.path = path

        def open(self):
            raise AssertionError("opened past the roots")

    image = ImageAccess(roots=[tmp_path]).reference(Stored(path))
    assert (image.size, image.pixel_hash, image.open().size) == ((3, 2), "ab", (3, 2))
    with pytest.raises(ImageError, match="outside the allowed folders"):
        ImageAccess(roots=[tmp_path / "pages"]).reference(Stored(path)).open()
    elsewhere = Stored(None)  # as in memory or an object store
    assert ImageAccess().reference(elsewhere) is elsewhere


def test_a_reference_may_know_what_is_cached_of_it():
    image = ImageAccess().reference("/etc/passwd", size=(3, 2), pixel_hash="ab")
    assert (image.size, image.pixel_hash) == ((3, 2), "ab")
    with pytest.raises(ImageError, match="outside the allowed folders"):
        load_image(image)


def test_urls_only_on_an_allowed_host():
    for url in ("http://127.0.0.1/a.png", "HTTPS://example.org@evil.example/a.png", "http://[bad"):
        with pytest.raises(ImageError):
            ImageAccess(hosts=["example.org"]).open(url)


@pytest.fixture
def server(socket_enabled):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/a.png")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PNG.getvalue())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_an_allowed_host_is_asked_within_the_budget_and_without_redirects(server):
    access = ImageAccess(hosts=["127.0.0.1"])
    assert access.open(f"{server}/a.png").size == (3, 2)
    with pytest.raises(ImageError, match="cannot be fetched: HTTP Error 302"):
        access.open(f"{server}/moved")
    with pytest.raises(ImageBudgetError, match="more than the 10 bytes"):
        ImageAccess(hosts=["127.0.0.1"], budget=ImageBudget(max_bytes=10)).open(f"{server}/a.png")
    with pytest.raises(ImageError, match="not on an allowed host"):
        ImageAccess(hosts=["localhost"]).open(f"{server}/a.png")


def test_paths_are_the_callers_own_and_urls_are_not(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG.getvalue())
    access = ImageAccess()
    for source in (path, str(path), PNG.getvalue()):
        assert load_image(access.of_caller(source)).size == (3, 2)
    for url in ("http://example.org/a.png", "HTTPS://example.org/a.png"):
        with pytest.raises(ImageError, match="not on an allowed host"):
            load_image(access.of_caller(url))


def test_errors_are_named_as_the_caller_names_the_image():
    error = ImageBudgetError("passage 3: too large")
    assert str(error.named("a.pdf")) == "a.pdf: passage 3: too large"
    error.index = 3
    named = error.named("a.pdf")
    assert (type(named), str(named), named.index) == (ImageBudgetError, "a.pdf: too large", None)


@pytest.mark.parametrize(
    "options",
    [
        {"roots": "/data/pages"},  # its first letter would be the root of all
        {"roots": Path("/data/pages")},
        {"roots": b"/data"},
        {"roots": [""]},
        {"roots": [None]},
        {"hosts": "example.org"},
        {"hosts": [""]},
    ],
)
def test_a_single_folder_or_an_empty_one_allows_nothing_by_mistake(options):
    with pytest.raises(InputError, match="image_(roots|hosts) must be"):
        ImageAccess(**options)
