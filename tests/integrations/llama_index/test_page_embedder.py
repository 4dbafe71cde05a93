"""Pages in LlamaIndex's own indexes, pipelines and stores, embedded by image and text."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import uuid

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    MediaResource,
    Node,
    QueryBundle,
    TextNode,
    TransformComponent,
)
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient

from llama_index.embeddings.nemotron_rag import NemotronEmbedding, NemotronPageEmbedder, PageNode
from nemotron_rag import Passage, load_embedder
from nemotron_rag.documents import held
from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import ImageError
from nemotron_rag.testing import FakeEmbedder
from support.forking import needs_fork
from support.llama_index import b64, image_nodes, listening, make_image, png, png_file


@pytest.fixture(scope="module")
def embedding(reference):
    return NemotronEmbedding(reference / "embed_vl_open_1", image_batch_size=2)


@pytest.fixture(scope="module")
def model(reference):
    return load_embedder(reference / "embed_vl_open_1")


@pytest.fixture
def pages(tmp_path):
    """Three pages whose texts and metadata are the same, so that only the images tell them apart."""
    return [
        ImageNode(id_=str(uuid.UUID(int=red)), image_path=str(png_file(tmp_path, red)), metadata={"page": "p"})
        for red in (10, 120, 250)
    ]


def close(rows, expected):
    np.testing.assert_allclose(np.asarray(rows), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("use_async", [False, True])
def test_every_form_is_embedded_by_image_and_text(use_async, embedding, model, tmp_path):
    nodes = [*image_nodes(tmp_path, text="A chart.").values(), TextNode(text="A chart.")]
    embedder = NemotronPageEmbedder(embed_model=embedding)
    done = asyncio.run(embedder.acall(nodes)) if use_async else embedder(nodes)
    assert [new is node for new, node in zip(done, nodes, strict=True)] == [not isinstance(n, Document) for n in nodes]
    both, text = model.embed_passages([Passage("A chart.", make_image()), Passage("A chart.")])
    close([node.embedding for node in done], [both] * (len(nodes) - 1) + [text])


def test_class():
    embedder = NemotronPageEmbedder(embed_model=NemotronEmbedding(FakeEmbedder()))
    assert isinstance(embedder, TransformComponent)
    assert embedder.class_name() == "NemotronPageEmbedder"
    with pytest.raises(ValueError, match="image_root"):
        NemotronPageEmbedder(embed_model=NemotronEmbedding(FakeEmbedder()), image_root="/data")


def test_modality_and_access(embedding, model, pages, tmp_path):
    page = ImageNode(text="A chart.", image=b64())
    (done,) = NemotronPageEmbedder(embed_model=embedding, modality="text")([page])
    close(done.embedding, model.embed_passages([Passage("A chart.")])[0])
    with pytest.raises(ImageError, match="outside the allowed folders"):
        NemotronPageEmbedder(embed_model=embedding, image_roots=["/data"])(pages)


def test_missing_images_by_policy(embedding, model, pages):
    gone = ImageNode(text="A chart.", image_path="/gone.png")
    nodes = [*pages, gone]
    with pytest.raises(ImageError, match=f"node 3 .{gone.node_id}"):
        NemotronPageEmbedder(embed_model=embedding)(nodes)
    assert NemotronPageEmbedder(embed_model=embedding, on_image_error="skip")(nodes) == pages
    assert gone.embedding is None
    assert NemotronPageEmbedder(embed_model=embedding, on_image_error="text")(nodes) == nodes
    close(gone.embedding, model.embed_passages([Passage("A chart.")])[0])


def test_round_trip(embedding):
    embedder = NemotronPageEmbedder(embed_model=embedding, image_roots=["/data"], on_image_error="skip")
    for stored in (embedder.to_dict(), json.loads(embedder.to_json())):
        restored = NemotronPageEmbedder.from_dict(stored)
        assert restored.to_dict() == embedder.to_dict()
        assert isinstance(restored.embed_model, NemotronEmbedding)
    moved = pickle.loads(pickle.dumps(embedder))  # as an IngestionPipeline with workers does
    assert moved.to_dict() == embedder.to_dict()
    assert len(moved([ImageNode(image=b64())])[0].embedding) == len(embedding.get_query_embedding("a"))
    assert copy.deepcopy(embedder).embed_model._model is embedding._model


def test_an_index_of_embedded_pages_finds_images(embedding, pages):
    nodes = NemotronPageEmbedder(embed_model=embedding)(pages)
    with listening() as listener:
        index = VectorStoreIndex(nodes, embed_model=embedding)
    assert listener.named("EmbeddingStartEvent") == []  # nothing was embedded again as text
    for page in pages:
        query = embedding.get_image_embedding(page.image_path)
        (hit,) = index.as_retriever(similarity_top_k=1)._get_nodes_with_embeddings(QueryBundle("", embedding=query))
        assert hit.node_id == page.node_id
        assert hit.score == pytest.approx(1, abs=1e-5)


def test_an_image_without_text_and_metadata_survives_the_index_build(embedding):
    page = ImageNode(image=b64())
    index = VectorStoreIndex(embed_model=embedding, nodes=[])
    index.insert_nodes(NemotronPageEmbedder(embed_model=embedding)([page]))
    (hit,) = index.as_retriever().retrieve("a")
    assert hit.node_id == page.node_id
    with_metadata = ImageNode(image=b64(), metadata={"page": 1})
    built = VectorStoreIndex(NemotronPageEmbedder(embed_model=embedding)([with_metadata]), embed_model=embedding)
    assert [hit.node_id for hit in built.as_retriever().retrieve("a")] == [with_metadata.node_id]


@pytest.mark.parametrize("step", ["embedding", "page embedder"])
@pytest.mark.parametrize("use_async", [False, True])
def test_pipeline(step, use_async, embedding, model, pages):
    last = embedding if step == "embedding" else NemotronPageEmbedder(embed_model=embedding)
    pipeline = IngestionPipeline(transformations=[last], vector_store=SimpleVectorStore())
    done = asyncio.run(pipeline.arun(nodes=pages)) if use_async else pipeline.run(nodes=pages)
    expected = model.embed_passages([Passage(image=make_image(red)) for red in (10, 120, 250)])
    close([node.embedding for node in done], expected)


def test_pipeline_cache_follows_the_settings(embedding, pages):
    pipeline = IngestionPipeline(transformations=[NemotronPageEmbedder(embed_model=embedding)])
    first = pipeline.run(nodes=copy.deepcopy(pages))
    again = pipeline.run(nodes=copy.deepcopy(pages))  # out of the pipeline's cache
    close([node.embedding for node in again], [node.embedding for node in first])
    pipeline.transformations = [NemotronPageEmbedder(embed_model=embedding, modality="text")]
    text = pipeline.run(nodes=copy.deepcopy(pages))
    assert not np.allclose(text[0].embedding, first[0].embedding, atol=1e-3)


def test_documents_become_pages(embedding, model, tmp_path):
    documents = [
        ImageDocument(text="A chart.", image_path=str(png_file(tmp_path)), metadata={"page": 1}),
        Document(text="A text."),
    ]
    index = VectorStoreIndex.from_documents(
        documents, embed_model=embedding, transformations=[NemotronPageEmbedder(embed_model=embedding)]
    )
    stored = index.vector_store.data.embedding_dict
    expected = model.embed_passages([Passage("page: 1\n\nA chart.", make_image()), Passage("A text.")])
    close(list(stored.values()), expected)


def test_multi_modal_index(embedding, pages):
    index = MultiModalVectorStoreIndex(pages, embed_model=embedding, image_embed_model=embedding)
    hits = index.as_retriever(image_similarity_top_k=3).image_to_image_retrieve(pages[1].image_path)
    assert hits[0].node_id == pages[1].node_id
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    hits = index.as_retriever(image_similarity_top_k=3).text_to_image_retrieve("a red image")
    assert {hit.node_id for hit in hits} == {page.node_id for page in pages}


# LlamaIndex's store creates payload indexes whatever the client; in memory they are needless.
in_memory = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")


@in_memory
def test_qdrant_keeps_pages_small_and_whole(embedding, pages):
    store = QdrantVectorStore("pages", client=QdrantClient(":memory:"))
    for page in pages:
        page.text = "A chart."
    index = VectorStoreIndex(
        NemotronPageEmbedder(embed_model=embedding)(pages),
        embed_model=embedding,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )
    hits = index.as_retriever(similarity_top_k=3).retrieve("a chart")
    assert {type(hit.node) for hit in hits} == {ImageNode}
    assert {(hit.node_id, hit.node.image_path, hit.node.text) for hit in hits} == {
        (page.node_id, page.image_path, "A chart.") for page in pages
    }
    points, _ = store.client.scroll("pages", with_payload=True)
    assert max(len(json.dumps(point.payload)) for point in points) < 2000


@in_memory
async def test_qdrant_async_pipeline(embedding, pages):
    store = QdrantVectorStore("pages", aclient=AsyncQdrantClient(":memory:"))
    pipeline = IngestionPipeline(
        transformations=[NemotronPageEmbedder(embed_model=embedding)], vector_store=store, disable_cache=True
    )
    await pipeline.arun(nodes=pages)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding, use_async=True)
    hits = await index.as_retriever(similarity_top_k=3).aretrieve("a chart")
    assert {hit.node.image_path for hit in hits} == {page.image_path for page in pages}


def test_plain_nodes_are_embedded_too(embedding, model):
    node = Node(image_resource=MediaResource(data=png()), metadata={"page": 1})
    (done,) = NemotronPageEmbedder(embed_model=embedding)([node])
    close(done.embedding, model.embed_passages([Passage(image=make_image())])[0])


def test_few_large_images_are_decoded_at_once(monkeypatch, tmp_path):
    image = png_file(tmp_path)
    pixels = load_image(image).width * load_image(image).height
    monkeypatch.setattr(held, "HELD_PIXELS", 2 * pixels)
    sizes = []

    class Watched(FakeEmbedder):
        def embed_passages(self, passages):
            sizes.append(len(passages))
            return super().embed_passages(passages)

    nodes = [ImageNode(text=f"page {n}", image_path=str(png_file(tmp_path, red=n))) for n in range(5)]
    found = NemotronPageEmbedder(embed_model=NemotronEmbedding(Watched()))(nodes)
    assert sizes == [2, 2, 1]
    assert all(node.embedding is not None for node in found)


def test_what_is_no_image_is_left_out_of_prompts(caplog):
    for image in ("ü", "data:image/png;base64,ü", "A"):
        blocks = PageNode.model_construct(text="Revenue rose.", image=image).get_content_blocks()
        assert [type(block).__name__ for block in blocks] == ["TextBlock"]
    assert "an image is left out of a prompt" in caplog.text


@needs_fork
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12: it has threads
def test_a_pipeline_with_worker_processes_that_are_forked(reference):
    embedder = NemotronPageEmbedder(embed_model=NemotronEmbedding(reference / "embed_vl_open_1", device="cpu"))
    alone = embedder([TextNode(text=f"text {n}") for n in range(4)])
    pipeline = IngestionPipeline(transformations=[embedder], disable_cache=True)
    nodes = [TextNode(text=f"text {n}") for n in range(4)]
    together = asyncio.run(asyncio.wait_for(pipeline.arun(nodes=nodes, num_workers=2), 120))
    close([node.embedding for node in together], [node.embedding for node in alone])
