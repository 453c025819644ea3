"""What is trained on: checked, split and sampled, with memory that does not grow with the collection.

Two numbers identify content, and neither depends on the file format, the block size or the machine. Both are
taken over a row's *canonical bytes*: its values as little-endian float32, with -0.0 written as 0.0, and not
normalised, because a norm's last bit differs between processors.

- A row's *digest* is the first 8 bytes of the SHA-256 of its canonical bytes, as a little-endian integer.
- A collection's *fingerprint* is the SHA-256 of its width in ASCII digits, a newline, and the canonical bytes of
  all rows in order.

Memory: 8 bytes per row for the digests and 16 for the order of an epoch, plus the budgets below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.interface import FloatArray, Metric
from vaecodec.sources import ArraySource, RandomAccessSource, VectorSource, sample_rows
from vaecodec.vectors import faults, normalised

# Vectors held in memory at once, in bytes of float32: enough for 350,000 rows of 384 values.
SAMPLE_BYTES = 512 << 20
WINDOW_BYTES = 256 << 20

# Neighbouring rows that are read together and so meet in the same window of every epoch.
BLOCK_ROWS = 1024

# Below this float32 holds every integer.
_EXACT = 1 << 24


@dataclass(frozen=True)
class DataReport:
    """What the check of a collection found; ``str()`` of it is the text for people.

    Attributes:
        name: the source's name.
        rows, dim: the collection's shape.
        metric: how its vectors are compared.
        fingerprint: 64 hexadecimal digits over the content, see the module.
        norms: smallest, mean and largest L2 norm.
        zero_rows: rows of zero norm (under cosine there are none, they are refused).
        duplicate_rows: rows whose values equal those of an earlier row.
        constant_dims: dimensions that hold one value throughout.
        mean_share: squared norm of the mean vector over the mean squared norm, 0 to 1. Near 1, all vectors point
            the same way.
        spectrum: variance along each principal axis as a share of all variance, largest first, float64 (dim,).
            Under cosine the vectors are normalised first.
        digests: uint64 (rows,), see the module.
    """

    name: str
    rows: int
    dim: int
    metric: Metric
    fingerprint: str
    norms: tuple[float, float, float]
    zero_rows: int
    duplicate_rows: int
    constant_dims: tuple[int, ...]
    mean_share: float
    spectrum: NDArray[np.float64] = field(repr=False, compare=False)
    digests: NDArray[np.uint64] = field(repr=False, compare=False)

    @property
    def effective_dim(self) -> float:
        """Participation ratio of the spectrum, 1 / sum of squared shares: 1 for a line, ``dim`` for a sphere."""
        return float(1 / np.sum(self.spectrum**2))

    def dims_for(self, share: float) -> int:
        """How many principal axes hold this share of the variance."""
        return min(self.dim, int(np.searchsorted(np.cumsum(self.spectrum), share - 1e-12)) + 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual and can be trained on all the same, one sentence each."""
        notes = []
        low, _, high = self.norms
        if self.metric is Metric.COSINE and high - low > 0.01 * high:
            notes.append(f"norms range from {low:.4g} to {high:.4g}; cosine ignores them, so would the codec")
        if self.zero_rows:
            notes.append(f"{self.zero_rows:,} rows are zero vectors")
        if self.duplicate_rows:
            share = self.duplicate_rows / self.rows
            notes.append(
                f"{self.duplicate_rows:,} rows ({share:.1%}) repeat an earlier row; each set stays on one side"
            )
        if self.constant_dims:
            shown = _first_ten(self.constant_dims)
            notes.append(f"{len(self.constant_dims)} dimensions never change: {shown}")
        if self.mean_share > 0.5:
            notes.append(
                f"the mean vector holds {self.mean_share:.0%} of the energy: all vectors point much the same way"
            )
        if self.rows < 10 * self.dim:
            notes.append(f"{self.rows:,} rows are few for {self.dim} dimensions; expect the linear codec to win")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values, without the digests and with the spectrum's first 64 shares."""
        return {
            "name": self.name,
            "rows": self.rows,
            "dim": self.dim,
            "metric": str(self.metric),
            "fingerprint": self.fingerprint,
            "norms": list(self.norms),
            "zero_rows": self.zero_rows,
            "duplicate_rows": self.duplicate_rows,
            "constant_dims": list(self.constant_dims),
            "mean_share": self.mean_share,
            "effective_dim": self.effective_dim,
            "spectrum": [float(share) for share in self.spectrum[:64]],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        low, mean, high = self.norms
        axes = ", ".join(f"{self.dims_for(share)} hold {share:.0%}" for share in (0.5, 0.9, 0.99))
        lines = [
            f"{self.name}: {self.rows:,} vectors of {self.dim} dimensions, {self.metric}",
            f"  norms        {low:.4g} to {high:.4g}, mean {mean:.4g}",
            f"  dimensions   {self.effective_dim:.1f} effective; of the principal axes {axes} of the variance",
            f"  fingerprint  {self.fingerprint[:16]}",
            *(f"  note         {note}" for note in self.notes),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts of a collection, each int64 and increasing.

    Attributes:
        train: what weights are fitted to.
        validation: what choices are made on.
        confirmation: what is looked at once, after every choice; empty unless asked for.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    confirmation: NDArray[np.int64]


def check(source: VectorSource, *, metric: Metric = Metric.COSINE) -> DataReport:
    """Read a collection once and describe it.

    Raises:
        UnusableDataError: rows hold NaN or infinity, or have no direction although the metric is cosine (the message
            names the first ten and counts the rest), or there are fewer than two different rows.
        SourceError: the source turned out to be malformed.
    """
    dim = source.dim
    fingerprint = hashlib.sha256(f"{dim}\n".encode())
    digests: list[bytes] = []
    non_finite: list[NDArray[np.int64]] = []
    zero: list[NDArray[np.int64]] = []
    rows = 0
    lowest, highest = np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)
    shortest, longest, norm_sum = np.inf, 0.0, 0.0
    total = np.zeros(dim)
    gram = np.zeros((dim, dim))
    for raw in source.blocks():
        with np.errstate(over="ignore"):  # what overflows float32 is infinite there, and refused
            block = np.asarray(raw, np.float32) + np.float32(0)  # -0.0 + 0.0 is 0.0
        content = memoryview(block.astype("<f4", copy=False).tobytes())
        fingerprint.update(content)
        size = 4 * dim
        digests.append(
            b"".join([hashlib.sha256(content[at : at + size]).digest()[:8] for at in range(0, len(content), size)])
        )
        broken, undirected = faults(block)
        non_finite.append(rows + np.flatnonzero(broken))
        zero.append(rows + np.flatnonzero(undirected))
        rows += len(block)
        unusable = broken | undirected if metric is Metric.COSINE else broken
        if unusable.any():
            block = block[~unusable]
        if not len(block):
            continue
        norms = np.sqrt(np.einsum("ij,ij->i", block, block))
        np.minimum(lowest, block.min(axis=0), out=lowest)
        np.maximum(highest, block.max(axis=0), out=highest)
        shortest, longest = min(shortest, float(norms.min())), max(longest, float(norms.max()))
        norm_sum += float(norms.sum(dtype=np.float64))
        directions = normalised(block) if metric is Metric.COSINE else block
        total += directions.sum(axis=0, dtype=np.float64)
        gram += directions.T @ directions
    none = np.empty(0, np.int64)
    _refuse(source.name, rows, np.concatenate([none, *non_finite]), np.concatenate([none, *zero]), metric)
    row_digests = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)
    digests.clear()
    distinct = len(np.unique(row_digests))
    if distinct < 2:
        raise UnusableDataError(
            f"{source.name}: expected at least two different vectors, got {rows:,} rows with {distinct} distinct"
        )
    mean = total / rows
    variances = np.linalg.eigvalsh(gram / rows - np.outer(mean, mean))[::-1].clip(min=0)
    return DataReport(
        name=source.name,
        rows=rows,
        dim=dim,
        metric=metric,
        fingerprint=fingerprint.hexdigest(),
        norms=(shortest, norm_sum / rows, longest),
        zero_rows=sum(map(len, zero)),
        duplicate_rows=rows - distinct,
        constant_dims=tuple(int(at) for at in np.flatnonzero(lowest == highest)),
        mean_share=float(mean @ mean / (np.trace(gram) / rows)),
        spectrum=variances / variances.sum(),
        digests=row_digests,
    )


def split(digests: NDArray[np.uint64], *, validation: float = 0.05, confirmation: float = 0.0, seed: int = 0) -> Split:
    """Hold rows out by their content.

    A row's digest is mixed with the seed by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) and read as
    a fraction of 2^64. Below ``validation`` the row is in the validation part, below ``validation + confirmation``
    in the confirmation part, otherwise in the training part. So equal rows share a part, a row keeps its part
    when others come or go or their order changes, and queries that are aligned with documents follow them when
    the documents' row numbers are used for both. The parts' sizes are those fractions only on average.

    Args:
        digests: uint64 (n,), from :func:`check`.
        validation: fraction of the rows held out to make choices on.
        confirmation: fraction held out besides, to be looked at once.
        seed: another seed holds out other rows.

    Raises:
        UnusableDataError: the fractions leave nothing to train on, or there are so few rows that a part is empty.
    """
    if min(validation, confirmation) < 0 or validation + confirmation >= 1:
        raise UnusableDataError(
            f"expected fractions of at least 0 whose sum is below 1, got validation {validation} and "
            f"confirmation {confirmation}"
        )
    mixed = digests + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    first = np.uint64(int(validation * 2**64))
    second = np.uint64(int((validation + confirmation) * 2**64))
    parts = {
        "training": np.flatnonzero(mixed >= second),
        "validation": np.flatnonzero(mixed < first),
        "confirmation": np.flatnonzero((mixed >= first) & (mixed < second)),
    }
    fractions = {"training": 1 - validation - confirmation, "validation": validation, "confirmation": confirmation}
    for name, part in parts.items():
        if fractions[name] > 0 and not len(part):
            raise UnusableDataError(
                f"the {name} part, {fractions[name]:.1%} of {len(digests):,} rows, is empty; give more rows "
                "or a larger fraction"
            )
    return Split(parts["training"], parts["validation"], parts["confirmation"])


class Sample(ArraySource):
    """A uniform sample of a source, which remembers where its rows stood there.

    Attributes:
        numbers: int64 (rows,), increasing: the sample's row i is row ``numbers[i]`` of the source.
        drawn_from: how many rows the source had.
    """

    def __init__(self, source: VectorSource, rows: int, seed: int) -> None:
        numbered = _WithNumbers(source)
        drawn = sample_rows(numbered, rows, seed)
        super().__init__(drawn[:, : source.dim], name=source.name)
        self.numbers = numbered.numbers_of(drawn)
        self.drawn_from = numbered.seen


class _WithNumbers:
    """A source with the number of each row appended to it, in two values that float32 holds exactly."""

    def __init__(self, source: VectorSource) -> None:
        self.name, self.rows, self.dim = source.name, source.rows, source.dim + 2
        self.seen = 0
        self._source = source

    def blocks(self, rows: int | None = None) -> Iterator[FloatArray]:
        self.seen = 0
        for block in self._source.blocks(rows):
            numbers = np.divmod(np.arange(self.seen, self.seen + len(block)), _EXACT)
            self.seen += len(block)
            yield np.column_stack([part.astype(np.float32) for part in (block, *numbers)])

    def numbers_of(self, rows: FloatArray) -> NDArray[np.int64]:
        high, low = rows[:, -2], rows[:, -1]
        return high.astype(np.int64) * _EXACT + low.astype(np.int64)


def with_random_access(source: VectorSource, *, seed: int = 0, budget: int = SAMPLE_BYTES) -> RandomAccessSource:
    """The source itself, or, when it can only be read from first to last, a sample of it held in memory.

    Args:
        source: Parquet files and collections have no random access.
        seed: of :func:`~vaecodec.sources.sample_rows`.
        budget: bytes of float32 that the sample may take.

    Returns:
        The source, or a :class:`Sample`; of all rows, in their order, when the budget suffices.
    """
    if isinstance(source, RandomAccessSource):
        return source
    return Sample(source, max(1, budget // (4 * source.dim)), seed)


class ShuffledBatches:
    """Batches of training rows in an order that depends on the seed and the epoch's number alone.

    Rows that fit the window are held in memory and shuffled uniformly. Otherwise each epoch shuffles in two steps:
    the rows are cut into blocks of 1,024 neighbours, the blocks are put into random order, and the rows within
    each window of that order are shuffled. Each row comes once an epoch, except for a last incomplete batch,
    which is left out; rows far apart in the file meet as often as a window holds their blocks.

    Args:
        sources: one or more sources of equal length whose rows belong together, such as documents and their queries.
        rows: int64 (n,), increasing: the rows to train on.
        batch: rows per batch, at most n.
        seed: of the order.
        window: bytes of float32 held in memory, over all sources.
    """

    def __init__(
        self,
        sources: Sequence[RandomAccessSource],
        rows: NDArray[np.int64],
        batch: int,
        seed: int,
        *,
        window: int = WINDOW_BYTES,
    ) -> None:
        lengths = {source.name: source.rows for source in sources}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length:,} rows" for name, length in lengths.items())
            raise UnusableDataError(f"rows that belong together must be as many in each source, but {listed}")
        self._sources = sources
        self._rows = rows
        self.batch = min(batch, len(rows))
        self._seed = seed
        row_bytes = sum(4 * source.dim for source in sources)
        self._window_blocks = max(1, window // (row_bytes * BLOCK_ROWS))
        self._fits = len(rows) * row_bytes <= window

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self._rows) // self.batch if self.batch else 0

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[FloatArray, ...]]:
        """The batches of an epoch after the first ``skip``, each a float32 (batch, dim) array per source.

        Skipping reads nothing, so a run resumes in the middle of an epoch at no cost.
        """
        order = self._order(number)
        if self._fits:
            for at in range(skip, self.per_epoch):
                positions = order[at * self.batch : (at + 1) * self.batch]
                yield tuple(held[positions] for held in self._held)
            return
        group = max(1, self._window_blocks * BLOCK_ROWS // self.batch)
        for start in range(skip, self.per_epoch, group):
            positions = order[start * self.batch : min(start + group, self.per_epoch) * self.batch]
            ascending = np.argsort(positions)
            back = np.argsort(ascending)
            window = [_take(source, self._rows[positions[ascending]]) for source in self._sources]
            for at in range(0, len(positions), self.batch):
                yield tuple(held[back[at : at + self.batch]] for held in window)
            del window  # before the next one is read, so that there is never room taken for two

    @cached_property
    def _held(self) -> list[FloatArray]:
        return [_take(source, self._rows) for source in self._sources]

    def _order(self, number: int) -> NDArray[np.int64]:
        """Positions within ``rows`` in the order of an epoch."""
        generator = np.random.default_rng([self._seed, number])
        if self._fits:
            return generator.permutation(len(self._rows))
        starts = generator.permutation(np.arange(0, len(self._rows), BLOCK_ROWS))
        order = np.concatenate([np.arange(at, min(at + BLOCK_ROWS, len(self._rows))) for at in starts])
        for at in range(0, len(order), self._window_blocks * BLOCK_ROWS):
            generator.shuffle(order[at : at + self._window_blocks * BLOCK_ROWS])
        return order


def _take(source: RandomAccessSource, rows: NDArray[np.int64]) -> FloatArray:
    return np.asarray(source.take(rows), np.float32)


def _refuse(name: str, rows: int, non_finite: NDArray[np.int64], zero: NDArray[np.int64], metric: Metric) -> None:
    problems = []
    if len(non_finite):
        problems.append(f"{_counted(non_finite)} NaN, infinity or a norm beyond float32")
    if len(zero) and metric is Metric.COSINE:
        problems.append(f"{_counted(zero)} no direction, because the norm is zero, and the metric is cosine")
    if problems:
        raise UnusableDataError(
            f"{name}: {'; '.join(problems)} (of {rows:,} rows); remove these rows or find out where they come from"
        )


def _counted(rows: NDArray[np.int64]) -> str:
    plural = len(rows) > 1
    return f"{len(rows):,} row{'s' * plural} ({_first_ten(rows.tolist())}) {'have' if plural else 'has'}"


def _first_ten(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
