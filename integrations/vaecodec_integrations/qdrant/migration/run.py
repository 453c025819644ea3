"""Run a migration from its first batch to the comparison of both sides.

The source is only read. Every step may be interrupted at any moment and run again: points are copied in the order of
their ids, in batches that a state file counts, and writing a batch twice leaves what writing it once does.

Catching up: writes go on to the source only. Each run ends by comparing all points of both sides and repairing what
differs, so run again until nothing did; with writes paused, the last run may switch the alias.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from qdrant_client import models

from vaecodec.bulk import OnBadRows, OnProgress
from vaecodec_integrations.qdrant.connection import refusals
from vaecodec_integrations.qdrant.layout import Originals
from vaecodec_integrations.qdrant.migration.alias import check_alias, switch_alias
from vaecodec_integrations.qdrant.migration.bad_points import listing, report_bad
from vaecodec_integrations.qdrant.migration.copy import Repairs, copy_page, pages, remove_stray, repair_page
from vaecodec_integrations.qdrant.migration.job import Migration
from vaecodec_integrations.qdrant.migration.recall import RecallComparison, Recalls
from vaecodec_integrations.qdrant.migration.state import State, load_state, save_state
from vaecodec_integrations.qdrant.migration.target import (
    check_is_not_written,
    check_source,
    check_target,
    prepare_target,
)
from vaecodec_integrations.row_encoding import Float16Rows

# Bits of a stored number by the value of its ``models.Datatype``. qdrant-client 1.19 does not know all of these.
_BITS = {"float32": 32, "float16": 16, "uint8": 8, "turbo16": 16, "turbo8": 8, "turbo4": 4}

Started = Callable[["MigrationSize"], object]


@dataclass(frozen=True)
class MigrationSize:
    """Hold the size of a migration, known before it does anything.

    Attributes:
        points: points of the source.
        source_bytes: bytes of the vectors to compress, without graph and payload.
        target_bytes: bytes of the latents, without graph and payload.
        codes_bytes: bytes of the codes that stay in memory; None where none were asked for.
        originals_bytes: bytes of the originals that are kept for re-ranking.
    """

    points: int
    source_bytes: int
    target_bytes: int
    codes_bytes: int | None
    originals_bytes: int


@dataclass(frozen=True)
class MigrationOutcome:
    """Hold what a run did and found.

    Attributes:
        estimate: the size of the migration when the run began.
        copied: points copied by this run.
        repairs: points that differed when both sides were compared, and were written again.
        removed: points that the source no longer had.
        bad_points: points that were copied without the vector, because it cannot be compressed.
        source_points: exact count at the end.
        target_points: exact count at the end.
        recalls: what searching both sides finds, over a sample of the source's own vectors.
        switched_alias: the alias that this run pointed at the target.
        next_step: what to do now, in a few sentences.
    """

    estimate: MigrationSize
    copied: int
    repairs: Repairs
    removed: int
    bad_points: int
    source_points: int
    target_points: int
    recalls: Recalls
    switched_alias: str | None = None
    next_step: str = ""

    @property
    def repaired(self) -> int:
        """Return the number of points that were written again."""
        return sum(self.repairs)

    @property
    def recall_before(self) -> float | None:
        """Return the mean of ``recalls.before``."""
        return None if self.recalls.before is None else self.recalls.before.mean

    @property
    def recall_latents(self) -> float | None:
        """Return the mean of ``recalls.latents``."""
        return None if self.recalls.latents is None else self.recalls.latents.mean

    @property
    def recall_after(self) -> float | None:
        """Return the mean of ``recalls.after``."""
        return None if self.recalls.after is None else self.recalls.after.mean

    @property
    def queries(self) -> int:
        """Return the size of the sample."""
        return self.recalls.queries

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold; intervals are [mean, low, high]."""
        return {
            "copied": self.copied,
            "repaired": self.repaired,
            "repairs": self.repairs._asdict(),
            "removed": self.removed,
            "bad_points": self.bad_points,
            "source_points": self.source_points,
            "target_points": self.target_points,
            "recall_before": self.recalls.before,
            "recall_latents": self.recalls.latents,
            "recall_after": self.recalls.after,
            "queries": self.queries,
            "settled": self.settled,
            "next_step": self.next_step,
        }

    @property
    def settled(self) -> bool:
        """Tell whether both sides agreed without repairs, so that the alias may be switched."""
        return not (self.repaired or self.removed) and self.source_points == self.target_points


def estimate(migration: Migration, *, alias: str | None = None) -> MigrationSize:
    """Return the size of the migration; raise as :func:`migrate` does when it cannot be done."""
    with refusals(migration.client):
        params = check_source(migration)
        if alias is not None:
            check_alias(migration.client, migration.collection, migration.into, alias)
        check_target(migration)
        points = migration.client.count(migration.collection, exact=True).count
    bits = _BITS[params.datatype or models.Datatype.FLOAT32]
    latent_bits = _BITS[migration.datatype or models.Datatype.FLOAT32]
    row_bytes = 0
    if migration.originals is Originals.FILE:
        row_bytes = (migration.originals_encoding or Float16Rows(migration.codec.dim)).row_bytes
    elif migration.originals is Originals.DISK and migration.into is not None:
        row_bytes = 2 * migration.codec.dim
    return MigrationSize(
        points=points,
        source_bytes=points * bits * migration.codec.dim // 8,
        target_bytes=points * latent_bits * migration.codec.code_dim // 8,
        codes_bytes=None if migration.code_bytes is None else points * migration.code_bytes,
        originals_bytes=points * row_bytes,
    )


def migrate(
    migration: Migration,
    *,
    alias: str | None = None,
    started: Started = lambda _: None,
    progress: OnProgress = lambda _done, _total: None,
    sample: int = 500,
) -> MigrationOutcome:
    """Copy what is not copied yet, repair what differs, compare searches, and switch an alias.

    Args:
        migration: what is copied where.
        alias: is pointed at the target when both sides agreed without repairs.
        started: called once with the size of the work, before anything is written.
        progress: called with the steps done and their total. Each point is two steps: it is copied (or was by an
            earlier run), and it is compared.
        sample: how many of the source's vectors are searched for on both sides.

    Raises:
        MigrationError: the source cannot be migrated as asked, the target holds something else, the alias cannot be
            switched, or the state file belongs to another migration.
        CodecMismatchError: the codec does not fit the source, or another codec filled the target.
        InvalidVectorsError: a vector cannot be compressed, and the policy is to fail.
        BadRowsError: some cannot, and the policy is to report them.
        StoreError: the server does not answer, refuses the key, or refuses a request.
    """
    size = estimate(migration, alias=alias)
    state = load_state(migration)
    with refusals(migration.client):
        check_is_not_written(migration, state.left)
    started(size)
    with refusals(migration.client):
        if migration.on_bad_rows is OnBadRows.REPORT:
            report_bad(migration, pages(migration, migration.collection, with_vectors=[migration.vector]))
        prepare_target(migration)
        if state.left is not None:  # until this run ends, nobody can tell who wrote a point of the target
            save_state(migration, state.model_copy(update={"left": None}))
        outcome = _copy_and_compare(migration, size, state, progress, sample)
        save_state(migration, state.model_copy(update={"left": outcome.target_points}))
        if alias is not None and outcome.settled:
            switch_alias(migration.client, migration.collection, migration.into, alias)
            outcome = replace(outcome, switched_alias=alias)
    return replace(outcome, next_step=_next_step(migration, outcome, alias))


def _copy_and_compare(
    migration: Migration, size: MigrationSize, state: State, progress: OnProgress, sample: int
) -> MigrationOutcome:
    before = done = state.copied

    def advance(points: int) -> None:
        nonlocal done
        done += points
        progress(done, 2 * size.points)

    advance(0)
    while not state.done:
        advance(copy_page(migration, state))
    comparison = RecallComparison(migration, sample)
    with listing(migration) if migration.on_bad_rows is OnBadRows.SKIP else nullcontext() as bad_points:

        def repair(records: list[models.Record]) -> Repairs:
            repairs = repair_page(migration, comparison, bad_points, records)
            advance(len(records))
            return repairs

        # Use map, not a loop: a loop would keep one page, megabytes of Python floats, while the next one is read.
        read = pages(migration, migration.collection, with_vectors=migration.selection)
        repairs = reduce(Repairs.plus, map(repair, read), Repairs())
    removed = sum(remove_stray(migration))
    points = migration.client.count(migration.collection, exact=True).count
    return MigrationOutcome(
        estimate=size,
        copied=state.copied - before,
        repairs=repairs,
        removed=removed,
        bad_points=0 if bad_points is None else bad_points.count,
        source_points=points,
        target_points=points if migration.into is None else migration.client.count(migration.into, exact=True).count,
        recalls=comparison.recalls(),
    )


def _next_step(migration: Migration, outcome: MigrationOutcome, alias: str | None) -> str:
    if outcome.switched_alias is not None:
        return f"The alias {alias!r} now points at {migration.target!r}."
    if alias is not None:
        return (
            f"expected both sides to agree before the alias {alias!r} is switched. {_differences(outcome)} Pause "
            "writes and run the same command again"
        )
    if not outcome.settled:
        return f"{_differences(outcome)} Run the same command again."
    if migration.named is None:
        if migration.code_bytes is not None:
            return (
                f"Both sides are equal. Search {migration.target!r} with search_params="
                f"recommended_search_params(codec, bytes={migration.code_bytes}). To switch an alias to it, pause "
                "writes and run again with the alias."
            )
        return f"Both sides are equal. To switch an alias to {migration.target!r}, pause writes and run again with it."
    return _unload(migration.collection, migration.vector, migration.named)


def _differences(outcome: MigrationOutcome) -> str:
    """Say what differed, and the possible reason."""
    repairs = outcome.repairs
    return (
        f"{outcome.repaired:,} points were repaired: {repairs.missing:,} were missing in the copy, {repairs.vectors:,} "
        f"had other vectors, {repairs.payloads:,} another payload; {outcome.removed:,} were removed, for the source no "
        f"longer has them; then there were {outcome.source_points:,} points and {outcome.target_points:,}. Either the "
        "application wrote to the source meanwhile, or the server lost its last writes, as it may when it is killed."
    )


def _unload(collection: str, vector: str, named: str) -> str:
    """Say how to free the memory that the uncompressed vector still takes beside the latents."""
    diff = (
        "models.VectorParamsDiff(on_disk=True, hnsw_config=models.HnswConfigDiff(m=0), "
        "quantization_config=models.Disabled.DISABLED)"
    )
    return (
        f"{collection!r} holds both vectors now, and takes more memory than before. Once all searches say "
        f"using={named!r}, put the uncompressed vector on disk, without graph and quantisation:\n"
        f"client.update_collection({collection!r}, vectors_config={{{vector!r}: {diff}}})"
    )
