"""Test codes written long ago, read by the library and by docs/codes.md alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec.codes import Calibration

# For each metric and trellis memory a calibration of 24 latents, 9 rows of them and their codes.
GOLDEN = Path(__file__).parent / "golden" / "codes.npz"
CASES = [("cosine", 8), ("cosine", 10), ("cosine", 12), ("dot", 8)]
# The same of two calibrations of 16 latents with stages before the trellis: by cosine with decoders, by dot without.
RESIDUAL = Path(__file__).parent / "golden" / "codes-residual.npz"
UNIFORM = ("int8", "int4", "int2", "binary")
SIZES = (8, 11, 12)


def calibration(metric: str, memory: int) -> dict[str, Any]:
    with np.load(GOLDEN, allow_pickle=False) as golden:
        return json.loads(str(golden[f"{metric} {memory}"]))


def codes_of(metric: str, memory: int, name: str) -> np.ndarray:
    with np.load(GOLDEN, allow_pickle=False) as golden:
        return golden[f"{metric} {memory} {name}"]


@pytest.mark.parametrize("name", [*UNIFORM, *map(str, SIZES)])
@pytest.mark.parametrize(("metric", "memory"), CASES)
def test_codes_mean_what_they_always_did(metric: str, memory: int, name: str) -> None:
    stored, codes = calibration(metric, memory), codes_of(metric, memory, name)
    ours = Calibration.from_json(stored).code(**({"bytes": int(name)} if name.isdecimal() else {"dtype": name}))
    np.testing.assert_array_equal(ours.encode(codes_of(metric, memory, "latents")), codes)
    by_the_book = trellis(stored, codes) if name.isdecimal() else uniform(stored, name, codes)
    np.testing.assert_allclose(ours.decode(codes), by_the_book, rtol=0, atol=2e-6 * np.abs(by_the_book).max())


@pytest.mark.parametrize(
    ("metric", "size"),
    [*(("cosine", size) for size in (4, 6, 8, 9, 11, 14)), *(("dot", size) for size in (4, 7, 8, 10, 12))],
)
def test_codes_with_stages_mean_what_they_always_did(metric: str, size: int) -> None:
    with np.load(RESIDUAL, allow_pickle=False) as golden:
        stored = json.loads(str(golden[f"{metric} calibration"]))
        latents, codes = golden[f"{metric} latents"], golden[f"{metric} {size}"]
    ours = Calibration.from_json(stored).code(bytes=size)
    np.testing.assert_array_equal(ours.encode(latents), codes)
    by_the_book = staged(stored, codes)
    np.testing.assert_allclose(ours.decode(codes), by_the_book, rtol=0, atol=2e-6 * np.abs(by_the_book).max())


def array(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def finished(stored: dict[str, Any], rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if stored["metric"] == "cosine" else rows


def uniform(stored: dict[str, Any], name: str, codes: np.ndarray) -> np.ndarray:
    mean, spread = (array(stored[key], "<f4").astype(float) for key in ("mean", "spread"))
    width = len(mean)
    if name == "int8":
        return finished(stored, codes * max(array(stored["peak"], "<f4")[-1], 1e-30) / 127)
    levels = array(stored["levels"][name], "<f4")
    bits = len(levels).bit_length() - 1
    norm = np.sqrt((spread**2).sum())
    if stored["metric"] != "cosine":
        norm = np.ascontiguousarray(codes[:, -2:]).view("<f2").astype(float)
        codes = codes[:, :-2]
    stream = np.unpackbits(codes, axis=1)[:, : width * bits].reshape(len(codes), width, bits)
    rows = levels[stream @ (1 << np.arange(bits - 1, -1, -1))] / np.sqrt(width) * norm
    signs = 2.0 * np.unpackbits(array(stored["signs"], "u1").reshape(4, -1), axis=1)[:, :width] - 1
    window = 1 << (width.bit_length() - 1)
    hadamard = np.ones((1, 1))
    while len(hadamard) < window:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    for number in (3, 2, 1, 0):
        part = slice(0, window) if number % 2 == 0 else slice(width - window, width)
        rows[:, part] = rows[:, part] @ hadamard / np.sqrt(window)
        rows *= signs[number]
    return finished(stored, rows + mean)


def trellis(stored: dict[str, Any], codes: np.ndarray) -> np.ndarray:
    mean, spread = (array(stored[key], "<f4") for key in ("mean", "spread"))
    rows = np.tile(mean.astype(float), (len(codes), 1))
    for dimension, level in levels_of(stored, array(stored["importance"], "<f4"), codes):
        rows[:, dimension] += spread[dimension] * level
    return finished(stored, rows)


def levels_of(stored: dict[str, Any], importance: np.ndarray, codes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each step's dimension and its level in every code."""
    memory, distortion = stored["trellis"]["memory"], array(stored["trellis"]["distortion"], "<f4")
    levels = array(stored["trellis"]["levels"], "<f2").reshape(len(distortion), 1 << memory).astype(float)
    total = 8 * codes.shape[1]
    gains = importance[:, None] * -np.diff(distortion, prepend=np.float32(1))
    # Equal gains: the lower dimension, then the lower rate.
    granted = sorted((-gain, *place) for place, gain in np.ndenumerate(gains))[:total]
    bits = np.bincount([dimension for _, dimension, _ in granted], minlength=len(importance))
    stream = np.unpackbits(codes, axis=1).astype(np.int64)
    end = 0
    for dimension in sorted(np.flatnonzero(bits), key=lambda dimension: (bits[dimension], dimension)):
        end += bits[dimension]
        state = np.zeros(len(codes), np.int64)
        for position in range(end - memory, end):
            state = 2 * state + stream[:, position % total]
        yield int(dimension), levels[bits[dimension] - 1, state]


def staged(stored: dict[str, Any], codes: np.ndarray) -> np.ndarray:
    residual, size = stored["residual"], codes.shape[1]
    width = len(array(residual["mean"], "<f4"))
    alone = size <= residual["whole"]
    stages = size if alone else residual["stages"]
    mean, spread, importance = (array(residual[key], "<f4") for key in ("mean", "spread", "importance"))
    axes = array(residual["axes"], "<f2").reshape(width, width).astype(float)
    books, offset = centroids(residual["books"], width), np.zeros(width) if alone else mean @ axes
    axes = spread[:, None] * axes
    for decoder in residual["decoders"]:
        if decoder["least"] <= size <= decoder["most"]:
            share = min(1, decoder["full"] / size) ** 1.5
            books = (1 - share) * books[:stages] + share * centroids(decoder["books"], width)
            offset = (1 - share) * offset + share * array(decoder["offset"], "<f4")
            if not alone:
                axes = (1 - share) * axes + share * array(decoder["axes"], "<f2").astype(float).reshape(width, width)
    rows = np.tile(offset.astype(float), (len(codes), 1))
    for stage in range(stages):
        rows += books[stage, codes[:, stage]]
    if not alone:
        for dimension, level in levels_of(stored, importance, codes[:, stages:]):
            rows += level[:, None] * axes[dimension]
    return finished(stored, rows)


def centroids(text: str, width: int) -> np.ndarray:
    return array(text, "<f2").astype(float).reshape(-1, 256, width)
