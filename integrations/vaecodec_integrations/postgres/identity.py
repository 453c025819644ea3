"""Keep in the comment of a column how it was filled: by which codec, and in which form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError
from vaecodec.files.stored_json import parse_object
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.reranking import OriginalsColumn

_MARK = "vaecodec: "
# What a record tells people; everything else in it is compared.
_TOLD_ONLY = ("embedder",)


def latents_record(codec: Codec, storage: Storage) -> dict[str, Any]:
    """Return the record of a column of latents."""
    return {
        "codec_id": codec.codec_id,
        "dim": codec.dim,
        "code_dim": codec.code_dim,
        "embedder": codec.embedder,
        "storage": str(storage),
    }


def originals_record(codec: Codec, originals: OriginalsColumn) -> dict[str, Any]:
    """Return the record of the column of originals beside the latents of a codec."""
    form = "float16" if originals.codec is None else "codes"
    return {"originals": form, "dim": codec.dim, **originals.record()}


def with_record(comment: str | None, record: Mapping[str, Any]) -> str:
    """Return a column's comment with the record as its last line; what people wrote stays."""
    own = [line for line in (comment or "").splitlines() if not line.startswith(_MARK)]
    return "\n".join([*own, _MARK + json.dumps(record, sort_keys=True)])


def has_record(comment: str | None) -> bool:
    """Return whether a comment has the line of a record, readable or not."""
    return any(line.startswith(_MARK) for line in (comment or "").splitlines())


def read_record(comment: str | None) -> dict[str, Any] | None:
    """Return the record in a comment, or None where there is none that can be read."""
    for line in (comment or "").splitlines():
        if line.startswith(_MARK):
            try:
                return parse_object(line.removeprefix(_MARK))
            except ValueError:
                return None
    return None


def check_record(where: str, comment: str | None, wanted: Mapping[str, Any]) -> None:
    """Compare a column's comment with the codec and the form that are expected.

    Args:
        where: names the column in messages, such as ``public.docs.embedding``.
        comment: the column's comment in the database.
        wanted: the record of what the application opened the column with.

    Raises:
        CodecMismatchError: the comment names another codec, another width, type or form, or none.
    """
    found = read_record(comment)
    if found is None:
        raise CodecMismatchError(
            f"{where}: expected the codec's record in the column's comment, got none; if the column is new or was "
            f"filled with {_described(wanted)}, write the record with CompressedColumn.record(connection)"
        )
    if any(found.get(key) != wanted[key] for key in wanted if key not in _TOLD_ONLY):
        raise CodecMismatchError(
            f"{where}: expected {_described(wanted)}, but the column was filled with {_described(found)}; open it with "
            "the codec that filled it, in the same form, or give another column"
        )


def _described(record: Mapping[str, Any]) -> str:
    codec = f"codec {str(record.get('codec_id'))[:12]}…"
    if "originals" not in record:
        return f"{record.get('storage')} latents of {record.get('code_dim')} dimensions by {codec}"
    if record["originals"] == "float16":
        return f"float16 originals of {record.get('dim')} dimensions"
    return f"codes of {record.get('code_bytes')} bytes by {codec}, {record.get('code_dim')} latents"
