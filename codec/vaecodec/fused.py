"""Read an embedding model that ``vaecodec fuse`` joined with a codec: tokens in, latents out."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vaecodec.artifact import FUSED, FUSED_ID, Metadata, read_artifact, read_fused
from vaecodec.errors import InvalidArtifactError
from vaecodec.files.stored_json import parse_object

LATENTS = "sentence_embedding"
"""The output with the latents, float32 (n, code_dim); the name that readers of embedding models look for."""
TOKENS = "last_hidden_state"
"""The same as if a text had one token, float32 (n, 1, code_dim): for readers that pool by its first token."""


class Pooling(StrEnum):
    """Name how the vectors of a text's tokens become one vector."""

    MEAN = "mean"
    CLS = "cls"
    """The vector of the first token."""
    NONE = "none"
    """The embedding model gives one vector for each text."""


@dataclass(frozen=True)
class FusedModel:
    """Hold what a fused file says about itself.

    Attributes:
        codec: metadata of the codec, its ``codec_id`` among them.
        entry: ``embedding`` where documents are encoded, ``query`` where queries are.
        output: which output of the embedding model is encoded.
        pooling: how the vectors of its tokens become one.
        normalise: whether embeddings are normalised before the codec; under cosine the codec does that.
        fused_id: sha256 over the file with this field zeroed.
    """

    codec: Metadata
    entry: str
    output: str
    pooling: Pooling
    normalise: bool
    fused_id: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> FusedModel:
        """Read and verify a file.

        Raises:
            ArtifactError: one of its subclasses says what is wrong with the file.
        """
        properties, codec = read_fused(path)
        try:
            made = parse_object(properties[FUSED])
            return cls(
                codec, made["entry"], made["output"], Pooling(made["pooling"]), made["normalise"], properties[FUSED_ID]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArtifactError(f"{path}: how it was fused is not readable: {error!r}; fuse again") from error

    @classmethod
    def read_any(cls, path: str | os.PathLike[str]) -> Metadata | FusedModel:
        """Read and verify a codec file or a fused one.

        Raises:
            ArtifactError: one of its subclasses says what is wrong with the file.
        """
        try:
            return read_artifact(path)[1]
        except InvalidArtifactError:
            try:
                return cls.read(path)
            except InvalidArtifactError:
                pass
            raise

    def to_properties(self) -> dict[str, str]:
        """Return the metadata of the file, beside those of the embedding model: string keys and values."""
        made = {name: value for name, value in self.to_json().items() if name not in ("codec", "fused_id")}
        return {**self.codec.to_properties(), FUSED: json.dumps(made, sort_keys=True), FUSED_ID: self.fused_id}

    def to_json(self) -> dict[str, Any]:
        """Return the same as JSON values; the codec's own are under ``codec``."""
        return {
            "entry": self.entry,
            "output": self.output,
            "pooling": str(self.pooling),
            "normalise": self.normalise,
            "fused_id": self.fused_id,
            "codec": self.codec.to_json(),
        }
