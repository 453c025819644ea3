"""Test what every index over latents must do, whatever library is behind it: one harness per adapter."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from vaecodec import Codec, fit_linear
from vaecodec.errors import (
    BadRowsError,
    CodecMismatchError,
    IndexFileError,
    InvalidVectorsError,
    NotFloatingPointError,
    WrongWidthError,
)
from vaecodec.evaluation import exact_search, recall
from vaecodec.interface import VectorCodec
from vaecodec_integrations.faiss import CompressedFaissIndex
from vaecodec_integrations.hnsw import CompressedIndex
from vaecodec_integrations.usearch import CompressedUsearchIndex


class Harness(Protocol):
    """Define how a test talks to one kind of index."""

    def make(self, codec: VectorCodec) -> Any: ...
    def add(self, index: Any, vectors: Any, ids: Any) -> None: ...
    def search(self, index: Any, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]: ...
    def restore(self, index: Any, ids: Any) -> np.ndarray: ...
    def count(self, index: Any) -> int: ...
    def save(self, index: Any, path: Path) -> None: ...
    def load(self, codec: VectorCodec, path: Path) -> Any: ...


class Hnswlib:
    def make(self, codec: VectorCodec) -> CompressedIndex:
        index = CompressedIndex("cosine", codec.dim, codec)
        index.init_index(5_000, ef_construction=100)
        index.set_ef(100)
        return index

    def add(self, index: CompressedIndex, vectors: Any, ids: Any) -> None:
        index.add_items(vectors, ids)

    def search(self, index: CompressedIndex, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, distances = index.knn_query(queries, k)
        return ids.astype(np.int64), distances

    def restore(self, index: CompressedIndex, ids: Any) -> np.ndarray:
        return index.get_items(ids)

    def count(self, index: CompressedIndex) -> int:
        return index.element_count

    def save(self, index: CompressedIndex, path: Path) -> None:
        index.save_index(path)

    def load(self, codec: VectorCodec, path: Path) -> CompressedIndex:
        index = CompressedIndex("cosine", codec.dim, codec)
        index.load_index(path)
        index.set_ef(100)
        return index


class Usearch:
    def make(self, codec: VectorCodec) -> CompressedUsearchIndex:
        return CompressedUsearchIndex(codec, expansion_search=100)

    def add(self, index: CompressedUsearchIndex, vectors: Any, ids: Any) -> None:
        index.add(ids, vectors, threads=1)  # or the graph is another one each time

    def search(self, index: CompressedUsearchIndex, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        matches = index.search(queries, k)
        return matches.keys.astype(np.int64), matches.distances

    def restore(self, index: CompressedUsearchIndex, ids: Any) -> np.ndarray:
        return np.stack(index.get(ids))

    def count(self, index: CompressedUsearchIndex) -> int:
        return len(index)

    def save(self, index: CompressedUsearchIndex, path: Path) -> None:
        index.save(path)

    def load(self, codec: VectorCodec, path: Path) -> CompressedUsearchIndex:
        index = self.make(codec)
        index.load(path)
        return index


class FaissFlat:
    description = "Flat"

    def make(self, codec: VectorCodec) -> CompressedFaissIndex:
        return CompressedFaissIndex(codec, self.description)

    def add(self, index: CompressedFaissIndex, vectors: Any, ids: Any) -> None:
        index.add_with_ids(vectors, ids)

    def search(self, index: CompressedFaissIndex, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, ids = index.search(queries, k)
        return ids, 1 - scores  # under cosine faiss returns similarities

    def restore(self, index: CompressedFaissIndex, ids: Any) -> np.ndarray:
        return index.reconstruct_batch(ids)

    def count(self, index: CompressedFaissIndex) -> int:
        return index.ntotal

    def save(self, index: CompressedFaissIndex, path: Path) -> None:
        index.save(path)

    def load(self, codec: VectorCodec, path: Path) -> CompressedFaissIndex:
        return CompressedFaissIndex.load(path, codec)


class FaissInvertedLists(FaissFlat):
    description = "IVF8,Flat"

    def make(self, codec: VectorCodec) -> CompressedFaissIndex:
        index = CompressedFaissIndex(codec, self.description)
        index.train(np.random.default_rng(0).normal(size=(400, codec.dim)))
        index.inner.nprobe = 8
        return index


@pytest.fixture(
    params=[
        ("hnswlib", "hnsw", Hnswlib),
        ("usearch", "usearch", Usearch),
        ("faiss", "faiss", FaissFlat),
        ("faiss", "faiss", FaissInvertedLists),
    ],
    ids=["hnswlib", "usearch", "faiss", "faiss inverted lists"],
)
def harness(request: pytest.FixtureRequest) -> Harness:
    library, extra, kind = request.param
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'vaecodec[{extra}]'")
    return kind()


@pytest.fixture
def filled(harness, svd_codec, sample):
    """Make an index of 2,000 documents whose ids are 1,000 more than their rows."""
    index = harness.make(svd_codec)
    harness.add(index, sample.base[:2_000], np.arange(1_000, 3_000))
    return index


def test_finds_what_exact_search_on_latents_finds(harness, filled, svd_codec, sample):
    latents, queries = svd_codec.encode(sample.base[:2_000]), svd_codec.encode_queries(sample.queries[:200])
    truth, scores = exact_search(latents, queries, 10, svd_codec.latent_metric)

    ids, distances = harness.search(filled, sample.queries[:200], 10)

    assert recall(ids - 1_000, truth, 10).mean() > 0.97
    np.testing.assert_allclose(distances[:, 0], 1 - scores[:, 0], atol=1e-3)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_returns_vectors_of_the_original_width(harness, filled, svd_codec, sample):
    restored = harness.restore(filled, [1_007, 1_000])

    assert restored.shape == (2, 384)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, svd_codec.decode(svd_codec.encode(sample.base[[7, 0]])), atol=1e-5)


def _with(sample: Any, row: int, values: Any) -> np.ndarray:
    vectors = sample.base[2_000:2_050].copy()
    vectors[row] = values
    return vectors


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda s: _with(s, 17, np.nan), BadRowsError, "row 17 holds NaN or infinity"),
        (lambda s: _with(s, 49, 0.0), BadRowsError, "row 49 has zero norm"),
        (lambda s: s.base[:50, :128], WrongWidthError, "expected rows of width 384, got 128"),
        (lambda s: np.ones((50, 384), np.int8), NotFloatingPointError, "got dtype int8"),
        (lambda s: s.base[:50, None], InvalidVectorsError, "got shape (50, 1, 384)"),
        (lambda s: [[1.0, 2.0], [1.0]], InvalidVectorsError, "no matrix"),
    ],
    ids=["nan", "zero", "narrow", "integers", "three-dimensional", "ragged"],
)
def test_a_bad_batch_inserts_nothing_and_says_why(harness, filled, sample, bad, error, message):
    before = harness.search(filled, sample.queries[:50], 10)
    vectors = bad(sample)

    with pytest.raises(error, match=re.escape(message)):
        harness.add(filled, vectors, np.arange(len(vectors)))
    with pytest.raises(error, match=re.escape(message)):
        harness.search(filled, vectors, 1)

    assert harness.count(filled) == 2_000
    np.testing.assert_array_equal(harness.search(filled, sample.queries[:50], 10), before)


def test_adding_an_id_again_updates_its_vector(harness, filled, svd_codec, sample):
    harness.add(filled, sample.base[3_000:3_001], [1_005])

    assert harness.count(filled) == 2_000
    np.testing.assert_allclose(
        harness.restore(filled, [1_005]), svd_codec.decode(svd_codec.encode(sample.base[3_000:3_001])), atol=1e-5
    )


def test_the_callers_array_is_left_alone(harness, svd_codec, sample):
    vectors = (3 * sample.base[:10]).copy()
    kept = vectors.copy()
    harness.add(harness.make(svd_codec), vectors, np.arange(10))
    np.testing.assert_array_equal(vectors, kept)


def test_a_saved_index_loads_with_the_same_answers(harness, filled, svd_codec, sample, tmp_path):
    harness.save(filled, tmp_path / "documents.index")
    loaded = harness.load(svd_codec, tmp_path / "documents.index")

    assert os.listdir(tmp_path) == ["documents.index"]
    assert harness.count(loaded) == 2_000
    np.testing.assert_array_equal(
        harness.search(loaded, sample.queries[:50], 10), harness.search(filled, sample.queries[:50], 10)
    )


@pytest.mark.parametrize("duplicate", [lambda index: pickle.loads(pickle.dumps(index)), copy.copy, copy.deepcopy])
def test_a_pickle_holds_the_index_and_its_codec(harness, svd_codec, sample, duplicate):
    index = harness.make(svd_codec)
    harness.add(index, sample.base[:300], np.arange(300))
    restored = duplicate(index)
    assert restored.codec.codec_id == svd_codec.codec_id
    np.testing.assert_array_equal(
        harness.search(restored, sample.queries[:20], 10), harness.search(index, sample.queries[:20], 10)
    )
    harness.add(restored, sample.base[300:301], [300])
    assert (harness.count(restored), harness.count(index)) == (301, 300)


@pytest.mark.parametrize(
    "ids",
    [[5, 2**62 + 1, 7], np.array([5, 2**62 + 1, 7], object), np.array([5, 2**62 + 1, 7], np.uint64), (5, 2**62 + 1, 7)],
    ids=["list", "objects", "unsigned", "tuple"],
)
def test_ids_of_any_integers(harness, svd_codec, sample, ids):
    index = harness.make(svd_codec)
    harness.add(index, sample.base[:3], ids)
    np.testing.assert_allclose(
        harness.restore(index, ids), svd_codec.decode(svd_codec.encode(sample.base[:3])), atol=1e-5
    )


def test_of_equal_ids_in_a_batch_the_last_row_counts(harness, svd_codec, sample):
    index = harness.make(svd_codec)
    harness.add(index, sample.base[:100], np.arange(100) % 7)
    assert harness.count(index) == 7
    np.testing.assert_allclose(
        harness.restore(index, np.arange(7)),
        svd_codec.decode(svd_codec.encode(sample.base[[98, 99, 93, 94, 95, 96, 97]])),
        atol=1e-5,
    )


def test_a_saved_index_refuses_another_codec(harness, filled, svd_codec, sample, tmp_path):
    harness.save(filled, tmp_path / "documents.index")
    other = fit_linear(sample.train[:3_000], 64)

    with pytest.raises(CodecMismatchError, match="load it with the codec that filled it") as error:
        harness.load(other, tmp_path / "documents.index")

    assert svd_codec.codec_id[:12] in str(error.value)
    assert other.codec_id[:12] in str(error.value)


def test_a_saved_index_refuses_another_width_of_the_same_codec_file(harness, vae_path, sample, tmp_path):
    index = harness.make(Codec.load(vae_path))
    harness.add(index, sample.base[:50], np.arange(50))
    harness.save(index, tmp_path / "documents.index")

    with pytest.raises(CodecMismatchError, match=r"filled by codec .* \(384 to 64\), .* \(384 to 32\); load it with"):
        harness.load(Codec.load(vae_path, dim=32), tmp_path / "documents.index")


def test_a_damaged_file_is_never_loaded(harness, svd_codec, sample, tmp_path):
    index = harness.make(svd_codec)
    harness.add(index, sample.base[:20], np.arange(20))
    path = tmp_path / "documents.index"
    harness.save(index, path)
    sound = path.read_bytes()
    random = np.random.default_rng(0)
    # Bits of every byte of the head, where structure is, and a sample of the rest.
    bits = [*range(0, 8 * 300, 5), *random.integers(0, 8 * len(sound), 100)]
    for bit in bits:
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(IndexFileError, match=rf"^{re.escape(str(path))}: "):
            harness.load(svd_codec, path)
    for length in [0, 1, 7, 8, 30, 48, 60, len(sound) // 2, len(sound) - 1]:
        path.write_bytes(sound[:length])
        with pytest.raises(IndexFileError, match=rf"^{re.escape(str(path))}: "):
            harness.load(svd_codec, path)
    path.write_bytes(sound + b"\0")
    with pytest.raises(IndexFileError, match="truncated or changed"):
        harness.load(svd_codec, path)
    assert os.listdir(tmp_path) == ["documents.index"]


def test_a_save_that_fails_leaves_the_old_file(harness, filled, tmp_path, monkeypatch):
    path = tmp_path / "documents.index"
    path.write_bytes(b"the old one")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        harness.save(filled, path)

    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["documents.index"]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        harness.save(filled, tmp_path / "no such folder" / "documents.index")
