"""Check a collection before training, and describe it.

Two numbers identify content, and neither depends on the file format, the block size or the machine. Both are
taken over a row's *canonical bytes*: its values as little-endian float32, with -0.0 written as 0.0, and not
normalised, because a norm's last bit differs between processors.

- A row's *digest* is the first 8 bytes of the SHA-256 of its canonical bytes, as a little-endian integer.
- A collection's *fingerprint* is the SHA-256 of its width in ASCII digits, a newline, and the canonical bytes of
  all rows in order.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.evaluation import Figures
from vaecodec.interface import FloatArray, Metric
from vaecodec.sources import VectorSource
from vaecodec.sources.bad_rows import GoodRows
from vaecodec.steps import Steps
from vaecodec.vectors import NOT_FINITE, ROUNDING, as_compared, faults
from vaecodec_training.data.sample import Sample

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataReport:
    """Hold what the check of a collection found; ``str()`` of it is the text for people.

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
        sampled_from: how many rows the source has where this is a sample of them; otherwise None.
        searched_with: these are queries, of which a few suffice.
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
    sampled_from: int | None = None
    searched_with: bool = False

    @property
    def effective_dim(self) -> float:
        """Return the participation ratio of the spectrum, 1 / sum of squared shares: 1 for a line, ``dim`` for a
        sphere.
        """
        return float(1 / np.sum(self.spectrum**2))

    def dims_for(self, share: float) -> int:
        """Return how many principal axes hold this share of the variance."""
        return min(self.dim, int(np.searchsorted(np.cumsum(self.spectrum), share - 1e-12)) + 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is unusual but does not prevent training, one sentence each."""
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
        if self.rows < 10 * self.dim and not self.searched_with:
            notes.append(f"{self.rows:,} rows are few for {self.dim} dimensions; expect the linear codec to win")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values, without the digests and with the spectrum's first 64 shares."""
        return {
            "name": self.name,
            "rows": self.rows,
            "sampled_from": self.sampled_from,
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
        sampled = "" if self.sampled_from is None else f", a sample of {self.sampled_from:,},"
        lines = [
            f"{self.name}: {self.rows:,} vectors{sampled} of {self.dim} dimensions, {self.metric}",
            f"  norms        {low:.4g} to {high:.4g}, mean {mean:.4g}",
            f"  dimensions   {self.effective_dim:.1f} effective; of the principal axes {axes} of the variance",
            f"  fingerprint  {self.fingerprint[:16]}",
            *(f"  note         {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def check(source: VectorSource, *, metric: Metric = Metric.COSINE, searched_with: bool = False) -> DataReport:
    """Read a collection once and describe it.

    Args:
        source: the vectors; of a sample, rows are named by their numbers in what it was drawn from.
        metric: how they are compared.
        searched_with: these are queries.

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
    moments = _Moments(dim)
    say = Steps(_LOG)
    for raw in source.blocks():
        say("checking %s: %s rows", source.name, f"{rows:,}")
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused
            block = np.asarray(raw, np.float32) + np.float32(0)  # turn -0.0 into 0.0
        content = memoryview(block.astype("<f4", copy=False).tobytes())
        fingerprint.update(content)
        digests.append(_row_digests(content, 4 * dim))
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
        moments.add(as_compared(block, metric))
    none = np.empty(0, np.int64)
    broken_rows, zero_rows = np.concatenate([none, *non_finite]), np.concatenate([none, *zero])
    if isinstance(source, Sample | GoodRows):
        broken_rows, zero_rows = source.numbers[broken_rows], source.numbers[zero_rows]
    _refuse(source.name, rows, broken_rows, zero_rows, metric)
    row_digests = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)
    digests.clear()
    distinct = len(np.unique(row_digests))
    if distinct < 2:
        raise UnusableDataError(
            f"{source.name}: expected at least two different vectors, got {rows:,} rows with {distinct} distinct"
        )
    mean_share, spectrum = moments.result()
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
        mean_share=mean_share,
        spectrum=spectrum,
        digests=row_digests,
        sampled_from=source.sampled_from if isinstance(source, Sample) else None,
        searched_with=searched_with,
    )


class _Moments:
    """Sum rows around the first of them, so that rows which hardly differ keep their differences."""

    def __init__(self, dim: int) -> None:
        self._origin: FloatArray | None = None
        self._rows, self._total, self._gram = 0, np.zeros(dim), np.zeros((dim, dim))
        self._squares = 0.0

    def add(self, rows: FloatArray) -> None:
        if self._origin is None:
            self._origin = rows[0].copy()
        self._squares += float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
        rows = rows - self._origin
        self._rows += len(rows)
        self._total += rows.sum(axis=0, dtype=np.float64)
        self._gram += rows.T @ rows

    def result(self) -> tuple[float, Figures]:
        """Return the share of the mean in the rows' squares, and those of the principal axes in their variance."""
        mean, mean_square = self._total / self._rows, self._squares / self._rows
        variances = np.linalg.eigvalsh(self._gram / self._rows - np.outer(mean, mean))[::-1].clip(min=0)
        if variances.sum() <= ROUNDING**2 * mean_square:  # rows that differ by rounding only have one axis
            variances = np.eye(1, len(mean))[0]
        if self._origin is not None:
            mean = mean + self._origin
        return float(mean @ mean / mean_square), variances / variances.sum()


def _row_digests(content: memoryview, size: int) -> bytes:
    """Return eight bytes of digest for each row of ``size`` bytes."""
    return b"".join([hashlib.sha256(content[at : at + size]).digest()[:8] for at in range(0, len(content), size)])


def _refuse(name: str, rows: int, non_finite: NDArray[np.int64], zero: NDArray[np.int64], metric: Metric) -> None:
    problems = []
    if len(non_finite):
        problems.append(f"{_counted(non_finite)} {NOT_FINITE}")
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
