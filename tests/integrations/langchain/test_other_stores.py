"""`NemotronPageRetriever` over vector stores of others, and over our own in every form of its images."""

from __future__ import annotations

import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_nemotron_rag import (
    NemotronEmbeddings,
    NemotronPageRetriever,
    NemotronPageVectorStore,
    NemotronRerank,
    to_content_blocks,
)
from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder
from support.contracts import make_image
from support.langchain import OpeningReranker, data_uri

QUERY = "red apples in winter"
TEXTS = ["blue whales", "red apples", "red apples in winter", "green pears"]


def embeddings() -> NemotronEmbeddings:
    return NemotronEmbeddings(model=FakeEmbedder())


@pytest.mark.filterwarnings("ignore:legacy embedding function config:DeprecationWarning")
@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
async def test_distances_become_similarities(space):
    store = Chroma(f"test-{space}", embeddings(), collection_configuration={"hnsw": {"space": space}})
    store.add_texts(TEXTS, ids=list("abcd"))
    retriever = NemotronPageRetriever(index=store, k=4)
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        scores = [document.metadata["relevance_score"] for document in found]
        assert [document.page_content for document in found][:2] == [TEXTS[2], TEXTS[1]]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == pytest.approx(1, abs=1e-3)
    store.delete_collection()


@pytest.mark.filterwarnings("ignore:legacy embedding function config:DeprecationWarning")
def test_images_that_a_store_keeps_as_texts(tmp_path):
    """Chroma puts the base64 of an image where texts are."""
    make_image(1, (40, 30)).save(tmp_path / "a.png")
    store = Chroma("test-images", embeddings())
    store.add_images([str(tmp_path / "a.png")])
    reranker = OpeningReranker([2.0])
    (found,) = NemotronPageRetriever(index=store, reranker=reranker, k=1).invoke("red apples")
    assert reranker.asked == [[""]]
    assert [block["type"] for block in to_content_blocks([found])] == ["text", "image"]
    assert to_content_blocks([found])[0]["text"] == "[1]"
    store.delete_collection()


def test_similarities_stay_as_they_are():
    store = InMemoryVectorStore(embeddings())
    store.add_texts(TEXTS)
    found = NemotronPageRetriever(index=store, k=4).invoke(QUERY)
    wanted = [score for _, score in store.similarity_search_with_score(QUERY, 4)]
    assert [document.metadata["relevance_score"] for document in found] == wanted
    assert wanted == sorted(wanted, reverse=True)


class Distances(InMemoryVectorStore):
    """Gives distances, and no word about their measure."""

    def similarity_search_with_score(self, query, k=4, **kwargs):
        found = super().similarity_search_with_score(query, k, **kwargs)
        return [(document, 1 - score) for document, score in found]

    async def asimilarity_search_with_score(self, query, k=4, **kwargs):
        return self.similarity_search_with_score(query, k, **kwargs)


class Scoreless(VectorStore):
    """Has what every store has, and no more."""

    def similarity_search(self, query, k=4, **kwargs):
        return [Document(text) for text in TEXTS[:k]]

    @classmethod
    def from_texts(cls, texts, embedding, metadatas=None, **kwargs):
        raise NotImplementedError


async def test_stores_that_say_less():
    store = Distances(embeddings())
    store.add_texts(TEXTS)
    found = NemotronPageRetriever(index=store, k=4).invoke(QUERY)
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1)
    retriever = NemotronPageRetriever(index=Scoreless(), k=2)
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        assert found == [Document(TEXTS[0]), Document(TEXTS[1])]
    with pytest.raises(InputError, match="Scoreless has no similarity_search_by_image"):
        retriever.retrieve_by_image(make_image())


@pytest.mark.parametrize("form", ["data_uri", "path", "reference", "none"])
async def test_a_reranker_reads_the_stores_own_images_in_every_form(tmp_path, form):
    with_image = Document("red apples", id="a", metadata={"image": data_uri(make_image(1, (40, 30)))})
    store = NemotronPageVectorStore(embeddings(), location=tmp_path / "store", image_form=form)
    store.add_documents([with_image, Document("blue whales", id="b")])
    for reranker in (OpeningReranker([2.0, 1.0]), NemotronRerank(model=OpeningReranker([2.0, 1.0]))):
        retriever = NemotronPageRetriever(index=store, reranker=reranker, k=1)
        for found in (retriever.invoke("red apples"), await retriever.ainvoke("red apples")):
            (document,) = found
            image = document.metadata.get("image")
            assert (image is None) == (form == "none")
            assert type(image) is type(store.similarity_search("red apples", 1)[0].metadata.get("image"))
    if form != "none":
        assert load_image(image).size == (40, 30)
    chosen = NemotronPageRetriever(index=store, k=1, image_form="none")
    assert "image" not in chosen.invoke("red apples")[0].metadata
    store.close()
