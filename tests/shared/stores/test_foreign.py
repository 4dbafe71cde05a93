"""Collections of other libraries, as adapters use them: embedded and on a server, blocking and on an event loop."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from nemotron_rag.errors import ClosedError, IndexMismatchError, InputError, StoreError
from nemotron_rag.stores.qdrant import (
    PAGE_LAYOUT,
    ForeignCollection,
    Layout,
    Qdrant,
    QdrantStore,
    Shape,
    from_payload,
    point_id,
)
from nemotron_rag.types import Page, StoredPage, page_uuid
from support.qdrant_server import Server

pytestmark = pytest.mark.slow

IDENTITY = {"model": "m", "tiles": 2}
UNNAMED = Layout(vector_name="", metadata="metadata")
AT_TOP = Layout(metadata="")


def point(number: int, *vector: float, **payload) -> models.PointStruct:
    return models.PointStruct(id=number, vector=list(vector), payload=payload)


class Twin:
    """Calls the async twins, each in an event loop of its own."""

    def __init__(self, collection: ForeignCollection) -> None:
        self.collection = collection

    def __getattr__(self, name: str):
        twin = getattr(self.collection, f"a{name}")
        return lambda *args, **options: asyncio.run(twin(*args, **options))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["memory", "folder", "server"])
def qdrant(request, tmp_path, server):
    opened = {
        "memory": lambda: Qdrant(),
        "folder": lambda: Qdrant(tmp_path / "q"),
        "server": lambda: Qdrant(client=server.client(), async_client=AsyncServer(server)),
    }[request.param]()
    yield opened
    opened.close()


class AsyncServer:
    """Stands in for an `AsyncQdrantClient`: the calls of the stand-in's own client, awaited."""

    def __init__(self, server: Server) -> None:
        self.client = server.client()

    def __getattr__(self, name: str):
        async def call(**arguments):
            return getattr(self.client, name)(**arguments)

        return call


@pytest.fixture(params=["blocking", "async"])
def form(request):
    return Twin if request.param == "async" else lambda collection: collection


def test_points_go_in_are_found_and_go_out(qdrant, form):
    collection = form(ForeignCollection(qdrant, "docs", layout=UNNAMED))
    assert collection.shape() is None
    assert collection.nearest([1, 0], 3) == []
    assert collection.get([1]) == []
    assert collection.ids_matching() == []
    collection.delete([1])
    collection.ensure(2, identity=IDENTITY)
    collection.upsert([point(n, np.cos(n), np.sin(n), metadata={"year": 2020 + n}, text=f"t{n}") for n in range(3)])
    assert [found.id for found in collection.nearest([1, 0], 2)] == [0, 1]
    best, *_ = collection.nearest([1, 0], 1, with_vectors=True)
    assert best.payload == {"metadata": {"year": 2020}, "text": "t0"}
    assert collection.shape().vector(best) == pytest.approx([1, 0])
    assert [found.id for found in collection.nearest([1, 0], 3, {"year": {"gte": 2021}})] == [1, 2]
    assert [found.id for found in collection.nearest([1, 0], 3, score_threshold=0.5)] == [0, 1]
    assert [found.id for found in collection.nearest([1, 0], 1, offset=1)] == [1]
    exact = models.SearchParams(exact=True)
    assert [found.id for found in collection.nearest([1, 0], 1, search_params=exact)] == [0]
    assert [found.payload["text"] for found in collection.get([2, 9, 0, 2])] == ["t2", "t0"]
    assert sorted(collection.ids_matching()) == [0, 1, 2]
    assert collection.ids_matching({"metadata.year": [2020, 2022]}) == [0, 2]
    own = models.Filter(must=[models.HasIdCondition(has_id=[1])])
    assert collection.ids_matching(own) == [1]
    collection.delete([0, 9])
    assert collection.ids_matching() == [1, 2]


def test_the_shape_is_asked_for_once_and_remembers_who_wrote(qdrant, form, server):
    ForeignCollection(qdrant, "docs", layout=UNNAMED).ensure(2, identity=IDENTITY)
    collection = form(ForeignCollection(qdrant, "docs", layout=UNNAMED))
    assert collection.shape() == Shape("", 2, models.Distance.COSINE, IDENTITY, is_index=False, analysis=2)
    server.requests.clear()
    assert collection.shape().dimensions == 2
    assert server.requests == []


def test_other_embedders_and_lengths_are_refused(qdrant, form):
    collection = form(ForeignCollection(qdrant, "docs", layout=UNNAMED))
    collection.ensure(2, identity=IDENTITY)
    collection.ensure(2, identity=dict(IDENTITY))
    collection.ensure(2)  # one that does not say
    for use in (
        lambda other: collection.ensure(2, identity=other),
        lambda other: collection.nearest([1, 0], 1, identity=other),
    ):
        with pytest.raises(IndexMismatchError, match=r"written with {'tiles': 2}, but the embedding has {'tiles': 6}"):
            use({**IDENTITY, "tiles": 6})
    with pytest.raises(IndexMismatchError, match=r"'docs' at .* {'dimensions': 2}.* {'dimensions': 3}; open it with"):
        collection.nearest([1, 0, 0], 1)
    with pytest.raises(IndexMismatchError, match="dimensions"):
        collection.ensure(3)


def test_a_collection_that_must_exist(qdrant, form):
    collection = form(ForeignCollection(qdrant, "docs", layout=UNNAMED, must_exist=True))
    for use in (collection.shape, lambda: collection.nearest([1, 0], 1), lambda: collection.get([1])):
        with pytest.raises(StoreError, match="there is no collection 'docs' at "):
            use()


def test_nothing_is_left_in_a_folder_by_looking(tmp_path):
    collection = ForeignCollection(Qdrant(tmp_path / "q"), "docs", layout=UNNAMED)
    assert collection.shape() is None
    assert collection.nearest([1, 0], 1) == []
    collection.qdrant.close()
    assert not (tmp_path / "q").exists()
    with pytest.raises(ClosedError, match="was closed"):
        collection.shape()


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_counts_that_make_no_sense_are_refused(k):
    with pytest.raises(InputError, match=f"k must be a positive integer, got {k!r}"):
        ForeignCollection(Qdrant(), "docs", layout=UNNAMED).nearest([1, 0], k)


def test_filters_are_checked_before_there_is_a_collection():
    with pytest.raises(InputError, match="takes the operators"):
        ForeignCollection(Qdrant(), "docs", layout=UNNAMED).nearest([1, 0], 1, {"year": {"above": 3}})


def test_filters_of_payloads_with_metadata_at_the_top(qdrant):
    collection = ForeignCollection(qdrant, "nodes", layout=AT_TOP)
    collection.ensure(2)
    collection.upsert(
        [point(1, 1, 0, year=1, source="a"), point(2, 0, 1, year=2, **{"about.it": 1, "with space": "x"})]
    )
    assert collection.ids_matching({"year": 1}) == [1]
    assert collection.ids_matching({"source": None, "with space": "x"}) == [2]
    mapped = ForeignCollection(qdrant, "nodes", layout=Layout(metadata="", fields={"when": "year"}))
    assert mapped.ids_matching({"when": {"gte": 2}}) == [2]


def test_the_only_dense_vector_is_found_and_others_must_be_named(qdrant):
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    tokens = models.VectorParams(
        size=2,
        distance=models.Distance.DOT,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    vectors = {"one": {"text": params, "tokens": tokens}, "two": {"text": params, "image": params}}
    for name, config in vectors.items():
        qdrant.call("create_collection", collection_name=name, vectors_config=config)
    found = ForeignCollection(qdrant, "one", layout=AT_TOP)
    assert found.shape() == Shape("text", 2, models.Distance.DOT)
    found.upsert([models.PointStruct(id=1, vector={"text": [2.0, 0]}, payload={})])
    (best,) = found.nearest([1, 0], 1, with_vectors=True)
    assert best.score == 2  # a product, which is not cut to a cosine's range
    assert found.shape().vector(best) == [2, 0]
    with pytest.raises(InputError, match=r"wanted one dense vector in .*\['image', 'text'\]; pass vector_name="):
        ForeignCollection(qdrant, "two", layout=AT_TOP).shape()
    assert ForeignCollection(qdrant, "two", layout=Layout("image")).shape().vector_name == "image"
    with pytest.raises(StoreError, match="no vector '', it has 'text', 'image'; give vector_name="):
        ForeignCollection(qdrant, "two", layout=UNNAMED).shape()
    with pytest.raises(StoreError, match="multi-vector under 'tokens'"):
        ForeignCollection(qdrant, "one", layout=Layout("tokens")).shape()


def test_a_named_vector_is_made(qdrant):
    collection = ForeignCollection(qdrant, "docs", layout=Layout("mine", metadata="metadata"))
    collection.ensure(2)
    collection.upsert([models.PointStruct(id=1, vector={"mine": [1.0, 0]}, payload={})])
    assert collection.shape() == Shape("mine", 2, models.Distance.COSINE, analysis=2)
    assert [found.id for found in collection.nearest([1, 0], 1)] == [1]


@pytest.mark.parametrize("layout", [UNNAMED, AT_TOP])
@pytest.mark.parametrize("token_storage", [None, "float16"])
def test_an_index_of_pages_is_recognised_read_and_never_written(qdrant, form, layout, token_storage):
    client = qdrant.client
    store = QdrantStore(client=client)
    store.create(dimensions=2, record={"identity": IDENTITY}, token_storage=token_storage)
    pages = [StoredPage.of(Page(id=f"p{n}", source="a.pdf", number=n), content_hash="c") for n in (1, 2)]
    rows = np.eye(2, dtype=np.float32)
    store.put(pages, list(rows) if token_storage is None else [row[None] for row in rows])
    collection = ForeignCollection(qdrant, "pages", layout=layout)
    used = form(collection)
    assert used.shape() == Shape("dense", 2, models.Distance.COSINE, IDENTITY, is_index=True, analysis=1)
    assert collection.layout is PAGE_LAYOUT
    (found,) = used.nearest([1, 0], 3, {"source": "a.pdf", "page_number": 1}, identity=IDENTITY)
    assert from_payload(found.payload) == pages[0]
    store.attach(["p1"], source="b.pdf", metadata={"year": 2020})
    (found,) = used.nearest([1, 0], 3, {"source": "b.pdf", "year": 2020}, identity=IDENTITY)
    page = from_payload(found.payload).page
    assert (page.source, page.metadata) == ("b.pdf", {"year": 2020})
    assert used.nearest([1, 0], 3, {"source": "a.pdf", "year": 2020}, identity=IDENTITY) == []
    assert sorted(used.ids_matching()) == sorted(page_uuid(page.page.id) for page in pages)
    for write in (
        lambda: used.ensure(2),
        lambda: used.upsert([point(1, 1, 0)]),
        lambda: used.delete(used.ids_matching()),
    ):
        with pytest.raises(InputError, match="belongs to a nemotron_rag.PageIndex; add and remove pages there"):
            write()
    assert store.count() == 2


def test_somebody_elses_vector_of_our_name_is_not_an_index(qdrant):
    params = models.VectorParams(size=2, distance=models.Distance.COSINE)
    qdrant.call("create_collection", collection_name="docs", vectors_config={"dense": params})
    collection = ForeignCollection(qdrant, "docs", layout=AT_TOP)
    assert not collection.shape().is_index
    assert collection.layout is AT_TOP


def test_cosines_stay_within_their_range(monkeypatch):
    qdrant = Qdrant()
    collection = ForeignCollection(qdrant, "docs", layout=UNNAMED)
    collection.ensure(2)
    scores = [1.0000001, 0.5, -1.0000001]
    points = [models.ScoredPoint(id=n, version=0, score=score) for n, score in enumerate(scores)]
    answer = SimpleNamespace(points=points)
    monkeypatch.setattr(qdrant.client, "query_points", lambda *_, **__: answer)
    assert [found.score for found in collection.nearest([1, 0], 3)] == [1.0, 0.5, -1.0]


def test_a_collection_that_another_process_makes_just_now(server, monkeypatch):
    one, other = (ForeignCollection(Qdrant(client=server.client()), "docs", layout=UNNAMED) for _ in range(2))
    call = other.qdrant.call

    def late(method, **arguments):
        if method == "create_collection":
            one.ensure(2, identity=IDENTITY)
        return call(method, **arguments)

    monkeypatch.setattr(other.qdrant, "call", late)
    other.ensure(2, identity=IDENTITY)
    assert other.shape().identity == IDENTITY


def test_a_server_is_asked_natively_by_event_loops(server):
    other = Server()
    options = other.client().init_options
    qdrant = Qdrant(client=server.client(), async_client=AsyncQdrantClient(**options))
    collection = ForeignCollection(qdrant, "docs", layout=UNNAMED)
    asyncio.run(collection.ashape())
    assert (len(server.requests), len(other.requests)) == (0, 1)


def test_many_points_are_written_in_several_requests(server):
    collection = ForeignCollection(Qdrant(client=server.client()), "docs", layout=UNNAMED)
    collection.ensure(2)
    collection.upsert([point(n, 1, n, metadata={}) for n in range(600)])
    assert [len(body["points"]) for body in server.asked("PUT", "points?wait=true")] == [256, 256, 88]
    assert len(collection.ids_matching()) == 600
    collection.upsert([])
    assert len(server.asked("PUT", "points?wait=true")) == 3


def test_refusals_of_a_server_are_store_errors(server):
    collection = ForeignCollection(Qdrant(client=server.client(), patience=0), "docs", layout=UNNAMED)
    server.answers = [ConnectionError("gone")]
    with pytest.raises(StoreError, match="could not look for a collection in http://qdrant.invalid: .*gone"):
        collection.shape()


def test_ids_of_documents():
    some = uuid.uuid4()
    assert point_id(str(some)) == point_id(some.hex) == str(some)
    assert point_id("17") == 17
    assert point_id(str(2**64 - 1)) == 2**64 - 1
    texts = ["a", "017", str(2**64), "٣", "-1", ""]
    assert [point_id(text) for text in texts] == [page_uuid(text) for text in texts]


def test_a_client_that_was_given_is_not_closed():
    client = QdrantClient(":memory:")
    qdrant = Qdrant(client=client)
    ForeignCollection(qdrant, "docs", layout=UNNAMED).ensure(2)
    qdrant.close()
    assert client.collection_exists("docs")
    client.close()


@pytest.mark.parametrize("distance", list(models.Distance))
def test_relevance_is_from_0_to_1_in_the_order_of_the_scores(distance):
    shape = Shape("", 2, distance)
    scores = {"Cosine": [1.00001, 0.5, 0, -1], "Dot": [900, 1, 0, -900]}.get(distance.value, [0, 0.1, 5, 1e9])
    relevances = [shape.relevance(score) for score in scores]
    assert relevances == sorted(set(relevances), reverse=True)
    assert all(0 <= relevance <= 1 for relevance in relevances)
    assert relevances[0] == pytest.approx(1)
    assert relevances[-1] == pytest.approx(0, abs=1e-6)
