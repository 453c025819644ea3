"""Test that vectors outside the range of a code are counted, and that many of them are warned of."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import Codec, Metric, fit_linear
from vaecodec.codes import Calibration
from vaecodec.errors import SaturationWarning
from vaecodec.packed_index import PackedIndex
from vaecodec_exporters.linear import export_linear

CODES = [{"dtype": "float16"}, {"dtype": "int8"}, {"dtype": "int4"}, {"dtype": "binary"}, {"bytes": 24}]


@pytest.fixture(scope="module")
def dot_codec(sample, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    linear = fit_linear(sample.train, 64, metric=Metric.DOT)
    path = tmp_path_factory.mktemp("saturation") / "dot64.onnx"
    export_linear(linear, path)
    return Codec.load(path)


@pytest.mark.parametrize("parameters", CODES)
def test_vectors_like_the_training_data_are_in_range(sample, dot_codec: Codec, parameters) -> None:
    code = dot_codec.code(**parameters)
    assert code.saturated(dot_codec.encode(sample.base)).mean() < 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dot_codec.encode(sample.base[:500], **parameters)


@pytest.mark.parametrize("parameters", CODES)
def test_vectors_that_are_far_too_long_are_named(sample, dot_codec: Codec, parameters) -> None:
    latents = dot_codec.encode(sample.base[:40])
    latents[7] *= 1e6
    latents[31] *= -1e6
    assert np.flatnonzero(dot_codec.code(**parameters).saturated(latents)).tolist() == [7, 31]


def test_a_constant_dimension_is_in_range_at_its_value_only() -> None:
    latents = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    latents[:, 10] = 0.75
    code = Calibration.fit(latents, Metric.DOT).code(bytes=40)
    assert not code.saturated(latents).any()


def test_a_dimension_that_only_rounding_moves_saturates_nothing() -> None:
    """Multiply the same vectors by one: on another processor every row differs by its last digit."""
    latents = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    latents[:, 10:20] = 0.3
    code: Any = Calibration.fit(latents, Metric.DOT, memory=8).code(bytes=24)
    again = np.nextafter(latents, np.float32(9))
    assert not np.array_equal(again, latents)
    assert not code.saturated(again).any()
    again[:, 12] = 0.4
    assert code.saturated(again).any() == (12 in code.order)


@pytest.mark.parametrize("parameters", [{"dtype": "int8"}, {"bytes": 24}])
def test_twice_the_length_is_warned_of(sample, dot_codec: Codec, parameters) -> None:
    twice = 2 * sample.base[:400]
    count = int(dot_codec.code(**parameters).saturated(dot_codec.encode(twice)).sum())
    assert count > 40
    name = dot_codec.code(**parameters).name
    message = re.escape(f"{count} of 400 vectors lie outside the range of the code ({name}) and were clipped")
    with pytest.warns(SaturationWarning, match=message) as seen:
        dot_codec.encode(twice, **parameters)
    assert Path(seen[0].filename).name == Path(__file__).name
    index = PackedIndex(dot_codec, **parameters)
    with pytest.warns(SaturationWarning, match=message) as seen:
        index.add(twice)
    assert Path(seen[0].filename).name == Path(__file__).name
    assert len(index) == 400


def test_few_rows_are_not_warned_of(sample, dot_codec: Codec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dot_codec.encode(1000 * sample.base[:9], dtype="int8")
