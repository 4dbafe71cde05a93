"""What all components share: importing and constructing cost nothing, one model for all, copies, pickles, closing."""

from __future__ import annotations

import copy
import doctest
import gc
import importlib
import pickle
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import Document

import langchain_nemotron_rag
from langchain_nemotron_rag import NemotronEmbeddings, NemotronRerank
from nemotron_rag.errors import CheckpointError, ClosedError, UnknownModelError
from nemotron_rag.models.load import load_model
from nemotron_rag.testing import FakeReranker

DOCUMENTS = [Document("Bread needs flour."), Document("Tornadoes form in thunderstorms.")]


def test_names_are_sorted_and_there():
    names = langchain_nemotron_rag.__all__
    assert names == sorted(names)
    assert all(hasattr(langchain_nemotron_rag, name) for name in names)


@pytest.mark.slow
def test_importing_and_constructing_load_no_torch_and_no_classic():
    code = """
import sys
from langchain_nemotron_rag import *
NemotronRerank(), NemotronEmbeddings(), PDFPageParser()
heavy = {"torch", "transformers", "pymupdf", "langchain", "langchain_classic", "langchain_community"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("component", [NemotronRerank, NemotronEmbeddings])
def test_an_unknown_name_is_refused_at_once(component):
    with pytest.raises(UnknownModelError, match="one of: "):
        component(model="no-such-model")
    made = component()
    with pytest.raises(UnknownModelError, match="one of: "):
        made.model = "no-such-model"
    assert made.model == component().model
    assert made.model_fields_set == set()


def test_threads_that_race_load_once(reference, monkeypatch):
    loaded = []

    def loading(*name_and_kind, **settings):
        loaded.append(load_model(*name_and_kind, **settings))
        return loaded[-1]

    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", loading)
    rerank = NemotronRerank(model=reference / "rerank_vl_open_1", device="cpu")
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: rerank.load(), range(8)))
    assert len(loaded) == 1
    assert all(model is loaded[0] for model in models)


def test_equal_settings_share_weights_and_close_apart(reference):
    one, other = (NemotronRerank(model=reference / "rerank_vl_open_1", device="cpu") for _ in range(2))
    wanted = one.rerank(DOCUMENTS, "q")
    weights = weakref.ref(one.load()._model)
    assert other.load()._model is weights()
    one.close()
    one.close()
    assert other.rerank(DOCUMENTS, "q") == wanted
    other.close()
    gc.collect()
    assert weights() is None, "closing the last one frees the memory"
    assert one.rerank(DOCUMENTS, "q") == wanted, "a closed component loads again"


def test_a_model_that_was_passed_in_is_not_ours_to_close():
    model = FakeReranker()
    NemotronRerank(model=model).close()
    assert model.score("a", []).shape == (0,)
    model.close()
    with pytest.raises(ClosedError):
        NemotronRerank(model=model).compress_documents(DOCUMENTS, "q")


def test_a_changed_setting_loads_anew(reference):
    rerank = NemotronRerank(model=reference / "rerank_vl_open_1", device="cpu")
    first = rerank.load()
    assert rerank.load() is first
    rerank.max_length = {"text": 16}
    assert rerank.load() is not first
    assert rerank.load().identity != first.identity
    rerank.max_length["text"] = 32
    assert rerank.load().identity["max_length_text"] == 32


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda c: c.model_copy(), lambda c: c.model_copy(deep=True)]
)
def test_copies_are_independent_and_share_weights(reference, make):
    rerank = NemotronRerank(model=reference / "rerank_vl_open_1", device="cpu", max_length={"text": 64})
    wanted = rerank.rerank(DOCUMENTS, "q")
    other = make(rerank)
    assert other.rerank(DOCUMENTS, "q") == wanted
    assert other.load()._model is rerank.load()._model
    rerank.close()
    assert other.rerank(DOCUMENTS, "q") == wanted


def test_deep_copies_share_a_model_that_was_passed_in():
    rerank = NemotronRerank(model=FakeReranker(), image_roots=["."])
    other = copy.deepcopy(rerank)
    assert other.model is rerank.model
    assert other == rerank


def test_pickles_carry_settings_and_not_weights(rerank, embeddings):
    wanted, vector = rerank.rerank(DOCUMENTS, "q"), embeddings.embed_query("q")
    pickled = pickle.dumps((rerank, embeddings))
    assert len(pickled) < 2000
    other_rerank, other_embeddings = pickle.loads(pickled)
    assert other_rerank.rerank(DOCUMENTS, "q") == wanted
    assert other_embeddings.embed_query("q") == vector
    assert pickle.loads(pickle.dumps(NemotronRerank(model=FakeReranker()))).rerank(["a"], "a")


def test_settings_round_trip():
    rerank = NemotronRerank(top_n=3, score_transform="sigmoid", image_roots=["pages"])
    assert NemotronRerank(**rerank.model_dump()) == rerank
    assert NemotronRerank.model_validate_json(rerank.model_dump_json()) == rerank


def test_loading_may_be_tried_again_after_it_failed(tmp_path, reference):
    folder = shutil.copytree(reference / "embed_vl_open_1", tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "aside")
    embeddings = NemotronEmbeddings(model=folder, device="cpu")
    for _ in range(2):
        with pytest.raises(CheckpointError):
            embeddings.load()
    (tmp_path / "aside").rename(folder / "model.safetensors")
    assert embeddings.embed_query("a")


def test_a_dict_of_the_callers_is_copied():
    lengths = {"text": 16}
    rerank = NemotronRerank(model="starter-rerank-vl", max_length=lengths)
    lengths["text"] = 0
    assert rerank.max_length == {"text": 16}


@pytest.mark.parametrize(
    "module", ["content", "document_loaders", "embeddings", "reranking", "retrievers", "testing", "vectorstores"]
)
def test_examples_run(module):
    found = doctest.testmod(importlib.import_module(f"langchain_nemotron_rag.{module}"))
    assert found.failed == 0
    assert found.attempted > 0
