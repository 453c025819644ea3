"""Join an embedding model with a codec in one ONNX file: tokens in, latents out.

Whoever runs the embedding model then gets compressed vectors without this library. The nodes of the model stay as they
are; pooling, where the graph lacks it, and the codec's encoder follow them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vaecodec.artifact import FUSED_ID, UNSIGNED, Metadata, read_artifact, sign
from vaecodec.codec import Codec
from vaecodec.errors import ExportError
from vaecodec.fused import LATENTS, TOKENS, FusedModel, Pooling
from vaecodec.graph.nodes import Precision
from vaecodec.interface import Metric
from vaecodec.model_settings import chosen_pooling
from vaecodec_exporters.embedder import MASK, Embedder
from vaecodec_exporters.graph import PARITY_BOUNDS, largest_difference, start
from vaecodec_exporters.output import refuse_existing, write_codec_file
from vaecodec_exporters.parts import PARTS, cut

_OLDEST_OPSET = 11
# From this opset on, the axes of these nodes are an input instead of an attribute.
_REDUCTIONS, _AXES_ARE_INPUTS = ("ReduceL1", "ReduceL2", "ReduceMax"), 18
_BATCHES = (1, 2, 5)


def fuse(
    embedder: str | os.PathLike[str],
    codec: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pooling: Pooling | str | None = None,
    output: str | None = None,
    normalise: bool | None = None,
    queries: bool = False,
    overwrite: bool = False,
) -> FusedModel:
    """Write one ONNX file that takes an embedding model's tokens and gives a codec's latents.

    Pooling and normalisation are found in the graph, or in what sentence-transformers keeps beside it; what is not
    found has to be given. The file is written when it computes the same as the model and the codec one after the other.

    Args:
        embedder: the embedding model in ONNX.
        codec: the codec file, trained on that model's embeddings.
        out: the file to write.
        pooling: how the vectors of a text's tokens become one; a warning tells where the files beside the model say
            otherwise.
        output: which output of the embedding model to encode.
        normalise: whether embeddings are normalised before the codec. Under cosine the codec does that itself.
        queries: encode as queries are, for asymmetric codecs; by default as documents are.
        overwrite: replace another codec's file at ``out``.

    Returns:
        What the file says of itself.

    Raises:
        ArtifactError: the codec file cannot be used.
        ExportError: the embedding model cannot be used, something that was not found has to be given, or the fused
            model computes something else; no file is written.
        OutputExistsError: ``out`` is one of the inputs, or another codec's file and ``overwrite`` is False.
    """
    refuse_existing(out, overwrite=overwrite, inputs=[embedder, codec])
    data, metadata = read_artifact(codec)
    model = Embedder.read(embedder, metadata.dim, output)
    chosen = _chosen_pooling(model, None if pooling is None else Pooling(pooling), str(embedder))
    made = FusedModel(
        codec=metadata,
        entry="query" if queries else "embedding",
        output=model.output,
        pooling=chosen,
        normalise=_chosen_normalisation(model, metadata, chosen, normalise, str(embedder)),
        fused_id=UNSIGNED,
    )
    joined = _join(model, data, made)
    _check(joined, model, Codec.load(codec), made)
    write_codec_file(out, joined, overwrite=overwrite)
    return FusedModel.read(out)


def _chosen_pooling(model: Embedder, wanted: Pooling | None, name: str) -> Pooling:
    if model.rank == 2:
        if wanted not in (None, Pooling.NONE):
            raise ExportError(
                f"{name}: expected pooling none for the output {model.output!r}, one vector a text, got {wanted}"
            )
        return Pooling.NONE
    found = chosen_pooling(name, model.settings, wanted)
    if found in (None, Pooling.NONE):
        raise ExportError(
            f"{name}: the output {model.output!r} holds a vector for each token: expected pooling mean or cls, as the "
            f"model's own description says, got {found}"
        )
    if model.settings is not None and model.settings.dense:
        raise ExportError(
            f"{name}: its modules.json names a dense layer, which is not in the graph; export the whole model to ONNX"
        )
    if found is Pooling.MEAN and MASK not in [entry.name for entry in model.session.get_inputs()]:
        raise ExportError(f"{name}: expected an input {MASK!r} for the mean of the tokens; there is none")
    assert found is not None
    return found


def _chosen_normalisation(
    model: Embedder, metadata: Metadata, pooling: Pooling, wanted: bool | None, name: str
) -> bool:
    """Tell whether a node that normalises embeddings has to be added."""
    if metadata.metric is Metric.COSINE:
        return False
    if wanted is not None:
        return wanted
    if np.allclose(np.linalg.norm(model.embed(model.tokens(2), pooling, False), axis=1), 1, atol=1e-3):
        return False
    if model.settings is None:
        raise ExportError(
            f"{name}: the graph does not normalise, and the codec compares by {metadata.metric}: say whether its "
            "training vectors were normalised (normalise=True or False)"
        )
    return model.settings.normalise


def _join(model: Embedder, codec: bytes, made: FusedModel) -> bytes:
    metadata = made.codec
    joined = onnx.ModelProto()
    joined.CopyFrom(model.model)
    # In older files every initializer is also an input. Remove these inputs, since nothing may feed them.
    if joined.ir_version < 4:
        _remove_weights_from_inputs(joined.graph)
        joined.ir_version = 4
    tail = _Tail(joined)
    vectors = tail.renamed.get(model.output, model.output)
    (declared,) = [value for value in model.model.graph.output if value.name == model.output]
    if declared.type.tensor_type.elem_type != TensorProto.FLOAT:
        vectors = tail.node("Cast", [vectors], to=TensorProto.FLOAT)
    if made.pooling is not Pooling.NONE:
        vectors = tail.pooled(vectors, made.pooling, metadata.dim)
    if made.normalise:
        vectors = tail.normalised(vectors)
    part = next(ends for ends in PARTS.values() if ends[0] == made.entry)
    tail.codec(onnx.load_from_string(cut(onnx.load_from_string(codec), *part)).graph, vectors, *part)
    tail.node("Reshape", [LATENTS, tail.constant(np.array([-1, 1, metadata.code_dim]))], output=TOKENS)
    del joined.graph.output[:]
    for name, shape in ((LATENTS, [None, metadata.code_dim]), (TOKENS, [None, 1, metadata.code_dim])):
        joined.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    for key, value in made.to_properties().items():
        joined.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(joined)
    return sign(bytes(joined.SerializeToString(deterministic=True)), FUSED_ID)


class _Tail:
    """Build the nodes that follow those of an embedding model, with names that it does not use."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        (self.opset,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] or [0]
        if self.opset < _OLDEST_OPSET:
            raise ExportError(
                f"expected an embedding model of opset {_OLDEST_OPSET} or newer, got {self.opset}; export it again"
            )
        names = {*_names(model.graph)}
        self.prefix = next(
            prefix
            for prefix in (f"vaecodec{number or ''}/" for number in count())
            if not any(name.startswith(prefix) for name in names)
        )
        inputs = {entry.name for entry in model.graph.input}
        if inputs & {LATENTS, TOKENS}:
            raise ExportError(f"expected no inputs called {LATENTS} or {TOKENS}, got {', '.join(inputs)}")
        # The fused outputs need both names.
        self.renamed = {name: f"{self.prefix}embedder/{name}" for name in (LATENTS, TOKENS) if name in names}
        _rename(model.graph, self.renamed)
        self._numbers = count()

    def node(self, operator: str, inputs: list[str], *, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{self.prefix}{next(self._numbers)}"
        self._add(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        name = f"{self.prefix}constant_{next(self._numbers)}"
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def pooled(self, tokens: str, pooling: Pooling, width: int) -> str:
        """Return one vector for each text, (n, width), of those of its tokens, (n, tokens, width)."""
        if pooling is Pooling.CLS:
            return self.node("Gather", [tokens, self.constant(np.array(0))], axis=1)
        mask = self.node("Cast", [MASK], to=TensorProto.FLOAT)
        row = self.node("Reshape", [mask, self.constant(np.array([0, 1, -1]))])
        sums = self.node("Reshape", [self.node("MatMul", [row, tokens]), self.constant(np.array([-1, width]))])
        counts = self.reduced("ReduceL1", mask)
        return self.node("Div", [sums, self.node("Clip", [counts, self.constant(np.array(1, np.float32))])])

    def normalised(self, rows: str) -> str:
        norms = self.reduced("ReduceL2", rows)
        return self.node("Div", [rows, self.node("Clip", [norms, self.constant(np.array(1e-12, np.float32))])])

    def reduced(self, operator: str, rows: str) -> str:
        """Return (n, 1) of (n, width)."""
        number = next(self._numbers)
        self._add(helper.make_node(operator, [rows], [f"{self.prefix}{number}"], axes=[1], keepdims=1))
        return f"{self.prefix}{number}"

    def codec(self, part: onnx.GraphProto, vectors: str, feed: str, fetch: str) -> None:
        """Add the nodes of a codec's entry point, from the vectors to the latents."""
        own = {name: f"{self.prefix}codec/{name}" for name in _names(part) if name}
        own |= {feed: vectors, fetch: LATENTS}
        _rename(part, own)
        self.graph.initializer.extend(part.initializer)
        for node in part.node:
            self._add(node)

    def _add(self, node: onnx.NodeProto) -> None:
        if node.op_type in _REDUCTIONS and self.opset >= _AXES_ARE_INPUTS:
            (axes,) = [attribute for attribute in node.attribute if attribute.name == "axes"]
            node.input.append(self.constant(np.array(axes.ints, np.int64)))
            node.attribute.remove(axes)
        node.name = f"{self.prefix}{node.op_type}_{next(self._numbers)}"
        self.graph.node.append(node)


def _names(graph: onnx.GraphProto) -> Iterable[str]:
    """Yield every name in a graph and in the graphs inside its nodes."""
    for named in (*graph.input, *graph.output, *graph.initializer):
        yield named.name
    for node in graph.node:
        yield node.name
        yield from (*node.input, *node.output)
        for inner in _inner_graphs(node):
            yield from _names(inner)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for named in (*graph.output, *graph.initializer, *graph.value_info):
        named.name = names.get(named.name, named.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = names.get(annotation.tensor_name, annotation.tensor_name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for position, name in enumerate(ends):
                ends[position] = names.get(name, name)
        for inner in _inner_graphs(node):
            _rename(inner, names)


def _inner_graphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _remove_weights_from_inputs(graph: onnx.GraphProto) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)


def _check(joined: bytes, model: Embedder, codec: Codec, made: FusedModel) -> None:
    """Compare the fused model with the model and the codec one after the other, on random tokens."""
    fused = start(joined)
    bound = codec.metadata.provenance.get("parity_bound", PARITY_BOUNDS[Precision.FLOAT32])
    if model.half:  # in one graph onnxruntime skips the last rounding to float16
        bound = max(bound, PARITY_BOUNDS[Precision.FLOAT16])
    encode = codec.encode_queries if made.entry == "query" else codec.encode
    for texts in _BATCHES:
        feeds = model.tokens(texts)
        try:
            vectors = model.embed(feeds, made.pooling, made.normalise)
            expected, (computed, tokens) = encode(vectors), fused.run([LATENTS, TOKENS], feeds)
        except Exception as error:  # onnxruntime's exceptions have no common public base class
            raise ExportError(f"the embedding model does not run on random tokens: {error}") from error
        difference = largest_difference(vectors, expected, computed)
        if not (difference <= bound and np.array_equal(tokens[:, 0], computed)):
            raise ExportError(
                f"the fused model differs from the model and the codec by {difference:.2g} on {texts} texts; expected "
                f"at most {bound:g}; no file was written"
            )
