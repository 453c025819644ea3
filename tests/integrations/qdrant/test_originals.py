"""Test the file of originals: what is appended is found again, whatever happens in between."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec.errors import BadRowsError, MissingOriginalsError, OriginalsError, WrongWidthError
from vaecodec.interface import Metric
from vaecodec.linear import LinearCodec, LinearKind
from vaecodec_integrations.qdrant import OriginalsFile
from vaecodec_integrations.qdrant.originals import Owner
from vaecodec_integrations.row_encoding import Float16Rows

DIM = 5
ROW_BYTES = 2 * DIM + 2
POINT_IDS = st.one_of(st.integers(0, 2**64 - 1), st.uuids(), st.uuids().map(str))


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float16).astype(np.float32)


@pytest.fixture
def path(fast_path: Path) -> Path:
    return fast_path / "originals.f16"


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
    assert path.read_bytes() == b"\0\0" + vectors.astype("<f2").tobytes()


@pytest.mark.parametrize("norm", [1e-42, 1e-30, 1e-9, 1e-7, 1.0, 70_000.0, 1e6, 1e18])
def test_vectors_of_any_norm_keep_eleven_bits(path: Path, norm: float) -> None:
    vectors = (rows(200) * norm).astype(np.float32)
    with OriginalsFile(path, DIM) as file:
        file.append(range(200), vectors)
        errors = np.abs(file.get(range(200)) - vectors).max(axis=1)
    assert (errors <= np.abs(vectors).max(axis=1) * 2.0**-11).all()


def test_every_half_comes_back_as_it_was(path: Path) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    vectors = halves[np.isfinite(halves)][:63_480].reshape(-1, DIM)
    np.testing.assert_array_equal(Float16Rows(DIM).unpack(Float16Rows(DIM).pack(vectors)), vectors)


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
        ([1], np.full((1, DIM), np.nan), BadRowsError, "row 0 holds NaN"),
        ([1, 2], np.array([[0.0] * DIM, [1e300] * DIM]), BadRowsError, "row 1 holds NaN or infinity"),
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
    assert path.stat().st_size == ROW_BYTES


def test_another_width_is_refused(path: Path) -> None:
    OriginalsFile(path, DIM).close()
    with pytest.raises(OriginalsError, match="expected dim 7, encoding float16, version 2, got dim 5, encoding"):
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
    assert path.stat().st_size == 2 * ROW_BYTES


def test_two_files_open_at_once_see_each_others_rows(path: Path) -> None:
    with OriginalsFile(path, DIM) as first, OriginalsFile(path, DIM) as second:
        for number in range(6):
            (first, second)[number % 2].append([number], rows(1, seed=number))
        for file in (first, second):
            np.testing.assert_array_equal(file.get(range(6)), np.concatenate([rows(1, seed=n) for n in range(6)]))


def test_killed_while_appending_it_holds_whole_batches(path: Path) -> None:
    """Kill a process in the middle of endless appends: every batch that is there is complete, and appending goes on."""
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


class TestRoom:
    def test_vectors_that_are_written_again_take_no_more_of_it(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file:
            for number in range(10):
                file.append(range(100), rows(100, seed=number))
            np.testing.assert_array_equal(file.get(range(100)), rows(100, seed=9))
        assert path.stat().st_size <= 2 * 100 * ROW_BYTES

    def test_removed_points_are_gone_and_their_room_is_used_again(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file:
            file.append(range(100), rows(100))
            file.remove([*range(50), 1234])
            assert len(file) == 50
            assert not file.find(range(50))[1].any()
            file.append(range(200, 250), rows(50, seed=1))
            np.testing.assert_array_equal(file.get(range(200, 250)), rows(50, seed=1))
            np.testing.assert_array_equal(file.get(range(50, 100)), rows(100)[50:])
        assert path.stat().st_size == 100 * ROW_BYTES

    def test_compaction_gives_it_back(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file, OriginalsFile(path, DIM) as other:
            file.append(range(100), rows(100))
            left = range(1, 100, 3)
            file.remove([i for i in range(100) if i not in left])
            file.compact()
            assert path.stat().st_size == len(left) * ROW_BYTES
            for opened in (file, other):
                np.testing.assert_array_equal(opened.get(left), rows(100)[1::3])
            other.append([7], rows(1, seed=2))
            np.testing.assert_array_equal(file.get([7, 1, 97]), [rows(1, seed=2)[0], rows(100)[1], rows(100)[97]])

    def test_all_of_it_is_given_back_when_the_file_is_emptied(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file:
            file.claim(Owner("docs", "", "c"))
            file.append(range(10), rows(10))
            file.clear()
            assert (len(file), file.owner, path.stat().st_size) == (0, None, 0)
            file.append([3], rows(1))
            np.testing.assert_array_equal(file.get([3]), rows(1))

    def test_ids_are_listed_as_qdrant_returns_them(self, path: Path) -> None:
        point = uuid.UUID(int=1 << 100)
        with OriginalsFile(path, DIM) as file:
            file.append([9, 2**64 - 1, point], rows(3))
            assert list(file.ids()) == [9, str(point), 2**64 - 1]


class TestTwoSteps:
    """Test that vectors become valid when the engine has the points, and that the engine decides before that."""

    @pytest.fixture
    def codec(self) -> LinearCodec:
        return LinearCodec(
            LinearKind.SVD, np.eye(DIM, dtype=np.float32)[:3], np.zeros(DIM, np.float32), metric=Metric.DOT
        )

    def test_staged_vectors_do_not_count_before_they_are_committed(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file:
            file.append([1], rows(1))
            staged = file.stage()
            staged.add([1, 2], rows(2, seed=1))
            np.testing.assert_array_equal(file.get([1]), rows(1))
            assert file.find([2])[1].tolist() == [False]
            assert file.undecided([1, 2, 3]) == [1, 2]
            staged.commit()
            np.testing.assert_array_equal(file.get([1, 2]), rows(2, seed=1))
            assert file.undecided([1, 2]) == []

    @pytest.mark.parametrize("applied", [True, False])
    def test_of_a_lost_write_those_count_that_the_engine_holds(
        self, path: Path, codec: LinearCodec, applied: bool
    ) -> None:
        with OriginalsFile(path, DIM) as file:
            file.append([1], rows(1))
            file.stage().add([1, 2], rows(2, seed=1))
        with OriginalsFile(path, DIM) as file:
            held = rows(2, seed=1) if applied else rows(1)
            latents = dict(zip([1, 2], codec.encode(held), strict=False))
            decided = file.decide({point: latents.get(point) for point in file.undecided([1, 2])}, codec)
            found, there = file.find([1, 2], decided)
            assert there.tolist() == [True, applied]
            np.testing.assert_array_equal(found, held)
            assert file.undecided([1]) == [1]  # the write may still be on its way

    def test_what_was_decided_of_a_write_that_is_long_lost_stays_so(
        self, path: Path, codec: LinearCodec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vaecodec_integrations.qdrant.originals import index

        with OriginalsFile(path, DIM) as file:
            file.append([1], rows(1))
            file.stage().add([1, 2], rows(2, seed=1))
            monkeypatch.setattr(index, "_LOST_AFTER_SECONDS", -1)
            file.decide({1: codec.encode(rows(2, seed=1))[0], 2: None}, codec)
            assert file.undecided([1, 2]) == []
            np.testing.assert_array_equal(file.get([1]), rows(2, seed=1)[:1])
            file.append([5, 6], rows(2))  # into the room of the two that do not count
        assert path.stat().st_size == 3 * ROW_BYTES

    def test_a_write_that_is_done_again_leaves_nothing_undecided(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file:
            file.stage().add([1, 2], rows(2))
            file.append([1, 2], rows(2))
            assert file.undecided([1, 2]) == []
            np.testing.assert_array_equal(file.get([1, 2]), rows(2))

    def test_of_two_writes_at_once_those_count_that_the_engine_took_last(self, path: Path, codec: LinearCodec) -> None:
        with OriginalsFile(path, DIM) as file:
            first, second = file.stage(), file.stage()
            for number, staged in enumerate((first, second)):
                staged.add([1, 10 + number], rows(2, seed=number))
            for staged in (second, first):
                staged.commit()
            np.testing.assert_array_equal(file.get([10, 11]), [rows(2)[1], rows(2, seed=1)[1]])
            assert file.undecided([1]) == [1]
            file.decide({1: codec.encode(rows(2))[0]}, codec)
            assert file.undecided([1]) == []
            np.testing.assert_array_equal(file.get([1]), rows(2)[:1])


class TestOwner:
    def test_another_collection_or_vector_is_refused(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file:
            file.claim(Owner("docs", "", "codec"))
            file.claim(Owner("docs", "", "codec"))
            for other in (Owner("pages", "", "codec"), Owner("docs", "title", "codec")):
                with pytest.raises(OriginalsError, match="got the file of collection 'docs'"):
                    file.claim(other)
        with OriginalsFile(path, DIM) as file:
            assert file.owner == Owner("docs", "", "codec")

    def test_a_collection_with_a_new_name_can_be_named(self, path: Path) -> None:
        with OriginalsFile(path, DIM) as file:
            with pytest.raises(OriginalsError, match="got one that no collection uses"):
                file.give_to("restored")
            file.claim(Owner("docs", "", "codec"))
            file.give_to("restored")
            file.claim(Owner("restored", "", "codec"))

    def test_each_file_has_an_id_that_stays(self, tmp_path: Path) -> None:
        with OriginalsFile(tmp_path / "a", DIM) as a, OriginalsFile(tmp_path / "b", DIM) as b:
            assert a.id != b.id
            with OriginalsFile(tmp_path / "a", DIM) as again:
                assert again.id == a.id


class TestDamage:
    @pytest.mark.parametrize("suffix", ["", ".ids"])
    def test_flipped_bits_are_errors_and_never_other_vectors(self, path: Path, suffix: str) -> None:
        vectors, chance = rows(60), np.random.default_rng(0)
        with OriginalsFile(path, DIM) as file:
            file.append(range(60), vectors)
            file.remove(range(50, 60))
            file.stage().add([1, 2], rows(2, seed=1))
        damaged = path.with_name(path.name + suffix)
        whole, refused = damaged.read_bytes(), 0
        for _ in range(200):
            content = bytearray(whole)
            for place in chance.integers(0, len(content), 3):
                content[place] ^= 1 << int(chance.integers(8))
            damaged.write_bytes(content)
            try:
                with OriginalsFile(path, DIM) as file:
                    found, there = file.find(range(50))
                    np.testing.assert_array_equal(found, vectors[:50][there])
                    file.append([70], vectors[:1])
                    found, there = file.find([*range(50), 70])
                    np.testing.assert_array_equal(found, vectors[[*range(50), 0]][there])
            except OriginalsError:
                refused += 1
            for name in (path.name, path.name + ".ids-wal", path.name + ".ids-shm"):
                if name != damaged.name and name != path.name:
                    path.with_name(name).unlink(missing_ok=True)
            path.write_bytes(path.read_bytes()[: 60 * ROW_BYTES])
        assert refused > (100 if not suffix else 10)

    def test_a_database_of_something_else_is_refused(self, path: Path) -> None:
        ids = path.with_name(path.name + ".ids")
        with sqlite3.connect(ids) as base:
            base.execute("CREATE TABLE mine (x)")
        base.close()
        path.touch()
        content = ids.read_bytes()
        with pytest.raises(OriginalsError, match="got a database of something else, or of an older version"):
            OriginalsFile(path, DIM)
        assert ids.read_bytes() == content
        ids.write_bytes(b"garbage" * 100)
        with pytest.raises(OriginalsError, match=r"is damaged .*not a database"):
            OriginalsFile(path, DIM)

    def test_a_full_disk_is_an_error_of_ours_and_leaves_what_was_there(self, path: Path) -> None:
        program = (
            "import sys, resource, numpy as np\n"
            "from vaecodec.errors import OriginalsError\n"
            "from vaecodec_integrations.qdrant import OriginalsFile\n"
            "file, done = OriginalsFile(sys.argv[1], 2), 0\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
            "try:\n"
            "    while True:\n"
            "        file.append(range(done, done + 2000), np.full((2000, 2), done, np.float32)); done += 2000\n"
            "except OriginalsError as error:\n"
            "    print(error)\n"
            "expected = np.repeat(np.arange(0, done, 2000), 2000)\n"
            "assert (file.get(range(done))[:, 0] == np.float16(expected)).all()\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert re.search(r"(the disk refuses to write|the index cannot be read or written) \(", done.stdout)


def test_killed_at_random_moments_every_point_has_one_of_its_vectors(path: Path) -> None:
    """Twenty kills while vectors are written again, removed and compacted leave no torn row and lose no room."""
    program = """
import multiprocessing, os, random, signal, sys
import numpy as np
from vaecodec_integrations.qdrant import OriginalsFile

def work(path, noted, seconds):
    file, chance, started = OriginalsFile(path, 4), random.Random(seconds), False
    while True:
        file.append(chance.sample(range(400), 50), np.full((50, 4), noted[0] % 1000, np.float32))
        if not started:
            started = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
        noted[0] += 1
        file.remove(chance.sample(range(400), 10))
        if chance.random() < 0.2:
            file.compact()

fork, chance, path = multiprocessing.get_context("fork"), random.Random(0), sys.argv[1]
noted = fork.RawArray("q", 1)
for _ in range(20):
    child = fork.Process(target=work, args=(path, noted, chance.uniform(0.001, 0.05)))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGALRM, child.exitcode
    with OriginalsFile(path, 4) as file:
        found, there = file.find(range(400))
        assert (found == found[:, :1]).all()
        assert len(file) == there.sum()
with OriginalsFile(path, 4) as file:
    assert len(file) > 0
    file.remove(range(400))
    file.compact()
assert os.path.getsize(path) == 0
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
