"""Test whole collections through a codec: right values, no half-finished output, resumable jobs."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaecodec import Codec, LinearCodec, LinearKind, Metric, fit_linear
from vaecodec.bulk import BulkOptions, OnBadRows, decode, encode
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration, CodeType
from vaecodec.errors import (
    AmbiguousColumnError,
    BadRowsError,
    BulkStoppedError,
    CodecMismatchError,
    InvalidBudgetError,
    MalformedSourceError,
    NotCalibratedError,
    NotFloatingPointError,
    OutputBusyError,
    OutputExistsError,
    SaturationWarning,
    UnknownSourceError,
    VaecodecError,
    WrongWidthError,
)
from vaecodec_cli.progress import LogLines
from vaecodec_exporters.linear import export_linear

ROWS = 3000
SHARDS = BulkOptions(shard_rows=500)


@pytest.fixture(scope="module")
def rows(sample: Any) -> np.ndarray:
    return sample.base[:ROWS]


def lists(rows: np.ndarray, fixed: bool = False) -> pa.Array:
    flat = pa.array(rows.reshape(-1))
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    return pa.ListArray.from_arrays(pa.array(range(0, rows.size + 1, rows.shape[1]), pa.int32()), flat)


def documents(rows: np.ndarray, first: int = 0, fixed: bool = False) -> pa.Table:
    numbers = range(first, first + len(rows))
    return pa.table(
        {
            "id": pa.array([f"doc-{n}" for n in numbers]),
            "embedding": lists(rows, fixed),
            "tags": pa.array([["a"] * (n % 3) for n in numbers]),
        }
    ).replace_schema_metadata({"origin": "test"})


def write(path: Path, rows: np.ndarray) -> Path:
    """Write the rows in the format of the path's suffix; a folder of two Parquet files without one."""
    match path.suffix:
        case ".npy":
            np.save(path, rows)
        case ".fvecs":
            records = np.empty((len(rows), rows.shape[1] + 1), "<f4")
            records[:, 1:] = rows
            records.view("<i4")[:, 0] = rows.shape[1]
            records.tofile(path)
        case ".fbin":
            path.write_bytes(np.asarray(rows.shape, "<u4").tobytes() + rows.astype("<f4").tobytes())
        case ".hdf5":
            with h5py.File(path, "w") as file:
                file["train"] = rows
        case ".parquet":
            pq.write_table(documents(rows), path, row_group_size=250)
        case _:
            path.mkdir()
            pq.write_table(documents(rows[:1000]), path / "a.parquet", row_group_size=250)
            pq.write_table(
                documents(rows[1000:], 1000, fixed=True),
                path / "b.parquet",
                row_group_size=400,
                write_page_checksum=True,
            )
    return path


def read(path: Path, column: str = "embedding") -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    values = pq.read_table(path)[column].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("source", ["x.npy", "x.fvecs", "x.fbin", "x.hdf5", "x.parquet", "x"])
@pytest.mark.parametrize("output", ["y.npy", "y"])
def test_every_format_is_encoded_to_what_one_call_gives(
    source: str, output: str, rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    result = encode(write(tmp_path / source, rows), tmp_path / output, svd_codec, options=SHARDS)
    column = "embedding" if source in ("x", "x.parquet") else "vector"
    latents = read(tmp_path / output, column)
    assert latents.dtype == np.float32
    np.testing.assert_allclose(latents, svd_codec.encode(rows), atol=1e-6)
    assert (result.rows, result.bad_rows, result.resumed) == (ROWS, 0, 0)
    assert result.shards == (7 if source == "x" else 6)
    assert not (tmp_path / f"{output}.partial").exists()


@pytest.mark.parametrize(
    ("source", "dtype"),
    # Arrow knows no byte order but the machine's.
    [*product(("x.npy", "x.hdf5", "x.parquet"), ("f2", "f4", "f8")), ("x.npy", ">f4"), ("x.hdf5", ">f4")],
)
def test_any_float_dtype_goes_in_and_half_precision_comes_out(
    source: str, dtype: str, rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    write(tmp_path / source, rows.astype(dtype))
    options = BulkOptions(dtype=CodeType.FLOAT16)
    encode(tmp_path / source, tmp_path / "y.npy", svd_codec, options=options)
    encode(tmp_path / source, tmp_path / "y", svd_codec, options=options)
    latents = np.load(tmp_path / "y.npy")
    assert latents.dtype == np.float16
    np.testing.assert_allclose(latents, svd_codec.encode(rows), atol=1e-3)
    np.testing.assert_array_equal(read(tmp_path / "y", "embedding" if source == "x.parquet" else "vector"), latents)


def test_parquet_keeps_its_other_columns_and_its_own_metadata(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    encode(write(tmp_path / "x", rows), tmp_path / "y", svd_codec, options=SHARDS)
    written, expected = pq.read_table(tmp_path / "y"), documents(rows)
    assert written.drop(["embedding"]) == expected.drop(["embedding"])
    assert written.schema.field("embedding").type == pa.list_(pa.float32(), 64)
    metadata = written.schema.metadata
    assert metadata[b"origin"] == b"test"
    assert json.loads(metadata[b"vaecodec"]) == {
        "work": "encode",
        "codec_id": svd_codec.codec_id,
        "code_dim": 64,
        "dtype": "float32",
        "bytes": None,
    }


def test_decode_mirrors_encode(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    write(tmp_path / "x", rows)
    expected = svd_codec.decode(svd_codec.encode(rows))
    for middle, end in (("codes.npy", "back.npy"), ("codes", "back")):
        encode(tmp_path / "x", tmp_path / middle, svd_codec, options=SHARDS)
        decode(tmp_path / middle, tmp_path / end, svd_codec, options=SHARDS)
        np.testing.assert_allclose(read(tmp_path / end), expected, atol=1e-5)
    assert pq.read_table(tmp_path / "back")["id"].to_pylist() == [f"doc-{n}" for n in range(ROWS)]


@pytest.mark.parametrize("middle", ["codes.npy", "codes"])
def test_latents_of_another_codec_are_not_decoded(
    middle: str, rows: np.ndarray, svd_codec: LinearCodec, sample: Any, tmp_path: Path
) -> None:
    other = fit_linear(sample.train[:2000], 64)
    encode(write(tmp_path / "x.npy", rows), tmp_path / middle, svd_codec)
    with pytest.raises(CodecMismatchError) as raised:
        decode(tmp_path / middle, tmp_path / "back.npy", other)
    assert str(raised.value) == (
        f"{tmp_path / middle}: written by codec {svd_codec.codec_id[:16]}, cannot be decoded by codec "
        f"{other.codec_id[:16]}; load the codec that wrote it"
    )
    assert not (tmp_path / "back.npy.partial").exists()


@pytest.mark.parametrize("output", ["y.npy", "y"])
def test_no_rows_give_an_empty_output(output: str, svd_codec: LinearCodec, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.empty((0, 384), np.float32))
    assert encode(tmp_path / "x.npy", tmp_path / output, svd_codec).rows == 0
    if output == "y.npy":
        assert np.load(tmp_path / output).shape == (0, 64)
    else:
        assert pq.read_table(tmp_path / output).num_rows == 0


def test_progress_counts_every_row_once(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    encode(
        write(tmp_path / "x.npy", rows),
        tmp_path / "y.npy",
        svd_codec,
        options=SHARDS,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (ROWS, ROWS)


# --- codes


@pytest.fixture(scope="module")
def calibrated(svd_codec: LinearCodec, sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    path = tmp_path_factory.mktemp("calibrated") / "svd64.onnx"
    calibration = Calibration.fit(svd_codec.encode(sample.train), svd_codec.latent_metric)
    export_linear(svd_codec, path, calibration=CodecCalibration(codes=calibration))
    return Codec.load(path, threads=1)


@pytest.mark.parametrize(("dtype", "budget"), [("int8", None), ("int4", None), ("binary", None), (None, 24)])
@pytest.mark.parametrize(("middle", "end"), [("codes.npy", "back.npy"), ("codes", "back")])
def test_codes_are_written_and_find_their_way_back(
    dtype: str | None, budget: int | None, middle: str, end: str, rows: np.ndarray, calibrated: Codec, tmp_path: Path
) -> None:
    source = write(tmp_path / "x.parquet", rows[:1000])
    options = BulkOptions(dtype=CodeType(dtype) if dtype else None, bytes=budget, shard_rows=250)
    encode(source, tmp_path / middle, calibrated, options=options)
    code = {"bytes": budget} if budget else {"dtype": dtype}
    expected = calibrated.encode(rows[:1000], **code)
    codes = read(tmp_path / middle)
    assert codes.dtype == expected.dtype
    # Products of differently sized batches differ in the last bit, which moves a value on the edge of its step.
    assert (codes == expected).mean() > 0.999
    decode(tmp_path / middle, tmp_path / end, calibrated, options=SHARDS)
    np.testing.assert_allclose(read(tmp_path / end), calibrated.decode(codes, **code), atol=1e-5)


def test_codes_that_cannot_be_made_or_read_are_refused(
    rows: np.ndarray, svd_codec: LinearCodec, calibrated: Codec, tmp_path: Path
) -> None:
    source, codes = write(tmp_path / "x.npy", rows), tmp_path / "codes.npy"
    export_linear(replace(svd_codec, fitted_on=None), tmp_path / "bare.onnx")
    int8 = BulkOptions(dtype=CodeType.INT8)
    for codec in (svd_codec, Codec.load(tmp_path / "bare.onnx")):
        with pytest.raises(NotCalibratedError, match="calibration for codes"):
            encode(source, codes, codec, options=int8)
    encode(source, codes, calibrated, options=int8)
    with pytest.raises(NotFloatingPointError, match="expected floating point values, got dtype int8"):
        encode(codes, tmp_path / "again.npy", calibrated)
    with pytest.raises(InvalidBudgetError) as raised:
        decode(codes, tmp_path / "back.npy", calibrated, options=int8)
    assert str(raised.value) == "embeddings are decoded to float32 or float16, not to codes"
    with pytest.raises(InvalidBudgetError, match="dtype, bytes: expected one of them, got int8 and 24"):
        encode(source, tmp_path / "both.npy", calibrated, options=BulkOptions(dtype=CodeType.INT8, bytes=24))
    assert not (tmp_path / "both.npy.partial").exists()
    decode(codes, tmp_path / "back.npy", calibrated)
    with pytest.raises(CodecMismatchError, match="holds reconstructed embeddings, which cannot be decoded once more"):
        decode(tmp_path / "back.npy", tmp_path / "back2.npy", calibrated)
    path = tmp_path / "narrow.onnx"
    latents = svd_codec.encode(rows)
    export_linear(
        svd_codec, path, calibration=CodecCalibration(codes=Calibration.fit(latents, svd_codec.latent_metric))
    )
    encode(source, tmp_path / "c32.npy", Codec.load(path, dim=32), options=int8)
    with pytest.raises(CodecMismatchError) as mismatch:
        decode(tmp_path / "c32.npy", tmp_path / "back3.npy", Codec.load(path))
    assert (
        str(mismatch.value)
        == f"{tmp_path}/c32.npy: written with dim 32, cannot be decoded with dim 64; load the codec with that dim"
    )
    assert {path.name for path in tmp_path.iterdir() if path.suffix == ".partial"} == set()


@pytest.mark.parametrize("said", ["{", "[]", '{"work": "encode"}', '{"work": "encode", "codec_id": "a"}'])
def test_damaged_words_about_an_output_are_named(
    said: str, rows: np.ndarray, calibrated: Codec, tmp_path: Path
) -> None:
    codes = tmp_path / "codes.npy"
    encode(write(tmp_path / "x.npy", rows[:50]), codes, calibrated, options=BulkOptions(bytes=16))
    codes.with_name("codes.npy.json").write_text(said)
    with pytest.raises(
        MalformedSourceError, match=rf"^{codes}: what was kept of how it was written, .* is damaged; encode again$"
    ):
        decode(codes, tmp_path / "back.npy", calibrated)
    codes.with_name("codes.npy.json").unlink()
    with pytest.raises(
        NotFloatingPointError, match=r"got dtype uint8; of codes, .* \(codes\.npy\.json beside an array"
    ):
        decode(codes, tmp_path / "back.npy", calibrated)
    assert not (tmp_path / "back.npy.partial").exists()


def test_every_file_of_a_folder_is_checked_for_its_codec(
    rows: np.ndarray, svd_codec: LinearCodec, calibrated: Codec, sample: Any, tmp_path: Path
) -> None:
    mixed, other = tmp_path / "mixed", fit_linear(sample.train[:2000], 64)
    mixed.mkdir()
    for number, codec in enumerate((svd_codec, other)):
        encode(write(tmp_path / f"{number}.parquet", rows[:200]), tmp_path / f"latents{number}", codec)
        (tmp_path / f"latents{number}" / "part-00000.parquet").rename(mixed / f"{number}.parquet")
    with pytest.raises(
        CodecMismatchError, match=rf"^{mixed}/1\.parquet: written by codec {other.codec_id[:16]}, cannot"
    ):
        decode(mixed, tmp_path / "back", svd_codec)
    encode(tmp_path / "1.parquet", tmp_path / "half", svd_codec, options=BulkOptions(dtype=CodeType.FLOAT16))
    (tmp_path / "half" / "part-00000.parquet").replace(mixed / "1.parquet")
    with pytest.raises(CodecMismatchError, match=r"expected the same code as in .*, float32, got float16; decode them"):
        decode(mixed, tmp_path / "back", svd_codec)
    pq.write_table(documents(rows[:200]), mixed / "1.parquet")
    with pytest.raises(CodecMismatchError, match=r"1\.parquet: holds nothing about the codec that wrote it, unlike"):
        decode(mixed, tmp_path / "back", svd_codec)
    assert not (tmp_path / "back").exists()


def test_two_columns_keep_their_own_codecs(
    rows: np.ndarray, svd_codec: LinearCodec, sample: Any, tmp_path: Path
) -> None:
    other = fit_linear(sample.train[:2000], 64)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows[:300].ravel()), 384)
    pq.write_table(pa.table({"title": vectors, "body": vectors}), tmp_path / "x.parquet")
    encode(f"{tmp_path}/x.parquet#title", tmp_path / "once", svd_codec)
    encode(tmp_path / "once", tmp_path / "twice", other, options=BulkOptions(column="body"))
    with pytest.raises(AmbiguousColumnError, match="several columns were encoded: title, body; say which is meant"):
        decode(tmp_path / "twice", tmp_path / "back", other)
    with pytest.raises(CodecMismatchError, match=f"written by codec {svd_codec.codec_id[:16]}, cannot be decoded"):
        decode(f"{tmp_path}/twice#title", tmp_path / "back", other)
    decode(f"{tmp_path}/twice#title", tmp_path / "back.npy", svd_codec)
    np.testing.assert_allclose(
        np.load(tmp_path / "back.npy"), svd_codec.decode(svd_codec.encode(rows[:300])), atol=1e-5
    )
    full_width = LinearCodec(LinearKind.TRUNCATION, np.eye(64, dtype=np.float32), np.zeros(64, np.float32))
    with pytest.raises(CodecMismatchError, match="has encoded these vectors already; expected embeddings"):
        encode(f"{tmp_path}/twice#title", tmp_path / "thrice", full_width)


def test_facts_of_another_array_are_noticed(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    encode(write(tmp_path / "x.npy", rows), tmp_path / "y.npy", svd_codec, options=SHARDS)
    np.save(tmp_path / "y.npy", np.load(tmp_path / "y.npy")[::-1])
    with pytest.raises(MalformedSourceError, match=r"y\.npy: the array was damaged or replaced since it was encoded"):
        decode(tmp_path / "y.npy", tmp_path / "back.npy", svd_codec)
    (tmp_path / "y.npy.json").unlink()
    assert decode(tmp_path / "y.npy", tmp_path / "back.npy", svd_codec).rows == ROWS


def test_codes_that_clip_are_counted_and_warned_of(
    rows: np.ndarray, calibrated: Codec, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    l2 = fit_linear(rows, 32, metric=Metric.L2)
    path = tmp_path / "l2.onnx"
    export_linear(l2, path)
    large = write(tmp_path / "x.npy", 5 * rows)
    with pytest.warns(SaturationWarning, match=r"of 3,000 vectors lie outside the range of the code \(int8\)"):
        result = encode(large, tmp_path / "y.npy", Codec.load(path), options=BulkOptions(dtype=CodeType.INT8))
    assert result.saturated > 0.05 * ROWS
    options = BulkOptions(dtype=CodeType.INT8)
    assert encode(large, tmp_path / "z.npy", calibrated, options=options).saturated < 0.05 * ROWS


# --- memory

ENCODING = """
import sys
from vaecodec import Codec
from vaecodec.bulk import BulkOptions, encode
source, output, codec = sys.argv[1:]
encode(source, output, Codec.load(codec, threads=1), options=BulkOptions(threads=2))
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("name", "megabytes"), [("x.npy", 200), ("x.parquet", 400)])
def test_what_is_read_is_never_held_as_a_whole(name: str, megabytes: int, sample: Any, tmp_path: Path) -> None:
    codec = fit_linear(sample.train[:2_000], 8, metric=Metric.DOT)  # which takes rows of zeros
    export_linear(codec, tmp_path / "svd8.onnx")
    rows = 600_000 if name == "x.npy" else 300_000  # 920 and 460 MB
    if name == "x.npy":
        np.lib.format.open_memmap(tmp_path / name, "w+", np.float32, (rows, 384)).flush()  # a hole in the file system
    else:
        zeros = pa.FixedSizeListArray.from_arrays(pa.repeat(pa.scalar(0, pa.float32()), 384 * rows), 384)
        pq.write_table(pa.table({"embedding": zeros}), tmp_path / name, row_group_size=100_000)
    child: list[Any] = [sys.executable, "-c", ENCODING, tmp_path / name, tmp_path / "y.npy", tmp_path / "svd8.onnx"]
    peak = int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    assert read(tmp_path / "y.npy").shape == (rows, 8)
    assert peak < megabytes


# --- interruption

KILLED = """
import os, signal, sys
from pathlib import Path
from vaecodec import Codec
from vaecodec.bulk import BulkOptions, encode
source, output, codec, manifest, finished = sys.argv[1:]
def kill(*_):
    if Path(manifest).read_bytes().count(b"\\n") > int(finished):
        os.kill(os.getpid(), signal.SIGKILL)
options = BulkOptions(shard_rows=100, resume=True, threads=2)
encode(source, output, Codec.load(codec, threads=1), options=options, progress=kill)
"""


@pytest.mark.parametrize("output", ["y.npy", "y"])
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    output: str, rows: np.ndarray, svd_path: Path, tmp_path: Path
) -> None:
    source, target = write(tmp_path / "x.npy", rows), tmp_path / output
    manifest = tmp_path / f"{output}.partial" / "_manifest.jsonl"
    for finished in (3, 9, 16):
        arguments = [str(argument) for argument in (source, target, svd_path, manifest, finished)]
        process = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=600)
        assert process.returncode == -signal.SIGKILL
        assert not target.exists()
    with manifest.open("ab") as file:
        file.write(b'null\n[28, 100]\n["a", 100, null, 0]\n\xff\n[29, 100, "half a li')
    codec = Codec.load(svd_path, threads=1)
    result = encode(source, target, codec, options=BulkOptions(shard_rows=100, resume=True))
    assert 16 <= result.resumed < 30
    encode(source, tmp_path / f"whole-{output}", codec, options=BulkOptions(shard_rows=100))
    assert list(content(target).values()) == list(content(tmp_path / f"whole-{output}").values())
    assert not manifest.parent.exists()


def stopped(source: Path, output: Path, codec: LinearCodec, options: BulkOptions) -> BulkStoppedError:
    with pytest.raises(BulkStoppedError) as raised:
        encode(source, output, codec, options=options)
    assert not output.exists()
    return raised.value


def test_a_finished_shard_that_was_changed_is_made_again(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    bad = rows.copy()
    bad[2900] = np.nan
    source, output = write(tmp_path / "x.npy", bad), tmp_path / "y.npy"
    stopped(source, output, svd_codec, BulkOptions(shard_rows=500, threads=1))
    part = tmp_path / "y.npy.partial" / "part-00002.npy"
    part.write_bytes(bytes(len(part.read_bytes())))
    (tmp_path / "y.npy.partial" / "part-00001.npy").unlink()
    options = BulkOptions(shard_rows=500, resume=True, on_bad_rows=OnBadRows.SKIP)
    result = encode(source, output, svd_codec, options=options)
    assert (result.resumed, result.shards) == (3, 6)
    np.testing.assert_allclose(np.load(output), svd_codec.encode(np.delete(rows, 2900, axis=0)), atol=1e-6)


def test_what_killed_workers_and_torn_lines_leave_does_no_harm(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    bad = rows.copy()
    bad[2900] = np.nan
    source, output = write(tmp_path / "x.npy", bad), tmp_path / "y"
    stopped(source, output, svd_codec, BulkOptions(shard_rows=500, threads=1))
    manifest = tmp_path / "y.partial" / "_manifest.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines[:3], lines[3][:9] + lines[4], lines[5]]) + "\n")

    def leave_half_a_part(*_: int) -> None:
        (tmp_path / "y.partial" / ".00005-0123.begun").write_bytes(b"half")

    options = BulkOptions(shard_rows=500, resume=True, on_bad_rows=OnBadRows.SKIP)
    result = encode(source, output, svd_codec, options=options, progress=leave_half_a_part)
    assert (result.resumed, result.shards, result.rows) == (3, 6, ROWS - 1)
    assert sorted(path.name for path in output.iterdir()) == [f"part-{number:05d}.parquet" for number in range(6)]


def test_an_output_that_is_there_or_unfinished_is_not_touched(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    source, output = write(tmp_path / "x.npy", rows), tmp_path / "y.npy"
    output.write_text("mine")
    with pytest.raises(OutputExistsError) as raised:
        encode(source, output, svd_codec)
    assert str(raised.value) == f"{output}: exists already; delete it or choose another name"
    assert output.read_text() == "mine"
    (tmp_path / "z.npy.json").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"z\.npy\.json: exists already"):
        encode(source, tmp_path / "z.npy", svd_codec)
    output.rename(tmp_path / "y.npy.partial")
    with pytest.raises(OutputExistsError) as raised:
        encode(source, output, svd_codec)
    assert str(raised.value) == (
        f"{output}.partial: an unfinished output; continue it with resume (--resume), or delete it"
    )
    assert (tmp_path / "y.npy.partial").read_text() == "mine"


@pytest.mark.parametrize("output", ["y.npy", "y"])
def test_only_an_output_of_ours_is_replaced_and_only_when_asked(
    output: str, rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    first, second, target = write(tmp_path / "a.npy", rows[:900]), write(tmp_path / "b.npy", rows), tmp_path / output
    encode(first, target, svd_codec, options=SHARDS)
    kept = content(target) if target.is_dir() else {output: target.read_bytes()}
    if target.is_file():
        target.chmod(0o600)
    with pytest.raises(OutputExistsError, match=r"choose another name, or replace it with overwrite \(--overwrite\)$"):
        encode(second, target, svd_codec, options=SHARDS)
    assert (content(target) if target.is_dir() else {output: target.read_bytes()}) == kept
    again = replace(SHARDS, overwrite=True)
    encode(second, target, svd_codec, options=again)
    np.testing.assert_allclose(read(target, "vector"), svd_codec.encode(rows), atol=1e-6)
    if target.is_file():
        assert target.stat().st_mode & 0o777 == 0o600
        (tmp_path / "y.npy.json").write_text("mine")  # so nothing says any more that the array is ours
    else:
        assert [path.suffix for path in sorted(target.iterdir())] == [".parquet"] * len(list(target.iterdir()))
        (target / "part-00099.parquet").write_text("mine")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(
        OutputExistsError, match=r"did not write; choose another name$|delete it or choose another name$"
    ):
        encode(first, target, svd_codec, options=again)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["y.npy", "y"])
def test_a_complete_output_is_not_resumed(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path, name: str) -> None:
    source, output = write(tmp_path / "x.npy", rows[:50]), tmp_path / name
    options = BulkOptions(resume=True)
    assert encode(source, output, svd_codec, options=options).rows == 50
    with pytest.raises(OutputExistsError, match=r"y\S*: is complete, and no unfinished output is there to continue;"):
        encode(source, output, svd_codec, options=options)


def test_nothing_of_others_is_removed(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    source = write(tmp_path / "x.npy", rows)
    for path in ("y.npy.partial/letter.txt", "z.npy.bad-rows.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("mine")
    with pytest.raises(OutputExistsError, match=r"y\.npy\.partial: holds 'letter\.txt', which vaecodec did not write"):
        encode(source, tmp_path / "y.npy", svd_codec, options=replace(SHARDS, resume=True))
    with pytest.raises(OutputExistsError, match=r"z\.npy\.bad-rows\.csv: exists already"):
        encode(source, tmp_path / "z.npy", svd_codec)
    for path in ("y.npy.partial/letter.txt", "z.npy.bad-rows.csv"):
        assert (tmp_path / path).read_text() == "mine"

    def leave_something(*_: int) -> None:
        (tmp_path / "v.npy.partial" / "letter.txt").write_text("mine")

    encode(source, tmp_path / "v.npy", svd_codec, options=SHARDS, progress=leave_something)
    assert [path.name for path in (tmp_path / "v.npy.partial").iterdir()] == ["letter.txt"]


def test_the_folder_that_one_is_in_is_not_replaced(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows.npy", rows[:10])
    (tmp_path / "here" / "below").mkdir(parents=True)
    for folder, output in (("here/below", "."), ("here/below", ".."), ("here/below", tmp_path / "here" / "below")):
        monkeypatch.chdir(tmp_path / folder)
        with pytest.raises(OutputExistsError, match="is or holds the current folder, which cannot be replaced"):
            encode(tmp_path / "rows.npy", Path(output), svd_codec)
    assert list((tmp_path / "here" / "below").iterdir()) == []


def test_an_input_is_never_overwritten(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    anew = replace(SHARDS, overwrite=True)
    encode(write(tmp_path / "x.npy", rows), tmp_path / "y.npy", svd_codec, options=SHARDS)
    encode(tmp_path / "x.npy", tmp_path / "z", svd_codec, options=SHARDS)
    for source, output in (("y.npy", "y.npy"), ("z", "z"), ("z/part-00000.parquet", "z"), ("z", "z/..")):
        with pytest.raises(OutputExistsError, match=r": (is an|holds the) input"):
            decode(tmp_path / source, tmp_path / output, svd_codec, options=anew)
    np.testing.assert_allclose(read(tmp_path / "z", "vector"), svd_codec.encode(rows), atol=1e-6)


def test_a_replacement_that_was_interrupted_is_finished(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    """Start as if the process had been killed between the two renames of a folder."""
    source, output = write(tmp_path / "x.npy", rows), tmp_path / "y"
    encode(source, output, svd_codec, options=SHARDS)
    expected = content(output)
    unfinished = tmp_path / "y.partial"
    other = rows.copy()
    other[-1] = np.nan
    with pytest.raises(BulkStoppedError, match="NaN"):
        encode(write(source, other), output, svd_codec, options=replace(SHARDS, overwrite=True))
    assert content(output) == expected
    output.rename(unfinished / ".replaced")
    options = replace(SHARDS, resume=True, on_bad_rows=OnBadRows.SKIP)
    assert encode(source, output, svd_codec, options=options).rows == ROWS - 1
    assert not unfinished.exists()
    assert {path.suffix for path in output.iterdir()} == {".parquet"}
    np.testing.assert_allclose(read(output, "vector"), svd_codec.encode(rows[:-1]), atol=1e-6)


def test_another_job_is_not_resumed(rows: np.ndarray, svd_codec: LinearCodec, sample: Any, tmp_path: Path) -> None:
    bad = rows.copy()
    bad[2900] = np.nan
    source, output = write(tmp_path / "x.npy", bad), tmp_path / "y.npy"
    stopped(source, output, svd_codec, BulkOptions(shard_rows=500, threads=1))
    kept = content(tmp_path / "y.npy.partial")

    def refused(codec: LinearCodec, options: BulkOptions, changed: str) -> None:
        with pytest.raises(OutputExistsError) as raised:
            encode(source, output, codec, options=options)
        assert str(raised.value) == (
            f"{output}.partial: was begun with different {changed}; run as before, or delete it"
        )
        assert content(tmp_path / "y.npy.partial") == kept

    refused(svd_codec, BulkOptions(shard_rows=499, resume=True), "shards")
    refused(svd_codec, BulkOptions(shard_rows=500, resume=True, dtype=CodeType.FLOAT16), "dtype")
    refused(fit_linear(sample.train[:2000], 64), BulkOptions(shard_rows=500, resume=True), "codec_id")
    np.save(source, rows)
    refused(svd_codec, BulkOptions(shard_rows=500, resume=True), "input")


@pytest.mark.parametrize("output", ["y.npy", "y"])
def test_two_jobs_do_not_write_the_same_output(
    output: str, rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    """Lock the output; every test of ``kill -9`` shows that the lock of a killed process does not outlive it."""
    source, target = write(tmp_path / "x.npy", rows), tmp_path / output
    refused: list[str] = []

    def begin_another(*_: int) -> None:
        with pytest.raises(OutputBusyError) as raised:
            encode(source, target, svd_codec, options=replace(SHARDS, resume=True))
        refused.append(str(raised.value))

    encode(source, target, svd_codec, options=SHARDS, progress=begin_another)
    expected = f"{target}.partial: another process is writing it; wait until that has ended, or end it"
    assert refused == [expected] * len(refused) != []
    np.testing.assert_allclose(read(target, "vector"), svd_codec.encode(rows), atol=1e-6)
    assert target.is_file() or {path.suffix for path in target.iterdir()} == {".parquet"}


@pytest.mark.parametrize(("count", "shards"), [(1, 1), (10_000, 2), (1_000_000, 62), (20_000_000, 115)])
def test_a_shard_for_every_worker_however_many_there_are(
    count: int, shards: int, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    """Cut at blocks of 8 MiB, into 64, or at 256 MiB; begun, and stopped by the first row that any worker sees."""
    source = tmp_path / "x.npy"
    with source.open("wb") as file:  # of zeros, which take no place on the disk
        np.lib.format.write_array_header_1_0(file, {"shape": (count, 384), "fortran_order": False, "descr": "<f4"})
        file.truncate(file.tell() + 4 * 384 * count)
    for workers in (1, 2):
        error = stopped(source, tmp_path / f"y{workers}.npy", svd_codec, BulkOptions(threads=workers))
        assert f" of {source}: zero norm; stopped with 0 of {shards} shards" in str(error)


# --- bad rows


@pytest.fixture
def bad_source(rows: np.ndarray, tmp_path: Path) -> Path:
    """Make two files; rows of the second are wrong in four ways."""
    folder = tmp_path / "docs"
    folder.mkdir()
    broken = rows[1000:2000].copy()
    broken[100], broken[200, 5] = 0, np.inf
    table = documents(broken, 1000)
    vectors = table["embedding"].to_pylist()
    vectors[300], vectors[400] = None, [1.0, 2.0]
    column = pa.array(vectors, pa.list_(pa.float32()))
    pq.write_table(documents(rows[:1000]), folder / "part-316.parquet", row_group_size=250)
    pq.write_table(table.set_column(1, "embedding", column), folder / "part-317.parquet", row_group_size=250)
    return folder


BAD = [
    (100, "zero norm"),
    (200, "NaN or infinity, or a norm beyond float32"),
    (300, "no vector"),
    (400, "width 2"),
]


def listed(output: Path) -> list[list[str]]:
    with output.with_name(output.name + ".bad-rows.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_fail_stops_at_the_first_bad_row_and_names_it(bad_source: Path, svd_codec: LinearCodec, tmp_path: Path) -> None:
    error = stopped(bad_source, tmp_path / "y", svd_codec, BulkOptions(shard_rows=250, threads=1))
    assert type(error.__cause__) is BadRowsError
    assert str(error) == (
        f"row 100 of {bad_source}/part-317.parquet: zero norm; stopped with 4 of 8 shards finished and kept in "
        f"{tmp_path}/y.partial; continue with resume (--resume), leaving such rows out with on_bad_rows=skip "
        "(--on-bad-rows skip)"
    )
    assert sorted(path.name for path in (tmp_path / "y.partial").iterdir()) == [
        "_lock",
        "_manifest.jsonl",
        *(f"part-0000{number}.parquet" for number in range(4)),
    ]


@pytest.mark.parametrize("output", ["y.npy", "y"])
def test_skip_leaves_bad_rows_out_and_lists_them(
    output: str, bad_source: Path, rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    result = encode(
        bad_source,
        tmp_path / output,
        svd_codec,
        options=BulkOptions(shard_rows=250, on_bad_rows=OnBadRows.SKIP),
    )
    kept = np.delete(np.arange(2000), [1000 + row for row, _ in BAD])
    assert (result.rows, result.bad_rows) == (1996, 4)
    np.testing.assert_allclose(read(tmp_path / output), svd_codec.encode(rows[kept]), atol=1e-6)
    file = str(bad_source / "part-317.parquet")
    assert listed(tmp_path / output) == [["file", "row", "reason"], *([file, str(n), why] for n, why in BAD)]
    if output == "y":
        assert pq.read_table(tmp_path / "y")["id"].to_pylist() == [f"doc-{n}" for n in kept]


def test_report_lists_all_bad_rows_and_stops_and_skip_continues_from_there(
    bad_source: Path, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    output = tmp_path / "y.npy"
    error = stopped(bad_source, output, svd_codec, BulkOptions(shard_rows=250, on_bad_rows=OnBadRows.REPORT))
    assert str(error) == (
        f"4 rows cannot be encoded, the first is row 100 of {bad_source}/part-317.parquet: zero norm; "
        f"{output}.bad-rows.csv lists them all; stopped with 6 of 8 shards finished and kept in {output}.partial; "
        "continue with resume (--resume), leaving such rows out with on_bad_rows=skip (--on-bad-rows skip)"
    )
    assert [int(row) for _, row, _ in listed(output)[1:]] == [row for row, _ in BAD]
    options = BulkOptions(shard_rows=250, on_bad_rows=OnBadRows.SKIP, resume=True)
    result = encode(bad_source, output, svd_codec, options=options)
    assert (result.rows, result.bad_rows, result.resumed) == (1996, 4, 6)
    assert [int(row) for _, row, _ in listed(output)[1:]] == [row for row, _ in BAD]


def test_the_list_of_bad_rows_goes_when_there_are_none_any_more(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    bad = rows.copy()
    bad[7] = np.nan
    output = tmp_path / "y.npy"
    stopped(write(tmp_path / "x.npy", bad), output, svd_codec, BulkOptions(on_bad_rows=OnBadRows.REPORT))
    assert len(listed(output)) == 2
    shutil.rmtree(tmp_path / "y.npy.partial")
    encode(write(tmp_path / "x.npy", rows), output, svd_codec)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npy", "y.npy.json"]


def test_zero_rows_are_bad_only_where_direction_counts(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    codec = fit_linear(rows, 4, kind=LinearKind.SVD, metric=Metric.DOT)
    rows[7] = 0
    np.save(tmp_path / "x.npy", rows)
    assert encode(tmp_path / "x.npy", tmp_path / "y.npy", codec).rows == 300


# --- input and output that break


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let the operating system refuse larger files, as it refuses to write to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("output", "limit"), [("y.npy", 200_000), ("y.npy", 20_000), ("y", 20_000)])
def test_a_full_disk_keeps_what_is_finished(
    output: str, limit: int, rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    source = write(tmp_path / "x.npy", rows)
    with files_at_most(limit):  # a part takes 128,000 bytes, the whole 768,000
        error = stopped(source, tmp_path / output, svd_codec, BulkOptions(shard_rows=500, threads=1))
    finished = 6 if limit == 200_000 else 0
    assert str(error).startswith("no space left: ")
    doing = f"joining the parts of {tmp_path}/y.npy" if limit == 200_000 else f"rows 0 to 499 of {source}"
    assert f"{doing}: File too large; stopped" in str(error)
    assert f"stopped with {finished} of 6 shards finished and kept in {tmp_path / output}.partial" in str(error)
    parts = [path for path in (tmp_path / f"{output}.partial").iterdir() if path.suffix in (".npy", ".parquet")]
    assert len(parts) == finished
    result = encode(source, tmp_path / output, svd_codec, options=BulkOptions(shard_rows=500, resume=True))
    assert (result.rows, result.resumed) == (ROWS, finished)


def test_damage_within_a_parquet_file_names_it_and_keeps_the_rest(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    source = write(tmp_path / "x", rows)
    data = bytearray((source / "b.parquet").read_bytes())
    data[200_000:200_400] = bytes(400)
    (source / "b.parquet").write_bytes(data)
    error = stopped(source, tmp_path / "y.npy", svd_codec, BulkOptions(shard_rows=500, threads=1))
    assert type(error.__cause__) is MalformedSourceError
    assert str(error).startswith(f"{source}/b.parquet: damaged Parquet data at row 0 or after: ")
    assert "stopped with 2 of 7 shards finished" in str(error)


def test_what_cannot_be_encoded_is_refused_before_anything_is_written(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    np.save(tmp_path / "narrow.npy", rows[:, :100])
    two = write(tmp_path / "two", rows)
    pq.write_table(documents(rows[:9]).drop(["tags"]), two / "c.parquet")
    refused: list[tuple[str, type[VaecodecError], str]] = [
        (
            "narrow.npy",
            WrongWidthError,
            f"{tmp_path}/narrow.npy: expected rows of width 384, got 100; is this the codec's own collection?",
        ),
        (
            "two",
            MalformedSourceError,
            f"{two}/c.parquet: its columns differ from those of {two}/a.parquet: tags; make them the same",
        ),
    ]
    for name, error, message in refused:
        with pytest.raises(error) as raised:
            encode(tmp_path / name, tmp_path / "y", svd_codec)
        assert str(raised.value) == message
    with pytest.raises(OutputExistsError) as within:
        encode(two, two / "y", svd_codec)
    assert str(within.value) == f"{two}/y: lies within the input, {two}, and would be read as part of it"
    assert [path.name for path in tmp_path.rglob("*.partial")] == []


def test_an_array_of_latents_needs_no_columns_but_the_vectors(
    rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    two = write(tmp_path / "two", rows)
    pq.write_table(documents(rows[:9]).drop(["tags"]), two / "c.parquet")
    assert encode(two, tmp_path / "y.npy", svd_codec).rows == ROWS + 9


def test_damage_within_an_hdf5_file_names_its_rows(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    source = tmp_path / "x.hdf5"
    with h5py.File(source, "w") as file:
        chunk = file.create_dataset("train", data=rows, chunks=(100, 384), fletcher32=True).id.get_chunk_info(17)
    data = bytearray(source.read_bytes())
    data[chunk.byte_offset + 64] ^= 255
    source.write_bytes(data)
    error = stopped(source, tmp_path / "y.npy", svd_codec, BulkOptions(shard_rows=500, threads=1))
    assert str(error).startswith(f"{source}[train]: damaged HDF5 data in rows 1500 to 1999: ")
    assert "stopped with 3 of 6 shards finished" in str(error)


def test_a_collection_behind_an_address_is_refused(svd_codec: LinearCodec, tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "store"))
    client.create_collection("docs", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
    client.close()
    with pytest.raises(UnknownSourceError) as raised:
        encode(f"qdrant+file://{tmp_path}/store/docs", tmp_path / "y.npy", svd_codec)
    assert str(raised.value) == (
        "qdrant collection 'docs': expected a file or folder; vaecodec migrate compresses collections"
    )


# --- the commands


def test_the_commands_encode_and_decode(rows: np.ndarray, svd_path: Path, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", rows)

    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vaecodec_cli", *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    codec = ("--codec", svd_path)
    encoded = run("encode", tmp_path / "x.parquet", *codec, "--out", tmp_path / "y", "--dim", 32, "--dtype", "float16")
    assert encoded.returncode == 0, encoded.stderr
    assert encoded.stdout.startswith(f"{tmp_path}/y: 3,000 rows in ")
    expected = Codec.load(svd_path, dim=32).encode(rows)
    np.testing.assert_allclose(read(tmp_path / "y"), expected, atol=1e-3)
    decoded = run("decode", tmp_path / "y", *codec, "--out", tmp_path / "z.npy", "--dim", 32, "--device", "auto")
    assert decoded.returncode == 0, decoded.stderr
    assert np.load(tmp_path / "z.npy").shape == (ROWS, 384)
    assert json.loads((tmp_path / "z.npy.json").read_text())["work"] == "decode"
    again = run("decode", tmp_path / "y", *codec, "--out", tmp_path / "z.npy", "--dim", 32)
    assert again.returncode == 1
    assert again.stderr.strip() == (
        f"error: {tmp_path}/z.npy: exists already; choose another name, or replace it with overwrite (--overwrite)"
    )
    on_gpu = run("decode", tmp_path / "y", *codec, "--out", tmp_path / "w.npy", "--dim", 32, "--device", "cuda")
    assert on_gpu.returncode == 1
    assert "onnxruntime has no CUDAExecutionProvider" in on_gpu.stderr
    assert not (tmp_path / "w.npy.partial").exists()
    both = run("encode", tmp_path / "x.parquet", *codec, "--out", tmp_path / "w", "--engine", "ray", "--device", "auto")
    assert both.returncode == 2
    assert "--device is for threads; with --engine ray, --gpus-per-worker encodes on GPUs" in both.stderr
    alone = run("decode", tmp_path / "y", *codec, "--out", tmp_path / "w.npy", "--ray-address", "auto")
    assert alone.returncode == 2
    assert "--ray-address and --gpus-per-worker need --engine ray" in alone.stderr


def test_a_log_gets_lines_with_the_rate_of_this_run_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 7.0, 37.0, 37.0, 66.0, 68.0, 68.0))  # whoever logs a line looks at the clock, too
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    lines = LogLines("docs", seconds=30)
    for done in (5_000, 8_000, 8_001, 9_000):  # resumed at 5,000
        lines(done, 10_000)
    assert capsys.readouterr().err.splitlines() == [
        "docs: 8,000 of 10,000 rows, 100 rows/s, 0:00:20 left",
        "docs: 9,000 of 10,000 rows, 66 rows/s, 0:00:15 left",
    ]


def test_columns_in_the_names_of_folders_are_kept(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    for language in ("de", "en"):
        (tmp_path / "x" / f"lang={language}").mkdir(parents=True)
        write(tmp_path / "x" / f"lang={language}" / "part.parquet", rows[:100])
    encode(tmp_path / "x", tmp_path / "y", svd_codec)
    assert pq.read_table(tmp_path / "y")["lang"].to_pylist() == ["de"] * 100 + ["en"] * 100
    encode(tmp_path / "x", tmp_path / "y.npy", svd_codec)
    assert np.load(tmp_path / "y.npy").shape == (200, 64)


def test_the_first_rows_may_be_bad(rows: np.ndarray, svd_codec: LinearCodec, tmp_path: Path) -> None:
    kind = pa.list_(pa.float32())
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table({"vector": pa.array([None, None], kind)}), tmp_path / "x" / "a.parquet")
    second = pa.array([None, [1.0], *rows[:8].tolist()], kind)
    pq.write_table(pa.table({"vector": second}), tmp_path / "x" / "b.parquet")
    result = encode(tmp_path / "x", tmp_path / "y.npy", svd_codec, options=BulkOptions(on_bad_rows=OnBadRows.SKIP))
    assert (result.rows, result.bad_rows) == (8, 4)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), svd_codec.encode(rows[:8]), atol=1e-6)
    listed = (tmp_path / "y.npy.bad-rows.csv").read_text().splitlines()
    assert [line.split(",")[1:] for line in listed[1:]] == [
        ["0", "no vector"],
        ["1", "no vector"],
        ["0", "no vector"],
        ["1", "width 1"],
    ]
