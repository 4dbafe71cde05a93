"""Several tenants in one collection: none sees, changes or deletes what is another's, and every request says so."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from qdrant_client import QdrantClient, models

from nemotron_rag.cli import main
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.qdrant import ForeignCollection, Layout, Qdrant, QdrantStore, opening
from nemotron_rag.stores.qdrant.tenancy import TenantScope
from nemotron_rag.stores.tenant import Tenant
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakePageStore
from nemotron_rag.types import Page, page_uuid
from support.pages import add, make_pdf, text_page
from support.qdrant_grpc import GrpcServer
from support.qdrant_server import Server

ACME, BETA = ("customer", "acme"), ("customer", "beta")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["memory", "folder", "server", "grpc", "tokens"])
def place(request, tmp_path, server, monkeypatch):
    """Opens indexes of one collection, for a tenant or none."""
    if request.param == "grpc":
        running = request.getfixturevalue("grpc_server")
        monkeypatch.setattr(opening, "answers_grpc", lambda url: True)
        monkeypatch.setattr(opening, "GRPC_PORT", running.port)
    memory = QdrantClient(":memory:") if request.param in ("memory", "tokens") else None
    kind = FakeMultiVectorEmbedder if request.param == "tokens" else FakeEmbedder

    def opened(tenant=None, **options) -> PageIndex:
        where = {
            "memory": {"client": memory},
            "tokens": {"client": memory},
            "folder": {"location": tmp_path / "index"},
            "server": {"client": server.client()},
            "grpc": {"location": "http://127.0.0.1:6333"},
        }[request.param]
        return PageIndex(**where, tenant=tenant, embedder=kind(), images=tmp_path / "images", **options)

    return opened


@pytest.fixture
def grpc_server():
    with GrpcServer() as running:
        yield running


def image(shade: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (shade, shade, shade))


def texts(hits) -> list[str]:
    return [hit.page.text for hit in hits]


@pytest.mark.slow
def test_nobody_sees_changes_or_deletes_what_is_anothers(place):
    acme, beta = place(ACME), place(BETA)
    add(acme, [Page(id="p1", source="a.pdf", text="red apples", image=image(10), metadata={"year": 2020})])
    add(beta, [Page(id="p1", source="a.pdf", text="blue whales", image=image(200)), text_page(2, "green pears")])
    for mode in ("hybrid", None):
        assert texts(acme.search("whales pears", k=9, mode=mode)) == ["red apples"]
        assert set(texts(beta.search("apples", k=9, mode=mode))) == {"blue whales", "green pears"}
    assert (acme.count(), beta.count()) == (1, 2)
    assert (acme.sources(), beta.sources()) == (["a.pdf"], ["a.pdf"])
    assert acme.search("apples")[0].page.image.open().getpixel((0, 0)) == (10, 10, 10)
    assert beta.search("whales", k=1)[0].page.image.open().getpixel((0, 0)) == (200, 200, 200)
    assert acme.search("apples")[0].page.metadata == {"year": 2020, "customer": "acme"}

    # filters that try to get out
    others = [
        {"customer": "beta"},
        {"id": "p2"},
        models.Filter(should=[models.FieldCondition(key="metadata.customer", match=models.MatchValue(value="beta"))]),
        models.Filter(must_not=[models.FieldCondition(key="metadata.customer", match=models.MatchValue(value="acme"))]),
        models.Filter(should=[models.HasIdCondition(has_id=[Tenant(*BETA).uuid(page_uuid("p1"))])]),
        models.Filter(must=[models.HasIdCondition(has_id=[page_uuid("p2")])]),
    ]
    for filter in others:
        assert acme.search("whales pears", filter=filter, k=9) == []
        assert acme.search("whales pears", filter=filter, k=9, mode="hybrid") == []
        assert acme.count(filter) == 0
        assert acme.delete(filter=filter) == 0
    mine = models.Filter(must=[models.HasIdCondition(has_id=[page_uuid("p1")])])
    assert texts(acme.search("whales", filter=mine)) == ["red apples"]

    # ids and sources of the other one
    assert acme.delete(ids=["p2", Tenant(*BETA).uuid(page_uuid("p1")), Tenant(*BETA).uuid("p1")]) == 0
    assert acme.delete("a.pdf") == 1
    assert (acme.count(), beta.count()) == (0, 2)
    assert beta.search("whales", k=1)[0].page.image.open().getpixel((0, 0)) == (200, 200, 200)
    assert beta.delete(everything=True) == 2
    acme.close()
    beta.close()


def test_equal_files_are_stored_apart(tmp_path, server):
    pdf = make_pdf(tmp_path / "policy.pdf", "travel policy")
    indexes = [
        PageIndex(client=server.client(), tenant=tenant, embedder=FakeEmbedder(), images=tmp_path / "images")
        for tenant in (ACME, BETA)
    ]
    assert [add(index, pdf, metadata={"year": 2020 + n}).added for n, index in enumerate(indexes)] == [1, 1]
    assert [add(index, pdf).unchanged for index in indexes] == [1, 1]
    found = [index.search("policy")[0].page for index in indexes]
    assert found[0].id == found[1].id
    assert found[0].image.path != found[1].image.path
    assert [page.metadata["year"] for page in found] == [2020, 2021]
    indexes[0].delete(pdf)
    assert indexes[0].count() == 0
    assert indexes[1].search("policy")[0].page.image.open().size == found[1].image.size


@pytest.mark.slow
def test_upkeep_is_of_ones_own_pages(place, tmp_path):
    acme, beta = place(ACME), place(BETA)
    folder = tmp_path / "pdfs"
    one, other = make_pdf(folder / "a.pdf", "red apples", "green pears", "blue whales"), folder / "b.pdf"
    make_pdf(other, "grey tunnels")
    for index in (acme, beta):
        add(index, [one, other])
    other.unlink()
    acme.sync(folder, progress=False)
    assert (acme.count(), beta.count()) == (3, 4)
    assert acme.check().faults == beta.check().faults == ()
    beta_images = [hit.page.image for hit in beta.search("apples", k=9)]
    acme.repair()
    assert all(image.open().width for image in beta_images)
    theirs = [Tenant(*BETA).uuid(hit.page.id) for hit in beta.search("apples", k=9)]
    acme._state.store.discard(theirs)
    assert beta.count() == 4
    for options in ({"neighbours": 1}, {"per_document": 1}, {"diversity": 0.5}, {"min_score": -1.0}):
        found = acme.search("apples", k=3, **options)
        assert found
        assert {hit.page.metadata["customer"] for hit in found} == {"acme"}, options
    acme.close()
    beta.close()


def test_every_request_for_points_names_the_tenant(server):
    index = PageIndex(client=server.client(), tenant=ACME, embedder=FakeEmbedder(), images=None)
    add(index, [text_page(1, "apples", source="a.pdf")])
    server.requests.clear()
    add(index, [text_page(1, "apples", source="b.pdf"), text_page(2, "pears", source="a.pdf")])
    index.search("apples", filter={"year": 2020})
    index.search("apples", mode="hybrid")
    index.count()
    index.sources()
    index.delete("a.pdf")
    index.delete(ids=["p1"])
    index.delete(everything=True)
    shared = {page_uuid("index record"), page_uuid("directions of sketches")}
    of_points = [(path.split("?")[0].rpartition("pages")[2], body) for _, path, body in server.requests if body]
    assert {path for path, _ in of_points} >= {"/points", "/points/query", "/points/scroll", "/points/count"}
    for path, body in of_points:
        if path == "/points" and "ids" in body:  # a retrieval
            assert not {page_uuid("p1"), page_uuid("p2")} & set(body["ids"])
        elif path == "/points":
            points = [point for point in body["points"] if point["id"] not in shared]
            assert all(point["payload"]["tenant"] == {"customer": "acme"} for point in points)
            assert {page_uuid("p1"), page_uuid("p2")}.isdisjoint(point["id"] for point in points)
        elif path == "/points/query":
            stages = body.get("prefetch") or []
            assert all('"tenant.customer"' in str(stage["filter"]).replace("'", '"') for stage in stages)
            assert "tenant.customer" in str(body["filter"])
        elif path == "/points/batch":
            assert all("tenant.customer" in str(operation) for operation in body["operations"])
        else:
            assert "tenant.customer" in str(body["filter"]), path


def test_the_key_has_an_index_of_tenants_and_each_has_a_graph(server):
    index = PageIndex(client=server.client(), tenant=ACME, embedder=FakeEmbedder(), images=None)
    add(index, [text_page(1, "apples")])
    made = {body["field_name"]: body["field_schema"] for body in server.asked("PUT", "/index?wait=true")}
    assert made["tenant.customer"] == {"type": "keyword", "is_tenant": True}
    (created,) = server.asked("PUT", "/collections/pages")
    assert created["hnsw_config"] == {"m": 0, "payload_m": 16}


def test_a_divided_index_is_not_opened_without_its_key_nor_another_one_with_it(server, caplog):
    add(PageIndex(client=server.client(), tenant=ACME, embedder=FakeEmbedder(), images=None), [text_page(1, "apples")])
    with pytest.raises(IndexMismatchError, match="divided by 'customer'.*open it with tenant=\\('customer', ...\\)"):
        PageIndex(client=server.client(), images=None)
    with pytest.raises(IndexMismatchError, match="divided by 'customer', but tenant='region'"):
        PageIndex(client=server.client(), images=None, tenant=("region", "eu"))
    foreign = ForeignCollection(Qdrant(client=server.client()), "pages", layout=Layout("dense"))
    with pytest.raises(IndexMismatchError, match="divided by 'customer'"):
        foreign.nearest([1.0] * 32, 3)
    plain = PageIndex(client=server.client(), collection="plain", embedder=FakeEmbedder(), images=None)
    add(plain, [text_page(1, "apples")])
    with pytest.raises(IndexMismatchError, match="written without tenants"):
        PageIndex(client=server.client(), collection="plain", tenant=ACME, images=None)


def test_metadata_that_name_another_tenant_are_refused(tmp_path):
    index = PageIndex(tenant=ACME, embedder=FakeEmbedder())
    with pytest.raises(InputError, match="metadata say customer='beta', but this was opened with tenant customer='ac"):
        add(index, [text_page(1, "a")], metadata={"customer": "beta"})
    report = add(index, [text_page(1, "a", metadata={"customer": "beta"}), text_page(2, "b", metadata=dict([ACME]))])
    assert (report.added, [failure.number for failure in report.failures]) == (1, [1])


@pytest.mark.parametrize(
    "tenant", ["acme", ("customer",), ("customer", ""), ("customer", 5), ("a.b", "c"), ("id", "c"), ("", "c"), 5]
)
def test_what_is_no_tenant_is_refused(tenant):
    with pytest.raises(InputError, match="tenant"):
        PageIndex(tenant=tenant, embedder=FakeEmbedder())


def test_a_store_of_ones_own_divides_itself():
    with pytest.raises(InputError, match="tenant belong to a location"):
        PageIndex(store=FakePageStore(), tenant=ACME, embedder=FakeEmbedder())


def test_a_store_of_a_tenant_makes_an_index_of_that_tenant(server, tmp_path):
    indexes = [
        PageIndex(
            store=QdrantStore(client=server.client(), tenant=tenant),
            embedder=FakeEmbedder(),
            images=tmp_path / "images",
        )
        for tenant in (ACME, BETA)
    ]
    for shade, index in zip((10, 200), indexes, strict=True):
        add(index, [Page(id="p1", text="apples", image=image(shade))])
        assert "tenant" in repr(index)
    indexes[0].delete(ids=["p1"])
    assert indexes[0].count() == 0
    (hit,) = indexes[1].search("apples")
    assert hit.page.metadata == {"customer": "beta"}
    assert hit.page.image.open().getpixel((0, 0)) == (200, 200, 200)


def test_a_call_that_cannot_be_narrowed_is_not_made():
    store = QdrantStore(tenant=ACME)
    store.create(dimensions=4, record={})
    for method in ("delete_collection", "overwrite_payload", "search_matrix_pairs", "query_batch_points"):
        with pytest.raises(StoreError, match="cannot be narrowed to tenant customer='acme'"):
            store._collection.call(method)


def test_conditional_and_batched_writes_are_narrowed():
    scope, ids = TenantScope(Tenant(*ACME)), [page_uuid("p1")]
    mine = models.FieldCondition(key="tenant.customer", match=models.MatchValue(value="acme"))
    theirs = [Tenant(*ACME).uuid(ids[0])]
    still = models.Filter(must=[models.HasIdCondition(has_id=ids)], min_should=models.MinShould(
        conditions=[models.HasIdCondition(has_id=ids)], min_count=1))  # fmt: skip
    operations = [
        models.DeleteOperation(delete=models.FilterSelector(filter=still)),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, filter=still)),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, points=ids)),
    ]
    narrowed = scope.narrowed("batch_update_points", {"update_operations": operations})["update_operations"]
    for operation in narrowed:
        part = (
            operation.delete.filter if isinstance(operation, models.DeleteOperation) else operation.set_payload.filter
        )
        assert part.must[0] == mine
        assert theirs[0] in str(part)
        assert ids[0] not in str(part)
    with pytest.raises(StoreError, match="cannot be narrowed"):
        scope.narrowed("batch_update_points", {"update_operations": [models.ClearPayloadOperation(
            clear_payload=models.PointIdsList(points=ids))]})  # fmt: skip
    upsert = scope.narrowed("upsert", {"points": [models.PointStruct(id=ids[0], vector={}, payload={"tenant": "x"})],
                                       "update_filter": still})  # fmt: skip
    assert upsert["points"][0].payload == {"tenant": {"customer": "acme"}}
    assert upsert["update_filter"].must[0] == mine


def test_a_foreign_collection_is_divided_by_its_metadata(server):
    options = {"layout": Layout(vector_name="", metadata="metadata")}
    acme, beta = (
        ForeignCollection(Qdrant(client=server.client()), "docs", tenant=tenant, **options) for tenant in (ACME, BETA)
    )
    for collection, year in ((acme, 2020), (beta, 2021)):
        collection.ensure(2)
        point = models.PointStruct(id=collection.point_id("a"), vector=[1, 0], payload={"metadata": {"year": year}})
        collection.upsert([point])
    assert [point.payload["metadata"] for point in acme.nearest([1, 0], 9)] == [{"year": 2020, "customer": "acme"}]
    assert acme.nearest([1, 0], 9, {"customer": "beta"}) == []
    theirs = beta.point_id("a")
    assert acme.get([theirs]) == []
    assert [record.id for record in acme.get([acme.point_id("a"), theirs])] == [acme.point_id("a")]
    assert acme.ids_matching() == [acme.point_id("a")]
    acme.delete([theirs])
    assert beta.ids_matching() == [theirs]
    acme.delete([acme.point_id("a"), theirs])
    assert (acme.ids_matching(), beta.ids_matching()) == ([], [theirs])
    with pytest.raises(InputError, match="metadata say customer='beta'"):
        acme.upsert([models.PointStruct(id=1, vector=[1, 0], payload={"metadata": {"customer": "beta"}})])
    with pytest.raises(IndexMismatchError, match="divided by 'customer'"):
        ForeignCollection(Qdrant(client=server.client()), "docs", **options).nearest([1, 0], 3)
    made = {body["field_name"]: body["field_schema"] for body in server.asked("PUT", "/index?wait=true")}
    assert made["metadata.customer"] == {"type": "keyword", "is_tenant": True}


def test_pages_of_an_index_are_divided_for_adapters_too(server):
    for tenant in (ACME, BETA):
        index = PageIndex(client=server.client(), tenant=tenant, embedder=FakeEmbedder(), images=None)
        add(index, [text_page(1, f"apples of {tenant[1]}")])
    pages = ForeignCollection(Qdrant(client=server.client()), "pages", layout=Layout("dense"), tenant=ACME)
    vector = FakeEmbedder().embed_queries(["apples"])[0].tolist()
    assert [point.payload["text"] for point in pages.nearest(vector, 9)] == ["apples of acme"]
    assert [record.payload["text"] for record in pages.get([pages.point_id("p1")])] == ["apples of acme"]


def test_the_command_line_takes_a_tenant(tmp_path, capsys):
    folder = str(tmp_path / "index")
    for tenant in (ACME, BETA):
        with PageIndex(folder, tenant=tenant, embedder=FakeEmbedder(), images=None) as index:
            add(index, [text_page(1, "apples", source=f"{tenant[1]}.pdf")])
    assert main(["info", folder]) == 1
    assert "divided by 'customer'" in capsys.readouterr().err
    assert main(["info", folder, "--tenant", "customer"]) == 2
    assert "--tenant takes KEY=VALUE" in capsys.readouterr().err
    store = QdrantStore(folder, tenant=ACME)
    assert store.sources() == ["acme.pdf"]
    store.close()
    capsys.readouterr()
    assert main(["info", folder, "--tenant", "customer=acme", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == ["acme.pdf"]


# ---- the settings of a new collection ----

OPTIONS = CollectionOptions(
    shards=2,
    replicas=3,
    write_consistency=2,
    vectors_on_disk=True,
    payload_on_disk=True,
    quantization="int8",
    metadata_indexes={"year": "integer", "author.name": "keyword"},
    strict=True,
)


def test_a_new_collection_is_made_with_its_settings(server):
    index = PageIndex(client=server.client(), embedder=FakeEmbedder(), images=None, collection_options=OPTIONS)
    add(index, [text_page(1, "apples")])
    (created,) = server.asked("PUT", "/collections/pages")
    assert (created["shard_number"], created["replication_factor"], created["write_consistency_factor"]) == (2, 3, 2)
    assert created["on_disk_payload"] is True
    assert created["vectors"]["dense"]["on_disk"] is True
    assert created["vectors"]["dense"]["quantization_config"]["scalar"]["type"] == "int8"
    assert created["strict_mode_config"] == {
        "enabled": True, "unindexed_filtering_retrieve": False, "unindexed_filtering_update": False,
    }  # fmt: skip
    made = {body["field_name"]: body["field_schema"] for body in server.asked("PUT", "/index?wait=true")}
    fields = ("metadata.year", "metadata.author.name", "id", "source", "number", "content_hash")
    assert {*(f"files[].{field}" for field in fields), "state"} <= made.keys()
    index.search("apples")
    (asked,) = server.asked("POST", "/points/query")
    assert asked["params"]["quantization"] == {"rescore": True, "oversampling": 2.0}


@pytest.mark.parametrize(("name", "key"), [("binary", "binary"), ("turbo4", "turbo")])
def test_each_quantization_has_qdrants_word(server, name, key):
    store = QdrantStore(client=server.client(), collection_options={"quantization": name})
    store.create(dimensions=4, record={}, token_storage="float16")
    (created,) = server.asked("PUT", "/collections/pages")
    assert list(created["vectors"]["dense"]["quantization_config"]) == [key]
    assert "quantization_config" not in created["vectors"]["sketches"]


def test_a_collection_that_is_there_gets_the_indexes_and_a_warning(server, caplog):
    plain = PageIndex(client=server.client(), embedder=FakeEmbedder(), images=None)
    add(plain, [text_page(1, "apples")])
    server.requests.clear()
    index = PageIndex(client=server.client(), embedder=FakeEmbedder(), images=None, collection_options=OPTIONS)
    add(index, [text_page(2, "pears")])
    add(index, [text_page(3, "plums")])
    assert [body["field_name"] for body in server.asked("PUT", "/index?wait=true")] == [
        "files[].metadata.year",
        "files[].metadata.author.name",
    ]
    (record,) = [r for r in caplog.records if "keeps its settings" in r.getMessage()]
    assert "vectors_on_disk=False, not True" in record.getMessage()
    assert "no quantization, not 'int8'" in record.getMessage()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"shards": 0}, "shards must be a positive integer, got 0"),
        ({"replicas": True}, "replicas must be a positive integer"),
        ({"quantization": "fp4"}, "quantization must be one of int8, binary, turbo4"),
        ({"strict": "yes"}, "strict must be True, False or None"),
        ({"metadata_indexes": {"year": "number"}}, "keyword, integer"),
        ({"metadata_indexes": ["year"]}, "must be a mapping"),
        ({"shard": 2}, "shard is no collection option; give one of: shards, replicas"),
        ("shards=2", "CollectionOptions or a mapping"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, wanted):
    with pytest.raises(InputError, match=wanted):
        PageIndex(embedder=FakeEmbedder(), collection_options=options)


def test_the_command_line_makes_such_a_collection(server, monkeypatch, capsys):
    seen = {}

    class Spy(PageIndex):
        def __init__(self, *args, **options):
            seen.update(options)
            raise InputError("seen")

    server.answer_at_urls(monkeypatch)
    monkeypatch.setattr("nemotron_rag.index.PageIndex", Spy)
    command = ["index", "x.pdf", "--to", "https://q.invalid", "--tenant", "customer=acme", "--shards", "2"]
    command += ["--replicas", "3", "--vectors-on-disk", "--payload-on-disk", "--quantization", "int8", "--strict"]
    command += ["--metadata-index", "year=integer", "--metadata-index", "author.name=keyword"]
    assert main(command) == 1
    assert seen["tenant"] == ("customer", "acme")
    assert seen["collection_options"] == dataclasses.replace(OPTIONS, write_consistency=None)
    assert main([*command, "--metadata-index", "year=number"]) == 2
    assert "--metadata-index takes KEY=keyword|" in capsys.readouterr().err


def test_numbers_of_vectors_stay_with_their_pages():
    store = QdrantStore(tenant=ACME)
    store.create(dimensions=4, record={})
    assert store.query(np.eye(1, 4, dtype=np.float32)[0], k=3) == []
