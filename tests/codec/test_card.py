"""Test that a codec file's description shows what has the form that vaecodec writes, and is text whatever else it
holds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.card import card, describe
from vaecodec.codes.residual_fit import fit_residual
from vaecodec_exporters.linear import export_linear

HALF = {"mean": 0.5, "low": 0.4, "high": 0.6}


def codec_file(path: Path, provenance: dict[str, Any], embedder: str = "MiniLM") -> Path:
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    export_linear(fit_linear(rows, 4, embedder=embedder), path, provenance=provenance, overwrite=True)
    return path


def test_a_card_holds_figures_data_use_and_limits(tmp_path: Path) -> None:
    known = {
        "validation": {"codec": {"recall@10": HALF, "mrr": 0.25}, "svd": {"recall@10": HALF}},
        "data": {"rows": 50, "nested": {}},
        "rates": [{"code_bits": 256.0, "kl_bits": 250.2}],
    }
    text = card(codec_file(tmp_path / "vae.onnx", known))
    assert "| codec | recall@10 | mrr |\n| --- | --- | --- |\n| codec | 0.500 \\[0.400, 0.600\\] | 0.250 |\n" in text
    assert "| svd | 0.500 \\[0.400, 0.600\\] |  |" in text
    assert "Trained on: rows 50.\n" in text
    assert "| trained for | codes of 256 bits, by the model's KL 250 |" in text
    assert 'codec = Codec.load("vae.onnx")' in text
    assert text.count("\n## ") == 4


def test_training_data_are_told_in_words(tmp_path: Path) -> None:
    data = {"rows": 7500, "held_out_rows": 1913, "queries": 0, "fingerprint": "0123456789abcdef0123"}
    text = card(codec_file(tmp_path / "vae.onnx", {"data": data}))
    documents = r"Trained on: 7,500 documents \(0123456789abcdef\), 1,913 of them held out; "
    assert documents + "no queries.\n" in text
    data |= {"queries": 90, "queries_fingerprint": "fedcba9876543210fedc"}
    text = card(codec_file(tmp_path / "vae.onnx", {"data": data}))
    assert documents + r"90 queries \(fedcba9876543210\)." in text


def test_a_file_tells_whether_its_codes_have_stages(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    rows = np.random.default_rng(0).normal(size=(1_000, 16)).astype(np.float32)
    codec, path = fit_linear(rows, 16), tmp_path / "c.onnx"
    export_linear(codec, path)  # too few rows for stages
    assert describe(path).facts["codes"] == "a trellis alone, without stages"
    assert codec.fitted_on is not None
    codes = CodecCalibration.fit(codec, codec.fitted_on.kept).codes
    assert codes is not None
    residual = fit_residual(codec.encode(rows), stages=4, tables=codes.trellis, seed=0)
    export_linear(codec, path, calibration=CodecCalibration(codes=replace(codes, residual=residual)), overwrite=True)
    assert describe(path).facts["codes"] == "stages, then a trellis"
    assert "| codes | stages, then a trellis |" in card(path)
    export_linear(codec, path, calibration=CodecCalibration(), overwrite=True)
    assert "codes" not in describe(path).facts


@pytest.mark.parametrize(
    "provenance",
    [
        {"rates": [{}], "data": [1], "validation": {"codec": "x"}, "versions": "1"},
        {"rates": {"code_bits": 1}, "validation": [HALF], "created": {"a": 1}, "linear": ["svd"]},
        {"rates": [{"code_bits": "1", "kl_bits": None}], "validation": {"codec": {"recall@10": {"mean": "much"}}}},
    ],
)
def test_what_has_another_form_is_left_out(provenance: dict[str, Any], tmp_path: Path) -> None:
    found = describe(codec_file(tmp_path / "c.onnx", provenance))
    assert "trained for" not in found.facts
    assert not any(text for figures in found.figures.values() for text in figures)
    assert "## Limits" in card(tmp_path / "c.onnx")


def test_a_name_stays_a_name_in_markdown(tmp_path: Path) -> None:
    text = card(codec_file(tmp_path / "c.onnx", {}, embedder="a|b [c](d) <e>\n# f"))
    assert "embedding vectors of a\\|b \\[c\\]\\(d\\) \\<e\\> \\# f." in text
