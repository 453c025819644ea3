"""Index files with a valid checksum and wild content, as anyone can write them: refused before an engine reads them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import LinearCodec, LinearKind, Metric
from vaecodec.errors import (
    CodecMismatchError,
    IndexFileError,
    VaecodecError,
)
from vaecodec_integrations.faiss import CompressedFaissIndex
from vaecodec_integrations.hnsw import CompressedIndex
from vaecodec_integrations.usearch import CompressedUsearchIndex

DIM = 6
PREFIX = struct.Struct("<8sII32s")
CODEC = LinearCodec(LinearKind.TRUNCATION, np.eye(DIM, dtype=np.float32), np.zeros(DIM, np.float32), Metric.L2)


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, DIM)).astype(np.float32)


def write_hnsw(path: Path) -> None:
    index = CompressedIndex("l2", DIM, CODEC)
    index.init_index(120, M=4)
    index.add_items(rows(100), num_threads=1)
    index.mark_deleted(3)
    index.save_index(path)


def use_hnsw(path: Path) -> None:
    index = CompressedIndex("l2", DIM, CODEC)
    index.load_index(path)
    index.knn_query(rows(20), 5, num_threads=1)
    index.get_items(index.get_ids_list()[:1])
    index.add_items(rows(2), [500, 501], num_threads=1)


def write_usearch(path: Path) -> None:
    index = CompressedUsearchIndex(CODEC, connectivity=4)
    index.add(np.arange(100), rows(100), threads=1)
    index.remove(3)
    index.save(path)


def use_usearch(path: Path) -> None:
    index = CompressedUsearchIndex(CODEC)
    index.load(path)
    index.search(rows(20), 5, threads=1)
    index.add([500, 501], rows(2), threads=1)


def write_faiss(path: Path) -> None:
    index = CompressedFaissIndex(CODEC, "HNSW4")
    index.add(rows(100))
    index.save(path)


def use_faiss(path: Path) -> None:
    index = CompressedFaissIndex.load(path, CODEC)
    index.search(rows(20), 5)
    index.add_with_ids(rows(2), [500, 501])


class File:
    """Hold a saved index in its parts, and use every part of it."""

    def __init__(self, path: Path, write: Callable[[Path], None], use: Callable[[Path], None]) -> None:
        write(path)
        self.path, self.use = path, use
        content = path.read_bytes()
        self.magic, self.version, length, _ = PREFIX.unpack_from(content)
        self.header = json.loads(content[PREFIX.size : PREFIX.size + length])
        self.payload = content[PREFIX.size + length :]

    def sign(self, header: Any, payload: bytes) -> None:
        """Write the parts with the checksum that belongs to them."""
        head = header if isinstance(header, bytes) else json.dumps(header).encode()
        start = PREFIX.pack(self.magic, self.version, len(head), bytes(32)) + head
        digest = hashlib.sha256(start + payload).digest()
        self.path.write_bytes(PREFIX.pack(self.magic, self.version, len(head), digest) + head + payload)

    def forge(self, **changes: Any) -> None:
        header = {**self.header, **changes}
        self.sign({key: value for key, value in header.items() if value is not ...}, self.payload)

    def with_bytes(self, place: int, *words: int, form: str = "<I") -> None:
        damaged = bytearray(self.payload)
        struct.pack_into(form, damaged, place, *words)
        self.sign(self.header, bytes(damaged))


@pytest.fixture(params=["hnswlib", "usearch", "faiss"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> File:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    write, use = {
        "hnswlib": (write_hnsw, use_hnsw),
        "usearch": (write_usearch, use_usearch),
        "faiss": (write_faiss, use_faiss),
    }[request.param]
    return File(tmp_path / "index", write, use)


@pytest.fixture
def hnsw_file(tmp_path: Path) -> File:
    return File(tmp_path / "index", write_hnsw, use_hnsw)


@pytest.fixture
def usearch_file(tmp_path: Path) -> File:
    pytest.importorskip("usearch", reason="usearch is not installed")
    return File(tmp_path / "index", write_usearch, use_usearch)


def test_a_file_signed_again_as_it_was_is_loaded(file):
    file.sign(file.header, file.payload)
    file.use(file.path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff{", "expected a JSON object as header"),
        (b"[" * 100_000, "expected a JSON object as header"),
        (b"[1]", "expected a JSON object as header"),
        (b"", "expected a JSON object as header"),
    ],
    ids=["garbage", "deep", "list", "empty"],
)
def test_a_header_that_is_no_object(file, header, message):
    file.sign(header, file.payload)
    with pytest.raises(IndexFileError, match=message):
        file.use(file.path)


def test_every_field_of_the_header_is_needed_and_has_its_type(file):
    assert len(file.header) > 3
    for field, value in file.header.items():
        for wrong in (..., None, [value], {"a": 1}, True):
            file.forge(**{field: wrong})
            with pytest.raises(IndexFileError, match=f"as {field} in the header"):
                file.use(file.path)


def test_fields_that_contradict_the_codec_or_the_index(file):
    for changes in (
        {"code_dim": 7},
        {"codec_id": "0" * 64},
        {"payload_bytes": 1},
        {"latent_space": "ip", "metric": "ip", "description": "Flat"},
        {"space": "cosine", "dtype": "f64", "description": "no such index"},
        {"deleted": [4], "dtype": "f16", "description": "IVF2,Flat"},
    ):
        file.forge(**{field: value for field, value in changes.items() if field in file.header})
        with pytest.raises(VaecodecError) as error:
            file.use(file.path)
        assert isinstance(error.value, (IndexFileError, CodecMismatchError)), changes


def test_an_index_cut_off_anywhere(file):
    random = np.random.default_rng(1)
    for length in [0, 1, 95, *random.integers(2, len(file.payload), 30).tolist()]:
        file.sign({**file.header, "payload_bytes": length}, file.payload[:length])
        with pytest.raises(IndexFileError, match=rf"^{re.escape(str(file.path))}: "):
            file.use(file.path)
    longer = file.payload + bytes(8)
    file.sign({**file.header, "payload_bytes": len(longer)}, longer)
    if file.magic != b"VAEFAIS\n":  # faiss reads what it needs
        with pytest.raises(IndexFileError, match=rf"^{re.escape(str(file.path))}: "):
            file.use(file.path)


def test_wild_bytes_are_refused_or_harmless(file):
    """Where they fall on a latent, an id, or a link that leads elsewhere, the index is another one and no trap."""
    random = np.random.default_rng(2)
    refused = 0
    for number in range(150):
        damaged = bytearray(file.payload)
        end = 100 if number % 2 else len(damaged) - 4
        for place in random.integers(0, end, 3).tolist():
            wide = random.integers(0, 2) == 1
            damaged[place : place + 4] = (
                int(random.integers(0, 2**32)).to_bytes(4, "little") if wide else damaged[place : place + 4]
            )
            damaged[place] = int(random.integers(0, 256))
        file.sign(file.header, bytes(damaged))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of wild latents, which distances overflow with
                file.use(file.path)
        except VaecodecError:
            refused += 1
    assert refused > 60


HNSW_HEAD = {"capacity": 8, "count": 16, "row bytes": 24, "label": 32, "data": 40, "M": 72}


@pytest.mark.parametrize("field", HNSW_HEAD)
@pytest.mark.parametrize("value", [0, 1, 2**31, 2**62, 2**64 - 1])
def test_every_size_in_the_head_of_hnswlib_is_checked(hnsw_file, field, value):
    hnsw_file.with_bytes(HNSW_HEAD[field], value, form="<Q")
    with pytest.raises(IndexFileError, match="expected an index that hnswlib wrote over latents of width 6"):
        hnsw_file.use(hnsw_file.path)


@pytest.mark.parametrize(
    ("place", "form", "value", "message"),
    [
        (48, "<i", 99, "the entry point is element"),
        (52, "<I", 100, "the entry point is element 100"),
        (80, "<d", 1e300, "the factor of levels is 1e\\+300"),
        (96, "<H", 9, "an element with 9 links on level 0"),
        (98, "<B", 2, "an unknown mark on level 0"),
        (100, "<I", 100, "a link to element 100 of 100"),
        (96 + 36, "<f", float("nan"), "a latent holds NaN"),
        (96 + 36 + 24, "<Q", 1, "two elements have the same id"),
        (8, "<Q", 2**50, "reserves room for 1125899906842624 elements"),
    ],
)
def test_what_hnswlib_would_follow_blindly(hnsw_file, place, form, value, message):
    hnsw_file.with_bytes(place, value, form=form)
    with pytest.raises(IndexFileError, match=message):
        hnsw_file.use(hnsw_file.path)


def test_a_link_to_an_element_without_that_level(hnsw_file):
    row_bytes = 4 + 4 * 8 + 4 * DIM + 8
    place = 96 + 100 * row_bytes
    while int.from_bytes(hnsw_file.payload[place : place + 4], "little") == 0:
        place += 4
    base = next(i for i in range(100) if hnsw_file.payload[96 + 100 * row_bytes + 4 * i] == 0)
    hnsw_file.with_bytes(place + 4, 1, base, form="<II")
    with pytest.raises(IndexFileError, match="a link on level 1 to an element that ends below it"):
        hnsw_file.use(hnsw_file.path)


@pytest.mark.parametrize(
    ("place", "form", "value", "message"),
    [
        (0, "<I", 2**31, "leave no room for a graph"),
        (4, "<I", 2**31, "vectors of 2147483648 bytes"),
        (8, "<f", float("nan"), "a latent holds NaN"),
        (8 + 2400, "<B", 0, "another magic number"),
        (8 + 2400 + 14, "<B", 23, "another metric or type of numbers"),
        (8 + 2400 + 17, "<Q", 2**60, "elements and 1 deleted ones"),
        (8 + 2400 + 64, "<Q", 2**60, "1152921504606846976 elements of 100 vectors"),
        (8 + 2400 + 64 + 8, "<Q", 2**60, "1152921504606846976 and 8 links"),
        (8 + 2400 + 64 + 32, "<Q", 100, "the entry point is element 100"),
        (8 + 2400 + 104, "<h", -1, "the entry point is element"),
        (8 + 2400 + 104 + 200 + 10, "<I", 9, "an element with 9 links on level 0"),
        (8 + 2400 + 104 + 200 + 14, "<I", 100, "a link to element 100 of 100"),
    ],
)
def test_what_usearch_would_follow_blindly(usearch_file, place, form, value, message):
    usearch_file.with_bytes(place, value, form=form)
    with pytest.raises(IndexFileError, match=message):
        usearch_file.use(usearch_file.path)
