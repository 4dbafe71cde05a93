"""Many vectors a page: embedded, and what a server is asked; the limit, two stages, words besides."""

from __future__ import annotations

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.local import local_collection

from nemotron_rag.errors import InputError, StoreError
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.stores.qdrant import QdrantStore, opening, two_stages
from nemotron_rag.stores.qdrant.layout import BASIS_ID
from nemotron_rag.types import Page, StoredPage
from support.qdrant_server import Server

pytestmark = pytest.mark.slow

DIMENSIONS, PAGES = 32, 60


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def rows_of(seed: int, count: int = 12, dimensions: int = DIMENSIONS) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dimensions)))


def page_of(number: int, **fields) -> StoredPage:
    page = Page(id=f"p{number}", source="a.pdf", number=number, text=f"word{number} and", **fields)
    return StoredPage.of(page, content_hash="c")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["memory", "folder", "server"])
def store(request, tmp_path, server):
    options = {
        "memory": {},
        "folder": {"location": tmp_path / "store"},
        "server": {"client": server.client() if request.param == "server" else None},
    }[request.param]
    opened = QdrantStore(**options)
    opened.create(dimensions=DIMENSIONS, record={"model": "m"}, token_storage="float16")
    yield opened
    opened.close()


@pytest.fixture
def corpus(store):
    vectors = [rows_of(n, 5 + n % 9).astype(np.float16) for n in range(PAGES)]
    store.put([page_of(n) for n in range(PAGES)], vectors)
    return vectors


def make_query(seed: int) -> np.ndarray:
    return unit(rows_of(seed, 4) + 0.3 * rows_of(1000 + seed, 4))


def numbers(found) -> list[int]:
    return [stored.page.number for stored, _ in found]


def test_pages_are_found_by_exact_maxsim(store, corpus):
    exact = maxsim([make_query(7)], corpus)[0]
    found = store.query(make_query(7), k=10, prefetch=PAGES)
    assert numbers(found) == np.argsort(-exact)[:10].tolist()
    np.testing.assert_allclose([score for _, score in found], np.sort(exact)[::-1][:10], atol=1e-3)
    assert found[0][0] == page_of(7)


def test_the_second_stage_sees_the_candidates_of_the_first(store, corpus):
    first_stage = numbers(store.query(make_query(7), k=9, prefetch=9))
    again = numbers(store.query(make_query(7), k=5, prefetch=9))
    assert again == first_stage[:5]
    assert len(store.query(make_query(7), k=9, prefetch=3)) == 9  # never fewer than are wanted


def test_filters_hold_in_the_first_stage(store, corpus):
    filter = {"number": [3, 50, 51]}
    assert sorted(numbers(store.query(make_query(7), k=9, prefetch=9, filter=filter))) == [3, 50, 51]
    assert sorted(numbers(store.query(make_query(7), k=9, words="word3", filter=filter))) == [3, 50, 51]


def test_words_are_fused_with_the_order_of_both_stages(store, corpus):
    found = store.query(make_query(7), k=4, words="word55")
    assert numbers(found)[:2] in ([7, 55], [55, 7])
    assert found[0][1] == pytest.approx(0.5, abs=0.1)  # 1 / 2, and what the other order adds
    assert numbers(store.query(make_query(7), k=2, words="!")) == numbers(store.query(make_query(7), k=2))


def test_one_vector_of_a_page_finds_it_too(store, corpus):
    mean = unit(corpus[7].astype(np.float32).mean(0))
    (first, score), *_ = store.query(mean, k=3)
    assert first.page.number == 7
    assert score == pytest.approx(1, abs=1e-4)


def test_changed_and_removed_pages(store, corpus):
    store.put([page_of(7)], [corpus[8]])
    assert set(numbers(store.query(make_query(8), k=2))) == {7, 8}
    assert store.remove(["p8"]) == 1
    assert numbers(store.query(make_query(8), k=1)) == [7]
    assert store.count() == PAGES - 1


def test_a_folder_of_local_mode_keeps_arrays_and_finds_the_same_when_opened_again(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "EdgeClient", None)
    vectors = [rows_of(n).astype(np.float16) for n in range(20)]
    store = QdrantStore(tmp_path)
    store.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    store.put([page_of(n) for n in range(20)], vectors)
    before = store.query(make_query(7), k=5)
    store.close()
    again = QdrantStore(tmp_path)
    assert [(p.page.id, round(s, 3)) for p, s in again.query(make_query(7), k=5)] == [
        (p.page.id, round(s, 3)) for p, s in before
    ]
    held = again._qdrant.client._client.collections["pages"].multivectors["tokens"]
    assert [rows.dtype for rows in held if len(rows) > 1] == [np.float16] * 20  # the record has none
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.sqlite")) < 20 * vectors[0].size * 4 + 100_000
    again.close()


def test_an_embedded_qdrant_compares_the_candidates_alone(monkeypatch):
    store = QdrantStore()
    store.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    store.put([page_of(n) for n in range(PAGES)], [rows_of(n) for n in range(PAGES)])
    compared: list[int] = []
    exact = two_stages.calculate_multi_distance

    def counting(query, pages, distance):
        compared.append(len(pages))
        return exact(query, pages, distance)

    monkeypatch.setattr(two_stages, "calculate_multi_distance", counting)
    found = store.query(make_query(7), k=5, prefetch=15, words="word3")
    assert compared == [15]
    monkeypatch.setattr(two_stages, "_pages", lambda *_: None)  # a qdrant-client that holds its points elsewhere
    plain = store.query(make_query(7), k=5, prefetch=15, words="word3")
    assert compared == [15]
    assert [(p.page.id, round(s, 5)) for p, s in plain] == [(p.page.id, round(s, 5)) for p, s in found]


@pytest.mark.parametrize("mode", ["many", "one"])
def test_an_embedded_qdrant_compares_in_float32(monkeypatch, mode):
    store = QdrantStore()
    store.create(dimensions=DIMENSIONS, record={}, token_storage="float16" if mode == "many" else None)
    many = [rows_of(n) for n in range(PAGES)]
    store.put([page_of(n) for n in range(PAGES)], many if mode == "many" else [rows[0] for rows in many])
    asked = set()
    for name in ("calculate_multi_distance", "calculate_distance"):
        compare = getattr(local_collection, name)

        def noting(query, pages, distance, compare=compare):
            asked.add(query.dtype)
            return compare(query, pages, distance)

        monkeypatch.setattr(local_collection, name, noting)
    store.query(make_query(7) if mode == "many" else make_query(7)[0], k=5, words="word3")
    assert asked == {np.dtype(np.float32)}  # float64 would have every stored vector converted


def test_the_first_pages_say_what_the_projection_keeps():
    few = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSIONS, DIMENSIONS)))[0][:8]
    flat = [unit(rows_of(n)[:, :8] @ few) for n in range(PAGES)]  # in 8 dimensions; the projection keeps 16
    store = QdrantStore()
    store.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    store.put([page_of(0)], flat[:1])
    store.put([page_of(n) for n in range(1, PAGES)], flat[1:])
    asked = flat[7][:3]
    found = store.query(asked, k=5, prefetch=5)  # no more than wanted: the first stage alone finds them
    assert numbers(found) == np.argsort(-maxsim([asked], flat)[0])[:5].tolist()
    assert store.count() == len(list(store.pages())) == PAGES


def test_processes_that_start_together_keep_the_same_basis(server):
    first, second = (QdrantStore(client=server.client()) for _ in range(2))
    first.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    second.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    first.put([page_of(1)], [rows_of(1)])
    second._basis.read = iter([None, first._basis.read()]).__next__  # looked just before the first wrote
    second.put([page_of(2)], [rows_of(2)])
    third = QdrantStore(client=server.client())
    np.testing.assert_array_equal(third._basis.read(), first._basis.read())


def test_pages_that_another_process_writes_while_basis_are_looked_for(server, monkeypatch):
    first, second = (QdrantStore(client=server.client()) for _ in range(2))
    first.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    look = second._basis._stored

    def looking():
        monkeypatch.setattr(second._basis, "_stored", look)
        found = look()
        first.put([page_of(1)], [rows_of(1)])
        return found

    monkeypatch.setattr(second._basis, "_stored", looking)
    assert numbers(second.query(make_query(1), k=3)) == [1]


def test_pages_without_basis_and_damaged_ones_are_refused(server):
    store = QdrantStore(client=server.client())
    store.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    assert store.query(make_query(1), k=3) == []
    store.put([page_of(1)], [rows_of(1)])
    server.local.set_payload("pages", {"shape": [1, 2]}, points=[BASIS_ID])
    with pytest.raises(
        StoreError, match="projection basis of collection 'pages' at .* is damaged; index its pages anew"
    ):
        QdrantStore(client=server.client()).query(make_query(1), k=3)
    server.local.delete("pages", [BASIS_ID])
    older = QdrantStore(client=server.client())
    for use in (lambda: older.query(make_query(1), k=3), lambda: older.put([page_of(2)], [rows_of(2)])):
        with pytest.raises(StoreError, match="has no projection basis; nemotron-rag repair .* index these anew"):
            use()


def test_a_search_is_one_request(server):
    store = QdrantStore(client=server.client())
    store.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    store.put([page_of(1)], [rows_of(1)])
    server.requests.clear()
    store.query(make_query(1), k=3, prefetch=40)
    store.query(make_query(1), k=3, prefetch=40, words="word1")
    (_, _, plain), (_, _, fused) = server.requests
    assert (plain["using"], plain["limit"]) == ("tokens", 3)
    (first,) = plain["prefetch"]
    assert (first["using"], first["limit"], len(first["query"]), len(first["query"][0])) == ("sketches", 40, 4, 16)
    assert plain["params"]["quantization"] == {"rescore": True, "oversampling": 2.0}
    both, words = fused["prefetch"]
    (inner,) = both["prefetch"]
    assert (both["using"], both["limit"], inner["limit"]) == ("tokens", 50, 40)
    assert words["using"] == "bm25"
    assert fused["query"] == {"fusion": "rrf"}


def test_numbers_are_sent_short(server):
    store = QdrantStore(client=server.client())
    store.create(dimensions=DIMENSIONS, record={}, token_storage="float16")
    store.put([page_of(1)], [rows_of(1)])
    _, _, sent = server.asked("PUT", "points?wait=true")  # behind the record and the basis
    tokens = sent["points"][0]["vector"]["tokens"]
    assert max(len(str(number)) for row in tokens for number in row) <= len("-0.1234567")
    np.testing.assert_allclose(tokens, rows_of(1), atol=1e-7)


@pytest.mark.parametrize(
    ("storage", "datatype", "quantized"),
    [
        ("float32", "float32", None),
        ("float16", "float16", None),
        ("int8", "float16", "scalar"),
        ("binary", "float16", "binary"),
        ("turbo4", "turbo4", None),
    ],
)
def test_a_server_is_told_how_to_store(server, storage, datatype, quantized):
    store = QdrantStore(client=server.client())
    store.create(dimensions=DIMENSIONS, record={}, token_storage=storage)
    (asked,) = server.asked("PUT", "collections/pages")
    tokens = asked["vectors"]["tokens"]
    assert tokens["size"] == DIMENSIONS
    assert tokens["multivector_config"] == {"comparator": "max_sim"}
    assert tokens["hnsw_config"]["m"] == 0
    assert tokens["datatype"] == datatype
    assert [*(tokens.get("quantization_config") or {None: 0})] == [quantized]
    assert tokens["on_disk"] is True
    projected = asked["vectors"]["sketches"]
    assert (projected["size"], projected["hnsw_config"]["m"]) == (16, 0)
    assert asked["vectors"]["dense"].get("hnsw_config") is None  # in a graph, as always


def test_an_embedded_qdrant_stores_floats_only():
    store = QdrantStore()
    with pytest.raises(InputError, match="stores float16 or float32, not int8; choose one of these, or run a Qdrant"):
        store.create(dimensions=DIMENSIONS, record={}, token_storage="int8")
    assert not store.exists()


def test_a_client_that_is_too_old_for_a_datatype_says_so(monkeypatch):
    def no_datatype(name):
        raise ValueError(name)

    monkeypatch.setattr(models, "Datatype", no_datatype)
    with pytest.raises(StoreError, match="knows no datatype 'turbo4'; update it"):
        QdrantStore(client=Server().client()).create(dimensions=DIMENSIONS, record={}, token_storage="turbo4")


@pytest.mark.parametrize("rows", [0, 256])
def test_the_limit_holds_before_anything_is_written(store, rows):
    good, bad = rows_of(1), np.zeros((rows, 4096), dtype=np.float16)
    with pytest.raises(
        InputError, match=rf"page 2 of 'a.pdf' has {rows} vectors of 4096 numbers, Qdrant takes 1 to 255"
    ):
        store.put([page_of(1), page_of(2)], [good, bad])
    assert store.count() == 0


def test_collections_of_one_and_of_many_vectors_are_not_confused():
    client = QdrantClient(":memory:")
    QdrantStore(client=client).create(dimensions=4, record={})
    with pytest.raises(StoreError, match="other vectors than 4-d 'dense' and 'tokens'"):
        QdrantStore(client=client).create(dimensions=4, record={}, token_storage="float16")
    QdrantStore(client=client, collection="many").create(dimensions=4, record={}, token_storage="float16")
    with pytest.raises(StoreError, match="other vectors than 4-d 'dense';"):
        QdrantStore(client=client, collection="many").create(dimensions=4, record={})
