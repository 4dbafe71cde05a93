"""What every adapter promises, written once: `AdapterContract` runs over a small driver for each framework."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymupdf
import pytest
from PIL import Image

from nemotron_rag import Hit, Page, PageIndex, Passage, load_reranker
from nemotron_rag.errors import ImageError, InputError, NonFiniteError, UnknownModelError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.forking import collect_garbage, in_child, needs_fork
from support.launches import Launches

__all__ = ["Adapter", "AdapterContract", "Found", "Item"]

QUERY = "red apples in winter"
TEXTS = ["blue whales", "red apples", "apples in winter", "red apples in winter", "red", "green pears"]
PAGES = [
    Page(text, Image.new("RGB", (8, 10 + n), (20 * n, 0, 0)), id=f"p{n}", source=f"{'ab'[n % 2]}.pdf", number=n)
    for n, text in enumerate(TEXTS, 1)
]


@dataclass(frozen=True)
class Item:
    """What is given to a reranker; `broken` has an image that cannot be read."""

    text: str = ""
    image: Image.Image | None = None
    broken: bool = False


@dataclass(frozen=True)
class Found:
    """One result: which item or page, and its score; None if it has none."""

    key: Any
    score: float | None


class Adapter(ABC):
    """How a framework's classes are used."""

    name: str

    @abstractmethod
    def embedding(self, model: Any, **options: Any) -> Any:
        """The embedding component."""

    @abstractmethod
    def embed_query(self, embedding: Any, query: str) -> list[float]:
        """A query's vector."""

    @abstractmethod
    def embed_texts(self, embedding: Any, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of texts."""

    @abstractmethod
    def reranker(self, model: Any, **options: Any) -> Any:
        """The reranking component."""

    @abstractmethod
    def carry(self, items: Sequence[Item]) -> list[Any]:
        """Items as the framework's documents or nodes."""

    @abstractmethod
    def rank(self, reranker: Any, carried: list[Any], query: str) -> list[Found]:
        """Rank; a key is the place in `carried`."""

    @abstractmethod
    async def arank(self, reranker: Any, carried: list[Any], query: str) -> list[Found]:
        """`rank` for event loops."""

    @abstractmethod
    def retriever(self, index: Any, *, k: int | None = None, candidates: int | None = None, **options: Any) -> Any:
        """The retriever over an index; `k` results of `candidates`."""

    @abstractmethod
    def retrieve(self, retriever: Any, query: str) -> list[Found]:
        """Search; a key is the page's id."""

    @abstractmethod
    async def aretrieve(self, retriever: Any, query: str) -> list[Found]:
        """`retrieve` for event loops."""

    @abstractmethod
    def narrow(self, retriever: Any, filter: dict[str, Any]) -> None:
        """Give a retriever a filter."""

    @abstractmethod
    def image_of(self, retriever: Any, query: str) -> Image.Image | None:
        """The image of the first page found, as the framework hands it on."""

    @abstractmethod
    def shown(self, retriever: Any, query: str, **limits: Any) -> list[Image.Image | str]:
        """What a chat model sees of the pages found: texts and images, in their order."""


class Scripted(FakeReranker):
    """Gives the logits it was told, and notes what it was asked to score."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits, self.asked = logits, []

    def score(self, query, passages):
        self.asked.append(list(passages))
        return np.array(self.logits[: len(passages)], dtype=np.float32)


class Seeing(FakeReranker):
    """Opens every image, as a real model does."""

    def score(self, query, passages):
        from nemotron_rag.documents.images import load_image

        for passage in passages:
            if passage.image is not None:
                load_image(passage.image)
        return super().score(query, [Passage(passage.text) for passage in passages])


def found(*pairs: tuple[Any, float | None]) -> list[Found]:
    return [Found(*pair) for pair in pairs]


def close(one: Sequence[Found], other: Sequence[Found], *, tolerance: float = 1e-6) -> bool:
    return [hit.key for hit in one] == [hit.key for hit in other] and all(
        (a.score is None) == (b.score is None)
        and (a.score is None or math.isclose(a.score, b.score, abs_tol=tolerance))
        for a, b in zip(one, other, strict=True)
    )


def _with_neighbours(hit: Hit) -> list[tuple[Page, float | None]]:
    """A hit and its neighbours, which have no score."""
    return [(hit.page, hit.score), *((page, None) for page in hit.neighbours)]


def _sizes(shown: Sequence[Image.Image | str]) -> list[tuple[int, int]]:
    return [each.size for each in shown if not isinstance(each, str)]


def _ink(image: Image.Image) -> Image.Image:
    """What is written on an image, without the margins."""
    dark = image.convert("L").point(lambda value: 255 if value < 128 else 0)
    return dark.crop(dark.getbbox())


def hits_of(index: PageIndex, query: str, **options: Any) -> list[Found]:
    return [Found(hit.page.id, hit.score) for hit in index.search(query, **options)]


class AdapterContract:
    """Subclasses give a fixture `adapter`."""

    @pytest.fixture
    def index(self):
        with PageIndex(embedder=FakeEmbedder()) as opened:
            opened.add(PAGES, progress=False)
            yield opened

    @pytest.fixture
    def ranking_index(self):
        """An index with a reranker of its own."""
        with PageIndex(embedder=FakeEmbedder(), reranker=FakeReranker()) as opened:
            opened.add(PAGES, progress=False)
            yield opened

    # ---- reranking ----

    async def test_scores_are_those_of_the_model_alone(self, adapter):
        items = [Item(text) for text in TEXTS]
        logits = FakeReranker().score(QUERY, [Passage(text) for text in TEXTS])
        order = np.argsort(-logits, kind="stable").tolist()
        wanted = [Found(i, float(logits[i])) for i in order]
        reranker = adapter.reranker(FakeReranker(), top_n=None)
        assert close(adapter.rank(reranker, adapter.carry(items), QUERY), wanted)
        assert close(await adapter.arank(reranker, adapter.carry(items), QUERY), wanted)

    def test_nothing_of_the_callers_is_changed(self, adapter):
        carried = adapter.carry([Item("red", Image.new("RGB", (4, 4))), Item("blue")])
        before = copy.deepcopy(carried)
        adapter.rank(adapter.reranker(FakeReranker()), carried, "red")
        assert carried == before
        assert [repr(each) for each in carried] == [repr(each) for each in before]

    async def test_a_late_interaction_model_ranks(self, adapter):
        model = FakeMultiVectorEmbedder()
        passages = model.embed_passages([Passage(text) for text in TEXTS])
        scores = model.score(model.embed_queries([QUERY]), passages)[0]
        wanted = [Found(i, float(scores[i])) for i in np.argsort(-scores, kind="stable").tolist()]
        reranker = adapter.reranker(model, top_n=None)
        carried = adapter.carry([Item(text) for text in TEXTS])
        assert close(adapter.rank(reranker, carried, QUERY), wanted)
        assert close(await adapter.arank(reranker, carried, QUERY), wanted)
        adapter.reranker("starter-colembed")

    def test_ties_keep_the_callers_order(self, adapter):
        carried = adapter.carry([Item("a"), Item("b"), Item("c"), Item("d")])
        ranked = adapter.rank(adapter.reranker(Scripted(1, 2, 1, 2), top_n=None), carried, "q")
        assert ranked == found((1, 2.0), (3, 2.0), (0, 1.0), (2, 1.0))

    @pytest.mark.parametrize(("top_n", "kept"), [(0, 0), (1, 1), (2, 2), (9, 6), (None, 6)])
    async def test_top_n(self, adapter, top_n, kept):
        carried = adapter.carry([Item(text) for text in TEXTS])
        reranker = adapter.reranker(FakeReranker(), top_n=top_n)
        ranked = adapter.rank(reranker, carried, QUERY)
        assert len(ranked) == kept
        assert await adapter.arank(reranker, carried, QUERY) == ranked

    def test_five_are_kept_by_default(self, adapter):
        carried = adapter.carry([Item(text) for text in TEXTS])
        assert len(adapter.rank(adapter.reranker(FakeReranker()), carried, QUERY)) == 5

    def test_the_order_in_which_they_came_has_its_say(self, adapter):
        carried = adapter.carry([Item("a"), Item("b"), Item("c")])
        ranked = adapter.rank(adapter.reranker(Scripted(-3, 2, 0), fuse=True), carried, "q")
        assert [hit.key for hit in ranked] == [1, 0, 2]  # by the logits 1, 2, 0
        scores = [hit.score for hit in ranked]
        assert scores == pytest.approx([1 / 61 + 1 / 62, 1 / 61 + 1 / 63, 1 / 62 + 1 / 63])
        for wrong in ({"score_threshold": 0.5}, {"score_transform": "sigmoid"}):
            with pytest.raises(InputError, match="fusion scores tell an order only"):
                adapter.reranker(Scripted(), fuse=True, **wrong)

    def test_threshold_and_transform(self, adapter):
        carried = adapter.carry([Item("a"), Item("b"), Item("c")])
        for transform, wanted in (
            (None, [(1, 2.0), (2, 0.0)]),
            ("raw", [(1, 2.0), (2, 0.0)]),
            ("sigmoid", [(1, 1 / (1 + math.exp(-2))), (2, 0.5)]),
            (lambda logit: logit * 10 + 1, [(1, 21.0), (2, 1.0)]),
        ):
            reranker = adapter.reranker(Scripted(-3, 2, 0), score_transform=transform, score_threshold=0.0)
            ranked = adapter.rank(reranker, carried, "q")
            wanted_ranks = [Found(*pair) for pair in wanted]
            assert close([hit for hit in ranked if hit.key != 0], wanted_ranks)
            assert (0 in [hit.key for hit in ranked]) == (transform == "sigmoid")  # 0.047 reaches 0, -3 does not
        reranker = adapter.reranker(Scripted(-3, 2, 0), score_transform="sigmoid", score_threshold=0.6)
        assert [hit.key for hit in adapter.rank(reranker, carried, "q")] == [1]

    async def test_not_a_number_is_last_and_said(self, adapter, caplog):
        carried = adapter.carry([Item("a"), Item("b"), Item("c"), Item("d")])
        model = Scripted(float("nan"), 1, float("inf"), 2)
        wanted = found((3, 2.0), (1, 1.0), (0, None), (2, None))
        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            assert adapter.rank(adapter.reranker(model, top_n=None), carried, "q") == wanted
        assert "not finite" in caplog.text
        assert await adapter.arank(adapter.reranker(model, top_n=None), carried, "q") == wanted
        assert adapter.rank(adapter.reranker(model, on_unscored="skip"), carried, "q") == wanted[:2]
        assert adapter.rank(adapter.reranker(model, score_threshold=-9.0), carried, "q") == wanted[:2]
        with pytest.raises(NonFiniteError, match="not finite"):
            adapter.rank(adapter.reranker(model, on_unscored="raise"), carried, "q")

    def test_what_is_empty_is_never_scored(self, adapter):
        model = Scripted(1, 2)
        carried = adapter.carry([Item("a"), Item("  "), Item("b")])
        assert adapter.rank(adapter.reranker(model), carried, "q") == found((2, 2.0), (0, 1.0), (1, None))
        assert [len(passages) for passages in model.asked] == [2]
        assert adapter.rank(adapter.reranker(model, on_unscored="skip"), carried, "q") == found((2, 2.0), (0, 1.0))
        with pytest.raises(InputError, match="neither text nor image"):
            adapter.rank(adapter.reranker(model, on_unscored="raise"), carried, "q")
        assert adapter.rank(adapter.reranker(model), [], "q") == []

    async def test_a_broken_image_costs_only_itself(self, adapter, caplog):
        items = [Item("red", broken=True), Item("apples", Image.new("RGB", (4, 4))), Item("", broken=True)]
        carried = adapter.carry(items)
        ranked = found((1, 5.0), (0, -5.0), (2, None))
        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            assert adapter.rank(adapter.reranker(Seeing()), carried, "apples") == ranked
        assert "ranked by its text alone" in caplog.text
        assert await adapter.arank(adapter.reranker(Seeing()), carried, "apples") == ranked
        assert adapter.rank(adapter.reranker(Seeing(), on_image_error="skip"), carried, "apples") == ranked[:1]
        with pytest.raises(ImageError):
            adapter.rank(adapter.reranker(Seeing(), on_image_error="raise"), carried, "apples")

    def test_the_model_gets_text_and_image_together(self, adapter):
        model = Scripted(1, 2, 3)
        image = Image.new("RGB", (5, 7), "red")
        carried = adapter.carry([Item("both", image), Item("", image), Item("text")])
        adapter.rank(adapter.reranker(model), carried, "q")
        (passages,) = model.asked
        assert [passage.modality for passage in passages] == ["image_text", "image", "text"]
        assert passages[0].text == "both"

    @pytest.mark.parametrize("wrong", [{"top_n": -1}, {"on_unscored": "first"}, {"on_image_error": "ignore"}])
    def test_wrong_policies_are_refused_at_once(self, adapter, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            adapter.reranker(FakeReranker(), **wrong)

    @pytest.mark.parametrize("caller", ["tasks", "threads"])
    async def test_rankings_of_different_queries_share_batches(self, adapter, reference, monkeypatch, caller):
        queries = [f"apples {n}" for n in range(6)]
        reranker = adapter.reranker(load_reranker(reference / "rerank_vl_open_1", device="cpu"), top_n=None)
        carried = adapter.carry([Item(text) for text in TEXTS[:3]])
        wanted = [adapter.rank(reranker, carried, query) for query in queries]
        launches = Launches(monkeypatch, calls=len(queries))
        if caller == "tasks":
            together = await asyncio.gather(*[adapter.arank(reranker, carried, query) for query in queries])
        else:
            with ThreadPoolExecutor(len(queries)) as threads:
                together = list(threads.map(lambda query: adapter.rank(reranker, carried, query), queries))
        assert launches.count <= 2  # the first call alone, then all others together
        for ranked, alone in zip(together, wanted, strict=True):
            assert close(ranked, alone, tolerance=1e-4)

    async def test_searches_for_different_queries_share_rerankings(self, adapter, reference, monkeypatch):
        queries = [f"apples {n}" for n in range(6)]
        reranker = load_reranker(reference / "rerank_vl_open_1", device="cpu")
        with PageIndex(embedder=FakeEmbedder(), reranker=reranker) as index:
            index.add(PAGES, progress=False)
            retriever = adapter.retriever(index, k=2, candidates=3)
            wanted = [adapter.retrieve(retriever, query) for query in queries]
            launches = Launches(monkeypatch, calls=len(queries))
            together = await asyncio.gather(*[adapter.aretrieve(retriever, query) for query in queries])
        assert launches.count <= 2
        for hits, alone in zip(together, wanted, strict=True):
            assert close(hits, alone, tolerance=1e-4)

    # ---- models ----

    def test_wrong_names_and_kinds_are_refused_when_it_is_built(self, adapter):
        for make, wrong_name in ((adapter.embedding, "starter-rerank-vl"), (adapter.reranker, "starter-embed-vl")):
            with pytest.raises(UnknownModelError, match="no model named 'no-such-model'"):
                make("no-such-model")
            with pytest.raises(InputError, match="of kind"):
                make(wrong_name)
        for make, wrong in (
            (adapter.embedding, FakeMultiVectorEmbedder()),
            (adapter.embedding, FakeReranker()),
            (adapter.embedding, 3),
            (adapter.reranker, FakeEmbedder()),
            (adapter.reranker, object()),
        ):
            with pytest.raises(InputError, match="wanted a catalog id, a local folder or a loaded"):
                make(wrong)

    def test_older_names_are_known_and_unknown_ones_name_the_nearest(self, adapter):
        adapter.reranker("nvidia/llama-3.2-nv-rerankqa-1b-v2")
        adapter.embedding("nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1")
        for make, wrong, near, other in (
            (adapter.embedding, "nvidia/llama-nemotron-embed-vl-1b", "llama-nemotron-embed-vl-1b-v2", "rerank"),
            (
                adapter.reranker,
                "nvidia/llama-nemotron-rerank-vl-1b",
                "llama-nemotron-rerank-vl-1b-v2",
                "nemotron-embed",
            ),
            (adapter.embedding, "nvidia/nv-embedqa-e5-v5", "llama-nemotron-embed-1b-v2 takes its place", "rerank"),
        ):
            with pytest.raises(UnknownModelError, match=near) as raised:
                make(wrong)
            assert other not in str(raised.value)

    def test_wrong_options_are_refused_when_it_is_built(self, adapter):
        for wrong in ({"device": "gpu"}, {"dtype": "float8"}, {"max_input_tiles": 0}, {"max_length": {"page": 3}}):
            for make, name in (
                (adapter.embedding, "llama-nemotron-embed-vl-1b-v2"),
                (adapter.reranker, "llama-nemotron-rerank-vl-1b-v2"),
            ):
                with pytest.raises(ValueError, match=next(iter(wrong))):
                    make(name, **wrong)
        with pytest.raises(InputError, match="dimensions"):
            adapter.embedding("llama-nemotron-embed-vl-1b-v2", dimensions=7)
        with pytest.raises(InputError, match="has no use for max_input_tiles"):
            adapter.embedding("llama-nemotron-embed-1b-v2", max_input_tiles=2)
        with pytest.raises(ValueError, match="device"):
            adapter.reranker(FakeReranker(), device="cpu")

    def test_every_loading_option_is_known(self, adapter):
        options = {
            "device": "cpu",
            "dtype": "float32",
            "revision": "0" * 40,
            "max_input_tiles": 2,
            "use_thumbnail": False,
            "max_length": {"image": 4096},
            "compile": False,
        }
        adapter.embedding("llama-nemotron-embed-vl-1b-v2", dimensions=2048, **options)
        adapter.reranker("llama-nemotron-rerank-vl-1b-v2", **options)
        instructed = {"max_image_tokens": 640, "instruction": "Find the page that answers."}
        adapter.embedding("Qwen3-VL-Embedding-2B", **instructed)
        adapter.reranker("Qwen3-VL-Reranker-2B", **instructed)

    def test_arguments_of_hosted_classes_are_left_out_and_said(self, adapter, caplog):
        hosted = {"base_url": "https://h.example", "api_key": "secret", "truncate": "END", "max_batch_size": 8}
        for component in (adapter.embedding(FakeEmbedder(), **hosted), adapter.reranker(FakeReranker(), **hosted)):
            assert "secret" not in repr(component) + caplog.text
        for argument in ("base_url", "api_key", "max_batch_size"):
            assert caplog.text.count(f"has no use for {argument}: ") == 2
        assert "truncate" not in caplog.text  # END is what is done

    def test_a_missing_argument_is_refused_by_its_name(self, adapter):
        with pytest.raises(ValueError, match="top_nn"):
            adapter.reranker(FakeReranker(), top_nn=3)
        with pytest.raises(ValueError, match="dimension"):
            adapter.embedding(FakeEmbedder(), dimension=3)

    @needs_fork
    def test_it_works_in_a_forked_child(self, adapter, index, reference):
        collect_garbage()
        embedding = adapter.embedding(str(reference / "embed_vl_open_1"), device="cpu")
        reranker = adapter.reranker(str(reference / "rerank_vl_open_1"), device="cpu")
        retriever, carried = adapter.retriever(index, k=3), adapter.carry([Item(text) for text in TEXTS[:3]])

        def work():
            ranked, hits = adapter.rank(reranker, carried, QUERY), adapter.retrieve(retriever, QUERY)
            return adapter.embed_query(embedding, QUERY), ranked, hits

        vector, ranked, hits = work()
        for _ in range(2):
            other = in_child(work)
            np.testing.assert_allclose(other[0], vector, atol=1e-5)
            assert [hit.key for hit in other[1]] == [hit.key for hit in ranked]
            assert close(other[2], hits)

    def test_vectors_are_those_of_the_model_alone(self, adapter):
        embedding = adapter.embedding(FakeEmbedder())
        np.testing.assert_allclose(adapter.embed_query(embedding, "a b"), FakeEmbedder().embed_queries(["a b"])[0])
        wanted = FakeEmbedder().embed_passages([Passage("a"), Passage("b")])
        np.testing.assert_allclose(adapter.embed_texts(embedding, ["a", "b"]), wanted)

    def test_pickles_and_copies_carry_settings(self, adapter, reference):
        for make, folder in ((adapter.embedding, "embed_vl_open_1"), (adapter.reranker, "rerank_vl_open_1")):
            component = make(str(reference / folder), device="cpu", max_input_tiles=2)
            for other in (copy.copy(component), copy.deepcopy(component), pickle.loads(pickle.dumps(component))):
                assert other.max_input_tiles == 2
                assert other.device == "cpu"

    # ---- retrieving ----

    async def test_hits_are_those_of_the_index_alone(self, adapter, index):
        wanted = hits_of(index, QUERY, k=4)
        retriever = adapter.retriever(index, k=4)
        assert close(adapter.retrieve(retriever, QUERY), wanted)
        assert close(await adapter.aretrieve(retriever, QUERY), wanted)

    @pytest.mark.parametrize(
        "chosen",
        [
            {"per_document": 1},
            {"diversity": 0.6},
            {"per_document": 2, "diversity": 0.3},
            {"min_score": 0.2},
            {"min_score": 0.1, "per_document": 1},
        ],
    )
    async def test_what_is_chosen_is_as_the_index_chooses(self, adapter, index, ranking_index, chosen):
        for where, options in ((index, {}), (ranking_index, {"candidates": 6})):
            wanted = hits_of(where, QUERY, k=3, **options, **chosen)
            retriever = adapter.retriever(where, k=3, **options, **chosen)
            assert wanted
            assert close(adapter.retrieve(retriever, QUERY), wanted)
            assert close(await adapter.aretrieve(retriever, QUERY), wanted)

    async def test_a_reranker_of_its_own_chooses_as_the_index_does(self, adapter, index):
        chosen = {"per_document": 1, "diversity": 0.2, "neighbours": 1}
        hits = index.search(QUERY, k=2, candidates=5, rerank=FakeReranker(), **chosen)
        wanted = [Found(page.id, score) for hit in hits for page, score in _with_neighbours(hit)]
        for reranker in (FakeReranker(), adapter.reranker(FakeReranker(), top_n=None)):
            retriever = adapter.retriever(index, k=2, candidates=5, reranker=reranker, **chosen)
            assert close(adapter.retrieve(retriever, QUERY), wanted)
            assert close(await adapter.aretrieve(retriever, QUERY), wanted)

    async def test_neighbours_stand_behind_their_page_without_a_score(self, adapter, index, ranking_index):
        for where in (index, ranking_index):
            hits = where.search(QUERY, k=2, neighbours=2, filter={"page_number": {"lt": 6}})
            wanted = [Found(page.id, score) for hit in hits for page, score in _with_neighbours(hit)]
            assert len(wanted) > 2
            retriever = adapter.retriever(where, k=2, candidates=6 if where is ranking_index else None, neighbours=2)
            adapter.narrow(retriever, {"page_number": {"lt": 6}})
            assert close(adapter.retrieve(retriever, QUERY), wanted)
            assert close(await adapter.aretrieve(retriever, QUERY), wanted)

    @pytest.mark.parametrize("wrong", [{"per_document": 0}, {"diversity": 2}, {"neighbours": -1}])
    def test_wrong_choices_are_refused_when_it_is_built(self, adapter, index, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            adapter.retriever(index, **wrong)

    async def test_an_indexes_own_reranker_ranks(self, adapter, ranking_index):
        wanted = hits_of(ranking_index, QUERY, k=3, candidates=5)
        assert wanted[0].score == 5.0
        retriever = adapter.retriever(ranking_index, k=3, candidates=5)
        assert close(adapter.retrieve(retriever, QUERY), wanted)
        assert close(await adapter.aretrieve(retriever, QUERY), wanted)

    def test_it_can_be_switched_off(self, adapter, ranking_index):
        retriever = adapter.retriever(ranking_index, k=3, reranker=False)
        assert close(adapter.retrieve(retriever, QUERY), hits_of(ranking_index, QUERY, k=3, rerank=False))

    def test_a_reranker_given_to_the_retriever_ranks(self, adapter, index):
        wanted = hits_of(index, QUERY, k=3, candidates=6, rerank=FakeReranker())
        for reranker in (
            FakeReranker(),
            adapter.reranker(FakeReranker()),
            adapter.reranker(FakeReranker(), top_n=None),
        ):
            retriever = adapter.retriever(index, k=3, candidates=6, reranker=reranker)
            assert close(adapter.retrieve(retriever, QUERY), wanted), reranker

    def test_a_rerankers_default_does_not_cut_what_was_asked_for(self, adapter, index):
        retriever = adapter.retriever(index, k=6, candidates=6, reranker=adapter.reranker(FakeReranker()))
        assert len(adapter.retrieve(retriever, QUERY)) == 6

    def test_contradicting_numbers_are_refused_at_once(self, adapter, index):
        with pytest.raises(ValueError, match="top_n"):
            adapter.retriever(index, k=6, candidates=6, reranker=adapter.reranker(FakeReranker(), top_n=3))
        with pytest.raises(ValueError, match="candidates|fetch_k|similarity_top_k"):
            adapter.retriever(index, k=6, candidates=2, reranker=FakeReranker())

    def test_a_folder_open_in_an_index_can_be_searched(self, adapter, tmp_path):
        with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
            index.add(PAGES, progress=False)
            retriever = adapter.retriever(str(tmp_path / "index"), k=2, embedder=FakeEmbedder())
            assert close(adapter.retrieve(retriever, QUERY), hits_of(index, QUERY, k=2))
            retriever.close()
            assert index.count() == len(PAGES)  # closing the one does not close the other
        with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), create=False) as index:
            assert index.count() == len(PAGES)

    def test_an_index_that_is_not_there_is_said_and_nothing_is_left(self, adapter, tmp_path):
        place = tmp_path / "nowhere"
        with pytest.raises(InputError, match="there is no index"):
            adapter.retrieve(adapter.retriever(str(place), embedder=FakeEmbedder()), QUERY)
        assert not place.exists()

    def test_a_wrong_collection_says_which_there_are(self, adapter, tmp_path):
        with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
            index.add(PAGES[:1], progress=False)
        retriever = adapter.retriever(str(tmp_path / "index"), collection="typo", embedder=FakeEmbedder())
        with pytest.raises(InputError, match="there is no index: collection 'typo' at .*, which holds 'pages'"):
            adapter.retrieve(retriever, QUERY)

    def test_a_server_needs_a_place_for_images(self, adapter):
        with pytest.raises(InputError, match="images="):
            adapter.retrieve(adapter.retriever("http://localhost:1", embedder=FakeEmbedder()), QUERY)

    def test_images_come_along(self, adapter, index):
        image = adapter.image_of(adapter.retriever(index, k=1), "red apples in winter")
        assert image.size == PAGES[3].image.size
        assert image.convert("RGB").getpixel((0, 0))[0] == pytest.approx(80, abs=4)

    # ---- crops of regions ----

    @pytest.fixture
    def lines(self, tmp_path):
        """An index of two pages with lines of text, of which "red apples" stands at the bottom."""
        document = pymupdf.open()
        for fruit in ("apples", "plums"):
            page = document.new_page(width=400, height=600)
            for n, text in enumerate(("nothing else", "summer rain", f"red {fruit}")):
                page.insert_text((20, 60 + 240 * n), text, fontsize=20)
        document.save(tmp_path / "fruit.pdf")
        with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), dpi=72) as opened:
            opened.add(tmp_path / "fruit.pdf", progress=False)
            yield opened

    def test_crops_stand_behind_their_page(self, adapter, lines):
        retriever = adapter.retriever(lines, k=2, regions=3)
        plain = adapter.shown(retriever, "red apples")
        assert [isinstance(each, str) for each in plain] == [True, False, True, False]
        assert _sizes(plain) == [(400, 600)] * 2
        text, page, line, *others = adapter.shown(retriever, "red apples", max_crops=1)
        assert [isinstance(text, str), *_sizes([page])] == [True, (400, 600)]
        assert line.width < 200
        assert line.height < 60
        last = page.crop((0, 480, 400, 600))
        assert (_ink(line).size, _ink(line).tobytes()) == (_ink(last).size, _ink(last).tobytes())
        assert [isinstance(each, str) for each in others] == [True, False]  # "red plums" is no answer
        assert [adapter.shown(retriever, "red apples", max_crops=1)[2].tobytes()] == [line.tobytes()]

    def test_crops_have_limits_and_count(self, adapter, lines):
        retriever = adapter.retriever(lines, k=2, regions=3)

        def sizes(**limits):
            return _sizes(adapter.shown(retriever, "red apples", **limits))

        assert max(side for size in sizes(max_crops=3, max_side=50) for side in size) <= 50
        assert sizes(max_crops=3, max_images=1) == [(400, 600)]
        assert sizes(max_crops=3, max_images=2) == [(400, 600)] * 2  # pages come first
        first, crop, second = sizes(max_crops=3, max_images=3)
        assert (first, second) == ((400, 600), (400, 600))
        assert max(crop) < 400
        with pytest.raises(ValueError, match="max_crops must be 0 or a positive integer, got -1"):
            sizes(max_crops=-1)

    def test_pages_without_regions_or_images_have_no_crops(self, adapter, lines, index, caplog):
        def shown(place, query, **options):
            return adapter.shown(adapter.retriever(place, k=1, **options), query, max_crops=2)

        assert len(_sizes(shown(lines, "unknown words", regions=2))) == 1
        assert "max_crops" not in caplog.text
        assert len(_sizes(shown(lines, "red apples"))) == 1
        assert "no page came with regions; give the retriever regions=" in caplog.text
        with PageIndex(embedder=FakeEmbedder(), images=None) as texts:
            texts.add([Page("red apples", id="p")], progress=False)
            assert _sizes(shown(texts, "red apples", regions=2)) == []

    def test_load_opens_what_the_first_search_would_wait_for(self, adapter, tmp_path):
        with PageIndex(tmp_path, embedder=FakeEmbedder()) as index:
            index.add(PAGES, progress=False)
        retriever = adapter.retriever(str(tmp_path), k=1, embedder=FakeEmbedder())
        assert retriever.load() is retriever
        assert adapter.retrieve(retriever, QUERY)[0].key == "p4"
        retriever.close()
        with pytest.raises(InputError):
            adapter.retriever(str(tmp_path / "nothing")).load()

    async def test_many_at_once_are_as_one_by_one(self, adapter, ranking_index):
        retriever = adapter.retriever(ranking_index, k=3, candidates=6)
        queries = [f"{text} {n}" for n, text in enumerate(TEXTS * 3)]
        together = await asyncio.gather(*[adapter.aretrieve(retriever, query) for query in queries])
        assert together == [adapter.retrieve(retriever, query) for query in queries]
