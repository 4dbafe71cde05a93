"""Sources behind fsspec URLs: the same index as from a folder, and no secret in it."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from nemotron_rag.batch.stages import RenderPages, span_rows
from nemotron_rag.cli import main
from nemotron_rag.documents.copies import Copies
from nemotron_rag.documents.urls import check_url, find_urls, is_url, url_below
from nemotron_rag.errors import DocumentError, InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.models import lazy
from support.pages import CountingEmbedder, add, make_pdf, text_page

SECRET = "hunter2hunter2"


class Guarded(MemoryFileSystem):
    """A store that knows a secret, counts what is asked of it, and tells the secret in its errors."""

    protocol = "guarded"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    asked: ClassVar[list] = []

    def __init__(self, *args, key=SECRET, **options):
        super().__init__(*args, key=key, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("guarded://", "memory://"))

    def find(self, path, **options):
        self.asked.append("find")
        if "forbidden" in path:
            raise PermissionError(f"the key {SECRET} may not list https://me:{SECRET}@host/x?sig={SECRET}")
        return super().find(path, **options)

    def _open(self, path, mode="rb", **options):
        if "rb" in mode:
            self.asked.append(path)
            if "locked" in path:
                raise PermissionError(f"the key {SECRET} may not read")
        return super()._open(path, mode, **options)


@pytest.fixture(autouse=True)
def _clean():
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    for part in (Guarded.store, Guarded.asked):
        part.clear()
    Guarded.pseudo_dirs[:] = [""]
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def docs(tmp_path) -> Path:
    for name in ("a.pdf", "sub/b c.pdf", "same-as-a.pdf", ".hidden/x.pdf"):
        make_pdf(tmp_path / "docs" / name, f"text of {Path(name).name}", "second page")
    shutil.copy(tmp_path / "docs/a.pdf", tmp_path / "docs/same-as-a.pdf")
    shutil.copy(tmp_path / "docs/a.pdf", tmp_path / "docs/without-ending")
    (tmp_path / "docs/notes.txt").write_text("Tornadoes form in thunderstorms.")
    (tmp_path / "docs/code.c").write_text("int main;")
    (tmp_path / "docs/broken.pdf").write_bytes(b"%PDF-1.7 broken")
    return tmp_path / "docs"


@pytest.fixture(params=["memory", "zip", "file", "guarded"])
def url(request, docs, tmp_path):
    if request.param == "file":
        yield docs.as_uri()
    elif request.param == "zip":
        with zipfile.ZipFile(tmp_path / "docs.zip", "w") as archive:
            for path in docs.rglob("*"):
                archive.write(path, path.relative_to(docs))
        yield f"zip://::{tmp_path / 'docs.zip'}"
    else:
        fs = fsspec.filesystem(request.param)
        fs.put(str(docs), "/bucket/docs", recursive=True)
        Guarded.asked.clear()
        yield f"{request.param}://bucket/docs/"


def contents(index):
    stored = {page.page.id: page for page in index._state.store.pages(texts=True)}
    vectors = {id: rows.tolist() for id, rows in index._state.store.vectors(list(stored)).items()}
    texts = {id: (page.page.number, page.page.text, page.content_hash) for id, page in stored.items()}
    return texts, vectors, {id: index._state.images.of(page).open().tobytes() for id, page in stored.items()}


def test_a_url_gives_the_index_of_the_folder(url, docs):
    with PageIndex(embedder=CountingEmbedder()) as one, PageIndex(embedder=CountingEmbedder()) as other:
        expected, report = add(one, docs), add(other, url)
        assert contents(one) == contents(other)
        assert (report.added, report.unchanged) == (expected.added, expected.unchanged) == (5, 4)
        assert [failure.reason for failure in report.failures] == [each.reason for each in expected.failures]
        assert len(report.left_out) == len(expected.left_out) == 1
        base = check_url(url) if not url.startswith("file") else docs.as_posix()
        names = ["a.pdf", "notes.txt", "same-as-a.pdf", "sub/b c.pdf", "without-ending"]
        assert other.sources() == [url_below(base, name) if is_url(base) else f"{base}/{name}" for name in names]
        again = add(other, url)
        assert (again.added, again.unchanged) == (0, 9)
        first = other.sources()[0]
        assert other.count({"source": first}) == 2
        assert other.delete(first) == 0  # its pages are those of another file too
        assert first not in other.sources()


def test_one_file_at_a_url(url, docs):
    with PageIndex(embedder=CountingEmbedder()) as index:
        one = f"{url.rstrip('/')}/a.pdf" if "::" not in url else url_below(url, "a.pdf")
        assert add(index, [one]).added == 2
        assert "gone" in add(index, [one.replace("a.pdf", "gone.pdf")]).failures[0].source


def test_sync_follows_what_is_behind_a_url(docs):
    fs = fsspec.filesystem("memory")
    fs.put(str(docs), "/bucket/docs", recursive=True)
    with PageIndex(embedder=CountingEmbedder()) as index:
        add(index, ["memory://bucket/docs", "memory://bucket/docs/.hidden/x.pdf", docs])
        fs.rm("/bucket/docs/sub/b c.pdf")
        report = index.sync("memory://bucket/docs", progress=False)
        assert report.removed == 0  # its pages are those of the file in the folder
        assert "memory://bucket/docs/sub/b c.pdf" not in index.sources()
        assert "memory://bucket/docs/.hidden/x.pdf" in index.sources()
        assert f"{docs.as_posix()}/sub/b c.pdf" in index.sources()
        fs.rm("/bucket", recursive=True)
        before = index.sources()
        with pytest.raises(InputError, match="there is no folder memory://bucket/docs"):
            index.sync("memory://bucket/docs", progress=False)
        assert index.sources() == before


def test_prune_on_the_command_line(docs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lazy, "load_model", lambda name, *kinds, **options: CountingEmbedder())

    def archive(*names):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
            for name in names:
                file.write(docs / name, name)

    command = ["index", f"zip://::{tmp_path / 'x.zip'}", "--to", str(tmp_path / "index"), "--prune"]
    command += ["--embedder", "starter-embed-vl"]
    archive("a.pdf", "sub/b c.pdf")
    assert main(command) == 0
    assert "4 pages added" in capsys.readouterr().out
    archive("a.pdf")
    assert main(command) == 0
    assert "0 pages added, 2 unchanged, 2 removed" in capsys.readouterr().out


def test_a_listing_that_failed_removes_nothing():
    fs = fsspec.filesystem("guarded")
    with fs.open("/forbidden/a.txt", "wb") as file:
        file.write(b"some text")
    with PageIndex(embedder=CountingEmbedder()) as index:
        add(index, "guarded://forbidden/a.txt")
        fs.rm("/forbidden/a.txt")
        with fs.open("/forbidden/b.txt", "wb") as file:
            file.write(b"other text")
        report = index.sync("guarded://forbidden", progress=False)
        assert (report.removed, len(report.failures)) == (0, 1)
        assert index.sources() == ["guarded://forbidden/a.txt"]


def test_listed_once_and_read_once(docs):
    fs = fsspec.filesystem("guarded")
    fs.put(str(docs), "/bucket/docs", recursive=True)
    Guarded.asked.clear()
    with PageIndex(embedder=CountingEmbedder()) as index:
        index.sync(["guarded://bucket/docs"], progress=False)
    read = [each for each in Guarded.asked if each != "find"]
    assert Guarded.asked.count("find") == 1
    assert len(read) - len(set(read)) == 1  # the one whose name does not say what it is


def test_a_secret_is_nowhere(caplog, capsys, monkeypatch):
    monkeypatch.setenv("GUARDED_ACCESS_KEY", SECRET)
    fs = fsspec.filesystem("guarded")
    for name in ("/b/locked.pdf", "/forbidden/x.pdf"):
        with fs.open(name, "wb") as file:
            file.write(b"%PDF-")
    caplog.set_level(logging.DEBUG)
    with PageIndex(embedder=CountingEmbedder()) as index:
        report = add(index, ["guarded://b", "guarded://forbidden"])
    assert [failure.source for failure in report.failures] == ["guarded://b/locked.pdf", "guarded://forbidden"]
    shown = f"{report} {caplog.text} {capsys.readouterr()} {find_urls('guarded://b')!r}"
    assert "PermissionError" in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://me:{SECRET}@host/a.pdf",
        f"ftp://me:{SECRET}/{SECRET}@host/a.pdf",
        f"https://{SECRET}@host/a.pdf",
        f"https://host/a.pdf?X-Amz-Signature={SECRET}",
        f"zip://a.pdf::https://me:{SECRET}@host/x.zip",
        f"zip://a.pdf::https://host/x.zip?sig={SECRET}",
        "reference://::memory://refs.json",
        "file://host/a.pdf",
    ],
)
def test_a_url_with_a_secret_or_that_reads_other_places_is_refused(url, caplog, capsys, tmp_path):
    with PageIndex(embedder=CountingEmbedder()) as index:
        report = add(index, [url])
        with pytest.raises(InputError) as error:
            index.sync(url, progress=False)
    assert len(report.failures) == 1
    assert main(["index", url, "--to", str(tmp_path / "index"), "--embedder", "starter-embed-vl"]) == 1
    assert SECRET not in f"{report} {error.value} {caplog.text} {capsys.readouterr()}"


def test_what_is_not_installed_is_named():
    with PageIndex(embedder=CountingEmbedder()) as index:
        (failure,) = add(index, ["nosuch://bucket/a.pdf"]).failures
    assert "nosuch" in failure.reason


def test_a_file_beyond_the_budget_is_not_read(docs):
    fs = fsspec.filesystem("guarded")
    with fs.open("/b/a.txt", "wb") as file:
        file.write(b"x" * 100)
    Guarded.asked.clear()
    (found,) = find_urls("guarded://b").files
    with Copies(max_bytes=99) as copies, pytest.raises(DocumentError, match="100 bytes, more than the 99 allowed"):
        copies.fetch(found)
    assert "/b/a.txt" not in Guarded.asked
    lying = type(found)(found.url, fs, found.path, 5)
    with Copies(max_bytes=99) as copies:
        with pytest.raises(DocumentError, match="more than 99 bytes"):
            copies.fetch(lying)
        assert [path.name for path in Path(copies._folder).iterdir()] == [".in-use"]


def test_the_images_of_the_index_are_no_documents(docs):
    fs = fsspec.filesystem("memory")
    fs.put(str(docs / "a.pdf"), "/all/a.pdf")
    with PageIndex(embedder=CountingEmbedder(), images="memory://all/images") as index:
        assert add(index, "memory://all").added == 2
        assert add(index, "memory://all").added == 0
        assert add(index, docs).added > 0
    with PageIndex(embedder=CountingEmbedder(), images=docs / "images") as index:
        added = add(index, docs).added
        assert (add(index, docs).added, index.count()) == (0, added)


def test_spans_of_a_url_are_copied_once_and_a_change_is_seen(docs, tmp_path):
    shutil.make_archive(str(tmp_path / "x"), "zip", docs)
    url = f"zip://a.pdf::{tmp_path / 'x.zip'}"
    with Copies() as copies:
        copy = copies.get(url)
        assert copies.get(url, digest=copy.digest) is copy
        for name in ("sub/b c.pdf", "notes.txt", "same-as-a.pdf", "without-ending"):
            copies.get(url_below(f"zip://::{tmp_path / 'x.zip'}", name))
        assert not copy.path.exists()
    render, options = RenderPages(), {"source": url, "content_hash": copy.digest, "metadata": {}, "size": 1}
    rows = render(span_rows(url, [1, 2], **options))
    assert [(row["number"], row["error"]) for row in rows] == [(1, None), (2, None)]
    (row,) = RenderPages()(span_rows(url, [1], **{**options, "content_hash": "0" * 64}))
    assert "has changed since it was listed" in row["error"]


def test_names_in_an_archive_are_only_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../../up.txt", "a::b.txt", "q?x=1.txt", "ok/é ü.txt", "empty.txt"):
            archive.writestr(name, "" if "empty" in name else "words of a text")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nonsense")
    url = f"zip://::{tmp_path / 'x.zip'}"
    with PageIndex(embedder=CountingEmbedder()) as index:
        report = add(index, [url, f"zip://::{tmp_path / 'broken.zip'}"])
        assert index.sources() == [url_below(url, "ok/é ü.txt"), url_below(url, "q?x=1.txt")]
    reasons = sorted(failure.reason for failure in report.failures)
    assert [reason.split(":")[0] for reason in reasons] == [
        "cannot be opened",
        "is empty",
        "two colons in the name of a file; rename it",
    ]
    with Copies() as copies:  # as workers do, by the name that was listed
        assert copies.get(url_below(url, "q?x=1.txt")).path.read_text() == "words of a text"


_KILLED = """
import os, sys
from nemotron_rag.documents.copies import Copies
copies = Copies()
copies.get(sys.argv[1])
print(copies._folder, flush=True)
os._exit(9) if sys.argv[2] == "killed" else None
"""


def test_copies_go_with_the_process_and_those_of_a_killed_one_with_the_next(docs, tmp_path, monkeypatch):
    shutil.make_archive(str(tmp_path / "x"), "zip", docs)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    folders = []
    for how in ("killed", "ended"):
        command = [sys.executable, "-c", _KILLED, f"zip://a.pdf::{tmp_path / 'x.zip'}", how]
        folders.append(Path(subprocess.run(command, env=env, capture_output=True, check=False).stdout.decode().strip()))
    assert [folder.exists() for folder in folders] == [True, False]
    os.utime(folders[0], (1, 1))
    with Copies() as copies:
        copies.get(f"zip://a.pdf::{tmp_path / 'x.zip'}")
        assert not folders[0].exists()
        os.utime(copies._folder, (1, 1))
        with Copies() as others:
            others.get(f"zip://a.pdf::{tmp_path / 'x.zip'}")
        assert Path(copies._folder).exists()


def test_names_of_pages_that_were_never_urls_of_files_are_found(tmp_path):
    source = "https://me:pw@example.com/a.pdf?page=1"
    with PageIndex(embedder=CountingEmbedder()) as index:
        add(index, [text_page(1, "words", source=source)])
        assert index.count({"source": source}) == index.count({"source": {"eq": source}}) == 1
        assert index.delete(source) == 1


def test_names():
    assert [is_url(each) for each in ("s3://b", "zip://a::s3://b/x", "simplecache::s3://b", "a::b.pdf", "c:/x", 3)] == [
        *(True, True, True),
        *(False, False, False),
    ]
    assert check_url("S3://bucket/x//") == "s3://bucket/x"
    assert check_url("sftp://me@host:22/x") == "sftp://me@host:22/x"
    assert pickle.loads(pickle.dumps(find_urls("memory://nothing-there"))) is None
