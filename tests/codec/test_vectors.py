"""Test what the boundary accepts, and the exact words with which it refuses."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaecodec.errors import (
    BadRowsError,
    InvalidVectorsError,
    NotFloatingPointError,
    WrongWidthError,
)
from vaecodec.interface import Metric
from vaecodec.vectors import as_array, as_vectors, blocks

ones = np.ones((5, 3), np.float32)


def with_row(row: int, value: float) -> np.ndarray:
    array = ones.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (
            ones[0],
            InvalidVectorsError,
            "vectors: expected a 2-D array (n, 3), got shape (3,); reshape one vector to (1, 3)",
        ),
        (ones[None], InvalidVectorsError, "vectors: expected a 2-D array (n, 3), got shape (1, 5, 3)"),
        (
            ones.astype(np.int8),
            NotFloatingPointError,
            "vectors: expected floating point values, got dtype int8; "
            "cast deliberately, e.g. vectors.astype(numpy.float32)",
        ),
        (
            ones[:, :2],
            WrongWidthError,
            "vectors: expected rows of width 3, got 2; "
            "were they made by the embedding model that the codec was trained for?",
        ),
        (
            with_row(3, np.nan),
            BadRowsError,
            "vectors: row 3 holds NaN or infinity, or a norm beyond float32; nothing was processed",
        ),
        (
            with_row(2, -np.inf),
            BadRowsError,
            "vectors: row 2 holds NaN or infinity, or a norm beyond float32; nothing was processed",
        ),
        (
            np.full((1, 3), 1e300),
            BadRowsError,
            "vectors: row 0 holds NaN or infinity, or a norm beyond float32; nothing was processed",
        ),
        (
            with_row(4, 0.0),
            BadRowsError,
            "vectors: row 4 has zero norm, which has no direction under cosine; nothing was processed",
        ),
    ],
)
def test_refuses_with_these_words(vectors: Any, error: type[InvalidVectorsError], message: str) -> None:
    with pytest.raises(error) as caught:
        as_vectors(vectors, 3, Metric.COSINE)
    assert str(caught.value) == message


def test_zero_rows_have_a_place_under_dot_and_l2() -> None:
    for metric in (Metric.DOT, Metric.L2):
        assert not as_vectors(np.zeros((2, 3)), 3, metric).any()


def test_rows_are_numbered_from_the_start_of_the_whole_array() -> None:
    bad = np.ones((100, 3))
    bad[71, 1] = np.nan
    with pytest.raises(BadRowsError, match="row 71 "):
        list(blocks(bad, 3, Metric.COSINE, rows=10))
    with pytest.raises(BadRowsError, match="row 1071 "):
        list(blocks(bad, 3, Metric.COSINE, rows=10, first_row=1000))


@given(
    hnp.arrays(
        st.sampled_from([np.dtype(name) for name in ("f2", "f4", "f8", ">f4")]),
        st.tuples(st.integers(0, 20), st.just(4)),
        elements=st.floats(1, 100, width=16),
    ),
    st.integers(1, 7),
    st.booleans(),
)
def test_blocks_are_the_array_whatever_its_dtype_and_layout(array: np.ndarray, rows: int, fortran: bool) -> None:
    given_array = np.asfortranarray(array) if fortran else array
    before = given_array.copy()
    pieces = list(blocks(given_array, 4, Metric.COSINE, rows=rows))
    assert [start for start, _ in pieces] == list(range(0, len(array), rows))
    for _, piece in pieces:
        assert piece.dtype == np.float32
        assert piece.flags.c_contiguous
        assert len(piece) <= rows
    joined = np.concatenate([piece for _, piece in pieces]) if pieces else np.empty((0, 4))
    assert np.array_equal(joined, array.astype(np.float32))
    assert np.array_equal(given_array, before)


HELD = {
    "a list of rows": ones.tolist(),
    "an array of bfloat16": ones.astype(ml_dtypes.bfloat16),
    "a series of lists": pd.Series(ones.tolist()),
    "a data frame": pd.DataFrame(ones),
    "a column of lists": pa.array(ones.tolist()),
    "a column of lists of one width": pa.FixedSizeListArray.from_arrays(pa.array(ones.ravel()), 3),
    "a masked array without masked values": np.ma.masked_array(ones),
}


@pytest.mark.parametrize("vectors", HELD.values(), ids=list(HELD))
def test_numbers_are_taken_from_whatever_holds_them(vectors: Any) -> None:
    assert np.array_equal(as_vectors(vectors, 3, Metric.COSINE), ones)


def test_numbers_are_taken_from_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vaecodec[train]'")
    for tensor in (torch.tensor(ones, requires_grad=True), torch.tensor(ones).bfloat16()):
        assert np.array_equal(as_vectors(tensor, 3, Metric.COSINE), ones)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, 2.0, 3.0], [1.0]], "queries: expected rows of one width, got a list that is no matrix: "),
        (pa.array([[1.0, 2.0, 3.0], None]), "queries: expected rows of one width, got a ListArray that is no matrix: "),
        (
            np.ma.masked_greater(with_row(2, 5.0), 4.0),
            "queries: expected no masked values, got some; fill them or drop",
        ),
        ([["1", "2", "3"]], "queries: expected floating point values, got dtype <U1"),
        ([[True, False, True]], "queries: expected floating point values, got dtype bool"),
        (object(), "queries: expected a 2-D array"),
        (None, "queries: expected a 2-D array"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(vectors: Any, message: str) -> None:
    with pytest.raises(InvalidVectorsError, match=re.escape(message)):
        as_vectors(vectors, 3, Metric.COSINE, name="queries")


def test_an_array_is_not_copied() -> None:
    assert as_array(ones) is ones
