"""Fetch codec files from the Hugging Face Hub, or from a folder laid out alike, and publish them with their card.

What is fetched is a codec file, read as any other: nothing in it is executed or unpickled.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vaecodec.artifact import read_artifact
from vaecodec.card import card
from vaecodec.errors import ArtifactError, ArtifactNotFoundError
from vaecodec.extras import require
from vaecodec.files import write_atomically
from vaecodec.files.outputs import check_file

FILE_NAME = "codec.onnx"
"""The name of the codec file in a repository."""
CARD = "README.md"


def fetch(repository: str | os.PathLike[str], file: str = FILE_NAME, revision: str | None = None) -> Path:
    """Return the path of a codec file: in a local folder, or downloaded into the cache of huggingface_hub.

    Args:
        repository: an existing folder, or ``owner/name`` on the Hub.
        file: name of the codec file there.
        revision: branch, tag or commit on the Hub; only a commit names one content for ever.

    Raises:
        ArtifactNotFoundError: there is no such repository, revision or file.
        MissingExtraError: huggingface_hub is not installed, and no such folder exists.
        OSError: the Hub does not answer, or refuses.
    """
    if Path(repository).is_dir():
        found = Path(repository) / file
        if not found.is_file():
            raise ArtifactNotFoundError(f"{found}: there is no such codec file; name it with file=...")
        return found
    hub = require("huggingface_hub", extra="hub")
    errors = require("huggingface_hub.errors", extra="hub")
    try:
        return Path(hub.hf_hub_download(str(repository), file, revision=revision))
    except (errors.GatedRepoError, errors.LocalEntryNotFoundError):  # the hub refused the request or did not answer
        raise
    except (
        errors.HFValidationError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    ) as error:
        where = f"{repository}, revision {revision}" if revision else str(repository)
        raise ArtifactNotFoundError(
            f"{where}: no such folder, and no {file} on the Hub that you may read; expected a folder or owner/name"
        ) from error


def save(data: bytes, folder: str | os.PathLike[str], *, repository: str = "", overwrite: bool = False) -> Path:
    """Write a codec file and its card into a folder as a repository has them: ``codec.onnx`` and ``README.md``.

    A card that is there stays: people may have written it.

    Args:
        data: the bytes of a codec file, verified.
        folder: it is made where it is missing.
        repository: ``owner/name`` that the card tells readers to load.
        overwrite: replace another codec there.

    Returns:
        The path of the codec file.

    Raises:
        OutputExistsError: the folder holds another codec, or something that is none.
        OSError: the folder cannot be written to.
    """
    target = Path(folder) / FILE_NAME
    if not (target.is_file() and target.read_bytes() == data):
        check_file(target, is_ours=_is_codec, overwrite=overwrite, parents=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
    if not (target.parent / CARD).exists():
        write_atomically(target.parent / CARD, card(target, repository=repository).encode())
    return target


def push(data: bytes, repository: str, *, private: bool = False, revision: str | None = None) -> str:
    """Publish a codec file with its card on the Hub, and return the address of the commit.

    Args:
        data: the bytes of a codec file, verified.
        repository: ``owner/name``; it is made where it is missing. Its card is replaced by that of this codec.
        private: whether a new repository is private.
        revision: branch to write to.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        OSError: the Hub does not answer, or refuses.
    """
    hub = require("huggingface_hub", extra="hub")
    with tempfile.TemporaryDirectory() as folder:
        save(data, folder, repository=repository)
        api = hub.HfApi(library_name="vaecodec")
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, revision=revision, commit_message="Upload codec"
        )
    return str(done.commit_url)


def _is_codec(path: Path) -> bool:
    try:
        read_artifact(path)
    except ArtifactError:
        return False
    return True
