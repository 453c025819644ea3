"""Write a codec file where nothing is lost by it: another codec is replaced only when that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vaecodec.artifact import read_artifact
from vaecodec.errors import ArtifactError
from vaecodec.files import write_atomically
from vaecodec.files.outputs import check_file


def write_codec_file(path: str | os.PathLike[str], data: bytes, *, overwrite: bool) -> None:
    """Write a signed codec file; the same content may be written again.

    Raises:
        OutputExistsError: as :func:`refuse_existing` does.
    """
    refuse_existing(path, overwrite=overwrite, data=data)
    write_atomically(path, data)


def refuse_existing(
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    data: bytes | None = None,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Check a destination by the rule of :mod:`vaecodec.files.outputs`, before any work is done for it.

    Args:
        path: the destination.
        overwrite: another codec file there may be replaced.
        data: what will be written, where it is known already; a file that holds the same is no obstacle.
        inputs: files that are read.

    Raises:
        OutputExistsError: a codec file is there and ``overwrite`` is False; or what is there is an input or no codec
            file, which is never replaced.
        FileNotFoundError: there is no folder for it.
    """
    target = Path(path)
    if data is not None and target.is_file() and target.read_bytes() == data:
        return
    there = _codec_at(target)
    check_file(
        target,
        is_ours=lambda _: bool(there),
        overwrite=overwrite,
        inputs=inputs,
        kind="a codec file",
        found=f"{there} is there, and only it can read the indexes and codes that it made",
    )


def _codec_at(path: Path) -> str:
    """Return which codec file, or part of one, is at a path; an empty string for anything else."""
    try:
        data = path.read_bytes() if path.is_file() else b""  # to read a pipe would wait for who writes to it
    except OSError:
        return ""
    if b"vaecodec.codec_id" not in data:
        return ""
    try:
        return f"the codec {read_artifact(path)[1].codec_id[:12]}…"
    except ArtifactError:
        return "a codec file that this version does not read"
