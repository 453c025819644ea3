"""Copy the source's points, repair those that differ, and remove those that the source no longer has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from vaecodec.errors import InvalidVectorsError
from vaecodec.vectors import as_vectors
from vaecodec_integrations.qdrant.migration.bad_points import BadPointsList, without_bad
from vaecodec_integrations.qdrant.migration.job import SAME_FLOATS, Migration, by_name
from vaecodec_integrations.qdrant.migration.recall import RecallComparison
from vaecodec_integrations.qdrant.migration.state import State, save_state
from vaecodec_integrations.qdrant.vectors import encode_vectors


def copy_page(migration: Migration, state: State) -> int:
    """Copy the next batch of the source's points, and remember that it is copied; return how many."""
    records, following = migration.client.scroll(
        migration.collection,
        limit=state.batch_size,
        offset=str(state.offset) if isinstance(state.offset, UUID) else state.offset,
        with_payload=migration.into is not None,
        with_vectors=migration.selection,
    )
    _write(migration, records)
    state.offset = following if following is None or isinstance(following, int) else UUID(str(following))
    state.done = following is None
    state.copied += len(records)
    save_state(migration, state)
    return len(records)


class Repairs(NamedTuple):
    """Count the points that differed and were written again, by what differed first.

    Attributes:
        missing: the target did not have the point.
        vectors: its vectors were others.
        payloads: only its payload was another.
    """

    missing: int = 0
    vectors: int = 0
    payloads: int = 0

    def plus(self, other: Repairs) -> Repairs:
        """Return the sums."""
        return Repairs(*(a + b for a, b in zip(self, other, strict=True)))


def repair_page(
    migration: Migration, comparison: RecallComparison, bad_points: BadPointsList | None, records: list[models.Record]
) -> Repairs:
    """Compare one batch of the source's points with the target, and write again what differs.

    Args:
        migration: what is copied where.
        comparison: takes the points of both sides into account.
        bad_points: lists points that are copied without the vector; None where there may be none.
        records: the points of the source.
    """
    ids = [record.id for record in records]
    held = [_compared(migration, record) for record in records]
    try:
        wanted = encode_vectors(migration.translation, held, ids)
    except InvalidVectorsError as error:
        records, bad = without_bad(migration, records, error)
        held = [_compared(migration, record) for record in records]
        wanted = encode_vectors(migration.translation, held, ids)
        if bad_points is not None:
            bad_points.add(bad)
        _remove_latents(migration, list(bad))
    if migration.named is not None:
        wanted = [dict(zip([migration.named], vectors.values(), strict=False)) for vectors in wanted]
    stored = _stored(migration, records)
    faults = [_difference(migration, *pair, stored.get(pair[0].id)) for pair in zip(records, wanted, strict=True)]
    holding = [number for number, vectors in enumerate(held) if migration.vector in vectors]
    comparison.add(
        [ids[number] for number in holding],
        [held[number][migration.vector] for number in holding],
        # The vectors that the target holds, or will hold once the point is repaired.
        [(wanted[n] if faults[n] else by_name(stored[ids[n]].vector))[migration.target_vector] for n in holding],
    )
    _write(migration, [record for record, fault in zip(records, faults, strict=True) if fault])
    return Repairs(**{field: faults.count(field) for field in Repairs._fields})


def _compared(migration: Migration, record: models.Record) -> dict[str, Any]:
    """Return the vectors of a point of the source that the target must have in some form."""
    vectors = by_name(record.vector)
    return vectors if migration.named is None else _only(vectors, migration.vector)


def _stored(migration: Migration, records: list[models.Record]) -> dict[Any, models.Record]:
    """Return the target's points with the ids of the source's."""
    if migration.into is None:
        assert migration.named is not None
        return {r.id: r.model_copy(update={"vector": _only(by_name(r.vector), migration.named)}) for r in records}
    found = migration.client.retrieve(migration.into, [record.id for record in records], with_vectors=True)
    return {record.id: record for record in found}


def _difference(
    migration: Migration, record: models.Record, wanted: Mapping[str, Any], stored: models.Record | None
) -> str | None:
    """Return which field of :class:`Repairs` a point belongs to, or None where both sides agree."""
    if migration.named is not None and not wanted:
        return None  # nothing to compress, and no way to tell whether existing latents are outdated
    if stored is None or (migration.named is not None and not stored.vector):
        return "missing"
    if not _same(wanted, by_name(stored.vector), migration.tolerances):
        return "vectors"
    if migration.into is not None and (record.payload or {}) != (stored.payload or {}):
        return "payloads"
    return None


def remove_stray(migration: Migration) -> Iterator[int]:
    """Delete from the target the points that the source no longer has; yield how many per batch."""
    if migration.into is None:
        return
    for records in pages(migration, migration.into, with_vectors=False, with_payload=False):
        ids = [record.id for record in records]
        there = {record.id for record in migration.client.retrieve(migration.collection, ids, with_payload=False)}
        stray = [point_id for point_id in ids if point_id not in there]
        if stray:
            migration.compressed.delete(migration.into, models.PointIdsList(points=stray), wait=True)
        yield len(stray)


def pages(migration: Migration, collection: str, **selection: Any) -> Iterator[list[models.Record]]:
    """Read all points of a collection, a batch at a time."""
    offset = None
    while True:
        records, offset = migration.client.scroll(collection, limit=migration.batch_size, offset=offset, **selection)
        yield records
        del records  # free megabytes of Python floats before the next page is read
        if offset is None:
            return


def _write(migration: Migration, records: list[models.Record]) -> None:
    """Write one batch of the source's points to the target."""
    if not records:
        return
    write = _write_latents if migration.into is None else _write_points
    try:
        write(migration, records)
    except InvalidVectorsError as error:
        kept, _ = without_bad(migration, records, error)
        write(migration, kept)


def _write_points(migration: Migration, records: list[models.Record]) -> None:
    """Write points with their payloads and all their vectors."""
    points = [
        models.PointStruct.model_construct(id=r.id, vector=migration.as_written(r.vector), payload=r.payload)
        for r in records
    ]
    migration.compressed.upsert(migration.target, points, wait=True)


def _write_latents(migration: Migration, records: list[models.Record]) -> None:
    """Add the latents of one batch to the points that these were read from."""
    assert migration.named is not None
    holding = [r for r in records if by_name(r.vector).get(migration.vector) is not None]
    if not holding:
        return
    rows = as_vectors(
        np.array([by_name(r.vector)[migration.vector] for r in holding], np.float32),
        migration.codec.dim,
        migration.codec.metric,
        name=f"points from {holding[0].id!r} on",
    )
    staged = None if migration.file is None else migration.file.stage()
    if staged is not None:
        staged.add([r.id for r in holding], rows)
    latents = migration.codec.encode(rows).tolist()
    updates = [
        models.PointVectors.model_construct(id=r.id, vector={migration.named: latent})
        for r, latent in zip(holding, latents, strict=True)
    ]
    try:
        migration.client.update_vectors(migration.collection, updates, wait=True)
    except (KeyError, UnexpectedResponse) as error:
        # A point was deleted after it was read. All others of the batch are written, and it needs nothing.
        if isinstance(error, UnexpectedResponse) and error.status_code != 404:
            raise
    if staged is not None:
        staged.commit()


def _remove_latents(migration: Migration, ids: list[Any]) -> None:
    """Remove latents of vectors that were good before and are bad now; a new collection's points are written whole."""
    if migration.named is not None and ids:
        migration.client.delete_vectors(migration.collection, [migration.named], models.PointIdsList(points=ids))
        if migration.file is not None:
            migration.file.remove(ids)


def _only(vectors: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: vectors[name]} if name in vectors else {}


def _same(expected: Mapping[str, Any], stored: Mapping[str, Any], tolerances: Mapping[str, float]) -> bool:
    """Tell whether two points hold the same vectors, up to the storage's rounding."""
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
