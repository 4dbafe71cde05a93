"""NemotronPageVectorStore: ids, searches, filters, places, what langchain-qdrant wrote, and its life cycle."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageVectorStore
from nemotron_rag import PageIndex
from nemotron_rag.errors import ClosedError, IndexMismatchError, InputError, StoreError
from nemotron_rag.stores.qdrant import Qdrant
from nemotron_rag.testing import FakeEmbedder
from support.pages import add, make_pdf, text_page
from support.qdrant_server import Server

TEXTS = ["red apples", "green apples", "blue whales"]
YEARS = [{"year": 2019, "tag": "a"}, {"year": 2020, "tag": "b"}, {"year": 2021, "tag": "c"}]


class Untouchable(Embeddings):
    """Must not be asked for anything."""

    def embed_documents(self, texts):
        raise AssertionError("asked for documents")

    def embed_query(self, text):
        raise AssertionError("asked for a query")


class Plane(Embeddings):
    """Texts such as "0.9,0.1" are their own vectors."""

    def embed_documents(self, texts):
        return [[float(x) for x in text.split(",")] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def fake(**options) -> NemotronEmbeddings:
    return NemotronEmbeddings(model=FakeEmbedder(**options))


@pytest.fixture
def store():
    store = NemotronPageVectorStore(fake())
    yield store
    store.close()


def texts_of(documents) -> list[str]:
    return [document.page_content for document in documents]


def test_opening_embeds_nothing():
    client = QdrantClient(":memory:")
    NemotronPageVectorStore(fake(), client=client, images=None).add_texts(TEXTS, ids=["1", "2", "3"])
    again = NemotronPageVectorStore.from_existing_collection("documents", Untouchable(), client=client, images=None)
    assert texts_of(again.get_by_ids(["3", "none", "1"])) == ["blue whales", "red apples"]
    assert again.client is client
    client.close()


def test_only_from_existing_collection_wants_it_to_exist(store):
    with pytest.raises(InputError, match="there is no collection 'other' at memory"):
        NemotronPageVectorStore.from_existing_collection("other", fake())
    assert store.similarity_search("apples") == []
    assert store.max_marginal_relevance_search("apples") == []
    assert store.similarity_search_with_relevance_scores("apples") == []
    assert store.get_by_ids(["1"]) == []
    assert store.delete() is True


def test_ids_come_back_as_they_were(store):
    ids = ["1", "007", "foo", str(uuid.uuid4()), "ünï", "18446744073709551616"]
    assert store.add_texts(["text"] * 6, ids=ids) == ids
    assert {document.id for document in store.similarity_search("text", k=9)} == set(ids)
    assert [document.id for document in store.get_by_ids(ids)] == ids
    store.delete(["007"])
    assert [document.id for document in store.get_by_ids(ids)] == ["1", *ids[2:]]


def test_ids_are_the_callers_or_the_documents_or_new(store):
    documents = [Document("a", id="own"), Document("b", id="own b"), Document("c")]
    first, second, third = store.add_documents(documents, ids=[None, "given", None])
    assert (first, second) == ("own", "given")
    assert uuid.UUID(third)
    assert documents[2].id is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_nothing_is_lost_in_silence(store, asynchronous):
    def call(method, *args, **options):
        if asynchronous:
            return asyncio.run(getattr(store, f"a{method}")(*args, **options))
        return getattr(store, method)(*args, **options)

    with pytest.raises(InputError, match="3 documents need as many ids, got 2"):
        call("add_texts", TEXTS, ids=["1", "2"])
    with pytest.raises(InputError, match="3 texts need as many metadatas, got 1"):
        call("add_texts", TEXTS, [{}])
    with pytest.raises(InputError, match="1 documents need as many ids, got 0"):
        call("add_documents", [Document("a")], ids=[])
    with pytest.raises(InputError, match="id 0 must be a str, got int"):
        call("add_documents", [Document("a")], ids=[1])
    with pytest.raises(InputError, match="document 1 must be a Document, got str"):
        call("add_documents", [Document("a"), "b"])
    with pytest.raises(InputError, match="single str"):
        call("add_texts", "a text")
    with pytest.raises(InputError, match="single str"):
        call("delete", "foo")
    with pytest.raises(InputError, match="batch_size must be a positive integer, got 0"):
        call("add_texts", TEXTS, batch_size=0)
    with pytest.raises(TypeError, match="scores"):
        call("similarity_search", "apples", scores=True)
    with pytest.raises(InputError, match="k must be a positive integer, got 0"):
        call("similarity_search", "apples", k=0)
    assert call("similarity_search", "apples") == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_generators_are_read_whole(store, asynchronous):
    arguments = (text for text in TEXTS), (metadata for metadata in YEARS)
    if asynchronous:
        asyncio.run(store.aadd_texts(*arguments, ids=iter("abc"), batch_size=2))
        asyncio.run(store.aadd_documents(Document(text) for text in ["more"]))
    else:
        store.add_texts(*arguments, ids=iter("abc"), batch_size=2)
        store.add_documents(Document(text) for text in ["more"])
    found = store.similarity_search("apples whales", k=9)
    assert sorted(texts_of(found)) == sorted([*TEXTS, "more"])
    assert store.get_by_ids(["b"])[0].metadata == YEARS[1]


def test_constructors_take_an_open_client():
    client = QdrantClient(":memory:")
    place = {"client": client, "images": None}
    NemotronPageVectorStore.from_texts(TEXTS, fake(), YEARS, ids=["a", "b", "c"], **place)
    NemotronPageVectorStore.from_documents([Document("pears", id="d")], fake(), **place)
    asyncio.run(NemotronPageVectorStore.afrom_texts(["plums"], fake(), ids=["e"], **place))
    store = NemotronPageVectorStore.from_existing_collection("documents", fake(), client=client, images=None)
    assert texts_of(store.get_by_ids(list("abcde"))) == [*TEXTS, "pears", "plums"]
    with pytest.raises(InputError, match="not both"):
        NemotronPageVectorStore(fake(), client=client, location="here")
    store.close()
    assert client.collection_exists("documents")
    client.close()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"year": 2020}, ["green apples"]),
        ({"metadata.year": [2019, 2021]}, ["blue whales", "red apples"]),
        ({"year": {"gte": 2020}, "tag": "c"}, ["blue whales"]),
        ({"missing": None, "tag": ["a", "b"]}, ["green apples", "red apples"]),
        (
            models.Filter(must=[models.FieldCondition(key="metadata.tag", match=models.MatchValue(value="b"))]),
            ["green apples"],
        ),
    ],
)
def test_filters(store, wanted, found):
    store.add_texts(TEXTS, YEARS)
    assert sorted(texts_of(store.similarity_search("apples", filter=wanted))) == found
    assert sorted(texts_of(asyncio.run(store.asimilarity_search("apples", filter=wanted)))) == found
    assert sorted(texts_of(store.max_marginal_relevance_search("apples", filter=wanted))) == found
    retriever = store.as_retriever(search_kwargs={"filter": wanted})
    assert sorted(texts_of(retriever.invoke("apples"))) == found
    store.delete(filter=wanted)
    assert sorted(texts_of(store.similarity_search("apples"))) == sorted(set(TEXTS) - set(found))


def test_a_source_is_filtered_in_the_metadata(store):
    store.add_texts(TEXTS, [{"source": name, "id": name} for name in "abc"])
    assert texts_of(store.similarity_search("apples", filter={"source": "c", "id": "c"})) == ["blue whales"]


def test_delete_wants_one_selection(store):
    store.add_texts(TEXTS, ids=list("abc"))
    with pytest.raises(InputError, match="ids or filter=, got both"):
        store.delete(["a"], filter={"year": 1})
    assert store.delete([]) is True
    assert len(store.similarity_search("apples")) == 3
    asyncio.run(store.adelete())
    assert store.similarity_search("apples") == []


def test_search_options(store):
    store.add_texts(TEXTS)
    (best, score), *_ = store.similarity_search_with_score("red apples", k=3)
    assert best.page_content == "red apples"
    assert score == pytest.approx(1, abs=1e-5)
    assert len(store.similarity_search("red apples", score_threshold=0.99)) == 1
    assert texts_of(store.similarity_search("red apples", offset=1))[0] == "green apples"
    vector = store.embeddings.embed_query("blue whales")
    assert texts_of(store.similarity_search_by_vector(vector, k=1)) == ["blue whales"]
    assert texts_of(asyncio.run(store.asimilarity_search_by_vector(vector, k=1))) == ["blue whales"]
    ((_, one),) = store.similarity_search_with_score_by_vector(vector, k=1)
    ((_, other),) = asyncio.run(store.asimilarity_search_with_score_by_vector(vector, k=1))
    assert one == other == pytest.approx(1, abs=1e-5)


def test_mmr_is_the_right_way_round():
    store = NemotronPageVectorStore(Plane())
    store.add_texts(["1,0.1", "1,0.11", "0.1,-1"])
    near, diverse = ["1,0.1", "1,0.11"], ["1,0.1", "0.1,-1"]
    for lambda_mult, expected in ((1.0, near), (0.0, diverse)):
        options = {"k": 2, "lambda_mult": lambda_mult}
        assert texts_of(store.max_marginal_relevance_search("1,0.1", **options)) == expected
        assert texts_of(store.max_marginal_relevance_search_by_vector([1, 0.1], **options)) == expected
        assert texts_of(asyncio.run(store.amax_marginal_relevance_search("1,0.1", **options))) == expected
        by_vector = store.amax_marginal_relevance_search_by_vector([1, 0.1], **options)
        assert texts_of(asyncio.run(by_vector)) == expected
        retriever = store.as_retriever(search_type="mmr", search_kwargs=options)
        assert texts_of(retriever.invoke("1,0.1")) == expected
    assert texts_of(store.max_marginal_relevance_search("1,0.1", k=2, fetch_k=2, lambda_mult=0)) == near
    with pytest.raises(InputError, match="lambda_mult must be from 0 .*got 2"):
        store.max_marginal_relevance_search("1,0.1", lambda_mult=2)
    store.close()


@pytest.mark.parametrize("distance", list(models.Distance))
def test_relevance_is_from_0_to_1_and_keeps_the_order(distance):
    store = NemotronPageVectorStore(Plane(), distance=distance)
    store.add_texts(["3,0", "2,1", "-3,0.5"])
    found = store.similarity_search_with_relevance_scores("3,0")  # LangChain warns of others, and warnings raise
    assert texts_of(document for document, _ in found) == texts_of(store.similarity_search("3,0"))
    relevances = [score for _, score in found]
    assert relevances == sorted(relevances, reverse=True)
    assert relevances[0] > 0.9 > 0.35 > relevances[-1] >= 0
    again = asyncio.run(store.asimilarity_search_with_relevance_scores("3,0"))
    assert [score for _, score in again] == pytest.approx(relevances, abs=1e-5)
    to_relevance = store._select_relevance_score_fn()
    scores = [to_relevance(score) for _, score in store.similarity_search_with_score("3,0")]
    assert scores == pytest.approx(relevances, abs=1e-5)
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9})
    assert texts_of(retriever.invoke("3,0"))[:1] == ["3,0"]
    assert len(retriever.invoke("3,0")) < 3
    store.close()


class TestWithLangchainQdrant:
    """One collection, two packages."""

    @pytest.fixture
    def theirs(self):
        client = QdrantClient(":memory:")
        client.create_collection("docs", models.VectorParams(size=6, distance=models.Distance.COSINE))
        yield QdrantVectorStore(client, "docs", DeterministicFakeEmbedding(size=6))
        client.close()

    def test_reads_what_it_wrote(self, theirs):
        name = str(uuid.uuid4())
        theirs.add_texts(["foo", "bar"], [{"n": 1}, {"n": 2}], ids=[name, 5])
        ours = NemotronPageVectorStore.from_existing_collection(
            "docs", DeterministicFakeEmbedding(size=6), client=theirs.client, images=None
        )
        foo, bar = Document("foo", id=name, metadata={"n": 1}), Document("bar", id="5", metadata={"n": 2})
        assert ours.similarity_search("foo", k=1) == [foo]
        assert ours.similarity_search("foo", filter={"n": 2}) == [bar]
        assert ours.get_by_ids(["5", name]) == [bar, foo]
        ours.add_texts(["baz"], ids=["5"])
        ours.delete([name])
        assert texts_of(ours.similarity_search("foo")) == ["baz"]

    def test_it_reads_what_we_wrote(self, theirs):
        embeddings = DeterministicFakeEmbedding(size=6)
        ours = NemotronPageVectorStore(embeddings, client=theirs.client, collection_name="docs", images=None)
        ours.add_texts(["foo", "bar"], [{"n": 1}, {"n": 2}], ids=["a", "b"])
        (found,) = theirs.similarity_search("foo", k=1)
        assert found.page_content == "foo"
        assert found.metadata["n"] == 1

    def test_with_keys_and_vector_names_of_their_own(self):
        client, embeddings = QdrantClient(":memory:"), DeterministicFakeEmbedding(size=6)
        params = models.VectorParams(size=6, distance=models.Distance.DOT)
        client.create_collection("docs", {"text": params})
        options = {"vector_name": "text", "content_payload_key": "body", "metadata_payload_key": "about"}
        theirs = QdrantVectorStore(client, "docs", embeddings, distance=models.Distance.DOT, **options)
        theirs.add_texts(["foo", "bar"], [{"n": 1}, {"n": 2}])
        ours = NemotronPageVectorStore(embeddings, client=client, collection_name="docs", images=None, **options)
        assert texts_of(ours.similarity_search("foo", k=1)) == ["foo"]
        assert texts_of(ours.similarity_search("foo", filter={"n": 2})) == ["bar"]
        ours.add_texts(["baz"], [{"n": 3}])
        assert texts_of(theirs.similarity_search("baz", k=1)) == ["baz"]
        assert len(ours.max_marginal_relevance_search("foo", k=3)) == 3
        client.close()


class TestPageIndex:
    """An index that `PageIndex` or the command line made."""

    @pytest.fixture
    def store(self, tmp_path):
        make_pdf(tmp_path / "fruit.pdf", *TEXTS)
        with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), max_pixels=20_000) as index:
            add(index, tmp_path / "fruit.pdf", metadata={"year": 2020})
        store = NemotronPageVectorStore.from_existing_collection("pages", fake(), location=tmp_path / "index")
        yield store
        store.close()

    def test_is_searched(self, store, tmp_path):
        best, *rest = store.similarity_search("blue whales")
        assert len(rest) == 2
        told = best.metadata
        assert (told["source"], told["page"], told["page_number"]) == (str(tmp_path / "fruit.pdf"), 2, 3)
        assert (best.page_content, best.id) == ("blue whales", told["page_id"])
        assert told["image"].startswith("data:image/png;base64,")
        assert store.get_by_ids([best.id, "none"]) == [best]
        assert asyncio.run(store.aget_by_ids([best.id])) == [best]
        assert store.similarity_search_by_image(told["image"], k=1) == [best]
        assert len(store.max_marginal_relevance_search("apples", k=2)) == 2
        wanted = {"page": [0, 1], "year": 2020, "source": told["source"]}
        assert sorted(texts_of(store.similarity_search("apples", filter=wanted))) == ["green apples", "red apples"]
        assert all(0 <= score <= 1 for _, score in store.similarity_search_with_relevance_scores("apples"))

    def test_is_not_changed(self, store, tmp_path):
        named = NemotronPageVectorStore(
            fake(), location=tmp_path / "index", collection_name="pages", vector_name="dense"
        )
        for one in (store, named):
            for change in (lambda s: s.add_texts(["pears"]), lambda s: s.delete(), lambda s: s.delete(["1"])):
                with pytest.raises(InputError, match="belongs to a nemotron_rag.PageIndex; add and remove pages there"):
                    change(one)
        named.close()
        assert len(store.similarity_search("apples", k=9)) == 3

    def test_another_embedding_is_refused(self, store):
        other = NemotronPageVectorStore(fake(name="other"), client=store.client, collection_name="pages", images=None)
        with pytest.raises(IndexMismatchError, match="'model': 'other'"):
            other.similarity_search("apples")


def test_other_collections_are_refused_by_name():
    client = QdrantClient(":memory:")
    params = models.VectorParams(size=64, distance=models.Distance.COSINE)
    client.create_collection("named", {"dense": params, "text": params})
    with pytest.raises(StoreError, match="no vector '', it has 'dense', 'text'; give vector_name="):
        NemotronPageVectorStore(fake(), client=client, collection_name="named", images=None).add_texts(["pears"])
    store = NemotronPageVectorStore(fake(), client=client, collection_name="named", vector_name="dense", images=None)
    store.add_texts(["pears"])
    assert texts_of(store.similarity_search("pears")) == ["pears"]
    many = models.VectorParams(
        size=64,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    client.create_collection("many", many)
    with pytest.raises(StoreError, match="multi-vector"):
        NemotronPageVectorStore(fake(), client=client, collection_name="many", images=None).similarity_search("apples")
    client.close()


def test_another_embedding_is_refused():
    client = QdrantClient(":memory:")
    NemotronPageVectorStore(fake(), client=client, images=None).add_texts(TEXTS)
    other = NemotronPageVectorStore(fake(name="other"), client=client, images=None)
    with pytest.raises(IndexMismatchError, match="written with {'model': 'fake-embedder'}.* has {'model': 'other'}"):
        other.similarity_search("apples")
    with pytest.raises(IndexMismatchError, match="other"):
        other.add_texts(["pears"])
    shorter = NemotronPageVectorStore(DeterministicFakeEmbedding(size=6), client=client, images=None)
    with pytest.raises(IndexMismatchError, match="'dimensions': 64}.*'dimensions': 6}"):
        asyncio.run(shorter.asimilarity_search("apples"))
    assert (
        len(
            NemotronPageVectorStore(DeterministicFakeEmbedding(size=64), client=client, images=None).similarity_search(
                "x"
            )
        )
        == 3
    )
    client.close()


class TestOnServer:
    def test_async_methods_ask_in_threads(self, monkeypatch):
        store = NemotronPageVectorStore(fake(), client=Server().client(), images=None)
        threads, call = [], Qdrant.call

        def recording(self, method, **arguments):
            threads.append(threading.current_thread())
            return call(self, method, **arguments)

        monkeypatch.setattr(Qdrant, "call", recording)

        async def use() -> list[str]:
            assert await store.asimilarity_search_with_relevance_scores("apples") == []
            await store.aadd_texts(TEXTS, YEARS, ids=list("abc"))
            await store.adelete(filter={"year": 2020})
            found = await store.asimilarity_search("apples", k=1)
            found += await store.amax_marginal_relevance_search("whales", k=1)
            found += await store.aget_by_ids(["a", "b"])
            await store.aclose()
            return texts_of(found)

        assert asyncio.run(use()) == ["red apples", "blue whales", "red apples"]
        assert threads
        assert threading.main_thread() not in threads

    def test_search_params_arrive(self):
        server = Server()
        store = NemotronPageVectorStore(fake(), client=server.client(), images=None)
        store.add_texts(TEXTS)
        store.similarity_search("apples", search_params=models.SearchParams(exact=True))
        (body,) = server.asked("POST", "points/query")
        assert body["params"]["exact"] is True

    def test_several_event_loops_use_one_store(self):
        store = NemotronPageVectorStore(fake(), client=Server().client(), images=None)
        for text in TEXTS:
            asyncio.run(store.aadd_texts([text]))
        assert len(store.similarity_search("apples")) == 3

    def test_a_failing_async_call_is_worded_and_tried_again(self):
        server = Server()
        store = NemotronPageVectorStore(fake(), client=server.client(), images=None)
        asyncio.run(store.aadd_texts(TEXTS))
        impatient = NemotronPageVectorStore(fake(), client=server.client(), images=None, patience=0)
        assert len(impatient.similarity_search("apples")) == 3
        server.answers = [ConnectionError("gone")]
        with pytest.raises(StoreError, match=r"could not search in http://qdrant.invalid: "):
            asyncio.run(impatient.asimilarity_search("apples"))
        server.answers = [ConnectionError("busy")] * 2
        asyncio.run(store.aadd_texts(["pears"]))
        assert server.answers == []
        assert len(store.similarity_search("apples", k=9)) == 4

    def test_collections_made_twice_are_made_once(self, monkeypatch):
        server = Server()
        one, two = (NemotronPageVectorStore(fake(), client=server.client(), images=None) for _ in range(2))
        assert one.similarity_search("x") == two.similarity_search("x") == []
        two.add_texts(["apples"])
        answers, ask = iter([False]), Qdrant.call  # as another process saw it a moment ago

        def once(self, method, **arguments):
            if method == "collection_exists":
                return next(answers, True)
            return ask(self, method, **arguments)

        monkeypatch.setattr(Qdrant, "call", once)
        one.add_texts(["pears"])
        assert len(two.similarity_search("fruit")) == 2


class TestLifeCycle:
    def test_threads_share_an_embedded_store(self, tmp_path):
        store = NemotronPageVectorStore(fake(), location=tmp_path / "store")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: store.add_texts([f"text {n}"], ids=[str(n)]), range(40)))
            found = list(threads.map(lambda n: store.get_by_ids([str(n)]), range(40)))
        assert [texts_of(documents) for documents in found] == [[f"text {n}"] for n in range(40)]
        store.close()

    def test_stores_in_one_folder_share_a_client_and_a_pickle_opens_again(self, tmp_path):
        store = NemotronPageVectorStore(fake(), location=tmp_path / "store")
        store.add_texts(TEXTS)
        pickled = pickle.dumps(store)
        again = pickle.loads(pickled)
        assert again.client is store.client
        store.close()
        with pytest.raises(ClosedError, match="was closed; open it again"):
            store.similarity_search("apples")
        assert texts_of(again.similarity_search("blue whales", k=1)) == ["blue whales"]
        again.close()
        anew = pickle.loads(pickled)
        assert texts_of(anew.as_retriever(search_kwargs={"k": 1}).invoke("blue whales")) == ["blue whales"]
        del anew  # nobody holds the folder now
        PageIndex(tmp_path / "store", embedder=FakeEmbedder()).close()

    def test_copies_share_the_connection(self, store):
        store.add_texts(TEXTS)
        for twin in (copy.copy(store), copy.deepcopy(store)):
            assert twin.client is store.client
            assert len(twin.similarity_search("apples")) == 3

    def test_memory_is_not_pickled(self, store):
        with pytest.raises(InputError, match="in memory cannot be pickled; give a folder or a server"):
            pickle.dumps(store)

    def test_a_client_with_credentials_is_pickled_without_them(self, monkeypatch):
        monkeypatch.setenv("QDRANT_API_KEY", "of-this-process")
        options = {"url": "https://qdrant.invalid", "api_key": "secret", "check_compatibility": False}
        store = NemotronPageVectorStore(fake(), client=QdrantClient(**options), collection_name="docs", images=None)
        pickled = pickle.dumps(store)
        assert b"secret" not in pickled
        again = pickle.loads(pickled)
        assert again.client is not store.client
        assert again.client.init_options["api_key"] == "of-this-process"
        assert again.collection_name == "docs"
        assert "secret" not in repr(again)

    def test_a_folder_in_use_elsewhere_is_refused(self, tmp_path):
        client = QdrantClient(path=str(tmp_path / "store"))
        store = NemotronPageVectorStore(fake(), location=tmp_path / "store")
        with pytest.raises(StoreError, match="in use"):
            store.similarity_search("apples")
        client.close()
        assert store.similarity_search("apples") == []
        store.close()

    def test_a_folder_open_in_an_index_is_shared(self, tmp_path):
        with PageIndex(tmp_path / "store", embedder=FakeEmbedder()) as index:
            add(index, [text_page(1, "red apples")])
            store = NemotronPageVectorStore(fake(), location=tmp_path / "store", collection_name="pages")
            assert texts_of(store.similarity_search("apples")) == ["red apples"]
        assert texts_of(store.similarity_search("apples")) == ["red apples"]
        store.close()

    @pytest.mark.parametrize("wrong", [{"images": "no-such-scheme://x"}, {"image_form": "jpeg"}])
    def test_a_constructor_that_fails_leaves_nothing(self, tmp_path, wrong):
        with pytest.raises(InputError):
            NemotronPageVectorStore(fake(), location=tmp_path / "store", **wrong)
        with pytest.raises(InputError, match="there is no collection 'none' at"):
            NemotronPageVectorStore.from_existing_collection("none", fake(), location=tmp_path / "store")
        assert not (tmp_path / "store").exists()

    def test_repr_says_place_and_model(self, tmp_path):
        store = NemotronPageVectorStore(fake(), location=tmp_path / "store")
        assert repr(store) == (
            f"NemotronPageVectorStore(collection 'documents' at {tmp_path / 'store'}, embedding='fake-embedder')"
        )
        assert "embedding='Plane'" in repr(NemotronPageVectorStore(Plane()))

    def test_retrievers_are_tagged(self, store):
        assert store.as_retriever().tags == ["NemotronPageVectorStore", "NemotronEmbeddings"]
