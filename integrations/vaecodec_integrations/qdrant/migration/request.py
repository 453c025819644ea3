"""Run a migration that is described by names and files: all of ``vaecodec migrate`` in one call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vaecodec.bulk import OnBadRows, OnProgress
from vaecodec.codec import Codec
from vaecodec.errors import MigrationError
from vaecodec_integrations.qdrant.connection import open_client
from vaecodec_integrations.qdrant.layout import UNNAMED, Originals
from vaecodec_integrations.qdrant.migration.alias import roll_back
from vaecodec_integrations.qdrant.migration.job import Migration
from vaecodec_integrations.qdrant.migration.run import (
    MigrationOutcome,
    MigrationSize,
    Started,
    estimate,
    migrate,
)
from vaecodec_integrations.row_encoding import PackedRows


@dataclass(frozen=True, kw_only=True)
class MigrationRequest:
    """Describe a migration by names and files.

    Attributes:
        collection: the source.
        codec: the codec file.
        url: address of the server; give exactly one of ``url`` and ``path``.
        path: folder of Qdrant's local mode.
        dim: width of the latents, where the file offers several.
        into, named, vector, code_bytes, batch_size, on_bad_rows: see :class:`Migration`.
        keep_originals: ``"none"``; ``"disk"``, as a vector on the server's disk; or the file to keep them in.
        originals_codec: the file of a codec whose codes that file holds instead of float16.
        originals_bytes: bytes of such a code.
        state: the file that records how far the copy got; by default it is named after the collections.
    """

    collection: str
    codec: Path
    url: str | None = None
    path: Path | None = None
    dim: int | None = None
    into: str | None = None
    named: str | None = None
    vector: str = UNNAMED
    code_bytes: int | None = None
    keep_originals: str = Originals.NONE
    originals_codec: Path | None = None
    originals_bytes: int | None = None
    batch_size: int = 1000
    on_bad_rows: OnBadRows = OnBadRows.FAIL
    state: Path | None = None

    @cached_property
    def loaded(self) -> Codec:
        """Return the codec."""
        return Codec.load(self.codec, dim=self.dim)

    @property
    def originals_path(self) -> Path | None:
        """Return the file of originals, where there is one."""
        return None if self.keep_originals in (Originals.NONE, Originals.DISK) else Path(self.keep_originals)

    @cached_property
    def originals_encoding(self) -> PackedRows | None:
        """Return how the file of originals stores a row as a code; None where it does not.

        Raises:
            MigrationError: only one of the other codec and the bytes is given, or no file of originals.
            CodecMismatchError, InvalidBudgetError, NotCalibratedError: the other codec has no such code of these
                vectors.
        """
        if self.originals_codec is None and self.originals_bytes is None:
            return None
        if self.originals_codec is None or self.originals_bytes is None or self.originals_path is None:
            raise MigrationError("originals_codec, originals_bytes: expected both, and a file of originals to write")
        rows = PackedRows(Codec.load(self.originals_codec), bytes=self.originals_bytes)
        rows.check_fits(self.loaded)
        return rows


def migrate_at(
    request: MigrationRequest,
    *,
    alias: str | None = None,
    started: Started = lambda _: None,
    progress: OnProgress = lambda _done, _total: None,
) -> MigrationOutcome:
    """Load the codecs, connect, and run the migration, as :func:`migrate` does.

    Call it again with the same request to go on after an interruption.

    Args:
        request: what is compressed, and where.
        alias: see :func:`migrate`.
        started: see :func:`migrate`.
        progress: see :func:`migrate`.

    Raises:
        ArtifactError, InvalidDimensionError: a codec file cannot be used.
        MigrationError, CodecMismatchError, InvalidVectorsError, BadRowsError, StoreError: see :func:`migrate`.
    """
    with _opened(request) as migration, closing(migration):
        return migrate(migration, alias=alias, started=started, progress=progress)


def estimate_at(request: MigrationRequest, *, alias: str | None = None) -> MigrationSize:
    """Return the size of the migration, and write nothing; raise as :func:`migrate_at` does when it cannot be done."""
    with _opened(request) as migration:
        return estimate(migration, alias=alias)


def roll_back_at(
    collection: str,
    *,
    url: str | None = None,
    path: str | os.PathLike[str] | None = None,
    into: str | None = None,
    named: str | None = None,
) -> str:
    """Connect to a server or open a folder, and undo a migration; see :func:`roll_back`."""
    with closing(open_client(url=url, path=path)) as client:
        return roll_back(client, collection, into=into, named=named)


@contextmanager
def _opened(request: MigrationRequest) -> Iterator[Migration]:
    codec, encoding, kept = request.loaded, request.originals_encoding, request.originals_path
    target = request.into or request.named
    with closing(open_client(url=request.url, path=request.path)) as client:
        yield Migration(
            client,
            request.collection,
            codec,
            request.state or Path(f"vaecodec-migrate-{request.collection}-{target}.json"),
            into=request.into,
            named=request.named,
            vector=request.vector,
            originals=Originals.FILE if kept else Originals(request.keep_originals),
            originals_path=kept,
            originals_encoding=encoding,
            code_bytes=request.code_bytes,
            batch_size=request.batch_size,
            on_bad_rows=request.on_bad_rows,
        )
