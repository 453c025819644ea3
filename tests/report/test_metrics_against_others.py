"""Test the metrics against trec_eval itself and scipy, on any rankings that hypothesis finds."""

from __future__ import annotations

import numpy as np
import pytrec_eval
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec.evaluation import bootstrap, mrr, ndcg, paired_bootstrap, recall

DOCUMENTS = 40

rankings = st.lists(st.permutations(range(DOCUMENTS)).map(lambda ids: ids[:20]), min_size=1, max_size=5)


def trec_eval(ids: np.ndarray, relevant: list[list[int]], measure: str) -> np.ndarray:
    """Evaluate each query with trec_eval; the ranks become scores, since trec_eval sorts by score."""
    run = {
        str(query): {str(document): float(-rank) for rank, document in enumerate(row)}
        for query, row in enumerate(ids.tolist())
    }
    judged = {str(query): {str(document): 1 for document in rows} for query, rows in enumerate(relevant)}
    figures = pytrec_eval.RelevanceEvaluator(judged, {measure}).evaluate(run)
    name = measure.replace(".", "_")
    return np.array([figures[str(query)][name] for query in range(len(ids))])


@given(ids=rankings, data=st.data(), k=st.sampled_from([1, 5, 10, 20]))
@settings(max_examples=60)
def test_ndcg_and_reciprocal_rank_are_trec_evals(ids, data, k):
    answers = st.lists(st.integers(0, DOCUMENTS - 1), min_size=1, max_size=6, unique=True)
    relevant = [data.draw(answers) for _ in ids]
    found = np.array(ids)
    np.testing.assert_allclose(ndcg(found, relevant, k), trec_eval(found, relevant, f"ndcg_cut.{k}"), atol=1e-6)
    # trec_eval's reciprocal rank has no cut-off: the ranking is cut instead.
    np.testing.assert_allclose(mrr(found, relevant, k), trec_eval(found[:, :k], relevant, "recip_rank"), atol=1e-6)


@given(ids=rankings, data=st.data(), k=st.sampled_from([1, 10, 20]))
@settings(max_examples=60)
def test_recall_of_neighbours_is_trec_evals(ids, data, k):
    found = np.array(ids)
    truth = np.array([data.draw(st.permutations(range(DOCUMENTS)))[:k] for _ in ids])
    np.testing.assert_allclose(recall(found, truth, k), trec_eval(found, truth.tolist(), f"recall.{k}"), atol=1e-6)


@given(seed=st.integers(0, 1_000), n=st.integers(100, 400), skew=st.floats(0.2, 3))
@settings(max_examples=15)
def test_intervals_are_scipys_up_to_resampling_noise(seed, n, skew):
    random = np.random.default_rng(seed)
    a, b = random.beta(skew, 1, n), random.beta(1, 1, n)
    expected = scipy.stats.bootstrap((a,), np.mean, method="percentile", n_resamples=2_000, rng=1)
    noise = 0.5 * expected.standard_error
    np.testing.assert_allclose(bootstrap(a)[1:], expected.confidence_interval, atol=noise)
    expected = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis: (x - y).mean(axis), paired=True, method="percentile", n_resamples=2_000, rng=1
    )
    noise = 0.5 * expected.standard_error
    np.testing.assert_allclose(paired_bootstrap(a, b)[1:], expected.confidence_interval, atol=noise)
