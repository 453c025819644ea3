"""Test stages of k-means before the trellis."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import Metric, fit_linear
from vaecodec.codes import Calibration, ResidualCode, TrellisTables, calibration, decoder_fit
from vaecodec.codes.decoder_fit import fit_decoder
from vaecodec.codes.residual import Residual
from vaecodec.codes.residual_fit import fit_residual
from vaecodec.errors import InvalidBudgetError
from vaecodec.evaluation import exact_search, recall

WIDTH = 24


def latents_of(rows: int, seed: int, metric: Metric = Metric.COSINE) -> np.ndarray:
    """Draw latents that are clustered, spread unevenly and off centre."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, WIDTH))
    drawn = centres[random.integers(0, 60, rows)] + 0.8 * random.standard_normal((rows, WIDTH))
    drawn = drawn * np.geomspace(1, 0.2, WIDTH) + 0.1
    if metric is Metric.COSINE:
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


@lru_cache
def staged(metric: Metric = Metric.COSINE) -> Calibration:
    latents = latents_of(3000, 0, metric)
    tables = TrellisTables.standard(8)
    plain = Calibration.fit(latents, metric, memory=8)
    return replace(plain, residual=fit_residual(latents, stages=4, tables=tables, seed=0))


@lru_cache
def fitted() -> Calibration:
    """Fit a calibration with a decoder."""
    made = staged()
    codes: Any = [made.code(bytes=size) for size in (10, 14)]
    decoder = fit_decoder(codes, latents_of(1024, 0), latents_of(500, 1), Metric.COSINE, seed=0)
    assert made.residual is not None
    return replace(made, residual=replace(made.residual, decoders=[replace(decoder, least=10, most=14, full=14)]))


def whole() -> Residual:
    """Make 8 bytes mean 8 stages, whatever the fit chose."""
    made = fitted().residual
    assert made is not None
    return replace(made, whole=8, books=np.concatenate([made.books, made.books])[:8])


@pytest.mark.parametrize("metric", Metric)
def test_more_bytes_come_closer(metric: Metric) -> None:
    latents = latents_of(500, 2, metric)
    errors = []
    for size in range(4, 17):
        code = staged(metric).code(bytes=size)
        assert isinstance(code, ResidualCode)
        codes = code.encode(latents)
        assert codes.shape == (500, size)
        assert codes.dtype == np.uint8
        assert code.bytes_per_vector == size
        assert code.name == f"{size} bytes"
        errors.append(((code.decode(codes) - latents) ** 2).mean())
    alone = staged(metric).residual.whole - 3  # budgets of stages alone
    assert (np.diff(errors[:alone]) < 0).all()
    assert (np.diff(errors[alone:]) < 0).all()
    assert errors[-1] < 0.02 * latents.var()


def test_stages_find_more_than_a_trellis_alone_and_a_fitted_decoder_more_still(sample) -> None:
    linear = fit_linear(sample.train, 96)
    latents, asked = linear.encode(sample.train), linear.encode_queries(sample.train_queries)
    alone = Calibration.fit(latents, Metric.COSINE, memory=8)
    before = replace(alone, residual=fit_residual(latents, stages=4, tables=alone.trellis, seed=0))
    code: Any = before.code(bytes=16)
    decoder = fit_decoder([code], latents, asked, Metric.COSINE, seed=0)
    assert before.residual is not None
    after = replace(before, residual=replace(before.residual, decoders=[decoder]))
    base, queries = sample.base, sample.queries
    truth, _ = exact_search(base, queries, 10, Metric.COSINE)
    rows, queries = linear.encode(base), linear.encode_queries(queries)
    recalls = []
    for code in (made.code(bytes=16) for made in (alone, before, after)):
        ids, _ = exact_search(code.decode(code.encode(rows)), queries, 10, Metric.COSINE)
        recalls.append(float(recall(ids, truth, 10).mean()))
    assert recalls[0] + 0.005 < recalls[1] < recalls[2] - 0.002


def test_a_rows_code_depends_on_that_row_alone() -> None:
    code, latents = fitted().code(bytes=12), latents_of(300, 5)
    codes = code.encode(latents, threads=2)
    assert np.array_equal(np.concatenate([code.encode(row[None]) for row in latents[:20]]), codes[:20])
    assert np.array_equal(code.encode(latents[::-1])[::-1], codes)
    decoded = code.decode(codes)
    assert np.array_equal(np.concatenate([code.decode(row[None]) for row in codes[:20]]), decoded[:20])


def test_the_beam_finds_codes_at_least_as_close_as_the_nearest_centroid_of_every_stage() -> None:
    code: Any = staged().code(bytes=7)
    latents = latents_of(400, 6)
    left = latents.copy()
    for book in code.books:
        left -= book[((left[:, None] - book) ** 2).sum(axis=2).argmin(axis=1)]
    greedy = (left**2).sum(axis=1)
    values = np.empty_like(latents)
    code.expand(code.encode(latents), values)
    ours = ((latents - values) ** 2).sum(axis=1)
    assert ours.mean() < 0.97 * greedy.mean()
    assert (ours <= greedy * (1 + 1e-4)).mean() > 0.9


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("size", [4, 6, 8, 13])
def test_dot_products_are_those_with_what_codes_stand_for(size: int, early: bool) -> None:
    code: Any = fitted().code(bytes=size)
    query = latents_of(1, 7)[0]
    codes = code.encode(latents_of(700, 8))
    values = np.empty((700, WIDTH), np.float32)
    code.expand(codes, values)
    assert np.allclose(values / np.linalg.norm(values, axis=1, keepdims=True), code.decode(codes), atol=1e-5)
    expected = values @ query
    needed = np.full(700, np.median(expected), np.float32)
    squares, asked = code.squares(codes) if early else None, code.tables_of(query)
    dots = code.dot_products(codes, asked, needed, squares, threads=2)
    kept = np.isfinite(dots)
    assert np.allclose(dots[kept], expected[kept], atol=1e-5)
    assert kept[expected > needed + 1e-4].all()
    assert not kept[expected < needed - 1e-4].any()
    some = np.arange(1, 700, 3)
    fewer = code.dot_products(codes, asked, needed[some], None if squares is None else squares[some], numbers=some)
    assert np.array_equal(fewer, dots[some])


def test_rows_are_given_up_early_but_none_that_reaches_what_is_needed() -> None:
    random = np.random.default_rng(0)
    width, rows = 120, 900
    spread = np.geomspace(0.3, 0.02, width).astype(np.float32)
    books = 0.1 * random.standard_normal((8, 256, width)).astype(np.float32)
    axes = np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)
    residual = Residual(4, books, axes, np.zeros_like(spread), spread, spread**3, 8)
    code = residual.code(40, np.zeros_like(spread), spread, TrellisTables.standard(8), Metric.DOT)
    assert code.rest is not None
    assert code.rest.steps > 96
    codes = random.integers(0, 256, (rows, 40)).astype(np.uint8)
    asked = code.tables_of(random.standard_normal(width).astype(np.float32))
    whole = code.dot_products(codes, asked, np.full(rows, -np.inf, np.float32))
    needed = np.full(rows, np.quantile(whole, 0.9), np.float32)
    dots = code.dot_products(codes, asked, needed, code.squares(codes), threads=2)
    assert np.array_equal(np.isfinite(dots), whole >= needed)
    assert np.array_equal(dots[whole >= needed], whole[whole >= needed])


def test_json_keeps_everything() -> None:
    restored = Calibration.from_json(json.loads(json.dumps(fitted().to_json())))
    latents = latents_of(30, 9)
    for size in (4, 5, 8, 14):
        codes = fitted().code(bytes=size).encode(latents)
        assert np.array_equal(restored.code(bytes=size).encode(latents), codes)
        assert np.array_equal(restored.code(bytes=size).decode(codes), fitted().code(bytes=size).decode(codes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"whole": 9}, "expected 8 stages to suit 4 and 9"),
        ({"stages": 0}, "to suit 0"),
        ({"stages": True}, "to suit True"),
        ({"whole": 5}, "none is of 6 bytes"),
        ({"books": "AAAA"}, "cannot reshape|buffer size"),
        ({"axes": ""}, "cannot reshape"),
        ({"mean": ""}, "cannot reshape"),
    ],
)
def test_malformed_stages_are_refused(change: dict, message: str) -> None:
    stored = whole().to_json()
    assert Residual.from_json(stored, WIDTH).whole == 8
    with pytest.raises(ValueError, match=message):
        Residual.from_json({**stored, **change}, WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"full": 9}, "expected the budgets of a decoder, got 10, 14 and 9"),
        ({"least": 8}, "expected the stages of 8 to 14 bytes in a decoder, got 4"),
        ({"least": 5, "most": 7}, "expected the stages of 5 to 7 bytes in a decoder, got 4"),
        ({"most": "14"}, "expected the budgets of a decoder, got 10, '14' and 14"),
        ({"least": 15}, "expected the budgets of a decoder, got 15, 14 and 14"),
        ({"axes": ""}, "cannot reshape"),
    ],
)
def test_malformed_decoders_are_refused(change: dict, message: str) -> None:
    stored = whole().to_json()
    stored["decoders"][0].update(change)
    with pytest.raises(ValueError, match=message):
        Residual.from_json(stored, WIDTH)


def test_budgets_that_cannot_be_spent_are_refused() -> None:
    for size in (3, 4 + WIDTH * 4 // 8 + 1):
        with pytest.raises(InvalidBudgetError, match=f"bytes: expected 4 to 16 for 24 latents, got {size}; beyond"):
            staged().code(bytes=size)


def test_numpy_decodes_to_the_same_bits_as_numba(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (600, 13)).astype(np.uint8)
    np.save(tmp_path / "codes.npy", codes)
    (tmp_path / "calibration.json").write_text(json.dumps(fitted().to_json()))
    script = """
import sys, json
sys.modules["numba"] = None
import numpy as np
from vaecodec.codes import Calibration
code = Calibration.from_json(json.load(open("calibration.json"))).code(bytes=13)
np.save("decoded.npy", code.decode(np.load("codes.npy")))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert np.array_equal(np.load(tmp_path / "decoded.npy"), fitted().code(bytes=13).decode(codes))


def test_what_is_far_from_the_training_data_is_told_and_still_encoded() -> None:
    code, latents = staged(Metric.DOT).code(bytes=10), latents_of(20, 4, Metric.DOT)
    latents[3] *= 50
    assert np.flatnonzero(code.saturated(latents)).tolist() == [3]
    assert np.isfinite(code.decode(code.encode(latents))).all()


def test_rows_that_are_all_the_same_have_stages() -> None:
    same = np.tile(latents_of(1, 0), (400, 1))
    made = fit_residual(same, stages=4, tables=TrellisTables.standard(8), seed=0)
    whole = replace(Calibration.fit(same, Metric.COSINE, memory=8), residual=made)
    for size in (4, 7, 12):
        code = whole.code(bytes=size)
        assert np.allclose(code.decode(code.encode(same)), same, atol=2e-3)


def test_calibrations_get_stages_from_some_rows_on(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = latents_of(3000, 0)
    plain = Calibration.fit(latents, Metric.COSINE, memory=8)
    assert plain.with_residual(latents) is plain
    monkeypatch.setattr(calibration, "_STAGED_ROWS", 3000)
    monkeypatch.setattr(decoder_fit, "EPOCHS", 2)
    made = plain.with_residual(latents, latents_of(500, 1))
    assert made.residual is not None
    assert made.prefix(20).residual is None
    assert made.prefix(WIDTH) is made
    served = [(each.least, each.most) for each in made.residual.decoders]
    assert served == ([(8, 8), (9, 16)] if made.residual.whole == 8 else [(8, 16)])
    again = plain.with_residual(latents, latents_of(500, 1))
    assert again.to_json() == made.to_json()


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("metric", Metric)
def test_the_decoder_follows_the_slope_of_its_loss(metric: Metric, alone: bool) -> None:
    """Follow the cross-entropy between a query's scores of documents, as probabilities, and those of the latents."""
    random = np.random.default_rng(0)
    latents: Any = latents_of(30, 0, metric).astype(np.float64)
    asked: Any = latents if alone else latents_of(20, 1, metric).astype(np.float64)
    decoded: Any = latents + 0.1 * random.standard_normal(latents.shape)
    scale = 4.0

    def shares(rows: np.ndarray) -> np.ndarray:
        if metric is Metric.L2:
            scores = -((asked[:, None] - rows) ** 2).sum(axis=2) / 2
        else:
            scores = asked @ (rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric is Metric.COSINE else rows).T
        if alone:
            np.fill_diagonal(scores, -1e9)
        powers = np.exp(scale * scores - (scale * scores).max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def loss(rows: np.ndarray) -> float:
        return float(-(shares(latents) * np.log(shares(rows) + 1e-300)).sum(axis=1).mean())

    slope = decoder_fit._slope(asked, latents, decoded, metric, np.float32(scale), alone)
    for _ in range(3):
        step = 1e-5 * random.standard_normal(decoded.shape)
        measured = loss(decoded + step) - loss(decoded - step)
        assert 2 * (slope * step).sum() == pytest.approx(measured, rel=1e-3, abs=1e-10)
