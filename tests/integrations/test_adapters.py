"""One contract for every adapter, run over both frameworks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core.base.llms.types import TextBlock
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode
from PIL import Image

from langchain_nemotron_rag import NemotronEmbeddings, to_content_blocks
from langchain_nemotron_rag import NemotronPageRetriever as LangChainRetriever
from langchain_nemotron_rag import NemotronRerank as LangChainRerank
from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank as LlamaRerank
from llama_index.postprocessor.nemotron_rag_rerank import PageImageLimits
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever as LlamaRetriever
from nemotron_rag.documents.images import encode_image, load_image, to_data_uri
from support.adapters import Adapter, AdapterContract, Found, Item

BROKEN = base64.b64encode(b"\x89PNG and nothing more").decode("ascii")


class LangChain(Adapter):
    name = "langchain"

    def embedding(self, model: Any, **options: Any) -> NemotronEmbeddings:
        return NemotronEmbeddings(model=model, **options)

    def embed_query(self, embedding, query):
        return embedding.embed_query(query)

    def embed_texts(self, embedding, texts):
        return embedding.embed_documents(list(texts))

    def reranker(self, model: Any, **options: Any) -> LangChainRerank:
        return LangChainRerank(model=model, **options)

    def carry(self, items: Sequence[Item]) -> list[Document]:
        return [Document(item.text, id=str(n), metadata=self._metadata(item)) for n, item in enumerate(items)]

    def _metadata(self, item: Item) -> dict[str, Any]:
        if item.broken:
            return {"image": f"data:image/png;base64,{BROKEN}"}
        return {} if item.image is None else {"image": to_data_uri(encode_image(item.image, "png"), "png")}

    def rank(self, reranker, carried, query):
        return self._found(reranker.compress_documents(carried, query))

    async def arank(self, reranker, carried, query):
        return self._found(await reranker.acompress_documents(carried, query))

    def _found(self, documents: Sequence[Document]) -> list[Found]:
        return [Found(int(document.id), document.metadata.get("relevance_score")) for document in documents]

    def retriever(self, index, *, k=None, candidates=None, **options):
        given = {"k": k, "fetch_k": candidates}
        return LangChainRetriever(index=index, **{n: v for n, v in given.items() if v is not None}, **options)

    def retrieve(self, retriever, query):
        return self._pages(retriever.invoke(query))

    async def aretrieve(self, retriever, query):
        return self._pages(await retriever.ainvoke(query))

    def _pages(self, documents: Sequence[Document]) -> list[Found]:
        return [Found(document.metadata["page_id"], document.metadata.get("relevance_score")) for document in documents]

    def narrow(self, retriever, filter):
        retriever.filter = filter

    def image_of(self, retriever, query):
        return load_image(retriever.invoke(query)[0].metadata["image"])

    def shown(self, retriever, query, **limits):
        blocks = to_content_blocks(retriever.invoke(query), **limits)
        return [block.get("text") or Image.open(io.BytesIO(base64.b64decode(block["base64"]))) for block in blocks]


class LlamaIndex(Adapter):
    name = "llama_index"

    def embedding(self, model: Any, **options: Any) -> NemotronEmbedding:
        return NemotronEmbedding(model, **options)

    def embed_query(self, embedding, query):
        return embedding.get_query_embedding(query)

    def embed_texts(self, embedding, texts):
        return embedding.get_text_embedding_batch(list(texts))

    def reranker(self, model: Any, **options: Any) -> LlamaRerank:
        return LlamaRerank(model, **options)

    def carry(self, items: Sequence[Item]) -> list[NodeWithScore]:
        return [NodeWithScore(node=self._node(n, item), score=0.5) for n, item in enumerate(items)]

    def _node(self, n: int, item: Item) -> TextNode:
        if item.image is None and not item.broken:
            return TextNode(text=item.text, id_=str(n))
        image = BROKEN if item.broken else base64.b64encode(encode_image(item.image, "png")).decode("ascii")
        return ImageNode(text=item.text, id_=str(n), image=image)

    def rank(self, reranker, carried, query):
        return self._found(reranker.postprocess_nodes(carried, query_str=query))

    async def arank(self, reranker, carried, query):
        return self._found(await reranker.apostprocess_nodes(carried, query_bundle=QueryBundle(query)))

    def _found(self, nodes: Sequence[NodeWithScore]) -> list[Found]:
        return [Found(int(item.node.node_id), item.score) for item in nodes]

    def retriever(self, index, *, k=None, candidates=None, **options):
        """Where something reranks, `similarity_top_k` are the candidates and `top_n` the results."""
        if candidates is not None:
            return LlamaRetriever(index, similarity_top_k=candidates, top_n=k, **options)
        return LlamaRetriever(index, **({} if k is None else {"similarity_top_k": k}), **options)

    def retrieve(self, retriever, query):
        return [Found(item.node.node_id, item.score) for item in retriever.retrieve(query)]

    async def aretrieve(self, retriever, query):
        return [Found(item.node.node_id, item.score) for item in await retriever.aretrieve(query)]

    def narrow(self, retriever, filter):
        retriever.filters = filter

    def image_of(self, retriever, query):
        return Image.open(io.BytesIO(retriever.retrieve(query)[0].node.resolve_image().read()))

    def shown(self, retriever, query, **limits):
        nodes = PageImageLimits(**limits).postprocess_nodes(retriever.retrieve(query))
        blocks = [block for item in nodes for block in item.node.get_content_blocks()]
        return [
            block.text if isinstance(block, TextBlock) else Image.open(io.BytesIO(block.resolve_image().read()))
            for block in blocks
        ]


class TestLangChain(AdapterContract):
    @pytest.fixture
    def adapter(self) -> Adapter:
        return LangChain()


class TestLlamaIndex(AdapterContract):
    @pytest.fixture
    def adapter(self) -> Adapter:
        return LlamaIndex()


def test_both_give_the_same(tmp_path):
    """The same open index gives equal pages and scores through both, in one process."""
    from nemotron_rag import PageIndex
    from nemotron_rag.testing import FakeEmbedder, FakeReranker
    from support.adapters import PAGES, QUERY, hits_of

    with PageIndex(tmp_path, embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
        index.add(PAGES, progress=False)
        for options in ({"k": 3, "candidates": 6}, {"k": 3, "reranker": False}):
            one, other = (
                adapter.retrieve(adapter.retriever(index, **options), QUERY) for adapter in (LangChain(), LlamaIndex())
            )
            rerank = {"rerank": False} if "reranker" in options else {"candidates": 6}
            assert one == other == hits_of(index, QUERY, k=3, **rerank)
