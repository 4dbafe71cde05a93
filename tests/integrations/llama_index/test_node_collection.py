"""NemotronPageRetriever over collections that LlamaIndex wrote."""

from __future__ import annotations

import json

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import ImageDocument, ImageNode, MediaResource, MetadataMode, Node, TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from llama_index.embeddings.nemotron_rag import NemotronPageEmbedder
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection
from nemotron_rag.errors import ClosedError, IndexMismatchError, InputError, StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.llama_index import ask, b64, png_file, same, texts
from support.pages import add
from support.qdrant_server import Server


def test_the_payload_holds_no_image(collection, client, pages):
    records, _ = client.scroll("docs", limit=9)
    assert len(records) == 4  # the one without text is there
    assert all(record.payload["_node_type"] == "ImageNode" for record in records)
    assert max(len(json.dumps(record.payload)) for record in records) < 5000


def test_a_collection_gives_back_what_was_stored(collection, pages):
    read = {page.id_: page for page in pages}
    found = NemotronPageRetriever(collection).retrieve("red apples")
    assert texts(found)[0] == "red apples"
    assert len(found) == 4
    for item in found:
        page = read[item.node.ref_doc_id]
        assert isinstance(item.node, ImageNode)
        assert (item.node.text, item.node.image_path, item.node.metadata) == (page.text, page.image_path, page.metadata)
        assert type(item.score) is float


def test_llama_indexs_own_retriever_finds_the_same(collection, store, embedding):
    theirs = VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_retriever(similarity_top_k=4)
    ours = NemotronPageRetriever(collection)
    same(theirs.retrieve("red apples"), ours.retrieve("red apples"))


def test_image_queries_to_a_collection(collection, pages):
    found = NemotronPageRetriever(collection).retrieve(ask(image_path=pages[2].image_path))
    assert found[0].node.ref_doc_id == pages[2].id_
    assert found[0].score == pytest.approx(1.0, abs=1e-5)  # that page is its image alone


def test_named_vectors(client, embedding, pages):
    dense = models.VectorParams(size=64, distance=models.Distance.COSINE)
    many = models.VectorParams(
        size=4,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    client.create_collection("named", {"text-dense": dense, "tokens": many})
    QdrantVectorStore("named", client=client).add(NemotronPageEmbedder(embed_model=embedding)(pages))
    named = NodeCollection(client=client, collection="named", embedder=embedding)
    assert texts(NemotronPageRetriever(named, similarity_top_k=1).retrieve("red apples")) == ["red apples"]
    client.create_collection("two", {"one": dense, "other": dense})
    two = NodeCollection(client=client, collection="two", embedder=embedding)
    with pytest.raises(InputError, match=r"\['one', 'other'\]; pass vector_name="):
        NemotronPageRetriever(two).retrieve("red apples")
    chosen = NodeCollection(client=client, collection="two", embedder=embedding, vector_name="one")
    assert NemotronPageRetriever(chosen).retrieve("red apples") == []


def test_nodes_of_other_forms(client, embedding, store, tmp_path):
    path = str(png_file(tmp_path))
    nodes = [
        TextNode(text="only text"),
        ImageNode(text="inline", image=b64()),
        ImageDocument(text="a document", image_path=path),  # LlamaIndex would give back its text alone
        ImageNode(text="gone", image_path=str(tmp_path / "gone.png")),
        ImageNode(image_path=str(tmp_path / "gone.png"), metadata={"page": 1}),
    ]
    nodes = NemotronPageEmbedder(embed_model=embedding, on_image_error="text")(nodes)
    store.add(nodes)
    collection = NodeCollection(client=client, collection="docs", embedder=embedding, image_roots=[tmp_path])
    retriever = NemotronPageRetriever(collection, reranker=FakeReranker())
    found = {item.node_id: item.node for item in retriever.retrieve("anything")}
    shown = [found[node.id_] for node in nodes]
    assert [type(node).class_name() for node in shown] == ["TextNode"] + ["ImageNode"] * 4
    assert [node.text for node in shown] == [node.text for node in nodes]
    assert shown[1].image == b64()
    assert [node.image_path for node in shown[2:]] == [path, None, None]
    for node in shown:
        node.get_content_blocks(MetadataMode.LLM)  # what an LLM is shown; LlamaIndex raises for lost images


def test_what_llama_index_did_not_write_is_refused(client, embedding, index):
    client.create_collection("raw", models.VectorParams(size=64, distance=models.Distance.COSINE))
    client.upsert("raw", [models.PointStruct(id=1, vector=[0.1] * 64, payload={"text": "x"})])
    raw = NodeCollection(client=client, collection="raw", embedder=embedding)
    with pytest.raises(StoreError, match="point 1 of collection 'raw' at :memory: is no node of LlamaIndex"):
        NemotronPageRetriever(raw).retrieve("apples")
    gone = NodeCollection(client=client, collection="gone", embedder=embedding)
    with pytest.raises(StoreError, match="gone"):
        NemotronPageRetriever(gone).retrieve("apples")


def test_another_embedder_is_refused(collection, client):
    other = NodeCollection(client=client, collection="docs", embedder=FakeEmbedder(dimensions=8))
    with pytest.raises(IndexMismatchError, match="collection 'docs' .*'dimensions': 64.*'dimensions': 8"):
        NemotronPageRetriever(other).retrieve("apples")


def test_a_collection_in_a_folder(tmp_path, pages, embedding):
    client = QdrantClient(path=str(tmp_path / "store"))
    QdrantVectorStore("docs", client=client, index_doc_id=False).add(embedding(pages))
    client.close()
    with NodeCollection(tmp_path / "store", collection="docs", embedder=embedding) as collection:
        with NemotronPageRetriever(collection) as retriever:
            assert texts(retriever.retrieve("blue whales"))[0] == "blue whales"
        assert len(retriever.retrieve("blue whales")) == 4  # a collection is closed by whoever made it
    QdrantClient(path=str(tmp_path / "store")).close()  # nobody holds it any more
    with pytest.raises(ClosedError):
        retriever.retrieve("blue whales")


async def test_a_server(tmp_path, pdf, embedding, pages):
    server = Server()
    with PageIndex(client=server.client(), images=tmp_path / "images", embedder=FakeEmbedder(), dpi=72) as index:
        add(index, pdf, ocr="never")
        retriever = NemotronPageRetriever(index, filters={"page_number": [1, 4]}, reranker=FakeReranker())
        assert texts(retriever.retrieve("blue whales")) == ["blue whales", "red apples"]
        same(await retriever.aretrieve("blue whales"), retriever.retrieve("blue whales"))


def test_no_payload_names_a_file_outside_the_allowed_folders(client, embedding, store, tmp_path, caplog):
    allowed, secret = tmp_path / "images", tmp_path / "secret"
    allowed.mkdir()
    secret.mkdir()
    good, outside = png_file(allowed), png_file(secret)
    (allowed / "link.png").symlink_to(outside)
    nodes = [
        ImageNode(text="good", image_path=str(good)),
        ImageNode(text="outside", image_path=str(outside)),
        ImageNode(text="dots", image_path=str(allowed / ".." / "secret" / outside.name)),
        ImageNode(text="link", image_path=str(allowed / "link.png")),
        ImageNode(text="encoded", image_path=f"{allowed}/%2e%2e/secret/{outside.name}"),
        ImageNode(text="file url", image_url=f"file://{outside}"),
        ImageNode(text="intranet", image_url="http://169.254.169.254/latest/meta-data"),
        ImageNode(text="fine", image_url="https://images.example/a.png"),
        ImageNode(text="both", image=b64(), image_path=str(outside)),
        Node(text_resource=MediaResource(text="resource"), image_resource=MediaResource(path=outside)),
        Node(text_resource=MediaResource(text="sound"), audio_resource=MediaResource(path=outside)),
    ]
    for node in nodes:
        node.embedding = embedding.get_text_embedding("anything")
    store.add(nodes)
    collection = NodeCollection(
        client=client, collection="docs", embedder=embedding, image_roots=[allowed], image_hosts=["images.example"]
    )
    found = {
        item.node.get_content(): item.node
        for item in NemotronPageRetriever(collection, similarity_top_k=20).retrieve("anything")
    }
    assert found.keys() == {node.get_content() for node in nodes}
    for name, node in found.items():
        fields = node.to_dict()
        for key in ("_node_content", "relationships", "metadata"):
            fields.pop(key, None)
        shown = str(fields)
        assert "secret" not in shown, name
        assert "169.254" not in shown, name
    assert found["good"].image_path == str(good)
    assert found["fine"].image_url == "https://images.example/a.png"
    assert (found["both"].image, found["both"].image_path) == (b64(), None)
    assert "NodeCollection takes image_roots= and image_hosts=" in caplog.text
    said = caplog.text.count("comes without its image")
    assert 1 <= said <= 2  # what may not be opened, and what is not there; not each of eight nodes, nor in each search
    NemotronPageRetriever(collection, similarity_top_k=20).retrieve("anything")
    assert caplog.text.count("comes without its image") == said


def test_by_default_only_the_readers_own_folder_is_allowed(client, embedding, store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "nemotron-rag" / "pages"
    folder.mkdir(parents=True)
    nodes = [
        ImageNode(text="own", image_path=str(png_file(folder))),
        ImageNode(text="else", image_path=str(png_file(tmp_path))),
    ]
    for node in nodes:
        node.embedding = embedding.get_text_embedding("anything")
    store.add(nodes)
    retriever = NemotronPageRetriever(NodeCollection(client=client, collection="docs", embedder=embedding))
    assert {item.node.text: item.node.image_path for item in retriever.retrieve("anything")} == {
        "own": nodes[0].image_path,
        "else": None,
    }
