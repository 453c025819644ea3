"""Test saved indexes that were damaged, forged or cut short by a kill."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import Codec, Metric, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.errors import IndexFileError
from vaecodec.packed_index import PackedIndex
from vaecodec_exporters.linear import export_linear


@pytest.fixture(scope="module")
def codec_file(sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    linear = fit_linear(sample.train, 64)
    path = tmp_path_factory.mktemp("file") / "svd64.onnx"
    calibration = Calibration.fit(linear.encode(sample.train), Metric.COSINE, memory=8)
    export_linear(linear, path, calibration=CodecCalibration(codes=calibration))
    return path


@pytest.fixture(scope="module")
def codec(codec_file: Path) -> Codec:
    return Codec.load(codec_file, threads=1)


@pytest.fixture(params=["bytes", "float16", "named"])
def saved(request, sample, codec: Codec, tmp_path: Path) -> Path:
    code: dict[str, Any] = {"dtype": "float16"} if request.param == "float16" else {"bytes": 16}
    index = PackedIndex(codec, **code)
    index.add(sample.base[:80], 3 * np.arange(80) if request.param == "named" else None)
    index.save(tmp_path / "saved.index")
    return tmp_path / "saved.index"


def forged(whole: bytes, change: Callable[[dict[str, Any]], Any], payload: bytes | None = None) -> bytes:
    """Write the file with another header and payload, and matching digests."""
    length = int.from_bytes(whole[12:16], "little")
    header, payload = json.loads(whole[48 : 48 + length]), whole[48 + length :] if payload is None else payload
    header["sha256"] = hashlib.sha256(payload).hexdigest()
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return whole[:12] + len(text).to_bytes(4, "little") + hashlib.sha256(text).digest() + text + payload


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(rows=-1),
        lambda header: header.update(rows=10**30),
        lambda header: header.update(rows=True),
        lambda header: header.update(rows=80.0),
        lambda header: header.update(next_id=3),
        lambda header: header.update(next_id=1 << 64),
        lambda header: header.update(ids=1),
        lambda header: header.update(code={}),
        lambda header: header.update(code={"bytes": "16"}),
        lambda header: header.update(code={"bytes": True}),
        lambda header: header.update(code={"bytes": 16, "dtype": "int8"}),
        lambda header: header.update(code={"size": 16}),
        lambda header: header.update(code=[16]),
        lambda header: header.update(code_dim="64"),
        lambda header: header.update(more=1),
        lambda header: header.pop("codec_id") and None,
        lambda _: b"[" * 50_000,
        lambda _: b"null",
        lambda _: b"\xff\xfe",
        lambda _: b'{"sha256": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_forged_header_is_refused(codec: Codec, saved: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    saved.write_bytes(forged(saved.read_bytes(), change))
    with pytest.raises(IndexFileError, match=r"the (header is|ids are) malformed"):
        PackedIndex.load(saved, codec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(rows=79), r"expected \d+ bytes, found \d+"),
        (lambda header: header.update(rows=2**40), r"expected \d+ bytes, found \d+"),
        (lambda header: header.update(code={"bytes": 10**9}), "the codec has no such code: bytes: expected 8 to"),
        (lambda header: header.update(code={"bytes": -4}), "the codec has no such code: bytes: expected 8 to"),
        (lambda header: header.update(code={"dtype": "int3"}), "the codec has no such code: dtype: expected one of"),
        (lambda header: header.update(sha256="0" * 64), "the content does not fit its checksum"),
    ],
)
def test_a_forged_count_or_code_is_refused(codec: Codec, saved: Path, change: Any, message: str) -> None:
    saved.write_bytes(forged(saved.read_bytes(), change))
    with pytest.raises(IndexFileError, match=message):
        PackedIndex.load(saved, codec)


def test_forged_content_is_refused_or_searched(sample, codec: Codec, saved: Path) -> None:
    """Any bytes are trellis codes; floats must be finite, and ids different."""
    random = np.random.default_rng(0)
    whole = saved.read_bytes()
    start = 48 + int.from_bytes(whole[12:16], "little")
    for _ in range(20):
        saved.write_bytes(forged(whole, lambda header: None, random.bytes(len(whole) - start)))
        try:
            index = PackedIndex.load(saved, codec)
        except IndexFileError as error:
            assert "holds NaN or infinity" in str(error) or "the ids are malformed" in str(error)  # noqa: PT017
            continue
        ids, scores = index.search(sample.queries[:3], 5)
        assert ids.shape == (3, 5)
        assert np.isfinite(scores).all()


def test_a_float_that_is_none_names_its_row(sample, codec: Codec, tmp_path: Path) -> None:
    index = PackedIndex(codec, dtype="float32")
    index.add(sample.base[:9])
    index.save(tmp_path / "a.index")
    whole = (tmp_path / "a.index").read_bytes()
    codes = np.frombuffer(whole[-9 * 256 :], "<f4").reshape(9, 64).copy()
    codes[4, 2] = np.nan
    (tmp_path / "a.index").write_bytes(forged(whole, lambda header: None, codes.tobytes()))
    with pytest.raises(IndexFileError, match=r"a\.index: row 4 holds NaN or infinity"):
        PackedIndex.load(tmp_path / "a.index", codec)


SAVING = """
import os, signal, sys, time
import numpy as np
from vaecodec import Codec
from vaecodec.packed_index import PackedIndex
file, vectors, path = sys.argv[1:]
index = PackedIndex(Codec.load(file, threads=1), dtype="float32")
for _ in range(30):
    index.add(np.load(vectors))
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    while child == 0:
        index.save(path)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as Unix does")
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(
    sample, codec_file: Path, codec: Codec, tmp_path: Path
) -> None:
    vectors, path = tmp_path / "vectors.npy", tmp_path / "target" / "saved.index"
    path.parent.mkdir()
    np.save(vectors, sample.base[:1000])
    old = PackedIndex(codec, dtype="float32")
    old.add(sample.base[:7])
    command = [sys.executable, "-c", SAVING, str(codec_file), str(vectors), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for moment in np.random.default_rng(0).uniform(0, 0.05, 20):
            old.save(path)
            process.stdin.write(f"{moment}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "killed\n"
            assert len(PackedIndex.load(path, codec)) in (7, 30_000)
    assert process.returncode == 0
    old.save(path)
    assert [each.name for each in path.parent.iterdir()] == ["saved.index"]
