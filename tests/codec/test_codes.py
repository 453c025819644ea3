"""Test uniform codes, calibration, and codes of real vectors through a codec file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec import Codec, Metric, fit_linear
from vaecodec.codes import Calibration, CodeType
from vaecodec.codes.rotation import rotate, rotate_back
from vaecodec.errors import InvalidBudgetError, InvalidDimensionError, InvalidVectorsError, NotCalibratedError
from vaecodec.evaluation import exact_search, recall
from vaecodec_exporters.linear import export_linear

UNIFORM = [str(code_type) for code_type in CodeType]


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


@pytest.fixture(scope="module")
def codec(sample, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    linear = fit_linear(sample.train, 384)
    path = tmp_path_factory.mktemp("codes") / "svd384.onnx"
    export_linear(linear, path)
    return Codec.load(path)


# Uniform codes


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("dtype", UNIFORM)
@pytest.mark.parametrize("width", [1, 7, 64, 100])
def test_uniform_codes_decode_to_their_latents(dtype: str, metric: Metric, width: int) -> None:
    code = calibration_of(width, metric).code(dtype=dtype)
    latents = latents_of(300, width, 1, metric)
    codes = code.encode(latents)
    assert codes.shape[0] == 300
    assert codes[0].nbytes == code.bytes_per_vector
    decoded = code.decode(codes)
    assert decoded.shape == latents.shape
    centred = latents - code.mean
    error = ((decoded - latents) ** 2).sum() / (centred**2).sum()
    worst = {"float32": 0, "float16": 1e-6, "int8": 2e-3, "int4": 0.02, "int2": 0.15, "binary": 0.45}
    assert error <= (worst[dtype] if width >= 64 or "float" in dtype or dtype == "int8" else 1.0)


@settings(max_examples=40)
@given(width=st.integers(1, 40), dtype=st.sampled_from(["int4", "int2", "binary"]), seed=st.integers(0, 99))
def test_packing_keeps_every_level(width: int, dtype: str, seed: int) -> None:
    """The levels read back from the bytes are those of the nearest quantiser cell, for any width."""
    code: Any = calibration_of(width, Metric.DOT).code(dtype=dtype)
    latents = latents_of(5, width, seed, Metric.DOT)
    values = np.empty((5, width), np.float32)
    code.expand(code.encode(latents), values)
    centred = latents - code.mean
    norms = np.linalg.norm(centred, axis=1).astype(np.float16).astype(np.float32)[:, None]
    rotated = rotate(centred / np.linalg.norm(centred, axis=1, keepdims=True), code.signs) * np.sqrt(width)
    errors = np.abs(rotated[:, :, None] - code.levels)
    chosen = np.abs(rotated - values * np.sqrt(width) / norms)
    assert np.allclose(chosen, errors.min(axis=2), atol=1e-4)  # two levels at an edge are equally near


@settings(max_examples=30)
@given(width=st.integers(1, 500), seed=st.integers(0, 99))
def test_the_rotation_is_one(width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    signs = random.choice(np.array([-1, 1], np.float32), (4, width))
    rows = random.standard_normal((6, width), np.float32)
    turned = rotate(rows, signs)
    assert np.allclose(rotate_back(turned, signs), rows, atol=1e-4)
    assert np.allclose(turned @ turned.T, rows @ rows.T, atol=1e-2)


def test_values_out_of_range_are_clipped() -> None:
    calibration = calibration_of(64, Metric.DOT)
    far = np.full((1, 64), 1e30, np.float32)
    assert (calibration.code(dtype="int8").encode(far) == 127).all()
    assert (calibration.code(dtype="int8").encode(-far) == -127).all()
    assert np.isfinite(calibration.code(dtype="float16").encode(far)).all()
    for parameters in ({"dtype": "int4"}, {"dtype": "binary"}, {"bytes": 16}):
        code = calibration.code(**parameters)
        assert np.isfinite(code.decode(code.encode(far))).all()


def test_a_constant_dimension_is_kept_exactly() -> None:
    latents = latents_of(500, 64, 3, Metric.L2)
    latents[:, 10] = 0.75
    code = Calibration.fit(latents, Metric.L2).code(bytes=16)
    assert (code.decode(code.encode(latents))[:, 10] == 0.75).all()


# Calibration


def test_calibration_survives_json() -> None:
    calibration = calibration_of(100)
    restored = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    latents = latents_of(20, 100, 5)
    settings: list[dict[str, Any]] = [{"bytes": 24}, *({"dtype": dtype} for dtype in UNIFORM)]
    for parameters in settings:
        codes = calibration.code(**parameters).encode(latents)
        assert np.array_equal(restored.code(**parameters).encode(latents), codes)
        assert np.array_equal(restored.code(**parameters).decode(codes), calibration.code(**parameters).decode(codes))


def test_a_nested_calibration_fits_the_nested_latents() -> None:
    latents = latents_of(3000, 96, 6)
    prefix = latents[:, :32] / np.linalg.norm(latents[:, :32], axis=1, keepdims=True)
    nested, fitted = calibration_of(96).prefix(32), Calibration.fit(prefix, Metric.COSINE)
    assert np.allclose(nested.spread, fitted.spread, rtol=0.15)
    for parameters in ({"bytes": 16}, {"dtype": "int8"}, {"dtype": "int4"}):
        errors = [
            np.mean(
                (calibration.code(**parameters).decode(calibration.code(**parameters).encode(prefix)) - prefix) ** 2
            )
            for calibration in (nested, fitted)
        ]
        assert errors[0] < 1.3 * errors[1]
    with pytest.raises(InvalidDimensionError, match="expected a latent width from 1 to 32, got 33"):
        nested.prefix(33)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "expected either dtype or bytes, got dtype=None and bytes=None"),
        ({"dtype": "int4", "bytes": 48}, "expected either dtype or bytes, got dtype='int4' and bytes=48"),
        ({"dtype": "int3"}, "dtype: expected one of float32, float16, int8, int4, int2, binary, got 'int3'"),
    ],
)
def test_what_is_no_code_is_refused(parameters, message: str) -> None:
    with pytest.raises(InvalidBudgetError, match=message):
        calibration_of(64).code(**parameters)


# Through a codec file


@pytest.mark.parametrize("parameters", [{"bytes": 48}, {"dtype": "int8"}, {"dtype": "int4"}, {"dtype": "binary"}])
def test_one_vector_alone_and_in_a_batch_give_the_same_bytes(sample, codec: Codec, parameters) -> None:
    batch = codec.encode(sample.base[:150], **parameters)
    alone = np.concatenate([codec.encode(row[None], **parameters) for row in sample.base[:150]])
    assert np.array_equal(alone, batch)
    assert np.array_equal(codec.encode(sample.base[70:103], **parameters), batch[70:103])


def test_threads_that_encode_at_the_same_time_give_the_same_bytes(sample, codec: Codec) -> None:
    expected = codec.encode(sample.base[:200], bytes=32)
    with ThreadPoolExecutor(4) as pool:
        for codes in pool.map(lambda _: codec.encode(sample.base[:200], bytes=32), range(8)):
            assert np.array_equal(codes, expected)


def test_the_trellis_beats_uniform_bits_of_the_same_size(sample, codec: Codec) -> None:
    """Compare untrained codes on the bundled sample, with margins well inside what was measured on the whole
    collection.
    """
    queries = codec.encode_queries(sample.queries[:300])
    truth, _ = exact_search(sample.base, sample.queries[:300], 10, Metric.COSINE)

    def recall_of(parameters) -> float:
        code = codec.code(**parameters)
        latents = code.decode(codec.encode(sample.base, **parameters))
        return float(recall(exact_search(latents, queries, 10, Metric.COSINE)[0], truth, 10).mean())

    trellis, binary, int2 = recall_of({"bytes": 48}), recall_of({"dtype": "binary"}), recall_of({"dtype": "int2"})
    assert codec.code(dtype="binary").bytes_per_vector == 48
    assert trellis > binary + 0.08
    assert recall_of({"bytes": 96}) > int2 + 0.04
    assert recall_of({"dtype": "int8"}) > 0.97


def test_reconstructions_of_codes_are_near_the_originals(sample, codec: Codec) -> None:
    for parameters, least in (({"bytes": 96}, 0.98), ({"dtype": "int4"}, 0.99), ({"dtype": "float16"}, 0.9999)):
        restored = codec.decode(codec.encode(sample.base[:100], **parameters), **parameters)
        assert np.einsum("ij,ij->i", restored, sample.base[:100]).mean() > least
        assert np.allclose(np.linalg.norm(restored, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("parameters", [{"bytes": 48}, *({"dtype": dtype} for dtype in UNIFORM)])
def test_an_empty_batch_gives_an_empty_batch(codec: Codec, parameters) -> None:
    codes = codec.encode(np.empty((0, 384), np.float32), **parameters)
    assert codes.shape == (0, codec.code(**parameters).bytes_per_vector // codes.itemsize)
    assert codec.decode(codes, **parameters).shape == (0, 384)


def test_codes_of_another_kind_are_refused(codec: Codec) -> None:
    with pytest.raises(InvalidVectorsError) as refusal:
        codec.decode(np.zeros((3, 47), np.uint8), bytes=48)
    assert str(refusal.value) == (
        "codes: expected uint8 (n, 48) for 48 bytes, got uint8 (3, 47); "
        "decode with the same codec, dtype and bytes that they were encoded with"
    )


def test_a_file_without_calibration_says_so(sample, tmp_path: Path) -> None:
    export_linear(replace(fit_linear(sample.train, 16), fitted_on=None), tmp_path / "bare.onnx")
    with pytest.raises(NotCalibratedError, match="this codec file holds no calibration for codes"):
        Codec.load(tmp_path / "bare.onnx").encode(sample.base[:3], dtype="int8")
