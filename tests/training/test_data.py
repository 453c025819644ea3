"""Test that the data check names what is wrong, the split keeps equals together, and sampling is uniform and
repeatable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec import Metric
from vaecodec.errors import UnusableDataError
from vaecodec.sources import ArraySource, RandomAccessSource, Rows, VectorSource, open_source, sample_rows
from vaecodec_training.data.batches import ShuffledBatches
from vaecodec_training.data.check import check
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.pairs import DroppedPairsWarning
from vaecodec_training.data.sample import Sample, with_random_access
from vaecodec_training.data.split import split


class Sequential:
    """Read rows only from first to last, in blocks of a chosen size."""

    def __init__(self, array: np.ndarray, rows: int | None, step: int = 97) -> None:
        self.name, self.rows, self.dim = "sequential", rows, array.shape[1]
        self._array, self._step = array, step

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        step = min(rows or self._step, self._step)
        for start in range(0, len(self._array), step):
            yield self._array[start : start + step]


def numbered(rows: int, dim: int = 3) -> np.ndarray:
    """Return rows that tell their number: row i is (i + 1) in every value."""
    return np.repeat(np.arange(1, rows + 1, dtype=np.float32)[:, None], dim, axis=1)


# --- the check


def test_the_report_describes_the_sample(sample: Any) -> None:
    report = check(ArraySource(sample.train))
    unit = sample.train.astype(np.float64)
    shares = np.sort(np.linalg.eigvalsh(np.cov(unit.T, bias=True)))[::-1]
    shares = shares / shares.sum()
    assert (report.rows, report.dim, report.zero_rows) == (7500, 384, 0)
    assert report.norms == pytest.approx((1, 1, 1), abs=1e-6)
    assert report.duplicate_rows == 7500 - len(np.unique(sample.train, axis=0))
    assert report.constant_dims == tuple(np.flatnonzero(np.ptp(sample.train, axis=0) == 0))
    np.testing.assert_allclose(report.spectrum, shares, atol=1e-7)
    assert report.effective_dim == pytest.approx(1 / np.sum(shares**2), rel=1e-4)
    assert report.mean_share == pytest.approx(np.sum(unit.mean(axis=0) ** 2), rel=1e-4)
    assert report.dims_for(0.9) == int(np.argmax(np.cumsum(shares) >= 0.9)) + 1


def test_the_effective_dimension_of_known_spectra() -> None:
    sphere = np.random.default_rng(0).normal(size=(40_000, 10))
    assert check(ArraySource(sphere), metric=Metric.L2).effective_dim == pytest.approx(10, rel=0.01)
    line = sphere[:, :1] * np.ones(10)
    report = check(ArraySource(line), metric=Metric.L2)
    assert report.effective_dim == pytest.approx(1, rel=1e-6)
    assert report.dims_for(1.0) == 1


def test_under_cosine_the_length_of_a_row_does_not_count() -> None:
    rows = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    lengths = np.random.default_rng(2).uniform(0.1, 9, size=(500, 1)).astype(np.float32)
    plain, scaled = check(ArraySource(rows)), check(ArraySource(rows * lengths))
    np.testing.assert_allclose(plain.spectrum, scaled.spectrum, atol=1e-6)
    assert plain.fingerprint != scaled.fingerprint


def test_what_is_unusual_is_noted_and_the_report_reads_well() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    rows += 4
    rows[:, 2] = 1
    rows[10] = rows[20] = rows[3]
    rows[30] = 0
    report = check(ArraySource(rows, name="docs.npy"), metric=Metric.L2)
    rows[30] = 9
    cosine = check(ArraySource(rows, name="docs.npy"))
    low, high = cosine.norms[0], cosine.norms[2]
    assert report.notes == (
        "1 rows are zero vectors",
        "2 rows (3.3%) repeat an earlier row; each set stays on one side",
        f"the mean vector holds {report.mean_share:.0%} of the energy: all vectors point much the same way",
        "60 rows are few for 8 dimensions; expect the linear codec to win",
    )
    assert cosine.notes[0] == (f"norms range from {low:.4g} to {high:.4g}; cosine ignores them, so would the codec")
    assert cosine.constant_dims == ()
    assert check(ArraySource(rows[:30])).notes[2] == "1 dimensions never change: 2"
    text = str(report).splitlines()
    assert text[0] == "docs.npy: 60 vectors of 8 dimensions, l2"
    assert text[1].split()[0] == "norms"
    assert text[3].split() == ["fingerprint", report.fingerprint[:16]]
    assert [line.split(maxsplit=1)[1] for line in text[4:]] == list(report.notes)
    assert json.loads(json.dumps(report.to_json()))["duplicate_rows"] == 2


def test_bad_rows_are_counted_and_the_first_ten_named() -> None:
    rows = numbered(3000, 8)
    rows[5:3000:100, 1] = np.nan
    rows[7] = np.inf
    rows[2999] = 0
    with pytest.raises(UnusableDataError) as raised:
        check(Sequential(rows, 3000))
    assert str(raised.value) == (
        "sequential: 31 rows (5, 7, 105, 205, 305, 405, 505, 605, 705, 805, ...) have NaN or infinity, or a norm "
        "beyond float32; 1 row (2999) has no direction, because the norm is zero, and the metric is cosine (of 3,000 "
        "rows); remove these rows or find out where they come from"
    )


def test_values_beyond_float32_are_refused_and_zero_rows_pass_without_cosine() -> None:
    rows = numbered(20).astype(np.float64)
    rows[3] = 1e300
    with pytest.raises(UnusableDataError, match=r"1 row \(3\) has NaN or infinity, or a norm beyond float32"):
        check(ArraySource(rows))
    rows[3] = 0
    assert check(ArraySource(rows), metric=Metric.DOT).zero_rows == 1


@pytest.mark.parametrize(("rows", "distinct"), [(0, 0), (1, 1), (50, 1)])
def test_fewer_than_two_different_vectors_cannot_be_trained_on(rows: int, distinct: int) -> None:
    with pytest.raises(UnusableDataError) as raised:
        check(ArraySource(np.ones((rows, 4), np.float32), name="x.npy"))
    assert str(raised.value) == (
        f"x.npy: expected at least two different vectors, got {rows} rows with {distinct} distinct"
    )


def test_rounding_has_no_spectrum() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal(32) * (1 + 1e-7 * random.standard_normal((50, 32)))
    report = check(ArraySource(rows.astype(np.float32)))
    np.testing.assert_array_equal(report.spectrum, np.eye(32)[0])
    assert report.mean_share == pytest.approx(1)
    far = (5 + 1e-3 * random.standard_normal((500, 32))).astype(np.float32)  # little, but more than rounding
    report = check(ArraySource(far), metric=Metric.L2)
    assert report.spectrum[0] < 2 / 32
    assert report.spectrum[-1] > 0.5 / 32


# --- identity of content


def test_digests_and_fingerprint_follow_their_definition() -> None:
    rows = np.array([[1.5, -0.0], [0.25, 3]], np.float32)
    report = check(ArraySource(rows))
    canonical = [np.array(row, "<f4").tobytes() for row in ([1.5, 0.0], [0.25, 3.0])]
    assert report.fingerprint == hashlib.sha256(b"2\n" + b"".join(canonical)).hexdigest()
    assert report.digests.tolist() == [int.from_bytes(hashlib.sha256(row).digest()[:8], "little") for row in canonical]


def test_content_is_identified_in_any_format_dtype_layout_and_block_size(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float16).astype(np.float32)
    np.save(tmp_path / "half.npy", rows.astype(np.float16))
    np.save(tmp_path / "big.npy", np.asfortranarray(rows.astype(">f8")))
    pq.write_table(pa.table({"vector": rows.tolist()}), tmp_path / "x.parquet", row_group_size=70)
    expected = check(ArraySource(rows))
    others = [open_source(tmp_path / name) for name in ("half.npy", "big.npy", "x.parquet")]
    for source in (*others, Sequential(rows, 300, 1), Sequential(rows, None, 113)):
        report = check(source)
        assert report.fingerprint == expected.fingerprint
        np.testing.assert_array_equal(report.digests, expected.digests)
    assert check(ArraySource(rows[::-1])).fingerprint != expected.fingerprint


# --- the split


digests_strategy = st.lists(st.integers(0, 2**64 - 1), min_size=400, max_size=600, unique=True)


@settings(max_examples=25)
@given(digests_strategy, st.integers(0, 2**31))
def test_the_split_partitions_and_follows_content(values: list[int], seed: int) -> None:
    digests = np.array([*values, *values[:50]], np.uint64)
    parts = split(digests, validation=0.25, confirmation=0.25, seed=seed)
    together = np.concatenate([parts.train, parts.validation, parts.confirmation])
    assert sorted(together.tolist()) == list(range(len(digests)))
    side = np.empty(len(digests), int)
    for number, part in enumerate((parts.train, parts.validation, parts.confirmation)):
        assert (np.diff(part) > 0).all()
        side[part] = number
    np.testing.assert_array_equal(side[-50:], side[:50])  # equal rows share a part
    order = np.random.default_rng(seed).permutation(len(digests))
    shuffled = split(digests[order], validation=0.25, confirmation=0.25, seed=seed)
    np.testing.assert_array_equal(np.isin(np.arange(len(order)), shuffled.train), side[order] == 0)
    fewer = split(digests[:300], validation=0.25, confirmation=0.25, seed=seed)
    np.testing.assert_array_equal(fewer.train, parts.train[parts.train < 300])


def test_the_split_has_the_fractions_asked_for_and_another_seed_holds_out_other_rows(sample: Any) -> None:
    digests = check(ArraySource(sample.train)).digests
    parts = split(digests, validation=0.1, confirmation=0.2, seed=0)
    assert len(parts.validation) == pytest.approx(750, abs=4 * np.sqrt(750))
    assert len(parts.confirmation) == pytest.approx(1500, abs=4 * np.sqrt(1500))
    other = split(digests, validation=0.1, confirmation=0.2, seed=1)
    shared = np.intersect1d(parts.validation, other.validation)
    assert len(shared) == pytest.approx(75, abs=45)  # a tenth of a tenth
    assert len(split(digests, validation=0.1).confirmation) == 0


def test_the_split_never_changes_between_versions() -> None:
    digests = check(ArraySource(numbered(40))).digests
    assert split(digests, validation=0.2, seed=3).validation.tolist() == [2, 6, 7, 19, 20, 21, 22, 28, 33, 39]


def test_a_split_that_leaves_a_part_empty_is_refused() -> None:
    digests = np.arange(8, dtype=np.uint64)
    with pytest.raises(UnusableDataError) as raised:
        split(digests, validation=0.8, confirmation=0.2)
    assert str(raised.value) == (
        "expected fractions of at least 0 whose sum is below 1, got validation 0.8 and confirmation 0.2"
    )
    with pytest.raises(UnusableDataError) as raised:
        split(digests, validation=0.001)
    assert str(raised.value) == ("the validation part, 0.1% of 8 rows, is empty; give more rows or a larger fraction")


# --- sampling


@pytest.mark.parametrize("known", [True, False])
def test_a_sample_of_a_stream_is_uniform_and_does_not_depend_on_blocks(known: bool) -> None:
    rows = numbered(60)
    drawn = np.zeros(60)
    for seed in range(2000):
        sample = sample_rows(Sequential(rows, 60 if known else None, 7), 12, seed)
        numbers = sample[:, 0].astype(int) - 1
        assert (np.diff(numbers) > 0).all()  # in order, none twice
        assert sample.shape == (12, 3)
        drawn[numbers] += 1
    # Each row is drawn 400 times on average, with a standard deviation of 18.
    assert np.abs(drawn - 400).max() < 5 * 18
    first = sample_rows(Sequential(rows, 60 if known else None, 1), 12, 5)
    np.testing.assert_array_equal(first, sample_rows(Sequential(rows, 60 if known else None, 60), 12, 5))


def test_sources_of_equal_length_give_aligned_samples() -> None:
    documents, queries = numbered(500), -numbered(500, 4)
    first = sample_rows(Sequential(documents, 500), 40, 1)
    second = sample_rows(ArraySource(queries.astype(np.float16)), 40, 1)
    assert second.dtype == np.float32
    np.testing.assert_array_equal(first[:, 0], -second[:, 0])


@pytest.mark.parametrize("rows", [None, 9])
def test_a_source_that_is_smaller_than_the_sample_comes_whole(rows: int | None) -> None:
    np.testing.assert_array_equal(sample_rows(Sequential(numbered(9), rows, 4), 100, 0), numbered(9))


def test_random_access_is_kept_or_made_within_the_budget() -> None:
    array = ArraySource(numbered(50))
    assert with_random_access(array) is array
    made = with_random_access(Sequential(numbered(50), None), budget=20 * 3 * 4)
    assert isinstance(made, RandomAccessSource)
    assert (made.rows, made.name) == (20, "sequential")


@pytest.mark.parametrize("known", [True, False])
def test_a_sample_knows_which_rows_it_holds(known: bool) -> None:
    rows = numbered(500)
    source = Sequential(rows.astype(np.float16), 500 if known else None, 7)
    made = with_random_access(source, budget=20 * 3 * 4, seed=3)
    assert isinstance(made, Sample)
    assert made.drawn_from == 500
    np.testing.assert_array_equal(made.take(np.arange(20)), rows[made.numbers])
    np.testing.assert_array_equal(made.take(np.arange(20)), sample_rows(source, 20, 3))


def test_what_is_sampled_says_so_and_names_rows_as_the_source_does(caplog: pytest.LogCaptureFixture) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    with caplog.at_level("INFO", logger="vaecodec_training"):
        made = with_random_access(Sequential(rows, None), budget=200 * 3 * 4)
    assert "sequential: a uniform sample of 200 of 500 rows is used" in caplog.text
    report = check(made)
    assert str(report).startswith("sequential: 200 vectors, a sample of 500, of 3 dimensions")
    assert (report.rows, report.sampled_from, report.to_json()["sampled_from"]) == (200, 500, 500)
    assert check(with_random_access(Sequential(rows, None))).sampled_from is None
    assert isinstance(made, Sample)
    drawn = int(made.numbers[-1])
    rows[drawn] = np.nan
    with pytest.raises(UnusableDataError, match=rf"sequential: 1 row \({drawn}\) has NaN"):
        check(with_random_access(Sequential(rows, None), budget=200 * 3 * 4))


def test_few_queries_are_no_reason_for_a_note() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    assert any("are few" in note for note in check(ArraySource(rows)).notes)
    assert not any("are few" in note for note in check(ArraySource(rows), searched_with=True).notes)


def sampled(source: VectorSource) -> RandomAccessSource:
    return with_random_access(source, budget=1_300 * 384 * 4)


@pytest.mark.parametrize("known", [True, False])
def test_pairs_mean_the_rows_of_the_source_also_where_documents_are_sampled(sample: Any, known: bool) -> None:
    documents, queries = sample.train[:3_000], sample.train_queries[:1_200]
    pairs = np.stack([np.arange(1_200), np.random.default_rng(0).permutation(3_000)[:1_200]], axis=1)
    source = Sequential(documents, 3_000 if known else None)
    with pytest.warns(DroppedPairsWarning, match=r"pairs: [67]\d\d of 1,200 left out, because a sample is drawn"):
        collection = Collection.open(sampled(source), ArraySource(queries), pairs=pairs)
    assert collection.documents.rows == 1_300
    assert collection.pairs is not None
    assert len(collection.pairs) > 350
    answers = collection.documents.take(np.arange(1_300))[collection.pairs[:, 1]]
    np.testing.assert_array_equal(answers, documents[pairs[collection.pairs[:, 0], 1]])


def test_aligned_pairs_stay_aligned_where_both_sides_are_sampled(sample: Any) -> None:
    documents, queries = sample.train[:3_000], sample.train_queries[:3_000]
    sources = Sequential(documents, 3_000), Sequential(queries, 3_000, 31)
    with pytest.warns(DroppedPairsWarning, match="1,700 of 3,000 left out"):
        collection = Collection.open(*map(sampled, sources), pairs="aligned", validation=0.05)
    assert collection.queries is not None
    assert collection.pairs is not None
    assert len(collection.pairs) > 1_100
    asked = collection.queries.take(np.arange(1_300))[collection.pairs[:, 0]]
    answers = collection.documents.take(np.arange(1_300))[collection.pairs[:, 1]]
    where = {row.tobytes(): number for number, row in enumerate(documents)}
    expected = [queries[where[row.tobytes()]] for row in answers]
    assert np.mean([np.array_equal(*both) for both in zip(asked, expected, strict=True)]) > 0.99  # but for duplicates


def test_pairs_of_which_the_sample_holds_none_are_refused(sample: Any) -> None:
    documents = Sequential(sample.train[:3_000], 3_000)
    left = np.setdiff1d(np.arange(3_000), Sample(documents, 1_300, 0).numbers)
    with pytest.raises(UnusableDataError, match=r"got none of 1; save the vectors as"):
        Collection.open(sampled(documents), ArraySource(sample.train_queries[:900]), pairs=np.array([[0, left[0]]]))


# --- batches


@pytest.mark.parametrize("window", [1 << 30, 2 * 4 * 7 * 1024 * 3])  # everything; three blocks at a time
def test_an_epoch_brings_each_row_once_aligned_and_shuffled(window: int) -> None:
    documents, queries = ArraySource(numbered(20_000), name="d"), ArraySource(-numbered(20_000, 4), name="q")
    rows = np.flatnonzero(np.arange(20_000) % 11)
    batches = ShuffledBatches([documents, queries], rows, 128, 0, window=window)
    assert batches.per_epoch == len(rows) // 128
    epochs = [list(batches.epoch(number)) for number in (0, 1)]
    for epoch in epochs:
        assert len(epoch) == batches.per_epoch
        for document, query in epoch:
            assert document.shape == (128, 3)
            assert query.shape == (128, 4)
            np.testing.assert_array_equal(document[:, 0], -query[:, 0])
        seen = np.concatenate([document[:, 0] for document, _ in epoch]).astype(int) - 1
        assert len(np.unique(seen)) == len(seen)
        assert np.isin(seen, rows).all()
        # A block of neighbours alone would spread by 300 rows; batches mix several blocks.
        assert seen.reshape(-1, 128).std(axis=1).min() > 500
    halves = [np.concatenate([document[:, 0] for document, _ in epoch[:70]]) for epoch in epochs]
    assert len(np.intersect1d(halves[0], halves[1])) < 0.8 * len(halves[0])  # about half of them, were it chance
    assert not np.array_equal(epochs[0][0][0], epochs[1][0][0])


@pytest.mark.parametrize("window", [1 << 30, 50_000])
def test_an_epoch_is_resumed_bit_for_bit(window: int) -> None:
    rows = np.arange(5000)
    source = ArraySource(numbered(5000))
    whole = list(ShuffledBatches([source], rows, 64, 3, window=window).epoch(2))
    rest = list(ShuffledBatches([source], rows, 64, 3, window=window).epoch(2, skip=50))
    np.testing.assert_array_equal(np.array(whole[50:]), np.array(rest))


def test_few_rows_make_one_batch_and_unequal_sources_are_refused() -> None:
    source = ArraySource(numbered(10), name="docs.npy")
    batches = ShuffledBatches([source], np.arange(10), 1024, 0)
    assert [batch.shape for (batch,) in batches.epoch(0)] == [(10, 3)]
    with pytest.raises(UnusableDataError) as raised:
        ShuffledBatches([source, ArraySource(numbered(9), name="queries.npy")], np.arange(9), 4, 0)
    assert str(raised.value) == (
        "rows that belong together must be as many in each source, but docs.npy has 10 rows, queries.npy has 9 rows"
    )
