"""Test that what a codec file holds beside its weights comes from one place, whoever writes the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, Metric, fit_linear, linear
from vaecodec.calibration import CalibrationRows, CodecCalibration, codes_of, reference_of, scores_of
from vaecodec.drift.monitor import MonitoredCodec
from vaecodec.errors import InvalidVectorsError, NotCalibratedError
from vaecodec.evaluation import exact_search, recall
from vaecodec.linear import hold_out_for
from vaecodec.scores import fit_line
from vaecodec.sources import ArraySource
from vaecodec_exporters.linear import export_linear


def exported(linear, path: Path) -> Codec:
    export_linear(linear, path)
    return Codec.load(path)


@pytest.mark.parametrize("form", [{"dtype": "int8"}, {"dtype": "int4"}, {"bytes": 16}], ids=str)
def test_an_exported_linear_codec_writes_good_codes(form: dict, sample, tmp_path: Path) -> None:
    codec = exported(fit_linear(sample.train, 32), tmp_path / "svd32.onnx")
    latents = codec.encode(sample.base)
    restored = codec.code(**form).decode(codec.encode(sample.base, **form))
    truth, _ = exact_search(latents, codec.encode_queries(sample.queries), 10, Metric.COSINE)
    found, _ = exact_search(restored, codec.encode_queries(sample.queries), 10, Metric.COSINE)
    assert recall(found, truth, 10).mean() > 0.75


def test_scores_are_calibrated_unless_distances_are_compared(sample, tmp_path: Path) -> None:
    scores = scores_of(exported(fit_linear(sample.train, 32), tmp_path / "cosine.onnx"))
    assert scores.code_dim == 32
    assert 0 < scores.scale < 2
    assert scores.residual < 0.1
    euclidean = exported(fit_linear(sample.train, 32, metric=Metric.L2), tmp_path / "l2.onnx")
    assert codes_of(euclidean).code_dim == 32
    with pytest.raises(NotCalibratedError, match="calibration of scores for 32 dimensions, got none"):
        scores_of(euclidean)


def test_drift_can_be_found_only_where_rows_were_held_out(sample, tmp_path: Path) -> None:
    held_out = exported(fit_linear(sample.train, 32, hold_out=20), tmp_path / "held_out.onnx")
    assert held_out.metadata.provenance["data"] == {"rows": 7500, "held_out_rows": 375}
    monitor = MonitoredCodec.of(held_out)
    monitor.encode(sample.base)
    assert not monitor.check().drifted
    without = exported(fit_linear(sample.train, 32), tmp_path / "without.onnx")
    assert without.metadata.provenance["data"] == {"rows": 7500, "held_out_rows": 0}
    with pytest.raises(NotCalibratedError, match="drift statistics for 32 dimensions, got none"):
        reference_of(without)


@pytest.mark.parametrize(("rows", "hold_out"), [(0, None), (1_279, None), (1_280, 20), (10_000_000, 2_441)])
def test_as_many_rows_are_held_out_as_finding_drift_takes(rows: int, hold_out: int | None) -> None:
    assert hold_out_for(rows) == hold_out


def test_a_narrower_codec_keeps_the_rows_and_is_calibrated_for_its_width(sample, tmp_path: Path) -> None:
    narrow = exported(fit_linear(sample.train, 64).truncated(16), tmp_path / "svd16.onnx")
    assert (codes_of(narrow).code_dim, scores_of(narrow).code_dim) == (16, 16)
    again = exported(fit_linear(sample.train, 16), tmp_path / "again.onnx")
    np.testing.assert_allclose(codes_of(narrow).spread, codes_of(again).spread, rtol=1e-4)


def test_the_rows_kept_are_evenly_spaced_whatever_the_blocks(sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_KEPT_ROWS", 8_192)
    rows = np.tile(sample.train, (3, 1))[:20_000]
    whole = fit_linear(rows, 8, metric=Metric.DOT).fitted_on
    blockwise = fit_linear(ArraySource(rows), 8, metric=Metric.DOT).fitted_on
    assert whole is not None
    assert blockwise is not None
    np.testing.assert_array_equal(whole.kept.documents, rows[::4])
    np.testing.assert_array_equal(blockwise.kept.documents, rows[::4])
    assert len(whole.kept.searched) + len(whole.kept.queries) == len(rows[::4])


def test_a_codec_of_two_rows_has_codes_and_no_scores(tmp_path: Path) -> None:
    codec = exported(fit_linear(np.eye(2, 4, dtype=np.float32), 2), tmp_path / "two.onnx")
    assert codec.encode(np.eye(2, 4, dtype=np.float32), dtype="int8").shape == (2, 2)
    with pytest.raises(NotCalibratedError, match="calibration of scores"):
        scores_of(codec)


def test_a_codec_without_rows_is_exported_without_calibration(svd_codec, tmp_path: Path) -> None:
    codec = exported(replace(svd_codec, fitted_on=None), tmp_path / "bare.onnx")
    assert codec.metadata.calibration == {}
    with pytest.raises(NotCalibratedError, match=r"write it again with .* export_linear\(fit_linear"):
        codes_of(codec)


def test_parts_that_are_not_there_are_not_written() -> None:
    assert CodecCalibration().to_json() == {}


def test_few_unseen_rows_leave_drift_out(svd_codec, sample) -> None:
    rows = CalibrationRows.of_documents(sample.train[:500], sample.train[500:563])
    fitted = CodecCalibration.fit(svd_codec, rows)
    assert set(fitted.to_json()) == {"codes", "score"}


@pytest.mark.parametrize("constant", ["latents", "embeddings"])
def test_scores_that_differ_by_rounding_only_are_not_calibrated(constant: str) -> None:
    """Compute scores as several processors do: each finds other noise, and would find a line through it."""
    generator = np.random.default_rng(0)
    varied = generator.uniform(0.2, 0.9, (4, 50)).astype(np.float32)
    noise = (0.5 + generator.integers(-3, 4, (4, 50)) * np.float32(2**-24)).astype(np.float32)
    noise += (varied - varied.mean()) * np.float32(1e-7)
    scores, originals = (noise, varied) if constant == "latents" else (varied, noise)
    with pytest.raises(InvalidVectorsError, match="scores vary together, got 200 pairs that do not"):
        fit_line(scores, originals, 8)
