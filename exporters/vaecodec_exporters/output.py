"""Write a codec file where nothing is lost by it: another codec is replaced only when that is asked for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from vaecodec.artifact import read_artifact
from vaecodec.errors import ArtifactError, OutputExistsError
from vaecodec.files import write_atomically


def write_codec_file(path: str | os.PathLike[str], data: bytes, *, overwrite: bool) -> None:
    """Write a signed codec file; the same content may be written again.

    Raises:
        OutputExistsError: as :func:`refuse_existing` does.
    """
    refuse_existing(path, overwrite=overwrite, data=data)
    write_atomically(path, data)


def refuse_existing(path: str | os.PathLike[str], *, overwrite: bool, data: bytes | None = None) -> None:
    """Check a destination before any work is done for it.

    Args:
        path: the destination.
        overwrite: another codec file there may be replaced.
        data: what will be written, where it is known already; a file that holds the same is no obstacle.

    Raises:
        OutputExistsError: a codec file is there and ``overwrite`` is False; or what is there is no codec file, which
            is never replaced.
        FileNotFoundError: there is no folder for it.
    """
    target = Path(path)
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    if not os.path.lexists(target) or (target.is_file() and data is not None and target.read_bytes() == data):
        return
    found = _codec_at(target)
    if not found:
        raise OutputExistsError(
            f"{path}: expected a new name, or a codec file to replace, but something else is there; choose another name"
        )
    if not overwrite:
        raise OutputExistsError(
            f"{path}: {found} is there, and only it can read the indexes and codes that it made; choose another name, "
            "or replace it with --overwrite (overwrite=True)"
        )


def _codec_at(path: Path) -> str:
    """What codec file, or part of one, lies at a path; an empty string where it is something else."""
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    if b"vaecodec.codec_id" not in data:
        return ""
    try:
        return f"the codec {read_artifact(path)[1].codec_id[:12]}…"
    except ArtifactError:
        return "a codec file that this version does not read"
