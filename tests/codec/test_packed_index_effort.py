"""Test the first stage of a search: a full search stays exact, and less effort finds most of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, Metric, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.codes.residual_fit import fit_residual
from vaecodec.errors import IndexArgumentError
from vaecodec.evaluation import recall
from vaecodec.packed_index import Effort, PackedIndex, search
from vaecodec.packed_index.sketch import Axes, Sketch
from vaecodec_exporters.linear import export_linear

ROWS, DIM = 17_000, 48


def vectors(rows: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Draw vectors that are clustered, correlated and off centre."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((DIM, DIM)) * np.geomspace(1, 0.1, DIM)
    centres = np.random.default_rng(1).standard_normal((40, DIM))
    drawn = centres[random.integers(0, 40, rows)] + 0.7 * random.standard_normal((rows, DIM))
    return (scale * (drawn @ mix + 0.2)).astype(np.float32)


@pytest.fixture(scope="module", params=[*Metric, "stages"])
def index(request, tmp_path_factory: pytest.TempPathFactory) -> PackedIndex:
    """Make an index for each metric with a trellis alone, and for cosine with stages of k-means before it."""
    metric = Metric.COSINE if request.param == "stages" else request.param
    linear = fit_linear(vectors(4000, 2), DIM, metric=metric)
    latents = linear.encode(vectors(4000, 2))
    calibration = Calibration.fit(latents, metric, memory=8)
    if request.param == "stages":
        stages = fit_residual(latents, stages=4, tables=calibration.trellis, seed=0)
        calibration = replace(calibration, residual=stages)
    path = tmp_path_factory.mktemp("effort") / "codec.onnx"
    export_linear(linear, path, calibration=CodecCalibration(codes=calibration))
    made = PackedIndex(Codec.load(path), bytes=12)
    made.add(vectors(ROWS, 3))
    made.delete(np.arange(0, ROWS, 97))
    return made


def scanned(index: PackedIndex, queries: np.ndarray, k: int, monkeypatch: pytest.MonkeyPatch, **more):
    """Search without a first stage, one query after the other."""
    with monkeypatch.context() as patch:
        patch.setattr(search, "_SKETCHED_ROWS", 10**9)
        found = [index.search(query[None], k, **more) for query in queries]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


@pytest.mark.parametrize("k", [1, 10, 300])
def test_a_full_search_gives_the_same_bits_with_the_first_stage(index, k: int, monkeypatch) -> None:
    queries = vectors(8, 4)
    ids, scores = scanned(index, queries, k, monkeypatch)
    for start in range(0, 8, 4):
        found, same = index.search(queries[start : start + 4], k)
        assert np.array_equal(found, ids[start : start + 4])
        assert np.array_equal(same, scores[start : start + 4])


def test_few_queries_and_many_find_the_same(index) -> None:
    queries = vectors(8, 7)
    ids, scores = index.search(queries, 10)  # by matrix products
    for start in range(0, 8, 4):
        found, same = index.search(queries[start : start + 4], 10)  # by look-ups
        assert np.allclose(same, scores[start : start + 4], rtol=1e-5, atol=1e-5)
        assert (found == ids[start : start + 4]).mean() > 0.9  # some scores are nearly equal


def test_a_full_search_among_many_ids_stays_exact(index, monkeypatch) -> None:
    among = np.delete(np.arange(ROWS), np.arange(0, 60))
    queries = vectors(3, 5)
    ids, scores = scanned(index, queries, 20, monkeypatch, among=among)
    found, same = index.search(queries, 20, among=among)
    assert np.array_equal(found, ids)
    assert np.array_equal(same, scores)
    assert found.min() >= 60


@pytest.mark.parametrize(("effort", "least"), [("low", 0.75), ("medium", 0.9), ("high", 0.98)])
def test_less_effort_finds_most_of_it(index, effort: str, least: float) -> None:
    queries = vectors(60, 6)
    truth = np.concatenate([index.search(queries[start : start + 4], 10)[0] for start in range(0, 60, 4)])
    ids, scores = index.search(queries, 10, effort=effort)
    assert least < recall(ids, truth, 10).mean() <= 1
    assert (np.diff(scores, axis=1) <= 0).all()
    alone = np.concatenate([index.search(query[None], 10, effort=effort)[0] for query in queries[:5]])
    assert np.array_equal(alone, ids[:5])


@pytest.mark.parametrize(("rows", "count"), [(20_000, 80), (20_003, 300), (20_000, 1000), (500, 80), (50, 80)])
def test_the_highest_scores_are_all_chosen_and_few_others(rows: int, count: int) -> None:
    scores = np.random.default_rng(rows).standard_normal(rows).astype(np.float32)
    places = search._highest(scores, count)
    assert np.isin(np.argsort(-scores)[:count], places).all()
    assert (np.diff(places) > 0).all()
    assert len(places) <= 1.25 * count


def test_scores_that_overflowed_count_as_the_highest() -> None:
    scores = np.linspace(0, 1, 9000, dtype=np.float32)
    scores[10::1125] = 2  # all of one group
    scores[[5, 700, 8001]] = np.nan
    assert np.isin([5, 700, 8001, 10, 1135], search._highest(scores, 5)).all()


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_less_effort_for_codes_without_look_ups(tmp_path: Path, dtype: str) -> None:
    linear = fit_linear(vectors(4000, 2), DIM)
    codes = Calibration.fit(linear.encode(vectors(4000, 2)), Metric.COSINE)
    export_linear(linear, tmp_path / "codec.onnx", calibration=CodecCalibration(codes=codes))
    made = PackedIndex(Codec.load(tmp_path / "codec.onnx"), dtype=dtype)
    made.add(vectors(ROWS, 3))
    truth, exact = made.search(vectors(30, 4), 10)
    ids, scores = made.search(vectors(30, 4), 10, effort="high")
    assert recall(ids, truth, 10).mean() > 0.9
    assert np.allclose(scores[ids == truth], exact[ids == truth], atol=1e-5)


def test_rows_added_after_the_first_search_are_found(index) -> None:
    new = vectors(300, 9)
    made = PackedIndex(index._codec, bytes=12)
    made.add(vectors(ROWS, 3))
    made.prepare()
    made.add(new, np.arange(10**6, 10**6 + 300))
    ids = [made.search(row[None], 5, effort="high")[0] for row in new[:40]]
    full = [made.search(row[None], 5)[0] for row in new[:40]]
    assert recall(np.concatenate(ids), np.concatenate(full), 5).mean() > 0.95


def test_a_small_index_is_searched_in_full_at_any_effort(index) -> None:
    made = PackedIndex(index._codec, bytes=12)
    made.add(vectors(500, 3))
    for query in vectors(5, 4):
        assert np.array_equal(made.search(query[None], 10, effort="low")[0], made.search(query[None], 10)[0])


def test_unknown_efforts_are_refused(index) -> None:
    with pytest.raises(IndexArgumentError, match="effort: expected one of low, medium, high, full, got 'lower'"):
        index.search(vectors(1, 4), 3, effort="lower")
    assert [str(each) for each in Effort] == ["low", "medium", "high", "full"]


def sketched(width: int) -> tuple[np.ndarray, Sketch]:
    """Draw rows of which one is long, and make their sketch in parts."""
    random = np.random.default_rng(width)
    rows = (random.standard_normal((3000, width)) * np.geomspace(1, 0.05, width) + 0.3).astype(np.float32)
    rows[7] *= 40
    sketch = Sketch(Axes.fit(rows[8:2000], 24 if width < 150 else 64))
    for start in range(0, 3000, 700):
        sketch.append(rows[start : start + 700])
    return rows, sketch


@pytest.mark.parametrize("width", [5, 64, 100, 160])
def test_estimates_are_within_their_bound(width: int) -> None:
    rows, sketch = sketched(width)
    for query in np.random.default_rng(0).standard_normal((20, width)).astype(np.float32):
        estimate = sketch.estimate(query, 3000, threads=1)
        exact = rows.astype(np.float64) @ query
        bound = estimate.reach * sketch.lost + estimate.margin
        assert (np.abs(exact - estimate.scores) <= bound).all()
        usual = np.arange(3000) != 7
        assert np.corrcoef(exact[usual], estimate.scores[usual])[0, 1] > 0.85
        assert np.median(bound) < 0.7 * np.linalg.norm(query) * np.median(np.linalg.norm(rows, axis=1))


@pytest.mark.parametrize("width", [5, 64, 100, 160])
def test_guesses_are_near_the_products(width: int) -> None:
    rows, sketch = sketched(width)
    usual, some = np.arange(3000) != 7, np.array([0, 3, 255, 256, 2999])
    for query in np.random.default_rng(0).standard_normal((20, width)).astype(np.float32):
        asked = sketch.ask(query, fine=False)
        exact = rows.astype(np.float64) @ query
        by_signs, by_levels = sketch.by_signs(asked, 3000, threads=1), sketch.by_levels(asked, 3000, threads=1)
        assert np.array_equal(sketch.of_rows(asked, some), by_levels[some])
        for guessed, alike in ((by_signs, 0.7), (by_levels, 0.9)):
            assert np.corrcoef(exact[usual], guessed[usual])[0, 1] > alike
            # On the scale of the products: squared norms are subtracted from them.
            assert abs(np.polyfit(guessed[usual], exact[usual], 1)[0] - 1) < 0.5


def test_a_row_that_overflows_is_never_left_out() -> None:
    rows = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32)
    sketch = Sketch(Axes.fit(rows, 16))
    rows[5] = 3e38
    with np.errstate(all="ignore"):
        sketch.append(rows)
    assert np.flatnonzero(np.isinf(sketch.lost)).tolist() == [5]
