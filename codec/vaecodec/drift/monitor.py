"""Watch what a codec encodes, and check it for drift."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from vaecodec.artifact import Metadata
from vaecodec.calibration import reference_of
from vaecodec.codec import Codec
from vaecodec.codes import Code, CodeType
from vaecodec.codes.saturation import warn_if_saturated
from vaecodec.drift.prometheus import exposition, metric_families
from vaecodec.drift.statistics import Encoded, Statistic, Stream, StreamStatistics
from vaecodec.drift.verdict import FEWEST_VECTORS, Clipped, DriftReport
from vaecodec.errors import InvalidVectorsError, NotCalibratedError
from vaecodec.interface import FloatArray
from vaecodec.runtime import Runtime
from vaecodec.sources import VectorSource
from vaecodec.sources.files import VectorFiles
from vaecodec.steps import Steps
from vaecodec.vectors import as_array, blocks

_LOG = logging.getLogger(__name__)

RESERVOIR = 1_024
"""Documents kept to compare neighbours among."""


class Reservoir:
    """Keep a uniform sample of a stream of rows of unknown length (algorithm L: Li 1994, doi:10.1145/198429.198435).

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
        """Return the rows kept so far: float32 (min(seen, size), d), a view."""
        return np.empty((0, 0), np.float32) if self._kept is None else self._kept[: self._seen]

    def add(self, rows: FloatArray) -> None:
        """Offer more rows: float32 (n, d), of the same width each time."""
        if self._kept is None:
            self._kept = np.empty((self._size, rows.shape[1]), np.float32)
        free = self._kept[self._seen : self._seen + len(rows)]
        free[:] = rows[: len(free)]
        while self._next < self._seen + len(rows):
            self._kept[self._random.integers(self._size)] = rows[self._next - self._seen]
            self._next = self._after(self._next)
        self._seen += len(rows)

    def _after(self, row: int) -> int:
        """Draw the next row to keep after this one. Gaps are geometric, and grow as the stream does."""
        # random() is below 1, so the logarithm of zero does not occur.
        self._weight *= float((1 - self._random.random()) ** (1 / self._size))
        gap = np.log(1 - self._random.random()) / np.log1p(-self._weight) if self._weight < 1 else 0.0
        return row + 1 + int(gap)


class MonitoredCodec(Codec):
    """Wrap a codec and keep statistics of what it encodes, in constant memory; see docs/drift.md.

    Make one with :meth:`of` or :meth:`load`. It can be used wherever a codec can, also in an index or a Qdrant client,
    and gives the same latents. Threads may share it. Everything that is encoded counts: use another codec to encode a
    collection again.

    Raises:
        NotCalibratedError: the file holds no statistics to compare with.

    Examples:
        >>> import numpy as np
        >>> from vaecodec.drift.monitor import MonitoredCodec
        >>> codec = MonitoredCodec.load("codec.onnx")
        >>> latents = codec.encode(np.load("embeddings.npy"))
        >>> codec.check().drifted
        False
        >>> codec.reset()
        >>> latents = codec.encode(np.load("embeddings.npy")[:, ::-1])
        >>> codec.check().drifted
        True
    """

    def __init__(self, runtime: Runtime, metadata: Metadata, code_dim: int, file: bytes) -> None:
        super().__init__(runtime, metadata, code_dim, file)
        self._reference = reference_of(self)
        try:
            self._usual: Code | None = self.code(dtype=CodeType.INT8)
        except NotCalibratedError:
            self._usual = None
        self._lock = threading.Lock()
        self.reset()

    @classmethod
    def of(cls, codec: Codec) -> MonitoredCodec:
        """Wrap a loaded codec, which stays as it is. The monitor has seen nothing yet.

        Raises:
            NotCalibratedError: the file holds no statistics of the training data, or not for this width.
        """
        return cls(codec._runtime, codec._metadata, codec._code_dim, codec._file)

    @overload
    def encode(self, vectors: Any) -> FloatArray: ...
    @overload
    def encode(self, vectors: Any, *, dtype: str | None = ..., bytes: int | None = ...) -> NDArray[Any]: ...
    def encode(self, vectors: Any, *, dtype: str | None = None, bytes: int | None = None) -> NDArray[Any]:  # noqa: A002
        """Compress documents and count them; as :meth:`Codec.encode`, which counts none when it raises."""
        code = self.code(dtype=dtype, bytes=bytes) if dtype is not None or bytes is not None else None
        vectors = as_array(vectors)
        latents = super().encode(vectors)
        self._count(Stream.DOCUMENTS, vectors, latents)
        clipped = self._count_clipped(code or self._usual, latents)
        if code is None:
            return latents
        warn_if_saturated(clipped, len(latents), code.name)
        return code.encode(latents)

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Compress queries and count them; as :meth:`Codec.encode_queries`."""
        vectors = as_array(vectors, name="queries")
        latents = super().encode_queries(vectors)
        self._count(Stream.QUERIES, vectors, latents)
        return latents

    def reset(self) -> None:
        """Forget what was seen. Call it at the start of each period, such as a day, a week or a release.

        Otherwise new vectors are ever more diluted by earlier ones.
        """
        with self._lock:
            self._seen: dict[Stream, StreamStatistics] = {}
            self._reservoir = Reservoir(RESERVOIR)
            self._clipped: dict[str, Clipped] = {}

    def check(self) -> DriftReport:
        """Compare what was seen since :meth:`reset` with the training data."""
        report = self._reference.compare(self._statistics())
        with self._lock:
            return replace(report, clipped=dict(self._clipped))

    def prometheus(self) -> str:
        """Return everything that :meth:`check` looks at, and what it found, in Prometheus' text format 0.0.4.

        Return it from the application's ``/metrics``, or write it to a file for the node exporter.

        Raises:
            MissingExtraError: prometheus-client is not installed.
        """
        return exposition(self)

    def collect(self) -> Iterator[Any]:
        """Yield the same as metric families, for ``prometheus_client.REGISTRY.register(codec)``."""
        statistics = self._statistics()
        with self._lock:
            clipped = dict(self._clipped)
        report = replace(self._reference.compare(statistics), clipped=clipped)
        yield from metric_families(self.codec_id, statistics, report)

    def _count(self, stream: Stream, vectors: Any, latents: FloatArray) -> None:
        for start, block in blocks(vectors, self.dim, self.metric):
            own = latents[start : start + len(block)]
            measured = self._reference.measure(stream, Encoded(block, own, self.decode(own)))
            with self._lock:
                self._seen[stream] = self._seen[stream] + measured if stream in self._seen else measured
                if stream is Stream.DOCUMENTS:
                    self._reservoir.add(block)

    def _count_clipped(self, code: Code | None, latents: FloatArray) -> int:
        """Count the documents that lie outside the range of a code, and return their number."""
        if code is None:
            return 0
        clipped = int(code.saturated(latents).sum())
        with self._lock:
            before = self._clipped.get(code.name, Clipped(0, 0))
            self._clipped[code.name] = Clipped(before.rows + len(latents), before.clipped + clipped)
        return clipped

    def _statistics(self) -> dict[Stream, StreamStatistics]:
        """Return what was seen of each stream, with the neighbour agreement of the documents that are kept."""
        with self._lock:
            seen, kept = dict(self._seen), self._reservoir.rows.copy()
        if Stream.DOCUMENTS in seen:
            encoded = Encoded.encode(super().encode, self.decode, kept)
            agreement = self._reference.agreement(encoded, self.metric, self.latent_metric)
            seen[Stream.DOCUMENTS] = seen[Stream.DOCUMENTS].with_histogram(Statistic.AGREEMENT, agreement)
        return seen


def check_sources(codec: Codec, documents: VectorSource, queries: VectorSource | None = None) -> DriftReport:
    """Check whether the vectors of files or collections still match the training data.

    Args:
        codec: a codec whose file holds statistics of its training data.
        documents: new documents, read once, in constant memory.
        queries: new queries.

    Raises:
        NotCalibratedError: the codec's file holds no statistics to compare with.
        InvalidVectorsError: a source is empty, or a row is bad.
        SourceError: a source cannot be read.
    """
    monitor = MonitoredCodec.of(codec)
    for source, encode in ((documents, monitor.encode), (queries, monitor.encode_queries)):
        if source is None:
            continue
        seen, say = 0, Steps(_LOG)
        for chunk in source.blocks():
            say("encoding %s: %s rows", source.name, f"{seen:,}")
            for _, block in blocks(chunk, monitor.dim, monitor.metric, name=source.name, first_row=seen):
                encode(block)
            seen += len(chunk)
        if not seen:
            raise InvalidVectorsError(f"{source.name}: expected at least {FEWEST_VECTORS} vectors, got none")
    return monitor.check()


def check_files(codec: str | os.PathLike[str], documents: str, queries: str | None = None) -> DriftReport:
    """Check whether the vectors of files or collections, named by location, still match a codec's training data.

    Args:
        codec: the codec file.
        documents: new documents: a file or address that :func:`vaecodec.sources.open_source` reads.
        queries: new queries, likewise.

    Raises:
        ArtifactError: the codec file cannot be used.
        NotCalibratedError, InvalidVectorsError, SourceError: see :func:`check_sources`.
    """
    loaded = Codec.load(codec)
    data = VectorFiles(documents=documents, queries=queries, metric=loaded.metric)
    return check_sources(loaded, *data.good(data.sources()))
