"""Refuse a codec file whose graph is not one that the exporter writes: a codec file is data, and no program.

The file is read as bytes, before onnxruntime sees it. Every message in it may have the fields that the exporter writes
and no others, so that functions, subgraphs, sparse tensors and what onnx.proto gains later are refused without being
known. Operators and initializers are then compared with what vaecodec.graph.nodes says of such a codec.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from vaecodec.graph.nodes import (
    ENTRY_POINTS,
    FLOAT16,
    FLOAT32,
    IR_VERSION,
    OPSET,
    TYPES,
    Design,
    Node,
    Precision,
    Tensor,
    nodes,
    tensors,
    width,
)
from vaecodec.graph.wire import BYTES, NUMBER, Field, fields

# Kinds of attributes and numbers of fields in onnx.proto (onnx/onnx.proto in the ONNX repository).
_INT, _INTS = 2, 7
_IR_VERSION, _PRODUCER, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 1, 2, 7, 8, 14
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 8, 20
_TENSOR_DIM, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION = 13, 14
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 2, 1, 1, 2
_SHAPE_DIM, _DIM_VALUE, _DIM_NAME = 1, 1, 2


def check_graph(data: bytes, dim: int, code_dim: int, *, unit_embeddings: bool, unit_latents: bool) -> None:
    """Refuse every model whose graph is not exactly one that the exporter writes for these widths and metrics.

    Args:
        data: the serialised model.
        dim: width of the embeddings, as the metadata say.
        code_dim: width of the latents, as the metadata say.
        unit_embeddings: whether the metric of the embeddings is cosine.
        unit_latents: whether the metric of the latents is cosine.

    Raises:
        ValueError: saying what else is in it.
        LookupError: the bytes are not a model.
    """
    stored = _read(data)
    design = _design(stored, dim, code_dim, (unit_embeddings, unit_latents))
    expected = tensors(design)
    _compare("initializers", list(stored.tensors), list(expected))
    for name, tensor in expected.items():
        _check_tensor(name, stored.tensors[name], tensor)
    _compare("operators", stored.nodes, list(nodes(design)))
    inputs, outputs = ([(name, width(design, name)) for name in names] for names in zip(*ENTRY_POINTS, strict=True))
    _compare("inputs", stored.inputs, inputs)
    _compare("outputs", stored.outputs, outputs)


class _StoredTensor(NamedTuple):
    shape: tuple[int, ...]
    type: int
    raw: memoryview


class _Message:
    """Hold one message of the file, all of whose fields are among those that the exporter writes.

    Args:
        data: the file.
        start: where the message begins.
        stop: where it ends.
        what: its name in error messages.
        allowed: numbers of the fields that it may have.
    """

    def __init__(self, data: bytes, start: int, stop: int, what: str, *allowed: int) -> None:
        self._data = data
        self._what = what
        self._fields: list[Field] = []
        for entry in fields(data, start, stop):
            if entry.number not in allowed or entry.kind not in (NUMBER, BYTES):
                raise _foreign(f"{what} has the field {entry.number} of onnx.proto")
            self._fields.append(entry)

    def messages(self, number: int, what: str, *allowed: int) -> Iterator[_Message]:
        for entry in self._of(number, BYTES):
            yield _Message(self._data, entry.start, entry.stop, what, *allowed)

    def message(self, number: int, what: str, *allowed: int) -> _Message:
        self._once(number)
        return next(self.messages(number, what, *allowed))

    def numbers(self, number: int) -> tuple[int, ...]:
        return tuple(entry.value for entry in self._of(number, NUMBER))

    def number(self, number: int) -> int:
        self._once(number)
        return self.numbers(number)[0]

    def texts(self, number: int) -> tuple[str, ...]:
        return tuple(self._data[entry.start : entry.stop].decode() for entry in self._of(number, BYTES))

    def text(self, number: int) -> str:
        self._once(number)
        return self.texts(number)[0]

    def raw(self, number: int) -> memoryview:
        self._once(number)
        entry = self._of(number, BYTES)[0]
        return memoryview(self._data)[entry.start : entry.stop]

    def has(self, *numbers: int) -> bool:
        return any(entry.number in numbers and (entry.value or entry.kind == BYTES) for entry in self._fields)

    def _of(self, number: int, kind: int) -> list[Field]:
        found = [entry for entry in self._fields if entry.number == number]
        if any(entry.kind != kind for entry in found):
            raise _foreign(f"{self._what} has the field {number} in another form")
        return found

    def _once(self, number: int) -> None:
        count = sum(entry.number == number for entry in self._fields)
        if count != 1:
            raise _foreign(f"{self._what} has the field {number} {count} times")


class _StoredGraph(NamedTuple):
    """Hold the content of the graph of a file."""

    tensors: dict[str, _StoredTensor]
    nodes: list[Node]
    inputs: list[tuple[str, int]]
    outputs: list[tuple[str, int]]


def _read(data: bytes) -> _StoredGraph:
    model = _Message(
        data, 0, len(data), "the model", _IR_VERSION, _PRODUCER, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA
    )
    opset = model.message(_MODEL_OPSET, "the opset", _OPSET_DOMAIN, _OPSET_VERSION)
    if (model.number(_IR_VERSION), opset.number(_OPSET_VERSION)) != (IR_VERSION, OPSET) or any(
        opset.texts(_OPSET_DOMAIN)
    ):
        raise _foreign(f"it is not of IR version {IR_VERSION} and opset {OPSET}")
    graph = model.message(
        _MODEL_GRAPH, "the graph", _GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT
    )
    return _StoredGraph(_tensors(graph), _nodes(graph), _values(graph, _GRAPH_INPUT), _values(graph, _GRAPH_OUTPUT))


def _tensors(graph: _Message) -> dict[str, _StoredTensor]:
    found = {}
    fields_ = _TENSOR_DIM, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION
    for tensor in graph.messages(_GRAPH_INITIALIZER, "an initializer", *fields_):
        if tensor.has(_TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION):
            raise ValueError("keeps weights outside the file, which a codec must not")
        name = tensor.text(_TENSOR_NAME)
        if name in found:
            raise _foreign(f"the initializer {name!r} is there twice")
        found[name] = _StoredTensor(tensor.numbers(_TENSOR_DIM), tensor.number(_TENSOR_TYPE), tensor.raw(_TENSOR_RAW))
    return found


def _nodes(graph: _Message) -> list[Node]:
    found = []
    for node in graph.messages(_GRAPH_NODE, "an operator", _NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE):
        attributes = []
        for entry in node.messages(
            _NODE_ATTRIBUTE, "an attribute", _ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE
        ):
            kind = entry.number(_ATTRIBUTE_TYPE)
            value = entry.number(_ATTRIBUTE_INT) if kind == _INT else entry.numbers(_ATTRIBUTE_INTS)
            attributes.append((entry.text(_ATTRIBUTE_NAME), value))
        operator = node.text(_NODE_OPERATOR)
        if operator == "Max":  # the first files of this format have it
            operator = "Clip"
        found.append(Node(operator, node.texts(_NODE_INPUT), node.text(_NODE_OUTPUT), tuple(attributes)))
    return found


def _values(graph: _Message, number: int) -> list[tuple[str, int]]:
    """Return inputs or outputs by name and width: float32 (any number of rows, width)."""
    found = []
    for value in graph.messages(number, "an input or output", _VALUE_NAME, _VALUE_TYPE):
        kind = value.message(_VALUE_TYPE, "a type", _TYPE_TENSOR)
        tensor = kind.message(_TYPE_TENSOR, "a type of a tensor", _TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE)
        shape = tensor.message(_TENSOR_TYPE_SHAPE, "a shape", _SHAPE_DIM)
        sizes = list(shape.messages(_SHAPE_DIM, "a width", _DIM_VALUE, _DIM_NAME))
        name = value.text(_VALUE_NAME)
        if tensor.number(_TENSOR_TYPE_ELEMENT) != TYPES[FLOAT32] or len(sizes) != 2 or sizes[0].numbers(_DIM_VALUE):
            raise _foreign(f"{name!r} is not float32 of any number of rows")
        found.append((name, sizes[1].number(_DIM_VALUE)))
    return found


def _design(stored: _StoredGraph, dim: int, code_dim: int, unit: tuple[bool, bool]) -> Design:
    """Return the design that the exporter was given, as the types and shapes of the initializers tell."""
    hidden: dict[str, int | None] = {}
    for name in ("encoder", "decoder", "query_encoder"):
        if f"{name}.linear" in stored.tensors:
            bias = stored.tensors.get(f"{name}.hidden_bias")
            hidden[name] = bias.shape[0] if bias is not None and bias.shape else None
    if not {"encoder", "decoder"} <= hidden.keys():
        raise _foreign("it has no encoder or no decoder")
    if "row_levels" in stored.tensors:
        precision = Precision.INT8
    elif stored.tensors["encoder.linear"].type == TYPES[FLOAT16]:
        precision = Precision.FLOAT16
    else:
        precision = Precision.FLOAT32
    root = not unit[1] and any(node.operator == "Sqrt" for node in stored.nodes)
    return Design(dim, code_dim, *unit, hidden=hidden, precision=precision, root_latents=root)


def _check_tensor(name: str, stored: _StoredTensor, expected: Tensor) -> None:
    if (stored.type, stored.shape) != (TYPES[expected.dtype], expected.shape):
        raise _foreign(
            f"{name!r} has the shape {stored.shape} and type {stored.type}, where metadata and graph call for "
            f"{expected.shape} of {expected.dtype}"
        )
    if len(stored.raw) != math.prod(expected.shape) * expected.dtype.itemsize:
        raise _foreign(f"{name!r} has {len(stored.raw)} bytes, which its shape does not fit")
    values = np.frombuffer(stored.raw, expected.dtype.newbyteorder("<"))
    if not np.isfinite(values).all():
        raise _foreign(f"{name!r} holds NaN or infinity")
    if expected.value is not None and values.tolist() != np.array([expected.value], expected.dtype).tolist():
        raise _foreign(f"{name!r} is {values.tolist()}, not {expected.value:g}")


def _compare(what: str, found: Sequence[object], expected: Sequence[object]) -> None:
    for one, other in zip_longest(found, expected):
        if one != other:
            raise _foreign(f"among the {what} is {_shown(one)} where {_shown(other)} belongs")


def _shown(entry: object) -> str:
    if isinstance(entry, Node):
        return f"{entry.operator} ({entry.output!r})"
    return "nothing" if entry is None else repr(entry)


def _foreign(reason: str) -> ValueError:
    return ValueError(f"holds a graph that vaecodec does not write: {reason}")
