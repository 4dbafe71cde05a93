"""Images that documents of strangers hold or name: whatever is wrong with one obeys `on_image_error`."""

from __future__ import annotations

import io

import pytest
from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from PIL import Image

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageVectorStore, NemotronRerank, to_content_blocks
from nemotron_rag.documents import held
from nemotron_rag.errors import ImageError
from nemotron_rag.testing import FakeEmbedder, FakeReranker

HOSTILE = [
    "/etc/passwd",
    "../../etc/passwd",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "\\\\evil\\share\\a.png",
    "//evil/share/a.png",
    "http://allowed.example@evil.example/a.png",
    "http://allowed.example/a b\n.png",
    "http://allowed.example:port/a.png",
    "http://[allowed.example/a.png",
    "data:image/png;base64,\ud800",
    "data:image/png;base64,AAAA",
    "data:image/png",
    "\0",
    "x" * 5000,
    b"",
    b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    5,
    ["a.png"],
    {"type": "image"},
    {"type": "image_url", "image_url": {"url": 5}},
    Blob(data="text", encoding="no-such-encoding"),
    Blob(path="/etc/passwd"),
    io.StringIO("text"),
]


@pytest.mark.parametrize("image", HOSTILE, ids=range(len(HOSTILE)))
def test_the_policy_decides(image, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("asked the network"))
    documents = [Document("good"), Document("bad", metadata={"image": image})]
    options = {"model": FakeReranker(), "image_hosts": ["allowed.example"]}
    if not (isinstance(image, Blob) and image.path):  # a blob is the program's own, and its path with it
        ranked = NemotronRerank(**options, on_image_error="skip").compress_documents(documents, "good")
        assert [found.page_content for found in ranked] == ["good"]
    ranked = NemotronRerank(**options, on_image_error="text").compress_documents(documents, "good")
    assert [found.page_content for found in ranked] == ["good", "bad"]
    with pytest.raises(ImageError, match="document 1"):
        NemotronRerank(**options, on_image_error="raise").compress_documents(documents, "good")
    blocks = to_content_blocks(documents, on_image_error="text")
    assert [block["type"] for block in blocks] == ["text", "text"]
    with pytest.raises(ImageError, match="document 1"):
        to_content_blocks(documents)
    with pytest.raises(ImageError):
        NemotronEmbeddings(model=FakeEmbedder()).embed_pages(documents)


def test_a_store_holds_few_large_images_at_once(monkeypatch):
    monkeypatch.setattr(held, "HELD_PIXELS", 3 * 100)
    sizes = []

    class Watched(FakeEmbedder):
        def embed_passages(self, passages):
            sizes.append(len(passages))
            return super().embed_passages(passages)

    file = io.BytesIO()
    Image.new("RGB", (10, 10)).save(file, "PNG")
    store = NemotronPageVectorStore(NemotronEmbeddings(model=Watched()))
    documents = [Document(f"page {n}", metadata={"image": file.getvalue()}) for n in range(8)]
    assert len(store.add_documents(documents)) == 8
    assert sizes == [3, 3, 2]
    assert len(store.similarity_search("page", k=9)) == 8


def test_a_single_folder_is_not_taken_letter_by_letter():
    document = Document("x", metadata={"image": "/etc/passwd"})
    for use in (
        lambda: NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()), image_roots="/data"),
        lambda: to_content_blocks([document], image_roots="/data"),
        lambda: NemotronRerank(model=FakeReranker(), image_roots="/data"),
        lambda: NemotronEmbeddings(model=FakeEmbedder(), image_roots="/data"),
    ):
        with pytest.raises(ValueError, match=r"image_roots(\n| must be a list)"):
            use()
