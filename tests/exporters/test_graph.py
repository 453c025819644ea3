"""Test that the graph that is written computes what its weights say, or no file appears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from vaecodec import Codec, Kind, LinearKind, Metadata, Metric, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.errors import ExportError
from vaecodec.graph.nodes import Precision
from vaecodec.vectors import normalised
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, typical_rows, write_codec
from vaecodec_exporters.linear import export_linear
from vaecodec_exporters.parts import write_parts


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
    with pytest.raises(ExportError, match=r"differs from the model by 2e-05 at '.*' on 1 rows; expected at most 1e-05"):
        write_codec(tmp_path / "codec.onnx", weights, metadata(Metric.COSINE), expected)
    assert (tmp_path / "codec.onnx").read_bytes() == b"the codec that was there"
    assert len(list(tmp_path.iterdir())) == 1


def test_float16_halves_the_weights_and_keeps_the_files_contract(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = CodecWeights(residual(random, 384, 64, 128), residual(random, 64, 384, 0))
    described = Metadata(Kind.VAE, 384, 64, Metric.COSINE, Metric.COSINE)
    expected = references(weights, Metric.COSINE)
    for precision in (Precision.FLOAT32, Precision.FLOAT16):
        write_codec(tmp_path / f"{precision}.onnx", weights, described, expected, precision)
    single, half = (Codec.load(tmp_path / f"{precision}.onnx") for precision in ("float32", "float16"))
    assert 2 * (tmp_path / "float16.onnx").stat().st_size < (tmp_path / "float32.onnx").stat().st_size + 10_000
    graph = onnx.load(tmp_path / "float16.onnx").graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    assert half.codec_id != single.codec_id

    rows = np.random.default_rng(1).standard_normal((700, 384), dtype=np.float32)
    latents = half.encode(1e4 * rows)  # of any length: the graph normalises before it rounds
    assert latents.dtype == np.float32
    assert np.allclose(np.linalg.norm(latents, axis=1), 1, atol=1e-6)
    assert 1e-6 < np.abs(latents - single.encode(rows)).max() < 2e-3
    assert np.abs(half.decode(latents) - single.decode(latents)).max() < 2e-3


def test_float16_is_refused_where_it_cannot_hold_the_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = CodecWeights(residual(random, 24, 6, 0), residual(random, 6, 24, 0))
    with pytest.raises(ExportError, match=r"expected the metric cosine, .* got dot; export in float32"):
        write_codec(
            tmp_path / "a.onnx", weights, metadata(Metric.DOT), references(weights, Metric.DOT), Precision.FLOAT16
        )
    weights.encoder.linear[0, 0] = 1e5
    expected = references(weights, Metric.COSINE)
    with pytest.raises(ExportError, match=r"'encoder.linear' holds 100000, beyond float16"):
        write_codec(tmp_path / "a.onnx", weights, metadata(Metric.COSINE), expected, Precision.FLOAT16)
    weights.encoder.linear[0, 0] = 0
    expected["code"] = lambda rows: references(weights, Metric.COSINE)["code"](rows) + np.float32(3e-3)
    with pytest.raises(ExportError, match=r"expected at most 0.002; no file was written"):
        write_codec(tmp_path / "a.onnx", weights, metadata(Metric.COSINE), expected, Precision.FLOAT16)
    assert not list(tmp_path.iterdir())


def test_int8_is_for_hidden_layers_and_changes_no_row_for_its_neighbours(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    encoders = [residual(random, 384, 64, 512) for _ in range(2)]
    for encoder in encoders:  # as in trained codecs, the linear part makes most of a latent
        encoder.output[:] *= 0.05
        encoder.hidden_bias[:] *= 0.1
        encoder.bias[:] *= 0.1
    encoders[0].hidden[7], encoders[0].hidden_bias[7] = 0, -1  # a unit that is never active
    weights = CodecWeights(encoders[0], residual(random, 64, 384, 0), encoders[1])
    described = Metadata(Kind.VAE, 384, 64, Metric.COSINE, Metric.COSINE)
    expected = references(weights, Metric.COSINE)
    for precision in (Precision.FLOAT32, Precision.INT8):
        write_codec(tmp_path / f"{precision}.onnx", weights, described, expected, precision)
    single, small = (Codec.load(tmp_path / f"{precision}.onnx") for precision in ("float32", "int8"))
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * (tmp_path / "float32.onnx").stat().st_size
    rows = np.random.default_rng(1).standard_normal((300, 384), dtype=np.float32)
    rows[:5] = np.eye(5, 384) * 1e3  # the largest numbers that normalised rows hold
    for encode, exact in ((small.encode, single.encode), (small.encode_queries, single.encode_queries)):
        latents = encode(rows)
        assert 1e-5 < np.abs(latents - exact(rows)).max() < 5e-3
        alone = np.concatenate([encode(row[None]) for row in rows[:50]])
        # Only the float32 part sums in another order; a scale taken from the batch would show in the third digit.
        assert np.abs(latents[:50] - alone).max() < 1e-6
    np.testing.assert_array_equal(small.decode(latents), single.decode(latents))
    assert len(write_parts(tmp_path / "int8.onnx", tmp_path / "parts")) == 3  # which proves each against the whole


def test_int8_is_refused_where_it_cannot_be_or_is_too_coarse(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    linear = CodecWeights(residual(random, 24, 6, 0), residual(random, 6, 24, 0))
    expected = references(linear, Metric.COSINE)
    with pytest.raises(ExportError, match=r"int8 is for hidden layers, and 'encoder' is linear; export in "):
        write_codec(tmp_path / "a.onnx", linear, metadata(Metric.COSINE), expected, Precision.INT8)
    hidden = CodecWeights(residual(random, 24, 6, 20), residual(random, 6, 24, 0))
    with pytest.raises(ExportError, match=r"expected the metric cosine, .* got l2; export in float32"):
        write_codec(tmp_path / "a.onnx", hidden, metadata(Metric.L2), references(hidden, Metric.L2), Precision.INT8)
    hidden.encoder.output[:] *= 100
    expected = references(hidden, Metric.COSINE)
    with pytest.raises(ExportError, match=r"expected at most 0.005; no file was written"):
        write_codec(tmp_path / "a.onnx", hidden, metadata(Metric.COSINE), expected, Precision.INT8)
    assert not list(tmp_path.iterdir())


def test_the_same_weights_give_the_same_file_and_identity(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = CodecWeights(residual(random, 24, 6, 20), residual(random, 6, 24, 0))
    for name in ("a.onnx", "b.onnx"):
        write_codec(tmp_path / name, weights, metadata(Metric.COSINE), references(weights, Metric.COSINE))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    other = Metadata(Kind.VAE, 24, 6, Metric.COSINE, Metric.COSINE, embedder="another-model")
    write_codec(tmp_path / "b.onnx", weights, other, references(weights, Metric.COSINE), overwrite=True)
    assert Codec.load(tmp_path / "a.onnx").codec_id != Codec.load(tmp_path / "b.onnx").codec_id


def test_the_file_passes_the_onnx_checker(vae_path: Path) -> None:
    onnx.checker.check_model(onnx.load(vae_path), full_check=True)


@pytest.mark.parametrize("unit", [1e-3, 1, 600])
def test_codecs_are_checked_in_the_unit_of_their_data(unit: float, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = (unit * (3 + random.standard_normal((2_000, 200)))).astype(np.float32)  # far from the origin, as pixels are
    codec = fit_linear(rows, 8, kind=LinearKind.PCA, metric=Metric.L2)
    calibration = Calibration.fit(codec.encode(rows), Metric.L2)
    export_linear(codec, tmp_path / "codec.onnx", calibration=CodecCalibration(codes=calibration))
    file = Codec.load(tmp_path / "codec.onnx")
    assert np.abs(file.encode(rows) - codec.encode(rows)).max() < 1e-5 * np.linalg.norm(rows, axis=1).max()

    # What differs in the fifth digit of the user's data is refused, whatever the unit.
    described = Metadata(Kind.LINEAR, 200, 8, Metric.L2, Metric.L2, calibration={"codes": calibration.to_json()})
    weights = CodecWeights(
        ResidualWeights(codec.components, -codec.components @ codec.mean),
        ResidualWeights(codec.components.T, codec.mean),
    )
    shifted = np.float32(1e-4 * np.linalg.norm(rows, axis=1).mean())
    wrong = {"embedding": lambda batch: codec.encode(batch) + shifted, "query": codec.encode, "code": codec.decode}
    with pytest.raises(ExportError, match=r"the exported graph differs from the model by .* at 'latent'"):
        write_codec(tmp_path / "wrong.onnx", weights, described, wrong)
    assert not (tmp_path / "wrong.onnx").exists()


def test_typical_rows_have_the_norm_and_the_place_of_the_data(tmp_path: Path) -> None:
    rows = (500 + 20 * np.random.default_rng(0).standard_normal((1_000, 30))).astype(np.float32)
    codec = fit_linear(rows, 4, kind=LinearKind.PCA, metric=Metric.L2)
    codes = Calibration.fit(codec.encode(rows), Metric.L2).to_json()
    described = Metadata(Kind.LINEAR, 30, 4, Metric.L2, Metric.L2, calibration={"codes": codes})
    typical = typical_rows(described, {"code": codec.decode})
    assert typical["embedding"].mean() == pytest.approx(rows.mean(), rel=0.01)
    assert typical["code"].std(0) == pytest.approx(codec.encode(rows).std(0), rel=0.15)
    assert typical_rows(Metadata(Kind.LINEAR, 30, 4, Metric.L2, Metric.L2), {"code": codec.decode}) == {}


def test_rows_are_named_at_inputs_only(vae_path: Path, tmp_path: Path) -> None:
    for path in [vae_path, *write_parts(vae_path, tmp_path)]:
        graph = onnx.load(path).graph
        symbols = [value.type.tensor_type.shape.dim[0] for value in graph.input]
        assert all(symbol.dim_param for symbol in symbols)
        assert [value.type.tensor_type.shape.dim[0].WhichOneof("value") for value in graph.output] == [None] * len(
            symbols
        )
