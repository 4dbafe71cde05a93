"""NemotronPageRetriever: what it returns, how many, from where, in traces, and its life cycle."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.load import dumps
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore
from PIL import Image
from pydantic import ValidationError
from qdrant_client import models

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever, NemotronPageVectorStore, NemotronRerank
from nemotron_rag import LoadOptions, PageIndex, load_embedder, load_reranker
from nemotron_rag.documents.images import load_image, to_data_uri
from nemotron_rag.errors import ImageError, InputError, UnknownModelError
from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.stores.qdrant import connection
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.langchain import Runs, ScriptedReranker, data_uri
from support.pages import add, make_pdf, text_page

FRUITS = ["red apples", "green apples", "blue whales", "apples and pears"]


class Telling(BaseCallbackHandler):
    """Keeps what a tracer is told about a retriever."""

    def on_retriever_start(self, serialized, query, *, tags=None, metadata=None, **kwargs):
        self.tags, self.metadata = tags, metadata


class Backwards(BaseDocumentCompressor):
    """Somebody else's reranker, which wants images as texts."""

    def compress_documents(self, documents, query, callbacks=None):
        assert all(document.metadata["image"].startswith("data:image/") for document in documents)
        return tuple(documents[::-1])


@pytest.fixture
def folder(tmp_path):
    make_pdf(tmp_path / "fruit.pdf", *FRUITS)
    make_pdf(tmp_path / "other.pdf", "apples of others")
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), max_pixels=20_000) as index:
        add(index, [tmp_path / "fruit.pdf", tmp_path / "other.pdf"], metadata={"year": 2020})
    return tmp_path / "index"


def opened(folder, **options) -> NemotronPageRetriever:
    return NemotronPageRetriever(index=folder, embedder=FakeEmbedder(), **options)


def numbers(documents) -> list[int]:
    return [document.metadata["page_number"] for document in documents]


def close(entry) -> tuple:
    """An id, a score and a retrieval score, of which the last bits depend on where numpy finds the vectors."""
    return entry[0], *(None if score is None else pytest.approx(score, abs=1e-5) for score in entry[1:])


def both(retriever, query, **options) -> list[Document]:
    """The result of the sync call, known to be that of the async one."""
    found = retriever.invoke(query, **options)
    assert rounded(asyncio.run(retriever.ainvoke(query, **options))) == rounded(found)
    return found


def rounded(documents) -> list[Document]:
    """Without the last bits of the scores, which depend on where in memory numpy finds the vectors."""
    return [
        document.model_copy(
            update={
                "metadata": {
                    key: round(value, 5) if key.endswith("_score") else value
                    for key, value in document.metadata.items()
                }
            }
        )
        for document in documents
    ]


def test_a_folder_is_searched_and_reranked_like_the_index_does_it(tmp_path, report_pdf, reference):
    embedder = load_embedder(reference / "embed_vl_open_1", device="cpu")
    reranker = load_reranker(reference / "rerank_vl_open_1", device="cpu")
    with PageIndex(tmp_path / "index", embedder=embedder, reranker=reranker) as index:
        add(index, report_pdf)
        hits = index.search("Where do tornadoes form?", k=4)
    retriever = NemotronPageRetriever(
        index=str(tmp_path / "index"), reranker=reference / "rerank_vl_open_1", device="cpu", image_format="png"
    )
    found = retriever.invoke("Where do tornadoes form?")
    by_id = {document.id: document.metadata for document in found}
    again = asyncio.run(retriever.ainvoke("Where do tornadoes form?"))
    assert by_id.keys() == {hit.page.id for hit in hits} == {document.id for document in again}
    for hit in hits:  # two pages are so alike that their scores may change places
        told = by_id[hit.page.id]
        assert (told["source"], told["page"], told["page_number"]) == (
            str(report_pdf),
            hit.page.number - 1,
            hit.page.number,
        )
        assert told["relevance_score"] == pytest.approx(hit.score, abs=1e-4)
        assert told["retrieval_score"] == pytest.approx(hit.retrieval_score, abs=1e-5)
        assert told["mime_type"] == "image/png"
        assert load_image(told["image"]).tobytes() == hit.page.image.open().tobytes()
        assert told["total_pages"] == 4
    relevances = [document.metadata["relevance_score"] for document in found]
    assert relevances == sorted(relevances, reverse=True)
    assert relevances == pytest.approx([document.metadata["relevance_score"] for document in again], abs=1e-4)
    assert all(document.page_content for document in found)
    assert json.loads(dumps(found))
    retriever.close()


class TestHowMany:
    """`k`, `fetch_k` and `top_n`, at construction and in each call."""

    @pytest.mark.parametrize(
        ("settings", "call", "returned", "scored"),
        [
            ({}, {}, 4, 5),
            ({"k": 2}, {}, 2, 5),
            ({"k": 2}, {"k": 3}, 3, 5),
            ({"top_n": 1}, {}, 1, 5),
            ({"top_n": 5}, {}, 5, 5),
            ({"k": 3, "top_n": 2}, {}, 2, 5),
            ({"top_n": 3}, {"k": 1}, 1, 5),
            ({"fetch_k": 3, "k": 2}, {}, 2, 3),
            ({"fetch_k": 2, "k": 2}, {"fetch_k": 4}, 2, 4),
            ({}, {"k": 1, "fetch_k": 1, "top_n": 1}, 1, 1),
        ],
    )
    def test_with_a_reranker(self, folder, settings, call, returned, scored):
        reranker = ScriptedReranker([0.0, 1.0, 2.0, 3.0, 4.0])
        retriever = opened(folder, reranker=reranker, **settings)
        found = both(retriever, "apples", **call)
        assert len(found) == returned
        assert [len(asked) for asked in reranker.asked] == [scored, scored]
        relevances = [document.metadata["relevance_score"] for document in found]
        assert relevances == sorted(relevances, reverse=True)
        assert relevances[0] == scored - 1
        retriever.close()

    def test_without_a_reranker(self, folder):
        retriever = opened(folder, k=2)
        assert len(both(retriever, "apples")) == 2
        (best,) = both(retriever, "green apples", k=1)
        assert best.page_content == "green apples"
        assert best.metadata["relevance_score"] == best.metadata["retrieval_score"] > 0.4
        assert len(both(opened(folder), "apples", k=9)) == 5

    def test_contradictions_raise(self, folder):
        with pytest.raises(InputError, match="fetch_k and top_n need a reranker"):
            opened(folder, fetch_k=9)
        with pytest.raises(InputError, match="fetch_k must be at least the 5 documents returned, got 3"):
            opened(folder, reranker=FakeReranker(), k=5, fetch_k=3)
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            opened(folder, k=0)
        retriever = opened(folder, reranker=FakeReranker())
        for call in (retriever.invoke, lambda *a, **o: asyncio.run(retriever.ainvoke(*a, **o))):
            with pytest.raises(InputError, match="k must be a positive integer, got 0"):
                call("apples", k=0)
            with pytest.raises(InputError, match="no argument top_k; give top_n= to a reranker"):
                call("apples", top_k=3)
            with pytest.raises(InputError, match="fetch_k must be at least the 4 documents returned, got 2"):
                call("apples", fetch_k=2)
            with pytest.raises(InputError, match="query must be a str, got dict"):
                call({"query": "apples"})

    def test_a_top_n_that_cuts_k_is_told(self, folder, caplog):
        retriever = opened(folder, reranker=ScriptedReranker([0.0] * 5), k=1, top_n=2)
        assert caplog.messages == []
        assert len(retriever.invoke("apples", k=4)) == 2
        assert caplog.messages == ["k=4 and top_n=2: 2 documents are returned; leave one out"]

    def test_a_reranker_whose_top_n_was_left_at_its_default_is_cut_by_the_retriever(self, folder):
        rerank = NemotronRerank(model=ScriptedReranker([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
        with PageIndex(folder, embedder=FakeEmbedder()) as index:
            add(index, [text_page(n, f"apples {n}") for n in range(6, 12)])
            retriever = NemotronPageRetriever(index=index, reranker=rerank, k=10)
            rerank.model.scores = [float(n) for n in range(20)]
            assert len(both(retriever, "apples")) == 10
            assert len(both(retriever, "apples", k=3)) == 3
            assert len(both(NemotronPageRetriever(index=index, reranker=rerank), "apples")) == 4
        assert rerank.top_n == 5
        assert "top_n" not in rerank.model_fields_set

    def test_a_reranker_whose_top_n_was_given(self, folder):
        rerank = NemotronRerank(model=ScriptedReranker([0.0, 1.0, 2.0, 3.0, 4.0]), top_n=3)
        assert len(both(opened(folder, reranker=rerank), "apples")) == 3, "it holds if there is no other number"
        assert len(both(opened(folder, reranker=rerank, k=2), "apples")) == 2
        for numbers_given in ({"k": 4}, {"top_n": 5}, {"k": 2, "top_n": 4}):
            with pytest.raises(InputError, match=r"=\d documents cannot come from a reranker with top_n=3"):
                opened(folder, reranker=rerank, **numbers_given)
        retriever = opened(folder, reranker=rerank)
        with pytest.raises(InputError, match="k=4 documents cannot come from a reranker with top_n=3"):
            retriever.invoke("apples", k=4)
        everything = NemotronRerank(model=ScriptedReranker([0.0] * 5), top_n=None)
        assert len(both(opened(folder, reranker=everything, k=5), "apples")) == 5


class TestLikeTheIndex:
    """The hits and scores of `PageIndex.search`."""

    @staticmethod
    def as_hits(documents) -> list[tuple]:
        return [(d.id, d.metadata.get("relevance_score"), d.metadata["retrieval_score"]) for d in documents]

    @staticmethod
    def of_index(hits) -> list[tuple]:
        return [(hit.page.id, hit.score if math.isfinite(hit.score) else None, hit.retrieval_score) for hit in hits]

    def test_an_open_index_ranks_by_its_own_reranker(self, folder):
        with PageIndex(folder, embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
            for k, candidates in ((3, None), (2, 4)):
                wanted = self.of_index(index.search("green apples", k=k, candidates=candidates))
                assert wanted[0][1] == 5.0
                retriever = NemotronPageRetriever(index=index, k=k, fetch_k=candidates)
                assert self.as_hits(both(retriever, "green apples")) == [close(entry) for entry in wanted]
            plain = self.of_index(index.search("green apples", k=3, rerank=False))
            found = both(NemotronPageRetriever(index=index, k=3, reranker=False), "green apples")
            assert self.as_hits(found) == [close(entry) for entry in plain]
            assert plain[0][1] < 5

    def test_a_reranker_of_the_retrievers_ranks_like_that_of_the_index(self, folder):
        with PageIndex(folder, embedder=FakeEmbedder()) as index:
            for reranker in (FakeReranker(), ScriptedReranker([1.0, math.nan, 3.0, 2.0, -1.0])):
                wanted = self.of_index(index.search("green apples", k=5, rerank=reranker))
                for given in (reranker, NemotronRerank(model=reranker)):
                    found = both(NemotronPageRetriever(index=index, k=5, reranker=given), "green apples")
                    assert self.as_hits(found) == [close(entry) for entry in wanted]
            assert wanted[-1][1] is None, "what cannot be scored has no score"

    def test_a_folder_that_an_index_has_open_is_shared(self, folder):
        with PageIndex(folder, embedder=FakeEmbedder()) as index:
            wanted = self.of_index(index.search("green apples", k=4))
            retriever = opened(folder)
            assert self.as_hits(both(retriever, "green apples")) == [close(entry) for entry in wanted]
        assert self.as_hits(retriever.invoke("green apples")) == [close(entry) for entry in wanted]
        retriever.close()

    def test_an_index_without_a_reranker_refuses_their_numbers(self, folder):
        with PageIndex(folder, embedder=FakeEmbedder()) as index:
            for numbers_given in ({"fetch_k": 9}, {"top_n": 2}):
                with pytest.raises(InputError, match="there is no reranker"):
                    NemotronPageRetriever(index=index, **numbers_given).invoke("apples")
                with pytest.raises(InputError, match="fetch_k and top_n need a reranker"):
                    NemotronPageRetriever(index=index, reranker=False, **numbers_given)

    def test_a_second_search_opens_no_image(self, tmp_path, report_pdf, reference, monkeypatch):
        embedder = load_embedder(reference / "embed_vl_open_1", device="cpu")
        with PageIndex(tmp_path / "index", embedder=embedder) as index:
            add(index, report_pdf)
            rerank = NemotronRerank(model=reference / "rerank_vl_open_1", device="cpu")
            retriever = NemotronPageRetriever(index=index, reranker=rerank, image_form="reference")
            retriever.invoke("Where do tornadoes form?")
            monkeypatch.setattr(StoredImage, "read_bytes", lambda self: pytest.fail("an image was read"))
            assert len(retriever.invoke("Are there storms?")) == 4


class TestFilters:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({"page": 1}, [2]),
            ({"page": [0, 1]}, [1, 2]),
            ({"page": {"gte": 2}}, [3, 4]),
            ({"page_number": 3}, [3]),
            ({"total_pages": 4, "page": [3]}, [4]),
            ({"year": 2020, "number": 2}, [2]),
            ({"year": 2021}, []),
            (models.Filter(must=[models.FieldCondition(key="number", match=models.MatchValue(value=4))]), [4]),
        ],
    )
    def test_in_the_words_of_the_documents(self, folder, wanted, found):
        source = str(folder.parent / "fruit.pdf")
        if isinstance(wanted, dict):
            wanted = {"source": source, **wanted}
        assert sorted(numbers(both(opened(folder), "apples", filter=wanted))) == found
        assert sorted(numbers(opened(folder, filter=wanted).invoke("apples"))) == found

    def test_a_call_replaces_that_of_the_retriever(self, folder):
        retriever = opened(folder, filter={"page": 0})
        found = both(retriever, "apples")
        assert numbers(found) == [1, 1]
        assert numbers(both(retriever, "apples", filter={"page_id": found[0].id})) == [1]
        assert numbers(both(retriever, "apples", filter={"page": 2})) == [3]


def test_images_of_found_pages(folder):
    seen = ScriptedReranker([1.0] * 5)
    (stored,) = opened(folder, k=1).invoke("apples")
    assert stored.metadata["image"].startswith("data:image/png;base64,"), "as it is stored"
    (jpeg,) = opened(folder, k=1, image_format="jpeg").invoke("apples")
    assert jpeg.metadata["image"].startswith("data:image/jpeg;base64,")
    assert jpeg.metadata["mime_type"] == "image/jpeg"
    without = both(opened(folder, include_images=False, reranker=seen), "apples")
    assert not any({"image", "mime_type"} & document.metadata.keys() for document in without)
    (other,) = opened(folder, k=1, image_key="scan").invoke("apples")
    assert load_image(other.metadata["scan"]).size == load_image(jpeg.metadata["image"]).size
    assert "image" not in other.metadata


def test_forms_of_images(folder, caplog):
    with PageIndex(folder, embedder=FakeEmbedder()) as index:
        (hit,) = index.search("blue whales", k=1)
        stored = {"index": index, "k": 1, "include_images": True}
        (as_stored,) = NemotronPageRetriever(**stored, image_format=None).invoke("blue whales")
        assert as_stored.metadata["image"] == to_data_uri(hit.page.image.read_bytes(), "png")
        assert as_stored.metadata["mime_type"] == "image/png"
        (path,) = NemotronPageRetriever(**stored, image_form="path").invoke("blue whales")
        assert path.metadata["image"] == str(hit.page.image.path)
        (reference,) = both(NemotronPageRetriever(**stored, image_form="reference"), "blue whales")
        assert reference.metadata["image"] == hit.page.image
        (none,) = NemotronPageRetriever(**stored, image_form="none").invoke("blue whales")
        assert "image" not in none.metadata
        with pytest.raises(ValidationError, match="image_form"):
            NemotronPageRetriever(**stored, image_form="jpeg")
        hit.page.image.path.unlink()
        (lost,) = NemotronPageRetriever(**stored).invoke("blue whales")
        assert "image" not in lost.metadata
        assert "comes without its image" in caplog.text


def test_a_stored_file_of_the_right_format_is_not_decoded(folder, monkeypatch):
    monkeypatch.setattr(StoredImage, "open", lambda self: pytest.fail("an image was decoded"))
    (page,) = opened(folder, k=1, image_format="png").invoke("apples")
    assert page.metadata["image"].startswith("data:image/png;base64,")


def test_by_image(folder):
    retriever = opened(folder, reranker=FakeReranker(), image_format="png")
    (page,) = retriever.invoke("blue whales", k=1)
    image = page.metadata["image"]

    async def search(**options):
        return await retriever.aretrieve_by_image(image, **options)

    found = retriever.retrieve_by_image(image, k=2)
    assert found[0].id == page.id
    assert len(found) == 2
    assert rounded(asyncio.run(search(k=2))) == rounded(found)
    block = {"type": "image", "base64": image.partition(",")[2], "mime_type": "image/png"}
    assert retriever.retrieve_by_image(block, k=1)[0].id == page.id
    assert numbers(asyncio.run(search(filter={"page": 0}))) == [1, 1]
    with pytest.raises(ImageError, match="none.png"):
        retriever.retrieve_by_image("none.png")


class TestOverStores:
    def test_the_store_of_this_package(self):
        red, blue = Image.new("RGB", (20, 30), "red"), Image.new("RGB", (20, 30), "blue")
        store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
        store.add_documents(
            [
                Document("apples", id=name, metadata={"image": data_uri(image)})
                for name, image in (("r", red), ("b", blue))
            ]
        )
        retriever = NemotronPageRetriever(index=store, reranker=ScriptedReranker([0.0, 1.0]), k=1)
        second = store.similarity_search("apples")[1]
        (found,) = both(retriever, "apples")
        assert (found.id, found.metadata["relevance_score"]) == (second.id, 1.0)
        assert found.metadata["image"] == second.metadata["image"]
        assert retriever.retrieve_by_image(blue, k=1)[0].id == "b"
        assert asyncio.run(retriever.aretrieve_by_image(red, k=1))[0].id == "r"
        (bare,) = NemotronPageRetriever(index=store, k=1, include_images=False).invoke("apples")
        assert bare.metadata.keys() == {"relevance_score", "retrieval_score"}
        store.close()

    def test_any_other_store(self):
        store = InMemoryVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
        store.add_texts(FRUITS, [{"n": n} for n in range(4)])
        retriever = NemotronPageRetriever(index=store, reranker=FakeReranker(), k=1)
        (found,) = both(retriever, "blue whales")
        assert (found.page_content, found.metadata["relevance_score"]) == ("blue whales", 5.0)
        (found,) = both(retriever, "blue whales", filter=lambda document: document.metadata["n"] < 2)
        assert found.metadata["n"] < 2
        with pytest.raises(InputError, match="InMemoryVectorStore has no similarity_search_by_image_with_score"):
            retriever.retrieve_by_image(Image.new("RGB", (9, 9)))

    def test_any_other_compressor(self, folder):
        plain = opened(folder).invoke("apples", k=5)
        found = both(opened(folder, reranker=Backwards(), k=5), "apples")
        assert [document.id for document in found] == [document.id for document in plain[::-1]]

    def test_a_configured_reranker_keeps_its_settings(self, folder):
        rerank = NemotronRerank(model=FakeReranker(), top_n=2, score_threshold=0.0, provenance=True)
        found = both(opened(folder, reranker=rerank), "blue whales")
        assert [document.metadata["rerank_rank"] for document in found] == [1]
        assert found[0].metadata["retrieval_score"] < 1
        with pytest.raises(InputError, match="image_key is 'scan', that of the reranker 'image'"):
            opened(folder, reranker=rerank, image_key="scan")


class TestInTraces:
    def test_tags_metadata_and_names(self, folder):
        retriever = opened(folder, tags=["mine"], metadata={"team": "storms"})
        for call in (retriever.invoke, lambda *a: asyncio.run(retriever.ainvoke(*a))):
            told = Telling()
            call("apples", {"callbacks": [told], "tags": ["call"]})
            assert set(told.tags) == {"mine", "call"}
            assert told.metadata == {
                "team": "storms",
                "ls_retriever_name": "nemotronpage",
                "ls_vector_store_provider": "qdrant",
                "ls_embedding_provider": "nemotron_rag",
                "ls_embedding_model": "fake-embedder",
            }
        store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
        told = Telling()
        NemotronPageRetriever(index=store).invoke("apples", {"callbacks": [told]})
        assert told.metadata["ls_vector_store_provider"] == "NemotronPageVectorStore"
        assert told.metadata["ls_embedding_provider"] == "NemotronEmbeddings"
        store.close()

    def test_reranking_is_a_child_run_without_images(self, folder):
        retriever = opened(folder, reranker=FakeReranker())
        for call in (retriever.invoke, lambda *a: asyncio.run(retriever.ainvoke(*a))):
            runs = Runs()
            call("apples", {"callbacks": [runs]})
            parent, child = runs.only("NemotronPageRetriever"), runs.only("NemotronRerank")
            assert child["parent"] == parent["id"]
            assert "base64" not in str(child["inputs"]) + str(runs.ended[child["id"]])
        assert "base64" not in repr(retriever)


class TestLifeCycle:
    def test_construction_opens_nothing(self, tmp_path):
        retriever = NemotronPageRetriever(index=tmp_path / "none", reranker="starter-rerank-vl")
        with pytest.raises(InputError, match="there is no index: collection 'pages' at .*none; make one with"):
            retriever.invoke("apples")
        assert not (tmp_path / "none").exists()

    def test_settings_fit_together(self, folder):
        with pytest.raises(ValidationError, match="Extra inputs"):
            opened(folder, rerankr="starter-rerank-vl")
        with PageIndex(embedder=FakeEmbedder()) as index:
            with pytest.raises(InputError, match="embedder, collection belong to an index by location"):
                NemotronPageRetriever(index=index, embedder=FakeEmbedder(), collection="x")
            with pytest.raises(InputError, match="device: for models that are named, and none is"):
                NemotronPageRetriever(index=index, device="cpu")
            assert NemotronPageRetriever(index=index).invoke("apples") == []
        with pytest.raises(ValidationError, match="index"):
            NemotronPageRetriever(index=3)

    @pytest.mark.parametrize(
        ("fields", "error", "said"),
        [
            ({"reranker": "no-such-model"}, UnknownModelError, "no-such-model"),
            ({"embedder": "no-such-model"}, UnknownModelError, "no-such-model"),
            ({"reranker": "starter-embed-vl"}, InputError, "of kind embedder, wanted reranker"),
            ({"embedder": "starter-rerank-vl"}, InputError, "of kind reranker, wanted embedder or multivector"),
            ({"reranker": FakeEmbedder()}, InputError, "a loaded reranker, got a embedder"),
            ({"reranker": object()}, InputError, "a loaded reranker, got object"),
            ({"embedder": "starter-embed-vl", "device": "gpu"}, InputError, "device must be"),
            ({"embedder": "starter-embed-vl", "dimensions": 7}, InputError, "dimensions"),
            ({"embedder": FakeEmbedder(), "device": "cpu"}, InputError, "device came with a loaded model"),
            ({"reranker": "starter-rerank-vl", "reranker_options": {"dtype": "int3"}}, InputError, "dtype must be"),
            ({"reranker": FakeReranker(), "reranker_options": {"dtype": "float32"}}, InputError, "that is named"),
        ],
    )
    def test_models_and_options_are_checked_when_it_is_made(self, tmp_path, fields, error, said):
        with pytest.raises(error, match=said):
            NemotronPageRetriever(index=tmp_path / "none", **fields)
        assert not (tmp_path / "none").exists()
        retriever = NemotronPageRetriever(index=tmp_path / "none", **dict(list(fields.items())[:-1]))
        name, value = list(fields.items())[-1]
        before = getattr(retriever, name)
        with pytest.raises(error, match=said):
            setattr(retriever, name, value)
        assert getattr(retriever, name) is before

    def test_every_option_is_a_field(self):
        assert set(LoadOptions.__annotations__) <= NemotronPageRetriever.model_fields.keys()

    def test_options_reach_both_models(self, tmp_path, report_pdf, reference):
        folders = {"embedder": reference / "embed_vl_open_1", "reranker": reference / "rerank_vl_open_1"}
        with PageIndex(tmp_path / "index", embedder=folders["embedder"], device="cpu", max_input_tiles=2) as index:
            add(index, report_pdf)
            reranker = load_reranker(folders["reranker"], device="cpu", max_input_tiles=2, max_length=64)
            hits = index.search("Where do tornadoes form?", k=4, rerank=reranker)
        retriever = NemotronPageRetriever(
            index=tmp_path / "index",
            **folders,
            device="cpu",
            max_input_tiles=2,
            reranker_options={"max_length": 64},
        )
        found = {page.id: page.metadata["relevance_score"] for page in retriever.invoke("Where do tornadoes form?")}
        assert found == pytest.approx({hit.page.id: hit.score for hit in hits}, abs=1e-4)
        retriever.close()

    def test_with_a_server_the_place_of_images_must_be_said(self, tmp_path):
        for images in (None, tmp_path / "images"):
            NemotronPageRetriever(index="http://localhost:6333", images=images)
        with pytest.raises(
            InputError, match="images cannot lie beside collection 'pages' at http://localhost:6333; give images="
        ):
            NemotronPageRetriever(index="http://localhost:6333")

    def test_repr_says_place_and_models(self, tmp_path):
        retriever = NemotronPageRetriever(
            index=str(tmp_path), reranker=NemotronRerank(model=FakeReranker()), filter={"note": "x" * 5000}
        )
        assert repr(retriever) == (
            f"NemotronPageRetriever(index={str(tmp_path)!r}, collection='pages', reranker='fake-reranker')"
        )

    def test_fields_may_be_assigned_and_configured(self, folder):
        retriever = opened(folder, reranker=ScriptedReranker([0.0] * 5))
        assert len(retriever.invoke("blue whales")) == 4
        retriever.k, retriever.reranker = 1, FakeReranker()
        assert retriever.invoke("blue whales")[0].metadata["relevance_score"] == 5.0
        retriever.collection = "others"
        with pytest.raises(InputError, match="there is no index: collection 'others' at"):
            retriever.invoke("blue whales")
        retriever.k = 3
        with pytest.raises(InputError, match="fetch_k must be at least the 3 documents returned, got 2"):
            retriever.fetch_k = 2
        assert (retriever.k, retriever.fetch_k) == (3, None)
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            retriever.k = 0
        retriever.close()
        with PageIndex(folder, embedder=FakeEmbedder()) as index:
            many = NemotronPageRetriever(index=index).configurable_fields(k=ConfigurableField(id="k"))
            assert len(many.invoke("apples", {"configurable": {"k": 2}})) == 2
            assert len(asyncio.run(many.ainvoke("apples", {"configurable": {"k": 3}}))) == 3

    def test_retrievers_on_one_folder_share_it(self, folder):
        one, other = opened(folder, k=1), opened(folder, k=2)
        assert len(one.invoke("apples")) == 1
        assert len(other.invoke("apples")) == 2
        one.close()
        assert len(other.invoke("apples")) == 2
        assert len(one.invoke("apples")) == 1  # opens again
        one.close()
        other.close()
        assert not [place for place in connection._folders if place.is_relative_to(folder.resolve())], "it is free"
        assert len(one.invoke("apples")) == 1
        assert [place for place in connection._folders if place.is_relative_to(folder.resolve())]
        one.close()

    def test_copies_and_pickles_open_again(self, tmp_path, report_pdf, reference):
        embedder = load_embedder(reference / "embed_vl_open_1", device="cpu")
        with PageIndex(tmp_path / "index", embedder=embedder) as index:
            add(index, report_pdf)
        retriever = NemotronPageRetriever(index=tmp_path / "index", k=2, device="cpu", tags=["t"])
        found = retriever.invoke("tornadoes")
        twins = [copy.copy(retriever), copy.deepcopy(retriever), retriever.model_copy(update={"k": 2})]
        twins.append(pickle.loads(pickle.dumps(retriever)))
        retriever.close()
        for twin in twins:
            assert rounded(twin.invoke("tornadoes")) == rounded(found)
            twin.close()

    def test_an_open_index_is_shared_and_stays_open(self, folder):
        with PageIndex(folder, embedder=FakeEmbedder()) as index:
            retriever = NemotronPageRetriever(index=index, reranker=FakeReranker())
            assert copy.deepcopy(retriever).index is index
            with pytest.raises(InputError, match="open PageIndex cannot be pickled; give it the index's location"):
                pickle.dumps(retriever)
            retriever.invoke("apples")
            retriever.close()
            assert index.count() == 5
            assert len(retriever.invoke("apples")) == 4

    def test_many_at_once(self, folder):
        retriever = opened(folder, reranker=FakeReranker(), k=2)
        queries = [f"apples {n} {fruit}" for n in range(4) for fruit in FRUITS]
        serial = [rounded(retriever.invoke(query)) for query in queries]
        assert [rounded(found) for found in asyncio.run(_gather(retriever, queries))] == serial
        assert [rounded(found) for found in retriever.batch(queries)] == serial


async def _gather(retriever, queries):
    return await asyncio.gather(*(retriever.ainvoke(query) for query in queries))
