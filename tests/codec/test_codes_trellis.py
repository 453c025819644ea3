"""Test trellis codes against a plain-Python reading of docs/codes.md, one float32 operation at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vaecodec import Metric
from vaecodec.codes import Calibration, TrellisCode, TrellisTables
from vaecodec.codes.allocation import allocate_bits
from vaecodec.errors import InvalidBudgetError

f32 = np.float32


def encode_in_python(code: TrellisCode, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.stack([_pack(_search(code, _values(code, row)), code.rates) for row in latents])


def decode_in_python(code: TrellisCode, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return latents before normalisation."""
    memory, total = code.tables.memory, 8 * code.bytes_per_vector
    latents = np.tile(code.mean, (len(codes), 1))
    for row, packed in enumerate(codes):
        bits = [(int(packed[i // 8]) >> (7 - i % 8)) & 1 for i in range(total)]
        end = 0
        for dimension, rate in zip(code.order, code.rates, strict=True):
            end += int(rate)
            state = 0
            for i in range(end - memory, end):
                state = 2 * state + bits[i % total]
            level = f32(code.tables.levels[rate - 1, state])
            latents[row, dimension] = code.mean[dimension] + code.spread[dimension] * level
    return latents


def _values(code: TrellisCode, row: NDArray[np.float32]) -> list[np.float32]:
    values = []
    for dimension in code.order:
        spread = code.spread[dimension]
        inverse = f32(1) / spread if spread > 0 else f32(0)
        values.append(min(max((row[dimension] - code.mean[dimension]) * inverse, f32(-16)), f32(16)))
    return values


def _search(code: TrellisCode, values: list[np.float32]) -> list[int]:
    """Return the state after each step."""
    steps, reach = len(code.rates), 6 * code.tables.memory
    tail = min(next(n for n in range(1, steps + 1) if code.rates[-n:].sum() >= reach or n == steps), steps)
    head = min(next(n for n in range(1, steps + 1) if code.rates[:n].sum() >= reach or n == steps), steps - tail)
    states = 1 << code.tables.memory
    around = [t % steps for t in range(steps - tail, steps + head)]
    free = _viterbi(code, values, around, [f32(0)] * states, None)
    junction = free[tail - 1]
    start = [f32(np.inf)] * states
    start[junction] = f32(0)
    return _viterbi(code, values, list(range(steps)), start, junction)


def _viterbi(
    code: TrellisCode, values: list[np.float32], around: list[int], cost: list[np.float32], end: int | None
) -> list[int]:
    memory = code.tables.memory
    before: list[list[int]] = []
    for t in around:
        rate = int(code.rates[t])
        weight = code.importance[code.order[t]]
        new_cost, came_from = [], []
        for state in range(1 << memory):
            candidates = [(oldest << (memory - rate)) | (state >> rate) for oldest in range(1 << rate)]
            best = min(candidates, key=lambda candidate: cost[candidate])  # the first of equals
            error = values[t] - f32(code.tables.levels[rate - 1, state])
            new_cost.append(cost[best] + weight * (error * error))
            came_from.append(best)
        cost = new_cost
        before.append(came_from)
    if end is None:
        # As the step that follows would choose: the cheapest group of states first, then its cheapest state.
        rate = int(code.rates[(around[-1] + 1) % len(code.rates)])
        groups = 1 << (memory - rate)
        least = [min(cost[group::groups]) for group in range(groups)]
        group = least.index(min(least))
        end = min(range(group, 1 << memory, groups), key=lambda state: cost[state])
    states = [end]
    for came_from in reversed(before[1:]):
        states.append(came_from[states[-1]])
    return states[::-1]


def _pack(states: list[int], rates: NDArray[np.int64]) -> NDArray[np.uint8]:
    bits = [(state >> b) & 1 for state, rate in zip(states, rates, strict=True) for b in range(int(rate) - 1, -1, -1)]
    return np.packbits(np.array(bits, np.uint8))


def latents_of(rows: int, width: int, seed: int, metric: Metric = Metric.COSINE) -> np.ndarray:
    """Draw latents that are uncorrelated, spread unevenly and off centre."""
    random = np.random.default_rng(seed)
    latents = random.standard_normal((rows, width)) * np.geomspace(1, 0.05, width) + 0.2
    if metric is Metric.COSINE:
        latents /= np.linalg.norm(latents, axis=1, keepdims=True)
    return latents.astype(np.float32)


@lru_cache
def calibration_of(width: int, metric: Metric = Metric.COSINE, memory: int = 8) -> Calibration:
    return Calibration.fit(latents_of(2000, width, 0, metric), metric, memory=memory)


@settings(max_examples=8)
@given(
    width=st.integers(20, 40),
    size=st.integers(8, 10),
    memory=st.sampled_from([8, 10]),
    metric=st.sampled_from(Metric),
    seed=st.integers(0, 1000),
)
def test_trellis_codes_are_what_plain_python_finds(width, size, memory, metric, seed) -> None:
    code = calibration_of(width, metric, memory).code(bytes=size)
    assert isinstance(code, TrellisCode)
    latents = latents_of(2, width, seed, metric)
    codes = code.encode(latents)
    assert np.array_equal(codes, encode_in_python(code, latents))
    expected = decode_in_python(code, codes)
    if metric is Metric.COSINE:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.allclose(code.decode(codes), expected, atol=1e-6)
    else:
        assert np.array_equal(code.decode(codes), expected)


@settings(max_examples=15)
@given(width=st.integers(20, 300), size=st.integers(8, 80), memory=st.sampled_from([8, 10]), seed=st.integers(0, 99))
def test_codes_survive_decoding_and_encoding(width: int, size: int, memory: int, seed: int) -> None:
    """What a code decodes to is at no distance from that code, so encoding it again decodes to the same."""
    size = min(size, width * (memory // 2) // 8)
    code = calibration_of(width, Metric.DOT, memory).code(bytes=size)
    values = code.decode(code.encode(latents_of(3, width, seed, Metric.DOT)))
    assert np.allclose(code.decode(code.encode(values)), values, atol=1e-3)


@settings(max_examples=30)
@given(
    width=st.integers(20, 300),
    size=st.integers(8, 80),
    memory=st.sampled_from([8, 10]),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_only_rows_below_what_is_needed_are_given_up(width, size, memory, share, seed) -> None:
    """The dot products are those with the decoded latents, and every row that reaches what is needed has one."""
    size = min(size, width * (memory // 2) // 8)
    code = calibration_of(width, Metric.DOT, memory).code(bytes=size)
    assert isinstance(code, TrellisCode)
    rows = latents_of(700, width, seed, Metric.DOT)  # several blocks, the last one short
    codes, query = code.encode(rows), rows[3]
    latents = code.decode(codes).astype(np.float64)
    expected = latents @ query
    needed = np.quantile(expected, share) * np.random.default_rng(seed).uniform(0.9, 1.1, len(rows))
    squares = (latents**2).sum(axis=1)
    dots = code.dot_products(
        codes, code.tables_of(query), needed.astype(np.float32), squares.astype(np.float32), threads=2
    )
    error = 1e-4 * np.linalg.norm(query) * np.sqrt(squares)
    finished = np.isfinite(dots)
    assert np.allclose(dots[finished], expected[finished], rtol=0, atol=error.max())
    assert finished[expected > needed + error].all()
    assert not finished[expected < needed - error].any()


def test_numpy_decodes_to_the_same_bits_as_numba(tmp_path: Path) -> None:
    code = calibration_of(100).code(bytes=33)
    codes = np.random.default_rng(0).integers(0, 256, (50, 33)).astype(np.uint8)
    np.save(tmp_path / "codes.npy", codes)
    stored = tmp_path / "calibration.json"
    stored.write_text(json.dumps(calibration_of(100).to_json()))
    script = f"""
import sys, json
sys.modules["numba"] = None
import numpy as np
from vaecodec.codes import Calibration
from vaecodec.errors import MissingExtraError
code = Calibration.from_json(json.load(open({str(stored)!r}))).code(bytes=33)
np.save({str(tmp_path / "decoded.npy")!r}, code.decode(np.load({str(tmp_path / "codes.npy")!r})))
try:
    code.encode(np.zeros((1, 100), np.float32))
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "numba is not installed; install it with: pip install 'vaecodec[packed]'\n"
    assert np.array_equal(np.load(tmp_path / "decoded.npy"), code.decode(codes))


@settings(max_examples=50)
@given(
    # Far above what float32 products with the drops lose digits of.
    importance=st.lists(st.just(0.0) | st.floats(2**-60, 1e6, width=32), min_size=16, max_size=64),
    share=st.floats(0.01, 1),
)
def test_allocation_spends_every_bit_where_it_helps_most(importance, share) -> None:
    distortion = TrellisTables.standard(10).distortion
    values = np.array(importance, np.float32)
    total = int(share * len(values) * len(distortion))
    bits = allocate_bits(values, distortion, total)
    assert bits.sum() == total
    assert bits.min() >= 0
    assert bits.max() <= len(distortion)
    left = np.concatenate([[1], distortion])
    drops = np.append(left[:-1] - left[1:], 0)
    next_gain = values * drops[bits]
    last_gain = np.where(bits > 0, values * drops[bits - 1], np.inf)
    assert last_gain.min() >= next_gain[bits < len(distortion)].max(initial=0) * (1 - 1e-5)


@pytest.mark.parametrize("memory", [8, 10, 12])
def test_the_shipped_tables_have_the_distortion_they_state(memory: int) -> None:
    tables = TrellisTables.standard(memory)
    assert tables.levels.shape == (memory // 2, 1 << memory)
    lloyd_max = [0.3634, 0.1175, 0.0345, 0.0095, 0.0025, 0.00064]
    shannon = [0.25**bits for bits in range(1, 7)]
    random = np.random.default_rng(7)
    for rate, stated in enumerate(tables.distortion[:4], start=1):
        width = 128
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        code = TrellisCode(rate * width // 8, zeros, ones, ones, tables, Metric.DOT)
        assert (code.bits == rate).all()
        latents = random.standard_normal((200, width), np.float32)
        measured = np.mean((code.decode(code.encode(latents)) - latents) ** 2)
        assert measured == pytest.approx(stated, rel=0.06)
        assert shannon[rate - 1] < measured < 0.85 * lloyd_max[rate - 1]


@pytest.mark.parametrize("size", [7, 384 * 5 // 8 + 1])
def test_budgets_that_cannot_be_spent_are_refused(size: int) -> None:
    with pytest.raises(InvalidBudgetError) as refusal:
        calibration_of(384, memory=10).code(bytes=size)
    assert str(refusal.value) == (
        f"bytes: expected 8 to 240 for 384 latents, got {size}; beyond that use dtype='float16' or 'float32'"
    )
