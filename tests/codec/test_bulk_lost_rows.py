"""Test that rows of which the codec keeps nothing are bad rows of a bulk job: named by file and number, skipped or
listed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, LinearCodec, LinearKind, Metric
from vaecodec.bulk import BulkOptions, OnBadRows, encode
from vaecodec.errors import BulkStoppedError
from vaecodec_exporters.linear import export_linear

DIM, WIDTH = 12, 4
LOST, ZERO = (7, 8, 61, 99), 30


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """Make a codec that keeps the first four of twelve dimensions."""
    path = tmp_path_factory.mktemp("truncation") / "codec.onnx"
    linear = LinearCodec(
        LinearKind.TRUNCATION, np.eye(WIDTH, DIM, dtype=np.float32), np.zeros(DIM, np.float32), Metric.COSINE
    )
    export_linear(linear, path)
    return Codec.load(path, threads=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((100, DIM)).astype(np.float32)
    rows[list(LOST), :WIDTH] = 0
    rows[ZERO] = 0
    np.save(tmp_path / "in.npy", rows)
    return tmp_path / "in.npy"


def test_they_are_left_out_and_listed(codec: Codec, source: Path, tmp_path: Path) -> None:
    options = BulkOptions(on_bad_rows=OnBadRows.SKIP, shard_rows=40, threads=1)
    result = encode(source, tmp_path / "out.npy", codec, options=options)
    bad = sorted([*LOST, ZERO])
    assert (result.rows, result.bad_rows) == (95, 5)
    kept = np.delete(np.load(source), bad, axis=0)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), codec.encode(kept))
    lines = (tmp_path / "out.npy.bad-rows.csv").read_text().splitlines()[1:]
    reasons = ["zero norm" if row == ZERO else "latents of zero norm" for row in bad]
    assert lines == [f"{source},{row},{reason}" for row, reason in zip(bad, reasons, strict=True)]


def test_the_first_one_is_named_where_they_are_not_skipped(codec: Codec, source: Path, tmp_path: Path) -> None:
    with pytest.raises(BulkStoppedError, match=r"row 7 of .*in\.npy: latents of zero norm; .*--on-bad-rows skip"):
        encode(source, tmp_path / "out.npy", codec, options=BulkOptions(threads=1))


def test_a_report_lists_them_all(codec: Codec, source: Path, tmp_path: Path) -> None:
    with pytest.raises(BulkStoppedError, match="5 rows cannot be encoded, the first is row 7"):
        encode(source, tmp_path / "out.npy", codec, options=BulkOptions(on_bad_rows=OnBadRows.REPORT, threads=1))
    assert len((tmp_path / "out.npy.bad-rows.csv").read_text().splitlines()) == 6
