"""Check user input once, at one boundary: nothing behind it checks an array again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    BadRowsError,
    InvalidVectorsError,
    NotFloatingPointError,
    WrongWidthError,
)
from vaecodec.interface import FloatArray, Metric

# Large enough that starting onnxruntime and its threads costs little of a block's time, and that a batch of a thousand
# rows is one block at most widths; of wide vectors as many rows as full matrix-product speed takes.
ENCODED_BYTES = 3 << 20
_FEWEST_ROWS = 512

# Below this the square of a norm loses its digits in float32, so the direction is noise.
SMALLEST_NORM = 1e-12

ROUNDING = 1e-5
"""Numbers computed in float32 that differ by less, relative to the rows they come from, may differ by rounding only.

No two processors round a matrix product alike: nothing may hang on whether such a difference is zero.
"""

# What is wrong with a row, in the words of every message and every list of bad rows.
NOT_FINITE, NO_DIRECTION = "NaN or infinity, or a norm beyond float32", "zero norm"

# Squared norms of normalised rows are near one, whatever the precision; of what had no direction they are near zero.
_UNIT = 0.25

_FLOAT32 = np.dtype(np.float32)


def blocks(
    vectors: Any, dim: int, metric: Metric, *, name: str = "vectors", rows: int | None = None, first_row: int = 0
) -> Iterator[tuple[int, FloatArray]]:
    """Cut an array into checked blocks of bounded memory.

    Args:
        vectors: float (n, dim) of any float dtype and layout, or a memory map; never written to.
        dim: the width expected.
        metric: under ``COSINE`` every row must have a direction.
        name: what the array is called in error messages.
        rows: rows per block; by default as many as fill 3 MiB, and 512 at least.
        first_row: the number of the array's first row in error messages, when it is part of a larger whole.

    Yields:
        The block's first row number, and the block: float32 (rows, dim), C-contiguous, finite. A block may be
        a view of the caller's array.

    Raises:
        InvalidVectorsError: one of its subclasses, naming the first bad row.
    """
    array = _two_dimensional(vectors, dim, name)
    step = rows if rows is not None else block_rows(dim, ENCODED_BYTES)
    for start in range(0, len(array), step):
        block = _as_float32(array[start : start + step])
        _check_rows(block, first_row + start, metric, name)
        yield start, block


def block_rows(width: int, block_bytes: int) -> int:
    """Return the rows of float32 that make a block: as many as fill ``block_bytes``, and 512 at least."""
    return max(_FEWEST_ROWS, block_bytes // (4 * width))


def as_vectors(vectors: Any, dim: int, metric: Metric, *, name: str = "vectors") -> FloatArray:
    """Return the whole array as one checked block: float32 (n, dim), C-contiguous; raises as :func:`blocks` does."""
    array = _two_dimensional(vectors, dim, name)
    return next(
        (block for _, block in blocks(array, dim, metric, name=name, rows=max(1, len(array)))),
        np.empty((0, dim), np.float32),
    )


def is_checked_row(vectors: Any, dim: int, metric: Metric) -> bool:
    """Tell whether this is one good row as :func:`blocks` would yield it: the short way for a single query.

    Between two products of weights the processor's caches are cold for Python, so that every line here costs
    microseconds of a query's latency.
    """
    return bool(
        type(vectors) is np.ndarray
        and vectors.shape == (1, dim)
        and vectors.dtype is _FLOAT32
        and vectors.flags.c_contiguous
        and (SMALLEST_NORM**2 if metric is Metric.COSINE else 0.0) <= np.vdot(vectors, vectors) < np.inf
    )


def normalised(vectors: FloatArray) -> FloatArray:
    """Return rows scaled to unit L2 norm: float32 (n, d) in and out, a new array; rows must have a direction."""
    return np.asarray(vectors / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None], np.float32)


def normalised_or_zero(rows: FloatArray) -> FloatArray:
    """Return rows of unit norm, float32 (n, d); rows of zeros stay so."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny)[:, None], np.float32)


def as_compared(vectors: FloatArray, metric: Metric) -> FloatArray:
    """Return rows as a metric compares them: scaled to unit norm under cosine, otherwise the array itself."""
    return normalised(vectors) if metric is Metric.COSINE else vectors


def faults(block: FloatArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows of a float32 (n, d) array are wrong: bool (n,) each.

    Returns:
        The rows that hold NaN or infinity or whose squared norm overflows float32, and the finite rows of zero
        norm, which are wrong under cosine.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squared_norms = np.einsum("ij,ij->i", block, block)
    finite = np.isfinite(squared_norms)
    return ~finite, finite & (squared_norms < SMALLEST_NORM**2)


def as_array(vectors: Any, *, name: str = "vectors") -> np.ndarray[Any, Any]:
    """Turn whatever holds numbers into a numpy array, without a copy where numpy can do without.

    Takes arrays, lists of rows, tensors of torch on any device, with gradients or of bfloat16, series and columns whose
    entries are rows (pandas, polars, pyarrow), data frames of floats, arrays of bfloat16, and whatever offers
    ``__array__`` or ``__dlpack__``.

    Raises:
        InvalidVectorsError: rows of several widths or none, masked values, a table with other columns than floats, or
            no array at all.
    """
    if type(vectors) is np.ndarray and vectors.dtype.kind == "f":
        return vectors
    if isinstance(vectors, np.ma.MaskedArray):
        if np.ma.is_masked(vectors):
            raise InvalidVectorsError(f"{name}: expected no masked values, got some; fill them or drop the rows")
        return np.asarray(vectors.data)
    given = vectors
    try:
        vectors = _for_numpy(vectors)
        if isinstance(vectors, list | tuple) and any(map(_holds_more, {type(row) for row in vectors})):
            vectors = [as_array(row, name=name) for row in vectors]
        array = np.asarray(vectors)
        if array.dtype == object and array.ndim == 1 and len(array):
            array = np.stack([as_array(row, name=name) for row in array])
    except InvalidVectorsError:
        raise
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        raise InvalidVectorsError(
            f"{name}: expected rows of one width, got a {type(vectors).__name__} that is no matrix: {error}"
        ) from error
    if array.dtype == object and array.ndim != 1 and is_table(given):
        raise InvalidVectorsError(
            f"{name}: expected rows of floats, got a whole {type(given).__name__}; "
            "give its column of vectors, such as table['vector'], read into memory"
        )
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def is_table(vectors: Any) -> bool:
    """Tell whether this has named columns: of pandas, polars or pyarrow, or a table of LanceDB on disk."""
    return any(hasattr(type(vectors), name) for name in ("columns", "column_names", "schema"))


def _for_numpy(vectors: Any) -> Any:
    """Return what numpy reads; nothing of the libraries that it comes from need be installed."""
    if callable(getattr(vectors, "detach", None)):  # a tensor of torch
        tensor = vectors.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    if callable(getattr(vectors, "as_py", None)):  # an entry of a pyarrow column
        return vectors.as_py()
    if _knows_missing_values(vectors):
        return vectors.to_numpy(np.float64, na_value=np.nan)
    if hasattr(vectors, "__dlpack__") and not hasattr(vectors, "__array__"):
        return np.from_dlpack(vectors)
    return vectors


def _knows_missing_values(vectors: Any) -> bool:
    """Tell whether this is a pandas data frame of types of floats of its own, of which numpy would make objects."""
    if not callable(getattr(vectors, "to_numpy", None)):
        return False
    types: Any = getattr(vectors, "dtypes", ())
    if np.ndim(types) != 1 or not len(types):
        return False
    return all(getattr(one, "kind", "") == "f" and not isinstance(one, np.dtype) for one in types)


def as_rows(vectors: Any, *, name: str = "vectors") -> np.ndarray[Any, Any]:
    """Turn vectors into an array as :func:`as_array` does, for entry points that take lists of Python's numbers.

    Integers in lists have no dtype of their own, and are values; integers of an array are refused by the codec.
    """
    array = as_array(vectors, name=name)
    return array.astype(np.float64) if array.dtype.kind in "iu" and isinstance(vectors, list | tuple) else array


def as_row(vector: Any, *, name: str = "vector") -> np.ndarray[Any, Any]:
    """Turn one vector, (d,), into a row as :func:`as_rows` does: (1, d)."""
    return as_rows(vector, name=name)[None]


def _holds_more(kind: type) -> bool:
    """Tell whether numpy would refuse an object of this type, or lose what it holds beside its numbers."""
    return issubclass(kind, np.ma.MaskedArray) or hasattr(kind, "detach") or hasattr(kind, "as_py")


def check_latents(latents: FloatArray, latent_metric: Metric, name: str, first_row: int = 0) -> None:
    """Refuse rows whose latents have no direction where they need one: they could not be searched nor decoded.

    Args:
        latents: float32 (n, code_dim), normalised where they have a direction.
        latent_metric: how they are compared.
        name: what the array of the rows is called in error messages.
        first_row: the number of the first row there.

    Raises:
        BadRowsError: naming the first one.
    """
    if latent_metric is not Metric.COSINE or not len(latents):
        return
    kept = np.einsum("ij,ij->i", latents, latents) >= _UNIT
    if not kept.all():
        raise BadRowsError(
            f"{name}: row {first_row + int(np.argmin(kept))} has latents of zero norm: nothing of it is in what the "
            "codec keeps; leave the row out, or fit the codec on data with such rows"
        )


def as_matrix(vectors: Any, *, name: str = "vectors", dim: int | None = None) -> np.ndarray[Any, Any]:
    """Turn vectors into an array as :func:`as_array` does, and check its form but not its values.

    Args:
        vectors: float (n, d).
        name: what the array is called in error messages.
        dim: the width expected, for error messages.

    Raises:
        InvalidVectorsError: it is not two-dimensional, or a subclass: it does not hold floating point values.
    """
    array = as_array(vectors, name=name)
    if array.ndim != 2:
        width = "d" if dim is None else dim
        hint = f"; reshape one vector to (1, {width})" if array.ndim == 1 and array.dtype != object else ""
        raise InvalidVectorsError(f"{name}: expected a 2-D array (n, {width}), got shape {array.shape}{hint}")
    if array.dtype.kind != "f":
        raise NotFloatingPointError(
            f"{name}: expected floating point values, got dtype {array.dtype}; "
            "cast deliberately, e.g. vectors.astype(numpy.float32)"
        )
    return array


def _two_dimensional(vectors: Any, dim: int, name: str) -> np.ndarray[Any, Any]:
    array = as_matrix(vectors, name=name, dim=dim)
    if array.shape[1] != dim:
        raise WrongWidthError(
            f"{name}: expected rows of width {dim}, got {array.shape[1]}; "
            "were they made by the embedding model that the codec was trained for?"
        )
    return array


def _as_float32(rows: np.ndarray[Any, Any]) -> FloatArray:
    if rows.dtype == np.float32:
        return np.ascontiguousarray(rows, dtype=np.float32)  # the byte order may still differ
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
        return np.ascontiguousarray(rows, dtype=np.float32)


def _check_rows(block: FloatArray, start: int, metric: Metric, name: str) -> None:
    smallest = SMALLEST_NORM**2 if metric is Metric.COSINE else 0.0
    # One pass finds all of it: NaN, infinity and overflow in the sums' largest, a missing direction in their smallest.
    squared_norms = np.einsum("ij,ij->i", block, block)
    if squared_norms.min() >= smallest and squared_norms.max() < np.inf:
        return
    finite = np.isfinite(squared_norms)
    if not finite.all():
        row = start + int(np.argmin(finite))
        raise BadRowsError(f"{name}: row {row} holds {NOT_FINITE}; nothing was processed")
    row = start + int(np.argmax(squared_norms < smallest))
    raise BadRowsError(
        f"{name}: row {row} has {NO_DIRECTION}, which has no direction under cosine; nothing was processed"
    )
