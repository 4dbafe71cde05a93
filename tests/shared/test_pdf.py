"""PDFs become pages: images, text and metadata; in order, within budgets, whatever the document does."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from PIL import Image

from nemotron_rag.documents import pdf
from nemotron_rag.documents.pdf import (
    PAGE_PIXELS,
    PdfBudget,
    content_hash,
    count_pages,
    find_pdfs,
    ocr_available,
    read_pdf,
)
from nemotron_rag.documents.pdf import _pool as _pdf_pool
from nemotron_rag.documents.pdf import _rendering as _pdf_rendering
from nemotron_rag.errors import InputError, MissingExtraError, NemotronRagError, PdfError, PdfPasswordError
from nemotron_rag.types import Failure, Page, page_id
from support.pages import endless, raw_pdf, stream_object

Reports = list[Failure]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")


def document(pages: int = 3, size: tuple[float, float] = (300, 200), **save: object) -> bytes:
    made = pymupdf.open()
    for number in range(1, pages + 1):
        page = made.new_page(width=size[0], height=size[1])
        page.insert_text((20, 40), f"This is page {number}.")
    return made.tobytes(**save)


@pytest.fixture
def failures() -> Reports:
    return []


@pytest.fixture(scope="module", autouse=True)
def _no_workers_are_left() -> Iterator[None]:
    yield
    _pdf_pool._POOL.kill_all()


def numbers(pages: Iterator[Page]) -> list[int]:
    return [page.number for page in pages]


# What a page is


@pytest.mark.parametrize("workers", [None, 0, 1, 2])
def test_pages_come_in_order_with_image_text_and_provenance(workers: int | None) -> None:
    data = document(9)
    pages = list(read_pdf(data, workers=workers, dpi=72))
    assert numbers(iter(pages)) == list(range(1, 10))
    for page in pages:
        assert isinstance(page.image, Image.Image)
        assert (page.image.mode, page.image.size) == ("RGB", (300, 200))
        assert page.text == f"This is page {page.number}."
        assert page.id == page_id(hashlib.sha256(data).hexdigest(), page.number)
        assert page.source == "<bytes>"
    pixels = np.asarray(pages[0].image)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels.min() < 100


def test_every_form_of_source_gives_the_same_pages(tmp_path: Path) -> None:
    data = document(1)
    path = tmp_path / "-odd näme"
    path.write_bytes(data)
    stream = io.BytesIO(data)
    stream.seek(7)
    found = [list(read_pdf(source)) for source in (str(path), path, data, bytearray(data), stream)]  # type: ignore[arg-type]
    assert len({page.id for [page] in found}) == 1
    assert len({page.image.tobytes() for [page] in found}) == 1  # type: ignore[union-attr]
    assert [page.source for [page] in found] == [str(path), str(path), "<bytes>", "<bytearray>", "<stream>"]
    assert stream.tell() == 7
    with path.open("rb") as opened:
        assert next(read_pdf(opened)).source == str(path)
    assert next(read_pdf(data, name="report.pdf")).source == "report.pdf"


def test_a_relative_path_is_named_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(document(1))
    next(read_pdf(document(1)))  # the worker keeps the folder it was started in
    monkeypatch.chdir(tmp_path)
    assert [page.source for page in read_pdf("a.pdf")] == ["a.pdf"]


def test_metadata_is_plain_json() -> None:
    made = pymupdf.open(stream=document(3))
    made.set_metadata(
        {"title": "Tïtle", "author": "A", "creationDate": "D:20240102030405+01'00'", "modDate": "yesterday"}
    )
    made.set_page_labels([{"startpage": 0, "prefix": "", "style": "r", "firstpagenum": 1}])
    page = list(read_pdf(made.tobytes()))[1]
    expected = {
        "title": "Tïtle",
        "author": "A",
        "created": "2024-01-02T03:04:05+01:00",
        "page_count": 3,
        "width": 300.0,
        "height": 200.0,
        "label": "ii",
        "text_source": "layer",
    }
    assert page.metadata == expected
    assert json.loads(json.dumps(page.metadata)) == expected


def test_text_is_clean_unicode() -> None:
    clean = pdf_render_clean()
    assert clean("a\x00b\ud800c\x0cd\r\ne\ufb01n\x85") == "abc\nd\nefin"
    assert clean("\ufef7\ufb01\ufe8e") == "\u0644\u0623fi\u0627"  # the letters of a ligature in their order
    assert clean("x² ½") == "x² ½"


def pdf_render_clean() -> Callable[[str], str]:
    from nemotron_rag.documents.pdf._common import clean

    return clean


def test_words_broken_at_a_line_end_are_joined() -> None:
    made = pymupdf.open()
    made.new_page().insert_text((50, 50), ["The retri-", "eval works."])
    [page] = read_pdf(made.tobytes())
    assert page.text == "The retrieval works."
    clean = pdf_render_clean()
    assert clean("Sil\xad\nben ge\xadtrennt- \nes") == "Silben getrenntes"
    assert clean("Anna-\nMaria, 3-\n4, a -\nb") == "Anna-\nMaria, 3-\n4, a -\nb"


def test_text_is_capped_and_says_so() -> None:
    [page] = read_pdf(document(1), budget=PdfBudget(max_text=4))
    assert page.text == "This"
    assert page.metadata["text_truncated"] is True


# Sizes


@pytest.mark.parametrize("size", [(595, 842), (842, 595), (3, 3), (14_400, 14_400), (300, 20), (612, 792)])
def test_the_default_size_is_six_tiles_in_the_pages_own_shape(size: tuple[float, float]) -> None:
    [page] = read_pdf(document(1, size))
    width, height = page.image.size  # type: ignore[union-attr]
    assert PAGE_PIXELS * 0.99 < width * height <= PAGE_PIXELS
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


def test_rotation_and_crop_are_seen_as_a_reader_sees_them() -> None:
    made = pymupdf.open(stream=document(1, (300, 200)))
    made[0].set_rotation(90)
    [page] = read_pdf(made.tobytes(), dpi=72)
    assert page.image.size == (200, 300)  # type: ignore[union-attr]
    made = pymupdf.open(stream=document(1, (300, 200)))
    made[0].set_cropbox(pymupdf.Rect(0, 0, 100, 50))
    [page] = read_pdf(made.tobytes(), dpi=72)
    assert page.image.size == (100, 50)  # type: ignore[union-attr]


def test_dpi_and_max_pixels() -> None:
    def size(**options: object) -> tuple[int, int]:
        [page] = read_pdf(document(1, (300, 200)), **options)  # type: ignore[arg-type]
        return page.image.size  # type: ignore[union-attr,no-any-return]

    assert size(dpi=144) == (600, 400)
    assert size(max_pixels=60_000) == (300, 200)
    assert size(dpi=144, max_pixels=60_000) == (300, 200)
    assert size(dpi=36, max_pixels=60_000) == (150, 100)
    assert size(dpi=7200, budget=PdfBudget(max_pixels=60_000)) == (300, 200)
    assert size(budget=PdfBudget(max_pixels=60_000)) == (300, 200)
    assert size(budget=PdfBudget(max_side=30)) == (30, 20)


def test_a_skinny_page_stays_within_the_longest_side() -> None:
    [page] = read_pdf(document(1, (2, 14_000)))
    width, height = page.image.size  # type: ignore[union-attr]
    assert 1 <= width <= 3
    assert 16_000 < height <= PdfBudget().max_side


# Which pages


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        (None, [1, 2, 3, 4, 5, 6]),
        ("2", [2]),
        ("1-2,4,5-", [1, 2, 4, 5, 6]),
        (" 5 , 1 - 2 ", [1, 2, 5]),
        ("1-", [1, 2, 3, 4, 5, 6]),
        ("5-999999999", [5, 6]),
        (range(2, 4), [2, 3]),
        ([4, 2, 4], [2, 4]),
        ({6}, [6]),
        ([], []),
    ],
)
def test_page_selections(pages: object, expected: list[int]) -> None:
    assert numbers(read_pdf(document(6), pages=pages)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("pages", ["", "a", "3-1", "0", "1,,2", "-3", "1-2-3", [0], [1.0], [True], ["1"], 5])
def test_a_bad_selection_raises_at_once(pages: object) -> None:
    with pytest.raises(InputError, match="page"):
        read_pdf(document(6), pages=pages)  # type: ignore[arg-type]


@pytest.mark.parametrize("pages", ["7", "7-999999999", "7-", [7]])
def test_a_page_that_is_not_there_raises_even_when_skipping(pages: object) -> None:
    with pytest.raises(InputError, match=r"<bytes>: page \d+ does not exist, the last one is 6"):
        list(read_pdf(document(6), pages=pages, on_error="skip"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"ocr": "maybe"},
        {"on_error": "ignore"},
        {"ocr_language": "../eng"},
        {"workers": -1},
        {"workers": 1.5},
        {"dpi": 0},
        {"dpi": float("nan")},
        {"max_pixels": 0},
        {"max_pixels": 10**9},
    ],
)
def test_bad_arguments_raise_at_once(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        read_pdf(document(1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [{"max_bytes": 0}, {"seconds": -1}, {"seconds": float("inf")}, {"max_pages": 1.5}])
def test_a_budget_is_checked(limit: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(limit))):
        PdfBudget(**limit)  # type: ignore[arg-type]


def test_counting_and_hashing(tmp_path: Path) -> None:
    data = document(5)
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    assert count_pages(path) == count_pages(data) == 5
    assert content_hash(path) == content_hash(io.BytesIO(data)) == hashlib.sha256(data).hexdigest()
    with pytest.raises(PdfError, match="gone.pdf: cannot be read: no such file"):
        content_hash(tmp_path / "gone.pdf")
    with pytest.raises(PdfError, match="<bytes>: "):
        count_pages(b"nothing")


def test_find_pdfs(tmp_path: Path) -> None:
    for name in ("b.PDF", "sub/a.pdf", "no_extension", "text.txt", ".hidden.pdf", ".git/x.pdf", "sub/deeper/c.Pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"junk\n%PDF-1.4")
    (tmp_path / "plain").write_bytes(b"x" * 2000 + b"%PDF")
    (tmp_path / "folder.pdf").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_pdfs(tmp_path)]
    assert found == ["b.PDF", "no_extension", "sub/a.pdf", "sub/deeper/c.Pdf"]
    assert find_pdfs(str(tmp_path / "text.txt")) == [tmp_path / "text.txt"]
    with pytest.raises(InputError, match="nothing is at"):
        find_pdfs(tmp_path / "gone")


# What goes wrong


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"", "empty"),
        (b"not a pdf at all", "no objects found"),
        (b"\x89PNG\r\n\x1a\n", r"."),
        (b"<html><body>Hello</body></html>", r"."),
        (raw_pdf(["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[]/Count 0>>"]), "has no pages"),
        ("/no/such/file.pdf", "no such file"),
        ("a\0b.pdf", "no such file"),
        (Path(__file__).parent, "not a regular file"),
        (document(2, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret"), "needs a password"),
    ],
)
def test_an_unreadable_document_is_reported_and_yields_nothing(
    source: pdf.PdfSource, says: str, failures: Reports
) -> None:
    assert list(read_pdf(source, report=failures.append)) == []
    [failure] = failures
    assert failure.number is None
    assert "\n" not in str(failure)
    with pytest.raises(PdfError, match=says):
        list(read_pdf(source, on_error="raise"))


def test_failures_are_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        assert list(read_pdf(b"nothing", name="x.pdf")) == []
        assert list(read_pdf(b"nothing", name="a\nforged line")) == []
    told = [record.getMessage() for record in caplog.records]
    assert told == ["x.pdf: no objects found", "a forged line: no objects found"]


@pytest.mark.parametrize("source", [3, None, ["a.pdf"], io.StringIO("x")])
def test_what_is_no_source_raises(source: object) -> None:
    with pytest.raises(InputError):
        list(read_pdf(source, on_error="raise"))  # type: ignore[arg-type]


@pytest.mark.parametrize("password", ["secret", "owner"])
def test_passwords(password: str) -> None:
    data = document(2, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")
    assert numbers(read_pdf(data, password=password)) == [1, 2]
    assert count_pages(data, password=password) == 2
    with pytest.raises(PdfPasswordError, match="<bytes>: needs a password"):
        next(read_pdf(data, on_error="raise"))
    with pytest.raises(PdfPasswordError, match="password is wrong"):
        count_pages(data, password="no")
    assert numbers(read_pdf(document(1), password="not needed")) == [1]


def test_a_broken_page_is_reported_and_the_others_are_read(failures: Reports) -> None:
    content = stream_object("", "q " * 100_000)
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]"
    objects = ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R 4 0 R 5 0 R]/Count 3>>"]
    data = raw_pdf([*objects, page + ">>", page + "/Contents 6 0 R>>", page + ">>", content])
    assert numbers(read_pdf(data, report=failures.append, pdf_engine="mupdf")) == [1, 3]
    assert failures == [Failure("<bytes>", "too many nested graphics states", 2)]
    with pytest.raises(PdfError, match="<bytes>, page 2: too many"):
        list(read_pdf(data, on_error="raise", pdf_engine="mupdf"))
    assert [page.metadata.get("pdf_engine") for page in read_pdf(data)] == [None, "pdfium", None]


def test_budgets_of_bytes_and_pages(failures: Reports) -> None:
    data = document(4)
    assert list(read_pdf(data, budget=PdfBudget(max_bytes=100), report=failures.append)) == []
    assert list(read_pdf(data, budget=PdfBudget(max_pages=3), report=failures.append)) == []
    assert [failure.reason.split("; ")[-1] for failure in failures] == [
        "raise PdfBudget.max_bytes",
        "pass fewer pages=, or raise PdfBudget.max_pages",
    ]
    assert numbers(read_pdf(data, pages="2-4", budget=PdfBudget(max_pages=3))) == [2, 3, 4]


@pytest.mark.slow
def test_an_endless_page_is_ended_and_the_others_are_read(failures: Reports) -> None:
    made = pymupdf.open(stream=document(2))
    made.insert_pdf(pymupdf.open(stream=endless()), start_at=1)
    started = time.monotonic()
    pages = read_pdf(made.tobytes(), workers=1, budget=PdfBudget(seconds=1), report=failures.append, pdf_engine="mupdf")
    assert numbers(pages) == [1, 3]
    assert time.monotonic() - started < 15
    assert failures == [Failure("<bytes>", "took longer than PdfBudget.seconds allows", 2)]


@pytest.mark.slow
def test_a_document_of_endless_pages_is_given_up(failures: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pdf_rendering, "_MAX_DEATHS", 2)
    pages = read_pdf(endless(50), workers=1, budget=PdfBudget(seconds=0.2), report=failures.append, pdf_engine="mupdf")
    assert list(pages) == []
    assert [failure.number for failure in failures] == [1, 2, None]
    assert "gave up" in failures[-1].reason


@pytest.mark.skipif(sys.platform != "linux", reason="address space can be limited on Linux")
def test_a_page_beyond_the_memory_limit_is_reported(failures: Reports) -> None:
    made = pymupdf.open(stream=document(1, (100, 100)))
    made.new_page(width=7000, height=7000)
    made.new_page(width=100, height=100)
    data, limit = made.tobytes(), 512 * 2**20
    pages = read_pdf(data, dpi=300, budget=PdfBudget(max_pixels=10**9, max_side=10**6, memory_bytes=limit),
                     report=failures.append, pdf_engine="mupdf")  # fmt: skip
    assert numbers(pages) == [1, 3]
    assert [failure.number for failure in failures] == [2]
    assert numbers(read_pdf(data, report=failures.append)) == [1, 2, 3]  # the same worker, its limit raised again


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_workers_are_replaced(workers: int, failures: Reports) -> None:
    pages = read_pdf(document(20), workers=workers, report=failures.append, pdf_engine="mupdf")
    assert next(pages).number == 1
    for process in list(_pdf_pool._POOL._living):
        os.kill(process._process.pid, signal.SIGKILL)
    rest = numbers(pages)
    lost = [failure.number for failure in failures]
    assert sorted([*rest, *lost]) == list(range(2, 21))  # type: ignore[type-var]
    assert 1 <= len(lost) <= workers
    assert "crashed the renderer" in failures[0].reason
    assert numbers(read_pdf(document(2))) == [1, 2]


@POSIX
def test_a_worker_that_died_while_idle_is_not_used() -> None:
    list(read_pdf(document(1)))
    for process in list(_pdf_pool._POOL._living):
        process._process.kill()
        process._process.wait()
    assert numbers(read_pdf(document(1), on_error="raise")) == [1]


def test_without_pymupdf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: read_pdf(b""), lambda: count_pages(b""), ocr_available):
        with pytest.raises(MissingExtraError, match=r"nemotron-rag\[pdf\]"):
            call()


@POSIX
@pytest.mark.parametrize("executable", [shutil.which("false"), "/no/python", "", None])
def test_where_no_process_starts_it_says_so(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    _pdf_pool._POOL.kill_all()
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(NemotronRagError, match="workers=0"):
        list(read_pdf(document(1)))


# Processes


@pytest.mark.slow
def test_workers_are_reused_and_bounded() -> None:
    list(read_pdf(document(20), workers=2))
    before = set(_pdf_pool._POOL._living)
    list(read_pdf(document(20), workers=2))
    assert set(_pdf_pool._POOL._living) == before
    assert len(before) <= max(2, os.cpu_count() or 1)


@pytest.mark.slow
def test_look_ahead_is_bounded_and_leaving_early_is_clean() -> None:
    started = time.monotonic()
    pages = read_pdf(document(500), workers=2)
    assert [next(pages).number, next(pages).number] == [1, 2]
    pages.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 10
    assert numbers(read_pdf(document(3))) == [1, 2, 3]


@pytest.mark.slow
def test_several_threads_read_at_once() -> None:
    data, found = document(8), {}

    def read(thread: int) -> None:
        found[thread] = numbers(read_pdf(data, workers=1))

    threads = [threading.Thread(target=read, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {thread: list(range(1, 9)) for thread in range(3)}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_printed(workers: int, capfd: pytest.CaptureFixture[str], failures: Reports) -> None:
    list(read_pdf(document(2)[:-400], workers=workers, report=failures.append))
    list(read_pdf(endless()[:900], workers=workers, report=failures.append))
    assert capfd.readouterr() == ("", "")


@POSIX
def test_a_forked_child_starts_its_own_workers() -> None:
    data = document(2)
    list(read_pdf(data))
    before = set(_pdf_pool._POOL._living)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if numbers(read_pdf(data, on_error="raise")) == [1, 2] else 2
            _pdf_pool._POOL.kill_all()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert all(process.alive() for process in before)
    assert numbers(read_pdf(data, on_error="raise")) == [1, 2]
    assert before <= set(_pdf_pool._POOL._living)


SCRIPT = """
    from nemotron_rag.documents.pdf import _pool as _pdf_pool
    from nemotron_rag.documents.pdf import PdfBudget, read_pdf
    import sys
    pages = read_pdf(sys.argv[1], workers=2, budget=PdfBudget(seconds=3))
    {line}
    print(*[process._process.pid for process in _pdf_pool._POOL._living], flush=True)
    {then}
"""


def run_script(folder: Path, data: bytes, line: str, then: str) -> tuple[int, str, str]:
    (folder / "a.pdf").write_bytes(data)
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(line=line, then=then))
    command = [sys.executable, "-W", "error", str(script), str(folder / "a.pdf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def wait_until_gone(pids: list[int], seconds: float) -> None:
    limit = time.monotonic() + seconds
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("then", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_plain_script_works_and_leaves_no_workers(tmp_path: Path, then: str) -> None:
    _, output, errors = run_script(tmp_path, document(20), "print(sum(1 for page in pages))", then)
    count, pids = output.splitlines()
    assert count == "20"
    assert errors == ""
    wait_until_gone([int(pid) for pid in pids.split()], 10)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_a_busy_worker_outlives_a_killed_parent_by_its_time_limit_only(tmp_path: Path) -> None:
    made = pymupdf.open(stream=document(1))
    made.insert_pdf(pymupdf.open(stream=endless()))
    then = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    _, output, _ = run_script(tmp_path, made.tobytes(), "next(pages)", then)
    pids = [int(pid) for pid in output.split()]
    assert pids
    wait_until_gone(pids, 10)


# OCR


def scan(text: str = "Invoice 4711 for Ms Example") -> bytes:
    made = pymupdf.open()
    made.new_page(width=400, height=100).insert_text((20, 60), text, fontsize=24)
    image = made[0].get_pixmap(dpi=200)
    scanned = pymupdf.open()
    scanned.new_page(width=400, height=100).insert_image(pymupdf.Rect(0, 0, 400, 100), pixmap=image)
    return scanned.tobytes()


@pytest.fixture
def _tesseract() -> None:
    if not ocr_available():
        pytest.skip("Tesseract's data for English is not installed (apt-get install tesseract-ocr)")


@pytest.mark.usefixtures("_tesseract")
@pytest.mark.parametrize("ocr", ["auto", "always"])
def test_ocr_reads_a_scan(ocr: pdf.Ocr) -> None:
    [page] = read_pdf(scan(), ocr=ocr)
    assert "4711" in page.text
    assert page.metadata["text_source"] == "ocr"


@pytest.mark.usefixtures("_tesseract")
def test_ocr_leaves_a_text_layer_alone_unless_asked() -> None:
    assert next(read_pdf(document(1), ocr="auto")).metadata["text_source"] == "layer"
    assert next(read_pdf(document(1), ocr="always")).metadata["text_source"] == "ocr"


@pytest.mark.usefixtures("_tesseract")
def test_a_blank_page_has_no_text_source() -> None:
    blank = pymupdf.open()
    blank.new_page()
    assert next(read_pdf(blank.tobytes())).metadata["text_source"] == "none"


def test_without_ocr_a_scan_has_no_text() -> None:
    [page] = read_pdf(scan(), ocr="never")
    assert (page.text, page.metadata["text_source"]) == ("", "none")


def test_a_missing_language_is_told_once_or_raises(caplog: pytest.LogCaptureFixture) -> None:
    _pdf_rendering._warn_of_missing_ocr.cache_clear()
    for _ in range(2):
        [page] = read_pdf(scan(), ocr_language="eng+qqq")
        assert page.text == ""
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "qqq" in caplog.text
    with pytest.raises(InputError, match="apt-get install tesseract-ocr"):
        read_pdf(scan(), ocr="always", ocr_language="qqq")
    assert not ocr_available("qqq")


def test_a_document_has_a_budget_for_all_of_its_pages(failures: Reports) -> None:
    data = document(6)
    few = PdfBudget(document_pixels=2 * 100 * 100)
    found = numbers(read_pdf(data, max_pixels=10_000, budget=few, workers=1, report=failures.append))
    assert 2 <= len(found) < 6
    assert found == list(range(1, len(found) + 1))
    assert f"document_pixels allows; gave up the pages after {found[-1]}" in failures[0].reason
    with pytest.raises(PdfError, match="document_seconds"):
        list(read_pdf(data, budget=PdfBudget(document_seconds=1e-9), workers=1, on_error="raise"))
    assert numbers(read_pdf(document(1), budget=PdfBudget(document_seconds=1e-9), report=failures.append)) == [1]


@pytest.mark.slow
@POSIX
def test_an_interruption_ends_what_is_rendered_at_once() -> None:
    import threading
    import time
    from contextvars import copy_context

    from nemotron_rag.documents.pdf import interruptible

    slow = stream_object("", "0 0 200 200 re f " * 3_000_000)  # seconds, whatever the machine
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R>>"
    data = raw_pdf(["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>", page, slow])
    failed: list[BaseException] = []

    def reading() -> None:
        try:
            list(read_pdf(data, max_pixels=40_000_000, pdf_engine="mupdf"))
        except NemotronRagError as error:
            failed.append(error)

    with interruptible() as interruption:
        thread = threading.Thread(target=copy_context().run, args=(reading,))
        thread.start()
        time.sleep(2)
        assert thread.is_alive()
        begun = time.monotonic()
        interruption.come()
        thread.join(20)
        assert not thread.is_alive()
        assert time.monotonic() - begun < 5
