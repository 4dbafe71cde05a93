"""What traces show of a reranking: a run below its caller's, counts and timings, and no image."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from langchain_nemotron_rag import NemotronRerank
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeReranker
from support.contracts import make_image
from support.langchain import data_uri

DOCUMENTS = [
    Document("apples", metadata={"image": data_uri(make_image())}),
    Document("whales"),
    Document(""),
    Document("broken", metadata={"image": b"no image"}),
]
MANAGERS = [CallbackManager, AsyncCallbackManager]


def component(**fields) -> NemotronRerank:
    return NemotronRerank(model=FakeReranker(), **{"on_image_error": "skip", **fields})


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("way", ["compress_documents", "acompress_documents", "rerank", "arerank"])
async def test_one_child_run_with_counts(runs, manager, way):
    parent = uuid4()
    method = getattr(component(top_n=2), way)
    found = method(DOCUMENTS, "apples", callbacks=manager([runs], parent_run_id=parent, inheritable_handlers=[runs]))
    if way.startswith("a"):
        await found
    run = runs.only("NemotronRerank")
    assert run["parent"] == parent
    assert run["inputs"] == {"query": "apples", "documents": 4, "model": "fake-reranker"}
    outputs = dict(runs.ended[run["id"]])
    assert outputs.pop("score_seconds") > 0
    scores = outputs.pop("scores")
    assert scores == sorted(scores, reverse=True)
    assert outputs == {"scored": 2, "images": 1, "empty": 1, "skipped": 1, "returned": 2}
    assert len(scores) == 2
    json.dumps([run["inputs"], outputs])


@pytest.mark.parametrize("way", ["compress_documents", "acompress_documents"])
async def test_without_callbacks_the_running_chain_is_the_parent(runs, way):
    async def step(query):
        found = getattr(component(), way)(DOCUMENTS, query)
        return len(await found if way.startswith("a") else found)

    await RunnableLambda(step, name="outer").ainvoke("apples", config={"callbacks": [runs]})
    assert runs.only("NemotronRerank")["parent"] == runs.only("outer")["id"]


async def test_as_a_step_of_a_chain(runs):
    step = component(top_n=1).as_runnable()
    inputs = {"documents": DOCUMENTS, "query": "apples"}
    assert [d.page_content for d in step.invoke(inputs, config={"callbacks": [runs]})] == ["apples"]
    assert runs.only("NemotronRerank")["parent"] == runs.only("rerank")["id"]
    assert await step.ainvoke(inputs) == step.invoke(inputs)


@pytest.mark.parametrize("way", ["compress_documents", "acompress_documents"])
async def test_failed_runs_end_as_failed(runs, way):
    async def call():
        found = getattr(component(), way)([*DOCUMENTS, 7], "apples", callbacks=[runs])
        return await found if way.startswith("a") else found

    with pytest.raises(InputError):
        await call()
    run = runs.only("NemotronRerank")
    assert isinstance(runs.failed[run["id"]], InputError)
    assert run["id"] not in runs.ended


def test_documents_without_their_image_are_counted_as_what_they_are(runs):
    component(on_image_error="text").compress_documents(DOCUMENTS, "apples", callbacks=[runs])
    (outputs,) = runs.ended.values()
    counts = {"scored": 3, "images": 1, "empty": 1, "skipped": 0, "returned": 4}
    assert counts.items() <= outputs.items()


def test_nothing_to_do_is_no_run(runs):
    assert component().compress_documents([], "q", callbacks=[runs]) == []
    assert component(top_n=0).compress_documents(DOCUMENTS, "q", callbacks=[runs]) == []
    assert runs.started == []


def test_no_image_in_repr():
    assert "base64" not in repr(component())
