"""Decide whether an output may be written: one rule for everything that vaecodec writes.

What is there already is refused, unless vaecodec wrote it and the caller says ``overwrite``. An input is never
overwritten. A folder that holds anything else is left as it is. All of this is checked before any data is read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from vaecodec.errors import OutputExistsError

IsOurs = Callable[[Path], bool]
"""Tells whether vaecodec wrote a file; called with files that exist."""


def check_file(
    path: str | os.PathLike[str],
    *,
    is_ours: IsOurs,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
    parents: bool = False,
    kind: str = "",
    found: str = "",
) -> None:
    """Check that one file may be written.

    Args:
        path: the file to write.
        is_ours: see :data:`IsOurs`.
        overwrite: replace what is there, if vaecodec wrote it.
        inputs: what is read.
        parents: folders that are missing will be made.
        kind: what may be replaced, such as ``a codec file``, for the error message where something else is there.
        found: what is there and why it matters, for the error message; by default only that something is.

    Raises:
        OutputExistsError: something is there that vaecodec did not write, or ``overwrite`` is not given; or the file
            is one of the inputs.
        OSError: there is no such folder, or nothing can be written to it.
    """
    target = Path(path)
    check_not_input(target, inputs)
    if target.is_dir() and not kind:
        raise OutputExistsError(f"{path}: expected a file to write, got a folder; choose another name")
    if os.path.lexists(target):
        if not (target.is_file() and is_ours(target)):
            known = f"expected a new name, or {kind} to replace, but something else is there; choose another name"
            raise OutputExistsError(f"{path}: {known if kind else 'exists already; delete it or choose another name'}")
        _refuse_unasked(target, overwrite, found)
    folder = target.absolute().parent
    if not parents and not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    _check_ancestor(folder)


def check_folder(
    path: str | os.PathLike[str],
    *,
    is_ours: IsOurs,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
    found: str = "",
) -> None:
    """Check that a folder may be written, another one in its place; raises as :func:`check_file` does.

    Args:
        path: the folder to write; it may exist if it is empty, or ``overwrite`` is given and all in it is ours. The
            current folder is refused: whoever is in it would see nothing of the new one.
        is_ours: see :data:`IsOurs`; called with everything in the folder.
        overwrite: replace what is there, if vaecodec wrote it.
        inputs: what is read.
        found: as for :func:`check_file`.
    """
    target = Path(path)
    check_not_input(target, inputs)
    if target.is_dir():
        if _holds_current_folder(target):
            raise OutputExistsError(f"{path}: is or holds the current folder, which cannot be replaced; name a new one")
        entries = sorted(target.iterdir())
        foreign = next((entry for entry in entries if not is_ours(entry)), None)
        if foreign is not None:
            raise OutputExistsError(
                f"{path}: holds {foreign.name!r}, which vaecodec did not write; choose another name"
            )
        if entries:
            _refuse_unasked(target, overwrite, found)
    elif os.path.lexists(target):
        raise OutputExistsError(f"{path}: expected a folder to write, got a file; choose another name")
    _check_ancestor(target.absolute())


def check_is_folder(path: str | os.PathLike[str]) -> None:
    """Check that a folder may be written, or written to, whatever it holds.

    Raises:
        OutputExistsError: something else is there.
        OSError: nothing can be written to it, or to the folder that it will be made in.
    """
    if os.path.lexists(path) and not Path(path).is_dir():
        raise OutputExistsError(f"{path}: expected a folder to write, got a file; choose another name")
    _check_ancestor(Path(path).absolute())


def check_not_input(path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise OutputExistsError if the output is an input, lies within one, or holds one."""
    output = path.resolve()
    for given in inputs:
        read = Path(given).resolve()
        if output == read or (path.exists() and read.exists() and path.samefile(read)):
            raise OutputExistsError(f"{path}: is an input, which is never overwritten; choose another output")
        if output.is_relative_to(read):
            raise OutputExistsError(f"{path}: lies within the input, {given}, and would be read as part of it")
        if read.is_relative_to(output) and path.exists():
            raise OutputExistsError(f"{path}: holds the input {given}, which is never overwritten; choose another one")


def _holds_current_folder(target: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(target.resolve())
    except FileNotFoundError:  # the current folder was deleted
        return False


def _refuse_unasked(target: Path, overwrite: bool, found: str = "") -> None:
    if not overwrite:
        raise OutputExistsError(
            f"{target}: {found or 'exists already'}; choose another name, or replace it with overwrite (--overwrite)"
        )


def _check_ancestor(folder: Path) -> None:
    """Check that a folder, or the nearest one above it that exists, can be written to."""
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    if not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
