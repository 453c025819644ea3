"""The command line as a person types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, Metric
from vaecodec.errors import NotCalibratedError
from vaecodec.evaluation import exact_search, pair_scores
from vaecodec.scores import ScoreCalibration
from vaecodec_exporters.cli import linear


def vaecodec(*arguments: object, code: int = 0) -> str:
    """Run the console script; its standard output, or its standard error when it should fail."""
    command = [sys.executable, "-m", "vaecodec", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env={"COLUMNS": "120", "PATH": "/usr/bin:/bin"})
    assert result.returncode == code, result.stderr
    return result.stderr if code else result.stdout


@pytest.mark.parametrize("command", sorted(entry_points(group="vaecodec.commands").names))
def test_every_command_explains_itself(command: str) -> None:
    help_text = vaecodec(command, "--help")
    assert f"vaecodec {command}" in help_text
    assert len(help_text) > 200


def test_info_shows_the_file_and_its_identity(vae_path: Path) -> None:
    codec = Codec.load(vae_path)
    shown = vaecodec("info", vae_path)
    assert codec.codec_id in shown
    assert re.search(rf"latents\s+│ {codec.code_dim} dimensions, compared by cosine", shown)
    whole = json.loads(vaecodec("info", vae_path, "--json"))
    assert whole["codec_id"] == codec.codec_id
    assert whole["dim"] == 384


def test_a_linear_codec_in_one_command(tmp_path: Path) -> None:
    train = Path(__file__).parents[2] / "examples" / "debian-sample" / "train.npy"
    vaecodec("linear", train, "--dim", 16, "--kind", "pca", "--out", tmp_path / "pca.onnx", "--embedder", "minilm")
    codec = Codec.load(tmp_path / "pca.onnx")
    assert (codec.dim, codec.code_dim, codec.embedder) == (384, 16, "minilm")
    assert codec.metadata.provenance["linear"] == "pca"
    assert codec.metadata.provenance["data"] == {"rows": 7500, "held_out_rows": 375}
    held_out, monitor = np.load(train)[::20].astype(np.float32), codec.monitor()
    monitor.encode(np.load(train.with_name("base.npy")))
    finding = monitor.check().findings[0]
    cosines = pair_scores(held_out, codec.decode(codec.encode(held_out)), Metric.COSINE)
    assert finding.expected == pytest.approx(cosines.mean(), abs=1e-4)
    assert not finding.drifted


def test_a_linear_codec_says_what_its_scores_mean(sample, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", sample.train)
    vaecodec("linear", tmp_path / "train.npy", "--dim", 64, "--out", tmp_path / "svd.onnx")
    codec = Codec.load(tmp_path / "svd.onnx")
    fitted = ScoreCalibration.of(codec)
    ids, scores = exact_search(codec.encode(sample.base), codec.encode_queries(sample.queries), 10, Metric.COSINE)
    original = np.einsum("qnd,qd->qn", sample.base[ids], sample.queries)
    assert np.abs(fitted.scale * scores + fitted.offset - original).mean() < 0.4 * np.abs(scores - original).mean()
    linear(tmp_path / "train.npy", 16, tmp_path / "l2.onnx", metric=Metric.L2)
    with pytest.raises(NotCalibratedError):
        ScoreCalibration.of(Codec.load(tmp_path / "l2.onnx"))


def test_errors_of_ours_are_one_line_and_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert vaecodec("info", path, code=1) == f"error: {path}: there is no such codec file\n"


def test_wrong_usage_is_exit_code_2() -> None:
    assert "Missing argument" in vaecodec("info", code=2)
