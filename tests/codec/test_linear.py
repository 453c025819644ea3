"""Test linear codecs against scikit-learn, against their own definitions, and on real vectors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA, TruncatedSVD

from vaecodec import Codec, LinearCodec, LinearKind, Metric, fit_linear
from vaecodec.errors import BadRowsError, InvalidDimensionError, InvalidVectorsError
from vaecodec.evaluation import exact_search, recall
from vaecodec.linear import product
from vaecodec.sources import open_source
from vaecodec.vectors import as_compared, normalised
from vaecodec_exporters.linear import export_linear


def subspace(components: np.ndarray) -> np.ndarray:
    return components.T @ components


def test_components_span_what_scikit_learn_finds(sample) -> None:
    rows = sample.train[:2000]
    svd = fit_linear(rows, 16, kind=LinearKind.SVD, metric=Metric.DOT)
    expected = TruncatedSVD(16, algorithm="arpack", random_state=0).fit(rows).components_
    assert np.allclose(subspace(svd.components), subspace(expected), atol=1e-4)

    pca = fit_linear(rows, 16, kind=LinearKind.PCA, metric=Metric.L2)
    reference = PCA(16, svd_solver="full").fit(rows)
    assert np.allclose(subspace(pca.components), subspace(reference.components_), atol=1e-4)
    assert np.allclose(np.abs(pca.encode(rows)), np.abs(reference.transform(rows)), atol=1e-4)


@pytest.mark.parametrize("kind", LinearKind)
@pytest.mark.parametrize("metric", Metric)
def test_full_width_keeps_every_neighbour(sample, kind: LinearKind, metric: Metric) -> None:
    codec = fit_linear(sample.train[:2000], 384, kind=kind, metric=metric)
    base, queries = sample.base[:1000], sample.queries[:50]
    truth, _ = exact_search(base, queries, 10, metric)
    found, _ = exact_search(codec.encode(base), codec.encode_queries(queries), 10, codec.latent_metric)
    # Centring both sides turns the angles, whichever width is kept: the loss that the report shows.
    least = 0.6 if kind is LinearKind.PCA and metric is not Metric.L2 else 0.999
    assert recall(found, truth, 10).mean() >= least
    if not (kind is LinearKind.PCA and metric is Metric.COSINE):
        assert np.allclose(codec.decode(codec.encode(base)), base, atol=1e-5)


def test_centring_both_sides_loses_recall_and_truncation_more(sample) -> None:
    truth, _ = exact_search(sample.base, sample.queries, 10, Metric.COSINE)
    figures = {}
    for kind in LinearKind:
        codec = fit_linear(sample.train, 64, kind=kind)
        ids, _ = exact_search(codec.encode(sample.base), codec.encode_queries(sample.queries), 10, codec.latent_metric)
        figures[kind] = recall(ids, truth, 10).mean()
    assert figures[LinearKind.SVD] > figures[LinearKind.PCA] + 0.03
    assert figures[LinearKind.PCA_DOCUMENTS] > figures[LinearKind.PCA] + 0.03
    assert figures[LinearKind.PCA] > figures[LinearKind.TRUNCATION] + 0.1


def test_latents_are_unit_vectors_under_cosine_and_length_does_not_matter(sample, svd_codec) -> None:
    latents = svd_codec.encode(sample.base[:100])
    assert np.allclose(np.linalg.norm(latents, axis=1), 1, atol=1e-6)
    assert np.allclose(svd_codec.encode(7 * sample.base[:100]), latents, atol=1e-6)


def test_fitting_does_not_depend_on_how_the_data_is_read(sample, tmp_path) -> None:
    np.save(tmp_path / "rows.npy", sample.train[:3000])
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert fit_linear(mapped, 8).codec_id == fit_linear(sample.train[:3000], 8).codec_id


def test_rows_held_out_leave_no_trace(sample, tmp_path) -> None:
    rows = sample.train[:3000].copy()
    rows[::7] = sample.queries[:429]
    np.save(tmp_path / "rows.npy", rows)
    others = np.delete(sample.train[:3000], np.s_[::7], axis=0)
    held_out = fit_linear(open_source(tmp_path / "rows.npy"), 8, kind=LinearKind.PCA, hold_out=7)
    np.testing.assert_allclose(
        held_out.encode(sample.base), fit_linear(others, 8, kind=LinearKind.PCA).encode(sample.base), atol=1e-5
    )


def test_a_prefix_is_the_codec_fitted_at_that_width(sample, svd_codec) -> None:
    narrow = fit_linear(sample.train, 16, embedder="all-MiniLM-L6-v2")
    assert np.allclose(svd_codec.truncated(16).encode(sample.base), narrow.encode(sample.base), atol=1e-5)
    with pytest.raises(InvalidDimensionError, match="expected a latent width from 1 to 64, got 65"):
        svd_codec.truncated(65)


def test_identity_names_weights_metric_and_kind(sample) -> None:
    rows = sample.train[:500]
    codecs = [fit_linear(rows, 8, kind=kind, metric=metric) for kind in LinearKind for metric in Metric]
    assert len({codec.codec_id for codec in codecs}) == len(codecs)
    assert fit_linear(rows, 8).codec_id == fit_linear(rows.copy(), 8).codec_id


def test_refuses_what_cannot_be_fitted(sample) -> None:
    with pytest.raises(InvalidVectorsError, match="expected at least one row to fit on, got none"):
        fit_linear(np.empty((0, 4), np.float32), 2)
    with pytest.raises(InvalidDimensionError, match="expected a latent width from 1 to 384, got 385"):
        fit_linear(sample.train[:10], 385)
    bad = sample.train[:10].copy()
    bad[7, 3] = np.nan
    with pytest.raises(BadRowsError, match="row 7 "):
        fit_linear(bad, 4)


def test_truncation_keeps_the_first_coordinates(sample) -> None:
    codec: LinearCodec = fit_linear(sample.train[:10], 32, kind=LinearKind.TRUNCATION)
    assert np.allclose(codec.encode(sample.base), normalised(sample.base[:, :32]), atol=1e-6)


@pytest.mark.parametrize("kind", [LinearKind.SVD, LinearKind.PCA])
def test_a_row_gets_the_same_bits_alone_and_in_any_batch(sample, kind: LinearKind) -> None:
    codec = fit_linear(sample.train[:1000], 48, kind=kind)
    rows = sample.base[:600]
    latents = codec.encode(rows)
    restored = codec.decode(latents)
    for start, size in [(0, 1), (7, 1), (599, 1), (3, 2), (101, 5), (17, 64), (60, 513)]:
        part = slice(start, start + size)
        assert np.array_equal(codec.encode(rows[part]), latents[part])
        assert np.array_equal(codec.decode(latents[part]), restored[part])


def test_products_are_the_sums_rounded_once() -> None:
    random = np.random.default_rng(0)
    rows, matrix = (random.standard_normal((n, 100)).astype(np.float32) for n in (40, 30))
    rows[0, :50], rows[0, 50:], matrix[0] = 1, -1, 1  # a sum of zero, which every order must give
    exact = [[math.fsum(np.multiply(row, other, dtype=np.float64)) for other in matrix] for row in rows]
    assert np.array_equal(product(rows, matrix), np.array(exact, np.float64).astype(np.float32))
    assert product(rows[:0], matrix).shape == (0, 30)


def test_rows_of_which_nothing_is_kept_are_refused(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    vectors[:, :4] = 0
    codec = fit_linear(vectors, 6)
    export_linear(codec, tmp_path / "codec.onnx")
    vectors[7, 4:], vectors[7, 2] = 0, 1
    for other in (codec, Codec.load(tmp_path / "codec.onnx"), Codec.load(tmp_path / "codec.onnx", dim=3)):
        with pytest.raises(
            BadRowsError, match="vectors: row 7 has latents of zero norm: nothing of it is in what the codec"
        ):
            other.encode(vectors)
        with pytest.raises(BadRowsError, match="queries: row 0 has latents of zero norm"):
            other.encode_queries(vectors[7:8])


def test_axes_in_which_the_data_do_not_vary_give_the_same_bits_alone(sample) -> None:
    # The second half repeats the first: half of the axes carry nothing but rounding errors.
    rows = np.hstack([sample.base[:200, :96], 1.7 * sample.base[:200, :96]])
    codec = fit_linear(rows, 192, kind=LinearKind.SVD_DOT)
    latents = codec.encode(rows)
    assert 0 < np.abs(latents[:, 96:]).max() < 1e-6
    for row in range(0, 200, 20):
        assert np.array_equal(codec.encode(rows[row : row + 1])[0], latents[row])
    units = as_compared(rows, Metric.COSINE)
    exact = units.astype(np.float64) @ codec.components.T.astype(np.float64)
    assert np.abs(latents - exact).max() < 4e-8
