"""Keep the codec's identity in the comment of the column that it filled."""

from __future__ import annotations

import json
from typing import Any

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError
from vaecodec.files.stored_json import parse_object
from vaecodec_integrations.postgres.storage import Storage

_MARK = "vaecodec: "


def record(codec: Codec, storage: Storage) -> dict[str, Any]:
    """Return the record of the codec for the comment."""
    return {
        "codec_id": codec.codec_id,
        "dim": codec.dim,
        "code_dim": codec.code_dim,
        "embedder": codec.embedder,
        "storage": str(storage),
    }


def with_record(comment: str | None, codec: Codec, storage: Storage) -> str:
    """Return a column's comment with the codec's record as its last line; what people wrote stays."""
    own = [line for line in (comment or "").splitlines() if not line.startswith(_MARK)]
    return "\n".join([*own, _MARK + json.dumps(record(codec, storage), sort_keys=True)])


def read_record(comment: str | None) -> dict[str, Any] | None:
    """Return the record in a comment, or None where there is none that can be read."""
    for line in (comment or "").splitlines():
        if line.startswith(_MARK):
            try:
                return parse_object(line.removeprefix(_MARK))
            except ValueError:
                return None
    return None


def check_record(where: str, comment: str | None, codec: Codec, storage: Storage) -> None:
    """Compare a column's comment with the codec at hand.

    Args:
        where: names the column in messages, such as ``public.docs.embedding``.
        comment: the column's comment in the database.
        codec: the codec that the application opened the column with.
        storage: the type that the application expects.

    Raises:
        CodecMismatchError: the comment names another codec, another width or type, or none.
    """
    found, wanted = read_record(comment), record(codec, storage)
    if found is None:
        raise CodecMismatchError(
            f"{where}: expected the codec's record in the column's comment, got none; if the column is new or was "
            f"filled by codec {codec.codec_id[:12]}…, write the record with CompressedColumn.record(connection)"
        )
    differing = [key for key in ("codec_id", "code_dim", "storage") if found.get(key) != wanted[key]]
    if differing:
        told = ", ".join(f"{key} {str(found.get(key))[:12]} instead of {str(wanted[key])[:12]}" for key in differing)
        raise CodecMismatchError(f"{where}: the column was filled with {told}; open it with the codec that filled it")
