"""Mistakes that were answered with nothing, or with a riddle."""

from __future__ import annotations

import logging

import pytest
from langchain_core.documents import Document
from qdrant_client import models

from langchain_nemotron_rag import (
    NemotronEmbeddings,
    NemotronPageRetriever,
    NemotronPageVectorStore,
    NemotronRerank,
    create_page_retriever_tool,
    to_content_blocks,
    to_human_message,
)
from nemotron_rag import PageIndex
from nemotron_rag.errors import InputError, StoreError, UnknownModelError
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.adapters import PAGES


def embeddings() -> NemotronEmbeddings:
    return NemotronEmbeddings(model=FakeEmbedder())


@pytest.fixture
def index(tmp_path):
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
        index.add(PAGES, progress=False)
    return tmp_path / "index"


@pytest.fixture
def documents(tmp_path):
    with_text = NemotronPageVectorStore(embeddings(), location=tmp_path / "documents")
    with_text.add_documents([Document("red apples")])
    with_text.close()
    return tmp_path / "documents"


def test_a_wrong_collection_name_says_which_there_are(index, caplog):
    store = NemotronPageVectorStore(embeddings(), location=index)
    for _ in range(2):
        assert store.similarity_search("red apples") == []
    assert caplog.text.count("there is no collection 'documents'") == 1
    assert "which holds 'pages'" in caplog.text
    store.close()
    with pytest.raises(InputError, match="there is no collection 'typo' at .*, which holds 'pages'"):
        NemotronPageVectorStore.from_existing_collection("typo", embeddings(), location=index)


def test_a_wrong_place_is_said_and_not_made(tmp_path, caplog):
    assert NemotronPageVectorStore(embeddings(), location=tmp_path / "typo").similarity_search("red apples") == []
    assert "nothing is found: there is no collection 'documents'" in caplog.text
    assert not (tmp_path / "typo").exists()


def test_a_retriever_over_the_folder_of_a_store_says_what_is_there(documents):
    for options in ({}, {"embedder": FakeEmbedder()}):
        with pytest.raises(InputError, match=r"no index: .*which holds 'documents'; .*through that store"):
            NemotronPageRetriever(index=str(documents), **options).invoke("red apples")
        with pytest.raises(StoreError, match="through what wrote it"):
            NemotronPageRetriever(index=str(documents), collection="documents", **options).invoke("red apples")


def test_an_empty_filter_deletes_nothing(documents):
    store = NemotronPageVectorStore(embeddings(), location=documents)
    for every in ({}, {"year": {"nin": []}}, models.Filter()):
        with pytest.raises(InputError, match="every document meets"):
            store.delete(filter=every)
    assert len(store.similarity_search("red apples")) == 1
    assert store.delete()
    assert store.similarity_search("red apples") == []
    store.close()


def test_a_server_needs_a_place_for_images_when_it_is_named():
    with pytest.raises(InputError, match="give images="):
        NemotronPageVectorStore(embeddings(), location="http://localhost:1")


def test_a_path_that_may_not_be_opened_names_the_option(tmp_path):
    page = Document("a", metadata={"image": str(tmp_path / "page.png")})
    with pytest.raises(InputError, match=r"give image_roots=\[its folder\]"):
        embeddings().embed_pages([page])


def test_names_of_models():
    for name in ("nvidia/llama-3.2-nv-rerankqa-1b-v2", "llama-3.2-nv-rerankqa-1b-v2"):
        assert NemotronRerank(model=name).model_name == name
    with pytest.raises(UnknownModelError, match=r"llama-nemotron-embed-1b-v2 takes its place") as raised:
        NemotronEmbeddings(model="nvidia/nv-embedqa-e5-v5")
    assert "rerank" not in str(raised.value)
    with pytest.raises(UnknownModelError, match=r"the nearest: llama-nemotron-rerank-vl-1b-v2") as raised:
        NemotronRerank(model="nvidia/llama-nemotron-rerank-vl-1b")
    assert "llama-nemotron-embed" not in str(raised.value)
    with pytest.raises(InputError, match=r"PageIndex\(embedder='starter-colembed'\), which the retrievers search"):
        NemotronEmbeddings(model="starter-colembed")


def test_arguments_of_the_hosted_classes_are_understood(caplog):
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        rerank = NemotronRerank(
            model=FakeReranker(), top_n=1, truncate="END", max_batch_size=8, base_url="http://nim", api_key="nvapi-1"
        )
        embed = NemotronEmbeddings(model=FakeEmbedder(), truncate="NONE", nvidia_api_key="nvapi-2")
    assert [document.page_content for document in rerank.compress_documents([Document("a"), Document("b")], "b")] == [
        "b"
    ]
    assert len(embed.embed_query("a")) == 64
    said = sorted(record.getMessage() for record in caplog.records)
    assert [message.split(":")[0] for message in said] == [
        "NemotronEmbeddings has no use for nvidia_api_key",
        "NemotronEmbeddings has no use for truncate",
        "NemotronRerank has no use for api_key",
        "NemotronRerank has no use for base_url",
        "NemotronRerank has no use for max_batch_size",
    ]
    assert "nvapi" not in caplog.text
    with pytest.raises(ValueError, match="max_batch"):
        NemotronRerank(model=FakeReranker(), max_batch=8)


async def test_rerank_takes_what_other_clients_take():
    rerank = NemotronRerank(model=FakeReranker())
    given = [{"text": "blue whales"}, {"title": "red", "text": "apples"}]
    for entries in (rerank.rerank(given, "red apples", top_n=1), await rerank.arerank(given, "red apples", top_n=1)):
        assert [entry["index"] for entry in entries] == [1]
    (best, _) = rerank.rerank(given, "red apples", rank_fields=["title", "text"])
    assert best == {"index": 1, "relevance_score": 5.0}
    with pytest.raises(InputError, match="document 1 has none of the fields body"):
        rerank.rerank([{"body": "a"}, {"text": "b"}], "q", rank_fields=["body"])
    with pytest.raises(InputError, match="top_n"):
        rerank.rerank(["a"], "q", top_n=-1)


def test_what_is_no_document_retriever_or_option(documents):
    store = NemotronPageVectorStore(embeddings(), location=documents)
    for wrong, call in (
        ("document 0 must be a Document, got str", lambda: to_content_blocks(["a"])),
        ("query must be a str, got NoneType", lambda: to_human_message(None, [])),
        (r"got NemotronPageVectorStore; of a store give as_retriever\(\)", lambda: tool_of(store)),
        ("got a single one; put it into a list", lambda: store.add_documents(Document("a"))),
    ):
        with pytest.raises(InputError, match=wrong):
            call()
    with pytest.raises(
        TypeError, match="a search has no option kk; it takes diversity, filter, min_score, mode, neigh"
    ):
        store.similarity_search("a", kk=3)
    store.close()


def test_what_a_retriever_does_not_take():
    with PageIndex(embedder=FakeEmbedder()) as index:
        retriever = NemotronPageRetriever(index=index)
        with pytest.raises(InputError, match="a search has no argument top_k; give .*k= to a retriever"):
            retriever.invoke("a", top_k=3)
    for wrong in (None, retriever, ["a"]):
        with pytest.raises(ValueError, match="index must be the folder or url of an index, a PageIndex or a vector st"):
            NemotronPageRetriever(index=wrong)


KRILL = {"eaten": "krill", "page": 1}


@pytest.mark.parametrize(
    "filter",
    [
        {"$and": [{"eaten": "krill"}, {"page": {"$gte": 1}}]},
        {"$or": [{"eaten": "krill"}, {"eaten": "plankton"}]},
        {"eaten": {"$ne": "grass"}},
        {"$not": {"eaten": "grass"}},
        {"eaten": {"$in": ["krill"]}},
        {"page": {"$eq": 1}},
    ],
)
def test_operators_of_other_stores_are_understood(filter):
    store = NemotronPageVectorStore(embeddings())
    store.add_texts(["blue whales", "brown cows"], [KRILL, {"eaten": "grass", "page": 0}])
    for search in (store.similarity_search, NemotronPageRetriever(index=store).invoke):
        assert [found.metadata for found in map(plain, search("a", filter=filter))] == [KRILL]
    store.close()


def plain(document: Document) -> Document:
    scores = ("relevance_score", "retrieval_score")
    metadata = {key: value for key, value in document.metadata.items() if key not in scores}
    return Document(document.page_content, metadata=metadata)


def test_what_cannot_be_used_is_answered_with_what_to_give():
    store, condition = (
        NemotronPageVectorStore(embeddings()),
        models.FieldCondition(key="metadata.page", range={"gte": 1}),
    )
    store.add_texts(["blue whales"], [KRILL])
    page = Document("a", metadata={"image": "https://h.example/a.png"})
    for error, words, call in (
        (
            InputError,
            r"got FieldCondition; put it into Filter\(must=",
            lambda: store.similarity_search("a", filter=condition),
        ),
        (
            InputError,
            "takes the operators gt, gte",
            lambda: store.similarity_search("a", filter={"page": {"$near": 1}}),
        ),
        (InputError, r"give image_hosts=\[it\]", lambda: embeddings().embed_pages([page])),
        (
            UnknownModelError,
            "scores of the two cannot",
            lambda: NemotronRerank(model="nvidia/nv-rerankqa-mistral-4b-v3"),
        ),
        (InputError, "regions are those of an index", lambda: NemotronPageRetriever(index=store, regions=2)),
        (
            InputError,
            "filter_keys need a Nemotron",
            lambda: tool_of(store.as_retriever(), filter_keys={"page": "A page."}),
        ),
        (
            InputError,
            "embedder belongs to an index",
            lambda: NemotronPageRetriever(index=store, embedder=FakeEmbedder()),
        ),
    ):
        with pytest.raises(error, match=words):
            call()
    store.close()


def tool_of(retriever, **options) -> None:
    create_page_retriever_tool(retriever, "search", "d", **options)
