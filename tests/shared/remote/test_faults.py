"""Servers that answer wrongly, slowly or not at all: one line that says what, and nothing silent."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pickle
import threading
import time

import numpy as np
import pytest

from nemotron_rag import Page, PageIndex, Passage, load_embedder, load_reranker
from nemotron_rag._token_count import counting_tokens
from nemotron_rag.errors import (
    ClosedError,
    EndpointError,
    ImageError,
    InputError,
    ItemTooLargeError,
    NemotronRagError,
    NonFiniteError,
)
from nemotron_rag.remote import Endpoint
from nemotron_rag.remote import transport as transports
from nemotron_rag.remote.embedders import RemoteEmbedder
from nemotron_rag.stores.patience import stoppable
from nemotron_rag.testing import FakePageStore
from support.contracts import make_image
from support.scripted import Reply, scripted

pytestmark = pytest.mark.enable_socket
GOOD = [3.0, 4.0]
TEXTS = [Passage("a"), Passage("b")]


def rows(*vectors, **more):
    return Reply({"data": [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)], **more})


def good(asked):
    return rows(*[GOOD] * len(asked.body["input"]))


def connect(url, **endpoint):
    return load_embedder("m", base_url=url, dialect="openai", endpoint={"patience": 0, **endpoint})


def after_the_first(reply):
    """Good for the request that finds out the dimensions, then what a test says."""
    seen = []

    def answer(asked):
        seen.append(asked)
        return good(asked) if len(seen) == 1 else reply

    return answer


def cut(out):
    out.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (rows(GOOD), EndpointError, "answered 1 rows for 2 inputs"),
        (rows(GOOD, GOOD, GOOD), EndpointError, "answered 3 rows for 2 inputs"),
        (
            Reply({"data": [{"index": 1, "embedding": GOOD}] * 2}),
            EndpointError,
            r"2 rows with the places \[1, 1\], not one for each",
        ),
        (
            Reply({"data": [{"index": 7, "embedding": GOOD}, {"index": 0, "embedding": GOOD}]}),
            EndpointError,
            r"\[7, 0\]",
        ),
        (Reply({"data": [{"index": "0", "embedding": GOOD}] * 2}), EndpointError, "places"),
        (rows(GOOD, [float("nan"), 1.0]), NonFiniteError, "answered NaN or infinity for input 1 of 2"),
        (rows(GOOD, [1e300, 1.0]), NonFiniteError, "answered NaN or infinity"),
        (rows(GOOD, [0.0, 0.0]), NonFiniteError, "vector of zeros for input 1"),
        (rows(GOOD, [1.0, 2.0, 3.0]), EndpointError, "answered 3 dimensions for input 1 of 2, and 2 before"),
        (rows(GOOD, [GOOD, GOOD]), EndpointError, "load m with load_multivector_embedder"),
        (rows(GOOD, "@@@"), EndpointError, "something else than numbers"),
        (rows(GOOD, [None, 1.0]), NonFiniteError, "answered NaN"),
        (rows(GOOD, {}), EndpointError, "something else than numbers"),
        (rows(GOOD, []), EndpointError, "array of 1 axes and 0 numbers"),
        (Reply({"data": [3, 4]}), EndpointError, "answered without embedding, with int"),
        (Reply({"data": "ab"}), EndpointError, "str in the place of a list"),
        (Reply({"results": []}), EndpointError, r"answered without data, with \['results'\]; check dialect="),
        (Reply([]), EndpointError, "answered without data, with list"),
        (Reply(b"[" * 100_000), EndpointError, "not with JSON"),
        (
            Reply(b"<html><h1>It works!</h1></html>", headers={"content-type": "text/html; charset=utf-8"}),
            EndpointError,
            r"answered with text/html, not with JSON: '<html><h1>It works!.*check base_url= and dialect=",
        ),
        (Reply({"error": {"message": "too long"}}, 400), InputError, r"passages 0 to 1: .*\(HTTP 400\): too long"),
        (Reply({"detail": [{"msg": "bad"}]}, 422), InputError, r"\(HTTP 422\): .*bad"),
        (Reply({"message": "no such model"}, 404), EndpointError, "HTTP 404: no such model; check base_url=, dialect="),
        (
            Reply({}, 302, {"location": "http://evil.example/?key=1"}),
            EndpointError,
            "points to http://evil.example/, and no",
        ),
        (Reply({"error": "nope"}, 401), EndpointError, "does not accept the key .*nope; set NEMOTRON_RAG_API_KEY"),
        (Reply({"error": "nope"}, 403), EndpointError, "does not accept the key"),
        (Reply({"error": "no GPU"}, 500), EndpointError, "answered HTTP 500: no GPU; check that the server runs"),
        (Reply({}, 418), EndpointError, "HTTP 418"),
        (Reply(cut), EndpointError, "cannot be reached: peer closed connection"),
        (Reply(lambda out: None), EndpointError, "cannot be reached: Server disconnected"),
        (Reply(lambda out: out.write(b"SSH-2.0-OpenSSH\r\n")), EndpointError, "cannot be reached"),
    ],
)
def test_a_wrong_answer_is_an_error_in_one_line(reply, error, words):
    with scripted(after_the_first(reply)) as (url, _):
        embedder = connect(url)
        with pytest.raises(error, match=words) as caught:
            embedder.embed_passages(TEXTS)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
        embedder.close()


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ({"rankings": [{"index": 0, "logit": 1.0}]}, EndpointError, "1 rows for 2 inputs"),
        ({"rankings": [{"index": 0, "logit": float("nan")}, {"index": 1, "logit": 1.0}]}, NonFiniteError, "NaN"),
        ({"rankings": [{"index": 0, "logit": [1.0]}, {"index": 1, "logit": [1.0]}]}, EndpointError, r"shape \(2, 1\)"),
        ({"rankings": [{"index": 0, "score": 1.0}, {"index": 1, "score": 1.0}]}, EndpointError, "without logit"),
    ],
)
def test_wrong_scores_are_an_error(reply, error, words):
    with scripted(lambda asked: Reply(reply)) as (url, _):
        reranker = load_reranker("m", base_url=f"{url}/v1/ranking", dialect="nim", endpoint={"patience": 0})
        with pytest.raises(error, match=words):
            reranker.score("why", TEXTS)
        reranker.close()


def test_logits_where_probabilities_are_wanted_are_refused():
    answer = {"results": [{"index": 0, "relevance_score": 7.5}, {"index": 1, "relevance_score": -3.0}]}
    with scripted(lambda asked: Reply(answer)) as (url, _):
        reranker = load_reranker("m", base_url=url, dialect="cohere")
        with pytest.raises(EndpointError, match=r"from -3 to 7.5, where .* give endpoint={'scores': 'logit'}"):
            reranker.score("why", TEXTS)
        reranker.close()
        told = load_reranker("m", base_url=url, dialect="cohere", endpoint={"scores": "logit"})
        assert told.score("why", TEXTS).tolist() == [7.5, -3]
        told.close()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_tried_again(status, caplog):
    left = [Reply({"error": "busy"}, status, {"retry-after": "1"}), Reply(cut)]

    def answer(asked):
        return left.pop() if left else good(asked)

    with scripted(answer) as (url, asked):
        embedder = connect(url, patience=5)
        assert embedder.dimensions == 2
        embedder.close()
    assert len(asked) == 3
    assert caplog.text.count("trying again for up to 5 s") == 1


def test_patience_ends(caplog):
    with scripted(lambda asked: Reply({"error": "busy"}, 429, {"retry-after": "2"})) as (url, asked):
        with pytest.raises(EndpointError, match="HTTP 429: busy, tried for"):
            connect(url, patience=5)
        assert 2 <= len(asked) <= 4
        asked.clear()
        with pytest.raises(EndpointError, match="HTTP 429"):
            connect(url, patience=1)  # the server asks for more than that
        assert len(asked) == 1


def test_nobody_waits_any_longer_when_a_run_is_stopped(monkeypatch):
    monkeypatch.undo()  # really waits
    with scripted(lambda asked: Reply({"error": "busy"}, 503)) as (url, _), stoppable() as stop:
        threading.Timer(0.3, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(EndpointError, match="HTTP 503"):
            connect(url, patience=60)
        assert time.monotonic() - begun < 10


def drip(out):
    out.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    for _ in range(400):
        out.write(b" ")
        out.flush()
        time.sleep(0.02)


def test_the_deadline_holds_for_an_answer_that_drips():
    with scripted(after_the_first(Reply(drip))) as (url, _):
        embedder = connect(url, timeout=0.5)
        begun = time.monotonic()
        with pytest.raises(EndpointError, match=r"did not answer within 0.5 s \(timeout=\)"):
            embedder.embed_queries(["a"])
        assert time.monotonic() - begun < 4
        embedder.close()


def test_an_endless_answer_is_refused(monkeypatch):
    monkeypatch.setattr(transports, "MAX_ANSWER", 1 << 20)

    def flood(out):
        out.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            out.write(b" " * 65536)

    with scripted(after_the_first(Reply(flood))) as (url, _):
        embedder = connect(url)
        with pytest.raises(EndpointError, match="answers with more than 1 MiB"):
            embedder.embed_queries(["a"])
        embedder.close()


def test_a_large_batch_is_halved_and_a_large_input_named():
    def answer(asked):
        return good(asked) if sum(map(len, asked.body["input"])) <= 100 else Reply({}, 413)

    with scripted(answer) as (url, asked):
        embedder = connect(url)
        assert embedder.embed_passages([Passage("x" * 40)] * 5).shape == (5, 2)
        with pytest.raises(ItemTooLargeError, match="passage 2 alone is larger than http"):
            embedder.embed_passages([Passage("a"), Passage("b"), Passage("x" * 101)])
        embedder.close()
    assert [len(one.body["input"]) for one in asked[1:]] == [5, 2, 3, 1, 2, 3, 1, 2, 1, 1][: len(asked) - 1]


def test_batches_are_cut_by_number_and_bytes():
    with scripted(good) as (url, asked):
        embedder = connect(url, batch_size=3, batch_bytes=1000)
        embedder.embed_queries(["q"] * 7)
        embedder.embed_queries(["x" * 600] * 2 + ["y" * 5000])
        embedder.close()
    assert sorted(len(one.body["input"]) for one in asked[1:]) == [1, 1, 1, 1, 3, 3]


def test_rows_come_in_order_however_late_their_requests_are_answered():
    def answer(asked):
        number = int(asked.body["input"][0]) if asked.body["input"][0].isdigit() else 0
        time.sleep(0.02 * (5 - number % 5))
        return rows([1.0, float(number)])

    with scripted(answer) as (url, _):
        embedder = connect(url, batch_size=1)
        found = embedder.embed_queries([str(n) for n in range(12)])
        embedder.close()
    np.testing.assert_allclose(found[:, 1] / found[:, 0], range(12), atol=1e-3)


def test_a_cancelled_task_cancels_its_request():
    async def work(embedder):
        task = asyncio.create_task(embedder.aembed_queries(["a"]))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with scripted(after_the_first(Reply(drip))) as (url, _):
        embedder = connect(url)
        begun = time.monotonic()
        asyncio.run(work(embedder))
        assert time.monotonic() - begun < 4
        embedder.close()
        with pytest.raises(ClosedError, match="m was closed; load it again"):
            asyncio.run(embedder.aembed_queries(["a"]))


def test_an_unreadable_image_is_named_before_anything_of_its_batch_is_sent(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")

    def answer(asked):
        return Reply({}, 404) if asked.method == "GET" else good(asked)

    with scripted(answer) as (url, asked):
        embedder = load_embedder("m", base_url=url, dialect="nim")
        with pytest.raises(ImageError, match=r"passage 1: .*broken.png") as caught:
            embedder.embed_passages([Passage("a", make_image()), Passage(image=tmp_path / "broken.png")])
        assert caught.value.index == 1
        embedder.close()
    assert sum(one.method == "POST" for one in asked) == 1  # the one for the dimensions


def test_one_refused_page_does_not_stop_an_index():
    def answer(asked):
        return Reply({"error": "poison"}, 400) if "poison" in str(asked.body["input"]) else good(asked)

    pages = [Page(id=str(n), text="poison" if n == 3 else f"page {n}", number=n + 1, source="a.pdf") for n in range(6)]
    with (
        scripted(answer) as (url, _),
        PageIndex(store=FakePageStore(), embedder="m", base_url=url, dialect="openai", images=None) as index,
    ):
        report = index.add(pages, progress=False)
    assert report.added == 5
    assert [failure.number for failure in report.failures] == [4]
    assert "poison" in report.failures[0].reason


# ---- what the servers count


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ({"usage": {"prompt_tokens": 7, "total_tokens": 7}}, 14),  # of two requests
        ({"usage": {"total_tokens": 5}}, 10),
        ({"meta": {"tokens": {"input_tokens": 3}}}, 6),
        ({"usage": None}, None),
        ({"usage": {"total_tokens": "many"}}, None),
        ({"usage": {"total_tokens": -1}}, None),
        ({"usage": {"total_tokens": True}}, None),
        ({"usage": [3]}, None),
        ({}, None),
    ],
)
def test_tokens_are_counted_as_the_server_counts_them(said, counted):
    def answer(asked):
        return rows(*[GOOD] * len(asked.body["input"]), **said)

    with scripted(answer) as (url, asked), counting_tokens() as tokens:
        connect(url, batch_size=1).embed_passages(TEXTS)
    assert len(asked) == 3
    assert tokens.total == counted  # without those of the request that found out the dimensions


async def test_each_caller_counts_its_own_tokens():
    def answer(asked):
        return rows(*[GOOD] * len(asked.body["input"]), usage={"total_tokens": len(asked.body["input"][0])})

    async def count(embedder, text):
        with counting_tokens() as tokens:
            await embedder.aembed_queries([text])
        return tokens.total

    with scripted(answer) as (url, _):
        embedder = connect(url)
        assert await asyncio.gather(*(count(embedder, "x" * n) for n in (3, 50, 7))) == [3, 50, 7]
        embedder.close()


# ---- keys


def test_a_key_is_never_shown(monkeypatch, caplog):
    key = "s3cr3t-key-of-mine"
    monkeypatch.setenv("NEMOTRON_RAG_API_KEY", key)
    seen = []

    def echo(asked):
        seen.append(asked.headers.get("authorization"))
        return Reply({"error": f"bad key {asked.headers.get('authorization')}"}, 503)

    with scripted(echo) as (url, _), pytest.raises(NemotronRagError) as caught:
        connect(url, patience=1)
    assert seen[0] == f"Bearer {key}"
    assert "bad key Bearer ***" in str(caught.value)
    assert key not in str(caught.value) + caplog.text
    endpoint = Endpoint(api_key=key, headers={"x-team": "another-secret"})
    shown = repr(endpoint) + str(dataclasses.asdict(endpoint)) + json.dumps(endpoint.to_json())
    model = RemoteEmbedder("m", base_url="http://localhost:1", endpoint=endpoint)
    assert key not in shown + repr(model)
    assert "another-secret" not in shown + repr(model)
    with pytest.raises(InputError, match="not pickled"):
        pickle.dumps(endpoint)
    assert key.encode() not in pickle.dumps(Endpoint(api_key=key))
    assert Endpoint(api_key=key) != Endpoint(api_key="other")


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://api.openai.com.evil.example/v1", "NEMOTRON_RAG_API_KEY"),
        ("https://evil-api.nvidia.com/v1", "NEMOTRON_RAG_API_KEY"),
        ("http://localhost:8000", "NEMOTRON_RAG_API_KEY"),
    ],
)
def test_a_vendors_key_goes_to_its_own_hosts_alone(monkeypatch, url, variable):
    for name in ("NVIDIA_API_KEY", "OPENAI_API_KEY", "NEMOTRON_RAG_API_KEY"):
        monkeypatch.setenv(name, f"key-of-{name}")
    headers, _ = Endpoint().sent(url)
    assert headers["authorization"] == f"Bearer key-of-{variable}"


def test_servers_with_keys_of_their_own_get_no_other(monkeypatch):
    monkeypatch.setenv("NEMOTRON_RAG_API_KEY", "key-of-one")
    monkeypatch.setenv("KEY_OF_THE_OTHER", "key-of-other")
    other, without = Endpoint(key_variable="KEY_OF_THE_OTHER"), Endpoint(key_variable="NO_SUCH_KEY")
    assert other.sent("http://localhost:1")[0] == {"authorization": "Bearer key-of-other"}
    assert without.sent("https://api.openai.com/v1")[0] == {}
    assert pickle.loads(pickle.dumps(other)) == other
    refused = pytest.raises(EndpointError, match="set KEY_OF_THE_OTHER, or give")
    with scripted(lambda asked: Reply({"error": "no"}, 401)) as (url, _), refused:
        connect(url, key_variable="KEY_OF_THE_OTHER").connect()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "no model named"),
        ("ftp://host/v1", "base_url must be an http"),
        ("http://user:pw@host/v1", "holds no user and no password"),
        ("http://host/v1?key=abc", "got a query behind"),
        ("http://", "a server's url is http"),
    ],
)
def test_urls_that_cannot_be_used_are_refused_without_showing_what_they_hold(url, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_embedder(url)
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"connections": True}, "connections must be a positive integer, got True"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({"timeout": "9"}, "timeout must be"),
        ({"patience": -1}, "patience must be a number of seconds"),
        ({"truncate": "START"}, "truncate must be one of 'END', 'NONE'"),
        ({"scores": "sigmoid"}, "scores must be one of 'logit', 'probability'"),
        ({"query_prefix": 3}, "query_prefix must be a str, got int"),
        ({"key_variable": ""}, "key_variable must be the name of an environment variable"),
        ({"api_key": "a\nb"}, "characters that cannot be sent"),
        ({"batchsize": 3}, "endpoint= has no option 'batchsize'; give some of: api_key"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Endpoint.of(options)


def test_proxies_of_the_environment_are_not_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with scripted(good) as (url, _):
        embedder = connect(url)
        assert embedder.dimensions == 2
        embedder.close()
