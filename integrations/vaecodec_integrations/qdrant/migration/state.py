"""The state file of a migration: how far the copy came."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from vaecodec.errors import MigrationError
from vaecodec.files import write_atomically
from vaecodec_integrations.qdrant.migration.job import Migration

STATE_VERSION = 1


class State(BaseModel, strict=True):
    """How far the copy came. Batches must not change between runs, so their size is kept too."""

    batch_size: Annotated[int, Field(ge=1)]
    offset: Annotated[int, Field(ge=0)] | UUID | None = None
    copied: Annotated[int, Field(ge=0)] = 0
    done: bool = False
    subject: dict[str, Any] = {}


def read_state(path: Path) -> State:
    """Read a state file; raise ``MigrationError`` when it is damaged or something else."""
    try:
        return State.model_validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise MigrationError(
            f"{path}: expected the state file of a migration, got {f'{where}: ' if where else ''}{wrong['msg']}; name "
            "another file or remove this one: the copy then starts again, and writes no point twice"
        ) from None


def load_state(migration: Migration) -> State:
    """Read the migration's state file, or begin a new one; raise ``MigrationError`` at that of another migration."""
    subject = _subject(migration)
    if not migration.state.exists():
        return State(batch_size=migration.batch_size, subject=subject)
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


def save_state(migration: Migration, state: State) -> None:
    """Replace the state file in one step."""
    write_atomically(migration.state, state.model_dump_json().encode())


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
