"""Test the metrics against independent definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.metrics import ndcg_score

from vaecodec.evaluation import (
    Truth,
    bootstrap,
    exact_search,
    judge,
    mrr,
    ndcg,
    pair_similarity,
    paired_bootstrap,
    recall,
    similarities,
    spearman,
)
from vaecodec.interface import Metric

small = st.integers(-3, 3).map(float)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=small),
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=small),
    st.integers(1, 15),
    st.sampled_from([Metric.DOT, Metric.L2]),
)
def test_exact_search_is_a_stable_sort_of_all_scores(
    base: np.ndarray, queries: np.ndarray, k: int, metric: Metric
) -> None:
    ids, scores = exact_search(base, queries, k, metric)
    expected = queries @ base.T if metric is Metric.DOT else -((queries[:, None] - base[None]) ** 2).sum(axis=2)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    assert np.array_equal(ids, order)
    assert np.allclose(scores, np.take_along_axis(expected, order, axis=1))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.just(2)), elements=small),
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(2)), elements=small),
    st.integers(1, 15),
)
def test_exact_search_settles_equal_scores_alike_however_the_base_is_divided(
    base: np.ndarray, queries: np.ndarray, k: int
) -> None:
    expected, _ = exact_search(base, queries, k, Metric.DOT)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"_BASE_ROWS": 7, "_QUERY_ROWS": 2}.items():
            patch.setattr(f"vaecodec.evaluation.{name}", size)
        ids, _ = exact_search(base, queries, k, Metric.DOT)
    assert np.array_equal(ids, expected)


def test_a_score_that_overflows_is_the_last_one_and_no_document_comes_twice() -> None:
    far = np.array([[1.2e19], [-1.2e19], [-1.3e19], [1.2e19]], np.float32)
    with np.errstate(over="ignore"):
        ids, scores = exact_search(far, far[:1], 4, Metric.L2)
    assert ids.tolist() == [[0, 3, 1, 2]]
    assert np.isneginf(scores[0, 2:]).all()


def test_exact_search_spans_blocks_of_the_base(sample, monkeypatch) -> None:
    whole_ids, whole_scores = exact_search(sample.base, sample.queries[:300], 10, Metric.COSINE)
    monkeypatch.setattr("vaecodec.evaluation._BASE_ROWS", 700)
    monkeypatch.setattr("vaecodec.evaluation._QUERY_ROWS", 64)
    ids, scores = exact_search(sample.base, sample.queries[:300], 10, Metric.COSINE)
    assert np.allclose(scores, whole_scores, atol=1e-6)
    assert recall(ids, whole_ids, 10).mean() > 0.999  # scores equal but for rounding may change places


def test_cosine_scores_do_not_depend_on_length(sample) -> None:
    a = similarities(3 * sample.queries[:5], 7 * sample.base[:9], Metric.COSINE)
    assert np.allclose(a, sample.queries[:5] @ sample.base[:9].T, atol=1e-6)


def test_recall_counts_shared_ids() -> None:
    ids, truth = np.array([[1, 2, 3], [4, 5, -1]]), np.array([[3, 2, 9], [5, 4, 6]])
    assert recall(ids, truth, 3).tolist() == [2 / 3, 2 / 3]
    assert recall(ids, truth, 1).tolist() == [0.0, 0.0]
    assert recall(truth, truth, 3).tolist() == [1.0, 1.0]


@given(st.permutations(range(8)), st.sets(st.integers(0, 7), min_size=1), st.integers(1, 8))
def test_ndcg_is_scikit_learns(ranking: list[int], relevant: set[int], k: int) -> None:
    gains = np.isin(ranking, list(relevant)).astype(float)
    expected = ndcg_score([gains], [-np.arange(8.0)], k=k)
    assert ndcg(np.array([ranking]), [list(relevant)], k)[0] == pytest.approx(expected)


def test_mrr_is_one_over_the_first_hit() -> None:
    ids = np.array([[5, 6, 7], [5, 6, 7], [5, 6, 7]])
    assert mrr(ids, np.array([5, 7, 9]), 3).tolist() == [1.0, 1 / 3, 0.0]
    assert mrr(ids, [[7, 6], [7], []], 2).tolist() == [0.5, 0.0, 0.0]


@given(hnp.arrays(np.float64, (2, 12), elements=small))
def test_spearman_is_scipys(values: np.ndarray) -> None:
    a, b = values
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_pair_similarity_is_one_for_a_rotation_and_less_for_a_projection(sample) -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((384, 384)))[0].astype(np.float32)
    base = sample.base[:500]
    assert pair_similarity(base, base @ rotation, Metric.COSINE, Metric.COSINE) == pytest.approx(1, abs=1e-6)
    assert pair_similarity(base, base[:, :8].copy(), Metric.COSINE, Metric.COSINE) < 0.9


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = bootstrap(random.normal(0.5, 0.2, 200), seed=trial, resamples=500)
        assert interval.low <= interval.mean <= interval.high
        covered += interval.low <= 0.5 <= interval.high
    assert 270 <= covered <= 297


def test_pairing_sees_a_difference_that_is_smaller_than_the_spread() -> None:
    random = np.random.default_rng(0)
    a = random.uniform(size=500)
    b = a - 0.01 + random.normal(0, 0.01, 500)
    difference = paired_bootstrap(a, b)
    assert difference.low > 0
    assert bootstrap(a).low < bootstrap(b).high


def test_equal_documents_answer_equally() -> None:
    distinct = np.eye(4, dtype=np.float32)
    base = np.repeat(distinct, 30, axis=0)
    queries = distinct + np.float32(0.1)
    truth = Truth.of(base, queries, Metric.COSINE, depth=100)
    own = np.arange(120).reshape(4, 30)
    last = own[:, ::-1][:, :10]  # an index may return whichever of thirty equal ones
    assert recall(last, truth.ids, 10).max() == 0
    np.testing.assert_array_equal(truth.recall(last, 10), 1.0)
    np.testing.assert_array_equal(truth.recall(np.roll(last, 1, axis=0), 10), 0.0)
    assert truth.recall(np.array([[0, 1, -1, -1, 30, 31, 60, 61, 90, 91]] * 4), 10).tolist() == [0.2] * 4


@pytest.mark.parametrize("metric", Metric)
def test_scores_that_differ_by_rounding_are_equal(sample, metric: Metric) -> None:
    base = np.concatenate([sample.base[:300], sample.base[:300]]) * np.float32(37.0)
    queries = sample.queries[:50] * np.float32(37.0)
    truth = Truth.of(base, queries, metric, depth=20)
    twins = (truth.ids + 300) % 600
    np.testing.assert_array_equal(truth.recall(twins, 10), 1.0)
    strict = Truth.of(base[:300], queries, metric, depth=20)
    others = np.argsort(-similarities(queries, base[:300], metric), axis=1)[:, 10:20]
    np.testing.assert_array_equal(strict.recall(others, 10), 0.0)


def test_a_search_is_judged_by_every_figure(sample) -> None:
    truth = Truth.of(sample.base, sample.queries[:40], Metric.COSINE)
    relevant = sample.relevant[:40]
    exact = judge(truth.ids, truth, relevant)
    assert sorted(exact) == ["kept@100", "mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100", "relevant@100"]
    for name in ("recall@1", "recall@10", "recall@100", "kept@100"):
        np.testing.assert_array_equal(exact[name], 1.0)
    np.testing.assert_allclose(exact["ndcg@10"], ndcg(truth.ids, relevant, 10))
    np.testing.assert_array_equal(exact["relevant@100"], (truth.ids == relevant[:, None]).any(axis=1))
    turned = judge(truth.ids[:, ::-1], truth)  # the hundred are the same, the first ten are not
    assert sorted(turned) == ["kept@100", "recall@1", "recall@10", "recall@100"]
    np.testing.assert_array_equal(turned["kept@100"], 1.0)
    np.testing.assert_array_equal(turned["recall@100"], 1.0)
    assert turned["recall@10"].max() == 0


def test_a_hundred_of_a_hundred_documents_say_nothing(sample) -> None:
    truth = Truth.of(sample.base[:100], sample.queries[:5], Metric.COSINE)
    assert sorted(judge(truth.ids, truth)) == ["recall@1", "recall@10"]


def test_graded_answers_count_by_their_grade() -> None:
    ids = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
    relevant, grades = [[6, 5, 9], [3]], [[3.0, 1.0, 2.0], [0.0]]
    discount = 1 / np.log2(np.arange(2, 6))
    expected = (1.0 * discount[0] + 3.0 * discount[1]) / (3.0 * discount[0] + 2.0 * discount[1] + 1.0 * discount[2])
    assert ndcg(ids, relevant, 4, grades).tolist() == pytest.approx([expected, 0.0])
