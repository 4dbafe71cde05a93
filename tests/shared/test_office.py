"""Office files become pages: the whole way with a stand-in for LibreOffice, and with LibreOffice where it is."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pymupdf
import pytest

from nemotron_rag import PageIndex
from nemotron_rag.documents import office
from nemotron_rag.documents.kinds import kind_of
from nemotron_rag.documents.office import OfficeBudget, speaker_notes, to_pdf
from nemotron_rag.documents.reading import read_document
from nemotron_rag.errors import DocumentError, InputError
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import page_id

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
needs_office = pytest.mark.skipif(
    shutil.which("soffice") is None, reason="needs LibreOffice (apt-get install libreoffice-writer ...)"
)
SECONDS = OfficeBudget(seconds=1)

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
TYPES = f'<Types xmlns="{PACKAGE}/content-types">{{}}</Types>'
OVERRIDE = '<Override PartName="/{}" ContentType="application/vnd.openxmlformats-officedocument.{}+xml"/>'
RELATIONS = f'<Relationships xmlns="{PACKAGE}/relationships">{{}}</Relationships>'
RELATION = f'<Relationship Id="{{}}" Type="{OFFICE}/{{}}" Target="{{}}"/>'
MAIN = "http://schemas.openxmlformats.org/{}/2006/main"
WORD = f'<w:document xmlns:w="{MAIN.format("wordprocessingml")}"><w:body>{{}}</w:body></w:document>'
SLIDES = f'xmlns:p="{MAIN.format("presentationml")}" xmlns:a="{MAIN.format("drawingml")}" xmlns:r="{OFFICE}"'


def package(path: Path, parts: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return path


def docx(path: Path, *paragraphs: str, more: str = "") -> Path:
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs) + more
    return package(
        path,
        {
            "[Content_Types].xml": TYPES.format(
                '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
                + OVERRIDE.format("word/document.xml", "wordprocessingml.document.main")
            ),
            "_rels/.rels": RELATIONS.format(RELATION.format("r1", "officeDocument", "word/document.xml")),
            "word/document.xml": WORD.format(body),
        },
    )


def pptx(path: Path, notes: dict[int, str], *, slides: int = 2) -> Path:
    """A presentation as far as speaker notes need it; its parts are not numbered in the order of the slides."""
    ids = "".join(f'<p:sldId id="{256 + n}" r:id="s{n}"/>' for n in range(1, slides + 1))
    parts = {
        "_rels/.rels": RELATIONS.format(RELATION.format("r1", "officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f"<p:presentation {SLIDES}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": RELATIONS.format(
            "".join(
                RELATION.format(f"s{n}", "slide", f"slides/slide{slides + 1 - n}.xml") for n in range(1, slides + 1)
            )
        ),
    }
    for n, text in notes.items():
        part = slides + 1 - n
        lines = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in text.split("\n"))
        parts[f"ppt/slides/_rels/slide{part}.xml.rels"] = RELATIONS.format(
            RELATION.format("n", "notesSlide", f"../notesSlides/notes{part}.xml")
        )
        parts[f"ppt/notesSlides/notes{part}.xml"] = (
            f'<p:notes {SLIDES}><p:sp><p:nvPr><p:ph type="sldNum"/></p:nvPr><a:p><a:r><a:t>7</a:t></a:r></a:p></p:sp>'
            f'<p:sp><p:nvPr><p:ph type="body" idx="1"/></p:nvPr><p:txBody>{lines}</p:txBody></p:sp></p:notes>'
        )
    return package(path, parts)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a program in the place of LibreOffice; it notes each run beside itself."""

    def install(body: str = "write(PDF)", pages: tuple[str, ...] = ("Slide one", "Slide two")) -> Path:
        pdf = pymupdf.open()
        for text in pages:
            pdf.new_page(width=300, height=200).insert_text((20, 50), text)
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        pdf.save(folder / "result.pdf")
        program = folder / "soffice"
        program.write_text(
            f"#!{sys.executable} -I\n"
            + textwrap.dedent(f"""
            import os, signal, socket, subprocess, sys, time
            from pathlib import Path
            PDF = Path({str(folder / "result.pdf")!r}).read_bytes()
            out = Path(sys.argv[sys.argv.index("--outdir") + 1])
            given = Path(sys.argv[-1])
            with open({str(folder / "runs")!r}, "a") as runs:
                runs.write(f"{{given.name}} {{os.getpid()}}\\n")
            def write(data):
                out.mkdir(exist_ok=True)
                (out / (given.stem + ".pdf")).write_bytes(data)
            """)
            + textwrap.dedent(body)
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return folder

    return install


def runs(folder: Path) -> list[str]:
    noted = folder / "runs"
    return noted.read_text().splitlines() if noted.exists() else []


def texts(path: Path, **options) -> list[str]:
    return [page.text for page in read_document(path, ocr="never", on_error="raise", **options)]


def test_pages_cite_the_file_that_they_came_from(tmp_path, stand_in):
    stand_in()
    path = pptx(tmp_path / "talk.pptx", {2: "Say this.\nAnd that."})
    first, second = read_document(path, ocr="never", name="talk.pptx")
    assert (first.source, first.number, second.number) == ("talk.pptx", 1, 2)
    assert (first.text, second.text) == ("Slide one", "Slide two\n\nSpeaker notes:\nSay this.\nAnd that.")
    assert first.metadata["format"] == "pptx"
    assert "created" not in first.metadata
    import hashlib

    assert second.id == page_id(hashlib.sha256(path.read_bytes()).hexdigest(), 2)


def test_a_content_is_converted_once_in_a_private_folder(tmp_path, stand_in):
    folder = stand_in()
    path = docx(tmp_path / "a.docx", "Revenue rose.")
    copy = tmp_path / "other name.bin"
    shutil.copy(path, copy)
    assert texts(path) == texts(path) == texts(copy) == ["Slide one", "Slide two"]
    assert texts(path.read_bytes()) == ["Slide one", "Slide two"]
    assert len(runs(folder)) == 1
    for kept in (tmp_path / "cache").rglob("*"):
        assert stat.S_IMODE(kept.stat().st_mode) & 0o077 == 0 or kept.name in ("cache", "nemotron-rag")
    docx(path, "Revenue fell.")
    assert texts(path) == ["Slide one", "Slide two"]
    assert len(runs(folder)) == 2


def test_where_the_cache_cannot_be_written_it_works_all_the_same(tmp_path, stand_in, monkeypatch):
    folder = stand_in()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = docx(tmp_path / "a.docx", "Revenue rose.")
    assert texts(path) == ["Slide one", "Slide two"]
    assert len(runs(folder)) == 1


def test_the_cache_has_a_size(tmp_path, stand_in):
    stand_in()
    kept = []
    for number in range(3):
        path = docx(tmp_path / f"{number}.docx", f"Text {number}")
        with to_pdf(path, "docx", budget=OfficeBudget(cache_bytes=1)) as pdf:
            kept.append(pdf)
        os.utime(pdf, (0, 0))  # last used long ago
    assert [pdf.exists() for pdf in kept] == [False, False, True]


def test_an_index_takes_office_files_and_names_the_rest(tmp_path, stand_in):
    stand_in()
    docs = tmp_path / "docs"
    docs.mkdir()
    docx(docs / "report.docx", "x")
    (docs / "notes.md").write_text("# Storms\n\n| a | b |\n|---|---|\n| tornado | 4 |\n")
    (docs / "tool.py").write_text("print()")
    (docs / "~$report.docx").write_bytes(b"lock")
    with PageIndex(tmp_path / "docs" / "index", embedder=FakeEmbedder()) as index:
        report = index.add(docs, progress=False)
        assert (report.added, report.failures) == (3, ())
        assert [Path(name).name for name in report.left_out] == ["tool.py"]
        assert index.search("tornado", k=1)[0].page.metadata["format"] == "md"
        report = index.add(docs, progress=False)  # the images of the index's own pages are no documents
        assert (report.added, report.unchanged) == (0, 3)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("sys.exit(3)", "could not be converted by LibreOffice: it ended with status 3"),
        ("print('Error: source file could not be loaded')", "Error: source file could not be loaded"),
        ("write(b'not a PDF')", "could not be converted by LibreOffice"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "could not be converted by LibreOffice"),
        ("time.sleep(60)", "took LibreOffice longer than 1 seconds; raise OfficeBudget.seconds"),
        ("block = bytearray(2**40)", "MemoryError"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, stand_in, body, says):
    stand_in(body)
    path = docx(tmp_path / "a.docx", "x")
    failures = []
    assert list(read_document(path, name="a.docx", report=failures.append, office_budget=SECONDS)) == []
    (failure,) = failures
    assert failure.source == "a.docx"
    assert says in failure.reason
    assert "\n" not in failure.reason
    with pytest.raises(DocumentError, match=r"a\.docx: "):
        list(read_document(path, name="a.docx", on_error="raise", office_budget=SECONDS))


def test_too_much_on_disk_ends_it(tmp_path, stand_in):
    stand_in(
        """
        out.mkdir()
        for n in range(1000):
            (out / str(n)).write_bytes(bytes(2**20))
            time.sleep(0.01)
        time.sleep(60)
        """
    )
    path = docx(tmp_path / "a.docx", "x")
    with pytest.raises(DocumentError, match="made LibreOffice write more than"):
        texts(path, office_budget=OfficeBudget(seconds=30, disk_bytes=10 * 2**20))


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


CHILDREN = """
pipe = socket.socket(socket.AF_UNIX)
place = "/tmp/OSL_PIPE_0_test_" + str(os.getpid())  # as LibreOffice has one
pipe.bind(place)
pipe.listen()
sleeper = [sys.executable, "-I", "-c", "import time; time.sleep(300)"]
one = subprocess.Popen(sleeper)
other = subprocess.Popen(sleeper, start_new_session=True)
with open(Path(__file__).with_name("children"), "w") as file:
    file.write(f"{one.pid} {other.pid}")
"""


@linux
@pytest.mark.parametrize("end", ["time.sleep(300)", "write(PDF)"])
def test_it_is_ended_with_all_its_children(tmp_path, stand_in, end):
    folder = stand_in(CHILDREN + end)
    path = docx(tmp_path / "a.docx", "x")
    list(read_document(path, report=lambda failure: None, office_budget=OfficeBudget(seconds=3)))
    pids = [int(pid) for pid in (folder / "children").read_text().split()]
    pids += [int(run.split()[1]) for run in runs(folder)]
    assert len(pids) == 3
    assert not [pid for pid in pids if _alive(pid)]
    pipe = Path(f"/tmp/OSL_PIPE_0_test_{pids[2]}")
    assert not pipe.exists() or end != "time.sleep(300)" or not _can_leave_the_network()
    pipe.unlink(missing_ok=True)


@linux
@pytest.mark.slow
def test_it_ends_when_the_program_is_killed(tmp_path, stand_in):
    folder = stand_in(CHILDREN + "time.sleep(300)")
    path = docx(tmp_path / "a.docx", "x")
    code = f"from nemotron_rag.documents.reading import read_document\nlist(read_document({str(path)!r}))"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(scratch)})
    deadline = time.monotonic() + 60
    while not (folder / "children").exists() or not (folder / "children").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    program.kill()
    program.wait()
    pids = [int(pid) for pid in (folder / "children").read_text().split()] + [int(runs(folder)[0].split()[1])]
    while any(map(_alive, pids)) or list(scratch.glob("*/profile")):  # its files go, too
        assert time.monotonic() < deadline
        time.sleep(0.05)


@linux
def test_it_has_no_network_and_no_proxy_that_leads_to_one(tmp_path, stand_in):
    folder = stand_in(
        """
        Path(__file__).with_name("found").write_text("|".join([os.environ["http_proxy"], open("/proc/net/dev").read()]))
        write(PDF)
        """
    )
    texts(docx(tmp_path / "a.docx", "x"))
    proxy, devices = (folder / "found").read_text().split("|", 1)
    assert proxy == "http://127.0.0.1:9"
    if _can_leave_the_network():
        assert [line.split(":")[0].strip() for line in devices.splitlines()[2:]] == ["lo"]


def _can_leave_the_network() -> bool:
    return subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0


def test_its_profile_forbids_macros_and_links(tmp_path, stand_in):
    folder = stand_in(
        """
        place = next(word for word in sys.argv if word.startswith("-env:UserInstallation=file://"))
        profile = Path(place.partition("file://")[2], "user", "registrymodifications.xcu")
        Path(__file__).with_name("profile").write_text(profile.read_text())
        write(PDF)
        """
    )
    texts(docx(tmp_path / "a.docx", "x"))
    profile = (folder / "profile").read_text()
    for name, value in (
        ("MacroSecurityLevel", "3"),
        ("DisableMacrosExecution", "true"),
        ("BlockUntrustedRefererLinks", "true"),
    ):
        assert f'oor:name="{name}"' in profile
        assert f"<value>{value}</value>" in profile.partition(f'oor:name="{name}"')[2].partition("</prop>")[0]


def test_nothing_is_left_in_temporary_folders(tmp_path, stand_in, monkeypatch):
    stand_in()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    texts(docx(tmp_path / "a.docx", "x"))
    stand_in("time.sleep(60)")
    list(read_document(docx(tmp_path / "b.docx", "y"), report=lambda failure: None, office_budget=SECONDS))
    assert list(scratch.iterdir()) == []


def test_without_libreoffice_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("nemotron_rag.documents.office._soffice._PLACES", ())
    assert not office.office_available()
    docx(tmp_path / "a.docx", "x")
    (tmp_path / "b.txt").write_text("Tornadoes form in thunderstorms.")
    with PageIndex(embedder=FakeEmbedder()) as index:
        report = index.add([tmp_path / "a.docx", tmp_path / "b.txt"], progress=False)
    assert report.added == 1
    (failure,) = report.failures
    assert "needs LibreOffice" in failure.reason
    assert "apt-get install" in failure.reason


def test_bombs_are_refused_before_anything_is_opened(tmp_path, stand_in):
    folder = stand_in()
    bomb = tmp_path / "bomb.docx"
    docx(bomb, "x")
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/media/zeros.bin", bytes(3 * 2**20))
    with pytest.raises(DocumentError, match=r"unpacks to .* bytes, more than the 2097152 allowed"):
        texts(bomb, office_budget=OfficeBudget(max_unpacked=2 * 2**20))
    with pytest.raises(DocumentError, match="holds 4 files, more than the 3 allowed"):
        texts(bomb, office_budget=OfficeBudget(max_entries=3))
    with pytest.raises(DocumentError, match="more than the 100 allowed"):
        texts(bomb, office_budget=OfficeBudget(max_bytes=100))
    assert runs(folder) == []


def test_encrypted_files_are_said_to_be_so(tmp_path, stand_in):
    folder = stand_in()
    old = tmp_path / "secret.docx"
    old.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le"))
    manifest = '<manifest:manifest xmlns:manifest="urn"><manifest:encryption-data/></manifest:manifest>'
    new = package(
        tmp_path / "secret.odt",
        {"mimetype": "application/vnd.oasis.opendocument.text", "META-INF/manifest.xml": manifest},
    )
    for path in (old, new):
        with pytest.raises(DocumentError, match="is encrypted; save it without a password"):
            texts(path)
    assert runs(folder) == []


@pytest.mark.parametrize(
    "part",
    [
        "<a>" * 5000 + "</a>" * 5000,
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
        "<not closed",
        "",
    ],
)
def test_notes_that_cannot_be_read_cost_no_page(tmp_path, stand_in, part, caplog):
    stand_in()
    path = pptx(tmp_path / "talk.pptx", {})
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    package(path, parts | {"ppt/presentation.xml": part})
    assert texts(path) == ["Slide one", "Slide two"]
    assert "its speaker notes cannot be read" in caplog.text


def test_notes_belong_to_their_slides(tmp_path):
    assert speaker_notes(pptx(tmp_path / "a.pptx", {1: "one", 3: "three"}, slides=3), "pptx") == {1: "one", 3: "three"}
    content = (
        '<office:document-content xmlns:office="o" xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" '
        'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
        'xmlns:presentation="urn:oasis:names:tc:opendocument:xmlns:presentation:1.0">'
        "<draw:page><text:p>on the slide</text:p></draw:page>"
        "<draw:page><presentation:notes><text:p>two<text:span>!</text:span></text:p><text:p>b</text:p></presentation:notes>"
        "</draw:page></office:document-content>"
    )
    path = package(tmp_path / "a.odp", {"content.xml": content})
    assert speaker_notes(path, "odp") == {2: "two!\nb"}


def test_an_open_document_that_does_not_begin_with_what_it_is_is_one_all_the_same(tmp_path):
    """Packed again by hand, its type is somewhere in the middle; its thumbnail makes no comic of it."""
    parts = {"content.xml": "<x/>", "Thumbnails/thumbnail.png": "x", "META-INF/manifest.xml": "<x/>"}
    for name, kind in [("a.odt", "odt"), ("a.ods", "ods"), ("a.zip", "odt")]:
        assert kind_of(package(tmp_path / name, parts)) == kind
    with zipfile.ZipFile(tmp_path / "b.ods", "w") as archive:
        for part, text in {"mimetype": "application/vnd.oasis.opendocument.text", **parts}.items():
            archive.writestr(part, text)
    assert kind_of(tmp_path / "b.ods") == "odt"


def test_a_budget_is_checked():
    with pytest.raises(InputError, match=r"OfficeBudget\.seconds must be a positive number, got 0"):
        OfficeBudget(seconds=0)


@needs_office
@pytest.mark.slow
def test_libreoffice_converts_a_document(tmp_path):
    path = docx(tmp_path / "report.docx", "Revenue rose by four per cent.")
    assert kind_of(path) == "docx"
    (page,) = read_document(path, ocr="never", on_error="raise")
    assert page.text == "Revenue rose by four per cent."
    rtf = tmp_path / "letter.doc"  # an RTF file that is called otherwise
    rtf.write_text(r"{\rtf1\ansi Tornadoes form in thunderstorms.\par}")
    (page,) = read_document(rtf, ocr="never", on_error="raise")
    assert (page.text, page.metadata["format"]) == ("Tornadoes form in thunderstorms.", "rtf")


@needs_office
@pytest.mark.slow
@pytest.mark.enable_socket
def test_libreoffice_fetches_nothing(tmp_path):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.settimeout(0.2)
    asked: list[object] = []
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            try:
                connection, peer = listener.accept()
            except TimeoutError:
                continue
            asked.append(peer)
            connection.close()

    thread = threading.Thread(target=listen)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/secret"
    rtf = tmp_path / "link.rtf"
    rtf.write_text(
        r"{\rtf1\ansi Before. {\field{\*\fldinst INCLUDEPICTURE \"" + address + r".png\" \\d}{\fldrslt x}} "
        r"{\field{\*\fldinst INCLUDETEXT \"" + address + r".txt\"}{\fldrslt y}} After.\par}"
    )
    flat = tmp_path / "link.fods"
    flat.write_text(
        '<?xml version="1.0"?><office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
        'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
        'xmlns:of="urn:oasis:names:tc:opendocument:xmlns:of:1.2" '
        'office:mimetype="application/vnd.oasis.opendocument.spreadsheet" office:version="1.2"><office:body>'
        '<office:spreadsheet><table:table table:name="Sales"><table:table-row><table:table-cell '
        f'table:formula="of:=WEBSERVICE(&quot;{address}&quot;)"/></table:table-row></table:table>'
        "</office:spreadsheet></office:body></office:document>"
    )
    try:
        for path in (rtf, flat):
            list(read_document(path, report=lambda failure: None))
    finally:
        done.set()
        thread.join()
        listener.close()
    assert asked == []
