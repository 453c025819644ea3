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
from vaecodec.model_settings import ModelSettings, chosen_pooling
from vaecodec.vectors import normalised

# Texts are cut off there where nothing says otherwise.
_MOST_TOKENS = 256
_WITHOUT_FILES = ModelSettings(
    pooling=None, pools_prompt=True, normalise=True, dense=False, max_tokens=None, prompt="", query_prompt=""
)


class OnnxEmbedder:
    """Run an embedding model that was exported to ONNX, as sentence-transformers and fastembed models are.

    Pooling, normalisation, prompts and the longest text are by default as sentence-transformers keeps them, where its
    ``modules.json`` is beside the model or in the folder above. Otherwise vectors are normalised.

    Args:
        model: the ONNX file. It takes ``input_ids`` and, if it wants them, ``attention_mask`` and ``token_type_ids``.
        tokenizer: its ``tokenizer.json``; by default the one beside the model, or in the folder above.
        pooling: how the token vectors become one; by default as the files say, none for a model that returns one
            vector for each text, otherwise mean. A warning tells where the files say otherwise.
        prompt: what is put before each text, such as ``passage: ``; by default as the files say for documents,
            otherwise nothing.
        query_prompt: the same for queries.
        max_tokens: what is longer is cut off; by default as the files say, otherwise 256.
        batch_size: texts that the model gets at a time.
        threads: of the model; by default one for each core.

    Raises:
        FileNotFoundError: there is no such model, or no tokenizer.
        InvalidArtifactError: the model, its tokenizer or a file beside it is damaged, or is something else, or the
            files name a pooling or a layer that is not known here.
        MissingExtraError: tokenizers is not installed: ``pip install 'vaecodec[embed]'``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        tokenizer: str | os.PathLike[str] | None = None,
        *,
        pooling: Pooling | None = None,
        prompt: str | None = None,
        query_prompt: str | None = None,
        max_tokens: int | None = None,
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
        settings = ModelSettings.beside(model)
        known = settings or _WITHOUT_FILES
        longest = known.max_tokens or _MOST_TOKENS if max_tokens is None else max_tokens
        self._tokenizer.enable_truncation(longest)
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
        self._batch_size = batch_size
        self._pooling = self._chosen_pooling(settings, pooling)
        self._normalise = known.normalise
        self._prompt = known.prompt if prompt is None else prompt
        self._query_prompt = known.query_prompt if query_prompt is None else query_prompt
        if self._pooling is not Pooling.NONE:
            self._check_modules(known)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Embed documents: float32 (n, d), of unit norm unless the files beside the model do not normalise."""
        return self._embedded([self._prompt + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        """Embed queries, which may have another prompt than documents: float32 (n, d), as documents are."""
        return self._embedded([self._query_prompt + text for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens that the model reads of these documents, with their prompt and without padding."""
        encodings = self._tokenizer.encode_batch([self._prompt + text for text in texts])
        return sum(sum(encoding.attention_mask) for encoding in encodings)

    def _embedded(self, texts: list[str]) -> FloatArray:
        parts = [
            self._embed(texts[start : start + self._batch_size]) for start in range(0, len(texts), self._batch_size)
        ]
        if not parts:
            return np.empty((0, self._width), np.float32)
        vectors = np.concatenate(parts)
        return normalised(vectors) if self._normalise else vectors

    def _chosen_pooling(self, settings: ModelSettings | None, wanted: Pooling | None) -> Pooling:
        if len(self._session.get_outputs()[0].shape) == 2:
            return wanted or Pooling.NONE
        if settings is None:
            return wanted or Pooling.MEAN
        chosen = chosen_pooling(self._model, settings, wanted)
        if chosen is None:
            raise InvalidArtifactError(
                f"{self._model}: expected pooling mean or cls in the files that modules.json beside it names, got "
                "neither; say which one, or export a model that pools itself"
            )
        return chosen

    def _check_modules(self, settings: ModelSettings) -> None:
        """Refuse what sentence-transformers does after the tokens' vectors and is not done here."""
        if settings.dense:
            raise InvalidArtifactError(
                f"{self._model}: its modules.json names a dense layer, which is not in the graph; export the whole "
                "model to ONNX"
            )
        if not settings.pools_prompt and (self._prompt or self._query_prompt):
            raise InvalidArtifactError(
                f"{self._model}: its pooling leaves the prompt out (include_prompt), expected one that takes all "
                "tokens; export a model that pools itself"
            )

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
