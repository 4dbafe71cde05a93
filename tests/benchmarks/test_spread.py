"""The benchmark of Ray runs, on pages that take no time; Ray itself is left out."""

from __future__ import annotations

import json
import pickle

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from benchmarks import spread


def test_it_says_what_each_way_takes(monkeypatch, capsys):
    timed = spread._timed
    monkeypatch.setattr(spread, "_timed", lambda folder, to, seconds, workers: timed(folder, to, seconds, None))
    monkeypatch.setattr(spread, "_warm", lambda folder, to, seconds: timed(folder, to, seconds, None))
    spread.main(["--pages", "3", "--seconds", "0.01"])
    *shown, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["pages"] == 3
    assert min(found["seconds"].values()) >= found["model_seconds"] == pytest.approx(0.03)
    assert len(found["seconds"]) == 3
    assert any("Ray, started before" in line for line in shown)


def test_its_model_can_be_sent_to_workers():
    assert pickle.loads(pickle.dumps(spread.Busy(0.5)))._seconds == 0.5
