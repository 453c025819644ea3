"""Keep with each output of a bulk job how it was encoded, so that it is only decoded the same way.

Of an array the facts are in ``OUT.npy.json``, with the checksum of the array. Of Parquet they are in every file, in the
metadata of the column and of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vaecodec.errors import AmbiguousColumnError, CodecMismatchError, MalformedSourceError
from vaecodec.files import sha256
from vaecodec.files.stored_json import parse_object
from vaecodec.interface import VectorCodec
from vaecodec.sources.parquet import open_parquet, parquet_files
from vaecodec.two_models.bridge import decoded_by

KEY = b"vaecodec"
"""The key of Parquet's metadata under which the facts are, as JSON."""

_LATENTS = {"dtype": "float32", "bytes": None}


def facts_path(array: Path) -> Path:
    """Return the path of the facts of an array."""
    return array.with_name(array.name + ".json")


def is_facts_file(path: Path) -> bool:
    """Tell whether vaecodec wrote a file of facts."""
    try:
        facts = parse_object(path.read_bytes())
    except (OSError, ValueError):
        return False
    return facts.get("work") in ("encode", "decode") and "codec_id" in facts


def has_facts(file: Path) -> bool:
    """Tell whether a file is Parquet that vaecodec wrote."""
    try:
        with open_parquet(file) as parquet:
            return KEY in (parquet.schema_arrow.metadata or {})
    except MalformedSourceError:
        return False


def arrow_metadata(known: Any, facts: dict[str, Any]) -> dict[bytes, bytes]:
    """Return the metadata of an Arrow schema or field, or None, with the facts added."""
    return {**(known or {}), KEY: json.dumps(facts).encode()}


def column_with_facts(path: Path, column: str | None) -> str | None:
    """Return the column to decode of a Parquet file or folder: the one asked for, or the only one with facts.

    Raises:
        AmbiguousColumnError: several columns have facts, and none was asked for.
    """
    if column is not None or not is_parquet(path):
        return column
    with open_parquet(parquet_files(path)[0]) as parquet:
        columns = [field.name for field in parquet.schema_arrow if KEY in (field.metadata or {})]
    if len(columns) > 1:
        raise AmbiguousColumnError(f"{path}: several columns were encoded: {', '.join(columns)}; say which is meant")
    return columns[0] if columns else None


def is_parquet(path: Path) -> bool:
    """Tell whether a path is read as Parquet."""
    return path.is_dir() or path.suffix.lower() == ".parquet"


def settings_of(path: Path, column: str | None, codec: VectorCodec) -> dict[str, Any]:
    """Return ``dtype`` and ``bytes`` of the code that a file or folder was written in; float32 latents without facts.

    Args:
        path: the array, or the Parquet file or folder, of which every file is checked.
        column: the column to decode.
        codec: the codec that is to decode it.

    Raises:
        CodecMismatchError: another codec wrote a file, or the same at another width; or the files differ.
        MalformedSourceError: the facts are damaged, or belong to another array.
    """
    files = parquet_files(path) if is_parquet(path) else [path]
    found = {file: _stored(file, column) for file in files}
    unknown = [file for file, stored in found.items() if stored is None]
    if len(unknown) == len(files):
        return _LATENTS
    if unknown:
        raise CodecMismatchError(
            f"{unknown[0]}: holds nothing about the codec that wrote it, unlike other files of {path}; decode it apart"
        )
    first: dict[str, Any] = {}
    for file, stored in found.items():
        settings = _settings(file if first else path, file, stored or "", codec)
        first = first or settings
        if settings != first:
            raise CodecMismatchError(
                f"{file}: expected the same code as in {files[0]}, {_words(first)}, got {_words(settings)}; "
                "decode them one at a time"
            )
    return first


def check_not_encoded(files: Iterable[Path], column: str | None) -> None:
    """Raise CodecMismatchError if a file to encode holds latents or codes already."""
    for file in files:
        stored = _stored(file, column)
        if stored is None:
            continue
        facts = _parse(file, stored)
        if facts["work"] == "encode":
            raise CodecMismatchError(
                f"{file}: codec {str(facts['codec_id'])[:16]} has encoded these vectors already; expected embeddings"
            )


def _stored(file: Path, column: str | None) -> str | bytes | None:
    if is_parquet(file):
        with open_parquet(file) as parquet:
            schema = parquet.schema_arrow
        fields = {field.name: (field.metadata or {}).get(KEY) for field in schema}
        if any(fields.values()):
            return None if column is None else fields.get(column)
        stored: bytes | None = (schema.metadata or {}).get(KEY)
        return stored
    if file.suffix == ".npy" and facts_path(file).exists():
        return facts_path(file).read_text(errors="replace")
    return None


def _settings(name: Path, file: Path, stored: str | bytes, codec: VectorCodec) -> dict[str, Any]:
    facts = _parse(name, stored)
    if facts["work"] != "encode":
        raise CodecMismatchError(
            f"{name}: holds reconstructed embeddings, which cannot be decoded once more; give latents or codes"
        )
    if facts["codec_id"] != decoded_by(codec):
        raise CodecMismatchError(
            f"{name}: written by codec {facts['codec_id'][:16]}, cannot be decoded by codec {codec.codec_id[:16]}; "
            "load the codec that wrote it"
        )
    if facts["code_dim"] != codec.code_dim:
        raise CodecMismatchError(
            f"{name}: written with dim {facts['code_dim']}, cannot be decoded with dim {codec.code_dim}; "
            "load the codec with that dim"
        )
    if "sha256" in facts and facts["sha256"] != sha256(file):
        raise MalformedSourceError(
            f"{file}: the array was damaged or replaced since it was encoded: its checksum is not the one in "
            f"{facts_path(file).name}; encode again, or delete {facts_path(file).name} to decode it as float32 latents"
        )
    return {name: facts[name] for name in _LATENTS}


def _parse(file: Path, stored: str | bytes) -> dict[str, Any]:
    try:
        facts = parse_object(stored)
        encoded = facts["work"] == "encode"
        for name in ("codec_id", *(("code_dim", "dtype", "bytes") if encoded else ())):
            facts[name]
        facts["codec_id"] = str(facts["codec_id"])
    except (ValueError, LookupError) as error:
        raise MalformedSourceError(
            f"{file}: what was kept of how it was written, in .json beside an array and in the metadata of Parquet, "
            "is damaged; encode again"
        ) from error
    return facts


def _words(settings: dict[str, Any]) -> str:
    return f"{settings['bytes']} bytes per vector" if settings["bytes"] is not None else str(settings["dtype"])
