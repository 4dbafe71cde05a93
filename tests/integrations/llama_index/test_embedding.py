"""NemotronEmbedding: roles, images, batches, cache, events, serialisation."""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import ImageNode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank
from nemotron_rag import Page, Passage, load_embedder
from nemotron_rag.errors import ImageError, InputError, UnknownModelError
from nemotron_rag.models.endpoints import REMOTE_OPTIONS
from nemotron_rag.models.load import LoadOptions
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.llama_index import b64, debug_manager, listening, make_image, png, png_file, uri

TEXTS = ["Revenue rose.", "", "Bread needs flour.", "Revenue rose.", "x"]


class Roles(FakeEmbedder):
    """Gives queries and passages different vectors, and remembers the batches."""

    def __init__(self, *, seconds=0.0):
        super().__init__(dimensions=8, name="roles")
        self.batches = []
        self.seconds = seconds

    def embed_queries(self, queries):
        self.batches.append(("query", len(queries)))
        return -super().embed_queries(queries)

    def embed_passages(self, passages):
        time.sleep(self.seconds)
        self.batches.append(("passage", len(passages)))
        return super().embed_passages(passages)


class Threaded(Roles):
    async def aembed_queries(self, queries):
        return await asyncio.to_thread(self.embed_queries, queries)

    async def aembed_passages(self, passages):
        return await asyncio.to_thread(self.embed_passages, passages)


@pytest.fixture(scope="module")
def embedding(reference):
    return NemotronEmbedding(reference / "embed_vl_open_1")


@pytest.fixture(scope="module")
def model(reference):
    return load_embedder(reference / "embed_vl_open_1")


def close(rows, expected):
    np.testing.assert_allclose(np.asarray(rows), np.asarray(expected), atol=1e-5)


def test_class():
    names = [base.__name__ for base in NemotronEmbedding.__mro__]
    assert {MultiModalEmbedding.__name__, BaseEmbedding.__name__} <= set(names)
    assert NemotronEmbedding.class_name() == "NemotronEmbedding"


async def test_text_methods_and_their_roles(embedding, model):
    passages = model.embed_passages([Passage(text) for text in TEXTS])
    queries = model.embed_queries(TEXTS)
    assert not np.allclose(passages[0], queries[0], atol=1e-3)
    close(embedding.get_text_embedding(TEXTS[0]), passages[0])
    close(await embedding.aget_text_embedding(TEXTS[0]), passages[0])
    close(embedding.get_text_embedding_batch(TEXTS), passages)
    close(await embedding.aget_text_embedding_batch(TEXTS), passages)
    close(embedding.get_query_embedding(TEXTS[0]), queries[0])
    close(await embedding.aget_query_embedding(TEXTS[0]), queries[0])
    close(embedding.get_agg_embedding_from_queries(TEXTS[:3]), queries[:3].mean(axis=0))
    close(await embedding.aget_agg_embedding_from_queries(TEXTS[:3]), queries[:3].mean(axis=0))


async def test_image_methods(embedding, model):
    reds = [10, 100, 200]
    expected = model.embed_passages([Passage(image=make_image(red)) for red in reds])
    images = [uri(red) for red in reds]
    close(embedding.get_image_embedding(images[0]), expected[0])
    close(await embedding.aget_image_embedding(images[0]), expected[0])
    close(embedding.get_image_embedding_batch(images, show_progress=False), expected)
    close(await embedding.aget_image_embedding_batch(images), expected)
    close(embedding._get_image_embeddings(images), expected)
    close(await embedding._aget_image_embeddings(images), expected)
    close(embedding._get_image_embedding(images[0]), expected[0])
    close(await embedding._aget_image_embedding(images[0]), expected[0])


async def test_image_with_text(embedding, model):
    pairs = [Passage("A chart.", make_image(10)), Passage("", make_image(200))]
    expected = model.embed_passages(pairs)
    images, texts = [make_image(10), make_image(200)], ["A chart.", ""]
    close(embedding.get_image_text_embedding(images[0], texts[0]), expected[0])
    close(await embedding.aget_image_text_embedding(images[0], texts[0]), expected[0])
    close(embedding.get_image_text_embeddings(images, texts), expected)
    close(await embedding.aget_image_text_embeddings(images, texts), expected)
    assert not np.allclose(expected[0], model.embed_passages([Passage(image=make_image(10))])[0], atol=1e-3)
    with pytest.raises(InputError, match="got 2 images and 1 texts"):
        embedding.get_image_text_embeddings(images, ["a"])


def test_forms_of_an_image(embedding, tmp_path):
    path = png_file(tmp_path)
    forms = [path, str(path), png(), io.BytesIO(png()), make_image(), uri(), np.asarray(make_image())]
    vectors = np.array(embedding.get_image_embedding_batch(forms))
    close(vectors, np.broadcast_to(vectors[0], vectors.shape))


def test_images_that_cannot_be_read(embedding):
    with pytest.raises(ImageError, match="gone.png"):
        embedding.get_image_embedding("/nowhere/gone.png")
    with pytest.raises(ImageError, match="never fetched"):
        embedding.get_image_embedding("https://pages.example/a.png")
    with pytest.raises(InputError, match="None at index 1"):
        embedding.get_image_embedding_batch([png(), None])


def test_a_text_is_never_a_path(embedding, model, tmp_path):
    path = str(png_file(tmp_path))
    for text in (path, f"file://{path}", uri(), "https://pages.example/a.png"):
        close(embedding.get_text_embedding(text), model.embed_passages([Passage(text)])[0])
        close(embedding.get_query_embedding(text), model.embed_queries([text])[0])


def test_nothing_in_nothing_out(embedding):
    assert embedding.get_text_embedding_batch([]) == []
    assert embedding.get_image_embedding_batch([]) == []


def test_vectors_are_lists_of_python_floats(embedding):
    for vector in (embedding.get_query_embedding("a"), embedding.get_image_embedding(png())):
        assert type(vector) is list
        assert {type(value) for value in vector} == {float}
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)


def test_dimensions(reference, embedding):
    short = NemotronEmbedding(reference / "embed_vl_open_1", dimensions=16)
    for method, item in (("get_query_embedding", "a"), ("get_text_embedding", "a"), ("get_image_embedding", png())):
        full, cut = np.array(getattr(embedding, method)(item)), np.array(getattr(short, method)(item))
        close(cut, full[:16] / np.linalg.norm(full[:16]))


async def test_batches():
    model = Roles()
    embedding = NemotronEmbedding(model, embed_batch_size=2, image_batch_size=3)
    embedding.get_text_embedding_batch(list("abcde"))
    await embedding.aget_text_embedding_batch(list("abcde"))
    assert model.batches == [("passage", 2), ("passage", 2), ("passage", 1)] * 2
    model.batches.clear()
    embedding.get_image_embedding_batch([png()] * 5, show_progress=True)
    await embedding.aget_image_embedding_batch([png()] * 5)
    assert model.batches == [("passage", 3), ("passage", 2)] * 2


async def test_concurrent_equals_serial(embedding):
    serial = [embedding.get_text_embedding(text) for text in TEXTS] + [embedding.get_image_embedding(png())]
    together = await asyncio.gather(
        *[embedding.aget_text_embedding(text) for text in TEXTS], embedding.aget_image_embedding(png())
    )
    close(together, serial)


async def test_the_loop_stays_responsive():
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    embedding = NemotronEmbedding(Threaded(seconds=0.15), cache=SimpleKVStore())
    await embedding.aget_text_embedding("a")
    await embedding.aget_image_embedding(png())
    ticking.cancel()
    assert ticks >= 10


# Cache


@pytest.mark.parametrize("use_async", [False, True])
def test_the_cache_keeps_roles_images_and_models_apart(use_async):
    def run(embedding, method, *args):
        if use_async:
            return asyncio.run(getattr(embedding, f"a{method}")(*args))
        return getattr(embedding, method)(*args)

    store, model = SimpleKVStore(), Roles()
    embedding = NemotronEmbedding(model, cache=store)
    plain = NemotronEmbedding(Roles())
    calls = [
        ("get_text_embedding", "revenue"),
        ("get_query_embedding", "revenue"),
        ("get_image_embedding", png()),
        ("get_image_embedding", png(9)),
        ("get_image_text_embedding", png(), "revenue"),
        ("get_text_embedding_batch", ["revenue", "b", "revenue", "c"]),
    ]
    for call in calls:
        close(run(embedding, *call), run(plain, *call))
    assert model.batches == [
        ("passage", 1),
        ("query", 1),
        ("passage", 1),
        ("passage", 1),
        ("passage", 1),
        ("passage", 2),
    ]
    model.batches.clear()
    for call in calls:
        close(run(embedding, *call), run(plain, *call))
    assert sum(count for _, count in model.batches) == 0
    other = FakeEmbedder(dimensions=16, name="roles")
    assert len(run(NemotronEmbedding(other, cache=store), "get_text_embedding", "revenue")) == 16


def test_the_cache_takes_every_form_of_an_image_for_the_same(tmp_path):
    model = Roles()
    embedding = NemotronEmbedding(model, cache=SimpleKVStore())
    embedding.get_image_embedding_batch([png_file(tmp_path)])
    embedding.get_image_embedding_batch([png(), io.BytesIO(png()), make_image(), uri()])
    assert model.batches == [("passage", 1), ("passage", 0)]


def test_the_cache_can_be_stored(tmp_path):
    store = SimpleKVStore()
    first = NemotronEmbedding(Roles(), cache=store).get_text_embedding("a")
    store.persist(str(tmp_path / "cache.json"))
    model = Roles()
    again = NemotronEmbedding(model, cache=SimpleKVStore.from_persist_path(str(tmp_path / "cache.json")))
    assert again.get_text_embedding("a") == first
    assert sum(count for _, count in model.batches) == 0


def test_the_cache_of_llama_index_is_refused():
    with pytest.raises(InputError, match="cache="):
        NemotronEmbedding(FakeEmbedder(), embeddings_cache=SimpleKVStore())
    embedding = NemotronEmbedding(FakeEmbedder())
    with pytest.raises(ValueError, match="frozen"):
        embedding.embeddings_cache = SimpleKVStore()


# Events


@pytest.mark.parametrize("use_async", [False, True])
def test_events_of_images(use_async, tmp_path):
    manager, debug = debug_manager()
    embedding = NemotronEmbedding(FakeEmbedder(dimensions=4), image_batch_size=2, callback_manager=manager)
    path = png_file(tmp_path)
    images = [path, png(), uri(), make_image()]
    with listening() as listener:
        if use_async:
            asyncio.run(embedding.aget_image_embedding_batch(images))
        else:
            embedding.get_image_embedding_batch(images)
    names = [name for name in listener.names() if name.startswith("Embedding")]
    assert names == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 2
    start, end = listener.named("EmbeddingStartEvent")[0], listener.named("EmbeddingEndEvent")
    assert start.model_dict["model_name"] == "fake-embedder"
    assert [chunk for event in end for chunk in event.chunks] == [str(path), "<bytes>", "<data URI>", "<Image>"]
    assert [len(event.embeddings) for event in end] == [2, 2]
    shown = repr(listener._events) + json.dumps([event.model_dump() for event in end], default=str)
    pairs = debug.get_event_pairs(CBEventType.EMBEDDING)
    assert [len(done.payload[EventPayload.EMBEDDINGS]) for _, done in pairs] == [2, 2]
    assert b64()[20:60] not in shown + repr([done.payload for _, done in pairs])


async def test_events_come_in_pairs_for_errors(embedding):
    with listening() as listener:
        with pytest.raises(ImageError):
            embedding.get_image_embedding("/gone.png")
        with pytest.raises(ImageError):
            await embedding.aget_image_embedding("/gone.png")
    names = [name for name in listener.names() if name.startswith(("Embedding", "Exception"))]
    assert names == ["EmbeddingStartEvent", "ExceptionEvent", "EmbeddingEndEvent"] * 2


def test_texts_have_the_events_of_llama_index(embedding):
    with listening() as listener:
        embedding.get_text_embedding("a")
        embedding.get_query_embedding("b")
    assert [event.chunks for event in listener.named("EmbeddingEndEvent")] == [["a"], ["b"]]


# As a step of a pipeline


@pytest.mark.parametrize("use_async", [False, True])
def test_as_a_transformation_it_reads_images(use_async, embedding, model):
    nodes = [ImageNode(text="A chart.", image=b64(), metadata={"page": 1}), TextNode(text="a")]
    done = asyncio.run(embedding.acall(nodes)) if use_async else embedding(nodes)
    close(
        [node.embedding for node in done],
        model.embed_passages([Passage("page: 1\n\nA chart.", make_image()), Passage("a")]),
    )
    assert [node.node_id for node in done] == [node.node_id for node in nodes]


# Settings and serialisation


def test_every_loading_option_is_a_field():
    options = set(LoadOptions.__annotations__)
    assert options <= set(NemotronEmbedding.model_fields)
    assert options - {"dimensions"} <= set(NemotronRerank.model_fields)
    for component in (NemotronEmbedding, NemotronRerank):
        assert all(component.model_fields[name].frozen for name in options & set(component.model_fields))


def test_loading_options_reach_the_model(monkeypatch):
    seen = []
    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", lambda *_, **options: seen.append(options) or Roles())
    options = {
        "device": "cpu",
        "dtype": "float32",
        "revision": "abc",
        "dimensions": 2048,
        "max_input_tiles": 2,
        "use_thumbnail": False,
        "max_length": {"text": 100},
        "compile": True,
    }
    of_others = {"instruction", "max_image_tokens", *REMOTE_OPTIONS}  # other families, and models at a server
    assert set(options) == set(LoadOptions.__annotations__) - of_others
    NemotronEmbedding("llama-nemotron-embed-vl-1b-v2", **options).get_query_embedding("a")
    assert seen == [options]


def test_settings():
    for wrong in ({"dimension": 3}, {"image_batch_size": 0}, {"embed_batch_size": 0}, {"dimensions": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NemotronEmbedding("llama-nemotron-embed-vl-1b-v2", **wrong)
    with pytest.raises(UnknownModelError):
        NemotronEmbedding(model_name="no-such-model")
    with pytest.raises(InputError, match="leave one out"):
        NemotronEmbedding("a", model_name="b")
    with pytest.raises(InputError, match="dimensions came with a loaded model"):
        NemotronEmbedding(FakeEmbedder(), dimensions=4)
    with pytest.raises(InputError, match="got a reranker, FakeReranker"):
        NemotronEmbedding(FakeReranker())
    with pytest.raises(InputError, match="got a multivector_embedder, FakeMultiVectorEmbedder"):
        NemotronEmbedding(FakeMultiVectorEmbedder())
    assert NemotronEmbedding().model_name == "llama-nemotron-embed-vl-1b-v2"


@pytest.mark.parametrize(
    "through",
    [
        lambda e: NemotronEmbedding.from_dict(e.to_dict()),
        lambda e: NemotronEmbedding.from_json(e.to_json()),
        lambda e: pickle.loads(pickle.dumps(e)),
        copy.deepcopy,
    ],
)
def test_round_trips(through, reference, caplog):
    original = NemotronEmbedding(
        reference / "embed_vl_open_1", dimensions=16, image_batch_size=3, device="cpu", max_input_tiles=2
    )
    expected = original.get_image_embedding(png())
    restored = through(original)
    assert restored.to_dict() == original.to_dict()
    assert restored.get_image_embedding(png()) == pytest.approx(expected, abs=1e-6)
    assert len(pickle.dumps(restored)) < 10_000
    assert "unpickleable" not in caplog.text.lower()


def test_rate_limiter():
    class Limiter:
        count = 0

        def acquire(self):
            self.count += 1

        async def async_acquire(self):
            self.count += 1

    limiter = Limiter()
    embedding = NemotronEmbedding(FakeEmbedder(), rate_limiter=limiter, image_batch_size=1)
    embedding.get_image_embedding_batch([png(), png()])
    asyncio.run(embedding.aget_image_embedding(png()))
    embedding.get_text_embedding("a")
    assert limiter.count == 4


def test_close(reference):
    embedding = NemotronEmbedding(reference / "embed_vl_open_1")
    first = embedding.get_query_embedding("a")
    embedding.close()
    assert embedding.get_query_embedding("a") == pytest.approx(first, abs=1e-6)


def test_base64_of_a_resolved_node(embedding):
    resolved = ImageNode(image=b64()).resolve_image()  # what a MultiModalVectorStoreIndex hands over
    close(embedding.get_image_embedding(resolved), embedding.get_image_embedding(base64.b64decode(b64())))
    assert not isinstance(resolved, Path)


def test_spans_hold_no_image():
    image = uri()
    for passage in (Passage("a", image), Passage(image=png()), Page("a", image, id="p")):
        assert image[30:60] not in repr(passage)
        assert "text=" in repr(passage)
        assert "image=<image of " in repr(passage)
    assert repr(Page("a", id="p", number=2)) == "Page(text='a', image=None, id='p', source='', number=2, metadata={})"
