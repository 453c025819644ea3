"""Decide whether statistics of new vectors differ from those at training: the tests, and their report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from vaecodec.codes.saturation import SATURATED_SHARE
from vaecodec.drift.statistics import Histogram, Moments, Statistic, Stream, StreamStatistics

ALPHA = 0.01
"""Probability that a check of vectors that are as at training finds drift in any of its tests."""
EFFECT = 0.1
"""The least difference between two distributions that counts, however many vectors prove it: see :class:`Finding`."""

# With fewer vectors the mean of a latent of any distribution is too uncertain.
FEWEST_VECTORS = 100


@dataclass(frozen=True)
class Finding:
    """Hold the result of one test.

    Attributes:
        stream: documents or queries.
        statistic: what was compared.
        expected: its mean at training.
        found: its mean now.
        effect: how different the distributions are, 0 to 1: the largest difference of their cumulative
            distributions (Kolmogorov-Smirnov), or for a latent's mean what that difference is between two normal
            distributions whose means are as many standard deviations apart.
        p_value: of that difference when nothing changed, times the number of tests of the check (Bonferroni).
        dimension: which latent has moved most, counted from 0; None for the other statistics.
    """

    stream: Stream
    statistic: Statistic
    expected: float
    found: float
    effect: float
    p_value: float
    dimension: int | None = None

    @property
    def drifted(self) -> bool:
        """Tell whether the difference is larger than chance and large enough to matter."""
        return self.p_value < ALPHA and self.effect >= EFFECT

    def __str__(self) -> str:
        name = f"{self.statistic} {self.dimension}" if self.dimension is not None else str(self.statistic)
        verdict = "DRIFT" if self.drifted else "as at training"
        return (
            f"{self.stream}: {name}: {self.found:.3f}, at training {self.expected:.3f} "
            f"(effect {self.effect:.2f}, p {self.p_value:.1g}): {verdict}"
        )


class Clipped(NamedTuple):
    """Count the documents that a code clips.

    Attributes:
        rows: documents that were encoded.
        clipped: those of them that lie outside the code's range.
    """

    rows: int
    clipped: int

    @property
    def share(self) -> float:
        """Share of the documents that are clipped."""
        return self.clipped / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class DriftReport:
    """Hold the results of a check.

    Attributes:
        rows: vectors seen, by stream.
        findings: one for each test; none of a stream that is in ``not_compared``.
        not_compared: for each stream that was seen and has no verdict, why: the codec file holds no statistics of it,
            or it has fewer than 100 vectors.
        clipped: how many documents each code that was used clips; int8 where none was. More than 5 % are too many.
    """

    rows: Mapping[Stream, int]
    findings: tuple[Finding, ...] = ()
    not_compared: Mapping[Stream, str] = field(default_factory=dict)
    clipped: Mapping[str, Clipped] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Tell whether any test found drift."""
        return any(finding.drifted for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "drifted": self.drifted,
            "alpha": ALPHA,
            "least_effect": EFFECT,
            "rows": {str(stream): rows for stream, rows in self.rows.items()},
            "not_compared": {str(stream): reason for stream, reason in self.not_compared.items()},
            "clipped": {code: {**each._asdict(), "share": each.share} for code, each in self.clipped.items()},
            "findings": [{**finding.__dict__, "drifted": finding.drifted} for finding in self.findings],
        }

    def __str__(self) -> str:
        # Name only the streams that were compared.
        compared = {stream: rows for stream, rows in self.rows.items() if stream not in self.not_compared}
        seen = ", ".join(f"{rows:,} {stream}" for stream, rows in (compared or self.rows).items()) or "no vectors"
        if not self.findings:
            verdict = f"Not enough vectors: at least {FEWEST_VECTORS} documents or queries are needed; got {seen}."
        elif self.drifted:
            verdict = f"drift: train again on vectors such as these, after checking what changed ({seen})"
        else:
            verdict = f"no drift: nothing that calls for training again ({seen})"
        left_out = [f"{stream}: not compared, {reason}" for stream, reason in self.not_compared.items()]
        clipped = [
            f"documents: {each.clipped:,} of {each.rows:,} lie outside the range of {code} and are clipped"
            for code, each in self.clipped.items()
            if each.share > SATURATED_SHARE
        ]
        return "\n".join([verdict, *left_out, *clipped, *map(str, self.findings)])


def compare(known: Mapping[Stream, StreamStatistics], found: Mapping[Stream, StreamStatistics]) -> DriftReport:
    """Test every stream that has a reference and enough vectors; the report names the others. The report names the
    others.

    Args:
        known: statistics at training.
        found: statistics of new vectors.
    """
    reasons = {stream: _reason_not_to_compare(stream, known, measured) for stream, measured in found.items()}
    findings = [
        finding
        for stream, measured in found.items()
        if not reasons[stream]
        for finding in _tests(stream, known[stream], measured)
    ]
    return DriftReport(
        {stream: measured.rows for stream, measured in found.items()},
        tuple(replace(finding, p_value=min(1.0, finding.p_value * len(findings))) for finding in findings),
        {stream: reason for stream, reason in reasons.items() if reason},
    )


def _reason_not_to_compare(stream: Stream, known: Mapping[Stream, StreamStatistics], found: StreamStatistics) -> str:
    """Return why a stream cannot be compared; empty if it can."""
    if stream not in known:
        return f"the codec file holds no statistics of {stream}"
    return "" if found.rows >= FEWEST_VECTORS else f"fewer than {FEWEST_VECTORS} vectors"


def _tests(stream: Stream, known: StreamStatistics, found: StreamStatistics) -> list[Finding]:
    """Run every test of a stream. P-values are not yet corrected for the number of tests."""
    tests = [
        _distributions(stream, name, known.histograms[name], found.histograms[name])
        for name in Statistic
        if name in known.histograms and name in found.histograms and found.histograms[name].size
    ]
    return [*tests, _means(stream, known.moments, found.moments)]


def _distributions(stream: Stream, name: Statistic, known: Histogram, found: Histogram) -> Finding:
    """Run the two-sample Kolmogorov-Smirnov test on the edges. The difference can only be smaller than on the values.

    The p-value is the first term of the Kolmogorov distribution's alternating series, which bounds it from above.
    """
    shares = [np.cumsum(histogram.counts[:-1]) / histogram.size for histogram in (known, found)]
    effect = float(np.abs(shares[0] - shares[1]).max(initial=0.0))
    size = known.size * found.size / (known.size + found.size)
    return Finding(stream, name, known.mean, found.mean, effect, min(1.0, 2 * math.exp(-2 * size * effect**2)))


def _means(stream: Stream, known: Moments, found: Moments) -> Finding:
    """Run a two-sample t-test of every latent's mean, with the normal distribution; the largest difference counts."""
    variance = (known.rows * known.spread**2 + found.rows * found.spread**2) / (known.rows + found.rows - 2)
    distances = np.abs(found.mean - known.mean) / np.sqrt(variance)
    dimension = int(distances.argmax())
    distance = float(distances[dimension])
    p_value = math.erfc(distance / math.sqrt(2 / known.rows + 2 / found.rows)) * len(distances)
    return Finding(
        stream,
        Statistic.LATENT_MEAN,
        float(known.mean[dimension]),
        float(found.mean[dimension]),
        math.erf(distance / math.sqrt(8)),
        min(1.0, p_value),
        dimension,
    )
