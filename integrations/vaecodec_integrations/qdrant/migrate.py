"""Compress a live collection: copy it, catch up with what was written meanwhile, compare, switch an alias.

The source is only read. Every step may be interrupted at any moment and run again: points are copied in the order of
their ids, in batches that a state file counts, and writing a batch twice leaves what writing it once does.

Catching up: writes go on to the source only. Each run ends by comparing all points of both sides and repairing what
differs, so run again until nothing did; with writes paused, the last run may switch the alias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from vaecodec.errors import CodecMismatchError, MigrationError
from vaecodec.files import write_atomically
from vaecodec.interface import Metric, VectorCodec
from vaecodec.vectors import as_vectors
from vaecodec_integrations.qdrant.client import CompressedQdrantClient
from vaecodec_integrations.qdrant.comparison import Comparison
from vaecodec_integrations.qdrant.identity import (
    check_record,
    identity_record,
    metadata_key,
    names_codec,
    no_identity,
    read_layout,
)
from vaecodec_integrations.qdrant.layout import (
    DISTANCES,
    UNNAMED,
    CodedVector,
    Layout,
    Originals,
    dense_params,
    original_name,
)
from vaecodec_integrations.qdrant.originals import Float16Rows, OriginalsFile, RowEncoding
from vaecodec_integrations.qdrant.settings import KeptOriginals
from vaecodec_integrations.qdrant.vectors import encode_vectors

# In the target's metadata: which collection it was made from, so that points of another one are never removed from it,
# and what the alias pointed at, so that rolling back needs nothing but the target's name.
MIGRATION_KEY = "vaecodec-migration"

STATE_VERSION = 1

# Relative distance beyond which two stored vectors differ: above the storage's rounding (measured on the engine, where
# turbo4 moves a vector by a tenth and seldom by a third), and but for turbo4 below any real change.
SAME_VECTOR = {models.Datatype.TURBO4: 0.35, models.Datatype.TURBO8: 2e-2}
SAME_FLOATS = 1e-2

# Bits of a stored number.
_BITS = {
    models.Datatype.FLOAT32: 32,
    models.Datatype.FLOAT16: 16,
    models.Datatype.UINT8: 8,
    models.Datatype.TURBO16: 16,
    models.Datatype.TURBO8: 8,
    models.Datatype.TURBO4: 4,
}

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Migration:
    """What goes where.

    Attributes:
        client: the uncompressed client; source and target live on the same server.
        collection: the source.
        codec: compresses the source's vector ``vector``.
        state: a JSON file that remembers how far the copy came.
        into: the name of a new collection, or of an empty one that the codec's client created; exactly one of ``into``
            and ``named`` is given.
        named: the name of a new vector in the source collection itself.
        vector: the source's vector to compress, empty for the unnamed one.
        originals: where the uncompressed vectors are kept for re-ranking; with ``named`` and ``"disk"`` the source's
            own vector serves as the original.
        originals_path: the file of originals, where they are kept in one.
        originals_encoding: how that file stores a vector; by default in half precision.
        batch_size: points read, encoded and written at a time.
    """

    client: QdrantClient
    collection: str
    codec: VectorCodec
    state: Path
    into: str | None = None
    named: str | None = None
    vector: str = UNNAMED
    originals: Originals = Originals.NONE
    originals_path: Path | None = None
    originals_encoding: RowEncoding | None = None
    batch_size: int = 1000

    def __post_init__(self) -> None:
        """Refuse arguments that contradict each other."""
        if (self.into is None) == (self.named is None):
            raise MigrationError("into, named: expected one, a new collection or a new vector, got both or none")
        if (self.originals is Originals.FILE) != (self.originals_path is not None):
            raise MigrationError("originals_path: expected a path exactly when originals are kept in a file")
        if self.into == self.collection or self.named == self.vector:
            raise MigrationError("into, named: expected a name of its own for the compressed vectors, got the source's")

    @property
    def target(self) -> str:
        """The collection that holds the compressed vectors."""
        return self.collection if self.into is None else self.into

    @property
    def target_vector(self) -> str:
        """The name of the compressed vector."""
        return self.vector if self.named is None else self.named

    @cached_property
    def file(self) -> OriginalsFile | None:
        """The open file of originals."""
        if self.originals_path is None:
            return None
        return OriginalsFile(self.originals_path, self.codec.dim, encoding=self.originals_encoding)

    def close(self) -> None:
        """Release the file of originals; the client stays open."""
        if self.file is not None:
            self.file.close()

    @cached_property
    def compressed(self) -> CompressedQdrantClient:
        """The target as an application will open it."""
        kept: KeptOriginals = "disk" if self.originals is Originals.DISK else self.file
        return CompressedQdrantClient(self.client, codecs={self.target_vector: self.codec}, originals=kept)

    @cached_property
    def _params(self) -> dict[str, models.VectorParams]:
        return dense_params(self.client.get_collection(self.collection))

    def as_written(self, vector: Any) -> Any:
        """A vector as it was read in the form it can be written.

        A point that has only the unnamed vector of several reads back as a plain list, which a collection of several
        vectors does not take.
        """
        return _named(vector) if len(self._params) > 1 else vector or {}

    @property
    def others(self) -> list[str]:
        """The source's dense vectors that are copied as they are."""
        return [name for name in self._params if name != self.vector]

    @cached_property
    def multi(self) -> bool:
        """Whether a point of the source holds several rows under the vector's name."""
        return self._params[self.vector].multivector_config is not None

    @cached_property
    def datatype(self) -> models.Datatype | None:
        """How the latents are stored: as the source's vectors are, but not as uint8, which would cut them to zero."""
        datatype = self._params[self.vector].datatype
        return None if datatype is models.Datatype.UINT8 else datatype

    @cached_property
    def tolerances(self) -> dict[str, float]:
        """By vector of the target, how far it may be from what was written there; see :data:`SAME_VECTOR`."""
        datatypes = {name: params.datatype for name, params in self._params.items()}
        datatypes[self.target_vector] = self.datatype
        return {name: SAME_VECTOR.get(d, SAME_FLOATS) if d else SAME_FLOATS for name, d in datatypes.items()}

    @cached_property
    def translation(self) -> Layout:
        """How the source's vectors become the target's."""
        keeps = self.originals is Originals.DISK and self.into is not None
        original = original_name(self.vector) if keeps else None
        return Layout({self.vector: CodedVector(self.vector, self.codec, self.multi, original)})


@dataclass(frozen=True)
class Estimate:
    """What a migration will do, before it does anything. Bytes are of the vectors alone, without graph or payload."""

    points: int
    source_bytes: int
    target_bytes: int
    originals_bytes: int


@dataclass(frozen=True)
class Outcome:
    """What a run did and found.

    Attributes:
        copied: points copied by this run.
        repaired: points that differed when both sides were compared, and were written again.
        removed: points that the source no longer had.
        source_points: exact count at the end.
        target_points: exact count at the end.
        recall_before: share of the exact top 10 that searching the source returns, over a sample of its own vectors;
            1 in local mode, which always searches exactly; None where no sampled vector has a neighbour, as in an
            empty collection, and then all three are.
        recall_latents: the same for exact search over the latents that the target holds, so that what is missing was
            lost by the codec and, little, by the target's datatype; None for multivectors.
        recall_after: the same for searching the target as an application does, re-ranked where originals are kept;
            in local mode without originals it is ``recall_latents``.
        queries: size of that sample.
    """

    copied: int
    repaired: int
    removed: int
    source_points: int
    target_points: int
    recall_before: float | None
    recall_latents: float | None
    recall_after: float | None
    queries: int

    @property
    def settled(self) -> bool:
        """Whether both sides agreed without repairs, so that the alias may be switched."""
        return not (self.repaired or self.removed) and self.source_points == self.target_points


def estimate(migration: Migration) -> Estimate:
    """The size of the migration; raises as :func:`migrate` does when it cannot be done."""
    params = _source_params(migration)
    _check_target(migration)
    points = migration.client.count(migration.collection, exact=True).count
    bits = _BITS[params.datatype or models.Datatype.FLOAT32]
    latent_bits = _BITS[migration.datatype or models.Datatype.FLOAT32]
    row_bytes = 0
    if migration.originals is Originals.FILE:
        row_bytes = (migration.originals_encoding or Float16Rows(migration.codec.dim)).row_bytes
    elif migration.originals is Originals.DISK and migration.into is not None:
        row_bytes = 2 * migration.codec.dim
    return Estimate(
        points=points,
        source_bytes=points * bits * migration.codec.dim // 8,
        target_bytes=points * latent_bits * migration.codec.code_dim // 8,
        originals_bytes=points * row_bytes,
    )


def migrate(migration: Migration, *, advance: Advance = lambda _: None, sample: int = 100) -> Outcome:
    """Copy what is not copied yet, repair what differs, and compare searches.

    Args:
        advance: called with the number of points just done; each point counts twice, once when it is copied (or was
            by an earlier run) and once when it is compared.
        sample: how many of the source's vectors are searched for on both sides.

    Raises:
        MigrationError: the source cannot be migrated as asked, the target holds something else, or the state file
            belongs to another migration.
        CodecMismatchError: the codec does not fit the source, or another codec filled the target.
    """
    _source_params(migration)
    progress = _load_state(migration)
    _check_target(migration)
    _prepare_target(migration)
    advance(progress.copied)
    before = progress.copied
    while not progress.done:
        advance(_copy_page(migration, progress))
    comparison = Comparison(migration, sample)
    # Mapped, not looped over: a loop would keep one page, megabytes of Python floats, while the next one is read.
    pages = _pages(migration, migration.collection, with_vectors=_read_selection(migration))
    repaired = sum(map(partial(_repair_page, migration, comparison, advance), pages))
    removed = sum(_remove_stray(migration))
    recalls = comparison.recalls()
    source_points = migration.client.count(migration.collection, exact=True).count
    return Outcome(
        copied=progress.copied - before,
        repaired=repaired,
        removed=removed,
        source_points=source_points,
        target_points=source_points
        if migration.into is None
        else migration.client.count(migration.into, exact=True).count,
        recall_before=recalls.before,
        recall_latents=recalls.latents,
        recall_after=recalls.after,
        queries=recalls.queries,
    )


def check_alias(client: QdrantClient, collection: str, into: str | None, alias: str) -> None:
    """Whether the alias could be pointed at the target; costs nothing, so that it is known before the work.

    Args:
        client: the uncompressed client.
        collection: the source.
        into: the target.
        alias: what applications search by.

    Raises:
        MigrationError: the migration adds a vector to the source, so there is nothing to switch to; a collection bears
            the alias's name; the alias serves a collection that this migration has nothing to do with; or another
            alias was switched to the target already, and rolling back remembers one.
    """
    if into is None:
        raise MigrationError("alias: expected a migration into a new collection, got one into a named vector")
    collections = {description.name for description in client.get_collections().collections}
    if alias in collections | {into}:
        raise MigrationError(
            f"alias: expected a name that no collection bears, got {alias!r}; let the application use an alias, "
            f"or open {into!r} by its own name"
        )
    current = _alias_target(client, alias)
    if current not in (None, collection, into):
        raise MigrationError(
            f"alias: expected one that is free or points at {collection!r}, got {alias!r}, which points at "
            f"{current!r}; name another alias, or point this one at {collection!r} first"
        )
    switched = _record(client, into).get("alias") if into in collections else None
    if switched not in (None, alias) and _alias_target(client, switched) == into:
        raise MigrationError(
            f"alias: expected {switched!r}, which was switched to {into!r} already, got {alias!r}; roll back first, or "
            f"point {alias!r} at {into!r} yourself"
        )


def switch_alias(migration: Migration, alias: str) -> None:
    """Point an alias at the target in one atomic step, and remember where it pointed.

    Raises:
        MigrationError: as :func:`check_alias` does.
    """
    check_alias(migration.client, migration.collection, migration.into, alias)
    previous = _alias_target(migration.client, alias)
    if previous != migration.target:
        record = {"source": migration.collection, "alias": alias, "previous": previous}
        migration.client.update_collection(migration.target, metadata={MIGRATION_KEY: record})
    migration.client.update_collection_aliases(_pointing(alias, migration.target, previous))


def roll_back(client: QdrantClient, collection: str, *, into: str | None = None, named: str | None = None) -> str:
    """Undo a migration; the source is left as it is.

    After ``into``, the alias points again where it did before the switch, atomically; the compressed collection
    stays, so that nothing written to it is lost. After ``named``, the added vector and its identity are removed.

    Args:
        collection: the source.

    Returns:
        What was done, in one sentence.

    Raises:
        MigrationError: there is no such migration, or the alias was pointed elsewhere since; nothing is changed.
    """
    if named is not None:
        info = client.get_collection(collection)
        if metadata_key(named) not in (info.config.metadata or {}):
            raise MigrationError(f"collection {collection!r}: expected a compressed vector {named!r}, got none")
        if named in dense_params(info):
            client.delete_vector_name(collection, named)
        client.update_collection(collection, metadata={metadata_key(named): None})
        return f"Removed the vector {named!r} from {collection!r}."
    if into is None:
        raise MigrationError("into, named: expected the name of what the migration made, got neither")
    record = _record(client, into)
    if record.get("source") != collection or "alias" not in record:
        raise MigrationError(f"collection {into!r}: expected a switch from {collection!r} to undo, got none")
    alias, previous = record["alias"], record["previous"]
    current = _alias_target(client, alias)
    if current not in (into, previous):  # at `previous` it is after a rollback that was interrupted
        now = "points at nothing now" if current is None else f"points at {current!r} now"
        raise MigrationError(
            f"alias {alias!r}: expected it to point at {into!r}, but it {now}; nothing changed, "
            f"point it at {previous or collection!r} yourself if that shall be served again"
        )
    client.update_collection_aliases(_pointing(alias, previous, current))
    client.update_collection(into, metadata={MIGRATION_KEY: {"source": collection}})
    where = f"points at {previous!r} again" if previous else "is removed, as there was none before"
    return f"The alias {alias!r} {where}; {into!r} is kept."


def training_rows(client: QdrantClient, collection: str, vector: str, path: Path) -> Metric:
    """Write a collection's vectors to a ``.npy`` file, float32 (n, dim), in constant memory.

    Returns:
        How the collection compares them.

    Raises:
        MigrationError: there is no such dense vector, or no codec can keep its distance.
    """
    params = dense_params(client.get_collection(collection)).get(vector)
    if params is None or params.multivector_config is not None:
        got = "none" if params is None else "a multivector"
        raise MigrationError(f"collection {collection!r}: expected a plain dense vector {vector!r}, got {got}")
    _check_distance(collection, vector, params)
    expected = client.count(collection, exact=True).count
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (expected, params.size))
    filled, offset = 0, None
    while filled < expected:
        records, offset = client.scroll(
            collection, limit=1000, offset=offset, with_payload=False, with_vectors=[vector]
        )
        found = [_named(record.vector)[vector] for record in records if vector in _named(record.vector)]
        found = found[: expected - filled]  # points may have come since they were counted
        rows[filled : filled + len(found)] = np.array(found, np.float32).reshape(-1, params.size)
        filled += len(found)
        if offset is None:
            break
    rows.flush()
    if filled < expected:
        np.save(path.with_suffix(".cut.npy"), rows[:filled])
        path.with_suffix(".cut.npy").replace(path)
    return next(metric for metric, distance in DISTANCES.items() if distance == params.distance)


# ---------------------------------------------------------------- the two ends


def _check_distance(collection: str, vector: str, params: models.VectorParams) -> None:
    if params.distance not in DISTANCES.values():
        *others, last = (distance.value for distance in DISTANCES.values())
        raise MigrationError(
            f"collection {collection!r}, vector {vector!r}: expected distance {', '.join(others)} or {last}, got "
            f"{params.distance.value}, which no codec supports"
        )


def _source_params(migration: Migration) -> models.VectorParams:
    """The vector to compress; raises when the source cannot be migrated."""
    info = migration.client.get_collection(migration.collection)
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
    found, codec = params[migration.vector], migration.codec
    _check_distance(migration.collection, migration.vector, found)
    if (found.size, found.distance) != (codec.dim, DISTANCES[codec.metric]):
        raise CodecMismatchError(
            f"collection {migration.collection!r}, vector {migration.vector!r}: expected size {codec.dim} and distance "
            f"{DISTANCES[codec.metric]}, as the codec's embeddings have, got size {found.size} and distance "
            f"{found.distance}"
        )
    record = (info.config.metadata or {}).get(metadata_key(migration.vector))
    if record is not None:
        raise MigrationError(
            f"collection {migration.collection!r}, vector {migration.vector!r}: expected uncompressed vectors, got "
            f"latents of codec {record['codec_id'][:12]}; migrate the vectors that these were made from"
        )
    if found.multivector_config is not None and migration.named is not None:
        raise MigrationError("named: expected a plain vector, got a multivector; migrate it into a new collection")
    if found.multivector_config is not None and migration.originals is Originals.FILE:
        raise MigrationError(
            f"collection {migration.collection!r}: vector {migration.vector!r} is a multivector, and a file of "
            "originals holds one row per point; keep the originals on disk"
        )
    original = migration.translation.coded[migration.vector].original
    if original is not None and original in _vector_names(info):
        raise MigrationError(
            f"collection {migration.collection!r}: expected the name {original!r} to be free for the originals, got a "
            "vector of that name; keep the originals in a file"
        )
    return found


def _check_target(migration: Migration) -> None:
    """Refuse a target that something else made; nothing is written, neither to the server nor to the file."""
    client, codec, originals = migration.client, migration.codec, migration.originals
    if migration.named is not None:
        info = client.get_collection(migration.collection)
        known = (info.config.metadata or {}).get(metadata_key(migration.named))
        if known is not None:
            check_record(migration.collection, migration.named, known, codec, originals)
        elif migration.named in _vector_names(info):
            raise MigrationError(f"named: expected a new vector name, got {migration.named!r}, which is taken")
        return
    into = migration.target
    if not client.collection_exists(into):
        return
    info, source = client.get_collection(into), client.get_collection(migration.collection)
    record = _record(client, into)
    if record.get("source") != migration.collection and (record or client.count(into, exact=True).count):
        # All other points would be removed from it.
        found = f"those of {record['source']!r}" if record else "points of no migration"
        raise MigrationError(
            f"into: expected a new or an empty collection, or one with the points of {migration.collection!r}, got "
            f"{into!r} with {found}; name another one"
        )
    lacking = [name for name in _vector_names(source) if name not in _vector_names(info)]
    if lacking:
        raise MigrationError(
            f"into: expected a collection with the vectors of {migration.collection!r}, got {into!r}, which lacks "
            f"{', '.join(map(repr, lacking))}; name a new collection"
        )
    _, missing = read_layout(into, info, {migration.vector: codec}, originals, trust=False)
    if missing and client.count(into, exact=True).count:
        raise no_identity(into, missing)
    for key, expected in _inherited(migration).items():
        there = (info.config.metadata or {}).get(key, expected)
        if there != expected:
            raise CodecMismatchError(
                f"collection {into!r}, metadata {key!r}: expected {expected}, as in {migration.collection!r}, got "
                f"{there}; name a new collection"
            )


def _prepare_target(migration: Migration) -> None:
    """Create what is not there yet; everything here may have been done by an interrupted run."""
    client, codec = migration.client, migration.codec
    compressed = migration.compressed  # opens the file of originals, which may be refused, too
    if migration.named is not None:
        original = migration.vector if migration.originals is Originals.DISK else None
        info = client.get_collection(migration.collection)
        if metadata_key(migration.named) not in (info.config.metadata or {}):
            record = identity_record(codec, migration.originals, original)
            client.update_collection(migration.collection, metadata={metadata_key(migration.named): record})
        if migration.named not in dense_params(info):
            dense = models.DenseVectorConfig(
                size=codec.code_dim,
                distance=DISTANCES[codec.latent_metric],
                datatype=None if migration.datatype is None else models.VectorStorageDatatype(migration.datatype.value),
            )
            client.create_vector_name(migration.collection, migration.named, models.DenseVectorNameConfig(dense=dense))
    elif not client.collection_exists(migration.target):
        compressed.create_collection(migration.target, **_settings(migration))
    # Proves that the target, old or new, was made by this codec and with these originals.
    compressed.get_collection(migration.target)
    if migration.into is not None:
        # Its claim to the target, and the codecs of vectors that are copied as they are, which the client of this
        # one codec would refuse to write.
        records = {MIGRATION_KEY: {"source": migration.collection}, **_inherited(migration)}
        target = client.get_collection(migration.into)
        missing = {key: record for key, record in records.items() if key not in (target.config.metadata or {})}
        if missing:
            client.update_collection(migration.into, metadata=missing)
        for key, index in client.get_collection(migration.collection).payload_schema.items():
            if key not in target.payload_schema:
                client.create_payload_index(migration.into, key, field_schema=index.params or index.data_type)


def _inherited(migration: Migration) -> dict[str, dict[str, Any]]:
    """The source's records of vectors that it holds compressed already."""
    metadata = migration.client.get_collection(migration.collection).config.metadata or {}
    keys = [metadata_key(name) for name in migration.others]
    records = {key: metadata[key] for key in keys if key in metadata}
    # What was another vector's original is compressed in the copy, or kept there under another name.
    kept = migration.translation.coded[migration.vector].original
    now = {"originals": str(Originals.DISK if kept else Originals.NONE), "original_vector": kept}
    return {
        key: {**record, **now} if record["original_vector"] == migration.vector else record
        for key, record in records.items()
    }


def _record(client: QdrantClient, target: str) -> dict[str, Any]:
    """What a collection says of the migration that made it; empty where none did."""
    return (client.get_collection(target).config.metadata or {}).get(MIGRATION_KEY) or {}


def _settings(migration: Migration) -> dict[str, Any]:
    """The source's own parameters as arguments of ``create_collection``."""
    info = migration.client.get_collection(migration.collection)
    config, params = info.config, info.config.params
    vectors = dense_params(info)
    vectors[migration.vector] = vectors[migration.vector].model_copy(update={"datatype": migration.datatype})

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
        "payload": params.payload,
        "id_tracker": params.id_tracker,
        "hnsw_config": diff(models.HnswConfigDiff, config.hnsw_config),
        "optimizers_config": diff(models.OptimizersConfigDiff, config.optimizer_config),
        "wal_config": diff(models.WalConfigDiff, config.wal_config),
        "quantization_config": config.quantization_config,
        "strict_mode_config": diff(models.StrictModeConfig, config.strict_mode_config),
        "metadata": {
            **{key: value for key, value in (config.metadata or {}).items() if not names_codec(key)},
            MIGRATION_KEY: {"source": migration.collection},
        },
    }


def _copy_page(migration: Migration, progress: _Progress) -> int:
    """Copy the next batch of the source's points, and remember that it is copied; returns how many."""
    records, following = migration.client.scroll(
        migration.collection,
        limit=progress.batch_size,
        offset=str(progress.offset) if isinstance(progress.offset, UUID) else progress.offset,
        with_payload=migration.into is not None,
        with_vectors=_read_selection(migration),
    )
    _write(migration, records)
    progress.offset = following if following is None or isinstance(following, int) else UUID(str(following))
    progress.done = following is None
    progress.copied += len(records)
    _save_state(migration, progress)
    return len(records)


def _write(migration: Migration, records: list[models.Record]) -> None:
    """Write one batch of the source's points to the target."""
    if not records:
        return
    if migration.into is not None:
        points = [
            models.PointStruct.model_construct(id=r.id, vector=migration.as_written(r.vector), payload=r.payload)
            for r in records
        ]
        migration.compressed.upsert(migration.into, points, wait=True)
        return
    assert migration.named is not None
    holding = [r for r in records if _named(r.vector).get(migration.vector) is not None]
    if not holding:
        return
    rows = as_vectors(
        np.array([_named(r.vector)[migration.vector] for r in holding], np.float32),
        migration.codec.dim,
        migration.codec.metric,
        name=f"points from {holding[0].id!r} on",
    )
    if migration.file is not None:
        migration.file.append([r.id for r in holding], rows)
    latents = migration.codec.encode(rows).tolist()
    updates = [
        models.PointVectors.model_construct(id=r.id, vector={migration.named: latent})
        for r, latent in zip(holding, latents, strict=True)
    ]
    try:
        migration.client.update_vectors(migration.collection, updates, wait=True)
    except (KeyError, UnexpectedResponse) as error:
        # A point deleted since it was read: all others of the batch are written, it needs nothing.
        if isinstance(error, UnexpectedResponse) and error.status_code != 404:
            raise


def _repair_page(migration: Migration, comparison: Comparison, advance: Advance, records: list[models.Record]) -> int:
    """Compare one batch of the source's points with the target, and write again what differs; returns how many."""
    held = [_named(record.vector) for record in records]
    sources = held if migration.into is not None else [_only(vectors, migration.vector) for vectors in held]
    wanted = encode_vectors(migration.translation, sources, [record.id for record in records])
    if migration.into is not None:
        found = migration.client.retrieve(migration.into, [r.id for r in records], with_vectors=True)
        payloads = {record.id: record.payload or {} for record in found}
        stored = {record.id: _named(record.vector) for record in found}
        same = [
            r.id in stored
            and (r.payload or {}) == payloads[r.id]
            and _same(vectors, stored[r.id], migration.tolerances)
            for r, vectors in zip(records, wanted, strict=True)
        ]
    else:
        assert migration.named is not None
        wanted = [dict(zip([migration.named], vectors.values(), strict=False)) for vectors in wanted]
        stored = {r.id: _only(vectors, migration.named) for r, vectors in zip(records, held, strict=True)}
        same = [_same(vectors, stored[r.id], migration.tolerances) for r, vectors in zip(records, wanted, strict=True)]
    holding = [number for number, vectors in enumerate(sources) if migration.vector in vectors]
    comparison.see(
        [records[number].id for number in holding],
        [sources[number][migration.vector] for number in holding],
        # What the target holds, or will once the point is repaired.
        [(stored[records[n].id] if same[n] else wanted[n])[migration.target_vector] for n in holding],
    )
    differing = [record for record, equal in zip(records, same, strict=True) if not equal]
    _write(migration, differing)
    advance(len(records))
    return len(differing)


def _read_selection(migration: Migration) -> Any:
    """Which vectors of the source are read."""
    return True if migration.named is None else [migration.vector, migration.named]


def _only(vectors: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: vectors[name]} if name in vectors else {}


def _remove_stray(migration: Migration) -> Iterator[int]:
    """Delete from the target the points that the source no longer has; yields how many per batch."""
    if migration.into is None:
        return
    for records in _pages(migration, migration.into, with_vectors=False, with_payload=False):
        ids = [record.id for record in records]
        there = {record.id for record in migration.client.retrieve(migration.collection, ids, with_payload=False)}
        stray = [point_id for point_id in ids if point_id not in there]
        if stray:
            migration.client.delete(migration.into, models.PointIdsList(points=stray), wait=True)
        yield len(stray)


def _pages(migration: Migration, collection: str, **selection: Any) -> Iterator[list[models.Record]]:
    offset = None
    while True:
        records, offset = migration.client.scroll(collection, limit=migration.batch_size, offset=offset, **selection)
        yield records
        del records  # see migrate: before the next page is read
        if offset is None:
            return


def _same(expected: Mapping[str, Any], stored: Mapping[str, Any], tolerances: Mapping[str, float]) -> bool:
    """Whether two points hold the same vectors, up to the storage's rounding."""
    if expected.keys() != stored.keys():
        return False
    for name, wanted in expected.items():
        found = stored[name]
        if isinstance(wanted, models.SparseVector):
            if sorted(zip(wanted.indices, wanted.values, strict=True)) != sorted(
                zip(found.indices, found.values, strict=True)
            ):
                return False
            continue
        left, right = np.asarray(wanted, np.float32), np.asarray(found, np.float32)
        if left.shape != right.shape or np.linalg.norm(left - right) > tolerances.get(
            name, SAME_FLOATS
        ) * np.linalg.norm(left):
            return False
    return True


def _vector_names(info: models.CollectionInfo) -> list[str]:
    return [*dense_params(info), *(info.config.params.sparse_vectors or {})]


def _named(vector: Any) -> dict[str, Any]:
    if vector is None:
        return {}
    return dict(vector) if isinstance(vector, Mapping) else {UNNAMED: vector}


# ---------------------------------------------------------------- aliases


def _alias_target(client: QdrantClient, alias: str) -> str | None:
    return next((a.collection_name for a in client.get_aliases().aliases if a.alias_name == alias), None)


def _pointing(alias: str, collection: str | None, current: str | None) -> list[models.AliasOperations]:
    """The operations that make an alias point at a collection, or at none; sent together they are atomic."""
    operations: list[models.AliasOperations] = []
    if current is not None:
        operations.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    if collection is not None:
        create = models.CreateAlias(collection_name=collection, alias_name=alias)
        operations.append(models.CreateAliasOperation(create_alias=create))
    return operations


# ---------------------------------------------------------------- state


class _Progress(BaseModel, strict=True):
    """How far the copy came. Batches must not change between runs, so their size is kept too."""

    batch_size: Annotated[int, Field(ge=1)]
    offset: Annotated[int, Field(ge=0)] | UUID | None = None
    copied: Annotated[int, Field(ge=0)] = 0
    done: bool = False
    subject: dict[str, Any] = {}


def read_state(path: Path) -> _Progress:
    """What a state file says; raises ``MigrationError`` when it is damaged or something else."""
    try:
        return _Progress.model_validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise MigrationError(
            f"{path}: expected the state file of a migration, got {f'{where}: ' if where else ''}{wrong['msg']}; name "
            "another file or remove this one: the copy then starts again, and writes no point twice"
        ) from None


def _subject(migration: Migration) -> dict[str, Any]:
    return {
        "version": STATE_VERSION,
        "collection": migration.collection,
        "vector": migration.vector,
        "into": migration.into,
        "named": migration.named,
        "codec_id": migration.codec.codec_id,
        "code_dim": migration.codec.code_dim,
        "originals": str(migration.originals),
    }


def _load_state(migration: Migration) -> _Progress:
    subject = _subject(migration)
    if not migration.state.exists():
        return _Progress(batch_size=migration.batch_size, subject=subject)
    stored = read_state(migration.state)
    if stored.subject != subject:
        changed = ", ".join(
            f"{key} {stored.subject.get(key)!r}" for key in subject if stored.subject.get(key) != subject[key]
        )
        raise MigrationError(
            f"{migration.state}: expected the state of this migration, got that of another one ({changed}); "
            "name another state file, or remove this one to start again"
        )
    return stored


def _save_state(migration: Migration, progress: _Progress) -> None:
    write_atomically(migration.state, progress.model_dump_json().encode())
