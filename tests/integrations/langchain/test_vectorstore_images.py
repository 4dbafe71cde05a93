"""Images in NemotronPageVectorStore: read, embedded, kept outside the payload, given back, searched by."""

from __future__ import annotations

import asyncio
import gc
import json
import logging

import pytest
from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from langchain_core.embeddings import DeterministicFakeEmbedding
from PIL import Image

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageVectorStore, NemotronRerank
from nemotron_rag import Passage
from nemotron_rag.documents.images import load_image, pixel_hash
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.langchain import data_uri, png
from support.qdrant_server import Server

RED, BLUE = Image.new("RGB", (30, 40), (200, 10, 10)), Image.new("RGB", (30, 40), (10, 10, 200))


def fake() -> NemotronEmbeddings:
    return NemotronEmbeddings(model=FakeEmbedder())


def page(text: str, image, **metadata) -> Document:
    return Document(text, metadata={"image": image, **metadata})


def payloads(store) -> list[dict]:
    return [record.payload for record in store.client.scroll(store.collection_name)[0]]


def pixels(document: Document) -> bytes:
    return load_image(document.metadata["image"]).tobytes()


@pytest.fixture
def store(tmp_path):
    store = NemotronPageVectorStore(fake(), location=tmp_path / "store", image_roots=[tmp_path / "allowed"])
    yield store
    store.close()


@pytest.fixture
def files(tmp_path):
    def kept():
        return sorted(path.name for path in (tmp_path / "store" / "images" / "documents").rglob("*.png"))

    return kept


def test_images_are_kept_outside_the_payload_and_come_back(store, files):
    documents = [page("red", data_uri(RED), page=0), page("blue", data_uri(BLUE), page=1), Document("none")]
    ids = store.add_documents(documents, ids=["r", "b", "n"])
    assert len(files()) == 2
    assert "base64" not in json.dumps(payloads(store))
    assert documents[0] == page("red", data_uri(RED), page=0)
    red, blue, none = store.get_by_ids(ids)
    assert (pixels(red), pixels(blue)) == (RED.tobytes(), BLUE.tobytes())
    assert red.metadata.keys() == {"image", "page"}
    assert none == Document("none", id="n")
    assert store.similarity_search("red", k=1) == [red]
    assert store.max_marginal_relevance_search("red", k=1) == [red]
    assert Document.model_validate_json(red.model_dump_json()) == red


def test_text_and_image_are_embedded_together(store):
    embedder = FakeEmbedder()
    store.add_documents([page("red", data_uri(RED)), page("[label]", data_uri(BLUE), text_is_placeholder=True)])
    ((_, both),) = store.similarity_search_with_score("red", k=1)
    assert 0.4 < both < 0.95  # the image has a part in it
    ((found, alone),) = store.similarity_search_by_image_with_score(BLUE, k=1)
    assert alone == pytest.approx(1, abs=1e-5)  # the label has none
    assert found.page_content == "[label]"
    assert embedder.dimensions == 64


def test_replaced_and_removed_documents_take_their_images_along(store, files):
    store.add_documents([page("a", data_uri(RED))], ids=["1"])
    store.add_documents([page("a", data_uri(BLUE))], ids=["1"])
    assert len(files()) == 1
    assert pixels(store.get_by_ids(["1"])[0]) == BLUE.tobytes()
    store.add_documents([page("b", data_uri(RED)), page("c", data_uri(RED), year=1)], ids=["b", "5"])
    store.delete(["1"])
    assert len(files()) == 2
    store.delete(filter={"year": 1})
    assert len(files()) == 1
    asyncio.run(store.adelete())
    assert files() == []


@pytest.mark.parametrize(
    "image", [png(RED), RED, Blob.from_data(png(RED), mime_type="image/png"), {"type": "image", "url": data_uri(RED)}]
)
def test_every_form_of_an_image(store, image):
    store.add_documents([page("red", image)], ids=["r"])
    assert pixels(store.get_by_ids(["r"])[0]) == RED.tobytes()


def test_documents_open_only_what_is_allowed(store, tmp_path):
    (tmp_path / "allowed").mkdir()
    for folder in (tmp_path, tmp_path / "allowed"):
        RED.save(folder / "red.png")
    store.add_documents([page("red", str(tmp_path / "allowed" / "red.png"))], ids=["r"])
    assert pixels(store.get_by_ids(["r"])[0]) == RED.tobytes()
    for add in (store.add_documents, lambda documents: asyncio.run(store.aadd_documents(documents))):
        with pytest.raises(ImageError, match=r"document 1 \(x.pdf\): .*outside the allowed folders"):
            add([Document("fine"), page("red", str(tmp_path / "red.png"), source="x.pdf")])
    found = store.similarity_search("fine red", k=9)
    assert sorted(document.page_content for document in found) == ["fine", "fine", "red"], "the others are stored"


def test_images_as_paths_or_not_at_all(tmp_path):
    options = {"location": tmp_path / "store", "images": tmp_path / "kept"}
    store = NemotronPageVectorStore(fake(), **options, image_form="path")
    store.add_documents([page("red", data_uri(RED))], ids=["r"])
    (found,) = store.get_by_ids(["r"])
    assert pixels(found) == RED.tobytes()
    assert len(str(found)) < 400
    rerank = NemotronRerank(model=FakeReranker(), image_roots=(tmp_path / "kept",))
    assert rerank.compress_documents([found], "red")[0].metadata["relevance_score"] == 5
    referring = NemotronPageVectorStore(fake(), **options, image_form="reference")
    (reference,) = (document.metadata["image"] for document in referring.get_by_ids(["r"]))
    assert (reference.size, reference.pixel_hash) == (RED.size, pixel_hash(RED))
    assert str(reference.path) == found.metadata["image"]
    referring.close()
    without = NemotronPageVectorStore(fake(), **options, image_form="none")
    assert without.get_by_ids(["r"]) == [Document("red", id="r")]
    store.close()
    without.close()
    with pytest.raises(InputError, match="image_form must be one of data_uri, path, reference, none, got 'uri'"):
        NemotronPageVectorStore(fake(), image_form="uri")
    with pytest.raises(InputError, match="image_form='path' needs images in a local folder"):
        NemotronPageVectorStore(fake(), images="memory://images", image_form="path")


def test_a_missing_image_is_told_and_the_document_comes_without(store, tmp_path, caplog):
    store.add_documents([page("red", data_uri(RED)), page("blue", data_uri(BLUE))], ids=["r", "b"])
    (gone,) = [path for path in tmp_path.rglob("*.png") if path.stat().st_size and load_image(path) == RED]
    gone.unlink()
    with caplog.at_level(logging.WARNING, "nemotron_rag"):
        red, blue = store.get_by_ids(["r", "b"])
    assert "comes without its image" in caplog.text
    assert "image" not in red.metadata
    assert pixels(blue) == BLUE.tobytes()


def test_add_images(store, tmp_path):
    path = tmp_path / "red.png"  # the caller's own path: no root is needed
    RED.save(path)
    ids = store.add_images([str(path), BLUE], [{"page": 0}, {"source": "mine"}], ids=["r", "b"])
    red, blue = store.get_by_ids(ids)
    assert pixels(red) == RED.tobytes()
    assert red.page_content == f"[page image] {path}"
    assert red.metadata | {"image": ""} == {
        "page": 0,
        "source": str(path),
        "text_is_placeholder": True,
        "image": "",
    }
    assert (blue.page_content, blue.metadata["source"]) == ("[page image] b", "mine")
    assert asyncio.run(store.aadd_images(iter([png(RED)]), ids=["r2"])) == ["r2"]
    with pytest.raises(ImageError, match="image 1: "):
        store.add_images([RED, str(tmp_path / "none.png")], batch_size=1)
    with pytest.raises(ImageError, match="image 0: .*not on an allowed host"):
        store.add_images(["https://example.org/red.png"])
    with pytest.raises(InputError, match="2 images need as many metadatas, got 1"):
        store.add_images([RED, BLUE], [{}])
    with pytest.raises(InputError, match="2 documents need as many ids, got 1"):
        store.add_images([RED, BLUE], ids=["a"])


def test_search_by_image(store, tmp_path):
    store.add_images([RED, BLUE], ids=["r", "b"])
    BLUE.save(tmp_path / "blue.png")
    for image in (BLUE, str(tmp_path / "blue.png"), data_uri(BLUE), png(BLUE)):
        ((found, score),) = store.similarity_search_by_image_with_score(image, k=1)
        assert (found.id, score) == ("b", pytest.approx(1, abs=1e-5))
    assert [found.id for found in store.similarity_search_by_image(RED, 1)] == ["r"]
    assert [found.id for found in store.similarity_search_by_image(uri=RED, filter={"no": "such"})] == []
    with pytest.raises(ImageError, match="none.png"):
        store.similarity_search_by_image(str(tmp_path / "none.png"))

    async def search():
        return [
            *await store.asimilarity_search_by_image(BLUE, k=1),
            (await store.asimilarity_search_by_image_with_score(BLUE, k=1))[0][0],
        ]

    assert [found.id for found in asyncio.run(search())] == ["b", "b"]


def test_embeddings_that_read_texts_alone():
    store = NemotronPageVectorStore(DeterministicFakeEmbedding(size=6))
    store.add_documents([page("red", data_uri(RED))], ids=["r"])  # the image is for a reranker
    (found,) = store.similarity_search("red", k=1)
    assert pixels(found) == RED.tobytes()
    with pytest.raises(InputError, match="document 1 is an image without a text, and DeterministicFakeEmbedding"):
        store.add_documents([Document("text"), page("", data_uri(RED))])
    with pytest.raises(InputError, match="reads no images"):
        store.add_images([RED])
    with pytest.raises(InputError, match="reads no images"):
        store.similarity_search_by_image(RED)
    store.close()


def test_on_a_server_the_place_of_images_is_said(tmp_path):
    server = Server()
    with pytest.raises(InputError, match="images cannot lie beside collection 'documents' at http.*; give images="):
        NemotronPageVectorStore(fake(), client=server.client())
    store = NemotronPageVectorStore(fake(), client=server.client(), images=None)
    store.add_texts(["apples"])
    with pytest.raises(InputError, match="no place to store it; give images="):
        store.add_documents([page("red", data_uri(RED))])
    with pytest.raises(InputError, match="no place to store it; give images="):
        store.add_images([RED])
    images = PageImages(tmp_path / "images", image_format="webp")
    store = NemotronPageVectorStore(fake(), client=server.client(), images=images)
    asyncio.run(store.aadd_documents([page("red", data_uri(RED))], ids=["r"]))
    (found,) = asyncio.run(store.aget_by_ids(["r"]))
    assert found.metadata["image"].startswith("data:image/webp;base64,")
    assert "base64" not in json.dumps([body for _, _, body in server.requests])


def test_images_in_memory_go_with_their_store():
    store = NemotronPageVectorStore(fake(), image_form="reference")
    store.add_images([RED], ids=["r"])
    kept = store.get_by_ids(["r"])[0].metadata["image"]
    assert kept.open().size == (30, 40)
    store.close()
    del store
    gc.collect()
    with pytest.raises(ImageError, match="cannot be read"):
        kept.open()


def test_another_image_key(tmp_path):
    store = NemotronPageVectorStore(
        NemotronEmbeddings(model=FakeEmbedder(), image_key="scan"), image_key="page_image", images=tmp_path
    )
    store.add_documents([Document("red", metadata={"page_image": data_uri(RED), "image": "a word"})], ids=["r"])
    (found,) = store.get_by_ids(["r"])
    assert load_image(found.metadata["page_image"]).tobytes() == RED.tobytes()
    assert found.metadata["image"] == "a word"
    store.close()


def test_with_a_real_model(embeddings):
    store = NemotronPageVectorStore(embeddings)
    store.add_documents([page("tornadoes", data_uri(RED)), page("bread", data_uri(BLUE))], ids=["t", "b"])
    expected = embeddings.embed_pages([page("tornadoes", RED)])[0]
    ((found, score),) = store.similarity_search_with_score_by_vector(expected, k=1)
    assert found.id == "t"
    assert score == pytest.approx(1, abs=1e-4)
    store.close()


def test_an_image_is_a_query_where_the_model_reads_such():
    class Model(FakeEmbedder):
        query_modalities = ("text", "image")

        def __init__(self):
            super().__init__()
            self.queries = []

        def embed_queries(self, queries):
            self.queries += queries
            return self.embed_passages([Passage(each) if isinstance(each, str) else each for each in queries])

    model = Model()
    store = NemotronPageVectorStore(NemotronEmbeddings(model=model))
    store.add_images([RED, BLUE], ids=["r", "b"])
    assert [found.id for found in store.similarity_search_by_image(BLUE, k=1)] == ["b"]
    assert len(model.queries) == 1
    plain = NemotronEmbeddings(model=FakeEmbedder())
    assert plain.embed_image_query(RED) == plain.embed_image(RED)
