"""Read an embedding model in ONNX: which output holds the vectors, and how they become one for each text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from vaecodec.artifact import PREFIX
from vaecodec.errors import ExportError, InvalidArtifactError
from vaecodec.fused import LATENTS, TOKENS, Pooling
from vaecodec.interface import FloatArray
from vaecodec.model_settings import ModelSettings
from vaecodec.vectors import normalised
from vaecodec_exporters.graph import start

MASK = "attention_mask"
_FLOATS = {"tensor(float)", "tensor(float16)", "tensor(double)"}
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
# Most embedding models were not trained with the layer that computes this output.
_NEVER_FOUND = "pooler_output"
# Largest message that protobuf accepts.
_MOST_BYTES = 2**31 - 2**20
# Used if the vocabulary's size is unknown: every tokenizer has at least this many tokens.
_FEWEST_TOKENS = 100
_TOKENS = 12


@dataclass(frozen=True, eq=False)
class Embedder:
    """Hold an embedding model, and what is known about its vectors.

    Attributes:
        model: the graph, all weights inside.
        session: the same in onnxruntime.
        output: the output that holds the vectors.
        rank: 2 where it holds one vector for each text, 3 where one for each token.
        settings: what the files beside the model say, or None where there are none.
    """

    model: onnx.ModelProto
    session: onnxruntime.InferenceSession
    output: str
    rank: int
    settings: ModelSettings | None

    @classmethod
    def read(cls, path: str | os.PathLike[str], width: int, output: str | None = None) -> Embedder:
        """Read a model and find the output whose vectors have a width.

        Raises:
            ExportError: there is no such file, it is no embedding model, a file beside it is damaged, or ``output`` has
                to be chosen.
        """
        model = _loaded(path)
        try:
            session = start(model.SerializeToString())
        except Exception as error:  # onnxruntime's exceptions have no common public base class
            raise ExportError(f"{path}: onnxruntime cannot load the model: {error}") from error
        name, rank = _chosen_output(session, width, output, path)
        try:
            settings = ModelSettings.beside(path)
        except InvalidArtifactError as error:
            raise ExportError(str(error)) from error
        return cls(model, session, name, rank, settings)

    @property
    def half(self) -> bool:
        """Tell whether the vectors are float16."""
        return any(each.name == self.output and each.type == "tensor(float16)" for each in self.session.get_outputs())

    def tokens(self, texts: int) -> dict[str, NDArray[Any]]:
        """Return random inputs of a number of texts, the last ones padded; the same at every call."""
        random = np.random.default_rng(texts)
        feeds: dict[str, NDArray[Any]] = {}
        for entry in self.session.get_inputs():
            shape = [
                size if isinstance(size, int) and size > 0 else default
                for size, default in zip(entry.shape, (texts, _TOKENS, 1, 1, 1), strict=False)
            ]
            values: NDArray[Any] = np.zeros(shape)
            if entry.name == MASK:
                lengths = np.linspace(shape[1], 1 + shape[1] // 2, shape[0]).astype(int)
                values = np.arange(shape[1]) < lengths[:, None]
            elif "position" in entry.name:
                values = np.broadcast_to(np.arange(shape[-1]), shape)
            elif entry.name == "input_ids":
                values = random.integers(0, self._vocabulary(entry.name), shape)
            feeds[entry.name] = values.astype(_INTEGERS.get(entry.type, np.float32))
        return feeds

    def embed(self, feeds: dict[str, NDArray[Any]], pooling: Pooling, normalise: bool) -> FloatArray:
        """Return embeddings of tokens as numpy computes them: float32 (n, d)."""
        vectors = self.session.run([self.output], feeds)[0].astype(np.float32)
        if pooling is Pooling.CLS:
            vectors = vectors[:, 0]
        elif pooling is Pooling.MEAN:
            mask = feeds[MASK].astype(np.float32)
            vectors = (vectors * mask[:, :, None]).sum(1) / np.maximum(mask.sum(1), 1)[:, None]
        return normalised(vectors) if normalise else vectors

    def _vocabulary(self, feed: str) -> int:
        sizes = {tensor.name: tensor.dims[0] for tensor in self.model.graph.initializer if tensor.dims}
        tables = [
            sizes[node.input[0]]
            for node in self.model.graph.node
            if node.op_type == "Gather" and node.input[1] == feed and node.input[0] in sizes
        ]
        return max(tables, default=_FEWEST_TOKENS)


def _loaded(path: str | os.PathLike[str]) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        size = model.ByteSize()
    except Exception as error:  # errors of the system, protobuf and onnx have no other common base class
        raise ExportError(f"{path}: expected an embedding model in ONNX: {error}") from error
    if size > _MOST_BYTES:
        raise ExportError(f"{path}: expected less than 2 GB, which one file can hold, got {size:,} bytes")
    if any(entry.key.startswith(PREFIX) for entry in model.metadata_props):
        raise ExportError(
            f"{path}: expected an embedding model, but a codec is in this file already; give the model it was made from"
        )
    return model


def _chosen_output(
    session: onnxruntime.InferenceSession, width: int, wanted: str | None, path: str | os.PathLike[str]
) -> tuple[str, int]:
    """Return the name and the rank of the output that holds the embeddings."""
    outputs = {output.name: output for output in session.get_outputs()}
    if wanted is not None and wanted not in outputs:
        raise ExportError(f"{path}: there is no output {wanted!r}; there are: {', '.join(outputs)}")
    ranks = {
        name: len(output.shape)
        for name, output in outputs.items()
        if output.type in _FLOATS
        and len(output.shape) in (2, 3)
        and (output.shape[-1] == width or not isinstance(output.shape[-1], int))
    }
    shapes = "; ".join(f"{output.name}: {output.type} {output.shape}" for output in outputs.values())
    if wanted is not None:
        if wanted not in ranks:
            raise ExportError(f"{path}: expected vectors of width {width}, as the codec takes, got {shapes}")
        return wanted, ranks[wanted]
    found = {name: rank for name, rank in ranks.items() if name != _NEVER_FOUND}
    for rank, known in ((2, (LATENTS,)), (3, (TOKENS, "token_embeddings"))):
        named = [name for name in known if found.get(name) == rank]
        candidates = named or [name for name in found if found[name] == rank]
        if len(candidates) > 1 and not named:
            raise ExportError(f"{path}: several outputs may hold embeddings; say which one: {shapes}")
        if candidates:
            return candidates[0], rank
    raise ExportError(f"{path}: expected vectors of width {width}, as the codec takes, got {shapes}")
