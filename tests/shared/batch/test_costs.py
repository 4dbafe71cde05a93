"""What many pages cost: arithmetic that can be checked by hand, and rates measured here."""

from __future__ import annotations

import json

import pytest

from nemotron_rag.batch.costs import Rates, measure
from nemotron_rag.cli import main
from nemotron_rag.documents.reading import Document
from nemotron_rag.errors import InputError
from nemotron_rag.models import lazy
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder
from support.pages import make_pdf


def test_hours_gpus_and_bytes():
    rates = Rates(render=5, embed=40, write=300, vector_bytes=8192, payload_bytes=2000, image_bytes=300_000)
    costs = rates.costs(100_000_000, gpus=16)
    assert costs.gpu_hours == pytest.approx(100e6 / 40 / 3600)
    assert costs.hours == pytest.approx(costs.gpu_hours / 16)
    assert (costs.render_cpus, costs.writers) == (128, 3)
    assert (costs.vector_bytes, costs.image_bytes) == (8192 * 10**8, 3 * 10**13)
    assert costs.stage_bytes == (8192 + 2000 + 300_000) * 10**8
    in_a_day = rates.costs(100_000_000, hours=24)
    assert (in_a_day.gpus, in_a_day.hours <= 24) == (29, True)
    assert rates.costs(1).gpus == 1


@pytest.mark.parametrize(
    "wrong", [{"render": 0}, {"embed": -1}, {"write": 0}, {"image_bytes": -1}, {"embed": float("inf")}]
)
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Rates(**{"render": 1, "embed": 1, **wrong})
    with pytest.raises(InputError, match="not both"):
        Rates(render=1, embed=1).costs(1, gpus=1, hours=1)
    with pytest.raises(InputError, match="above zero"):
        Rates(render=1, embed=1).costs(0)


@pytest.mark.parametrize("model", [FakeEmbedder(dimensions=24), FakeMultiVectorEmbedder()])
def test_rates_are_measured_with_documents(tmp_path, model):
    pdf = make_pdf(tmp_path / "a.pdf", *(f"text {number}" for number in range(5)))
    rates = measure([Document(pdf, "a.pdf")], model, pages=3)
    assert min(rates.render, rates.embed, rates.write) > 0
    assert rates.vector_bytes == 24 * 4 or rates.vector_bytes % 2 == 0
    assert rates.image_bytes > 100
    assert rates.payload_bytes > 400
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    with pytest.raises(InputError, match="no page to measure"):
        measure([Document(tmp_path / "broken.pdf", "broken.pdf")], model)


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lazy, "load_model", lambda name, *kinds, **options: FakeEmbedder(name=name))
    monkeypatch.setenv("COLUMNS", "160")  # narrower tables fold their numbers
    given = ["estimate", "--render-rate", "5", "--embed-rate", "38.6", "--image-bytes", "300000"]
    assert main([*given, "--pages", "1000000", "--gpus", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rates"]["vector_bytes"] == 8192
    assert found["costs"][0]["hours"] == pytest.approx(1e6 / 38.6 / 3600 / 8)
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert [number in shown for number in ("1,000,000", "100,000,000", "1,000,000,000")] == [True] * 3
    assert main(["estimate"]) == 1
    assert "give DOCUMENTS to measure with" in capsys.readouterr().err
    assert main([*given, "--gpus", "1", "--hours", "2"]) == 1
    pdf = make_pdf(tmp_path / "a.pdf", "one", "two", "three")
    assert main(["estimate", str(pdf), "--embedder", "starter-embed-vl", "--embed-rate", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]
    assert found["rates"]["embed"] == 40
    assert found["rates"]["vector_bytes"] > 0
