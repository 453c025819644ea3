"""Keep in a state file how far the copy of a migration came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from vaecodec.errors import MigrationError
from vaecodec.files import write_atomically
from vaecodec.files.stored_json import parse_with_checksum, with_checksum
from vaecodec_integrations.qdrant.migration.job import Migration

STATE_VERSION = 1


class State(BaseModel, strict=True):
    """Hold how far the copy came. Batches must not change between runs, so their size is kept too.

    ``left`` is the number of points that the last whole run left in the target; None while a run changes it.
    """

    batch_size: Annotated[int, Field(ge=1)]
    offset: Annotated[int, Field(ge=0)] | UUID | None = None
    copied: Annotated[int, Field(ge=0)] = 0
    done: bool = False
    left: Annotated[int, Field(ge=0)] | None = None
    subject: dict[str, Any] = {}


def read_state(path: Path) -> State:
    """Read a state file; raise ``MigrationError`` when it is damaged or something else."""
    try:
        return State.model_validate_json(json.dumps(parse_with_checksum(path.read_bytes())))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        reason = ": ".join(filter(None, [".".join(map(str, wrong["loc"])), wrong["msg"]]))
    except ValueError as error:
        reason = f"another file or a damaged one ({error})"
    raise MigrationError(
        f"{path}: expected the state file of a migration, got {reason}; name another file or remove this one: the copy "
        "then starts again, and writes no point twice"
    )


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
    write_atomically(migration.state, with_checksum(state.model_dump(mode="json")))


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
