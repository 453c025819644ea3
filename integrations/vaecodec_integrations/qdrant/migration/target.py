"""Check the two ends of a migration, and create the target."""

from __future__ import annotations

from typing import Any

from qdrant_client import QdrantClient, models

from vaecodec.errors import CodecMismatchError, MigrationError
from vaecodec_integrations.qdrant.codecs import Codecs
from vaecodec_integrations.qdrant.config import recommended_config
from vaecodec_integrations.qdrant.connection import collection_info
from vaecodec_integrations.qdrant.identity import (
    check_record,
    identity_record,
    metadata_key,
    names_codec,
    no_identity,
    read_layout,
    record_of,
)
from vaecodec_integrations.qdrant.layout import DISTANCES, Originals, dense_params
from vaecodec_integrations.qdrant.migration.job import Migration, vector_names
from vaecodec_integrations.qdrant.originals import Owner
from vaecodec_integrations.qdrant.versions import METADATA, VECTOR_NAMES, check_server, features

# Key in the target's metadata. It holds the source's name, so that no other collection's points are removed from the
# target, and where the alias pointed before, so that a rollback needs the target's name only.
MIGRATION_KEY = "vaecodec-migration"


def migration_record(client: QdrantClient, target: str) -> dict[str, Any]:
    """Return the record of the migration that made a collection; empty if none did."""
    record = (collection_info(client, target).config.metadata or {}).get(MIGRATION_KEY) or {}
    if not isinstance(record, dict) or (record and not isinstance(record.get("source"), str)):
        raise MigrationError(
            f"collection {target!r}: expected the record of a migration in its metadata {MIGRATION_KEY!r}, got "
            f"{str(record)[:80]!r}; write back what vaecodec wrote there, or name a new collection"
        )
    return record


# ---------------------------------------------------------------- checks


def check_source(migration: Migration) -> models.VectorParams:
    """Return the parameters of the vector to compress; raise when the source cannot be migrated."""
    info = collection_info(migration.client, migration.collection)
    aliased = {a.alias_name: a.collection_name for a in migration.client.get_aliases().aliases}
    if migration.collection in aliased:  # an alias may point at another collection later
        raise MigrationError(
            f"collection: expected the name of a collection, got the alias {migration.collection!r}; name the "
            f"collection {aliased[migration.collection]!r} itself"
        )
    if info.config.params.sharding_method == models.ShardingMethod.CUSTOM:
        raise MigrationError(
            f"collection {migration.collection!r}: expected automatic sharding, got custom shard keys; migrate it "
            "by reading each shard key and writing it through CompressedQdrantClient"
        )
    params = dense_params(info)
    if migration.vector not in params:
        names = ", ".join(map(repr, params)) or "none"
        raise MigrationError(
            f"collection {migration.collection!r}: expected a dense vector {migration.vector!r}, got {names}"
        )
    found = params[migration.vector]
    _check_vector(migration, info, found)
    original = migration.translation.coded[migration.vector].original
    if original is not None and original in vector_names(info):
        raise MigrationError(
            f"collection {migration.collection!r}: expected the name {original!r} to be free for the originals, got a "
            "vector of that name; keep the originals in a file"
        )
    return found


def _check_vector(migration: Migration, info: models.CollectionInfo, found: models.VectorParams) -> None:
    codec, where = migration.codec, f"collection {migration.collection!r}, vector {migration.vector!r}"
    if found.distance not in DISTANCES.values():
        *others, last = (distance.value for distance in DISTANCES.values())
        raise MigrationError(
            f"{where}: expected distance {', '.join(others)} or {last}, got {found.distance.value}, which no codec "
            "supports"
        )
    if (found.size, found.distance) != (codec.dim, DISTANCES[codec.metric]):
        raise CodecMismatchError(
            f"{where}: expected size {codec.dim} and distance {DISTANCES[codec.metric]}, as the codec's embeddings "
            f"have, got size {found.size} and distance {found.distance}"
        )
    record = record_of(migration.collection, migration.vector, info)
    if record is not None:
        raise MigrationError(
            f"{where}: expected uncompressed vectors, got latents of codec {record['codec_id'][:12]}; migrate the "
            "vectors that these were made from"
        )
    if found.multivector_config is not None and migration.named is not None:
        raise MigrationError("named: expected a plain vector, got a multivector; migrate it into a new collection")
    if found.multivector_config is not None and migration.originals is Originals.FILE:
        raise MigrationError(
            f"collection {migration.collection!r}: vector {migration.vector!r} is a multivector, and a file of "
            "originals holds one row per point; keep the originals on disk"
        )


def check_target(migration: Migration) -> None:
    """Refuse a target that something else made, or that the server is too old for.

    Nothing is written, neither to the server nor to the file.
    """
    check_server(migration.client, _needed(migration))
    if migration.named is not None:
        _check_named_vector(migration, migration.named)
    elif migration.client.collection_exists(migration.target):
        _check_collection(migration, migration.target)


def _needed(migration: Migration) -> list[str]:
    """Return what the server must know, of :data:`~vaecodec_integrations.qdrant.versions.FIRST_VERSIONS`."""
    if migration.named is not None:
        return [METADATA, VECTOR_NAMES]
    if migration.code_bytes is None:
        return [METADATA]
    wanted = recommended_config(migration.codec, bytes=migration.code_bytes)
    return [METADATA, *features([wanted["vectors_config"]], wanted.get("quantization_config"))]


def _check_named_vector(migration: Migration, named: str) -> None:
    info = migration.client.get_collection(migration.collection)
    known = record_of(migration.collection, named, info)
    if known is not None:
        check_record(migration.collection, named, known, migration.codec, migration.originals)
    elif named in vector_names(info):
        raise MigrationError(f"named: expected a new vector name, got {named!r}, which is taken")


def _check_collection(migration: Migration, into: str) -> None:
    client = migration.client
    info, source = client.get_collection(into), client.get_collection(migration.collection)
    record = migration_record(client, into)
    check_is_not_live(client, migration.collection, into)
    if record.get("source") != migration.collection and (record or client.count(into, exact=True).count):
        # Otherwise all other points would be removed from it.
        found = f"those of {record['source']!r}" if record else "points of no migration"
        raise MigrationError(
            f"into: expected a new or an empty collection, or one with the points of {migration.collection!r}, got "
            f"{into!r} with {found}; name another one"
        )
    _check_share_removed(migration, into)
    lacking = [name for name in vector_names(source) if name not in vector_names(info)]
    if lacking:
        raise MigrationError(
            f"into: expected a collection with the vectors of {migration.collection!r}, got {into!r}, which lacks "
            f"{', '.join(map(repr, lacking))}; name a new collection"
        )
    codecs = Codecs(codecs={into: {**dict.fromkeys(migration.others), migration.vector: migration.codec}})
    _, missing = read_layout(into, info, codecs, migration.originals, trust=False)
    if missing and client.count(into, exact=True).count:
        raise no_identity(into, missing)
    for key, expected in _inherited(migration).items():
        there = (info.config.metadata or {}).get(key, expected)
        if there != expected:
            raise CodecMismatchError(
                f"collection {into!r}, metadata {key!r}: expected {expected}, as in {migration.collection!r}, got "
                f"{there}; name a new collection"
            )


def check_is_not_live(client: QdrantClient, collection: str, into: str) -> None:
    """Refuse a target that applications search or searched: what they wrote to it is not in the source."""
    record = migration_record(client, into)
    serving = sorted(a.alias_name for a in client.get_aliases().aliases if a.collection_name == into)
    if not serving and not record.get("switched"):
        return
    if serving and record.get("alias") in serving and not record.get("switched"):
        # Finish a switch that was interrupted after its alias had moved.
        client.update_collection(into, metadata={MIGRATION_KEY: {**record, "switched": True}})
    found = f"serves the alias {', '.join(map(repr, serving))}" if serving else "served an alias before"
    raise _live(collection, into, found, f"To search {collection!r} again, run `vaecodec rollback`.")


def check_is_not_written(migration: Migration, left: int | None) -> None:
    """Refuse a target that has more points than the last whole run left: only an application can have written them."""
    client, into = migration.client, migration.into
    if into is None or left is None or not client.collection_exists(into):
        return
    points = client.count(into, exact=True).count
    if points > left:
        found = f"holds {points:,} points where the last run left {left:,}"
        way = f"To bring it up to date all the same, remove {migration.state}."
        raise _live(migration.collection, into, found, way)


def _live(collection: str, into: str, found: str, way: str) -> MigrationError:
    return MigrationError(
        f"into: expected a collection that only this migration writes to, got {into!r}, which {found}: bringing it up "
        f"to date with {collection!r} would delete what was written to it since. If {into!r} is the one to "
        f"keep, write to it and leave it as it is. {way} "
        f"To compress {collection!r} as it is now, name a new collection"
    )


def _check_share_removed(migration: Migration, into: str) -> None:
    """Refuse a source that lost most of its points: it is more likely the wrong one than up to date."""
    points = [migration.client.count(name, exact=True).count for name in (migration.collection, into)]
    if 2 * points[0] < points[1]:
        raise MigrationError(
            f"into: expected {migration.collection!r} to hold at least half as many points as its copy {into!r}, got "
            f"{points[0]:,} and {points[1]:,}: the copy would lose the others. If that is right, name a new collection"
        )


# ---------------------------------------------------------------- creation


def prepare_target(migration: Migration) -> None:
    """Create what is not there yet; everything here may have been done by an interrupted run."""
    compressed = migration.compressed  # this opens the file of originals, which may also be refused
    if migration.named is not None:
        _add_vector(migration, migration.named)
    elif not migration.client.collection_exists(migration.target):
        compressed.create_collection(migration.target, **_settings(migration))
    # This checks that the target, old or new, was made by this codec and with these originals.
    compressed.get_collection(migration.target)
    if migration.into is not None:
        _complete(migration, migration.into)


def _add_vector(migration: Migration, named: str) -> None:
    client, codec = migration.client, migration.codec
    original = migration.vector if migration.originals is Originals.DISK else None
    if migration.file is not None:
        migration.file.claim(Owner(migration.collection, named, codec.codec_id))
    info = client.get_collection(migration.collection)
    if metadata_key(named) not in (info.config.metadata or {}):
        originals_id = None if migration.file is None else migration.file.id
        record = identity_record(codec, migration.originals, original, originals_id)
        client.update_collection(migration.collection, metadata={metadata_key(named): record})
    if named not in dense_params(info):
        dense = models.DenseVectorConfig(
            size=codec.code_dim,
            distance=DISTANCES[codec.latent_metric],
            datatype=None if migration.datatype is None else models.VectorStorageDatatype(migration.datatype.value),
        )
        client.create_vector_name(migration.collection, named, models.DenseVectorNameConfig(dense=dense))


def _complete(migration: Migration, into: str) -> None:
    """Add the migration's claim to the target, the codecs of vectors copied as they are, and payload indexes.

    The client of this one codec would refuse to write the records of the other codecs.
    """
    client = migration.client
    records = {MIGRATION_KEY: {"source": migration.collection}, **_inherited(migration)}
    target = client.get_collection(into)
    missing = {key: record for key, record in records.items() if key not in (target.config.metadata or {})}
    if missing:
        client.update_collection(into, metadata=missing)
    for key, index in client.get_collection(migration.collection).payload_schema.items():
        if key not in target.payload_schema:
            client.create_payload_index(into, key, field_schema=index.params or index.data_type)


def _inherited(migration: Migration) -> dict[str, dict[str, Any]]:
    """Return the source's records of vectors that it holds compressed already."""
    info = migration.client.get_collection(migration.collection)
    known = {name: record_of(migration.collection, name, info) for name in migration.others}
    records = {metadata_key(name): record for name, record in known.items() if record is not None}
    # A vector that served as another one's original is compressed in the copy, or kept there under another name.
    kept = migration.translation.coded[migration.vector].original
    now = {"originals": str(Originals.DISK if kept else Originals.NONE), "original_vector": kept}
    return {
        key: {**record, **now} if record["original_vector"] == migration.vector else dict(record)
        for key, record in records.items()
    }


def _settings(migration: Migration) -> dict[str, Any]:
    """Return the source's own parameters as arguments of ``create_collection``."""
    info = migration.client.get_collection(migration.collection)
    config, params = info.config, info.config.params
    vectors = dense_params(info)
    vectors[migration.vector] = vectors[migration.vector].model_copy(update={"datatype": migration.datatype})
    quantised = config.quantization_config
    if migration.code_bytes is not None:
        # With code_bytes each vector gets settings of its own, so write down those that the others have now.
        for name, other in vectors.items():
            vectors[name] = other.model_copy(update={"quantization_config": other.quantization_config or quantised})
        wanted = recommended_config(migration.codec, bytes=migration.code_bytes)
        changed = {
            "quantization_config": wanted.get("quantization_config"),
            "on_disk": wanted["vectors_config"].on_disk,
        }
        vectors[migration.vector] = vectors[migration.vector].model_copy(update=changed)
        quantised = None

    def diff(model: type[Any], value: Any) -> Any:
        if value is None:
            return None
        known = {k: v for k, v in value.model_dump(exclude_none=True).items() if k in model.model_fields}
        return model(**known)

    return {
        "vectors_config": vectors,
        "sparse_vectors_config": params.sparse_vectors,
        "shard_number": params.shard_number,
        "replication_factor": params.replication_factor,
        "write_consistency_factor": params.write_consistency_factor,
        "on_disk_payload": params.on_disk_payload,
        # Before 1.20 the client does not know all of these.
        **{name: getattr(params, name) for name in ("payload", "id_tracker") if hasattr(params, name)},
        "hnsw_config": diff(models.HnswConfigDiff, config.hnsw_config),
        "optimizers_config": diff(models.OptimizersConfigDiff, config.optimizer_config),
        "wal_config": diff(models.WalConfigDiff, config.wal_config),
        "quantization_config": quantised,
        "strict_mode_config": diff(models.StrictModeConfig, config.strict_mode_config),
        "metadata": {
            **{key: value for key, value in (config.metadata or {}).items() if not names_codec(key)},
            MIGRATION_KEY: {"source": migration.collection},
        },
    }
