"""Build a codec's ONNX graph from its weights, prove that it computes the same, and write the file.

One graph, three entry points. Each is an optional input, that is a graph input with an initializer, whose default is
an empty batch: feeding one computes that one, at no cost for the others. docs/format.md specifies the result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from vaecodec.artifact import Metadata, sign
from vaecodec.codes import Calibration
from vaecodec.errors import ExportError
from vaecodec.graph.nodes import (
    ACTIVE_LEVELS,
    ENTRY_POINTS,
    IR_VERSION,
    OPSET,
    ROW_LEVELS,
    SMALLEST_NORM,
    Design,
    Node,
    Precision,
    Tensor,
    nodes,
    tensors,
    width,
)
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import normalised
from vaecodec_exporters.output import write_codec_file

PARITY_BATCHES = (0, 1, 7, 1_000)
# Largest absolute difference for unit rows. float16 keeps eleven binary digits: one rounding costs up to 5e-4.
PARITY_BOUNDS = {Precision.FLOAT32: 1e-5, Precision.FLOAT16: 2e-3, Precision.INT8: 5e-3}

# Use seven bits: processors without VNNI add two products with a uint8 in 16 bits, which eight bits would overflow.
_INT8_WEIGHTS = 63


@dataclass(frozen=True, eq=False)
class ResidualWeights:
    """Hold the weights of y = linear x + bias, plus output relu(hidden x + hidden_bias) where there is a hidden layer.

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
    """Hold the maps of one codec; queries share the documents' encoder when they have none of their own.

    Attributes:
        root_latents: latents keep their direction and the square root of their length.
    """

    encoder: ResidualWeights
    decoder: ResidualWeights
    query_encoder: ResidualWeights | None = None
    root_latents: bool = False


Forward = Callable[[FloatArray], FloatArray]


def write_codec(
    path: str | os.PathLike[str],
    weights: CodecWeights,
    metadata: Metadata,
    references: Mapping[str, Forward],
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
    data: bytes, references: Mapping[str, Forward], bound: float, typical: Mapping[str, FloatArray]
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
    """Return the largest difference between two results for the same rows, relative as :func:`check_parity` says."""
    if expected.shape != computed.shape:
        return math.inf
    norms = np.linalg.norm(expected, axis=1)
    if not np.allclose(norms, 1):
        norms = np.maximum(norms, np.linalg.norm(rows, axis=1))
    differences = np.abs(expected - computed).max(axis=1, initial=0)
    return float((differences / np.maximum(norms, SMALLEST_NORM)).max(initial=0))


def typical_rows(metadata: Metadata, references: Mapping[str, Forward]) -> dict[str, FloatArray]:
    """Return rows such as the user's data for every input, drawn by what the file's calibration says of the latents.

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
    """Return a graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # onnxruntime warns of each optional input
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def unit_rows(rows: int, width: int) -> FloatArray:
    """Return random directions to compare graphs on: float32 (rows, width), the same at every call."""
    return normalised(np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32))


def build_model(weights: CodecWeights, metadata: Metadata, precision: Precision = Precision.FLOAT32) -> bytes:
    """Return the serialised model, unsigned: :func:`vaecodec.artifact.sign` fills in its identity.

    Raises:
        ExportError: as :func:`write_codec` does.
    """
    if precision is not Precision.FLOAT32 and metadata.metric is not Metric.COSINE:
        raise ExportError(
            f"{precision} holds numbers of a narrow range: expected the metric cosine, which has the graph normalise "
            f"what it is fed, got {metadata.metric}; export in float32"
        )
    maps = {"encoder": weights.encoder, "decoder": weights.decoder}
    if weights.query_encoder is not None:
        maps["query_encoder"] = weights.query_encoder
    design = Design(
        metadata.dim,
        metadata.code_dim,
        metadata.metric is Metric.COSINE,
        metadata.latent_metric is Metric.COSINE,
        {name: None if map_.hidden is None else len(map_.hidden) for name, map_ in maps.items()},
        precision,
        weights.root_latents,
    )
    values: dict[str, np.ndarray[Any, Any]] = {}
    for name, map_ in maps.items():
        int8 = precision is Precision.INT8 and name != "decoder"
        values |= _int8_weights(name, map_) if int8 else _map_weights(name, map_, precision)
    model = helper.make_model(
        helper.make_graph(
            [_node(node) for node in nodes(design)],
            "vaecodec",
            # Leave the outputs' row dimension unnamed: runtimes that fix the batch size set the input's symbol, and
            # would complain that the output's symbol differs.
            [_rows(feed, f"{feed}_rows", design) for feed, _ in ENTRY_POINTS],
            [_rows(output, None, design) for _, output in ENTRY_POINTS],
            [_initializer(name, tensor, values) for name, tensor in tensors(design).items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vaecodec",
    )
    helper.set_model_props(model, metadata.to_properties())
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _node(node: Node) -> onnx.NodeProto:
    attributes: dict[str, Any] = dict(node.attributes)
    return helper.make_node(node.operator, node.inputs, [node.output], **attributes)


def _rows(name: str, symbol: str | None, design: Design) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [symbol, width(design, name)])


def _initializer(name: str, tensor: Tensor, values: Mapping[str, np.ndarray[Any, Any]]) -> onnx.TensorProto:
    """Return the weight of that name, the constant that all codecs share, or the empty batch of an optional input."""
    value = values.get(name)
    if value is None:
        value = np.full(tensor.shape, 0 if tensor.value is None else tensor.value, tensor.dtype)
    return numpy_helper.from_array(np.ascontiguousarray(value), name)


def _map_weights(name: str, weights: ResidualWeights, precision: Precision) -> dict[str, np.ndarray[Any, Any]]:
    dtype = np.float16 if precision is Precision.FLOAT16 else np.float32
    found = {}
    for part in ("linear", "bias", "hidden", "hidden_bias", "output"):
        value = getattr(weights, part)
        if value is not None:
            with np.errstate(over="ignore"):
                converted = value.astype(dtype)
            if not np.isfinite(converted).all():
                raise ExportError(
                    f"'{name}.{part}' holds {np.abs(value).max():g}, beyond {precision}; export in float32"
                )
            found[f"{name}.{part}"] = converted
    return found


def _int8_weights(name: str, weights: ResidualWeights) -> dict[str, np.ndarray[Any, Any]]:
    """Return a map of unit rows whose hidden layer is int8, with a scale for each of its units.

    Scales come from the weights and, at run time, from the row: what a row becomes depends neither on the rows
    beside it, as it would if they were taken from the batch, nor on the data that somebody calibrated with.
    """
    if weights.hidden is None or weights.hidden_bias is None or weights.output is None:
        raise ExportError(
            f"int8 is for hidden layers, and '{name}' is linear; export in float32, or train with hidden units"
        )
    # Largest activation of each hidden unit for unit rows. Divided by it, activations fit 0 to 255.
    most = np.linalg.norm(weights.hidden, axis=1) + weights.hidden_bias
    most = np.where(most > 0, most, 1)
    found: dict[str, np.ndarray[Any, Any]] = {
        f"{name}.linear": weights.linear,
        f"{name}.bias": weights.bias,
        f"{name}.hidden_bias": (weights.hidden_bias / most).astype(np.float32),
    }
    for part, matrix, step in (
        ("hidden", weights.hidden / most[:, None], 1 / ROW_LEVELS),
        ("output", weights.output * most, 1 / ACTIVE_LEVELS),
    ):
        largest = np.abs(matrix).max(axis=1)
        scale = np.where(largest > 0, largest, 1) / _INT8_WEIGHTS
        found[f"{name}.{part}"] = np.round(matrix / scale[:, None]).astype(np.int8).T
        found[f"{name}.{part}_scale"] = (scale * step).astype(np.float32)
    return found
