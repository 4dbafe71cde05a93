"""Models of sentence-transformers given to the components of both frameworks."""

from __future__ import annotations

import copy

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from langchain_nemotron_rag import NemotronEmbeddings
from langchain_nemotron_rag import NemotronPageRetriever as LangChainRetriever
from langchain_nemotron_rag import NemotronRerank as LangChainRerank
from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank as LlamaRerank
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever as LlamaRetriever
from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import InputError
from support.tiny import Encodes, Predicts

TEXTS = ["four", "of them", "is the longest text"]
PAGES = [Page(text, id=f"p{n}", source="a.pdf", number=n) for n, text in enumerate(TEXTS, 1)]
VECTOR = pytest.approx([0.6, 0.8, 0, 0])


def test_embeddings():
    embeddings = NemotronEmbeddings(model=Encodes())
    assert embeddings.embed_query("a") == embeddings.embed_documents(["b"])[0] == VECTOR
    assert embeddings.model_name == "Encodes (sentence-transformers)"
    assert copy.deepcopy(embeddings).model is embeddings.model
    embedding = NemotronEmbedding(Encodes())
    assert embedding.get_query_embedding("a") == embedding.get_text_embedding("b") == VECTOR
    assert embedding.model_name == "Encodes (sentence-transformers)"


def test_rerankers():
    documents = LangChainRerank(model=Predicts(), top_n=2).compress_documents([Document(text) for text in TEXTS], "q")
    assert [document.page_content for document in documents] == [TEXTS[2], TEXTS[1]]
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    found = LlamaRerank(Predicts(), top_n=2).postprocess_nodes(nodes, query_str="q")
    assert [(node.text, node.score) for node in found] == [(TEXTS[2], 19.0), (TEXTS[1], 7.0)]


def test_retrievers():
    with PageIndex(embedder=Encodes()) as index:
        index.add(PAGES)
        pages = LangChainRetriever(index=index, reranker=Predicts(), k=1).invoke("q")
        assert [page.metadata["page_number"] for page in pages] == [3]
        found = LlamaRetriever(index, reranker=Predicts(), top_n=1).retrieve("q")
        assert [node.metadata["page_number"] for node in found] == [3]


def test_retrievers_open_an_index_with_them(tmp_path):
    embedder = Encodes()
    with PageIndex(tmp_path / "index", embedder=embedder) as index:
        index.add(PAGES)
    retriever = LangChainRetriever(index=str(tmp_path / "index"), embedder=embedder, k=2)
    assert len(retriever.invoke("q")) == 2
    assert retriever._get_ls_params()["ls_embedding_model"] == "Encodes (sentence-transformers)"
    retriever.close()
    with LlamaRetriever(str(tmp_path / "index"), embedder=embedder, similarity_top_k=2) as retriever:
        assert len(retriever.retrieve("q")) == 2


def test_wrong_kinds_are_refused_at_construction():
    for made in (lambda: NemotronEmbeddings(model=Predicts()), lambda: NemotronEmbedding(Predicts())):
        with pytest.raises(InputError, match="wanted .* a loaded embedder, got a reranker"):
            made()
    for made in (lambda: LangChainRerank(model=Encodes()), lambda: LlamaRerank(Encodes())):
        with pytest.raises(InputError, match="loaded reranker or multivector_embedder, got a embedder"):
            made()
