"""The graph that is written computes what its weights say, or no file appears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from vaecodec import Codec, Kind, Metadata, Metric
from vaecodec.vectors import normalised
from vaecodec_exporters.graph import CodecWeights, ParityError, ResidualWeights, write_codec


def residual(random: np.random.Generator, width_in: int, width_out: int, hidden: int) -> ResidualWeights:
    def matrix(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))

    if not hidden:
        return ResidualWeights(matrix(width_out, width_in), matrix(width_out))
    return ResidualWeights(
        matrix(width_out, width_in),
        matrix(width_out),
        matrix(hidden, width_in),
        matrix(hidden),
        matrix(width_out, hidden),
    )


def applied(weights: ResidualWeights, rows: np.ndarray) -> np.ndarray:
    y = rows @ weights.linear.T + weights.bias
    if weights.hidden is not None:
        y += np.maximum(rows @ weights.hidden.T + weights.hidden_bias, 0) @ weights.output.T
    return y


@pytest.fixture(params=[(0, 0, False), (20, 0, False), (20, 15, False), (20, 0, True)], ids=str)
def weights(request: pytest.FixtureRequest) -> CodecWeights:
    hidden, decoder_hidden, asymmetric = request.param
    random = np.random.default_rng(0)
    return CodecWeights(
        residual(random, 24, 6, hidden),
        residual(random, 6, 24, decoder_hidden),
        residual(random, 24, 6, hidden) if asymmetric else None,
    )


def references(weights: CodecWeights, metric: Metric) -> dict:
    def unit(rows: np.ndarray) -> np.ndarray:
        return normalised(rows) if metric is Metric.COSINE else rows

    return {
        "embedding": lambda rows: unit(applied(weights.encoder, unit(rows))),
        "query": lambda rows: unit(applied(weights.query_encoder or weights.encoder, unit(rows))),
        "code": lambda rows: unit(applied(weights.decoder, rows)),
    }


def metadata(metric: Metric) -> Metadata:
    return Metadata(Kind.VAE, 24, 6, metric, metric, nested_dims=(2, 6), embedder="some-model")


@pytest.mark.parametrize("metric", Metric)
def test_the_file_computes_what_the_weights_say(weights: CodecWeights, metric: Metric, tmp_path: Path) -> None:
    expected = references(weights, metric)
    write_codec(tmp_path / "codec.onnx", weights, metadata(metric), expected)
    codec = Codec.load(tmp_path / "codec.onnx")
    rows = np.random.default_rng(1).standard_normal((50, 24), dtype=np.float32)
    assert np.allclose(codec.encode(rows), expected["embedding"](rows), atol=1e-5)
    assert np.allclose(codec.encode_queries(rows), expected["query"](rows), atol=1e-5)
    assert np.allclose(codec.decode(rows[:, :6]), expected["code"](rows[:, :6]), atol=1e-5)
    assert np.array_equal(codec.encode(rows), codec.encode_queries(rows)) == (weights.query_encoder is None)
    assert codec.embedder == "some-model"


@pytest.mark.parametrize("wrong", ["embedding", "query", "code"])
def test_a_graph_that_differs_from_the_model_is_not_written(wrong: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = CodecWeights(residual(random, 24, 6, 20), residual(random, 6, 24, 0))
    expected = references(weights, Metric.COSINE)
    right = expected[wrong]
    expected[wrong] = lambda rows: right(rows) + np.float32(2e-5)
    (tmp_path / "codec.onnx").write_bytes(b"the codec that was there")
    with pytest.raises(ParityError, match=r"differs from the model by 2e-05 at '.*' on 1 rows; expected at most 1e-05"):
        write_codec(tmp_path / "codec.onnx", weights, metadata(Metric.COSINE), expected)
    assert (tmp_path / "codec.onnx").read_bytes() == b"the codec that was there"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_weights_give_the_same_file_and_identity(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = CodecWeights(residual(random, 24, 6, 20), residual(random, 6, 24, 0))
    for name in ("a.onnx", "b.onnx"):
        write_codec(tmp_path / name, weights, metadata(Metric.COSINE), references(weights, Metric.COSINE))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    other = Metadata(Kind.VAE, 24, 6, Metric.COSINE, Metric.COSINE, embedder="another-model")
    write_codec(tmp_path / "b.onnx", weights, other, references(weights, Metric.COSINE))
    assert Codec.load(tmp_path / "a.onnx").codec_id != Codec.load(tmp_path / "b.onnx").codec_id


def test_the_file_passes_the_onnx_checker(vae_path: Path) -> None:
    onnx.checker.check_model(onnx.load(vae_path), full_check=True)
