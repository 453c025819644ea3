"""The proof that a collection was filled by the codecs at hand.

The identity of a codec lives in the collection's metadata, one key per compressed vector, so that several writers
can add vectors without overwriting each other's records (Qdrant merges metadata key by key).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from vaecodec.errors import CodecMismatchError, UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.layout import (
    DISTANCES,
    CodedVector,
    Layout,
    Originals,
    dense_params,
    original_name,
)

METADATA_KEY = "vaecodec"


def metadata_key(name: str) -> str:
    """The metadata key of the compressed vector ``name``."""
    return f"{METADATA_KEY}:{name}" if name else METADATA_KEY


def names_codec(key: str) -> bool:
    """Whether a metadata key is one of :func:`metadata_key`'s."""
    return key == METADATA_KEY or key.startswith(f"{METADATA_KEY}:")


def identity_record(codec: VectorCodec, originals: Originals, original: str | None) -> dict[str, Any]:
    """What the collection's metadata says about one compressed vector."""
    return {
        "codec_id": codec.codec_id,
        "dim": codec.dim,
        "code_dim": codec.code_dim,
        "metric": str(codec.metric),
        "embedder": codec.embedder,
        "originals": str(originals),
        "original_vector": original,
    }


def read_layout(
    collection: str,
    info: models.CollectionInfo,
    codecs: Mapping[str, VectorCodec],
    originals: Originals,
    *,
    trust: bool,
) -> tuple[Layout, dict[str, Any]]:
    """Compare a collection with the codecs at hand.

    Returns:
        The layout, and the identity records that the metadata lacks (empty when all are there or trusted). The
        caller may write them to an empty collection and must refuse a filled one.

    Raises:
        CodecMismatchError: another codec, width, distance or keeping of originals.
    """
    stored = info.config.metadata or {}
    params = dense_params(info)
    coded: dict[str, CodedVector] = {}
    missing: dict[str, Any] = {}
    for name, codec in codecs.items():
        if name not in params:
            continue
        record = stored.get(metadata_key(name))
        _check_params(collection, name, params[name], codec)
        if record is None:
            original = original_name(name) if originals is Originals.DISK else None
            if not trust:
                missing[metadata_key(name)] = identity_record(codec, originals, original)
        else:
            check_record(collection, name, record, codec, originals)
            original = record["original_vector"]
        if original is not None and (original not in params or params[original].size != codec.dim):
            raise CodecMismatchError(
                f"collection {collection!r}: expected the originals of vector {name!r} in a vector {original!r} of "
                f"size {codec.dim}, got {_sizes(params)}; create the collection through this client"
            )
        multi = params[name].multivector_config is not None
        if multi and originals is Originals.FILE:
            raise UnsupportedRequestError(
                f"collection {collection!r}: vector {name!r} is a multivector, and a file of originals holds one row "
                "per point; keep the originals on disk: originals='disk'"
            )
        coded[name] = CodedVector(name, codec, multi, original)
    hidden = {vector.original for vector in coded.values()}
    sparse = info.config.params.sparse_vectors or {}
    others = tuple(name for name in [*params, *sparse] if name not in coded and name not in hidden)
    return Layout(coded, others), missing


def _check_params(collection: str, name: str, params: models.VectorParams, codec: VectorCodec) -> None:
    where = f"collection {collection!r}, vector {name!r}"
    if params.size == codec.dim and codec.dim != codec.code_dim:
        raise CodecMismatchError(
            f"{where}: expected compressed vectors of size {codec.code_dim}, got uncompressed ones of size "
            f"{params.size}; copy the collection with `vaecodec migrate`, or open it without this codec"
        )
    if params.size != codec.code_dim:
        raise CodecMismatchError(
            f"{where}: expected vectors of size {codec.code_dim}, got size {params.size}; "
            "open it with the codec that filled it"
        )
    if params.distance != DISTANCES[codec.latent_metric]:
        raise CodecMismatchError(
            f"{where}: expected distance {DISTANCES[codec.latent_metric]}, got {params.distance}; "
            "the collection must be created again through this client"
        )


def check_record(
    collection: str, name: str, record: Mapping[str, Any], codec: VectorCodec, originals: Originals
) -> None:
    """Raise ``CodecMismatchError`` unless the record is of this codec and of this keeping of originals."""
    where = f"collection {collection!r}, vector {name!r}"
    if record["codec_id"] != codec.codec_id:
        raise CodecMismatchError(
            f"{where}: expected codec {codec.codec_id[:12]} ({codec.embedder or 'unnamed embedder'}), got a collection "
            f"filled by codec {record['codec_id'][:12]} ({record['embedder'] or 'unnamed embedder'}); open it with "
            "that codec, or migrate the collection"
        )
    if originals is not Originals.NONE and record["embedder"] != codec.embedder:  # only across a bridge
        raise CodecMismatchError(
            f"{where}: keeps originals of {record['embedder'] or 'an unnamed embedder'}, which queries of "
            f"{codec.embedder or 'an unnamed embedder'} cannot be re-ranked by; search it with its own embedder, or "
            "make a collection for the new one"
        )
    if record["originals"] != originals:
        raise CodecMismatchError(
            f"{where}: expected originals kept {originals!s:}, got a collection that keeps them "
            f"{record['originals']}; open it with the matching originals argument"
        )


def no_identity(collection: str, missing: Mapping[str, Any]) -> CodecMismatchError:
    """The error for a filled collection whose metadata names no codec."""
    return CodecMismatchError(
        f"collection {collection!r}: expected the codec's id in its metadata ({', '.join(map(repr, missing))}), got "
        "points but no id; if its vectors were made by this codec, open it with trust=True, otherwise copy it with "
        "`vaecodec migrate`"
    )


def metadata_not_kept(collection: str) -> CodecMismatchError:
    """The error for a server that drops collection metadata."""
    return CodecMismatchError(
        f"collection {collection!r}: the server did not keep the collection's metadata (Qdrant does from version "
        "1.16 on); upgrade it, or open the collection with trust=True and see to it that one codec is used"
    )


def _sizes(params: Mapping[str, models.VectorParams]) -> str:
    return ", ".join(f"{name!r} of size {value.size}" for name, value in params.items()) or "no dense vectors"
