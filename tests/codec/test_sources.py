"""Test that every format gives the same rows, by blocks and by number, and every malformed file its own message."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient, models

from vaecodec.errors import (
    AmbiguousColumnError,
    BadRowsError,
    InvalidVectorsError,
    MalformedSourceError,
    MissingColumnError,
    NotFloatingPointError,
    SourceError,
    SourceNotFoundError,
    UnknownSourceError,
    VaecodecError,
)
from vaecodec.sources import ArraySource, RandomAccessSource, VectorSource, open_source
from vaecodec.sources.hdf5 import Hdf5Source
from vaecodec.sources.parquet import ParquetSource, parquet_batches
from vaecodec_integrations.qdrant.source import QdrantSource

ROWS = np.random.default_rng(7).normal(size=(2500, 6)).astype(np.float32)
SMALL = np.round(np.abs(ROWS) * 40)  # integers that fit every format


def vecs(path: Path, rows: np.ndarray, element: str) -> None:
    """Write the format as its authors define it, row by row."""
    with path.open("wb") as file:
        for row in rows:
            file.write(np.int32(len(row)).astype("<i4").tobytes() + row.astype(element).tobytes())


def flat(path: Path, rows: np.ndarray, element: str) -> None:
    path.write_bytes(np.asarray(rows.shape, "<u4").tobytes() + rows.astype(element).tobytes())


def write_hdf5(path: Path, **datasets: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


def table(rows: np.ndarray, kind: str = "list", **columns: Any) -> pa.Table:
    values = pa.array(rows.reshape(-1))
    width = rows.shape[1]
    lists = {
        "list": lambda: pa.ListArray.from_arrays(pa.array(range(0, rows.size + 1, width), pa.int32()), values),
        "large": lambda: pa.LargeListArray.from_arrays(pa.array(range(0, rows.size + 1, width), pa.int64()), values),
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(values, width),
    }[kind]()
    return pa.table({"id": pa.array(range(len(rows))), "vector": lists, **columns})


def parquet_folder(path: Path) -> None:
    (path / "year=2024").mkdir(parents=True)
    pq.write_table(table(ROWS[:900], "fixed"), path / "a.parquet", row_group_size=100)
    pq.write_table(table(ROWS[900:900], "fixed"), path / "empty.parquet")
    pq.write_table(table(ROWS[900:], "list"), path / "year=2024" / "b.parquet", row_group_size=1000)
    (path / "_metadata.parquet").write_bytes(b"not to be read")


FORMATS: dict[str, tuple[str, Callable[[Path], None], np.ndarray]] = {
    "npy": ("x.npy", lambda p: np.save(p, ROWS), ROWS),
    "npy float16": ("x.npy", lambda p: np.save(p, ROWS.astype(np.float16)), ROWS.astype(np.float16)),
    "npy float64, big endian": ("x.npy", lambda p: np.save(p, ROWS.astype(">f8")), ROWS),
    "npy Fortran order": ("x.npy", lambda p: np.save(p, np.asfortranarray(ROWS)), ROWS),
    "npy no rows": ("x.npy", lambda p: np.save(p, ROWS[:0]), ROWS[:0]),
    "npz": ("x.npz", lambda p: np.savez_compressed(p, ids=np.arange(9), vectors=ROWS), ROWS),
    "fvecs": ("x.fvecs", lambda p: vecs(p, ROWS, "<f4"), ROWS),
    "bvecs": ("x.bvecs", lambda p: vecs(p, SMALL, "u1"), SMALL),
    "fbin": ("x.fbin", lambda p: flat(p, ROWS, "<f4"), ROWS),
    "fbin no rows": ("x.fbin", lambda p: flat(p, ROWS[:0], "<f4"), ROWS[:0]),
    "ibin": ("x.ibin", lambda p: flat(p, SMALL, "<i4"), SMALL),
    "hdf5": (
        "x.hdf5",
        lambda p: write_hdf5(p, train=ROWS, test=ROWS[:9], neighbors=np.zeros((9, 5), int), distances=ROWS[:9]),
        ROWS,
    ),
    "hdf5 other layout": ("x.h5", lambda p: write_hdf5(p, **{"group/vectors": ROWS, "ids": np.arange(5)}), ROWS),
    "parquet list": ("x.parquet", lambda p: pq.write_table(table(ROWS), p, row_group_size=700), ROWS),
    "parquet large list": ("x.parquet", lambda p: pq.write_table(table(ROWS, "large"), p), ROWS),
    "parquet fixed-size list, float16": (
        "x.parquet",
        lambda p: pq.write_table(table(ROWS.astype(np.float16), "fixed"), p),
        ROWS.astype(np.float16),
    ),
    "parquet folder": ("x", parquet_folder, ROWS),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_its_rows_in_order(form: str, tmp_path: Path) -> None:
    name, write, expected = FORMATS[form]
    write(tmp_path / name)
    source = open_source(tmp_path / name)
    assert isinstance(source, VectorSource)
    assert (source.rows, source.dim) == expected.shape
    for size in (None, 1, 640):
        if size == 1:
            blocks = [block for block, _ in zip(source.blocks(1), range(5), strict=False)]
            expected_part = expected[:5]
        else:
            blocks, expected_part = list(source.blocks(size)), expected
        assert all(0 < len(block) <= (size or len(expected)) for block in blocks)
        read = np.concatenate([np.empty((0, source.dim), np.float32), *blocks])
        np.testing.assert_array_equal(read, expected_part)


@pytest.mark.parametrize("form", [form for form in FORMATS if "parquet" not in form and "no rows" not in form])
def test_rows_are_read_by_number(form: str, tmp_path: Path) -> None:
    name, write, expected = FORMATS[form]
    write(tmp_path / name)
    source = open_source(tmp_path / name)
    assert isinstance(source, RandomAccessSource)
    scattered = np.array([0, 3, 4, 900, 2499])
    for rows in (scattered, np.arange(7, 2400), np.flatnonzero(ROWS[:, 0] > 0), scattered[:0]):
        np.testing.assert_array_equal(source.take(rows), expected[rows])


def test_taking_rows_gives_a_copy() -> None:
    array = ROWS.copy()
    taken = ArraySource(array).take(np.arange(3))
    taken[:] = 0
    next(iter(ArraySource(array).blocks()))[:] = 0
    np.testing.assert_array_equal(array, ROWS)


def test_changes_in_a_copy_on_write_map_survive_reading(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    mapped[5] = 1
    source = ArraySource(mapped[2:])
    assert len(list(source.blocks())) == 1
    np.testing.assert_array_equal(source.take(np.array([3])), np.ones((1, 6)))


def test_reading_a_map_gives_its_memory_back(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (100_000, 384)).flush()

    def mapped_file_kib() -> int:
        found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1])

    source = open_source(path)
    before = mapped_file_kib()
    grown = max(mapped_file_kib() - before for _ in source.blocks())
    assert grown < 40_000  # of 150,000


def test_the_column_is_chosen_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=ROWS, b=-ROWS)
    write_hdf5(tmp_path / "x.hdf5", train=ROWS, test=-ROWS)
    both = table(ROWS).append_column("other", table(-ROWS)["vector"])
    pq.write_table(both, tmp_path / "x.parquet")
    for name, column in (("x.npz", "b"), ("x.hdf5", "test"), ("x.parquet", "other")):
        source = open_source(tmp_path / name, column=column)
        np.testing.assert_array_equal(np.concatenate(list(source.blocks())), -ROWS)


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def cut_hdf5(path: Path) -> None:
    write_hdf5(path, train=ROWS)
    cut(path, 5000)


def parquet(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def folder_of_two_widths(path: Path) -> None:
    path.mkdir()
    pq.write_table(table(ROWS), path / "a.parquet")
    pq.write_table(table(ROWS[:, :4]), path / "b.parquet")


def fvecs_of_two_widths(path: Path) -> None:
    vecs(path, ROWS[:3], "<f4")
    with path.open("ab") as file:
        file.write(np.int32(2).tobytes() + bytes(24))


MALFORMED: list[tuple[str, Callable[[Path], Any], type[VaecodecError], str]] = [
    ("x.npy", lambda _: None, SourceNotFoundError, "{path}: no such file or folder"),
    (
        "x.csv",
        lambda p: p.write_text("1,2"),
        UnknownSourceError,
        "{path}: the suffix '.csv' is not one of .npy, .fvecs, .bvecs, .fbin, .ibin, .npz, .hdf5, .h5, .parquet "
        "or a folder of Parquet files",
    ),
    (
        "x.npy",
        lambda p: (np.save(p, ROWS), cut(p, 1000)),
        MalformedSourceError,
        "{path}: the header promises 2500 x 6 float32, 60128 bytes, the file has 1000; it is cut off in row 36",
    ),
    (
        "x.npy",
        lambda p: (np.save(p, ROWS), cut(p, 20)),
        MalformedSourceError,
        "{path}: not a readable .npy header: EOF: reading array header, expected 118 bytes got 10",
    ),
    (
        "x.npy",
        lambda p: (np.save(p, ROWS), p.write_bytes(p.read_bytes() + b"more")),
        MalformedSourceError,
        "{path}: the header promises 2500 x 6 float32, 60128 bytes, the file has 60132; is this a .npy file?",
    ),
    (
        "x.npy",
        lambda p: p.write_bytes(b"0123456789"),
        MalformedSourceError,
        r"{path}: not a readable .npy header: the magic string is not correct; expected b'\x93NUMPY', got b'012345'",
    ),
    (
        "x.npy",
        lambda p: np.save(p, np.array([[1, "a"]], object), allow_pickle=True),
        MalformedSourceError,
        "{path}: holds Python objects (dtype object), which are never loaded, because that can run code; "
        "save it as a plain float array",
    ),
    (
        "x.npy",
        lambda p: np.save(p, ROWS[0]),
        InvalidVectorsError,
        "{path}: expected a 2-D array (rows, width), got shape (6,)",
    ),
    (
        "x.npy",
        lambda p: np.save(p, np.zeros((3, 2), np.int64)),
        NotFloatingPointError,
        "{path}: expected floating point values, got dtype int64",
    ),
    (
        "x.npz",
        lambda p: np.savez(p, a=ROWS, b=ROWS),
        AmbiguousColumnError,
        "{path}: several arrays hold vectors: a, b; say which is meant",
    ),
    (
        "x.npz",
        lambda p: np.savez(p, a=np.arange(3), b=ROWS[0]),
        MissingColumnError,
        "{path}: has no array of floating point vectors; it has: a, b",
    ),
    (
        "x.npz",
        lambda p: np.savez(p, a=np.array([None]), allow_pickle=True),
        MalformedSourceError,
        "{path}[a]: holds Python objects (dtype object), which are never loaded, because that can run code; "
        "save it as a plain float array",
    ),
    (
        "x.npz",
        lambda p: (np.savez(p, a=ROWS), cut(p, 9000)),
        MalformedSourceError,
        "{path}: not a complete .npz file: File is not a zip file",
    ),
    (
        "x.fvecs",
        lambda p: p.write_bytes(b""),
        MalformedSourceError,
        "{path}: expected at least one row led by its width, the file has 0 bytes",
    ),
    (
        "x.fvecs",
        lambda p: p.write_bytes(b"\xff" * 40),
        MalformedSourceError,
        "{path}: the first row says it has -1 values; is this a .fvecs file?",
    ),
    (
        "x.fvecs",
        lambda p: (vecs(p, ROWS[:3], "<f4"), cut(p, 70)),
        MalformedSourceError,
        "{path}: rows of width 6 take 28 bytes each, and 14 bytes follow the last of 2 whole rows; the file is cut "
        "off, or its rows differ in width",
    ),
    (
        "x.fvecs",
        fvecs_of_two_widths,
        MalformedSourceError,
        "{path}: row 3 says it has 2 values, the first row has 6; all rows must be equally wide",
    ),
    (
        "x.fbin",
        lambda p: p.write_bytes(b"1234"),
        MalformedSourceError,
        "{path}: expected a header of 8 bytes, the file has 4",
    ),
    (
        "x.fbin",
        lambda p: p.write_bytes(b"\xff" * 80),
        MalformedSourceError,
        "{path}: the header says rows have 4294967295 values; is this a .fbin file?",
    ),
    (
        "x.ibin",
        lambda p: (flat(p, SMALL, "<i4"), cut(p, 5000)),
        MalformedSourceError,
        "{path}: the header promises 2500 x 6 int32, 60008 bytes, the file has 5000; it is cut off in row 208",
    ),
    (
        "x.hdf5",
        lambda p: write_hdf5(p, a=ROWS, b=ROWS),
        AmbiguousColumnError,
        "{path}: several datasets hold vectors: a, b; say which is meant",
    ),
    (
        "x.hdf5",
        lambda p: write_hdf5(p),
        MissingColumnError,
        "{path}: has no dataset of floating point vectors; it has: nothing",
    ),
    (
        "x.hdf5",
        lambda p: write_hdf5(p, train=np.zeros((4, 3), bool)),
        NotFloatingPointError,
        "{path}[train]: expected floating point values, got dtype bool",
    ),
    (
        "x.parquet",
        parquet(id=[1, 2], text=["a", "b"], tags=[["a"], ["b"]]),
        MissingColumnError,
        "{path}: has no column of floating point vectors; it has: id, tags, text",
    ),
    (
        "x.parquet",
        parquet(a=[[1.0], [2.0]], b=[[1.0], [2.0]]),
        AmbiguousColumnError,
        "{path}: several columns hold vectors: a, b; say which is meant",
    ),
    (
        "x.parquet",
        parquet(vector=[[1.0, 2.0], [3.0, 4.0], [5.0]]),
        MalformedSourceError,
        "{path}: row 2 has 1 values, the first row has 2; all rows must be equally wide",
    ),
    (
        "x.parquet",
        parquet(vector=[[1.0, 2.0], None]),
        BadRowsError,
        "{path}: row 1 is null; every row needs a vector of width 2",
    ),
    (
        "x.parquet",
        parquet(vector=pa.array([None, [1.0, 2.0]])),
        BadRowsError,
        "{path}: row 0 is null; every row needs a vector",
    ),
    (
        "x",
        folder_of_two_widths,
        MalformedSourceError,
        "{path}/b.parquet: row 0 has 4 values, the first row has 6; all rows must be equally wide",
    ),
    ("x", lambda p: p.mkdir(), SourceNotFoundError, "{path}: the folder holds no .parquet file"),
    (
        "other://x/y",
        lambda _: None,
        UnknownSourceError,
        "other://x/y: no installed package reads other:// (known: ",
    ),
]


@pytest.mark.parametrize(("name", "write", "error", "message"), MALFORMED)
def test_each_malformed_kind_has_its_own_message(
    name: str, write: Callable[[Path], Any], error: type[VaecodecError], message: str, tmp_path: Path
) -> None:
    location = name if "://" in name else tmp_path / name
    write(tmp_path / name)
    with pytest.raises(error) as raised:
        list(open_source(location).blocks())
    expected = message.replace("{path}", str(location))
    assert str(raised.value).startswith(expected) if "://" in name else str(raised.value) == expected
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("name", "write", "start"),
    [
        ("x.hdf5", cut_hdf5, "HDF5 cannot open it: "),
        ("x.h5", lambda p: p.write_bytes(b"no HDF5"), "HDF5 cannot open it: "),
        ("x.parquet", lambda p: p.write_bytes(b"PAR1 but no more"), "not a complete Parquet file: "),
        ("y.parquet", lambda p: (pq.write_table(table(ROWS), p), cut(p, 9000)), "not a complete Parquet file: "),
    ],
)
def test_a_broken_container_passes_its_librarys_reason_on(
    name: str, write: Callable[[Path], Any], start: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(SourceError) as raised:
        open_source(tmp_path / name)
    assert type(raised.value) in (MalformedSourceError, MalformedSourceError)
    assert str(raised.value).startswith(f"{tmp_path / name}: {start}")
    assert len(str(raised.value)) > len(f"{tmp_path / name}: {start}")


@pytest.mark.parametrize(
    ("name", "column", "error", "message"),
    [
        ("x.npy", "a", MissingColumnError, "{path}: a .npy file has no columns; leave out the column 'a'"),
        ("x.npz", "z", MissingColumnError, "{path}: has no array 'z'; it has: vectors"),
        ("x.hdf5", "z", MissingColumnError, "{path}: has no dataset 'z'; it has: train"),
        ("x.parquet", "z", MissingColumnError, "{path}: has no column 'z'; it has: id, vector"),
        (
            "x.parquet",
            "id",
            NotFloatingPointError,
            "{path}[id]: expected lists of floating point values, got int64",
        ),
    ],
)
def test_a_wrong_column_is_answered_with_those_there_are(
    name: str, column: str, error: type[VaecodecError], message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    np.savez(tmp_path / "x.npz", vectors=ROWS)
    write_hdf5(tmp_path / "x.hdf5", train=ROWS)
    pq.write_table(table(ROWS), tmp_path / "x.parquet")
    with pytest.raises(error) as raised:
        open_source(tmp_path / name, column=column)
    assert str(raised.value) == message.replace("{path}", str(tmp_path / name))


@pytest.fixture
def client() -> QdrantClient:
    client = QdrantClient(":memory:")
    vector = models.VectorParams(size=6, distance=models.Distance.DOT)
    client.create_collection("plain", vectors_config=vector)
    client.create_collection("named", vectors_config={"title": vector, "body": vector})
    client.create_collection("sparse", vectors_config={}, sparse_vectors_config={"s": models.SparseVectorParams()})
    many = models.VectorParams(
        size=6,
        distance=models.Distance.DOT,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    client.create_collection("multi", vectors_config=many)
    ids: list[Any] = list(range(len(ROWS)))
    client.upsert("plain", models.Batch(ids=ids, vectors=ROWS.tolist()))
    client.upsert("named", models.Batch(ids=ids[:20], vectors={"title": ROWS[:20].tolist()}))
    client.upsert("named", models.Batch(ids=[90, 91], vectors={"body": ROWS[:2].tolist()}))
    return client


def test_a_qdrant_collection_is_read_by_scrolling(client: QdrantClient) -> None:
    source = QdrantSource(client, "plain")
    assert isinstance(source, VectorSource)
    assert (source.rows, source.dim) == (None, 6)
    blocks = list(source.blocks(700))
    assert [len(block) for block in blocks] == [700, 700, 700, 400]
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS)


def test_points_that_lack_the_named_vector_are_passed_over(client: QdrantClient) -> None:
    np.testing.assert_array_equal(np.concatenate(list(QdrantSource(client, "named", "title").blocks(8))), ROWS[:20])
    np.testing.assert_array_equal(np.concatenate(list(QdrantSource(client, "named", "body").blocks(8))), ROWS[:2])


@pytest.mark.parametrize(
    ("collection", "vector", "error", "message"),
    [
        (
            "nosuch",
            None,
            SourceNotFoundError,
            "there is no Qdrant collection 'nosuch'; there are: multi, named, plain, sparse",
        ),
        (
            "named",
            None,
            AmbiguousColumnError,
            "collection 'named' has several vectors: 'body', 'title'; say which is meant",
        ),
        ("named", "x", MissingColumnError, "collection 'named' has no vector 'x'; it has: 'body', 'title'"),
        ("sparse", None, MissingColumnError, "collection 'sparse' has no dense vectors; name another collection"),
        (
            "multi",
            None,
            InvalidVectorsError,
            "vector '' of collection 'multi' is a multivector; name a vector of one row per point",
        ),
    ],
)
def test_a_collection_that_cannot_be_read_says_why(
    client: QdrantClient, collection: str, vector: str | None, error: type[VaecodecError], message: str
) -> None:
    with pytest.raises(error) as raised:
        QdrantSource(client, collection, vector)
    assert str(raised.value) == message


def test_an_address_opens_a_local_collection(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "store"))
    client.create_collection("docs", vectors_config=models.VectorParams(size=6, distance=models.Distance.DOT))
    client.upsert("docs", models.Batch(ids=list(range(50)), vectors=ROWS[:50].tolist()))
    client.close()
    source = open_source(f"qdrant+file://{tmp_path}/store/docs")
    np.testing.assert_array_equal(np.concatenate(list(source.blocks())), ROWS[:50])


def test_an_address_that_is_refused_leaves_the_folder_unlocked(tmp_path: Path) -> None:
    QdrantClient(path=str(tmp_path / "store")).close()
    with pytest.raises(SourceNotFoundError) as kept:
        open_source(f"qdrant+file://{tmp_path}/store/others")
    QdrantClient(path=str(tmp_path / "store")).close()
    assert "'others'" in str(kept.value)


def test_a_location_may_name_its_column(tmp_path: Path) -> None:
    title, body = np.zeros((3, 4), np.float32), np.ones((3, 5), np.float32)
    np.savez(tmp_path / "two.npz", title=title, body=body)
    assert open_source(f"{tmp_path}/two.npz#title").dim == 4
    assert open_source(tmp_path / "two.npz#body", column="body").dim == 5
    with pytest.raises(AmbiguousColumnError, match="names the column 'title', but the column 'body' was asked for"):
        open_source(f"{tmp_path}/two.npz#title", column="body")
    np.save(tmp_path / "odd#1.npy", title)
    assert open_source(tmp_path / "odd#1.npy").dim == 4
    odd: dict[str, Any] = {"my #1": title, "#1": np.zeros((2, 3), np.float32)}
    np.savez(tmp_path / "odd#2.npz", **odd)
    assert open_source(f"{tmp_path}/odd#2.npz#my #1").dim == 4
    assert open_source(f"{tmp_path}/odd#2.npz##1").dim == 3
    with pytest.raises(MissingColumnError, match="has no array 'x'"):
        open_source(f"{tmp_path}/two.npz#x")


def test_left_overs_in_hidden_folders_are_not_read(tmp_path: Path) -> None:
    for name in ("a.parquet", "_temporary/0/b.parquet", ".hidden/c.parquet", "sub/_d.parquet"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        parquet(vector=[[1.0, 2.0]])(tmp_path / "x" / name)
    assert open_source(tmp_path / "x").rows == 1


def test_vectors_of_arrow_tensors_are_read_and_matrices_are_not(tmp_path: Path) -> None:
    matrices = np.zeros((len(ROWS), 2, 3), np.float32)
    parquet(
        vector=pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS),
        picture=pa.FixedShapeTensorArray.from_numpy_ndarray(matrices),
    )(tmp_path / "x.parquet")
    np.testing.assert_array_equal(next(iter(open_source(tmp_path / "x.parquet").blocks())), ROWS)
    with pytest.raises(NotFloatingPointError, match=r"x\.parquet\[picture\]: expected lists of floating point values"):
        open_source(tmp_path / "x.parquet", column="picture")


def test_other_members_of_an_npz_do_no_harm(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", vectors=ROWS, texts=np.array(["a", None], object))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("README", "of another program")
    for column in (None, "vectors"):
        np.testing.assert_array_equal(next(iter(open_source(tmp_path / "x.npz", column=column).blocks())), ROWS)
    with pytest.raises(MalformedSourceError, match=r"x\.npz\[texts\]: holds Python objects"):
        open_source(tmp_path / "x.npz", column="texts")


def test_queries_of_an_ann_benchmarks_file_are_its_test_set(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "x.hdf5", train=ROWS, test=-ROWS[:2], distances=ROWS)
    queries = open_source(tmp_path / "x.hdf5", queries=True)
    np.testing.assert_array_equal(next(iter(queries.blocks())), -ROWS[:2])
    assert open_source(tmp_path / "x.hdf5", queries=True, column="train").rows == len(ROWS)


def test_chunks_of_hdf5_are_decompressed_once(tmp_path: Path) -> None:
    """While many rows are read the file stays open, with room for the chunks that a row passes through."""
    rows = np.random.default_rng(0).normal(size=(60_000, 8)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=rows, chunks=(40_000, 4), compression="gzip", compression_opts=1)
    room: list[int] = []

    class Watched(Hdf5Source):
        def _open(self, cache_bytes: int = 0) -> Any:
            file = super()._open(cache_bytes)
            room.append(file.id.get_access_plist().get_cache()[2])
            return file

    source = Watched(tmp_path / "x.h5")
    room.clear()
    wanted = np.arange(0, 60_000, 70)
    np.testing.assert_array_equal(source.take(wanted), rows[wanted])
    np.testing.assert_array_equal(np.concatenate(list(source.blocks(9000))), rows)
    assert room == [40_000 * 8 * 4] * 2


def test_bfloat16_of_numpy_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.uint16).view("V2"))
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 2), np.uint16).view("V2"))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(NotFloatingPointError, match="of 2 bytes without a type, as numpy stores bfloat16; save"):
            open_source(tmp_path / name)


def test_rows_without_a_vector_may_be_read_as_nan(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    parquet(vector=pa.array([None, None], pa.list_(pa.float32())))(tmp_path / "x/a.parquet")
    parquet(vector=pa.array([[7.0], [1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32())))(tmp_path / "x/b.parquet")
    source = open_source(tmp_path / "x", bad_rows=True)
    rows = np.concatenate(list(source.blocks()))
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(rows, [nan, nan, nan, [1, 2], nan, [3, 4]])


def test_columns_in_the_names_of_folders_are_known(tmp_path: Path) -> None:
    table = pa.table({"vector": pa.array([[1.0], [2.0]]), "day": ["a", "b"]})
    for folder in ("lang=de/year=2024/month=07", "lang=__HIVE_DEFAULT_PARTITION__/year=-3/month=11", "lang=f%20r"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(table, tmp_path / folder / "x.parquet")
    source = open_source(tmp_path)
    assert isinstance(source, ParquetSource)
    batches = [source.partitions.add_to(next(parquet_batches(file, rows=9)), file) for file in source.files]
    assert [str(field.type) for field in batches[0].schema][2:] == ["string", "int32", "string"]
    assert [batch.slice(0, 1).to_pylist()[0] for batch in batches] == [
        {"vector": [1.0], "day": "a", "lang": None, "year": -3, "month": "11"},
        {"vector": [1.0], "day": "a", "lang": "de", "year": 2024, "month": "07"},
        {"vector": [1.0], "day": "a", "lang": "f r", "year": None, "month": None},
    ]
