"""Compress a live collection: copy it, catch up with what was written meanwhile, compare, switch an alias."""

from vaecodec_integrations.qdrant.migration.alias import check_alias, roll_back, switch_alias
from vaecodec_integrations.qdrant.migration.job import Migration
from vaecodec_integrations.qdrant.migration.request import MigrationRequest, estimate_at, migrate_at, roll_back_at
from vaecodec_integrations.qdrant.migration.run import MigrationOutcome, MigrationSize, estimate, migrate

__all__ = [
    "Migration",
    "MigrationOutcome",
    "MigrationRequest",
    "MigrationSize",
    "check_alias",
    "estimate",
    "estimate_at",
    "migrate",
    "migrate_at",
    "roll_back",
    "roll_back_at",
    "switch_alias",
]
