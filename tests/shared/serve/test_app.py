"""The server without a socket: what each format is answered with, and what is refused."""

from __future__ import annotations

import asyncio
import base64

import httpx
import numpy as np
import pytest
from PIL import Image

from nemotron_rag import Page, PageIndex, Passage, load_embedder, load_reranker
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import encode_image, to_data_uri
from nemotron_rag.errors import InputError
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.serve import limits
from nemotron_rag.serve.app import make_app
from nemotron_rag.serve.inputs import to_passage
from nemotron_rag.serve.served import Served, ServeSettings
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakePageStore, FakeReranker
from nemotron_rag.types import WordBoxes
from support.serving import fakes

RED = Image.new("RGB", (8, 6), "red")
URI = str(to_data_uri(encode_image(RED, "png"), "png"))


def client(served=None, settings=None, **options) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(served or fakes(), settings), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server", **options)


async def post(path, body, *, served=None, settings=None, status=200, **options):
    async with client(served, settings, **options) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def line_of(answer) -> str:
    line = answer["error"]["message"]
    assert line == answer["detail"]
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("given", "passages"),
    [
        ("red apples", [Passage("red apples")]),
        (["red apples", "whales"], [Passage("red apples"), Passage("whales")]),
        ([URI, f"a caption {URI}"], [Passage(image=RED), Passage("a caption", RED)]),
        ([{"text": "a caption", "image": URI}], [Passage("a caption", RED)]),
        ([{"image": URI.partition(",")[2]}], [Passage(image=RED)]),
        (
            [{"content": [{"type": "text", "text": "a caption"}, {"type": "image_url", "image_url": {"url": URI}}]}],
            [Passage("a caption", RED)],
        ),
        ([{"type": "text", "text": "one"}, {"type": "image_url", "image_url": URI}], [Passage("one", RED)]),
    ],
)
async def test_inputs_of_every_format_are_embedded_like_passages(given, passages):
    answer = await post("/v1/embeddings", {"model": "fake-embedder", "input": given, "input_type": "passage"})
    rows = np.array([row["embedding"] for row in answer["data"]])
    np.testing.assert_allclose(rows, FakeEmbedder().embed_passages(passages), atol=1e-6)
    assert [row["index"] for row in answer["data"]] == list(range(len(passages)))


@pytest.mark.parametrize(
    "role", [{"input_type": "query"}, {"input_type": "search_query"}, {"model": "fake-embedder-query"}]
)
async def test_queries_are_embedded_as_queries(role, monkeypatch):
    seen = []
    embedder = FakeEmbedder()
    monkeypatch.setattr(FakeEmbedder, "aembed_queries", lambda self, queries: _seen(seen, queries))
    served = Served(embedder=LazyModel(embedder, "embedder"))
    await post("/v1/embeddings", {"input": ["why"], **role}, served=served)
    assert seen == [["why"]]


async def _seen(seen, queries):
    seen.append(queries)
    return np.zeros((len(queries), 4), np.float32)


async def test_base64_is_little_endian_float32():
    body = {"input": "why", "input_type": "query", "encoding_format": "base64"}
    answer = await post("/v1/embeddings", body)
    row = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(row, FakeEmbedder().embed_queries(["why"])[0])


async def test_token_vectors_are_rows():
    served = Served(embedder=LazyModel(FakeMultiVectorEmbedder(), "multivector_embedder"))
    answer = await post("/v1/embeddings", {"input": "red apples", "input_type": "query"}, served=served)
    expected = FakeMultiVectorEmbedder().embed_queries(["red apples"])[0]
    np.testing.assert_allclose(answer["data"][0]["embedding"], expected, atol=1e-6)


DOCUMENTS = ["blue whales", "red apples", {"text": "red"}]


async def test_ranking_answers_raw_logits_best_first():
    passages = [{"text": "blue whales"}, {"text": "red apples"}, {"text": "red"}]
    answer = await post("/v1/ranking", {"query": {"text": "red apples"}, "passages": passages})
    assert answer["rankings"] == [
        {"index": 1, "logit": 5.0},
        {"index": 2, "logit": 0.0},
        {"index": 0, "logit": -5.0},
    ]


async def test_ranking_is_also_where_hosted_models_have_it():
    body = {"query": {"text": "red apples"}, "passages": [{"text": "whales"}, {"text": "red apples"}]}
    answer = await post("/v1/retrieval/fake-reranker/reranking", body)
    assert [row["index"] for row in answer["rankings"]] == [1, 0]
    assert "'nvidia/other'" in line_of(await post("/v1/retrieval/nvidia/other/reranking", body, status=404))


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_rerank_answers_scores_and_logits(path):
    body = {"query": "red apples", "documents": DOCUMENTS, "top_n": 2, "return_documents": True}
    answer = await post(path, body)
    assert [(row["index"], row["logit"]) for row in answer["results"]] == [(1, 5.0), (2, 0.0)]
    assert [row["document"]["text"] for row in answer["results"]] == ["red apples", "red"]
    assert [row["relevance_score"] for row in answer["results"]] == pytest.approx([1 / (1 + np.exp(-5)), 0.5])


async def test_parts_under_content_are_one_document_each():
    parts = [{"type": "text", "text": "whales"}, {"type": "image_url", "image_url": {"url": URI}}]
    answer = await post("/rerank", {"query": "whales", "documents": {"content": parts}})
    assert [row["index"] for row in answer["results"]] == [0, 1]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/embeddings", {"input": "why"}, 422, "input_type must be 'query' or 'passage'"),
        ("/v1/embeddings", {"input": "why", "model": "gpt", "input_type": "query"}, 404, "it has 'fake-embedder'"),
        ("/v1/embeddings", {"input": [], "input_type": "query"}, 422, "inputs must hold at least one"),
        ("/v1/embeddings", {"input": ["a"] * 4, "input_type": "passage"}, 422, "inputs may hold 3 at most, got 4"),
        ("/v1/embeddings", {"input": "a", "input_type": "query", "dimensions": 9}, 422, "have 64 dimensions"),
        ("/v1/embeddings", {"input_type": "query"}, 422, "input: Field required"),
        ("/v1/embeddings", {"input": [{"image": "/etc/passwd"}], "input_type": "passage"}, 422, "not its path"),
        ("/v1/embeddings", {"input": [{"image": "http://a/b.png"}], "input_type": "passage"}, 422, "allowed host"),
        ("/v1/embeddings", {"input": [{"image": "file:///etc/passwd"}], "input_type": "passage"}, 422, "not its path"),
        ("/v1/embeddings", {"input": ["data:image/png;base64,AAAA"], "input_type": "passage"}, 422, "image"),
        ("/v1/embeddings", {"input": [{"content": [{"type": "audio"}]}], "input_type": "passage"}, 422, "'audio'"),
        ("/v1/embeddings", {"input": [{"colour": "red"}], "input_type": "passage"}, 422, "['colour']"),
        ("/v1/embeddings", {"input": ["a"], "modality": "image", "input_type": "passage"}, 422, "data URI"),
        ("/v1/rerank", {"query": "why", "documents": []}, 422, "documents must hold at least one"),
        ("/v1/rerank", {"query": "why", "documents": ["a"], "top_n": 0}, 422, "top_n"),
        ("/v1/ranking", {"query": {"text": "why"}, "passages": [{}]}, 422, "input 0"),
        ("/v1/nowhere", {}, 404, "Not Found"),
        ("/v1/search", {"query": "why"}, 404, "Not Found"),
    ],
)
async def test_what_cannot_be_used_is_refused_in_one_line(path, body, status, words):
    answer = await post(path, body, settings=ServeSettings(max_items=3), status=status)
    assert words in line_of(answer)


async def test_two_images_in_one_input_are_refused():
    parts = [{"type": "image_url", "image_url": URI}] * 2
    with pytest.raises(InputError, match="one image at most, got 2"):
        to_passage({"content": parts}, ImageAccess())


async def test_an_unexpected_error_says_nothing_of_the_inside(monkeypatch):
    async def broken(self, query, passages):
        raise RuntimeError("secret path /srv/models")

    monkeypatch.setattr(FakeReranker, "ascore", broken)
    answer = await post("/rerank", {"query": "why", "documents": ["a"]}, status=500)
    assert "RuntimeError" in line_of(answer)
    assert "/srv" not in line_of(answer)


async def test_scores_of_extreme_logits_are_finite(monkeypatch):
    async def extreme(self, query, passages):
        return np.array([-2000.0, 2000.0], np.float32)

    monkeypatch.setattr(FakeReranker, "ascore", extreme)
    answer = await post("/rerank", {"query": "why", "documents": ["a", "b"]})
    assert [row["relevance_score"] for row in answer["results"]] == [1.0, 0.0]


async def test_what_would_be_computed_otherwise_than_asked_is_refused():
    body = {"input": "why", "input_type": "query", "truncate": "START"}
    assert "truncate" in line_of(await post("/v1/embeddings", body, status=422))


async def test_a_key_is_asked_for_and_never_shown():
    settings = ServeSettings(api_key="t0psecret")
    assert "t0psecret" not in repr(settings)
    body = {"input": "why", "input_type": "query"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "t0psecret"}):
        answer = await post("/v1/embeddings", body, settings=settings, status=401, headers=headers)
        assert "t0psecret" not in line_of(answer)
    await post("/v1/embeddings", body, settings=settings, headers={"Authorization": "Bearer t0psecret"})
    async with client(settings=settings) as http:
        assert (await http.get("/v1/health/ready")).status_code == 200
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.get("/metrics")).status_code == 401


async def test_a_large_body_is_refused_also_where_its_length_is_not_said():
    settings = ServeSettings(max_body_bytes=100)
    await post("/rerank", {"query": "x" * 200, "documents": ["a"]}, settings=settings, status=413)

    async def chunks():
        for _ in range(10):
            yield b" " * 50

    async with client(settings=settings) as http:
        answer = await http.post("/rerank", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


async def test_more_requests_than_may_wait_get_429(monkeypatch):
    free = asyncio.Event()

    async def slow(self, query, passages):
        await free.wait()
        return np.zeros(len(passages), np.float32)

    monkeypatch.setattr(FakeReranker, "ascore", slow)
    async with client(settings=ServeSettings(max_waiting=2)) as http:
        body = {"query": "why", "documents": ["a"]}
        waiting = [asyncio.create_task(http.post("/rerank", json=body)) for _ in range(2)]
        while len(waiting) < 2 or not all(task.get_stack() for task in waiting):
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        refused = await http.post("/rerank", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await http.get("/health")).status_code == 200
        free.set()
        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (await http.post("/rerank", json=body)).status_code == 200


async def test_metrics_count_by_path_and_status():
    async with client() as http:
        await http.post("/rerank", json={"query": "why", "documents": ["a", "b"]})
        await http.post("/rerank", json={})
        await http.get("/made/up/by/a/client")
        text = (await http.get("/metrics")).text
    assert 'nemotron_rag_requests_total{path="/rerank",status="200"} 1.0' in text
    assert 'nemotron_rag_requests_total{path="/rerank",status="422"} 1.0' in text
    assert 'nemotron_rag_requests_total{path="other",status="404"} 1.0' in text
    assert 'nemotron_rag_items_total{what="scored"} 2.0' in text
    assert "/made/up" not in text


async def test_hits_come_with_the_words_that_match(tmp_path):
    with PageIndex(store=FakePageStore(), embedder=FakeEmbedder(), images=tmp_path) as index:
        index.add([Page(id="a", source="fruit.pdf", text="<b>red</b> apples", image=RED)])
        async with client(Served(index=index)) as http:
            hit = (await http.post("/v1/search", json={"query": "red apples", "excerpts": True})).json()["hits"][0]
            plain = (await http.post("/v1/search", json={"query": "red apples"})).json()["hits"][0]
            about = (await http.get("/v1/index")).json()
            heatmap = {"image": hit["image"].rpartition("/")[2], "query": "apples"}
            refused = await http.post("/v1/heatmap", json=heatmap)
            unknown = await http.post("/v1/heatmap", json=heatmap | {"image": "0" * 32})
    assert [piece["text"] for piece in hit["excerpt"] if piece["is_match"]] == ["apples"]
    assert "".join(piece["text"] for piece in hit["excerpt"]) == "<b>red</b> apples"
    assert "excerpt" not in plain
    assert about == {
        "pages": 1,
        "document_count": 1,
        "documents": ["fruit.pdf"],
        "reranker": None,
        "heatmaps": False,
        "regions": True,
    }
    assert refused.status_code == 422
    assert "heatmaps need a ColEmbed model" in line_of(refused.json())
    assert unknown.status_code == 404


async def test_models_are_listed():
    async with client() as http:
        rows = (await http.get("/v1/models")).json()["data"]
    assert [(row["id"], row["kind"]) for row in rows] == [("fake-embedder", "embedder"), ("fake-reranker", "reranker")]


async def test_no_path_is_told_of_a_model(tmp_path):
    (tmp_path / "tuned").mkdir()
    names = [str(tmp_path / "tuned"), "/models/v1/onnx (sentence-transformers)", "/models/v2/onnx", "C:\\models\\mine"]
    names += ["~/models/mine", "file:///srv/models/mine", "nvidia/embed", "Instruct: and/or\nQuery: ", "/no_think", ""]
    models = {f"m{n}": LazyModel(FakeEmbedder(name=name), "embedder") for n, name in enumerate(names)}
    async with client(Served(embedder=models)) as http:
        rows = (await http.get("/v1/models")).json()["data"]
    told = [row["identity"]["model"] for row in rows]
    assert not [name for name in told[:6] if "/" in name or "\\" in name]
    assert told[0].startswith("tuned-")
    assert told[1].startswith("onnx-")
    assert told[1].endswith(" (sentence-transformers)")
    assert len(set(told)) == len(names)
    assert told[6:] == names[6:]


async def test_several_models_are_told_apart_by_their_names(tmp_path):
    embedders = {"small": FakeEmbedder(dimensions=4), "tokens": FakeMultiVectorEmbedder()}
    (tmp_path / "tuned").mkdir()
    tuned = FakeReranker()
    tuned.name = str(tmp_path / "tuned")  # as of a model from a folder
    served = Served(
        embedder={name: LazyModel(model, model.kind) for name, model in embedders.items()},
        reranker=[LazyModel(FakeReranker(), "reranker"), LazyModel(tuned, "reranker")],
    )
    ask = {"input": "why", "input_type": "query"}
    small = await post("/v1/embeddings", ask | {"model": "small"}, served=served)
    assert (small["model"], len(small["data"][0]["embedding"])) == ("small", 4)
    tokens = await post("/v1/embeddings", {"input": "why", "model": "tokens-passage"}, served=served)
    assert np.shape(tokens["data"][0]["embedding"]) == (1, 64)
    assert "it has 'small', 'tokens'" in line_of(
        await post("/v1/embeddings", ask | {"model": "huge"}, served=served, status=404)
    )
    assert "several; give one of 'fake-reranker', 'tuned'" in line_of(
        await post("/rerank", {"query": "why", "documents": ["a"]}, served=served, status=404)
    )
    ranked = await post("/rerank", {"query": "why", "documents": ["a"], "model": "tuned"}, served=served)
    assert ranked["model"] == "tuned"
    async with client(served) as http:
        listed = await http.get("/v1/models")
    assert [row["id"] for row in listed.json()["data"]] == ["small", "tokens", "fake-reranker", "tuned"]


def test_two_models_of_one_name_are_refused():
    with pytest.raises(InputError, match="two models of a kind are named 'fake-reranker'"):
        Served(reranker=[LazyModel(FakeReranker(), "reranker"), LazyModel(FakeReranker(), "reranker")])


async def test_tokens_are_counted_where_the_model_counts_them():
    embedder, reranker = load_embedder("starter-embed-vl", device="cpu"), load_reranker("starter-rerank-vl")
    served = Served(embedder=LazyModel(embedder, "embedder"), reranker=LazyModel(reranker, "reranker"))

    async def used(path, body):
        return (await post(path, body, served=served))["usage"]["total_tokens"]

    one = await used("/v1/embeddings", {"input": "red apples", "input_type": "query"})
    assert one > 2
    assert await used("/v1/embeddings", {"input": ["red apples"] * 3, "input_type": "query"}) == 3 * one
    large = Image.new("RGB", (600, 800), "red")
    uri = str(to_data_uri(encode_image(large, "png"), "png"))
    assert await used("/v1/embeddings", {"input": uri, "input_type": "passage"}) > 20
    answer = await post("/rerank", {"query": "red", "documents": ["red apples", "a"]}, served=served)
    assert answer["usage"]["total_tokens"] == answer["meta"]["tokens"]["input_tokens"] > 4
    ranking = {"query": {"text": "red"}, "passages": [{"text": "red apples"}, {"text": "a"}]}
    assert await used("/v1/ranking", ranking) == answer["usage"]["total_tokens"]
    assert "usage" not in await post("/rerank", {"query": "red", "documents": ["a"]})


async def test_a_request_that_does_not_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(limits, "_READING", 0.05)

    async def drip():
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async with client() as http:
        answer = await http.post("/rerank", content=drip(), headers={"content-type": "application/json"})
    assert answer.status_code == 408
    assert "did not arrive" in line_of(answer.json())


async def test_requests_under_way_hold_a_bounded_number_of_bytes():
    release = asyncio.Event()

    async def slow():
        yield b" " * 90
        await release.wait()

    async with client(settings=ServeSettings(max_body_bytes=100)) as http:
        options = {"headers": {"content-type": "application/json"}}
        waiting = [asyncio.create_task(http.post("/rerank", content=slow(), **options)) for _ in range(8)]
        for _ in range(200):
            await asyncio.sleep(0)
        refused = await http.post("/rerank", content=b" " * 90, **options)
        assert refused.status_code == 429
        assert "bytes" in line_of(refused.json())
        release.set()
        assert {(await task).status_code for task in waiting} == {422}
        assert (await http.post("/rerank", json={"query": "why", "documents": ["a"]})).status_code == 200


async def test_an_index_is_searched_and_its_images_are_shown(tmp_path):
    store = FakePageStore()
    index = PageIndex(store=store, embedder=FakeEmbedder(), reranker=FakeReranker(), images=tmp_path)
    with index:
        index.add([Page(id="a/../b", text="red apples", image=RED), Page(id="w", text="blue whales")])
        async with client(Served(index=index)) as http:
            found = await http.post("/v1/search", json={"query": "red apples", "k": 2})
            hits = found.json()["hits"]
            direct = index.search("red apples", k=2)
            assert [hit["id"] for hit in hits] == [hit.page.id for hit in direct]
            assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in direct])
            assert str(tmp_path) not in found.text
            image = await http.get(hits[0]["image"])
            assert image.headers["content-type"] == f"image/{direct[0].page.image.image_format}"
            assert image.content == direct[0].page.image.read_bytes()
            assert "a/../b" not in hits[0]["image"]
            assert "sandbox" in image.headers["content-security-policy"]
            small = await http.get(hits[0]["image"], params={"max_side": 4})
            assert small.status_code == 422
            assert (await http.get("/v1/images/..%2F..%2Fetc%2Fpasswd")).status_code == 404
            direct[0].page.image.path.write_bytes(b"broken")
            broken = await http.get(hits[0]["image"], params={"max_side": 16})
            assert broken.status_code == 404
            assert str(tmp_path) not in broken.text
            bad = await http.post("/v1/search", json={"query": "red", "filter": {"colour": {"$near": 1}}})
            assert bad.status_code == 422
            assert (await http.post("/v1/embeddings", json={"input": "a"})).status_code == 404


BOXES = np.array([[0.1, 0.1, 0.2, 0.15], [0.21, 0.1, 0.4, 0.15], [0.1, 0.6, 0.3, 0.7]], np.float32)
PLACED = Page(
    id="a",
    text="red apples\nwhales",
    image=Image.new("RGB", (60, 80), "white"),
    word_boxes=WordBoxes(("red", "apples", "whales"), BOXES, np.array([0, 0, 1], np.int32)),
)


@pytest.mark.parametrize("embedder", [FakeEmbedder, FakeMultiVectorEmbedder])
async def test_regions_are_those_of_the_index_with_every_model(tmp_path, embedder):
    with PageIndex(store=FakePageStore(), embedder=embedder(), reranker=FakeReranker(), images=tmp_path) as index:
        index.add([PLACED], progress=False)
        async with client(Served(index=index)) as http:
            assert (await http.get("/v1/index")).json()["regions"] is True
            (hit,) = (await http.post("/v1/search", json={"query": "whales"})).json()["hits"]
            page = index.search("whales")[0].page
            for options in ({}, {"k": 1}, {"by": "words"}, {"rerank": True}):
                body = {"image": hit["image"], "query": "whales", **options}
                answer = (await http.post("/v1/regions", json=body)).json()
                direct = index.regions(page, "whales", **options)
                assert answer["query"] == "whales"
                assert direct
                for given, region in zip(answer["regions"], direct, strict=True):
                    assert given["box"] == pytest.approx(region.box, abs=1e-4)
                    assert given["score"] == pytest.approx(region.score, abs=1e-4)
                    assert (given["text"], given["evidence"]) == (region.text, region.evidence)
            assert answer["regions"][0]["box"] == pytest.approx([0.1, 0.6, 0.3, 0.7], abs=1e-3)
            short = {"image": hit["image"].rpartition("/")[2], "query": "whales", "by": "words"}
            assert (await http.post("/v1/regions", json=short)).json()["regions"][0]["text"] == "whales"
            none = {**short, "query": "submarine"}
            assert (await http.post("/v1/regions", json=none)).json()["regions"] == []


async def test_regions_refuse_what_cannot_be_used_and_name_no_file(tmp_path):
    with PageIndex(store=FakePageStore(), embedder=FakeMultiVectorEmbedder(), images=tmp_path) as index:
        index.add([PLACED], progress=False)
        async with client(Served(index=index)) as http:
            (hit,) = (await http.post("/v1/search", json={"query": "whales"})).json()["hits"]
            body = {"image": hit["image"], "query": "whales"}
            for wrong in ({"k": 0}, {"k": 51}, {"by": "magic"}, {"query": ""}, {"query": "a" * 10_001}, {"page": 1}):
                refused = await http.post("/v1/regions", json={**body, **wrong})
                assert refused.status_code == 422, wrong
                assert next(iter(wrong)) in line_of(refused.json())
            unknown = await http.post("/v1/regions", json={**body, "image": "/v1/images/../../etc/passwd"})
            assert unknown.status_code == 404
            assert "search again" in line_of(unknown.json())
            index.search("whales")[0].page.image.path.write_bytes(b"broken")
            for path in ("/v1/regions", "/v1/heatmap"):
                broken = await http.post(path, json=body)
                assert broken.status_code == 404
                assert "cannot be read" in line_of(broken.json())
                assert str(tmp_path) not in broken.text
        async with client(Served(index=index), ServeSettings(api_key="k" * 9)) as http:
            assert (await http.post("/v1/regions", json=body)).status_code == 401


def test_nothing_to_serve_and_impossible_settings_are_refused():
    with pytest.raises(InputError, match="nothing to serve"):
        Served()
    with pytest.raises(InputError, match="max_waiting must be a positive integer, got 0"):
        ServeSettings(max_waiting=0)
    with pytest.raises(InputError, match="opens no files"):
        ServeSettings(images=ImageAccess(roots=["/"]))
