"""A codec that watches what it encodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from vaecodec.artifact import Metadata
from vaecodec.codec import Codec
from vaecodec.drift import DriftReport, Encoded, Histogram, Reference, Statistic, Stream, Summary
from vaecodec.interface import FloatArray
from vaecodec.runtime import Runtime
from vaecodec.vectors import blocks

RESERVOIR = 1_024
"""Documents kept to compare neighbours among."""

_HELP = {
    Statistic.RECONSTRUCTION: "Cosine between vectors and their reconstructions.",
    Statistic.DEVIATION: "Root mean square of a vector's latents in standard deviations from their mean at training.",
    Statistic.AGREEMENT: "Share of ten nearest neighbours that the latents keep, among a sample of what was encoded.",
}


class Reservoir:
    """A uniform sample of a stream of rows of unknown length (algorithm L: Li 1994, doi:10.1145/198429.198435).

    Which rows are kept depends on the seed and on the rows' order, not on how they are cut into batches.

    Args:
        size: rows kept.
        seed: of the choice.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self._kept: FloatArray | None = None
        self._size = size
        self._seen = 0
        self._random = np.random.default_rng(seed)
        self._weight = 1.0
        self._next = self._after(size - 1)

    @property
    def rows(self) -> FloatArray:
        """What is kept so far: float32 (min(seen, size), d), a view."""
        return np.empty((0, 0), np.float32) if self._kept is None else self._kept[: self._seen]

    def add(self, rows: FloatArray) -> None:
        """See float32 (n, d), of the same width each time."""
        if self._kept is None:
            self._kept = np.empty((self._size, rows.shape[1]), np.float32)
        free = self._kept[self._seen : self._seen + len(rows)]
        free[:] = rows[: len(free)]
        while self._next < self._seen + len(rows):
            self._kept[self._random.integers(self._size)] = rows[self._next - self._seen]
            self._next = self._after(self._next)
        self._seen += len(rows)

    def _after(self, row: int) -> int:
        """The next row to keep after this one: gaps are geometric, and grow as the stream does."""
        # 1 - [0, 1): the logarithm of zero does not occur.
        self._weight *= float((1 - self._random.random()) ** (1 / self._size))
        gap = np.log(1 - self._random.random()) / np.log1p(-self._weight) if self._weight < 1 else 0.0
        return row + 1 + int(gap)


class MonitoredCodec(Codec):
    """A :class:`~vaecodec.Codec` that keeps statistics of what it encodes, in constant memory; see docs/drift.md.

    Made by :meth:`Codec.monitor <vaecodec.Codec.monitor>` or :meth:`load`. It can stand wherever a codec does, in an
    index or a Qdrant client too, and gives the same latents. Safe to share between threads. Whatever is encoded
    counts, so a collection that is only encoded again should go through another codec.

    Raises:
        NoReferenceError: the file holds no statistics to compare with.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> codec = Codec.load("codec.onnx").monitor()
        >>> latents = codec.encode(np.load("embeddings.npy"))
        >>> codec.check().drifted
        False
        >>> codec.reset()
        >>> latents = codec.encode(np.load("embeddings.npy")[:, ::-1])
        >>> codec.check().drifted
        True
    """

    def __init__(self, runtime: Runtime, metadata: Metadata, code_dim: int) -> None:
        super().__init__(runtime, metadata, code_dim)
        self._reference = Reference.of(self)
        self._lock = threading.Lock()
        self.reset()

    @overload
    def encode(self, vectors: Any) -> FloatArray: ...
    @overload
    def encode(self, vectors: Any, *, dtype: str | None = ..., bytes: int | None = ...) -> NDArray[Any]: ...
    def encode(self, vectors: Any, *, dtype: str | None = None, bytes: int | None = None) -> NDArray[Any]:  # noqa: A002
        """Compress documents and count them; as :meth:`Codec.encode`, which counts none when it raises."""
        code = self.code(dtype=dtype, bytes=bytes) if dtype is not None or bytes is not None else None
        latents = super().encode(vectors)
        self._count(Stream.DOCUMENTS, vectors, latents)
        return code.encode(latents) if code is not None else latents

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Compress queries and count them; as :meth:`Codec.encode_queries`."""
        latents = super().encode_queries(vectors)
        self._count(Stream.QUERIES, vectors, latents)
        return latents

    def monitor(self) -> MonitoredCodec:
        """Another monitor of the same codec, which has seen nothing."""
        return MonitoredCodec(self._runtime, self._metadata, self._code_dim)

    def reset(self) -> None:
        """Forget what was seen: a new day, week or release starts.

        Without that, what is new is ever more diluted by what was seen before.
        """
        with self._lock:
            self._seen: dict[Stream, Summary] = {}
            self._reservoir = Reservoir(RESERVOIR)

    def check(self) -> DriftReport:
        """Compare what was seen since :meth:`reset` with what the codec was trained for."""
        return self._reference.compare(self._summaries())

    def prometheus(self) -> str:
        """Everything that :meth:`check` looks at, and what it found, in Prometheus' text format 0.0.4.

        Return it from the application's ``/metrics``, or write it to a file for the node exporter.
        """
        summaries = self._summaries()
        report = self._reference.compare(summaries)
        return "\n".join(_exposition(self.codec_id, summaries, report)) + "\n"

    def _count(self, stream: Stream, vectors: Any, latents: FloatArray) -> None:
        for start, block in blocks(vectors, self.dim, self.metric):
            own = latents[start : start + len(block)]
            summary = self._reference.summary(stream, Encoded(block, own, self.decode(own)))
            with self._lock:
                self._seen[stream] = self._seen[stream] + summary if stream in self._seen else summary
                if stream is Stream.DOCUMENTS:
                    self._reservoir.add(block)

    def _summaries(self) -> dict[Stream, Summary]:
        """What was seen of each stream, with the neighbour agreement of the documents that are kept."""
        with self._lock:
            summaries, kept = dict(self._seen), self._reservoir.rows.copy()
        if Stream.DOCUMENTS in summaries:
            summary = summaries[Stream.DOCUMENTS]
            encoded = Encoded.by(super().encode, self.decode, kept)
            agreement = self._reference.agreement(encoded, self.metric, self.latent_metric)
            summaries[Stream.DOCUMENTS] = Summary(
                summary.moments, {**summary.histograms, Statistic.AGREEMENT: agreement}
            )
        return summaries


def _exposition(codec_id: str, summaries: dict[Stream, Summary], report: DriftReport) -> Iterator[str]:
    """https://prometheus.io/docs/instrumenting/exposition_formats: the lines of one metric must follow each other."""
    codec = f'codec="{codec_id[:12]}"'
    yield "# HELP vaecodec_vectors_total Vectors encoded."
    yield "# TYPE vaecodec_vectors_total counter"
    for stream in Stream:
        rows = summaries[stream].rows if stream in summaries else 0
        yield f'vaecodec_vectors_total{{{codec},stream="{stream}"}} {rows}'
    for statistic, text in _HELP.items():
        yield f"# HELP vaecodec_{statistic} {text}"
        yield f"# TYPE vaecodec_{statistic} histogram"
        for stream, summary in summaries.items():
            histogram = summary.histograms.get(statistic)
            if histogram is not None:
                yield from _buckets(f"vaecodec_{statistic}", f'{codec},stream="{stream}"', histogram)
    for name, text in (
        ("effect", "How different a statistic's distribution is from that at training, 0 to 1."),
        ("p_value", "Probability of such a difference when nothing changed, corrected for the number of tests."),
    ):
        yield f"# HELP vaecodec_drift_{name} {text}"
        yield f"# TYPE vaecodec_drift_{name} gauge"
        for finding in report.findings:
            labels = f'{codec},stream="{finding.stream}",statistic="{finding.statistic}"'
            yield f"vaecodec_drift_{name}{{{labels}}} {getattr(finding, name):.6g}"
    yield "# HELP vaecodec_drift_not_compared Whether vectors were seen that the check could not compare."
    yield "# TYPE vaecodec_drift_not_compared gauge"
    for stream in summaries:
        yield f'vaecodec_drift_not_compared{{{codec},stream="{stream}"}} {stream in report.not_compared:d}'
    yield "# HELP vaecodec_drift Whether what was encoded is no longer what the codec was trained for."
    yield "# TYPE vaecodec_drift gauge"
    yield f"vaecodec_drift{{{codec}}} {report.drifted:d}"


def _buckets(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    bounds = [*(f"{edge:.9g}" for edge in histogram.edges), "+Inf"]
    for bound, count in zip(bounds, histogram.counts.cumsum(), strict=True):
        yield f'{name}_bucket{{{labels},le="{bound}"}} {count}'
    yield f"{name}_sum{{{labels}}} {histogram.total:.9g}"
    yield f"{name}_count{{{labels}}} {histogram.size}"
