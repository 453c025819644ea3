"""Write the files that hold one shard of an output each: raw rows of an array, or Parquet."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.bulk.inputs import Piece
from vaecodec.extras import require

# Collect Parquet rows up to this size, then write them as one row group.
_ROW_GROUP_BYTES = 32 << 20


def part_path(folder: Path, number: int, suffix: str) -> Path:
    """Return where a shard's file is once it is finished."""
    return folder / f"part-{number:05d}{suffix}"


def bad_rows_path(folder: Path, number: int) -> Path:
    """Return where the list of a shard's bad rows is, if there are any."""
    return folder / f"part-{number:05d}.bad-rows.csv"


class Part(Protocol):
    """Write the file of one shard; a context manager that has it safely on disk when it ends without an error."""

    def __enter__(self) -> Part: ...
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...
    def write(self, piece: Piece, values: NDArray[Any]) -> None: ...


class ArrayPart:
    """Write rows as raw bytes; they become one array in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> ArrayPart:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _close(self._file, self._path, kind)

    def write(self, _: Piece, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values).data)


class ParquetPart:
    """Write rows with their other columns, gathered into row groups of a useful size."""

    def __init__(self, path: Path, schema: Any, column: str) -> None:
        self._path, self._schema, self._column = path, schema, column
        self._arrow = require("pyarrow", extra="parquet")
        self._gathered: list[Any] = []
        self._gathered_bytes = 0

    def __enter__(self) -> ParquetPart:
        self._file = self._path.open("wb")
        parquet = require("pyarrow.parquet", extra="parquet")
        self._writer = parquet.ParquetWriter(self._file, self._schema, write_page_checksum=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._writer.close()
            else:
                with suppress(Exception):  # close it now, or the garbage collector tries again later
                    self._writer.close()
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            _close(self._file, self._path, kind)

    def write(self, piece: Piece, values: NDArray[Any]) -> None:
        lists = self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(values.reshape(-1)), values.shape[1])
        if piece.batch is None:
            batch = self._arrow.record_batch([self._arrow.array(piece.numbers), lists], schema=self._schema)
        else:
            columns = [lists if n == self._column else piece.batch.column(n) for n in self._schema.names]
            batch = self._arrow.record_batch(columns, schema=self._schema)
        self._gathered.append(batch)
        self._gathered_bytes += batch.nbytes
        if self._gathered_bytes > _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            table = self._arrow.Table.from_batches(self._gathered)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
            self._gathered, self._gathered_bytes = [], 0


def _close(file: IO[bytes], path: Path, failed: type[BaseException] | None) -> None:
    if failed is None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
    else:
        with suppress(OSError):  # closing writes the buffer, which fails again on a full disk
            file.close()
        path.unlink()
