"""Test exact search over packed codes: the same answers as decoding everything, in a fraction of the memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, Metric, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.errors import BadRowsError, CodecMismatchError, IndexArgumentError, IndexFileError
from vaecodec.evaluation import exact_search
from vaecodec.packed_index import PackedIndex
from vaecodec_exporters.linear import export_linear

CODES = [{"bytes": 48}, {"dtype": "float32"}, {"dtype": "int8"}, {"dtype": "int4"}, {"dtype": "binary"}]


@pytest.fixture(scope="module", params=Metric)
def codec(request, sample, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return linear_codec(sample, request.param, tmp_path_factory.mktemp("packed"), 128)


@pytest.fixture(scope="module")
def cosine_codec(sample, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return linear_codec(sample, Metric.COSINE, tmp_path_factory.mktemp("packed"), 128)


def linear_codec(sample, metric: Metric, folder: Path, dim: int) -> Codec:
    linear = fit_linear(sample.train, dim, metric=metric)
    export_linear(
        linear,
        folder / "codec.onnx",
        calibration=CodecCalibration(codes=Calibration.fit(linear.encode(sample.train), metric)),
    )
    return Codec.load(folder / "codec.onnx")


@pytest.mark.parametrize("parameters", CODES)
def test_search_is_exact_search_over_the_decoded_latents(sample, codec: Codec, parameters) -> None:
    index = PackedIndex(codec, **parameters)
    for part in np.array_split(sample.base[:1500], 3):  # segments of other sizes than the blocks
        index.add(part)
    decoded = index.code.decode(codec.encode(sample.base[:1500], **parameters))
    queries = codec.encode_queries(sample.queries[:20])
    _, expected = exact_search(decoded, queries, 10, codec.latent_metric)
    for count in (1, 20):  # few queries take another path
        ids, scores = index.search(sample.queries[:count], 10)
        assert np.allclose(scores, expected[:count], atol=2e-5)
        assert (np.diff(scores, axis=1) <= 0).all()
        own = [exact_search(decoded[ids[q]], queries[q : q + 1], 10, codec.latent_metric)[1][0] for q in range(count)]
        assert np.allclose(scores, own, atol=2e-5)  # the scores are those of the rows returned


def test_equal_scores_give_the_lower_rows(sample, cosine_codec: Codec) -> None:
    index = PackedIndex(cosine_codec, dtype="int8")
    index.add(np.repeat(sample.base[:5], 6, axis=0))
    ids, _ = index.search(sample.base[:5], 4)
    assert np.array_equal(ids, 6 * np.arange(5)[:, None] + np.arange(4))


def test_fewer_rows_than_asked_for(sample, cosine_codec: Codec) -> None:
    index = PackedIndex(cosine_codec, bytes=16)
    assert index.search(sample.queries[:3], 5)[0].shape == (3, 0)
    index.add(sample.base[:2])
    ids, scores = index.search(sample.queries[:3], 5)
    assert ids.shape == scores.shape == (3, 2)
    assert (np.sort(ids, axis=1) == [0, 1]).all()


def test_originals_rank_the_candidates_again(sample, cosine_codec: Codec) -> None:
    index = PackedIndex(cosine_codec, bytes=32)
    index.add(sample.base)
    truth, exact_scores = exact_search(sample.base, sample.queries[:50], 10, Metric.COSINE)
    coarse, _ = index.search(sample.queries[:50], 10)
    ids, scores = index.search(sample.queries[:50], 10, originals=sample.base, oversample=20)
    agreement = (ids == truth).mean()
    assert agreement > 0.97 > 0.9 > (coarse == truth).mean()
    assert np.allclose(scores[ids == truth], exact_scores[ids == truth], atol=1e-5)


@pytest.mark.parametrize("parameters", CODES)
def test_a_saved_index_answers_the_same(sample, codec: Codec, tmp_path: Path, parameters) -> None:
    index = PackedIndex(codec, **parameters)
    index.add(sample.base[:300])
    index.add(sample.base[300:500])
    index.save(tmp_path / "saved.index")
    loaded = PackedIndex.load(tmp_path / "saved.index", codec)
    assert len(loaded) == 500
    header = 384
    assert 500 * index.bytes_per_vector <= (tmp_path / "saved.index").stat().st_size
    assert (tmp_path / "saved.index").stat().st_size <= 500 * index.bytes_per_vector + header
    assert np.allclose(loaded.search(sample.queries[:20], 7)[1], index.search(sample.queries[:20], 7)[1], atol=1e-5)
    for grown in (index, loaded):
        grown.add(sample.base[500:600])
    loaded.save(tmp_path / "saved.index")  # over the file that it reads from
    again = PackedIndex.load(tmp_path / "saved.index", codec)
    assert np.allclose(again.search(sample.queries[:20], 7)[1], index.search(sample.queries[:20], 7)[1], atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["saved.index"]


def test_searching_a_file_takes_constant_memory(sample, cosine_codec: Codec, tmp_path: Path) -> None:
    index = PackedIndex(cosine_codec, dtype="int8")
    for _ in range(25):
        index.add(sample.base[:4000])
    index.save(tmp_path / "large.index")
    del index
    loaded = PackedIndex.load(tmp_path / "large.index", cosine_codec)
    tracemalloc.start()
    loaded.search(sample.queries[:16], 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(loaded) * cosine_codec.code_dim * 4 > 50e6  # what the latents would take as floats
    assert peak < 16e6


def test_another_codec_is_refused(sample, cosine_codec: Codec, tmp_path: Path) -> None:
    index = PackedIndex(cosine_codec, bytes=32)
    index.add(sample.base[:10])
    index.save(tmp_path / "a.index")
    other = linear_codec(sample, Metric.COSINE, tmp_path, 64)
    with pytest.raises(CodecMismatchError) as refusal:
        PackedIndex.load(tmp_path / "a.index", other)
    assert str(refusal.value) == (
        f"{tmp_path / 'a.index'}: filled by codec {cosine_codec.codec_id[:16]} at 128 dimensions, cannot be "
        f"searched with codec {other.codec_id[:16]} at 64; load the codec that filled it"
    )


def test_files_that_are_no_index_are_refused(sample, cosine_codec: Codec, tmp_path: Path) -> None:
    index = PackedIndex(cosine_codec, bytes=32)
    index.add(sample.base[:10])
    path = tmp_path / "a.index"
    index.save(path)
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"none\.index"):
        PackedIndex.load(tmp_path / "none.index", cosine_codec)
    again = "copy the file again, or add the vectors anew"
    newer = "format version 3 is newer than the 2 known here; upgrade with: pip install --upgrade vaecodec"
    for damaged, message in (
        (b"", "expected a file that PackedIndex.save wrote"),
        (b"something else entirely", "expected a file that PackedIndex.save wrote"),
        (whole[:8] + b"\x03" + whole[9:], newer),
        (whole[:8] + b"\x01" + whole[9:], "format version 1 has no checksum; add the vectors to a new index"),
        (whole[:48] + b"\xff" * 16 + whole[64:], "the header is damaged; copy the file again, or add the vectors anew"),
        (whole[:40], "expected a file that PackedIndex.save wrote"),
        (whole[:-1], f"expected {len(whole)} bytes, found {len(whole) - 1}; {again}"),
        (whole + b"\0", f"expected {len(whole)} bytes, found {len(whole) + 1}; {again}"),
        (whole[:-1] + b"\0", "the content does not fit its checksum; copy the file again, or add the vectors"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(IndexFileError) as refusal:
            PackedIndex.load(path, cosine_codec)
        assert str(refusal.value) == f"{path}: {message}"


def test_a_bad_row_adds_nothing(sample, cosine_codec: Codec) -> None:
    index = PackedIndex(cosine_codec, bytes=32)
    bad = sample.base[:6000].copy()
    bad[5123, 7] = np.nan
    with pytest.raises(BadRowsError, match="row 5123"):
        index.add(bad)
    assert len(index) == 0


def test_impossible_searches_are_refused(sample, cosine_codec: Codec) -> None:
    index = PackedIndex(cosine_codec, bytes=32)
    index.add(sample.base[:10])
    with pytest.raises(IndexArgumentError) as refusal:
        index.search(sample.queries[:1], 0)
    assert str(refusal.value) == "expected k and oversample of at least 1, got k=0 and oversample=4"
    with pytest.raises(IndexArgumentError) as refusal:
        index.search(sample.queries[:1], 3, originals=sample.base[:9])
    assert str(refusal.value) == "originals: expected shape (10, 384), got (9, 384)"
