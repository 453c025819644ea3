"""Fill a new collection, or a new vector, from the texts of the old one.

Nothing but the target itself remembers how far it came: each run looks which points are there already. It can be
stopped at any moment and run again, and a run over what is done embeds only what was added or changed since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from qdrant_client import models

from vaecodec.bulk import OnProgress
from vaecodec.errors import MigrationError
from vaecodec.interface import FloatArray
from vaecodec_integrations.pace import Pace
from vaecodec_integrations.qdrant.connection import collection_info, refusals
from vaecodec_integrations.qdrant.identity import metadata_key
from vaecodec_integrations.qdrant.layout import UNNAMED, dense_params
from vaecodec_integrations.qdrant.migration.alias import check_alias, switch_alias
from vaecodec_integrations.qdrant.migration.target import MIGRATION_KEY, check_is_not_live, migration_record
from vaecodec_integrations.qdrant.reembedding.job import Reembedding
from vaecodec_integrations.qdrant.versions import METADATA, VECTOR_NAMES, check_server
from vaecodec_integrations.same_model import COMPARED_ROWS, agreement


@dataclass(frozen=True)
class ReembeddingOutcome:
    """Hold what a run did.

    Attributes:
        embedded: texts that were embedded and written.
        without_text: points that have no text; a new collection gets them without the vector.
        payloads: points of which only the payload was written again.
        removed: points that the old collection no longer has, removed from the new one.
        points: in the old collection.
        switched_alias: the alias that was switched.
        named: the new vector in the collection itself that was filled, where no new collection was.
    """

    embedded: int = 0
    without_text: int = 0
    payloads: int = 0
    removed: int = 0
    points: int = 0
    switched_alias: str | None = None
    named: str | None = None

    @property
    def settled(self) -> bool:
        """Tell whether the run found nothing to do, so that both sides are equal."""
        return not (self.embedded or self.payloads or self.removed)

    def next_step(self, alias: str | None) -> str:
        """Say what to do now.

        Args:
            alias: the alias that was to be switched.
        """
        if self.switched_alias is not None:
            return f"The alias {self.switched_alias!r} now points at the new collection."
        if not self.settled:
            pause = f" Pause writes before the run that switches the alias {alias!r}." if alias else ""
            return f"Run the same command again, until it finds nothing to do.{pause}"
        if self.named is not None:
            return f"Nothing is left to do: search the vector {self.named!r} with the new model alone."
        return "Nothing is left to do. To switch an alias to the new collection, pause writes and run again with it."


def reembed(
    job: Reembedding, *, alias: str | None = None, progress: OnProgress = lambda _done, _total: None
) -> ReembeddingOutcome:
    """Embed what is not embedded yet, and, once a run finds nothing to do, switch an alias.

    While it runs the application goes on writing to the old collection. Run it again until nothing is left to do; with
    writes paused, the last run may switch the alias. A new vector in the same collection is filled, but texts that
    change afterwards are not noticed: write both vectors from then on.

    Args:
        job: what is embedded again.
        alias: is pointed at the new collection when a run found nothing to do.
        progress: called with the points looked at and their total.

    Raises:
        MigrationError: the collection cannot be changed as asked, the target holds something else or vectors of another
            model, or the model returns something other than one vector for each text.
        InvalidVectorsError: the model returns NaN, zeros or another width.
        StoreError: the server does not answer, refuses the key, or refuses a request.
    """
    with refusals(job.client):
        _check(job)
        if alias is not None:
            check_alias(job.client, job.collection, job.into, alias)
        total = job.client.count(job.collection, exact=True).count
        outcome = ReembeddingOutcome(points=total, named=job.named)
        seen, pace = 0, Pace(job.texts_per_second)
        _refuse_another_model(job, pace)
        for records in job.undone_pages():
            outcome = _page(job, records, outcome, pace)
            seen += len(records)
            progress(min(seen, total), total)
        if job.into is not None and job.client.collection_exists(job.into):
            outcome = replace(outcome, removed=_remove_stray(job, job.into))
            _index_payload(job, job.into)
            _name_codecs(job, job.into)
        if alias is not None and outcome.settled:
            switch_alias(job.client, job.collection, job.into, alias)
            outcome = replace(outcome, switched_alias=alias)
    return outcome


def _check(job: Reembedding) -> None:
    """Refuse what cannot be done, before a text is embedded."""
    client, where = job.client, f"collection {job.collection!r}"
    check_server(client, [METADATA] if job.named is None else [METADATA, VECTOR_NAMES])
    aliases = {a.alias_name: a.collection_name for a in client.get_aliases().aliases}
    if job.collection in aliases:
        raise MigrationError(
            f"collection: expected the name of a collection, got the alias {job.collection!r}; name the collection "
            f"{aliases[job.collection]!r} itself"
        )
    params = dense_params(collection_info(client, job.collection))
    if job.vector not in params:
        names = ", ".join(map(repr, params)) or "none"
        raise MigrationError(f"{where}: expected a dense vector {job.vector!r}, got {names}")
    if params[job.vector].multivector_config is not None:
        raise MigrationError(f"{where}, vector {job.vector!r}: expected one vector for each text, got a multivector")
    if job.into is None or not client.collection_exists(job.into):
        return
    check_is_not_live(client, job.collection, job.into)
    record = migration_record(client, job.into)
    if record.get("source") != job.collection or not record.get("reembedded"):
        raise MigrationError(
            f"into: expected a new collection, or one that texts of {job.collection!r} were embedded into, got "
            f"{job.into!r}, which holds something else; name another one"
        )


def _refuse_another_model(job: Reembedding, pace: Pace) -> None:
    """Embed some texts of the target again, and compare them with what it holds."""
    client = job.client
    if not client.collection_exists(job.target) or job.target_vector not in dense_params(
        collection_info(client, job.target)
    ):
        return
    has = models.Filter(must=[models.HasVectorCondition(has_vector=job.target_vector)])
    records, _ = client.scroll(job.target, has, limit=COMPARED_ROWS, with_vectors=[job.target_vector])
    held = [
        (text, _vector_of(record, job.target_vector)) for record in records if (text := job.text_of(record.payload))
    ]
    if not held:
        return
    texts, stored = zip(*held, strict=True)
    pace.wait(len(texts))
    again = job.embedded(list(texts))
    again = again if job.codec is None else job.codec.encode(again)
    agreement(stored, again, f"collection {job.target!r}, vector {job.target_vector!r}")


def _vector_of(record: models.Record, name: str) -> FloatArray:
    vectors = record.vector
    return np.asarray(vectors[name] if isinstance(vectors, dict) else vectors, np.float32)


def _page(
    job: Reembedding, records: list[models.Record], outcome: ReembeddingOutcome, pace: Pace
) -> ReembeddingOutcome:
    """Bring one batch of points up to date."""
    held = _held(job, [record.id for record in records])
    new = [r for r in records if r.id not in held or job.text_of(held[r.id].payload) != job.text_of(r.payload)]
    texts = {r.id: text for r in new if (text := job.text_of(r.payload)) is not None}
    pace.wait(len(texts))
    vectors = dict(zip(texts, job.embedded(list(texts.values())), strict=True)) if texts else {}
    if vectors:
        _prepare(job, len(next(iter(vectors.values()))))
    _write(job, new, vectors)
    unwritten = {record.id for record in new}
    changed = [r for r in records if r.id not in unwritten and held[r.id].payload != r.payload]
    for record in changed:
        job.client.overwrite_payload(job.target, record.payload or {}, [record.id], wait=True)
    return replace(
        outcome,
        embedded=outcome.embedded + len(vectors),
        without_text=outcome.without_text + len(new) - len(texts),
        payloads=outcome.payloads + len(changed),
    )


def _held(job: Reembedding, ids: list[Any]) -> dict[Any, models.Record]:
    """Return the points that the target has already, with their payloads."""
    if job.into is not None:
        found = job.client.retrieve(job.into, ids, with_vectors=False) if job.client.collection_exists(job.into) else []
    else:
        found = []
        if job.named in dense_params(collection_info(job.client, job.collection)):
            has = models.HasVectorCondition(has_vector=job.named)
            wanted = models.Filter(must=[models.HasIdCondition(has_id=ids), has])
            found, _ = job.client.scroll(job.collection, wanted, limit=len(ids) or 1)
    return {record.id: record for record in found}


def _write(job: Reembedding, records: list[models.Record], vectors: Mapping[Any, FloatArray]) -> None:
    """Write new vectors; to a new collection whole points, those without a text, too."""
    if job.into is None:
        updates = [models.PointVectors(id=i, vector={job.target_vector: v.tolist()}) for i, v in vectors.items()]
        if updates:
            job.writer.update_vectors(job.collection, updates, wait=True)
    elif records and job.client.collection_exists(job.into):
        points = [
            models.PointStruct(id=r.id, vector=_all_vectors(job, r, vectors.get(r.id)), payload=r.payload)
            for r in records
        ]
        job.writer.upsert(job.into, points, wait=True)


def _all_vectors(job: Reembedding, record: models.Record, vector: Any) -> Any:
    """Return the vectors of a point for a new collection: the new one, and all others unchanged."""
    kept = dict(record.vector) if isinstance(record.vector, dict) else {}
    if vector is not None:
        kept[job.target_vector] = vector.tolist()
    return kept[UNNAMED] if list(kept) == [UNNAMED] else kept


def _prepare(job: Reembedding, width: int) -> None:
    """Create what is not there yet."""
    info = collection_info(job.client, job.collection)
    params = models.VectorParams(size=width, distance=job.distance)
    if job.named is not None:
        if job.named not in dense_params(info):
            dense = models.DenseVectorConfig(size=width, distance=job.distance)
            job.writer.create_vector_name(job.collection, job.named, models.DenseVectorNameConfig(dense=dense))
    elif not job.client.collection_exists(job.target):
        vectors: Any = {**dense_params(info), job.vector: params}
        job.writer.create_collection(
            job.target,
            vectors_config=vectors if list(vectors) != [UNNAMED] else params,
            sparse_vectors_config=info.config.params.sparse_vectors,
            metadata={MIGRATION_KEY: {"source": job.collection, "reembedded": True}},
        )


def _remove_stray(job: Reembedding, into: str) -> int:
    """Remove the points that the old collection no longer has; return how many."""
    removed, offset = 0, None
    while True:
        records, offset = job.client.scroll(into, limit=1000, offset=offset, with_payload=False, with_vectors=False)
        ids = [record.id for record in records]
        there = {r.id for r in job.client.retrieve(job.collection, ids, with_payload=False, with_vectors=False)}
        stray = [point_id for point_id in ids if point_id not in there]
        if stray:
            job.client.delete(into, models.PointIdsList(points=stray), wait=True)
        removed += len(stray)
        if offset is None:
            return removed


def _index_payload(job: Reembedding, into: str) -> None:
    """Give the new collection the payload indexes of the old one."""
    there = job.client.get_collection(into).payload_schema
    for key, index in job.client.get_collection(job.collection).payload_schema.items():
        if key not in there:
            job.client.create_payload_index(into, key, field_schema=index.params or index.data_type)


def _name_codecs(job: Reembedding, into: str) -> None:
    """Name in the new collection the codecs of the other vectors, where the old one holds latents."""
    old, new = (collection_info(job.client, name).config.metadata or {} for name in (job.collection, into))
    keys = [metadata_key(name) for name in job.others]
    missing = {key: old[key] for key in keys if key in old and key not in new}
    if missing:
        job.client.update_collection(into, metadata=missing)
