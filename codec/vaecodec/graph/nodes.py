"""Define the graph of a codec file: which operators on which weights. What the exporter writes is all that is ever
read.

The exporter builds its files from :func:`nodes` and :func:`tensors`. vaecodec.graph.check compares a file with the same
two lists before onnxruntime sees it. docs/format.md specifies the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

OPSET = 17
IR_VERSION = 8
"""Both old enough for every onnxruntime since 1.14, in any language."""

SMALLEST_NORM = 1e-12
"""As in vaecodec.vectors: shorter rows are refused there; the graph only has to stay finite."""

ROW_LEVELS, ACTIVE_LEVELS = 127, 255
"""Steps of int8 from zero to the largest: of a row's numbers, which have a sign, and of activations."""

ENTRY_POINTS = (("embedding", "latent"), ("query", "query_latent"), ("code", "reconstruction"))
"""Each input of the graph with its output."""

_EACH_ROW: tuple[tuple[str, int | tuple[int, ...]], ...] = (("axes", (1,)), ("keepdims", 1))

FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
INT8, UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
TYPES = {FLOAT32: 1, UINT8: 2, INT8: 3, FLOAT16: 10}
"""The numbers of the types in onnx.proto."""


class Precision(StrEnum):
    """Name the type of weights and matrix products; inputs, outputs and normalisations are always float32."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    """Of the hidden layers of encoders, whose part of a latent is small; all else is float32."""


@dataclass(frozen=True)
class Design:
    """Hold everything that determines a codec's graph, except the values of its weights.

    Attributes:
        dim: width of the embeddings.
        code_dim: width of the latents.
        unit_embeddings: embeddings are normalised, and reconstructions too.
        unit_latents: latents are normalised.
        hidden: for each map, ``encoder``, ``decoder`` and perhaps ``query_encoder``, the units of its hidden layer, or
            None where it is linear.
        precision: of the weights and the products.
        root_latents: latents keep their direction and the square root of their length.
    """

    dim: int
    code_dim: int
    unit_embeddings: bool
    unit_latents: bool
    hidden: Mapping[str, int | None]
    precision: Precision = Precision.FLOAT32
    root_latents: bool = False


class Tensor(NamedTuple):
    """Hold the type and shape of one initializer, and its value where all codecs share it."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    value: float | None = None


class Node(NamedTuple):
    """Describe one operator; its attributes are sorted by name."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: tuple[tuple[str, int | tuple[int, ...]], ...] = ()


def tensors(design: Design) -> dict[str, Tensor]:
    """List the initializers of a codec's graph by name, in the order of the file."""
    found = {"smallest_norm": Tensor(FLOAT32, (1,), SMALLEST_NORM)}
    if design.precision is Precision.INT8:
        found["row_levels"] = Tensor(FLOAT32, (1,), ROW_LEVELS)
        for name, step, zero in (("row", 1, 128), ("active", 1 / ACTIVE_LEVELS, 0)):
            found[f"{name}_step"] = Tensor(FLOAT32, (1,), step)
            found[f"{name}_zero"] = Tensor(UINT8, (1,), zero)
    for name, hidden in design.hidden.items():
        decodes = name == "decoder"
        fed, out = (design.code_dim, design.dim) if decodes else (design.dim, design.code_dim)
        if design.precision is Precision.INT8 and not decodes:
            found |= _int8_tensors(name, fed, out, hidden or 0)
            continue
        dtype = FLOAT16 if design.precision is Precision.FLOAT16 else FLOAT32
        found |= {f"{name}.linear": Tensor(dtype, (out, fed)), f"{name}.bias": Tensor(dtype, (out,))}
        if hidden is not None:
            found[f"{name}.hidden"] = Tensor(dtype, (hidden, fed))
            found[f"{name}.hidden_bias"] = Tensor(dtype, (hidden,))
            found[f"{name}.output"] = Tensor(dtype, (out, hidden))
    for feed, _ in ENTRY_POINTS:
        found[feed] = Tensor(FLOAT32, (0, width(design, feed)))
    return found


def nodes(design: Design) -> list[Node]:
    """List the operators of a codec's graph, in the order of the file."""
    queries = "query_encoder" if "query_encoder" in design.hidden else "encoder"
    latents = (design.unit_embeddings, design.unit_latents)
    return [
        *_entry_point(design, "embedding", "latent", "encoder", latents),
        *_entry_point(design, "query", "query_latent", queries, latents),
        *_entry_point(design, "code", "reconstruction", "decoder", (False, design.unit_embeddings)),
    ]


def width(design: Design, name: str) -> int:
    """Return the width of one of the graph's inputs or outputs."""
    return design.dim if name in ("embedding", "query", "reconstruction") else design.code_dim


def _entry_point(design: Design, feed: str, output: str, name: str, unit: tuple[bool, bool]) -> Iterator[Node]:
    """Yield the operators of one entry point: optional input, normalise, residual map, normalise or root, output."""
    before, after = unit
    root = design.root_latents and name != "decoder"
    x = feed
    if before:
        x = f"{feed}_unit"
        yield from _normalised(feed, x)
    result = f"{output}_raw" if after or root else output
    half = design.precision is Precision.FLOAT16
    if half:
        yield _cast(x, f"{feed}_half", TYPES[FLOAT16])
        x = f"{feed}_half"
    mapped = f"{output}_half" if half else result
    linear, bias = f"{name}.linear", f"{name}.bias"
    if design.hidden[name] is None:
        yield _gemm(x, linear, bias, mapped)
    elif design.precision is Precision.INT8 and name != "decoder":
        yield _gemm(x, linear, bias, f"{output}_linear")
        yield from _int8_rows(x, feed)
        yield from _int8_product(f"{feed}_int8", f"{name}.hidden", "row_zero", f"{output}_product")
        yield Node("Mul", (f"{output}_product", f"{feed}_peak"), f"{output}_hidden")
        yield Node("Add", (f"{output}_hidden", f"{name}.hidden_bias"), f"{output}_biased")
        # This also is the ReLU: negative values become zero.
        yield Node("QuantizeLinear", (f"{output}_biased", "active_step", "active_zero"), f"{output}_active")
        yield from _int8_product(f"{output}_active", f"{name}.output", "active_zero", f"{output}_added")
        yield Node("Add", (f"{output}_added", f"{output}_linear"), mapped)
    else:
        yield _gemm(x, linear, bias, f"{output}_linear")
        yield _gemm(x, f"{name}.hidden", f"{name}.hidden_bias", f"{output}_hidden")
        yield Node("Relu", (f"{output}_hidden",), f"{output}_active")
        yield _gemm(f"{output}_active", f"{name}.output", f"{output}_linear", mapped)
    if half:
        yield _cast(mapped, result, TYPES[FLOAT32])
    if after:
        yield from _normalised(result, output)
    elif root:
        yield from _normalised(result, output, root=True)


def _normalised(rows: str, output: str, *, root: bool = False) -> Iterator[Node]:
    yield Node("ReduceL2", (rows,), f"{output}_norm", _EACH_ROW)
    yield Node("Clip", (f"{output}_norm", "smallest_norm"), f"{output}_divisor")  # Clip is faster than Max here
    divisor = f"{output}_divisor"
    if root:
        divisor = f"{output}_root"
        yield Node("Sqrt", (f"{output}_divisor",), divisor)
    yield Node("Div", (rows, divisor), output)


def _int8_rows(rows: str, feed: str) -> Iterator[Node]:
    """Yield operators that write each row in steps of its own largest number, which is its peak."""
    yield Node("Abs", (rows,), f"{feed}_sizes")
    yield Node("ReduceMax", (f"{feed}_sizes",), f"{feed}_largest", _EACH_ROW)
    yield Node("Clip", (f"{feed}_largest", "smallest_norm"), f"{feed}_peak")
    yield Node("Div", ("row_levels", f"{feed}_peak"), f"{feed}_levels")
    yield Node("Mul", (rows, f"{feed}_levels"), f"{feed}_scaled")
    yield Node("QuantizeLinear", (f"{feed}_scaled", "row_step", "row_zero"), f"{feed}_int8")


def _int8_product(rows: str, matrix: str, zero: str, output: str) -> Iterator[Node]:
    yield Node("MatMulInteger", (rows, matrix, zero), f"{output}_int32")
    yield _cast(f"{output}_int32", f"{output}_float", TYPES[FLOAT32])
    yield Node("Mul", (f"{output}_float", f"{matrix}_scale"), output)


def _gemm(rows: str, matrix: str, added: str, output: str) -> Node:
    return Node("Gemm", (rows, matrix, added), output, (("transB", 1),))


def _cast(rows: str, output: str, to: int) -> Node:
    return Node("Cast", (rows,), output, (("to", to),))


def _int8_tensors(name: str, fed: int, out: int, hidden: int) -> dict[str, Tensor]:
    return {
        f"{name}.linear": Tensor(FLOAT32, (out, fed)),
        f"{name}.bias": Tensor(FLOAT32, (out,)),
        f"{name}.hidden_bias": Tensor(FLOAT32, (hidden,)),
        f"{name}.hidden": Tensor(INT8, (fed, hidden)),
        f"{name}.hidden_scale": Tensor(FLOAT32, (hidden,)),
        f"{name}.output": Tensor(INT8, (hidden, out)),
        f"{name}.output_scale": Tensor(FLOAT32, (out,)),
    }
