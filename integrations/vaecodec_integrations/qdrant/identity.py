"""Prove that a collection was filled by the given codecs: the Qdrant identity check.

The identity of a codec lives in the collection's metadata, one key per compressed vector, so that several writers
can add vectors without overwriting each other's records (Qdrant merges metadata key by key).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from vaecodec.errors import CodecMismatchError, UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.codecs import Assigned, Codecs
from vaecodec_integrations.qdrant.layout import (
    DISTANCES,
    UNNAMED,
    CodedVector,
    Layout,
    Originals,
    dense_params,
    original_name,
)
from vaecodec_integrations.qdrant.versions import METADATA, first_version

METADATA_KEY = "vaecodec"


def metadata_key(name: str) -> str:
    """Return the metadata key of the compressed vector ``name``."""
    return f"{METADATA_KEY}:{name}" if name else METADATA_KEY


def vector_of_key(key: str) -> str:
    """Return the vector that a key of :func:`metadata_key` names."""
    return key.partition(":")[2]


def names_codec(key: str) -> bool:
    """Tell whether a metadata key is one of :func:`metadata_key`'s."""
    return key == METADATA_KEY or key.startswith(f"{METADATA_KEY}:")


def identity_record(
    codec: VectorCodec, originals: Originals, original: str | None, originals_id: str | None = None
) -> dict[str, Any]:
    """Return what the collection's metadata says about one compressed vector.

    Args:
        originals: where the originals are kept.
        original: the vector that holds them, if one does.
        originals_id: the id of the file that holds them, if one does.
    """
    return {
        "codec_id": codec.codec_id,
        "dim": codec.dim,
        "code_dim": codec.code_dim,
        "metric": str(codec.metric),
        "embedder": codec.embedder,
        "originals": str(originals),
        "original_vector": original,
        **({"originals_id": originals_id} if originals_id else {}),
    }


def is_own_key(key: str) -> bool:
    """Tell whether a metadata key was written by this package, so that a user of the client does not see it."""
    return names_codec(key) or key.startswith(f"{METADATA_KEY}-")


def read_layout(
    collection: str,
    info: models.CollectionInfo,
    codecs: Codecs,
    originals: Originals,
    *,
    trust: bool,
    originals_id: str | None = None,
) -> tuple[Layout, dict[str, Any]]:
    """Compare a collection with the codecs at hand.

    A vector with a record must have been filled by the codec that is given for it or, where none is, by another one
    of the client's. A vector without a record passes through as it is, unless it has the shape of latents.

    Args:
        originals_id: the id of the client's file of originals; None where it has none, or it is not known yet.

    Returns:
        The layout, and the identity records that the metadata lacks (empty when all are there or trusted). The
        caller may write them to an empty collection and must refuse a filled one.

    Raises:
        CodecMismatchError: another codec, width, distance or keeping of originals.
    """
    params = dense_params(info)
    assigned = codecs.of(collection, params)
    coded: dict[str, CodedVector] = {}
    missing: dict[str, Any] = {}
    unwritable = ""
    for name, found in params.items():
        record = record_of(collection, name, info)
        codec = _codec_of(collection, name, record, assigned, codecs)
        if codec is None:
            continue
        if record is None and not (trust or assigned.named) and not _holds_latents(found, codec):
            if found.size == codec.dim:
                unwritable = uncompressed(collection, name, codec)
            continue
        _check_params(collection, name, found, codec)
        if record is None:
            original = original_name(name) if originals is Originals.DISK else None
            if not trust:
                missing[metadata_key(name)] = identity_record(codec, originals, original, originals_id)
        else:
            check_record(collection, name, record, codec, originals, originals_id)
            original = record["original_vector"]
        coded[name] = _coded_vector(collection, params, CodedVector(name, codec, original=original), originals)
    hidden = {vector.original for vector in coded.values()}
    sparse = info.config.params.sparse_vectors or {}
    others = tuple(name for name in [*params, *sparse] if name not in coded and name not in hidden)
    plain = {name: params[name].size for name in others if name in params}
    return Layout(coded, others, unwritable or without_vector(collection, assigned, plain, list(params))), missing


def without_vector(collection: str, assigned: Assigned, plain: Mapping[str, int], vectors: Sequence[str]) -> str:
    """Return why a codec seems to be meant for a vector of another name; empty if none does.

    Args:
        collection: whose codecs these are.
        assigned: its codecs.
        plain: the sizes of the vectors that no codec compresses, by name.
        vectors: the names of all its dense vectors.
    """
    for name, codec in assigned.compressing.items():
        meant = [other for other, size in plain.items() if size == codec.dim and other not in assigned.by_vector]
        if name not in vectors and meant:
            return (
                f"collection {collection!r}: expected a vector {name!r} for the codec of that name, got "
                f"{', '.join(map(repr, vectors))}; vector {meant[0]!r} has the codec's width and would be stored "
                f"uncompressed. Open the client with codecs={{{meant[0]!r}: codec}}, or state that it stays as it is: "
                f"codecs={{{name!r}: codec, {meant[0]!r}: None}}"
            )
    return ""


def uncompressed(collection: str, name: str, codec: VectorCodec) -> str:
    """Return why the codec's collection cannot be written: its vectors are not compressed."""
    return (
        f"collection {collection!r}, vector {name!r}: expected compressed vectors of size {codec.code_dim}, got "
        f"uncompressed ones of size {codec.dim}; copy the collection with `vaecodec migrate`, or open it without this "
        f"codec, as by codecs={{{collection!r}: None, ...}}"
    )


def record_of(collection: str, name: str, info: models.CollectionInfo) -> Mapping[str, Any] | None:
    """Return the record of a vector, or None; anybody may have written to the metadata."""
    key = metadata_key(name)
    record: Any = (info.config.metadata or {}).get(key)
    if record is None:
        return None
    texts = ("codec_id", "embedder", "originals")
    whole = isinstance(record, Mapping) and all(isinstance(record.get(text), str) for text in texts)
    if not whole or not isinstance(record.get("original_vector", 0), str | None):
        raise CodecMismatchError(
            f"collection {collection!r}, vector {name!r}: expected the record of a codec in its metadata {key!r}, got "
            f"{str(record)[:80]!r}; write back what vaecodec wrote there, or migrate the collection again"
        )
    return dict(record)


def _codec_of(
    collection: str, name: str, record: Mapping[str, Any] | None, assigned: Assigned, codecs: Codecs
) -> VectorCodec | None:
    """Return the codec of a vector: the one given for it, or the one that its record names."""
    if record is None or name in assigned.by_vector:
        return assigned.by_vector.get(name)
    codec = codecs.of_record(record)
    if codec is None:
        raise CodecMismatchError(
            f"collection {collection!r}, vector {name!r}: expected the codec {str(record.get('codec_id'))[:12]} "
            f"({record.get('embedder') or 'unnamed embedder'}), which compressed it, got a client without it; open the "
            f"client with that codec, or pass the vector on as it is stored: codecs={{{name!r}: None, ...}}"
        )
    return codec


def _holds_latents(params: models.VectorParams, codec: VectorCodec) -> bool:
    return (params.size, params.distance) == (codec.code_dim, DISTANCES[codec.latent_metric])


def _coded_vector(
    collection: str, params: Mapping[str, models.VectorParams], vector: CodedVector, originals: Originals
) -> CodedVector:
    """Return a compressed vector of the collection, with its originals if the record names them."""
    name, original, dim = vector.name, vector.original, vector.codec.dim
    if original is not None and (original not in params or params[original].size != dim):
        raise CodecMismatchError(
            f"collection {collection!r}: expected the originals of vector {name!r} in a vector {original!r} of "
            f"size {dim}, got {_sizes(params)}; create the collection through this client"
        )
    multi = params[name].multivector_config is not None
    if multi and originals is Originals.FILE:
        raise UnsupportedRequestError(
            f"collection {collection!r}: vector {name!r} is a multivector, and a file of originals holds one row "
            "per point; keep the originals on disk: originals='disk'"
        )
    return replace(vector, multi=multi)


def _check_params(collection: str, name: str, params: models.VectorParams, codec: VectorCodec) -> None:
    where = f"collection {collection!r}, vector {name!r}"
    if params.size == codec.dim and codec.dim != codec.code_dim:
        raise CodecMismatchError(uncompressed(collection, name, codec))
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
    collection: str,
    name: str,
    record: Mapping[str, Any],
    codec: VectorCodec,
    originals: Originals,
    originals_id: str | None = None,
) -> None:
    """Raise ``CodecMismatchError`` unless the record names this codec and this place of originals."""
    where = f"collection {collection!r}, vector {name!r}"
    if record["codec_id"] != codec.codec_id:
        raise CodecMismatchError(
            f"{where}: expected codec {codec.codec_id[:12]} ({codec.embedder or 'unnamed embedder'}), got a collection "
            f"filled by codec {record['codec_id'][:12]} ({record['embedder'] or 'unnamed embedder'}); open it with "
            "that codec, or migrate the collection"
        )
    if originals is not Originals.NONE and record["embedder"] != codec.embedder:  # only possible across a bridge
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
    if originals_id is not None and record.get("originals_id") != originals_id:
        raise CodecMismatchError(
            f"{where}: expected a collection whose originals are in the file with the id {originals_id}, got one "
            f"whose originals are in the file {record.get('originals_id')}; open the client with that file"
        )


def no_identity(collection: str, missing: Mapping[str, Any]) -> CodecMismatchError:
    """Return the error for a filled collection whose metadata names no codec."""
    return CodecMismatchError(
        f"collection {collection!r}: expected the codec's id in its metadata ({', '.join(map(repr, missing))}), got "
        "points but no id; if its vectors were made by this codec, open it with trust=True, otherwise copy it with "
        "`vaecodec migrate`"
    )


def metadata_not_kept(collection: str) -> CodecMismatchError:
    """Return the error for a server that drops collection metadata."""
    return CodecMismatchError(
        f"collection {collection!r}: the server did not keep the collection's metadata (Qdrant does from version "
        f"{first_version(METADATA)} on); upgrade it, or open the collection with trust=True and see to it that one "
        "codec is used"
    )


def logical_info(info: models.CollectionInfo, layout: Layout) -> models.CollectionInfo:
    """Return the collection as a user of the client sees it: original sizes and distances, only metadata of the user's
    own.

    Kept originals are not listed. Frameworks compare sizes with their embedding model before they use a collection.
    """
    own = {key: value for key, value in (info.config.metadata or {}).items() if not is_own_key(key)}
    if not layout.coded and own == (info.config.metadata or {}):
        return info
    params = dense_params(info)
    seen = {
        name: params[name].model_copy(
            update={"size": layout.coded[name].codec.dim, "distance": DISTANCES[layout.coded[name].codec.metric]}
        )
        if name in layout.coded
        else params[name]
        for name in params
        if name in layout.coded or name in layout.others
    }
    vectors: Any = seen[UNNAMED] if list(seen) == [UNNAMED] else seen
    config = info.config.model_copy(
        update={
            "params": info.config.params.model_copy(update={"vectors": vectors if params else None}),
            "metadata": own or None,
        },
    )
    return info.model_copy(update={"config": config})


def _sizes(params: Mapping[str, models.VectorParams]) -> str:
    return ", ".join(f"{name!r} of size {value.size}" for name, value in params.items()) or "no dense vectors"
