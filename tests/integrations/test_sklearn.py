"""Test CodecTransformer as scikit-learn expects a transformer to be."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from vaecodec import Codec, LinearKind, Metric, fit_linear
from vaecodec.errors import BadRowsError, CodecMismatchError, InvalidDimensionError, WrongWidthError
from vaecodec_integrations.sklearn import CodecTransformer

ROUNDING = "latents are float32, and the last digit of a matrix product depends on the row's place; compared to 1e-7"
NOT_APPLICABLE = {
    "check_methods_sample_order_invariance": ROUNDING,
    "check_methods_subset_invariance": ROUNDING,
}
UNDER_COSINE = {"check_estimators_dtypes": "integer data with a row of zeros, which has no direction"}


@pytest.mark.parametrize("kind", list(LinearKind))
@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("n_components", [None, 1])
def test_passes_scikit_learns_own_checks(kind, metric, n_components):
    estimator = CodecTransformer(n_components=n_components, kind=str(kind), metric=str(metric))
    expected = NOT_APPLICABLE | (UNDER_COSINE if metric is Metric.COSINE else {})
    results = check_estimator(estimator, expected_failed_checks=expected, on_skip=None)
    assert len(results) > 40
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}


@pytest.mark.parametrize("kind", list(LinearKind))
def test_a_rows_latents_do_not_depend_on_its_neighbours(kind, sample):
    """Check what the checks left out above are about, to the precision of float32."""
    transformer = CodecTransformer(n_components=32, kind=str(kind)).fit(sample.train[:1_000])
    whole = transformer.transform(sample.base[:50])
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(transformer.transform(sample.base[:50][order]), whole[order], atol=1e-6)
    np.testing.assert_allclose(transformer.transform(sample.base[:1]), whole[:1], atol=1e-6)


def test_fits_the_linear_codec(sample):
    transformer = CodecTransformer(n_components=64)
    latents = transformer.fit_transform(sample.train)
    codec = fit_linear(sample.train, 64)
    assert transformer.codec_.codec_id == codec.codec_id
    np.testing.assert_array_equal(latents, codec.encode(sample.train))
    np.testing.assert_array_equal(transformer.inverse_transform(latents), codec.decode(latents))
    assert transformer.get_feature_names_out()[[0, 63]].tolist() == ["codectransformer0", "codectransformer63"]


def test_uses_a_codec_file(sample, vae_path):
    codec = Codec.load(vae_path, dim=32)
    transformer = CodecTransformer(vae_path, n_components=32).fit(sample.train[:10])
    np.testing.assert_array_equal(transformer.transform(sample.base[:99]), codec.encode(sample.base[:99]))
    assert CodecTransformer(vae_path).fit_transform(sample.base[:5]).shape == (5, 64)
    assert clone(transformer).get_params() == transformer.get_params()
    with pytest.raises(InvalidDimensionError, match="expected dim to be one of 16, 32, 64, got 7"):
        CodecTransformer(vae_path, n_components=7).fit(sample.base[:5])
    with pytest.raises(WrongWidthError, match="expected rows of width 384, got 100"):
        CodecTransformer(vae_path).fit(sample.base[:5, :100])


def test_a_fitted_pipeline_is_pickled_without_the_file(sample, vae_path, svd_path, tmp_path):
    path = tmp_path / "codec.onnx"
    shutil.copy(vae_path, path)
    pipeline = make_pipeline(CodecTransformer(path), NearestNeighbors(n_neighbors=3)).fit(sample.base[:500])
    pickled = pickle.dumps(pipeline)
    assert len(pickled) < 500 * 64 * 4 + 20_000
    restored = pickle.loads(pickled)
    np.testing.assert_array_equal(restored[0].transform(sample.queries[:5]), pipeline[0].transform(sample.queries[:5]))
    shutil.copy(svd_path, path)
    with pytest.raises(CodecMismatchError, match="which the transformer was fitted with, got codec"):
        pickle.loads(pickled)


def test_the_width_can_be_searched_with_other_parameters(sample):
    labels = (sample.base[:300, 0] > np.median(sample.base[:300, 0])).astype(int)
    pipeline = make_pipeline(CodecTransformer(), LogisticRegression())
    search = GridSearchCV(pipeline, {"codectransformer__n_components": [2, 128]}, cv=2).fit(sample.base[:300], labels)
    assert search.best_params_ == {"codectransformer__n_components": 128}
    assert search.best_score_ > 0.7


def test_bad_parameters_and_rows_are_named(sample):
    with pytest.raises(InvalidDimensionError, match="expected a latent width from 1 to 384, got 385"):
        CodecTransformer(n_components=385).fit(sample.base[:5])
    with pytest.raises(ValueError, match="'pcaa' is not a valid LinearKind"):
        CodecTransformer(kind="pcaa").fit(sample.base[:5])
    rows = sample.base[:5].copy()
    rows[3] = 0
    with pytest.raises(BadRowsError, match="row 3 has zero norm"):
        CodecTransformer(n_components=2).fit(rows)
