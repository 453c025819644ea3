"""Copy the source's points, repair those that differ, and remove those that the source no longer has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import numpy as np
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from vaecodec.vectors import as_vectors
from vaecodec_integrations.qdrant.migration.job import SAME_FLOATS, Migration, by_name
from vaecodec_integrations.qdrant.migration.recall import Comparison
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


def repair_page(migration: Migration, comparison: Comparison, records: list[models.Record]) -> int:
    """Compare one batch of the source's points with the target, and write again what differs; return how many."""
    held = [by_name(record.vector) for record in records]
    sources = held if migration.into is not None else [_only(vectors, migration.vector) for vectors in held]
    wanted = encode_vectors(migration.translation, sources, [record.id for record in records])
    if migration.into is not None:
        found = migration.client.retrieve(migration.into, [r.id for r in records], with_vectors=True)
        payloads = {record.id: record.payload or {} for record in found}
        stored = {record.id: by_name(record.vector) for record in found}
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
    comparison.add(
        [records[number].id for number in holding],
        [sources[number][migration.vector] for number in holding],
        # What the target holds, or will once the point is repaired.
        [(stored[records[n].id] if same[n] else wanted[n])[migration.target_vector] for n in holding],
    )
    differing = [record for record, equal in zip(records, same, strict=True) if not equal]
    _write(migration, differing)
    return len(differing)


def remove_stray(migration: Migration) -> Iterator[int]:
    """Delete from the target the points that the source no longer has; yield how many per batch."""
    if migration.into is None:
        return
    for records in pages(migration, migration.into, with_vectors=False, with_payload=False):
        ids = [record.id for record in records]
        there = {record.id for record in migration.client.retrieve(migration.collection, ids, with_payload=False)}
        stray = [point_id for point_id in ids if point_id not in there]
        if stray:
            migration.client.delete(migration.into, models.PointIdsList(points=stray), wait=True)
        yield len(stray)


def pages(migration: Migration, collection: str, **selection: Any) -> Iterator[list[models.Record]]:
    """Read all points of a collection, a batch at a time."""
    offset = None
    while True:
        records, offset = migration.client.scroll(collection, limit=migration.batch_size, offset=offset, **selection)
        yield records
        del records  # frees megabytes of Python floats before the next page is read
        if offset is None:
            return


def _write(migration: Migration, records: list[models.Record]) -> None:
    """Write one batch of the source's points to the target."""
    if not records:
        return
    if migration.into is None:
        _write_latents(migration, records)
        return
    points = [
        models.PointStruct.model_construct(id=r.id, vector=migration.as_written(r.vector), payload=r.payload)
        for r in records
    ]
    migration.compressed.upsert(migration.into, points, wait=True)


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
