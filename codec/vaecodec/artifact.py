"""Read and write the codec file: one ONNX file with metadata and a checksum. docs/format.md is the specification.

The metadata is read straight from the protobuf wire format, before onnxruntime sees the file: a file that is newer,
damaged or not ours is refused for that reason. Then the graph is compared with the ones that the exporter writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from vaecodec.errors import (
    ArtifactNotFoundError,
    InvalidArtifactError,
    UnsupportedFormatError,
    VaecodecError,
)
from vaecodec.files.stored_json import parse_object
from vaecodec.graph.check import check_graph
from vaecodec.graph.wire import fields
from vaecodec.interface import Metric

FORMAT_VERSION = 1
PREFIX = "vaecodec."
PART = PREFIX + "part"
"""Only in what ``vaecodec split`` wrote: the entry point that is left of the codec."""
FUSED, FUSED_ID = PREFIX + "fused", PREFIX + "fused_id"
"""Only in what ``vaecodec fuse`` wrote: how the embedding model was joined with the codec, and the file's identity."""
UNSIGNED = "0" * 64
DOCUMENTS_ID = PREFIX + "documents_id"
"""Only where queries were fitted anew: the codec whose documents' latents these are."""
_IDENTITY = re.compile("[0-9a-f]{64}")

# Python refuses to read numbers of thousands of digits.
_VERSION_DIGITS = 9

# Protobuf's own limit for a message.
_MOST_BYTES = 2**31 - 1
_MOST_DIGITS = 9


class Kind(StrEnum):
    """Name what made the weights."""

    VAE = "vae"
    AE = "ae"
    LINEAR = "linear"
    IDENTITY = "identity"


@dataclass(frozen=True)
class Metadata:
    """Hold what a codec file says about itself.

    Attributes:
        kind: what made the weights.
        dim: width of the embeddings.
        code_dim: width of the latents.
        metric: how the embeddings are compared.
        latent_metric: how the latents must be compared.
        nested_dims: latent widths, ascending, whose prefixes were trained to stand alone; may be empty.
        embedder: the embedding model's name as the user gave it, or an empty string.
        calibration: what was fitted on training data for codes and scores; JSON values only.
        provenance: recipe, data fingerprint, seed, versions, date and validation figures; JSON values only.
        format_version: version of the file format.
        codec_id: sha256 over the file with this field zeroed, as 64 hexadecimal digits.
        documents_id: in a file whose queries were fitted anew, the identity of the codec whose documents' latents these
            are, to the bit; otherwise empty.
    """

    kind: Kind
    dim: int
    code_dim: int
    metric: Metric
    latent_metric: Metric
    nested_dims: tuple[int, ...] = ()
    embedder: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    codec_id: str = UNSIGNED
    documents_id: str = ""

    @property
    def identity(self) -> str:
        """Return what an index keeps, so that only a codec that encodes documents alike can search it."""
        return self.documents_id or self.codec_id

    def to_properties(self) -> dict[str, str]:
        """Return the metadata as ONNX ``metadata_props``: string keys and values."""
        return {
            PREFIX + "format_version": str(self.format_version),
            PREFIX + "codec_id": self.codec_id,
            PREFIX + "kind": str(self.kind),
            PREFIX + "dim": str(self.dim),
            PREFIX + "code_dim": str(self.code_dim),
            PREFIX + "metric": str(self.metric),
            PREFIX + "latent_metric": str(self.latent_metric),
            PREFIX + "nested_dims": ",".join(map(str, self.nested_dims)),
            PREFIX + "embedder": self.embedder,
            PREFIX + "calibration": json.dumps(self.calibration, sort_keys=True, allow_nan=False),
            PREFIX + "provenance": json.dumps(self.provenance, sort_keys=True, allow_nan=False),
            **({DOCUMENTS_ID: self.documents_id} if self.documents_id else {}),
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Metadata:
        """Read what :meth:`to_properties` wrote; raises ``KeyError`` or ``ValueError`` when it did not."""
        nested = properties[PREFIX + "nested_dims"]
        metadata = cls(
            kind=Kind(properties[PREFIX + "kind"]),
            dim=_number(properties[PREFIX + "dim"]),
            code_dim=_number(properties[PREFIX + "code_dim"]),
            metric=Metric(properties[PREFIX + "metric"]),
            latent_metric=Metric(properties[PREFIX + "latent_metric"]),
            nested_dims=tuple(_number(width) for width in nested.split(",")) if nested else (),
            embedder=properties[PREFIX + "embedder"],
            calibration=parse_object(properties[PREFIX + "calibration"]),
            provenance=parse_object(properties[PREFIX + "provenance"]),
            format_version=_number(properties[PREFIX + "format_version"]),
            codec_id=properties[PREFIX + "codec_id"],
            documents_id=properties.get(DOCUMENTS_ID, ""),
        )
        if metadata.documents_id and not _IDENTITY.fullmatch(metadata.documents_id):
            raise ValueError("the identity for documents is not 64 hexadecimal digits")
        return metadata

    def to_json(self) -> dict[str, Any]:
        """Return the metadata as one JSON object."""
        return {key.removeprefix(PREFIX): value for key, value in self.to_properties().items()} | {
            "format_version": self.format_version,
            "dim": self.dim,
            "code_dim": self.code_dim,
            "nested_dims": list(self.nested_dims),
            "calibration": dict(self.calibration),
            "provenance": dict(self.provenance),
        }


def read_artifact(path: str | os.PathLike[str]) -> tuple[bytes, Metadata]:
    """Read and verify a codec file; the bytes returned are those that were verified.

    Raises:
        ArtifactError: one of its subclasses says what is wrong with the file.
    """
    try:
        data = _bytes_of(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ArtifactNotFoundError(f"{path}: there is no such codec file") from error
    return data, verified(data, path)


def verified(data: bytes, path: str | os.PathLike[str]) -> Metadata:
    """Verify the bytes of a codec file and return its metadata; the path is for error messages.

    Raises:
        ArtifactError: one of its subclasses says what is wrong with the file.
    """
    try:
        entries = list(_properties(data))
        properties = dict(entries)
    except (ValueError, LookupError) as error:
        raise InvalidArtifactError(f"{path}: expected an ONNX model, but the bytes are not one") from error
    version = properties.get(PREFIX + "format_version")
    digest = properties.get(PREFIX + "codec_id")
    if version is None or digest is None:
        raise InvalidArtifactError(
            f"{path}: an ONNX model, but not a vaecodec codec (no '{PREFIX}' metadata); make one with: vaecodec export"
        )
    if PART in properties:
        raise InvalidArtifactError(
            f"{path}: one entry point of a codec, '{properties[PART].text}', for other runtimes; "
            "load the codec file that vaecodec split made it from"
        )
    if version.text.isdecimal() and (len(version.text) > _VERSION_DIGITS or int(version.text) > FORMAT_VERSION):
        raise UnsupportedFormatError(
            f"{path}: format version {version.text} is newer than the {FORMAT_VERSION} that this vaecodec reads; "
            "upgrade with: pip install --upgrade vaecodec"
        )
    if FUSED in properties:
        raise InvalidArtifactError(
            f"{path}: an embedding model with the codec {digest.text[:12]}… in it, which takes tokens; load the codec "
            "file itself, or run this one in onnxruntime"
        )
    _refuse_damage(path, data, digest)
    try:
        if len(entries) != len(properties):
            raise ValueError("a key is there twice")
        metadata = Metadata.from_properties({key: value.text for key, value in properties.items()})
        if any(one >= other for one, other in pairwise(metadata.nested_dims)):
            raise ValueError("nested widths are not ascending")
        if max(metadata.nested_dims, default=0) > metadata.code_dim:
            raise ValueError(f"a nested width is larger than the {metadata.code_dim} latents")
    except (KeyError, ValueError) as error:
        raise InvalidArtifactError(f"{path}: the codec metadata is incomplete or malformed: {error}") from error
    try:
        check_graph(
            data,
            metadata.dim,
            metadata.code_dim,
            unit_embeddings=metadata.metric is Metric.COSINE,
            unit_latents=metadata.latent_metric is Metric.COSINE,
        )
    except (LookupError, ValueError) as error:
        raise InvalidArtifactError(f"{path}: {error}; export it again") from error
    return metadata


def read_fused(path: str | os.PathLike[str]) -> tuple[dict[str, str], Metadata]:
    """Read and verify an embedding model that ``vaecodec fuse`` wrote.

    Returns:
        All metadata of the file, by key, and those of the codec in it.

    Raises:
        ArtifactError: one of its subclasses says what is wrong with the file.
    """
    try:
        data = _bytes_of(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ArtifactNotFoundError(f"{path}: there is no such file") from error
    try:
        properties = dict(_properties(data))
    except (ValueError, LookupError) as error:
        raise InvalidArtifactError(f"{path}: expected an ONNX model, but the bytes are not one") from error
    if FUSED not in properties or FUSED_ID not in properties:
        raise InvalidArtifactError(
            f"{path}: an ONNX model, but no codec is fused into it; make one with: vaecodec fuse"
        )
    _refuse_damage(path, data, properties[FUSED_ID])
    texts = {key: value.text for key, value in properties.items()}
    try:
        return texts, Metadata.from_properties(texts)
    except (KeyError, ValueError) as error:
        raise InvalidArtifactError(f"{path}: the codec metadata is incomplete or malformed: {error}") from error


def sign(data: bytes, key: str = PREFIX + "codec_id") -> bytes:
    """Return the serialised model with its identity filled in; the field ``key`` must exist and be 64 characters wide.

    The identity is the sha256 over the whole file with this field set to 64 zeros.
    """
    field_ = dict(_properties(data))[key]
    digest = _digest(data, field_)
    return data[: field_.start] + digest.encode() + data[field_.start + len(digest) :]


@contextmanager
def stored_values(what: str) -> Iterator[None]:
    """Turn errors while reading JSON values of a verified codec file into InvalidArtifactError.

    Raises:
        InvalidArtifactError: a value is missing, or not of the form that its reader expects.
    """
    try:
        yield
    except VaecodecError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InvalidArtifactError(f"the codec file's {what} is malformed: {error!r}; export it again") from error


def _bytes_of(path: str | os.PathLike[str]) -> bytes:
    """Read a file of a size that a codec may have; a device or pipe, which may never end, is none."""
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise InvalidArtifactError(f"{path}: expected a codec file, got a device or a pipe")
    if found.st_size > _MOST_BYTES:
        raise InvalidArtifactError(
            f"{path}: expected at most {_MOST_BYTES:,} bytes of a codec file, got {found.st_size:,}"
        )
    return Path(path).read_bytes()


def _number(text: str) -> int:
    """Read a positive number as it is written."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and int(text) > 0):
        raise ValueError(f"expected a positive number, got {text[:20]!r}")
    return int(text)


class _Text(NamedTuple):
    """Hold a string of the file, and where its bytes begin."""

    text: str
    start: int


# Field numbers of onnx.proto3 (onnx/onnx.proto3 in the ONNX repository).
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def _digest(data: bytes, identity: _Text) -> str:
    digest = hashlib.sha256(memoryview(data)[: identity.start])
    digest.update(UNSIGNED.encode())
    digest.update(memoryview(data)[identity.start + len(UNSIGNED) :])
    return digest.hexdigest()


def _refuse_damage(path: str | os.PathLike[str], data: bytes, identity: _Text) -> None:
    expected = _digest(data, identity)
    if expected != identity.text:
        raise InvalidArtifactError(
            f"{path}: the content has checksum {expected[:12]}…, but the file says {identity.text[:12]}…; "
            "it was damaged or changed: copy or export it again"
        )


def _properties(data: bytes) -> Iterator[tuple[str, _Text]]:
    """Return the model's metadata_props; raise ``ValueError`` or ``LookupError`` when the bytes are not a model."""
    graphs = 0
    for entry in fields(data, 0, len(data)):
        graphs += entry.number == _MODEL_GRAPH
        if entry.number == _MODEL_METADATA:
            parts = {part.number: part for part in fields(data, entry.start, entry.stop)}
            key, value = parts[_ENTRY_KEY], parts.get(_ENTRY_VALUE)  # protobuf omits an empty string
            start, stop = (value.start, value.stop) if value else (entry.stop, entry.stop)
            yield data[key.start : key.stop].decode(), _Text(data[start:stop].decode(), start)
    if graphs != 1:
        raise ValueError("a model holds exactly one graph")
