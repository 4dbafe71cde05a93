"""Fetching from hosts that misbehave: every failure is an ImageError, and all of it has one deadline."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from PIL import Image

from nemotron_rag import Passage
from nemotron_rag.documents import fetch as fetching
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageBudget
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError
from nemotron_rag.ranking import RankingPolicy, rank
from nemotron_rag.testing import FakeReranker

PNG = io.BytesIO()
Image.new("RGB", (3, 2), "red").save(PNG, "PNG")
BODY = PNG.getvalue()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY)


@contextmanager
def answering(*pieces: bytes, pause: float = 0.0, requests: list[bytes] | None = None):
    """A host that answers each request with these bytes, with a pause before each piece."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    asked = connection.recv(65536)
                    if requests is not None:
                        requests.append(asked)
                    try:
                        for piece in pieces:
                            if over.wait(pause):
                                return
                            connection.sendall(piece)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def access(**options) -> ImageAccess:
    return ImageAccess(hosts=["127.0.0.1"], **options)


@pytest.mark.usefixtures("socket_enabled")
class TestAHost:
    def test_that_behaves(self):
        asked: list[bytes] = []
        with answering(OK + BODY, requests=asked) as url:
            assert access().open(f"{url}/a b/ü.png?q=1 2#part").size == (3, 2)
        assert asked[0].startswith(b"GET /a%20b/%C3%BC.png?q=1%202 HTTP/1.1\r\n")

    @pytest.mark.parametrize(
        "pieces",
        [
            [b"HTTP/1.1 200 OK\r\n"] + [b"X"] * 100,  # a header that never ends
            [OK] + [b"\0"] * 100,  # a body, byte by byte
            [b"HTTP/1.1 100 Continue\r\n\r\n"] * 100,
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] + [b"1\r\nx\r\n"] * 100,
            [b""] * 100,
        ],
    )
    def test_that_drips_has_one_deadline(self, pieces):
        with answering(*pieces, pause=0.1) as url:
            started = time.monotonic()
            with pytest.raises(ImageError, match=r"not there after 0\.5 seconds"):
                access(timeout=0.5).open(f"{url}/a.png")
            assert time.monotonic() - started < 2

    @pytest.mark.parametrize(
        "answer",
        [
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + BODY[:20],
            b"HTTP/1.1 999999999999999999999 OK\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 None\r\n\r\n",
            b"HTTP/1.1 304 Same\r\n\r\n",
            b"",
            OK + BODY[:-20] + b"\0" * 20,
        ],
    )
    def test_that_breaks_the_protocol_gives_an_image_error_that_the_policy_decides_on(self, answer):
        with answering(answer) as url:
            with pytest.raises(ImageError) as caught:
                access(timeout=5).open(f"{url}/a.png")
            assert "\n" not in str(caught.value)
            passages = [Passage("blue"), Passage("red", access(timeout=5).reference(f"{url}/a.png"))]
            places = rank(FakeReranker(), "red", passages, policy=RankingPolicy(on_image_error="text"))
            assert [(place.index, place.image_lost) for place in places] == [(1, True), (0, False)]

    @pytest.mark.parametrize("code", [302, 308])
    @pytest.mark.parametrize(
        "target", ["http://169.254.169.254/latest", "/b.png", "file:///etc/passwd", "//evil/x", ""]
    )
    def test_that_redirects_is_not_followed(self, code, target):
        asked: list[bytes] = []
        answer = f"HTTP/1.1 {code} Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        refused = pytest.raises(ImageError, match=f"HTTP Error {code}: redirects are not followed")
        with answering(answer, requests=asked) as url, refused:
            access().open(f"{url}/a.png")
        assert len(asked) == 1

    def test_that_sends_without_end_is_left_at_the_budget(self):
        endless = answering(b"HTTP/1.1 200 OK\r\n\r\n", *[b"\0" * 10_000] * 50)
        with endless as url, pytest.raises(ImageBudgetError, match="more than the 30000 bytes"):
            access(budget=ImageBudget(max_bytes=30_000)).open(f"{url}/a.png")

    def test_tls_has_the_same_deadline(self):
        with answering(*[b"\x16"] * 100, pause=0.1) as url:  # a handshake that never ends
            started = time.monotonic()
            with pytest.raises(ImageError, match=r"not there after 0\.5 seconds"):
                access(timeout=0.5).open(url.replace("http:", "https:") + "/a.png")
            assert time.monotonic() - started < 2
        with answering(b"HTTP/1.1 400 plain\r\n\r\n") as url, pytest.raises(ImageError, match="cannot be fetched"):
            access().open(url.replace("http:", "https:") + "/a.png")

    def test_a_port_may_be_part_of_what_is_allowed(self):
        with answering(OK + BODY) as url:
            place = url.removeprefix("http://")
            assert ImageAccess(hosts=[place]).open(f"{url}/a.png").size == (3, 2)
            with pytest.raises(ImageError, match="not on an allowed host"):
                ImageAccess(hosts=["127.0.0.1:1"]).open(f"{url}/a.png")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1%eth0", "::ffff:127.0.0.1"]
)
def test_a_name_may_not_stand_for_an_address_of_this_machine(monkeypatch, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    monkeypatch.setattr(fetching, "_TimedSocket", lambda *_: pytest.fail("connected"))
    with pytest.raises(ImageError, match="an address of this machine or its link; allow that too"):
        ImageAccess(hosts=["images.example"]).open("http://images.example/a.png")
    assert fetching._may_be("images.example", "10.0.0.5", ["images.example"])
    assert fetching._may_be("images.example", "127.0.0.1", ["images.example", "127.0.0.1"])
    assert fetching._may_be("localhost", "127.0.0.1", ["localhost"])


def test_a_name_that_is_not_resolved_in_time(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: released.wait(10) and [])
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"not there after 0\.3 seconds"):
        ImageAccess(hosts=["slow.example"], timeout=0.3).open("http://slow.example/a.png")
    assert time.monotonic() - started < 2
    released.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://good.example@evil.example/a.png",
        "http://evil.example\\@good.example/a.png",
        "http://evil.example#@good.example/a.png",
        "http://good.example:80@evil.example/a.png",
        "http://user:hunter22@good.example/a.png",
        "http://good.example\r\nX: y/a.png",
        "http://good.example/a.png\r\nX: y",
        "http://good.example/a\x00.png",
        "http://good.example/\ud800.png",
        "http://good.example:abc/a.png",
        "http://good.example:99999/a.png",
        "http://good.example./a.png",
        "http://good%2eexample/a.png",
        "http://[good.example/a.png",
        "http:///a.png",
        "http://",
        "https://good.example.evil.example/",
        "http://evil.example/?good.example",
        "ftp://good.example/a.png",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "gopher://good.example/",
        "jar:http://good.example/",
    ],
)
def test_a_url_that_two_programs_may_read_in_two_ways_is_refused(url, monkeypatch):
    monkeypatch.setattr(fetching, "_connected", lambda *_: pytest.fail("connected"))
    with pytest.raises(ImageError) as caught:
        ImageAccess(hosts=["good.example"]).open(url)
    assert "hunter22" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_signed_url_is_not_quoted_with_its_signature(monkeypatch):
    def refused(*_):
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(fetching, "_connected", refused)
    with pytest.raises(ImageError, match="refused") as caught:
        ImageAccess(hosts=["good.example"]).open("https://good.example/a.png?X-Amz-Signature=abcdef")
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, True, "5", float("nan")])
def test_a_timeout_is_a_positive_number(timeout):
    with pytest.raises(InputError, match="timeout must be a positive number of seconds"):
        ImageAccess(timeout=timeout)


def test_certificates_are_checked():
    context = fetching._opener(time.monotonic() + 1, "images.example", ["images.example"])
    (handler,) = [each for each in context.handlers if hasattr(each, "https_open")]
    assert handler is not None
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED
