"""Metrics are trec_eval's, number by number, on random runs with ties; intervals cover what they should."""

import numpy as np
import pytest
import pytrec_eval

from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.metrics import Metric, bootstrap, bootstrap_difference, measure, ranked

OURS = {
    **{f"ndcg@{k}": f"ndcg_cut_{k}" for k in (1, 3, 5, 10, 100)},
    **{f"recall@{k}": f"recall_{k}" for k in (1, 3, 5, 10, 100)},
    **{f"hit@{k}": f"success_{k}" for k in (1, 3, 5, 10)},
    **{f"precision@{k}": f"P_{k}" for k in (1, 3, 5, 10)},
    **{f"map@{k}": f"map_cut_{k}" for k in (1, 3, 5, 10)},
    **{"mrr": "recip_rank", "map": "map"},
}
THEIRS = {"ndcg_cut.1,3,5,10,100", "recall.1,3,5,10,100", "success.1,3,5,10", "P.1,3,5,10", "map_cut.1,3,5,10"}


def random_run(seed: int, *, levels: int) -> tuple[dict, dict]:
    """Scores of few levels, so many ties; ids of all kinds; graded judgements, some of pages not found."""
    random = np.random.default_rng(seed)
    pages = [f"{name}{i}" for i in range(20) for name in ("p", "page/ä", "Z")]
    run, judged = {}, {}
    for query in map(str, range(40)):
        found = random.choice(pages, size=random.integers(1, 60), replace=False)
        run[query] = {str(page): float(random.integers(levels)) / 7 for page in found}
        known = random.choice(pages, size=random.integers(1, 25), replace=False)
        judged[query] = {str(page): int(random.integers(-1, 4)) for page in known}
    return run, judged


@pytest.mark.parametrize(("seed", "levels"), [(0, 2), (1, 4), (2, 30), (3, 10**6), (4, 1)])
def test_equals_trec_eval_on_random_runs_with_ties(seed, levels):
    run, judged = random_run(seed, levels=levels)
    expected = pytrec_eval.RelevanceEvaluator(judged, THEIRS | {"recip_rank", "map"}).evaluate(run)
    found = measure(run, judged, list(OURS))
    for ours, theirs in OURS.items():
        for query in judged:
            assert found[ours][query] == pytest.approx(expected[query][theirs], abs=1e-9), (ours, query)


def test_scores_that_float32_cannot_tell_apart_are_ties_as_in_trec_eval():
    run, judged = {"q": {"a": 1 + 1e-12, "b": 1.0}}, {"q": {"a": 1}}
    (expected,) = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(run).values()
    assert measure(run, judged, ["mrr"])["mrr"]["q"] == expected["recip_rank"] == 0.5


def test_the_order_of_a_list_is_kept():
    assert measure({"q": ["a", "b"]}, {"q": {"a": 1}}, ["mrr"])["mrr"]["q"] == 1
    assert measure({"q": ["b", "a"]}, {"q": {"a": 1}}, ["mrr"])["mrr"]["q"] == 0.5


def test_a_query_without_results_counts_as_zero():
    assert measure({}, {"q": {"a": 1}}, ["ndcg@10", "recall@5", "mrr", "map"]) == {
        name: {"q": 0.0} for name in ("ndcg@10", "recall@5", "mrr", "map")
    }


def test_a_query_without_a_relevant_page_is_zero():
    assert measure({"q": ["a"]}, {"q": {"a": 0}}, ["ndcg@1", "map"]) == {"ndcg@1": {"q": 0.0}, "map": {"q": 0.0}}


@pytest.mark.parametrize("name", ["ndcg", "ndcg@0", "recall@-1", "bleu", "mrr@", "NDCG@10", "", None, 10])
def test_other_metrics_are_refused(name):
    with pytest.raises(InputError, match="metric must be one of ndcg@k"):
        Metric.of(name)


@pytest.mark.parametrize("pages", [["a", "a"], "ab"])
def test_a_page_counts_once(pages):
    with pytest.raises(InputError, match="each once"):
        measure({"q": pages}, {"q": {"a": 1}}, ["mrr"])


def test_nan_has_no_place_in_an_order():
    with pytest.raises(InputError, match="NaN"):
        ranked({"a": float("nan"), "b": 1.0})


def test_bootstrap_is_seeded_and_covers_the_true_mean():
    random = np.random.default_rng(0)
    draws = [random.random(60) < 0.3 for _ in range(200)]
    found = [bootstrap(values, samples=500, seed=i) for i, values in enumerate(draws)]
    assert 0.88 < np.mean([each.low <= 0.3 <= each.high for each in found]) < 0.99
    values = random.random(60)
    assert bootstrap(values, seed=7) == bootstrap(values, seed=7) != bootstrap(values, seed=8)


def test_bootstrap_has_a_standard_error_like_the_formula():
    values = np.random.default_rng(1).random(400)
    found = bootstrap(values)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(values.std() / 20, rel=0.05)


def test_paired_differences_are_narrower_than_intervals_of_each():
    random = np.random.default_rng(2)
    hard = random.random(80)
    one = {str(i): value for i, value in enumerate(hard)}
    other = {str(i): value - 0.02 + 0.02 * random.random() for i, value in enumerate(hard)}
    difference = bootstrap_difference(one, other)
    assert difference.excludes_zero
    assert difference.high - difference.low < 0.01 < bootstrap(hard).high - bootstrap(hard).low
    assert not bootstrap_difference(one, one).excludes_zero


def test_pairs_are_of_the_same_queries():
    with pytest.raises(InputError, match="same queries"):
        bootstrap_difference({"a": 1.0}, {"b": 1.0})
    with pytest.raises(InputError, match="needs values"):
        bootstrap([])
