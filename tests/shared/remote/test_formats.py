"""What each dialect is sent and how it is read, and how a server is told from another."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nemotron_rag import Passage, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.errors import EndpointError, ImageError, InputError, UnknownModelError
from nemotron_rag.ranking import RankingPolicy, rank
from support.contracts import make_image
from support.scripted import Asked, Reply, scripted

pytestmark = pytest.mark.enable_socket
PNG = "data:image/png;base64,"
BOTH = [Passage("whales"), Passage(image=make_image()), Passage("caption", make_image())]


def vectors(count: int) -> dict:
    return {"data": [{"index": n, "embedding": [3.0, float(n), 4.0]} for n in reversed(range(count))]}


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def posts(asked: list[Asked]) -> list[Asked]:
    return [one for one in asked if one.method == "POST"]


def test_nim_embeds_with_role_and_modality():
    def answer(asked):
        if asked.path == "/v1/models":
            return Reply({"data": [{"id": "nvidia/llama-nemotron-embed-vl-1b-v2"}]})
        return Reply(vectors(len(asked.body["input"])) if asked.method == "POST" else {"version": "2.2"})

    with scripted(answer) as (url, asked):
        embedder = load_embedder("llama-nemotron-embed-vl-1b-v2", base_url=url)
        rows = embedder.embed_passages([BOTH[0], *BOTH])
        embedder.embed_queries(["why"])
        assert embedder.identity == {"model": "llama-nemotron-embed-vl-1b-v2", "dialect": "nim", "dimensions": 3}
        with pytest.raises(InputError, match="query 0 has an image"):
            embedder.embed_queries([Passage(image=make_image())])
        embedder.close()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows[1], np.array([3, 1, 4]) / 26**0.5, atol=1e-6)  # by its index, not its place
    _, texts, image, both, query = [one.body for one in posts(asked)]
    assert {one.path for one in posts(asked)} == {"/v1/embeddings"}
    assert texts == {
        "model": "nvidia/llama-nemotron-embed-vl-1b-v2",
        "input": ["whales", "whales"],
        "input_type": "passage",
        "encoding_format": "float",
        "truncate": "END",
        "modality": "text",
    }
    assert (image["modality"], both["modality"], query["input_type"]) == ("image", "text_image", "query")
    assert both["input"][0].startswith(f"caption {PNG}")
    assert decoded(image["input"][0]).convert("RGB").tobytes() == make_image().tobytes()


def test_nim_ranks_with_logits_and_takes_hosted_addresses():
    def answer(asked):
        rows = [{"index": n, "logit": -2.0 - n} for n in range(len(asked.body["passages"]))]
        return Reply({"rankings": rows[::-1]})

    with scripted(answer) as (url, asked):
        place = {"base_url": f"{url}/retrieval/x/reranking", "dialect": "nim"}
        reranker = load_reranker("nvidia/llama-nemotron-rerank-vl-1b-v2", **place)
        assert reranker.score("why", BOTH).tolist() == [-2, -3, -4]
        reranker.close()
    assert [one.path for one in asked] == ["/retrieval/x/reranking"]
    text, image, both = asked[0].body["passages"]
    assert text == {"text": "whales"}
    assert image.keys() == {"image"}
    assert (both["text"], both["image"][:22]) == ("caption", PNG)
    assert (asked[0].body["query"], asked[0].body["truncate"]) == ({"text": "why"}, "END")


def vllm(rows, *, activates: bool):
    """As a version of vLLM that can leave out the activation, or not."""

    def answer(asked):
        if asked.method == "GET":
            return Reply({"data": [{"id": "m", "owned_by": "vllm"}]})
        documents = asked.body.get("documents", asked.body.get("data_2"))
        logits = np.array([rows[0 if "Paris" in str(one) or "whales" in str(one) else 1] for one in documents])
        if activates or asked.body["use_activation"]:
            logits = 1 / (1 + np.exp(-logits))
        key = "results" if "documents" in asked.body else "data"
        name = "relevance_score" if key == "results" else "score"
        return Reply({key: [{"index": n, name: float(score)} for n, score in enumerate(logits)]})

    return answer


@pytest.mark.parametrize("path", ["/v1", "/score"])
@pytest.mark.parametrize("activates", [False, True])
def test_vllm_gives_logits_whether_or_not_it_can_leave_out_the_sigmoid(path, activates, caplog):
    with scripted(vllm([4.0, -7.0], activates=activates)) as (url, asked):
        reranker = load_reranker("m", base_url=f"{url}{path}", dialect="vllm")
        np.testing.assert_allclose(reranker.score("why", [*BOTH[:2], Passage("x")]), [4, -7, -7], atol=1e-3)
        reranker.close()
    body = posts(asked)[-1].body
    assert ("logits are computed" in caplog.text) is activates
    document = body.get("documents", body.get("data_2"))[1]
    assert [part["type"] for part in document["content"]] == ["image_url"]
    assert posts(asked)[-1].path == ("/v1/rerank" if path == "/v1" else "/score")


def test_vllm_embeds_as_a_chat_and_texts_with_their_prefix():
    def answer(asked):
        if asked.method == "GET":
            ids = ("nvidia/llama-nemotron-embed-vl-1b-v2", "nvidia/llama-nemotron-embed-1b-v2")
            return Reply({"data": [{"id": name, "owned_by": "vllm"} for name in ids]})
        return Reply(vectors(len(asked.body.get("input", [0]))))

    with scripted(answer) as (url, asked):
        chat = load_embedder("llama-nemotron-embed-vl-1b-v2", base_url=f"{url}/v1")
        chat.embed_passages(BOTH[1:])
        chat.embed_queries(["why"])
        texts = load_embedder("llama-nemotron-embed-1b-v2", base_url=url)
        texts.embed_queries(["a", "b"])
        for each in (chat, texts):
            each.close()
    sent = [one.body for one in posts(asked)]
    roles = [body["messages"][0]["role"] for body in sent if "messages" in body]
    assert roles == ["document", "document", "document", "query"]
    assert [part["type"] for part in sent[2]["messages"][0]["content"]] == ["image_url", "text"]
    assert sent[-1]["input"] == ["query: a", "query: b"]


def test_vllm_gives_token_vectors():
    def answer(asked):
        if asked.method == "GET":
            return Reply({"data": [{"id": "m", "owned_by": "vllm"}]})
        return Reply({"data": [{"index": 0, "data": [[3.0, 4.0], [0.0, 2.0]]}]})

    with scripted(answer) as (url, asked):
        embedder = load_multivector_embedder("m", base_url=f"{url}/v1")
        (rows,) = embedder.embed_queries(["why"])
        embedder.close()
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 1]], atol=1e-6)
    assert (posts(asked)[-1].path, posts(asked)[-1].body["task"]) == ("/pooling", "token_embed")


def test_openai_has_no_roles_and_no_images(caplog):
    with scripted(lambda asked: Reply(vectors(len(asked.body["input"])))) as (url, asked):
        prefixes = {"query_prefix": "search: ", "api_key": "sk-12345"}
        embedder = load_embedder(f"{url}/v1", model="small", dialect="openai", endpoint=prefixes)
        embedder.embed_queries(["why"])
        embedder.embed_passages([BOTH[0], BOTH[2], BOTH[2]])
        with pytest.raises(InputError, match="passage 1 is an image without text, and small reads text only"):
            embedder.embed_passages(BOTH)
        assert embedder.identity["query_prefix"] == "search: "
        embedder.close()
    assert [one.body["input"] for one in asked[1:]] == [["search: why"], ["whales", "caption", "caption"]]
    assert caplog.text.count("images of passages are not sent") == 1
    assert asked[0].headers["authorization"] == "Bearer sk-12345"


@pytest.mark.parametrize(
    ("dialect", "path", "key", "name"),
    [("cohere", "/v2/rerank", "results", "relevance_score"), ("jina", "/v1/rerank", "results", "relevance_score")],
)
def test_probabilities_become_logits(dialect, path, key, name):
    scores = [0.5, 0.9933071490757153, 0.0, 1.0]
    with scripted(lambda asked: Reply({key: [{"index": n, name: p} for n, p in enumerate(scores)]})) as (url, asked):
        reranker = load_reranker("m", base_url=url, dialect=dialect)
        found = reranker.score("why", [Passage(text) for text in "abcd"])
        reranker.close()
    np.testing.assert_allclose(found[:2], [0, 5], atol=1e-4)
    assert found[2] < -80
    assert 16 < found[3] < 18
    assert asked[0].path == path


def test_tei_is_found_out_and_asked_for_raw_scores():
    def answer(asked):
        if asked.path == "/info":
            return Reply({"model_id": "BAAI/bge-reranker-v2-m3", "max_client_batch_size": 32})
        if asked.method == "GET":
            return Reply({"error": "no"}, 404)
        if asked.path == "/rerank":
            return Reply([{"index": 1, "score": -3.5}, {"index": 0, "score": 2.5}])
        return Reply([[3.0, 4.0]] * len(asked.body["inputs"]))

    with scripted(answer) as (url, asked):
        reranker = load_reranker(url)
        assert reranker.name == "BAAI/bge-reranker-v2-m3"
        assert reranker.score("why", [Passage("a"), Passage("b")]).tolist() == [2.5, -3.5]
        embedder = load_embedder("some/model", base_url=f"{url}/v1", dialect="tei")
        np.testing.assert_allclose(embedder.embed_queries(["a", "b"])[1], [0.6, 0.8], atol=1e-6)
        for each in (reranker, embedder):
            each.close()
    assert asked[2].body == {"query": "why", "texts": ["a", "b"], "raw_scores": True, "truncate": True}


@pytest.mark.parametrize(
    ("dialect", "takes"), [("cohere", "text only"), ("tei", "text only"), ("jina", "text or an image, not both")]
)
def test_a_reranker_never_drops_an_image_without_a_word(dialect, takes, caplog):
    def answer(asked):
        count = len(asked.body.get("documents", asked.body.get("texts")))
        rows = [{"index": n, "relevance_score": 0.5, "score": 1.0} for n in range(count)]
        return Reply(rows if dialect == "tei" else {"results": rows})

    with scripted(answer) as (url, asked):
        reranker = load_reranker("m", base_url=url, dialect=dialect)
        with pytest.raises(ImageError, match=f"passage 1: the image would be lost, for m at http.* takes {takes}"):
            reranker.score("why", [BOTH[0], BOTH[2]])
        assert asked == [] or dialect == "tei"
        places = rank(reranker, "why", [BOTH[0], BOTH[2], BOTH[2]], policy=RankingPolicy())
        reranker.close()
    assert [place.image_lost for place in sorted(places, key=lambda place: place.index)] == [False, True, True]
    assert caplog.text.count("ranked by its text alone") == 2


def test_a_server_that_cannot_be_told_must_be_named():
    with (
        scripted(lambda asked: Reply({"error": "no"}, 404)) as (url, asked),
        pytest.raises(EndpointError, match="does not tell which format it speaks; give dialect=, one of nemotron-rag"),
    ):
        load_embedder("m", base_url=url)
    assert [one.method for one in asked] == ["GET"] * 3


def test_a_model_that_is_not_there_is_refused():
    def answer(asked):
        return Reply({"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "vllm"}]})

    with scripted(answer) as (url, _):
        with pytest.raises(UnknownModelError, match="has no model 'c'; it has a, b"):
            load_reranker("c", base_url=url)
        with pytest.raises(InputError, match="which reranker of .* Give its name; it has a, b"):
            load_reranker(url)


def test_shorter_vectors_are_asked_for_and_checked():
    def answer(asked):
        length = 3 if asked.body.get("dimensions") is None else answers
        return Reply({"data": [{"index": 0, "embedding": [1.0] * length}]})

    with scripted(answer) as (url, asked):
        answers = 2
        embedder = load_embedder("m", base_url=url, dialect="openai", dimensions=2)
        assert embedder.embed_queries(["a"]).shape == (1, 2)
        assert [one.body.get("dimensions") for one in asked] == [None, 2, 2]
        embedder.close()
        load_embedder("m", base_url=url, dialect="openai", dimensions=3).close()
        answers = 3
        with pytest.raises(InputError, match="asked for dimensions=2 and answers with 3"):
            load_embedder("m", base_url=url, dialect="openai", dimensions=2)
