"""Test that a codec file is data: whatever the exporter does not write is refused before onnxruntime sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vaecodec import Codec, Kind, Metadata, Metric
from vaecodec.artifact import sign
from vaecodec.codes import Calibration
from vaecodec.codes.stored import to_text
from vaecodec.errors import ArtifactError, CodecMismatchError, InvalidArtifactError
from vaecodec.graph.nodes import Precision
from vaecodec.two_models.bridge import BridgedCodec, decoded_by
from vaecodec.vectors import normalised
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, build_model

DIM, CODE_DIM = 10, 4


def residual(width: int, out: int, hidden: int | None) -> ResidualWeights:
    random = np.random.default_rng(width)

    def values(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    if hidden is None:
        return ResidualWeights(values(out, width), values(out))
    return ResidualWeights(values(out, width), values(out), values(hidden, width), values(hidden), values(out, hidden))


def codec_bytes(
    precision: Precision = Precision.FLOAT32,
    metric: Metric = Metric.COSINE,
    *,
    hidden: int | None = 6,
    own_queries: bool = False,
) -> bytes:
    weights = CodecWeights(
        residual(DIM, CODE_DIM, hidden),
        residual(CODE_DIM, DIM, hidden),
        residual(DIM, CODE_DIM, hidden) if own_queries else None,
    )
    return sign(build_model(weights, Metadata(Kind.VAE, DIM, CODE_DIM, metric, metric), precision))


def changed_codes(**changes: object) -> str:
    """Return the stored calibration of codes of four latents with one part replaced; a number fills an array."""
    rows = np.random.default_rng(0).standard_normal((50, CODE_DIM)).astype(np.float32)
    stored = Calibration.fit(normalised(rows), Metric.COSINE, memory=8).to_json()
    for name, value in changes.items():
        stored[name] = value if isinstance(value, str) else to_text(np.full(CODE_DIM, value, np.float32))
    return json.dumps(stored)


@pytest.mark.parametrize("hidden", [None, 6])
@pytest.mark.parametrize("own_queries", [False, True])
@pytest.mark.parametrize(("precision", "metric"), [*((p, Metric.COSINE) for p in Precision), (Precision.FLOAT32, "l2")])
def test_all_that_the_exporter_writes_is_read(
    tmp_path: Path, precision: Precision, metric: str, hidden: int | None, own_queries: bool
) -> None:
    if precision is Precision.INT8 and hidden is None:
        hidden = 1
    data = codec_bytes(precision, Metric(metric), hidden=hidden, own_queries=own_queries)
    (tmp_path / "codec.onnx").write_bytes(data)
    codec = Codec.load(tmp_path / "codec.onnx")
    assert codec.encode_queries(np.eye(DIM, dtype=np.float32)).shape == (DIM, CODE_DIM)


def node_named(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def tensor_named(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def with_function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))


def with_other_operator(model: onnx.ModelProto) -> None:
    node_named(model, "Relu").op_type = "Softplus"


def with_operator_of_a_domain(model: onnx.ModelProto) -> None:
    node_named(model, "Relu").domain = "com.microsoft"


def with_subgraph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [])
    node_named(model, "Relu").attribute.append(helper.make_attribute("then_branch", branch))


def with_tensor_in_attribute(model: onnx.ModelProto) -> None:
    attribute = helper.make_attribute("value", numpy_helper.from_array(np.ones(3, np.float32)))
    node_named(model, "Relu").attribute.append(attribute)


def with_one_operator_more(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["latent"], ["more"]))


def with_operators_rewired(model: onnx.ModelProto) -> None:
    node_named(model, "Relu").input[0] = "query_latent_hidden"


def with_sparse_initializer(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    places = numpy_helper.from_array(np.zeros(1, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))


def with_spare_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "spare"))


def with_initializer_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(tensor_named(model, "encoder.bias"))


def with_transposed_weights(model: onnx.ModelProto) -> None:
    tensor_named(model, "encoder.linear").dims[:] = [DIM, CODE_DIM]


def with_fewer_bytes(model: onnx.ModelProto) -> None:
    tensor = tensor_named(model, "encoder.linear")
    tensor.raw_data = tensor.raw_data[:-4]


def with_huge_shape(model: onnx.ModelProto) -> None:
    tensor_named(model, "embedding").dims[:] = [1 << 40, DIM]


def with_floats_elsewhere(model: onnx.ModelProto) -> None:
    tensor = tensor_named(model, "encoder.bias")
    tensor.float_data.extend(np.frombuffer(tensor.raw_data, "<f4").tolist())


def with_infinite_weight(model: onnx.ModelProto) -> None:
    bias = np.array([1, np.inf, 0, 0], np.float32)
    tensor_named(model, "decoder.hidden_bias").raw_data = np.resize(bias, 6).tobytes()


def with_other_constant(model: onnx.ModelProto) -> None:
    tensor_named(model, "smallest_norm").raw_data = np.float32(1e9).tobytes()


def with_wider_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5


def with_fixed_rows(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def with_one_output_more(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("latent_raw", TensorProto.FLOAT, [None, CODE_DIM]))


def with_opset_of_its_own(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("own", 1))


def with_training(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.CopyFrom(helper.make_graph([], "start", [], []))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_function, "the model has the field 25"),
        (
            with_other_operator,
            r"among the operators is Softplus \('latent_active'\) where Relu \('latent_active'\) bel",
        ),
        (with_operator_of_a_domain, "an operator has the field 7"),
        (with_subgraph, "an attribute has the field 6"),
        (with_tensor_in_attribute, "an attribute has the field 5"),
        (with_one_operator_more, r"among the operators is Identity \('more'\) where nothing belongs"),
        (with_operators_rewired, r"among the operators is Relu \('latent_active'\) where Relu"),
        (with_sparse_initializer, "the graph has the field 15"),
        (with_spare_initializer, "among the initializers is 'spare' where nothing belongs"),
        (with_initializer_twice, "the initializer 'encoder.bias' is there twice"),
        (
            with_transposed_weights,
            r"'encoder.linear' has the shape \(10, 4\) and type 1, where .* \(4, 10\) of float32",
        ),
        (with_fewer_bytes, "'encoder.linear' has 156 bytes"),
        (with_huge_shape, r"'embedding' has the shape \(1099511627776, 10\)"),
        (with_floats_elsewhere, "an initializer has the field 4"),
        (with_infinite_weight, "'decoder.hidden_bias' holds NaN or infinity"),
        (with_other_constant, r"'smallest_norm' is \[1000000000.0\], not 1e-12"),
        (with_wider_output, r"among the outputs is \('latent', 5\) where \('latent', 4\) belongs"),
        (with_fixed_rows, "'embedding' is not float32 of any number of rows"),
        (with_one_output_more, r"among the outputs is \('latent_raw', 4\) where nothing belongs"),
        (with_opset_of_its_own, "the model has the field 8 2 times"),
        (with_training, "the model has the field 20"),
    ],
)
def test_a_graph_of_somebody_elses_is_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    model = onnx.load_from_string(codec_bytes())
    change(model)
    path = tmp_path / "codec.onnx"
    path.write_bytes(sign(model.SerializeToString()))
    with pytest.raises(InvalidArtifactError, match=said):
        Codec.load(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("dim", "12", r"'encoder.linear' has the shape \(4, 10\)"),
        ("code_dim", "3", r"'encoder.linear' has the shape \(4, 10\)"),
        ("metric", "dot", "among the operators is ReduceL2"),
        ("latent_metric", "l2", "among the operators is Gemm"),
        ("dim", "١٠", "expected a positive number"),
        ("dim", "+10", "expected a positive number"),
        ("dim", "1" * 5000, "expected a positive number"),
        ("format_version", "-1", "expected a positive number, got '-1'"),
        ("nested_dims", "2,2", "nested widths are not ascending"),
        ("nested_dims", "2,", "expected a positive number"),
        ("calibration", '{"codes": ' + changed_codes(metric="l2") + "}", "for latents compared by l2, not by cosine"),
        ("calibration", '{"codes": ' + changed_codes(spread=-1) + "}", "a spread, importance or peak is negative"),
        (
            "calibration",
            '{"codes": ' + changed_codes(mean=3e38) + "}",
            "the squares of a mean, spread or peak",
        ),
        ("calibration", '{"codes": ' + changed_codes(signs="") + "}", "calibration for codes is malformed"),
        (
            "calibration",
            '{"score": {"scale": -1, "offset": 0, "residual": 0, "code_dim": 4}}',
            "expected a map of scores",
        ),
        (
            "calibration",
            '{"drift": {"group": 0, "code_dim": 4}}',
            "expected groups of 2 to 256 documents, got 0",
        ),
        ("nested_dims", "2,5", "a nested width is larger than the 4 latents"),
        ("provenance", '{"x": NaN}', "NaN is not JSON"),
        (
            "calibration",
            '{"score": {"scale": 1, "offset": 0, "residual": 0, "code_dim": 3}}',
            "for 3 latents, its graph",
        ),
        ("calibration", '{"codes": {"mean": 1}}', "calibration for codes is malformed"),
        ("calibration", '{"drift": []}', "drift statistics is malformed"),
    ],
)
def test_metadata_that_do_not_fit_the_graph_are_refused(tmp_path: Path, key: str, value: str, said: str) -> None:
    model = onnx.load_from_string(codec_bytes())
    next(entry for entry in model.metadata_props if entry.key == f"vaecodec.{key}").value = value
    path = tmp_path / "codec.onnx"
    path.write_bytes(sign(model.SerializeToString()))
    with pytest.raises(InvalidArtifactError, match=said):
        Codec.load(path)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(codec_bytes())
    model.metadata_props.append(onnx.StringStringEntryProto(key="vaecodec.embedder", value="another"))
    path = tmp_path / "codec.onnx"
    path.write_bytes(sign(model.SerializeToString()))
    with pytest.raises(InvalidArtifactError, match="a key is there twice"):
        Codec.load(path)


def test_a_codec_file_can_be_pinned(tmp_path: Path) -> None:
    path = tmp_path / "codec.onnx"
    path.write_bytes(codec_bytes())
    pinned = Codec.load(path).codec_id
    assert Codec.load(path, codec_id=pinned).codec_id == pinned
    path.write_bytes(codec_bytes(hidden=3))
    with pytest.raises(CodecMismatchError, match=f"expected the codec {pinned}, got [0-9a-f]{{64}}; find"):
        Codec.load(path, codec_id=pinned)


def test_a_device_is_no_codec_file() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(InvalidArtifactError, match="got a device or a pipe"):
        Codec.load("/dev/zero")


def test_provenance_of_somebody_else_names_no_bridge(tmp_path: Path) -> None:
    model = onnx.load_from_string(codec_bytes())
    entry = next(entry for entry in model.metadata_props if entry.key == "vaecodec.provenance")
    for record in ("5", '{"old": 1, "new": 2}', '["old"]'):
        entry.value = f'{{"bridge": {record}}}'
        path = tmp_path / "codec.onnx"
        path.write_bytes(sign(model.SerializeToString()))
        codec = Codec.load(path)
        assert decoded_by(codec) == codec.codec_id
        with pytest.raises(CodecMismatchError, match="expected the file of a bridge"):
            BridgedCodec(codec, codec)


def corrupted(data: bytes, random: np.random.Generator) -> bytes:
    """Flip, overwrite, cut out, repeat or insert some bytes."""
    changed = bytearray(data)
    start = int(random.integers(len(data)))
    length = int(random.integers(1, 40))
    kind = random.integers(5)
    if kind == 0:
        changed[start] ^= 1 << int(random.integers(8))
    elif kind == 1:
        changed[start : start + length] = random.bytes(length)
    elif kind == 2:
        del changed[start : start + length]
    elif kind == 3:
        changed[start:start] = changed[start : start + length]
    else:
        changed[start:start] = random.bytes(length)
    return bytes(changed)


def signed_anew(data: bytes) -> bytes:
    try:
        return sign(data)
    except (ValueError, LookupError, UnicodeDecodeError):
        return data


def corruptions() -> Iterator[bytes]:
    """Yield damaged copies of one file, different from it: 100, or as many as the environment asks for."""
    random, whole = np.random.default_rng(0), codec_bytes()
    for _ in range(int(os.environ.get("CORRUPTIONS", "100"))):
        damaged = corrupted(whole, random)
        if damaged != whole:
            yield damaged


def test_a_forged_checksum_lets_in_other_weights_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "codec.onnx"
    loaded = 0
    for damaged in corruptions():
        path.write_bytes(signed_anew(damaged))
        try:
            codec = Codec.load(path, threads=1)
        except ArtifactError:
            continue
        loaded += 1
        assert codec._runtime.run("embedding", "latent", np.eye(DIM, dtype=np.float32)).shape == (DIM, CODE_DIM)
    assert loaded  # else the test would show nothing of the graph
