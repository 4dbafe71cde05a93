"""Mistakes are answered with what to do: other packages' arguments, typos, indexes of other kinds; load() warms up."""

from __future__ import annotations

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from llama_index.embeddings.nemotron_rag import NemotronEmbedding, NemotronPageEmbedder
from llama_index.postprocessor.nemotron_rag_rerank import KeepPageText, NemotronRerank
from llama_index.readers.nemotron_rag import PDFPageReader
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever
from nemotron_rag import PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.llama_index import texts
from support.pages import add


@pytest.mark.parametrize(
    "make", [lambda **a: NemotronRerank(FakeReranker(), **a), lambda **a: NemotronEmbedding(FakeEmbedder(), **a)]
)
def test_arguments_of_the_hosted_classes_are_understood(make, caplog):
    made = make(base_url="https://h.example", api_key="secret", truncate="END", max_batch_size=8)
    assert "has no use for base_url: the model runs in this process" in caplog.text
    assert "max_batch_size" in caplog.text
    assert "truncate" not in caplog.text  # END is what is done
    assert "secret" not in caplog.text + repr(made) + str(made.to_dict())


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ({"cache_folder": "x"}, "HF_HOME"),
        ({"use_fp16": True}, "dtype='float16'"),
        ({"trust_remote_code": True}, "no code of a checkpoint is run"),
        ({"top_k": 3}, "give top_n= to a reranker"),
        ({"topn": 3}, "give one of: top_n"),
    ],
)
def test_other_arguments_are_answered_with_what_replaces_them(argument, advice):
    with pytest.raises(InputError, match=f"NemotronRerank has no argument {next(iter(argument))}; .*{advice}"):
        NemotronRerank(FakeReranker(), **argument)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PDFPageReader(page=[1]),
        lambda: KeepPageText(splitt=True),
        lambda: NemotronPageEmbedder(embed_model=NemotronEmbedding(FakeEmbedder()), image_root="/data"),
        lambda: NemotronEmbedding(FakeEmbedder(), dimension=3),
    ],
)
def test_typos_are_refused_with_the_nearest_names(make):
    with pytest.raises(InputError, match="has no argument (page|splitt|image_root|dimension); give one of: "):
        make()


@pytest.mark.parametrize("source", ["index", "collection", "folder"])
def test_a_retriever_refuses_typos_when_it_is_made(source, request):
    with pytest.raises(InputError, match="NemotronPageRetriever has no argument top_k; give top_n= to a reranker, sim"):
        NemotronPageRetriever(request.getfixturevalue(source), top_k=3)
    with pytest.raises(InputError, match="has no argument similarity_topk; give one of: similarity_top_k"):
        NemotronPageRetriever(request.getfixturevalue(source), similarity_topk=3)


def test_a_filter_that_cannot_be_used_is_refused_when_the_retriever_is_made(index):
    with pytest.raises(InputError, match="an index does not store page_image_path"):
        NemotronPageRetriever(index, filters={"page_image_path": "a.png"})


@pytest.mark.parametrize(
    ("key", "warned"), [("page_label", False), ("file_name", False), ("source", False), ("yaer", True)]
)
def test_only_keys_that_were_given_are_said_to_be_missing(index, caplog, key, warned):
    assert NemotronPageRetriever(index, filters={key: "nowhere"}).retrieve("a") == []
    assert ("which the filter asks for" in caplog.text) == warned


@pytest.fixture
def theirs(embedding, pages):
    return VectorStoreIndex(embedding(pages), embed_model=embedding)


async def test_any_index_or_retriever_of_llama_index_is_searched_and_reranked(theirs):
    for source in (theirs, theirs.as_retriever(similarity_top_k=4)):
        retriever = NemotronPageRetriever(source, similarity_top_k=4, reranker=FakeReranker(), top_n=1)
        for found in (retriever.retrieve("blue whales"), await retriever.aretrieve("blue whales")):
            assert texts(found) == ["blue whales"]
            assert found[0].score == 5.0
        retriever.close()


async def test_an_index_of_llama_index_is_searched_by_an_image_and_with_filters(theirs, pages):
    query = QueryBundle("", image_path=pages[2].image_path)
    retriever = NemotronPageRetriever(theirs, similarity_top_k=1)
    for found in (retriever.retrieve(query), await retriever.aretrieve(query)):
        assert found[0].node.image_path == pages[2].image_path
    one = MetadataFilters(filters=[MetadataFilter(key="page_number", value=4)])
    assert texts(NemotronPageRetriever(theirs, filters=one).retrieve("red apples")) == ["blue whales"]
    assert texts(NemotronPageRetriever(theirs, filters={"page_number": 4}).retrieve("x")) == ["blue whales"]
    with pytest.raises(InputError, match="filters belong to VectorIndexRetriever"):
        NemotronPageRetriever(theirs.as_retriever(), filters=one).retrieve("x")
    with pytest.raises(InputError, match="finds nothing by an image"):
        NemotronPageRetriever(theirs.as_retriever()).retrieve(query)
    with pytest.raises(InputError, match="mode belongs to an index of nemotron_rag"):
        NemotronPageRetriever(theirs, mode="hybrid")
    with pytest.raises(InputError, match=r"of a vector store, pass VectorStoreIndex.from_vector_store"):
        NemotronPageRetriever(theirs.vector_store)


def test_load_loads_what_the_first_search_would_wait_for(folder, index, collection, theirs, reference, monkeypatch):
    ranker = NemotronRerank(reference / "rerank_vl_open_1", device="cpu")
    assert "not loaded" in repr(ranker._model)
    assert ranker.load() is ranker
    assert "not loaded" not in repr(ranker._model)
    for source in (index, collection, theirs):
        retriever = NemotronPageRetriever(source, reranker=ranker)
        assert retriever.load() is retriever
    with NemotronPageRetriever(folder, embedder=FakeEmbedder()) as retriever:
        assert retriever._source.index._opened is None
        retriever.load()
        assert retriever._source.index._opened is not None
    ranker.close()


def test_texts_alone_can_be_searched_too(embedding):
    index = VectorStoreIndex([TextNode(text="red apples"), TextNode(text="blue whales")], embed_model=embedding)
    assert texts(NemotronPageRetriever(index, similarity_top_k=1).retrieve("whales")) == ["blue whales"]


# ---- late interaction -------------------------------------------------------------------------------------------


async def test_a_heatmap_of_a_found_node(tmp_path, pdf, collection, index):
    with PageIndex(tmp_path / "many", embedder=FakeMultiVectorEmbedder(), dpi=72) as many:
        add(many, pdf, ocr="never")
        retriever = NemotronPageRetriever(many)
        found = retriever.retrieve("red apples")[0]
        wanted = many.heatmap(many.search("red apples")[0].page, "red apples").image()
        for heatmap in (retriever.heatmap(found, "red apples"), await retriever.aheatmap(found.node, "red apples")):
            assert heatmap.image().tobytes() == wanted.tobytes()
        with pytest.raises(InputError, match="image"):
            retriever.heatmap(TextNode(text="red apples"), "red apples")
    with pytest.raises(InputError, match="heatmaps need an index with token vectors"):
        NemotronPageRetriever(collection).heatmap(found, "red apples")
    with pytest.raises(InputError):
        NemotronPageRetriever(index).heatmap(found, "red apples")


async def test_a_late_interaction_model_is_a_postprocessor():
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("blue whales", "red apples")]
    ranker = NemotronRerank(FakeMultiVectorEmbedder(), top_n=1)
    for found in (
        ranker.postprocess_nodes(nodes, query_str="red apples"),
        await ranker.apostprocess_nodes(nodes, query_str="red apples"),
    ):
        assert texts(found) == ["red apples"]
        assert found[0].score == pytest.approx(2.0, abs=1e-4)  # one for each word


async def test_bare_nodes_are_refused_by_what_ranks_and_shows():
    node = TextNode(text="a")
    for processor in (NemotronRerank(FakeReranker()), KeepPageText()):
        with pytest.raises(InputError, match="node 0 must be a NodeWithScore, got TextNode; put it into one"):
            processor.postprocess_nodes([node], query_str="q")
        with pytest.raises(InputError, match="node 0 must be a NodeWithScore"):
            await processor.apostprocess_nodes([node], query_bundle=QueryBundle("q"))


def test_a_page_embedder_takes_the_name_of_a_model():
    assert NemotronPageEmbedder(embed_model="starter-embed-vl").embed_model.model_name == "starter-embed-vl"
    with pytest.raises(ValueError, match="no model named 'starter'"):
        NemotronPageEmbedder(embed_model="starter")


class WordsAlone(FakeEmbedder):
    query_modalities = ("text",)


async def test_a_model_that_reads_no_images_in_queries_says_so_once(pdf, tmp_path, caplog):
    for model, times in ((WordsAlone(), 1), (FakeEmbedder(), 0)):
        caplog.clear()
        with PageIndex(embedder=model, dpi=40) as index:
            add(index, pdf, ocr="never")
            retriever = NemotronPageRetriever(index)
            image = index.search("apples", k=1)[0].page.image.open()
            image.save(tmp_path / "page.png")
            query = QueryBundle("", image_path=str(tmp_path / "page.png"))
            assert retriever.retrieve(query)
            assert await retriever.aretrieve(query)
        assert caplog.text.count("reads queries in words alone") == times
