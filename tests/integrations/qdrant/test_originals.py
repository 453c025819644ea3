"""The file of originals: what is appended is found again, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec.errors import MissingOriginalsError, NonFiniteError, OriginalsError, WrongWidthError
from vaecodec_integrations.qdrant import OriginalsFile

DIM = 5
POINT_IDS = st.one_of(st.integers(0, 2**64 - 1), st.uuids(), st.uuids().map(str))


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float16).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "originals.f16"


@settings(max_examples=25)
@given(batches=st.lists(st.lists(POINT_IDS, min_size=1, max_size=12), min_size=1, max_size=5))
def test_the_newest_row_of_every_id_is_found(batches: list[list[Any]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("originals") / "o"
    newest: dict[str, np.ndarray] = {}
    with OriginalsFile(path, DIM) as file:
        for number, ids in enumerate(batches):
            vectors = rows(len(ids), seed=number)
            file.append(ids, vectors)
            newest.update(zip(map(str, ids), vectors, strict=True))
    with OriginalsFile(path, DIM) as file:
        ids = [point_id for batch in batches for point_id in batch]
        np.testing.assert_array_equal(file.get(ids), [newest[str(point_id)] for point_id in ids])
        assert len(file) == len(newest)


def test_rows_are_half_precision(path: Path) -> None:
    vectors = np.array([[1, 1 / 3, -2e-5, 65504, 0]], np.float32)
    with OriginalsFile(path, DIM) as file:
        file.append([1], vectors)
        np.testing.assert_array_equal(file.get([1]), vectors.astype(np.float16).astype(np.float32))
    assert path.read_bytes() == vectors.astype("<f2").tobytes()


def test_a_file_of_something_else_is_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"a file of the user")
    with pytest.raises(OriginalsError, match=r"expected a new file, or one with originals\.f16\.ids beside it"):
        OriginalsFile(path, DIM)
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [(path.name, b"a file of the user")]
    with pytest.raises(OriginalsError, match="expected a folder to put the file in"):
        OriginalsFile(path.with_name("none") / "o", DIM)


def test_missing_ids_are_named(path: Path) -> None:
    with OriginalsFile(path, DIM) as file:
        file.append([1, 3], rows(2))
        found, there = file.find([3, 2, 1])
        assert there.tolist() == [True, False, True]
        np.testing.assert_array_equal(found, rows(2)[::-1])
        with pytest.raises(MissingOriginalsError, match="expected a vector for each of 3 points, got none for 1: 2;"):
            file.get([1, 2, 3])
        assert file.get([]).shape == (0, DIM)


@pytest.mark.parametrize(
    ("ids", "vectors", "error", "message"),
    [
        ([1, 2], rows(3), WrongWidthError, "expected one id per vector, got 2 ids and 3 vectors"),
        ([1], rows(1)[:, :4], WrongWidthError, "expected rows of width 5, got 4"),
        ([1], np.full((1, DIM), np.nan), NonFiniteError, "row 0 holds NaN"),
        (
            [1, 2],
            np.array([[0.0] * DIM, [1e6] * DIM]),
            OriginalsError,
            "row 1 holds 1e[+]06, beyond the range of float16",
        ),
        ([-1], rows(1), OriginalsError, "expected integers from 0 .* got -1"),
        (["word"], rows(1), OriginalsError, "expected integers from 0 .* got 'word'"),
    ],
)
def test_bad_input_writes_nothing(path: Path, ids: Any, vectors: Any, error: Any, message: str) -> None:
    with OriginalsFile(path, DIM) as file:
        file.append([9], rows(1))
        with pytest.raises(error, match=message):
            file.append(ids, vectors)
        assert len(file) == 1
    assert path.stat().st_size == 2 * DIM


def test_another_width_is_refused(path: Path) -> None:
    OriginalsFile(path, DIM).close()
    with pytest.raises(OriginalsError, match="expected dim 7, encoding float16, version 1, got dim 5, encoding"):
        OriginalsFile(path, 7)


def test_a_lost_or_cut_file_is_refused(path: Path) -> None:
    with OriginalsFile(path, DIM) as file:
        file.append([1, 2], rows(2))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OriginalsError, match=r"expected 2 rows, as originals\.f16\.ids says, got fewer"):
        OriginalsFile(path, DIM)
    path.unlink()
    with pytest.raises(OriginalsError, match="expected 2 rows"):
        OriginalsFile(path, DIM)


def test_rows_of_an_unfinished_append_are_overwritten(path: Path) -> None:
    with OriginalsFile(path, DIM) as file:
        file.append([1], rows(1))
        with open(path, "ab") as torn:
            torn.write(b"half a row")
        file.append([2], rows(1, seed=7))
        np.testing.assert_array_equal(file.get([1, 2]), np.concatenate([rows(1), rows(1, seed=7)]))
    assert path.stat().st_size == 2 * 2 * DIM


def test_two_files_open_at_once_see_each_others_rows(path: Path) -> None:
    with OriginalsFile(path, DIM) as first, OriginalsFile(path, DIM) as second:
        for number in range(6):
            (first, second)[number % 2].append([number], rows(1, seed=number))
        for file in (first, second):
            np.testing.assert_array_equal(file.get(range(6)), np.concatenate([rows(1, seed=n) for n in range(6)]))


def test_killed_while_appending_it_holds_whole_batches(path: Path) -> None:
    """kill -9 in the middle of endless appends: every batch that is there is complete, and appending goes on."""
    program = (
        "import sys, numpy as np\n"
        "from vaecodec_integrations.qdrant.originals import OriginalsFile\n"
        f"file = OriginalsFile(sys.argv[1], {DIM})\n"
        "for batch in range(10**6):\n"
        f"    file.append(range(50 * batch, 50 * batch + 50), np.full((50, {DIM}), batch % 1000, np.float32))\n"
        "    if batch == 5: print('running', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"running\n"
        os.kill(writer.pid, signal.SIGKILL)
    with OriginalsFile(path, DIM) as file:
        count = len(file)
        assert count >= 300
        assert count % 50 == 0
        expected = np.repeat(np.arange(count // 50) % 1000, 50).astype(np.float32)
        np.testing.assert_array_equal(file.get(range(count)), np.repeat(expected[:, None], DIM, axis=1))
        late = uuid.uuid4()
        file.append([late], rows(1))
        np.testing.assert_array_equal(file.get([late]), rows(1))
