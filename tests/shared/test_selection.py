"""What is returned of what was found: limits for each document, diversity, neighbours, smallest scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.index.selection import Selection
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakePageStore, FakeReranker
from nemotron_rag.types import Hit

A, B, C = "a.pdf", "b.pdf", "c.pdf"
TEXTS = {
    A: ["red apples in winter", "red apples in autumn", "red apples in spring", "red apples", "blue whales"],
    B: ["red pears", "apples and red cherries", "green pears"],
    C: ["stars", "red apples and stars"],
}
OWNERS = {A: "ann", B: "bob", C: "bob"}
PAGES = [
    Page(text, id=f"{source[0]}{number}", source=source, number=number, metadata={"owner": OWNERS[source]})
    for source, texts in TEXTS.items()
    for number, text in enumerate(texts, 1)
]


@pytest.fixture(params=["fake", "qdrant", "tokens"])
def index(request):
    embedder = FakeMultiVectorEmbedder() if request.param == "tokens" else FakeEmbedder()
    store = FakePageStore() if request.param == "fake" else None
    with PageIndex(store=store, embedder=embedder, images=None) as opened:
        opened.add(PAGES, progress=False)
        yield opened


def ids(hits):
    return [hit.page.id for hit in hits]


def documents(hits):
    return [hit.page.source for hit in hits]


def likeness(hits):
    """The mean cosine of two of the pages."""
    rows = FakeEmbedder().embed_passages([hit.page for hit in hits])
    return float((rows @ rows.T)[np.triu_indices(len(rows), 1)].mean())


@pytest.mark.parametrize("mode", [None, "hybrid", "dense"])
@pytest.mark.parametrize("rerank", [False, FakeReranker()])
def test_a_limit_for_each_document_still_fills_k(index, mode, rerank):
    for limit in (1, 2, 3):
        for k in (1, 3, 5):
            hits = index.search("red apples", k=k, mode=mode, rerank=rerank, per_document=limit)
            counts = [documents(hits).count(source) for source in TEXTS]
            possible = sum(min(limit, len(texts)) for texts in TEXTS.values())
            assert len(hits) == min(k, possible)
            assert max(counts) <= limit
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_limit_keeps_the_best_of_each_document(index):
    every = index.search("red apples", k=10)
    hits = index.search("red apples", k=10, per_document=1)
    best = {hit.page.source: hit.page.id for hit in reversed(every)}
    assert ids(hits) == [best[source] for source in dict.fromkeys(documents(every))]
    assert index.search("red apples", k=10, per_document=99) == every


def test_the_reranker_decides_which_pages_of_a_document_stay(index):
    class Late(FakeReranker):
        def score(self, query, passages):
            return np.array([float(passage.text == "red apples in spring") for passage in passages], np.float32)

    hits = index.search("red apples in winter", k=2, candidates=8, rerank=Late(), per_document=1)
    assert ids(hits)[0] == "a3"
    assert documents(hits)[1] != A


def test_a_document_with_very_many_pages_hides_no_other():
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        many = [Page("red apples", id=f"m{n}", source="many.pdf", number=n) for n in range(1, 400)]
        index.add([*many, *[Page(f"pears {n}", id=f"o{n}", source=f"{n}.pdf") for n in range(3)]], progress=False)
        hits = index.search("red apples", k=4, per_document=1)
        assert documents(hits)[0] == "many.pdf"
        assert len(set(documents(hits))) == 4


def test_diversity_takes_pages_that_are_unlike_each_other(index):
    plain = index.search("red apples", k=4)
    assert ids(index.search("red apples", k=4, diversity=0)) == ids(plain)
    hits = index.search("red apples", k=4, diversity=0.8)
    assert hits[0].page.id == plain[0].page.id
    assert likeness(hits) < likeness(plain) - 0.1
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert len(index.search("red apples", k=10, diversity=1.0)) == 10


@pytest.mark.parametrize("rerank", [False, FakeReranker()])
def test_diversity_and_a_limit_hold_together(index, rerank):
    hits = index.search("red apples", k=3, diversity=0.5, per_document=1, rerank=rerank)
    assert sorted(documents(hits)) == [A, B, C]


def test_copies_of_a_page_come_once_with_diversity():
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        copies = [Page("red apples", id=f"c{n}", source=f"copy {n}.pdf") for n in range(6)]
        index.add([*copies, Page("red pears", id="p", source="p.pdf"), Page("whales", id="w")], progress=False)
        first, second = ids(index.search("red apples", k=2, diversity=0.6))
        assert first.startswith("c")
        assert not second.startswith("c")


def test_neighbours_stand_around_their_hit(index):
    (hit,) = index.search("red apples in autumn", k=1, neighbours=1)
    assert hit.page.id == "a2"
    assert [(page.id, page.text, page.source) for page in hit.neighbours] == [
        ("a1", "red apples in winter", A),
        ("a3", "red apples in spring", A),
    ]
    assert [page.id for page in index.search("blue whales", k=1, neighbours=2)[0].neighbours] == ["a3", "a4"]
    assert index.search("blue whales", k=1)[0].neighbours == ()


def test_no_page_comes_twice(index):
    hits = index.search("red apples", k=4, neighbours=2)
    every = [page.id for hit in hits for page in (hit.page, *hit.neighbours)]
    assert len(every) == len(set(every))
    assert ids(hits) == ids(index.search("red apples", k=4))


@pytest.mark.parametrize("rerank", [False, FakeReranker()])
def test_neighbours_meet_the_filter(index, rerank):
    def around(filter):
        hits = index.search("green pears", k=9, neighbours=5, filter=filter, rerank=rerank)
        return {page.id for hit in hits for page in (hit.page, *hit.neighbours)}

    assert around({"owner": "ann"}) == {f"a{n}" for n in range(1, 6)}
    assert around({"or": [{"source": B}, {"page_number": 9}]}) == {"b1", "b2", "b3"}
    (hit,) = index.search("green pears", k=1, neighbours=5, filter={"page_number": [3, 1]}, rerank=rerank)
    assert [page.id for page in hit.neighbours] == ["b1"]


def test_neighbours_meet_a_filter_of_qdrants_own():
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        index.add(PAGES, progress=False)
        own = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(lt=3))])
        (hit,) = index.search("red pears", k=1, neighbours=5, filter=own)
        assert (hit.page.id, [page.id for page in hit.neighbours]) == ("b1", ["b2"])


def test_neighbours_are_pages_of_the_same_tenant():
    client = QdrantClient(":memory:")
    for tenant in ("ann", "bob"):
        with PageIndex(client=client, embedder=FakeEmbedder(), images=None, tenant=("owner", tenant)) as index:
            pages = [
                Page(f"{tenant} {n}", id=f"{tenant}{n}", source=A, number=n) for n in range(1, 4) if n != len(tenant)
            ]
            index.add([*pages, Page(f"{tenant} x", id=f"{tenant}x", source=A, number=3)], progress=False)
            (hit,) = index.search(f"{tenant} 1", k=1, neighbours=5)
            assert {page.id for page in (hit.page, *hit.neighbours)} == {f"{tenant}1", f"{tenant}2", f"{tenant}x"}
            assert len(index.search(f"{tenant}", k=2, diversity=0.5, per_document=2)) == 2
    client.close()


def test_pages_without_a_source_have_no_neighbours_and_are_alone(index):
    index.add([Page("stars and moons", id=f"x{n}", number=n) for n in (1, 2)], progress=False)
    hits = index.search("stars and moons", k=2, per_document=1, neighbours=1)
    assert set(ids(hits)) == {"x1", "x2"}
    assert [hit.neighbours for hit in hits] == [(), ()]


def test_the_smallest_score_is_that_of_the_vectors(index):
    every = index.search("red apples", k=10)
    least = every[3].score
    assert ids(index.search("red apples", k=10, min_score=least)) == ids([hit for hit in every if hit.score >= least])
    reranked = index.search("red apples", k=10, min_score=least, rerank=FakeReranker())
    assert {hit.page.id for hit in reranked} == {hit.page.id for hit in every if hit.retrieval_score >= least}
    assert all(hit.score != hit.retrieval_score for hit in reranked)
    both = index.search("red apples", k=10, min_score=least, rerank=FakeReranker(), score_threshold=5.0)
    assert {hit.score for hit in both} == {5.0}
    assert index.search("red apples", k=10, min_score=1e9, per_document=1) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_document": 0}, "per_document must be a positive integer, got 0"),
        ({"diversity": 1.5}, r"diversity must be from 0 \(by the scores\) to 1 \(unlike\), got 1.5"),
        ({"diversity": True}, "diversity must be from 0"),
        ({"diversity": float("nan")}, "diversity must be from 0"),
        ({"neighbours": -1}, "neighbours must be a whole number from 0 to 100, got -1"),
        ({"neighbours": 10**9}, "neighbours must be a whole number from 0 to 100"),
        ({"neighbours": True}, "neighbours must be a whole number"),
        ({"min_score": float("nan")}, "min_score must be a finite number or None, got nan"),
        ({"min_score": "high"}, "min_score must be a finite number or None, got 'high'"),
        ({"min_score": 0.5, "mode": "hybrid"}, "min_score= is for scores of vectors"),
        ({"per_document": 1, "candidates": 20}, "candidates= is for reranking"),
    ],
)
def test_wrong_arguments_raise(index, options, message):
    with pytest.raises(InputError, match=message) as caught:
        index.search("red apples", **options)
    assert "\n" not in str(caught.value)


async def test_async_as_sync(index):
    options = {"k": 3, "diversity": 0.7, "per_document": 2, "neighbours": 1, "min_score": 0.01}
    assert await index.asearch("red apples", **options) == index.search("red apples", **options)
    found = await index.acandidates("red apples", k=3, per_document=1)
    assert found == index.candidates("red apples", k=3, per_document=1)
    assert await index.aselect(found, k=2, diversity=0.5) == index.select(found, k=2, diversity=0.5)


def test_ranking_in_another_way_gives_the_same(index):
    """What `search` does, in steps: an adapter ranks with a component of its own in between."""
    options = {"k": 3, "per_document": 1}
    expected = index.search("red apples", rerank=FakeReranker(), neighbours=1, diversity=0.3, **options)
    found = index.candidates("red apples", **options)
    scores = FakeReranker().score("red apples", [hit.page for hit in found])
    order = sorted(range(len(found)), key=lambda i: (-scores[i], i))
    ranked = [Hit(found[i].page, float(scores[i]), found[i].retrieval_score, rank) for rank, i in enumerate(order, 1)]
    assert index.select(ranked, neighbours=1, diversity=0.3, **options) == expected


class Places:
    """So many pages of documents, nearest first, and how many were asked for."""

    def __init__(self, documents: str) -> None:
        self.documents, self.asked = documents, []

    def find(self, count: int) -> list[str]:
        self.asked.append(count)
        return list(self.documents[:count])

    async def afind(self, count: int) -> list[str]:
        return self.find(count)


@pytest.mark.parametrize(
    ("documents", "limit", "asked"),
    [
        ("aaaaaaaaaaaaaaaab", None, [2]),
        ("aaaaaaaaaaaaaaaab", 1, [2, 8, 32]),  # the one of b is far away
        ("ab", 1, [2]),
        ("aaaa", 1, [2, 8]),  # there are no others
        ("", 1, [2]),
    ],
)
async def test_more_pages_are_asked_for_until_enough_can_be_kept(documents, limit, asked):
    selection, one, other = Selection(k=2, per_document=limit), Places(documents), Places(documents)
    pages = selection.gather(one.find, str, 2)
    assert pages == await selection.agather(other.afind, str, 2) == list(documents[: asked[-1]])
    assert one.asked == other.asked == asked


numbers = st.lists(st.sampled_from([3.0, 2.5, 2.0, 1.0, 0.0, -math.inf]), max_size=9)


@given(
    scores=numbers,
    seed=st.integers(0, 9),
    k=st.integers(1, 9),
    limit=st.none() | st.integers(1, 3),
    diversity=st.sampled_from([None, 0, 0.3, 1.0]),
)
def test_what_every_selection_keeps(scores, seed, k, limit, diversity):
    scores = sorted(scores, reverse=True)
    rng = np.random.default_rng(seed)
    named = rng.integers(0, 3, len(scores)).tolist()
    rows = list(rng.standard_normal((len(scores), 4)).astype(np.float32))
    selection = Selection(k=k, per_document=limit, diversity=diversity)
    kept = selection.choose(named, scores, lambda: rows)
    possible = sum(min(limit or 99, named.count(name)) for name in set(named))
    assert len(kept) == len(set(kept)) == min(k, possible)
    assert all(sum(named[i] == name for i in kept) <= (limit or 99) for name in named)
    finite = [math.isfinite(scores[i]) for i in kept]
    assert finite == sorted(finite, reverse=True)
    if not diversity:
        assert kept == sorted(kept)
    if kept and math.isfinite(scores[0]):
        assert kept[0] == 0
    assert selection.is_filled(named) == (limit is None or possible >= k)
    read = selection.candidates(named, 4)  # by a reranker
    assert read == sorted(set(read))
    if limit is not None:
        assert len(selection.choose([named[i] for i in read], [1.0] * len(read), lambda: [None] * 9)) == min(
            k, possible
        )
