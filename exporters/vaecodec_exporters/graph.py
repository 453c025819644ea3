"""Build a codec's ONNX graph from its weights, prove that it computes the same, and write the file.

One graph, three entry points. Each is an optional input, that is a graph input with an initializer, whose default is
an empty batch: feeding one computes that one, at no cost for the others. docs/format.md specifies the result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from vaecodec.artifact import Metadata, sign
from vaecodec.codes import Calibration
from vaecodec.errors import ExportError
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import normalised
from vaecodec_exporters.output import write_codec_file

# Old enough for every onnxruntime since 1.14, in any language.
_OPSET = 17
_IR_VERSION = 8


class Precision(StrEnum):
    """What weights and matrix products are in; a graph's inputs, outputs and normalisations are float32 always."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    """Of the hidden layers of encoders, whose part of a latent is small; all else is float32."""


PARITY_BATCHES = (0, 1, 7, 1_000)
# Of unit rows, largest absolute difference; float16 keeps eleven binary digits, so that one rounding costs up to 5e-4.
PARITY_BOUNDS = {Precision.FLOAT32: 1e-5, Precision.FLOAT16: 2e-3, Precision.INT8: 5e-3}

# Seven bits: processors without VNNI add two products with a uint8 in 16 bits, where eight would saturate.
_INT8_WEIGHTS = 63
# Steps from zero to the largest: of a row's numbers, which have a sign, and of activations.
_ROW_LEVELS, _ACTIVE_LEVELS = 127, 255

# As in vaecodec.vectors: what is shorter is refused there; the graph only has to stay finite.
_SMALLEST_NORM = 1e-12


@dataclass(frozen=True, eq=False)
class ResidualWeights:
    """y = linear x + bias, and where there is a hidden layer + output relu(hidden x + hidden_bias).

    Attributes:
        linear: float32 (out, in).
        bias: float32 (out,).
        hidden: float32 (h, in), or None.
        hidden_bias: float32 (h,), or None.
        output: float32 (out, h), or None; its bias is part of ``bias``.
    """

    linear: FloatArray
    bias: FloatArray
    hidden: FloatArray | None = None
    hidden_bias: FloatArray | None = None
    output: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class CodecWeights:
    """The maps of one codec; queries share the documents' encoder when they have none of their own."""

    encoder: ResidualWeights
    decoder: ResidualWeights
    query_encoder: ResidualWeights | None = None


Reference = Callable[[FloatArray], FloatArray]


def write_codec(
    path: str | os.PathLike[str],
    weights: CodecWeights,
    metadata: Metadata,
    references: Mapping[str, Reference],
    precision: Precision = Precision.FLOAT32,
    *,
    overwrite: bool = False,
) -> None:
    """Build, sign, check and write one codec file; the target appears only when everything held.

    Args:
        path: the target.
        weights: the maps.
        metadata: its ``codec_id`` is filled in here.
        references: for each of the inputs ``embedding``, ``query`` and ``code``, the computation that the graph must
            reproduce: float32 (n, width) to float32 (n, width).
        precision: of the weights and the products.
        overwrite: replace another codec file at ``path``.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        ExportError: the graph and a reference differ somewhere by more than ``PARITY_BOUNDS`` allows, or the codec
            cannot be written in this precision: embeddings are not normalised, weights exceed the range of float16,
            or there is no hidden layer for int8.
    """
    data = sign(build_model(weights, metadata, precision))
    check_parity(data, references, PARITY_BOUNDS[precision], typical_rows(metadata, references))
    write_codec_file(path, data, overwrite=overwrite)


def check_parity(
    data: bytes, references: Mapping[str, Reference], bound: float, typical: Mapping[str, FloatArray]
) -> None:
    """Compare the graph with its references on random unit vectors, and on rows in the unit of the user's data.

    Differences are measured relative to the norm of a row or of its result, whichever is larger: what both hold is
    rounded in that unit. A result that is normalised has norm 1, so that there the bound is an absolute one.

    Args:
        data: the serialised graph.
        references: the computations that the graph must reproduce.
        bound: largest relative difference.
        typical: more rows for each input, float32 (n, width).

    Raises:
        ExportError: the largest difference exceeds the bound, or a shape differs.
    """
    graph = start(data)
    widths = {entry.name: entry.shape[1] for entry in graph.get_overridable_initializers()}
    for feed, output in (("embedding", "latent"), ("query", "query_latent"), ("code", "reconstruction")):
        batches = [unit_rows(size, widths[feed]) for size in PARITY_BATCHES]
        for batch in [*batches, *([typical[feed]] if feed in typical else [])]:
            expected, computed = references[feed](batch), graph.run([output], {feed: batch})[0]
            difference = largest_difference(batch, expected, computed)
            if not difference <= bound:
                raise ExportError(
                    f"the exported graph differs from the model by {difference:.2g} at '{output}' on {len(batch)} "
                    f"rows; expected at most {bound:g}; no file was written"
                )


def largest_difference(rows: FloatArray, expected: FloatArray, computed: FloatArray) -> float:
    """The largest difference between two results for the same rows, relative as :func:`check_parity` says."""
    if expected.shape != computed.shape:
        return math.inf
    norms = np.linalg.norm(expected, axis=1)
    if not np.allclose(norms, 1):
        norms = np.maximum(norms, np.linalg.norm(rows, axis=1))
    differences = np.abs(expected - computed).max(axis=1, initial=0)
    return float((differences / np.maximum(norms, _SMALLEST_NORM)).max(initial=0))


def typical_rows(metadata: Metadata, references: Mapping[str, Reference]) -> dict[str, FloatArray]:
    """Rows such as the user's data for every input, drawn by what the file's calibration says of the latents.

    Empty where the metadata hold no calibration.
    """
    stored = metadata.calibration.get("codes")
    if stored is None:
        return {}
    calibration = Calibration.from_json(stored)
    noise = np.random.default_rng(1).standard_normal((PARITY_BATCHES[-1], metadata.code_dim), dtype=np.float32)
    latents = calibration.mean + noise * calibration.spread
    if metadata.latent_metric is Metric.COSINE:
        latents = normalised(latents)
    embeddings = references["code"](latents)
    return {"embedding": embeddings, "query": embeddings, "code": latents}


def start(data: bytes) -> onnxruntime.InferenceSession:
    """A graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # optional inputs cost a warning each
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def unit_rows(rows: int, width: int) -> FloatArray:
    """Random directions to compare graphs on: float32 (rows, width), the same at every call."""
    return normalised(np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32))


def build_model(weights: CodecWeights, metadata: Metadata, precision: Precision = Precision.FLOAT32) -> bytes:
    """The serialised model, unsigned: :func:`vaecodec.artifact.sign` fills in its identity.

    Raises:
        ExportError: as :func:`write_codec` does.
    """
    if precision is not Precision.FLOAT32 and metadata.metric is not Metric.COSINE:
        raise ExportError(
            f"{precision} holds numbers of a narrow range: expected the metric cosine, which has the graph normalise "
            f"what it is fed, got {metadata.metric}; export in float32"
        )
    graph = _Graph(precision)
    graph.initializer("smallest_norm", np.array(_SMALLEST_NORM, np.float32))
    encoder_weights = graph.map_weights
    if precision is Precision.INT8:
        encoder_weights = graph.int8_weights
        graph.initializer("row_levels", np.array(_ROW_LEVELS, np.float32))
        for name, step, zero in (("row", 1, 128), ("active", 1 / _ACTIVE_LEVELS, 0)):
            graph.initializer(f"{name}_step", np.array(step, np.float32))
            graph.initializer(f"{name}_zero", np.array(zero, np.uint8))
    encoder_weights("encoder", weights.encoder)
    graph.map_weights("decoder", weights.decoder)
    query_encoder = "encoder"
    if weights.query_encoder is not None:
        query_encoder = "query_encoder"
        encoder_weights(query_encoder, weights.query_encoder)
    before, after = metadata.metric is Metric.COSINE, metadata.latent_metric is Metric.COSINE
    dim, code_dim = metadata.dim, metadata.code_dim
    graph.entry_point("embedding", dim, "latent", code_dim, "encoder", weights.encoder, (before, after))
    graph.entry_point(
        "query", dim, "query_latent", code_dim, query_encoder, weights.query_encoder or weights.encoder, (before, after)
    )
    graph.entry_point("code", code_dim, "reconstruction", dim, "decoder", weights.decoder, (False, before))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "vaecodec", graph.inputs, graph.outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="vaecodec",
    )
    helper.set_model_props(model, metadata.to_properties())
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """The parts of a graph while it grows."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def initializer(self, name: str, value: np.ndarray[Any, Any]) -> None:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))

    def map_weights(self, name: str, weights: ResidualWeights) -> None:
        dtype = np.float16 if self.precision is Precision.FLOAT16 else np.float32
        for part in ("linear", "bias", "hidden", "hidden_bias", "output"):
            value = getattr(weights, part)
            if value is not None:
                with np.errstate(over="ignore"):
                    converted = value.astype(dtype)
                if not np.isfinite(converted).all():
                    raise ExportError(
                        f"'{name}.{part}' holds {np.abs(value).max():g}, beyond {self.precision}; export in float32"
                    )
                self.initializer(f"{name}.{part}", converted)

    def int8_weights(self, name: str, weights: ResidualWeights) -> None:
        """A map of unit rows whose hidden layer is int8, with a scale for each of its units.

        Scales come from the weights and, at run time, from the row: what a row becomes depends neither on the rows
        beside it, as it would if they were taken from the batch, nor on the data that somebody calibrated with.
        """
        if weights.hidden is None or weights.hidden_bias is None or weights.output is None:
            raise ExportError(
                f"int8 is for hidden layers, and '{name}' is linear; export in float32, or train with hidden units"
            )
        # No unit row makes a unit more active than this, so that its activation, divided by it, fits 0 to 255.
        most = np.linalg.norm(weights.hidden, axis=1) + weights.hidden_bias
        most = np.where(most > 0, most, 1)
        self.initializer(f"{name}.linear", weights.linear)
        self.initializer(f"{name}.bias", weights.bias)
        self.initializer(f"{name}.hidden_bias", (weights.hidden_bias / most).astype(np.float32))
        for part, matrix, step in (
            ("hidden", weights.hidden / most[:, None], 1 / _ROW_LEVELS),
            ("output", weights.output * most, 1 / _ACTIVE_LEVELS),
        ):
            largest = np.abs(matrix).max(axis=1)
            scale = np.where(largest > 0, largest, 1) / _INT8_WEIGHTS
            self.initializer(f"{name}.{part}", np.round(matrix / scale[:, None]).astype(np.int8).T)
            self.initializer(f"{name}.{part}_scale", (scale * step).astype(np.float32))

    def entry_point(
        self,
        feed: str,
        feed_width: int,
        output: str,
        output_width: int,
        name: str,
        weights: ResidualWeights,
        normalise: tuple[bool, bool],
    ) -> None:
        """Optional input -> [normalise] -> residual map, in the graph's precision -> [normalise] -> output."""
        rows = f"{feed}_rows"
        self.inputs.append(helper.make_tensor_value_info(feed, TensorProto.FLOAT, [rows, feed_width]))
        # Without a name for its rows: runtimes that fix the batch give the input's symbol a value, and would find
        # that it differs from the symbol here.
        self.outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, output_width]))
        self.initializer(feed, np.empty((0, feed_width), np.float32))
        before, after = normalise
        x = self._normalised(feed, f"{feed}_unit") if before else feed
        result = f"{output}_raw" if after else output
        half = self.precision is Precision.FLOAT16
        if half:
            x = self._node("Cast", [x], f"{feed}_half", to=TensorProto.FLOAT16)
        mapped = f"{output}_half" if half else result
        if weights.hidden is None:
            self._gemm(x, f"{name}.linear", f"{name}.bias", mapped)
        elif self.precision is Precision.INT8 and name != "decoder":
            self._gemm(x, f"{name}.linear", f"{name}.bias", f"{output}_linear")
            peak = self._int8_rows(x, feed)
            product = self._int8_product(f"{feed}_int8", f"{name}.hidden", "row_zero", f"{output}_product")
            hidden = self._node("Mul", [product, peak], f"{output}_hidden")
            biased = self._node("Add", [hidden, f"{name}.hidden_bias"], f"{output}_biased")
            # What is negative becomes zero here.
            self._node("QuantizeLinear", [biased, "active_step", "active_zero"], f"{output}_active")
            added = self._int8_product(f"{output}_active", f"{name}.output", "active_zero", f"{output}_added")
            self._node("Add", [added, f"{output}_linear"], mapped)
        else:
            self._gemm(x, f"{name}.linear", f"{name}.bias", f"{output}_linear")
            self._gemm(x, f"{name}.hidden", f"{name}.hidden_bias", f"{output}_hidden")
            self._node("Relu", [f"{output}_hidden"], f"{output}_active")
            self._gemm(f"{output}_active", f"{name}.output", f"{output}_linear", mapped)
        if half:
            self._node("Cast", [mapped], result, to=TensorProto.FLOAT)
        if after:
            self._normalised(result, output)

    def _normalised(self, rows: str, output: str) -> str:
        self._node("ReduceL2", [rows], f"{output}_norm", axes=[1], keepdims=1)
        self._node("Clip", [f"{output}_norm", "smallest_norm"], f"{output}_divisor")  # faster than Max with a number
        return self._node("Div", [rows, f"{output}_divisor"], output)

    def _int8_rows(self, rows: str, feed: str) -> str:
        """Each row in steps of its own largest number, which is what this returns."""
        self._node("Abs", [rows], f"{feed}_sizes")
        self._node("ReduceMax", [f"{feed}_sizes"], f"{feed}_largest", axes=[1], keepdims=1)
        peak = self._node("Clip", [f"{feed}_largest", "smallest_norm"], f"{feed}_peak")
        self._node("Div", ["row_levels", peak], f"{feed}_levels")
        self._node("Mul", [rows, f"{feed}_levels"], f"{feed}_scaled")
        self._node("QuantizeLinear", [f"{feed}_scaled", "row_step", "row_zero"], f"{feed}_int8")
        return peak

    def _int8_product(self, rows: str, matrix: str, zero: str, output: str) -> str:
        self._node("MatMulInteger", [rows, matrix, zero], f"{output}_int32")
        self._node("Cast", [f"{output}_int32"], f"{output}_float", to=TensorProto.FLOAT)
        return self._node("Mul", [f"{output}_float", f"{matrix}_scale"], output)

    def _gemm(self, rows: str, matrix: str, added: str, output: str) -> str:
        return self._node("Gemm", [rows, matrix, added], output, transB=1)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output
