"""Check rows and ids before an index changes, and keep the codec's identity: what the index adapters share."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    CodecMismatchError,
    IndexArgumentError,
    IndexFileError,
)
from vaecodec.interface import FloatArray, VectorCodec
from vaecodec.vectors import as_rows

Labels = NDArray[np.uint64]


class LatentIndex:
    """Keep a codec's latents in an index that takes and gives vectors of the original width: the base class.

    Args:
        codec: turns embeddings into latents and back.
    """

    def __init__(self, codec: VectorCodec) -> None:
        self._codec = codec
        self._lock = threading.Lock()

    @property
    def codec(self) -> VectorCodec:
        """Return the codec that the index was made with."""
        return self._codec

    def _rows(self, data: Any, *, name: str = "vectors") -> NDArray[Any]:
        """Return a 2-D array for the codec to check; one vector becomes one row."""
        array: NDArray[Any] = as_rows(data, name=name)
        return array.reshape(1, -1) if array.ndim == 1 else array


def identity(codec: VectorCodec) -> dict[str, Any]:
    """Return the header fields that every saved index has."""
    return {
        "codec_id": codec.codec_id,
        "embedder": codec.embedder,
        "dim": codec.dim,
        "code_dim": codec.code_dim,
    }


def check_field(saved: Mapping[str, Any], field: str, wanted: Any, path: str | os.PathLike[str]) -> None:
    """Compare a field of a saved index's header with what it must be; raises ``IndexFileError``."""
    if saved[field] != wanted:
        raise IndexFileError(
            f"{os.fspath(path)}: expected {wanted!r} as {field} in the header, got {saved[field]!r:.80}; save it again"
        )


def check_same_codec(saved: Mapping[str, Any], codec: VectorCodec, path: str | os.PathLike[str]) -> None:
    """Compare a saved index's header with the codec at hand; raises ``CodecMismatchError``.

    The width counts too: codecs of several widths in one file share its id.
    """
    if (saved["codec_id"], saved["code_dim"]) != (codec.codec_id, codec.code_dim):
        raise CodecMismatchError(
            f"{os.fspath(path)}: filled by codec {saved['codec_id'][:12]}… ({saved['dim']} to {saved['code_dim']}), "
            f"but this index has codec {codec.codec_id[:12]}… ({codec.dim} to {codec.code_dim}); load it with the "
            "codec that filled it"
        )


def as_labels(ids: Any, rows: int | None) -> Labels:
    """Return ids as uint64 (rows,), any number of them when ``rows`` is None; raises ``IndexArgumentError``.

    Args:
        ids: integers as an array or a list; an array of objects is read item by item.
    """
    array = _exact_integers(ids)
    if array.ndim == 0 and rows == 1:
        array = array.reshape(1)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        wanted = "a list of integers" if rows is None else f"{rows} integers, one for each vector"
        raise IndexArgumentError(f"ids: expected {wanted}, got shape {array.shape}")
    if len(array) and array.dtype.kind not in "iu":
        raise IndexArgumentError(f"ids: expected integers from 0 to 2**64 - 1, got dtype {array.dtype}")
    if array.dtype.kind == "i" and len(array) and array.min() < 0:
        raise IndexArgumentError(f"ids: expected integers from 0 to 2**64 - 1, got {array.min()}")
    return array.astype(np.uint64)


def _exact_integers(ids: Any) -> NDArray[Any]:
    """Return an array of ids; numpy alone turns a list of small and very large integers into floats, losing digits."""
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError) as error:
        raise IndexArgumentError(f"ids: expected a list of integers, got lists of several lengths: {error}") from error
    if isinstance(ids, np.ndarray) and array.dtype != object:
        return array
    if array.dtype.kind not in "fO" or not array.size:
        return array
    items = np.asarray(ids, object).ravel().tolist()
    if not all(isinstance(item, (int, np.integer)) and not isinstance(item, bool) for item in items):
        return array
    wrong = next((item for item in items if not 0 <= item < 2**64), None)
    if wrong is not None:
        raise IndexArgumentError(f"ids: expected integers from 0 to 2**64 - 1, got {wrong}")
    return np.array([int(item) for item in items], np.uint64).reshape(array.shape)


def last_of_each(labels: NDArray[Any], latents: FloatArray) -> tuple[NDArray[Any], FloatArray]:
    """Return the last row of each id in a batch, as if the rows had been added one by one."""
    last = np.sort(len(labels) - 1 - np.unique(labels[::-1], return_index=True)[1])
    return labels[last], latents[last]
