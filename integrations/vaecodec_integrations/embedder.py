"""Embed texts by an ONNX model and its tokenizer: no framework, no download."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.errors import InvalidArtifactError
from vaecodec.extras import require
from vaecodec.fused import Pooling
from vaecodec.interface import FloatArray
from vaecodec.vectors import normalised


class OnnxEmbedder:
    """Run an embedding model that was exported to ONNX, as sentence-transformers and fastembed models are.

    Args:
        model: the ONNX file. It takes ``input_ids`` and, if it wants them, ``attention_mask`` and ``token_type_ids``.
        tokenizer: its ``tokenizer.json``; by default the one beside the model, or in the folder above.
        pooling: how the token vectors become one; mean by default.
        max_tokens: what is longer is cut off.
        batch_size: texts that the model gets at a time.
        threads: of the model; by default one for each core.

    Raises:
        FileNotFoundError: there is no such model, or no tokenizer.
        InvalidArtifactError: the model or its tokenizer is damaged, or is something else.
        MissingExtraError: tokenizers is not installed: ``pip install 'vaecodec[embed]'``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        tokenizer: str | os.PathLike[str] | None = None,
        *,
        pooling: Pooling = Pooling.MEAN,
        max_tokens: int = 256,
        batch_size: int = 32,
        threads: int = 0,
    ) -> None:
        path = Path(tokenizer) if tokenizer is not None else _beside(Path(model))
        for file in (Path(model), path):
            if not file.is_file():
                raise FileNotFoundError(f"{file}: expected the model and its tokenizer.json, got no such file")
        tokenizers = require("tokenizers", extra="embed")
        with _unusable_if_it_fails(f"{path}: expected the tokenizer.json of an embedding model"):
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding()
        with _unusable_if_it_fails(f"{model}: expected an embedding model in ONNX"):
            self._session = _session(Path(model), threads)
        self._model = model
        self._inputs = [node.name for node in self._session.get_inputs()]
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown or "input_ids" not in self._inputs:
            raise InvalidArtifactError(
                f"{model}: expected a model of tokens, with input_ids, got inputs {self._inputs}"
            )
        self._pooling = pooling
        self._batch_size = batch_size

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts: float32 (n, d) of unit norm."""
        parts = [
            self._embed(texts[start : start + self._batch_size]) for start in range(0, len(texts), self._batch_size)
        ]
        return normalised(np.concatenate(parts)) if parts else np.empty((0, self._width), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens that the model reads of these texts, without padding."""
        return sum(sum(encoding.attention_mask) for encoding in self._tokenizer.encode_batch(list(texts)))

    def _check(self, output: Any, texts: int) -> None:
        rank = 2 if self._pooling is Pooling.NONE else 3
        if output.ndim != rank or len(output) != texts or output.dtype.kind != "f":
            shape = "(texts, width)" if rank == 2 else "(texts, tokens, width)"
            raise InvalidArtifactError(
                f"{self._model}: expected floats {shape} with pooling={self._pooling}, got {output.dtype} of shape "
                f"{output.shape} for {texts} texts"
            )

    @property
    def _width(self) -> int:
        return int(self._session.get_outputs()[0].shape[-1])

    def _embed(self, texts: Sequence[str]) -> FloatArray:
        encodings = self._tokenizer.encode_batch(list(texts))
        tokens: dict[str, Any] = {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
            "token_type_ids": np.array([encoding.type_ids for encoding in encodings], np.int64),
        }
        with _unusable_if_it_fails(f"{self._model}: expected a model that takes the tokens of its tokenizer"):
            output = self._session.run(None, {name: tokens[name] for name in self._inputs})[0]
        self._check(output, len(texts))
        if self._pooling is Pooling.CLS:
            output = output[:, 0]
        elif self._pooling is Pooling.MEAN:
            mask = tokens["attention_mask"][:, :, None].astype(np.float32)
            output = (output * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        return np.asarray(output, np.float32)


def _session(model: Path, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


@contextmanager
def _unusable_if_it_fails(what: str) -> Iterator[None]:
    """Turn any error of a library that reads or runs a model into InvalidArtifactError."""
    try:
        yield
    except Exception as error:  # the errors of onnxruntime and tokenizers have no common public base class
        raise InvalidArtifactError(f"{what}: {error}") from error


def _beside(model: Path) -> Path:
    beside = model.parent / "tokenizer.json"
    return beside if beside.exists() else model.parent.parent / "tokenizer.json"
