"""The benchmark of the engines measures both, and prints what it found."""

from __future__ import annotations

import json

import pytest
from qdrant_client import QdrantClient

from benchmarks import store


@pytest.mark.slow
@pytest.mark.parametrize("vectors", [1, 5])
@pytest.mark.parametrize("engine", store.ENGINES)
def test_each_part_measures_an_engine(tmp_path, engine, vectors):
    folders = [tmp_path / "add", tmp_path / "put"]
    for folder in folders if engine == "local" else ():
        QdrantClient(path=str(folder)).close()
    found = {}
    for part, folder in (("add", folders[0]), ("put", folders[1]), ("search", folders[0])):
        found |= store.PARTS[part](folder, 12, vectors)
    assert all(value > 0 for value in found.values())
    assert (folders[0] / "edge").exists() == (engine == "edge")


def test_the_table_and_the_line_for_programs(monkeypatch, capsys):
    monkeypatch.setattr(store, "_measure", lambda engine, given: {"add pages/s": 1200.0 if engine == "edge" else 100.0})
    store.main(["--pages", "12"])
    printed = capsys.readouterr().out
    assert "12 pages of one vector" in printed
    assert "1200" in printed
    assert "0.08 x" in printed
    assert json.loads(printed.splitlines()[-1])["results"]["local"] == {"add pages/s": 100.0}
