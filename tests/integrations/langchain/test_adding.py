"""Adding to a vector store: streamed, resumed, off the event loop; what is bad costs itself; chunks share an image."""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.retrievers import ParentDocumentRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.stores import InMemoryByteStore, InMemoryStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from PIL import Image

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageVectorStore
from nemotron_rag import Passage
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.testing import FakeEmbedder
from support.langchain import data_uri
from support.qdrant_server import Server


class Counting(FakeEmbedder):
    """Counts what it embeds; refuses texts with the word "refused"."""

    def __init__(self) -> None:
        super().__init__()
        self.passages: list[Passage] = []

    def embed_passages(self, passages):
        if any("refused" in passage.text for passage in passages):
            raise InputError("cannot embed this")
        self.passages += passages
        return super().embed_passages(passages)

    @property
    def images(self) -> int:
        return sum(passage.image is not None for passage in self.passages)


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def store(model, tmp_path):
    with_images = NemotronPageVectorStore(NemotronEmbeddings(model=model), location=tmp_path / "store")
    yield with_images
    with_images.close()


def page(number: int, text: str = "", **metadata) -> Document:
    shown = data_uri(Image.new("RGB", (30, 20), (20 * number, 9, 9)))
    return Document(
        text or f"page {number}", id=f"p{number}", metadata={"page_id": f"p{number}", "image": shown, **metadata}
    )


def files(folder: Path) -> int:
    return sum(path.suffix == ".png" for path in folder.rglob("*"))


class TestStreaming:
    def test_documents_are_read_as_they_are_needed(self, store, model):
        read = []

        def reading():
            for number in range(10):
                read.append(len(model.passages))
                yield page(number)

        assert store.add_documents(reading(), batch_size=2) == [f"p{number}" for number in range(10)]
        assert read == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]

    def test_what_was_read_before_an_error_is_stored(self, store):
        def reading():
            yield from map(page, range(3))
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            store.add_documents(reading(), batch_size=2)
        assert len(store.get_by_ids(["p0", "p1", "p2"])) == 3

    async def test_async_iterators_are_read_too(self, store):
        async def reading():
            for number in range(5):
                await asyncio.sleep(0)
                yield page(number)

        assert await store.aadd_documents(reading(), batch_size=2) == [f"p{number}" for number in range(5)]
        assert await store.aadd_documents(reading(), ids=iter("abcde")) == list("abcde")
        with pytest.raises(InputError, match="as many ids"):
            await store.aadd_documents(reading(), ids=["a"])
        with pytest.raises(InputError, match="use aadd_documents"):
            store.add_documents(reading())

    async def test_a_loader_is_read_off_the_event_loop(self, store, model):
        threads = []

        def reading():
            for number in range(3):
                threads.append(threading.current_thread())
                yield page(number)

        await store.aadd_documents(reading(), batch_size=1)
        assert len(threads) == 3
        assert threading.main_thread() not in threads

    def test_progress_is_shown_where_it_is_asked_for(self, store, capsys):
        store.add_documents([page(1)])
        assert capsys.readouterr() == ("", "")
        store.add_documents(map(page, range(3)), progress=True)
        out, shown = capsys.readouterr()
        assert out == ""
        assert "3/" in shown

    def test_a_new_store_takes_the_options_of_both(self, model):
        failures = []
        documents = map(page, range(3))
        store = NemotronPageVectorStore.from_documents(
            documents, NemotronEmbeddings(model=model), batch_size=1, on_error="skip", report=failures.append
        )
        assert (store.image_form, len(store.get_by_ids(["p0", "p1", "p2"])), failures) == ("data_uri", 3, [])
        texts = NemotronPageVectorStore.from_texts(
            ["a", "refused"], NemotronEmbeddings(model=model), ids=["a", "b"], on_error="skip", report=failures.append
        )
        assert [document.id for document in texts.get_by_ids(["a", "b"])] == ["a"]
        assert len(failures) == 1


class TestAgain:
    def test_what_is_stored_is_not_embedded_again(self, store, model):
        pages = [page(number) for number in range(4)]
        store.add_documents(pages[:2])
        assert store.add_documents(pages) == ["p0", "p1", "p2", "p3"]
        assert len(model.passages) == 4
        changed = page(1, "another text")
        store.add_documents([pages[0], changed])
        assert len(model.passages) == 5
        assert store.get_by_ids(["p1"])[0].page_content == "another text"
        store.add_documents([Document("page 0", id="p0", metadata={**pages[0].metadata, "year": 2026})])
        assert store.get_by_ids(["p0"])[0].metadata["year"] == 2026

    def test_equal_pages_of_two_tenants(self, store, caplog):
        store.add_documents([page(1, user="ann")])
        assert not caplog.records
        store.add_documents([page(1, user="bob")])
        assert "document 0 takes the place of a document with the same id 'p1' and other metadata (user)" in caplog.text
        store.add_documents([page(1, user=user) for user in ("ann", "bob")], ids=["ann/p1", "bob/p1"])
        assert len(store.similarity_search("page 1", filter={"user": "ann"})) == 1

    def test_two_copies_in_one_call_are_said(self, store, caplog):
        store.add_documents([page(1, source="a.pdf"), page(1, source="b.pdf")])
        assert "document 1 (b.pdf) takes the place" in caplog.text
        store.add_documents([Document("one", id="1"), Document("other", id="1")])
        assert "document 1 takes the place of a document with the same id '1' in this call" in caplog.text


class TestBadDocuments:
    BAD = (
        Document("refused", id="x"),
        Document("no image", id="y", metadata={"image": "/etc/passwd"}),
        Document("metadata", id="z", metadata={"a": {"b": b"bytes"}}),
    )

    def test_they_cost_only_themselves(self, store):
        with pytest.raises(InputError, match=r"metadata 'a.b' cannot be stored, got bytes|cannot embed this|outside"):
            store.add_documents([page(1), *self.BAD, page(2)])
        assert [found.id for found in store.get_by_ids(["p1", "x", "y", "z", "p2"])] == ["p1", "p2"]
        with pytest.raises(ImageError, match="document 1: .*; 1 documents were not added, 1 are stored"):
            store.add_documents([page(1), self.BAD[1]])

    async def test_they_are_reported(self, store, caplog):
        failures = []
        documents = [page(1), *self.BAD, page(2)]
        assert store.add_documents(documents, on_error="skip", report=failures.append) == ["p1", "p2"]
        assert sorted(str(failure).split(":")[0] for failure in failures) == ["document 1", "document 2", "document 3"]
        assert await store.aadd_documents(iter(documents), on_error="skip", batch_size=2) == ["p1", "p2"]
        assert caplog.text.count("not added: document") == 3
        with pytest.raises(InputError, match="on_error"):
            store.add_documents([page(1)], on_error="ignore")

    def test_what_json_has_no_word_for(self, tmp_path):
        odd = {
            "surrogate": "broken \ud835 text",
            "numpy": np.float32(0.5),
            "array": np.arange(3),
            "day": datetime.date(2026, 1, 2),
            "path": Path("a.pdf"),
            "id": uuid.UUID(int=1),
            "set": {1},
        }
        for options in ({"location": tmp_path / "store"}, {"client": Server().client(), "images": None}):
            store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()), **options)
            store.add_documents([Document("broken \ud835 text", id="a", metadata=odd)])
            (found,) = store.get_by_ids(["a"])
            assert (found.page_content, found.metadata["surrogate"]) == ("broken ? text", "broken ? text")
            assert found.metadata["array"] == [0, 1, 2]
            assert (found.metadata["numpy"], found.metadata["day"], found.metadata["set"]) == (0.5, "2026-01-02", [1])
            assert found.metadata["id"] == str(uuid.UUID(int=1))
            for wrong in (float("nan"), 10**30, object()):
                with pytest.raises(InputError, match="document 0: metadata 'year' cannot be stored"):
                    store.add_documents([Document("a", metadata={"year": wrong})])
            store.close()


class TestChunks:
    TEXT = " ".join(f"Sentence {number} about storms." for number in range(40))

    def test_chunks_of_a_page_share_its_image(self, store, model, tmp_path):
        pages = [page(1, self.TEXT), page(2, self.TEXT.upper())]
        chunks = RecursiveCharacterTextSplitter(chunk_size=100, chunk_overlap=0).split_documents(pages)
        assert len(chunks) > 15
        ids = store.add_documents(chunks, batch_size=4)
        assert model.images == 2
        assert files(tmp_path) == 2
        found = store.get_by_ids(ids)
        shown = {document.metadata["page_id"]: document.metadata["image"] for document in found}
        assert len(set(shown.values())) == 2
        assert all(document.metadata["image"] == shown[document.metadata["page_id"]] for document in found)
        store.delete([ids[0]])
        (second,) = store.get_by_ids(ids[1:2])
        assert second.metadata["image"] == shown["p1"], "others still have it"
        store.delete(ids)
        assert files(tmp_path) == 0

    def test_children_of_parents(self, store, model):
        parents = InMemoryStore()
        retriever = ParentDocumentRetriever(
            vectorstore=store,
            docstore=parents,
            child_splitter=RecursiveCharacterTextSplitter(chunk_size=100, chunk_overlap=0),
        )
        retriever.add_documents([page(1, self.TEXT), page(2, "One page of bread.")])
        assert model.images == 2
        (found, *_) = retriever.invoke("bread")
        assert found.page_content == "One page of bread."
        assert found.metadata["image"] == page(2).metadata["image"]

    def test_captions_of_one_image_are_no_chunks(self, store, model):
        shown = data_uri(Image.new("RGB", (30, 20), "red"))
        store.add_documents([Document(text, metadata={"image": shown}) for text in ("a red apple", "an apple")])
        assert model.images == 2


class TestWrappers:
    def test_images_are_embedded_within_a_wrapper(self, model):
        inside = NemotronEmbeddings(model=model)
        cached = CacheBackedEmbeddings.from_bytes_store(
            inside, InMemoryByteStore(), namespace="x", key_encoder="sha256"
        )
        store = NemotronPageVectorStore(cached)
        store.add_documents([page(1), Document("bread", id="b")])
        assert model.images == 1
        found = store.similarity_search_by_vector(inside.embed_pages([page(1)])[0], k=1)
        assert found[0].id == "p1"
        assert len(model.passages) == 3
        store.add_documents([page(1)])
        assert len(model.passages) == 3, "it is stored as it is"

    def test_what_embeds_texts_alone_is_said_once(self, caplog):
        store = NemotronPageVectorStore(DeterministicFakeEmbedding(size=6))
        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            store.add_documents([page(1), page(2)])
        assert caplog.text.count("DeterministicFakeEmbedding embeds texts alone") == 1
