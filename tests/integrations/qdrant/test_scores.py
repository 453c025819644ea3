"""Test scores of compressed vectors as estimates of the original ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from qdrant_client import models

from vaecodec import Codec, LinearCodec, fit_linear
from vaecodec.calibration import CodecCalibration, scores_of
from vaecodec.codes import Calibration
from vaecodec.errors import InvalidVectorsError, NotCalibratedError
from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec.scores import ScoreCalibration, fit_score_calibration
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.qdrant import CompressedQdrantClient, OriginalsFile, PackedRows

N = 500
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def calibration(sample: Any, svd_codec: LinearCodec) -> ScoreCalibration:
    return fit_score_calibration(svd_codec, sample.train, sample.train_queries[:500])


@pytest.fixture(scope="module")
def codec(
    sample: Any, svd_codec: LinearCodec, calibration: ScoreCalibration, tmp_path_factory: pytest.TempPathFactory
) -> Codec:
    path = tmp_path_factory.mktemp("calibrated") / "svd64.onnx"
    export_linear(svd_codec, path, calibration=CodecCalibration(scores=calibration))
    return Codec.load(path)


def fill(client: Any, name: str, base: np.ndarray) -> None:
    client.create_collection(name)
    client.upload_collection(name, base[:N], ids=range(N), wait=True)


def test_the_fit_is_the_least_squares_line(svd_codec: LinearCodec, sample: Any) -> None:
    documents, queries = sample.train[:300], sample.train_queries[:20]
    fitted = fit_score_calibration(svd_codec, documents, queries, neighbours=300)
    compressed = (svd_codec.encode_queries(queries) @ svd_codec.encode(documents).T).ravel()
    original = (queries @ documents.T).ravel()
    scale, offset = np.polyfit(compressed.astype(np.float64), original, 1)
    assert fitted.scale == pytest.approx(scale, rel=1e-4)
    assert fitted.offset == pytest.approx(offset, abs=1e-5)
    assert fitted.residual == pytest.approx((original - scale * compressed - offset).std(), rel=1e-3)
    assert fitted.code_dim == 64


def test_training_leaves_a_calibration_in_the_file(vae_codec: Codec, sample: Any) -> None:
    fitted = scores_of(vae_codec)
    ids, scores = exact_search(
        vae_codec.encode(sample.base), vae_codec.encode_queries(sample.queries), 10, Metric.COSINE
    )
    original = np.einsum("qnd,qd->qn", sample.base[ids], sample.queries)
    estimated = fitted.scale * scores + fitted.offset
    assert np.abs(estimated - original).mean() < 0.7 * np.abs(scores - original).mean()


class Space(NamedTuple):
    """Hold a codec whose file calibrates scores, and vectors that are compared as it compares them."""

    codec: Codec
    calibration: ScoreCalibration
    base: np.ndarray
    queries: np.ndarray


@pytest.fixture(scope="module", params=[Metric.COSINE, Metric.DOT])
def space(request: pytest.FixtureRequest, sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Space:
    # Under dot lengths count, so vectors have some.
    lengths = np.random.default_rng(0).uniform(0.5, 2, (len(sample.train) + len(sample.base), 1)).astype(np.float32)
    if request.param is Metric.COSINE:
        lengths[:] = 1
    train, base = sample.train * lengths[: len(sample.train)], sample.base * lengths[len(sample.train) :]
    fitted = fit_linear(train, 64, metric=request.param)
    if request.param is Metric.DOT:
        # Products of projections are those of the vectors, less what was projected away; a learned codec may give its
        # latents any length.
        fitted = replace(fitted, components=fitted.components * 0.7)
    calibration = fit_score_calibration(fitted, train, sample.train_queries[:500])
    path = tmp_path_factory.mktemp("calibrated") / "svd64.onnx"
    export_linear(fitted, path, calibration=CodecCalibration(scores=calibration))
    return Space(Codec.load(path), calibration, base, sample.queries)


def test_calibrated_scores_are_nearer_to_the_original_ones(open_client: Open, space: Space, name: str) -> None:
    fill(open_client(space.codec), name, space.base)
    plain, calibrated = open_client(space.codec), open_client(space.codec, calibrate=True)
    errors: dict[str, list[float]] = {"plain": [], "calibrated": []}
    for query in space.queries[:40]:
        exact = space.base[:N] @ query
        for kind, client in (("plain", plain), ("calibrated", calibrated)):
            points = client.query_points(name, query.tolist(), limit=10).points
            errors[kind] += [abs(point.score - exact[point.id]) for point in points]
    assert np.mean(errors["calibrated"]) < 0.5 * np.mean(errors["plain"])
    assert np.mean(errors["calibrated"]) < 2 * space.calibration.residual


def test_thresholds_are_read_as_original_scores(open_client: Open, space: Space, name: str) -> None:
    client = open_client(space.codec, calibrate=True)
    fill(client, name, space.base)
    query = space.queries[0].tolist()
    scores = [point.score for point in client.query_points(name, query, limit=20).points]
    threshold = (scores[6] + scores[7]) / 2
    assert len(client.query_points(name, query, limit=20, score_threshold=threshold).points) == 7
    request = models.QueryRequest(query=query, limit=20, score_threshold=threshold)
    (response,) = client.query_batch_points(name, [request])
    assert [point.score for point in response.points] == pytest.approx(scores[:7])
    latent = space.codec.encode_queries(space.queries[:1])[0].tolist()
    raw = client.wrapped.query_points(name, latent, limit=20).points
    calibration = space.calibration
    assert scores == pytest.approx([calibration.scale * point.score + calibration.offset for point in raw])


def test_a_calibration_holds_for_its_own_width_only(
    open_client: Open, codec: Codec, sample: Any, name: str, tmp_path: Path, svd_codec: LinearCodec
) -> None:
    """A client of narrower latents refuses to open, rather than give scores of another width's map."""
    export_linear(svd_codec, tmp_path / "cut.onnx", calibration=CodecCalibration(scores=scores_of(codec)))
    cut = Codec.load(tmp_path / "cut.onnx", dim=32)
    with pytest.raises(NotCalibratedError, match="for 32 dimensions, got one for 64 dimensions; load the file at its"):
        open_client(cut, calibrate=True)
    fill(open_client(cut), name, sample.base)
    (point,) = open_client(cut).query_points(name, sample.base[3].tolist(), limit=1).points
    assert (point.id, point.score) == (3, pytest.approx(1, abs=1e-5))


def test_distances_and_constant_scores_have_no_calibration(sample: Any, svd_codec: LinearCodec) -> None:
    with pytest.raises(NotCalibratedError, match="got l2: distances are not calibrated"):
        fit_score_calibration(fit_linear(sample.train, 8, metric=Metric.L2), sample.train[:9], sample.train[:2])
    with pytest.raises(InvalidVectorsError, match="expected pairs whose original and compressed scores vary together"):
        fit_score_calibration(svd_codec, np.repeat(sample.train[:1], 5, axis=0), sample.train[:1])


def test_packed_originals_rerank_from_an_eighth_of_the_bytes(
    open_client: Open, sample: Any, svd_codec: LinearCodec, name: str, tmp_path: Path
) -> None:
    wide = fit_linear(sample.train, 320)
    export_linear(
        wide,
        tmp_path / "wide.onnx",
        calibration=CodecCalibration(codes=Calibration.fit(wide.encode(sample.train), Metric.COSINE)),
    )
    packed = PackedRows(Codec.load(tmp_path / "wide.onnx"), bytes=96)
    with OriginalsFile(tmp_path / "packed", 384, encoding=packed) as file:
        fill(open_client(svd_codec, originals=file), name, sample.base)
        client = open_client(svd_codec, originals=file, rerank=8)
        overlap, single = [], []
        plain = svd_codec.encode(sample.base[:N])
        for query in sample.queries[:40]:
            truth = set(np.argsort(-(sample.base[:N] @ query))[:10].tolist())
            found = client.query_points(name, query.tolist(), limit=10).points
            overlap.append(len(truth & {point.id for point in found}) / 10)
            latent = svd_codec.encode_queries(query[None])[0]
            single.append(len(truth & set(np.argsort(-(plain @ latent))[:10].tolist())) / 10)
        assert np.mean(overlap) > np.mean(single) + 0.15
        assert np.mean(overlap) > 0.88
        assert (tmp_path / "packed").stat().st_size == 96 * N
    with pytest.raises(ValueError, match="expected dim 384, encoding float16"):
        OriginalsFile(tmp_path / "packed", 384)


def test_a_client_with_originals_scores_exactly_without_calibration(codec: Codec, sample: Any, name: str) -> None:
    from qdrant_client import QdrantClient

    raw = QdrantClient(":memory:")
    client = CompressedQdrantClient(raw, codec, originals="disk", calibrate=True)
    fill(client, name, sample.base)
    points = client.query_points(name, sample.queries[0], limit=5).points
    assert len(points) == 5
    for point in points:
        assert point.score == pytest.approx(sample.base[point.id] @ sample.queries[0], abs=2e-3)
    raw.close()
