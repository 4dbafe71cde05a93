"""compile=True: the tower is compiled, and its results are the same."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.errors import InputError
from nemotron_rag.runtime.features import vision_features
from support.contracts import make_image, mixed_passages
from support.devices import either_device


@pytest.fixture(autouse=True)
def _no_kept_features(monkeypatch):
    monkeypatch.setattr(vision_features, "max_bytes", 0)
    vision_features.clear()


@pytest.mark.slow
def test_a_compiled_tower_gives_the_same(reference, monkeypatch):
    """The graph is captured and run as it is: what the compiler makes of it differs from machine to machine."""
    compiled = []

    def capture(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=capture))
    model = load_embedder(reference / "embed_vl_open_1", device="cpu", compile=True)
    plain = load_embedder(reference / "embed_vl_open_1", device="cpu")
    assert model._model is not plain._model
    passages = mixed_passages()
    np.testing.assert_allclose(model.embed_passages(passages), plain.embed_passages(passages), atol=1e-5)
    graphs = len(compiled)
    assert graphs > 0
    for count in (2, 3, 5):
        model.embed_passages([Passage(image=make_image(i, (200, 280))) for i in range(count)])
    assert len(compiled) <= graphs + 1  # not one for each number of tiles


def test_models_without_such_a_tower_say_so(reference):
    with pytest.raises(InputError, match="has no use for compile"):
        load_embedder(reference / "embed_text_open_1", device="cpu", compile=True)


@pytest.mark.slow
@either_device
def test_the_compiler_gives_the_same_on_the_device(reference, device, monkeypatch):
    """Compiled in earnest on a GPU; on a CPU captured only."""
    if device == "cpu":
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    passages = [Passage(image=make_image(i, (200, 280))) for i in range(5)]
    compiled, plain = (
        load_reranker(reference / "rerank_vl_open_1", device=device, compile=compile) for compile in (True, False)
    )
    assert compiled._model is not plain._model
    np.testing.assert_allclose(compiled.score("q", passages), plain.score("q", passages), atol=2e-2)
