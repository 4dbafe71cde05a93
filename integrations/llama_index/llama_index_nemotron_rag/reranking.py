"""The node postprocessors: `NemotronRerank` ranks nodes by image and text, `KeepPageText` shows the LLM both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, Unpack, cast

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index_nemotron_rag.events import dispatcher, rerank_events
from llama_index_nemotron_rag.reading import NodeReading, ReadingSettings, Strings, image_hint
from llama_index_nemotron_rag.settings import Component, ModelFields, ModelSettings
from llama_index_nemotron_rag.shown import shown_nodes, split_node, with_named_image, without_image
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import InputError
from nemotron_rag.models.arguments import without_hosted
from nemotron_rag.models.lazy import LazyModel, lazy_reranker
from nemotron_rag.models.load import ModelName, options_of
from nemotron_rag.protocols import Reranker, reads_image_queries
from nemotron_rag.ranking import OnImageError, OnUnscored, Place, RankingPolicy, ScoreTransform, arank, rank
from nemotron_rag.types import Passage, Query

__all__ = ["RETRIEVAL_SCORE", "KeepPageText", "NemotronRerank"]

RETRIEVAL_SCORE = "retrieval_score"
"""The metadata key that LlamaIndex's own rerankers use."""

Nodes: TypeAlias = list[NodeWithScore]


class _RerankSettings(ModelSettings, ReadingSettings, total=False):
    top_n: int | None
    score_threshold: float | None
    score_transform: ScoreTransform
    on_unscored: OnUnscored
    fuse: bool
    keep_retrieval_score: bool
    text_for_llm: bool


class NemotronRerank(NodeReading, ModelFields, BaseNodePostprocessor):
    """Ranks nodes of every form by what their images show and their texts say, read together.

    Nothing of the caller's is changed: results are new, and so are nodes that something is added to. Any number of
    threads and tasks may use an object; equal models are loaded once in a process, at first use. It serialises without
    its weights. An image in the query (`QueryBundle.image_path`) is read by models that read images in queries, such as
    Qwen3-VL-Reranker and jina-reranker-m0; others read the words alone. Images are opened as the model needs them, and
    not at all where their vision features are cached.

    Args:
        model: a catalog id, its hub repository, a local folder, or a loaded `nemotron_rag.Reranker`.
        top_n: most nodes to return; None for all.
        score_threshold: smallest score that is kept, after the transform.
        score_transform: None or ``raw`` for logits, which may be negative; their ``sigmoid``, between 0 and 1; or a
            function of the logit. The order follows the logits.
        on_image_error: an image cannot be read: go on with the node's ``text``, ``skip`` the node, or ``raise``.
        on_unscored: a node has neither image nor text, or its logit is not finite: put it ``last`` with the score None,
            ``skip`` it, or ``raise``.
        fuse: join the model's order with the one in which the nodes came, by reciprocal rank fusion, for models that
            are not trusted alone; the score is then a fusion score, which tells an order only.
        keep_retrieval_score: note the score a node came with under ``retrieval_score`` in the metadata of a copy, shown
            neither to the LLM nor to embedders; the first reranker of a chain notes it.
        text_for_llm: return an `ImageNode` with text as a `PageNode`, so that a multimodal LLM gets both; LlamaIndex
            itself drops such text. Of several chunks of a page, the best shows the image.
        callback_manager: for callbacks.
        **settings: all of these, and the arguments of `ModelFields` (``device``, ``dtype``, ``max_input_tiles``, ...)
            and `NodeReading` (``modality``, ``image_roots``, ``image_hosts``, ``image_keys``, ...).

    Raises:
        InputError: no query, or a query without text; or a node cannot be scored and `on_unscored` is ``raise``.
        ImageError: an image cannot be read and `on_image_error` is ``raise``; the message names the node.
        NonFiniteError: the model gave NaN or infinity and `on_unscored` is ``raise``.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from nemotron_rag.testing import FakeReranker
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("blue whales", "red apples")]
        >>> best, = NemotronRerank(FakeReranker(), top_n=1).postprocess_nodes(nodes, query_str="red apples")
        >>> best.text, best.score
        ('red apples', 5.0)
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True)

    model: str = Field(frozen=True)
    top_n: int | None = Field(default=5, ge=0)
    score_threshold: float | None = Field(default=None, allow_inf_nan=False)
    score_transform: ScoreTransform = None
    on_image_error: OnImageError = "text"
    on_unscored: OnUnscored = "last"
    fuse: bool = False
    keep_retrieval_score: bool = False
    text_for_llm: bool = True
    _model: LazyModel[Reranker] = PrivateAttr()

    def __init__(
        self,
        model: ModelName | Reranker | LazyModel[Reranker] = "llama-nemotron-rerank-vl-1b-v2",
        **settings: Unpack[_RerankSettings],
    ) -> None:
        settings = cast("_RerankSettings", without_hosted(type(self).__name__, settings, model=model))
        if isinstance(model, LazyModel):
            lazy = model
        else:
            lazy = lazy_reranker(model, identity=settings.get("identity"), **options_of(settings))
        fields: dict[str, Any] = {**settings, "model": lazy.name, "identity": lazy.identity}
        super().__init__(**fields)
        RankingPolicy.of(self)  # checks how they fit together
        self._model = lazy

    def _postprocess_nodes(self, nodes: Nodes, query_bundle: QueryBundle | None = None) -> Nodes:
        query = _checked(nodes, query_bundle)
        with self._events(nodes, query) as result, image_hint():
            if nodes:
                passages = self.passages([item.node for item in nodes])
                model = self._model.get()
                places = rank(model, _asked(query, model), passages, **self._options(nodes))
                result += self._results(nodes, places)
        return result

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _checked(nodes, query_bundle)
        with self._events(nodes, query) as result, image_hint():
            if nodes:
                passages = await asyncio.to_thread(self.passages, [item.node for item in nodes])
                model = await self._model.aget()
                places = await arank(model, _asked(query, model), passages, **self._options(nodes))
                result += self._results(nodes, places)
        return result

    def _events(self, nodes: Nodes, query: QueryBundle) -> AbstractContextManager[Nodes]:
        return rerank_events(self.callback_manager, query=query, nodes=nodes, top_n=self.top_n, model_name=self.model)

    def _options(self, nodes: Nodes) -> dict[str, Any]:
        return {"policy": RankingPolicy.of(self), "describe": lambda index: f"node {index} ({nodes[index].node_id})"}

    def _results(self, nodes: Nodes, places: Sequence[Place]) -> Nodes:
        results = [self._result(nodes[place.index], place) for place in places]
        return shown_nodes(results) if self.text_for_llm else results

    def _result(self, item: NodeWithScore, place: Place) -> NodeWithScore:
        node = without_image(item.node) if place.image_lost else item.node
        if self.keep_retrieval_score:
            node = _with_retrieval_score(node, item.score)
        return NodeWithScore(node=node, score=place.score)


class KeepPageText(Component, BaseNodePostprocessor):
    """Turns every `ImageNode` with text into a `PageNode`: LlamaIndex would show the LLM its image alone.

    `NemotronRerank` does it already; this is for query engines without one. Of several chunks of a page, the first
    shows the image. Set the `context_window` of the LLM: LlamaIndex counts 2125 tokens an image, calls the LLM once for
    each image where only one fits, and with ``simple_summarize`` silently drops those that do not.

    Args:
        split: return the text and the image of each page as two nodes, for `MultiModalContextChatEngine`,
            `MultiModalCondensePlusContextChatEngine` and `SimpleMultiModalQueryEngine`, which take the image alone of
            an `ImageNode`, whatever its class. Put it behind all rerankers.
        image_keys: metadata keys of text nodes that name the image of their page, such as ``page_image_path``: where
            property graphs, citations and hierarchies have lost it, the node gets it back.
        image_roots: folders below which these images may lie.

    Example:
        >>> from llama_index.core.schema import ImageNode, NodeWithScore
        >>> image = "R0lGODdhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
        >>> nodes = [NodeWithScore(node=ImageNode(text="Revenue rose.", image=image))]
        >>> page, = KeepPageText().postprocess_nodes(nodes)
        >>> [type(block).__name__ for block in page.node.get_content_blocks()]
        ['TextBlock', 'ImageBlock']
        >>> [type(item.node).__name__ for item in KeepPageText(split=True).postprocess_nodes(nodes)]
        ['TextNode', 'PageNode']
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    split: bool = False
    image_keys: Strings = Field(default_factory=list)
    image_roots: Strings = Field(default_factory=list)

    def _postprocess_nodes(self, nodes: Nodes, query_bundle: QueryBundle | None = None) -> Nodes:
        _check_nodes(nodes)
        access = ImageAccess(roots=self.image_roots)
        named = [(with_named_image(item.node, self.image_keys, access), item.score) for item in nodes]
        shown = shown_nodes([NodeWithScore(node=node, score=score) for node, score in named])
        if not self.split:
            return shown
        return [NodeWithScore(node=part, score=item.score) for item in shown for part in split_node(item.node)]


def _checked(nodes: Nodes, query: QueryBundle | None) -> QueryBundle:
    _check_nodes(nodes)
    if query is None:
        raise InputError("Missing query bundle: wanted a query to rank by, got none; pass query_str=")
    if not query.query_str.strip() and not query.image_path:
        raise InputError("wanted a query in words, got an empty query_str; the model reads text queries")
    return query


def _check_nodes(nodes: Nodes) -> None:
    for index, item in enumerate(nodes):
        if not isinstance(item, NodeWithScore):
            raise InputError(f"node {index} must be a NodeWithScore, got {type(item).__name__}; put it into one")


def _asked(query: QueryBundle, model: Reranker) -> Query:
    """The query as the model reads it."""
    if query.image_path and reads_image_queries(model):
        return Passage(query.query_str, query.image_path)
    if not query.query_str.strip():
        raise InputError(
            f"wanted a query in words, got an empty query_str with image_path={query.image_path!r}; "
            "the model reads text queries"
        )
    return query.query_str


def _with_retrieval_score(node: BaseNode, score: float | None) -> BaseNode:
    """A copy that has the score in its metadata, out of every prompt."""
    embed, llm = node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys
    return node.model_copy(
        update={
            "metadata": {RETRIEVAL_SCORE: score, **node.metadata},
            "excluded_embed_metadata_keys": list(dict.fromkeys([*embed, RETRIEVAL_SCORE])),
            "excluded_llm_metadata_keys": list(dict.fromkeys([*llm, RETRIEVAL_SCORE])),
        }
    )
