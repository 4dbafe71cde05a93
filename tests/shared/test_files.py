"""Files named by their content, and work done a few items ahead."""

from __future__ import annotations

import hashlib
import os
import stat
import threading

import pytest

from nemotron_rag.documents.ahead import map_ahead
from nemotron_rag.documents.files import is_data_uri, write_by_content


def test_a_file_is_named_by_its_content_and_written_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pages"
    path = write_by_content(folder, b"page", suffix=".png")
    digest = hashlib.sha256(b"page").hexdigest()
    assert path == folder / digest[:2] / f"{digest}.png"
    assert path.read_bytes() == b"page"
    os.utime(path, (1, 1))
    assert write_by_content(folder.relative_to(tmp_path), b"page", suffix=".png") == path
    assert path.stat().st_mtime == 1
    assert write_by_content(folder, b"other", suffix=".png") != path
    assert sum(file.is_file() for file in folder.rglob("*")) == 2


@pytest.mark.skipif(os.name == "nt", reason="modes of folders are of POSIX")
def test_a_folder_that_is_made_is_private(tmp_path):
    write_by_content(tmp_path / "pages", b"page", suffix=".png")
    assert stat.S_IMODE((tmp_path / "pages").stat().st_mode) == 0o700


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_by_content(tmp_path / "file", b"page", suffix=".png")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("data:,a", True), ("DATA:image/png;base64,AA==", True), ("data", False), ("/data:", False), (b"data:", False)],
)
def test_data_uris(value, expected):
    assert is_data_uri(value) is expected


def test_results_keep_the_order_and_run_at_the_same_time():
    together = threading.Barrier(3, timeout=20)

    def work(item):
        together.wait()
        return -item

    assert list(map_ahead(work, range(6), threads=3)) == [0, -1, -2, -3, -4, -5]


def test_at_most_so_many_items_are_taken_ahead():
    taken = []
    results = map_ahead(str, (taken.append(n) or n for n in range(10)), threads=3)
    assert taken == []
    assert next(results) == "0"
    assert taken == [0, 1, 2]
    results.close()
    assert taken == [0, 1, 2]


def test_an_error_comes_out_in_its_place():
    def work(item):
        if item == 2:
            raise ValueError("two")
        return item

    found = []
    with pytest.raises(ValueError, match="two"):
        found.extend(map_ahead(work, range(5), threads=2))
    results = map_ahead(work, range(5), threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
