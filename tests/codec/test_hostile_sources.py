"""Refuse files of vectors that reach for other files or promise more than they hold, before memory is taken."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaecodec.errors import (
    AmbiguousColumnError,
    MalformedSourceError,
    MissingColumnError,
    UnknownSourceError,
    VaecodecError,
)
from vaecodec.sources import open_source

ROWS = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)


def hdf5(path: Path, fill: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(ROWS.shape, "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "vectors", ROWS.shape)
    file.create_virtual_dataset("vectors", layout)


@pytest.mark.parametrize(
    "fill",
    [
        virtual,
        lambda file: file.create_dataset("vectors", ROWS.shape, "f4", external=[("secret.bin", 0, ROWS.nbytes)]),
    ],
)
def test_a_dataset_whose_values_are_in_other_files_is_refused(tmp_path: Path, monkeypatch, fill: Any) -> None:
    monkeypatch.chdir(tmp_path)
    hdf5(tmp_path / "secret.h5", lambda file: file.create_dataset("vectors", data=ROWS))
    ROWS.tofile(tmp_path / "secret.bin")
    path = hdf5(tmp_path / "given.h5", fill)
    with h5py.File(path) as file:
        assert np.array_equal(file["vectors"][:], ROWS)  # h5py itself reads the other file
    with pytest.raises(MalformedSourceError, match="keeps its values in other files"):
        open_source(path)


@pytest.mark.parametrize(("target", "column"), [("/vectors", "link"), ("/", "link/vectors")])
def test_a_link_to_another_file_is_not_followed(tmp_path: Path, target: str, column: str) -> None:
    hdf5(tmp_path / "secret.h5", lambda file: file.create_dataset("vectors", data=ROWS))
    path = hdf5(tmp_path / "given.h5", lambda file: file.__setitem__("link", h5py.ExternalLink("secret.h5", target)))
    with h5py.File(path) as file:
        assert np.array_equal(file[column][:], ROWS)
    for asked in (None, column):
        with pytest.raises(MissingColumnError, match=r"given\.h5: has no dataset"):
            open_source(path, column=asked)


@pytest.mark.parametrize("chunks", [None, (1024, 8)])
def test_rows_that_were_never_written_are_refused(tmp_path: Path, chunks: tuple[int, int] | None) -> None:
    def fill(file: h5py.File) -> None:
        dataset = file.create_dataset("vectors", (1 << 30, 8), "f4", chunks=chunks)
        if chunks:
            dataset[:20] = ROWS

    path = hdf5(tmp_path / "given.h5", fill)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(MalformedSourceError, match="a part of its 1,073,741,824 rows was never written"):
        open_source(path)


def npy(shape: tuple[int, ...], values: bytes, *, blanks: int = 0) -> bytes:
    """Write an array file with any header that is given."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * blanks + b"\n"
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + values


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (npy((1 << 40, 8), bytes(32)), r"the header promises [\d,]+ bytes, the file has"),
        (npy((1, 8), bytes(64)), "the header promises"),
        (npy((1, 8), bytes(32), blanks=1 << 20), r"expected a .npy header of at most 10,000 bytes, got 1,048,"),
        (
            npy((1 << 20, 32), bytes(1 << 27)),
            r"bytes would become 134,217,8\d\d, which no array of vectors does",
        ),
        (npy((-1, 8), bytes(32)), "expected sizes of at least 0"),
    ],
)
def test_an_npz_that_promises_more_than_it_holds_is_refused(tmp_path: Path, stored: bytes, message: str) -> None:
    path = tmp_path / "given.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vectors.npy", stored)
    with pytest.raises(MalformedSourceError, match=message):
        open_source(path)


def test_compressed_vectors_and_an_empty_array_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "given.npz", vectors=ROWS, empty=np.empty((0, 8), np.float32), label=np.array("x"))
    source = open_source(tmp_path / "given.npz", column="vectors")
    assert np.array_equal(np.concatenate(list(source.blocks())), ROWS)
    assert open_source(tmp_path / "given.npz", column="empty").rows == 0


def test_a_short_parquet_file_of_very_many_values_is_refused(tmp_path: Path) -> None:
    """Repeat one value, for which Parquet stores a count."""
    path = tmp_path / "given.parquet"
    lists = pa.ListArray.from_arrays([0, 8, 16, 1 << 25], pa.array(np.zeros(1 << 25, np.float32)))
    pq.write_table(pa.table({"vector": lists}), path)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(MalformedSourceError, match=r"expected rows of at most [\d,]+ values, got 33,554,432 in 3 rows"):
        open_source(path)


def test_a_bit_of_a_parquet_footer_that_flips_ends_nothing(tmp_path: Path) -> None:
    """pyarrow ends the process where a damaged footer contradicts itself, if it is asked for a column's counts."""
    path = tmp_path / "given.parquet"
    pq.write_table(pa.table({"vector": pa.array(ROWS.tolist(), pa.list_(pa.float32()))}), path)
    good = path.read_bytes()
    refused = 0
    for at in range(len(good) - 8 - int.from_bytes(good[-8:-4], "little"), len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            list(open_source(path, column="vector").blocks())
        except VaecodecError:
            refused += 1
    assert refused > 100


def test_one_row_that_is_too_wide_is_a_bad_row_and_no_attack(tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    pq.write_table(pa.table({"vector": pa.array([*ROWS.tolist(), [0.5] * 9], pa.list_(pa.float32()))}), path)
    rows = np.concatenate(list(open_source(path, bad_rows=True).blocks()))
    assert np.array_equal(rows[:20], ROWS)
    assert np.isnan(rows[20]).all()


def test_columns_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    column = pa.array(ROWS.tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.Table.from_arrays([column, column], names=["vector", "vector"]), path)
    with pytest.raises(AmbiguousColumnError, match="several columns have the name 'vector'"):
        open_source(path)


def test_an_array_that_is_a_zip_inside_is_no_array(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, vectors=ROWS)
    (tmp_path / "given.npy").write_bytes(content.getvalue())
    with pytest.raises(MalformedSourceError, match=r"not a readable \.npy header"):
        open_source(tmp_path / "given.npy")


@pytest.mark.parametrize("suffix", ["npy", "npz", "fvecs", "fbin", "h5", "parquet"])
def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path, suffix: str) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    pipe, device = tmp_path / f"pipe.{suffix}", tmp_path / f"device.{suffix}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(UnknownSourceError, match="got a device or a pipe, which may never end"):
            open_source(path)


def test_a_pipe_among_the_files_of_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    pq.write_table(pa.table({"v": ROWS.tolist()}), tmp_path / "a.parquet")
    os.mkfifo(tmp_path / "b.parquet")
    with pytest.raises(UnknownSourceError, match=r"b\.parquet: expected a file or a folder, got a device or a pipe"):
        open_source(tmp_path)


def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.npz"
    content = io.BytesIO()
    np.save(content, ROWS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vectors.npy", content.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("vectors.npy", content.getvalue())
    with pytest.raises(MalformedSourceError, match="an array is there twice"):
        open_source(path)


def test_an_empty_location_is_no_folder() -> None:
    with pytest.raises(UnknownSourceError, match="expected the name of a file or folder"):
        open_source("")
