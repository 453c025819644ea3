"""Compress a live collection: copy it, catch up with what was written meanwhile, compare, switch an alias."""

from vaecodec_integrations.qdrant.migration.alias import check_alias, roll_back, switch_alias
from vaecodec_integrations.qdrant.migration.job import Migration
from vaecodec_integrations.qdrant.migration.run import MigrationOutcome, MigrationSize, estimate, migrate

__all__ = [
    "Migration",
    "MigrationOutcome",
    "MigrationSize",
    "check_alias",
    "estimate",
    "migrate",
    "roll_back",
    "switch_alias",
]
