"""Exact search over codes, kept packed in memory or in a memory-mapped file.

For files, tests and up to a few million vectors: every query is compared with every code, which are turned into floats
one block at a time. To serve larger collections, or many writers, use an engine.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.codec import Codec
from vaecodec.codes import Code, TrellisCode
from vaecodec.codes.parallel import over_rows
from vaecodec.codes.saturation import warn_if_saturated
from vaecodec.codes.trellis import compiled_kernels
from vaecodec.errors import CodecMismatchError, IndexFileError, InvalidSearchError
from vaecodec.evaluation import similarities
from vaecodec.files import replacing
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import as_vectors, blocks

IdArray = NDArray[np.int64]

# magic, format version, length of the JSON header; little-endian. docs/codes.md specifies the file.
_PREAMBLE = struct.Struct("<8sII")
_MAGIC = b"VAECPACK"
_VERSION = 1
_ALIGNMENT = 64
# Norms whose square and reciprocal float32 can hold, with room for products; 0 beside them.
_NORMS = (1e-18, 1e18)

# A block of codes, expanded to floats, and its scores against a block of queries stay within tens of megabytes.
_BASE_ROWS = 8192
_THREAD_ROWS = 512
_QUERY_ROWS = 1024

# With so few queries, each on its own beats writing values out for a matrix product. The first rows are all scored;
# the better the k best so far, the fewer of the next ones have to be.
_FEW_QUERIES = 4
_FIRST_ROWS = 2048
_LAST_ROWS = 65_536


class _Segment(NamedTuple):
    """Codes (n, width) and, unless latents are compared by dot product, the norms of what they decode to."""

    codes: NDArray[Any]
    norms: FloatArray


class PackedIndex:
    """Vectors as codes, searched by float queries; rows are numbered in the order in which they were added.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> from vaecodec.packed_index import PackedIndex
        >>> embeddings = np.load("embeddings.npy")
        >>> index = PackedIndex(Codec.load("codec.onnx"), dtype="int4")
        >>> index.add(embeddings)
        >>> index.bytes_per_vector
        36
        >>> ids, scores = index.search(np.load("queries.npy"), 10, originals=embeddings)
        >>> ids.shape
        (1000, 10)
    """

    def __init__(self, codec: Codec, *, dtype: str | None = None, bytes: int | None = None) -> None:  # noqa: A002
        """An empty index.

        Args:
            codec: what encodes vectors and queries.
            dtype: see :meth:`vaecodec.Codec.code`.
            bytes: see :meth:`vaecodec.Codec.code`.

        Raises:
            InvalidBudgetError, NotCalibratedError: see :meth:`vaecodec.Codec.code`.
        """
        self._codec = codec
        self._parameters = {"dtype": dtype} if bytes is None else {"bytes": bytes}
        self._code: Code = codec.code(dtype=dtype, bytes=bytes)
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        return sum(len(segment.codes) for segment in self._segments)

    @property
    def code(self) -> Code:
        """How vectors are written as bytes."""
        return self._code

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that each vector takes in memory and on disk: its code, and 4 for its norm unless compared by dot."""
        return self._code.bytes_per_vector + (0 if self._codec.latent_metric is Metric.DOT else 4)

    def add(self, vectors: Any) -> None:
        """Append vectors, float (n, dim), an array or a memory map.

        Raises:
            InvalidVectorsError: one of its subclasses, naming the first bad row; nothing was added then.
            MissingExtraError: the code needs numba, which is not installed.

        Warns:
            SaturationWarning: more than 5 % of the vectors lie outside the range of the code; they are added.
        """
        added = []
        saturated = 0
        for _, block in blocks(vectors, self._codec.dim, self._codec.metric):
            latents = self._codec.encode(block)
            saturated += int(self._code.saturated(latents).sum())
            codes = self._code.encode(latents)
            added.append(_Segment(codes, self._norms(codes)))
        if added:
            joined = _Segment(*(np.concatenate(parts) for parts in zip(*added, strict=True)))
            self._segments.append(joined)
            warn_if_saturated(saturated, len(joined.codes), self._code.name)

    def search(
        self, queries: Any, k: int, *, originals: Any = None, oversample: int = 4, threads: int | None = None
    ) -> tuple[IdArray, FloatArray]:
        """The exact k nearest codes to each query.

        Args:
            queries: float (nq, dim).
            k: neighbours asked for; at most ``len(self)`` are returned.
            originals: float (len(self), dim), the vectors that were added, an array or a memory map: the best
                ``k * oversample`` are ranked again by them.
            oversample: see ``originals``.
            threads: by default one per core. Matrix products use BLAS's own threads.

        Returns:
            Row numbers, int64 (nq, min(k, n)), and scores, float32, nearest first, at equal scores the lower row first.
            Scores are cosines, dot products or negated squared distances of the latents, of the originals if given.

        Raises:
            InvalidSearchError: ``k`` or ``oversample`` is not positive, or ``originals`` has other rows.
            InvalidVectorsError: one of its subclasses, naming the first bad query.
        """
        if k < 1 or oversample < 1:
            raise InvalidSearchError(f"expected k and oversample of at least 1, got k={k} and oversample={oversample}")
        if originals is not None and np.shape(originals) != (len(self), self._codec.dim):
            raise InvalidSearchError(
                f"originals: expected shape ({len(self)}, {self._codec.dim}), got {np.shape(originals)}"
            )
        rows = as_vectors(queries, self._codec.dim, self._codec.metric, name="queries")
        latents = self._codec.encode_queries(rows)
        wanted = min(k if originals is None else k * oversample, len(self))
        ids = np.empty((len(rows), wanted), np.int64)
        scores = np.empty((len(rows), wanted), np.float32)
        if wanted and len(rows) <= _FEW_QUERIES and self._looks_up():
            alone = threads if len(rows) == 1 else 1

            def work(start: int, stop: int) -> None:
                for number in range(start, stop):
                    ids[number], scores[number] = self._search_one(latents[number], wanted, alone)

            over_rows(work, len(rows), 1, threads)
        else:
            for start in range(0, len(rows) if wanted else 0, _QUERY_ROWS):
                part = slice(start, start + _QUERY_ROWS)
                ids[part], scores[part] = self._search_block(latents[part], wanted, threads)
        return (ids, scores) if originals is None else self._rerank(rows, ids, originals, min(k, wanted))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, atomically: the target is the old file or the new one, never half."""
        header = json.dumps(
            {
                "codec_id": self._codec.codec_id,
                "code_dim": self._codec.code_dim,
                "code": self._parameters,
                "rows": len(self),
            }
        ).encode()
        header += b" " * (-(_PREAMBLE.size + len(header)) % _ALIGNMENT)
        with replacing(path) as file:
            file.write(_PREAMBLE.pack(_MAGIC, _VERSION, len(header)) + header)
            for part in ("norms", "codes"):
                for segment in self._segments:
                    array = getattr(segment, part)
                    file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)

    @classmethod
    def load(cls, path: str | os.PathLike[str], codec: Codec) -> PackedIndex:
        """Open a saved index; the codes stay in the file, memory-mapped.

        Raises:
            FileNotFoundError: there is no such file.
            IndexFileError: it is not an index, newer than this version reads, cut short or damaged.
            CodecMismatchError: another codec, or another width of it, filled the index.
        """
        with open(path, "rb") as file:
            preamble = file.read(_PREAMBLE.size)
            if len(preamble) < _PREAMBLE.size or not preamble.startswith(_MAGIC):
                raise IndexFileError(f"{path}: expected a file that PackedIndex.save wrote")
            _, version, length = _PREAMBLE.unpack(preamble)
            if version > _VERSION:
                raise IndexFileError(f"{path}: format version {version} is newer than the {_VERSION} known here")
            try:
                header = json.loads(file.read(length))
                codec_id, code_dim, rows = str(header["codec_id"]), int(header["code_dim"]), int(header["rows"])
                dtype, budget = header["code"].get("dtype"), header["code"].get("bytes")
            # What is not JSON, is not an object, or lacks or mistypes a value.
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
                raise IndexFileError(f"{path}: the header is damaged") from error
        if (codec_id, code_dim) != (codec.codec_id, codec.code_dim):
            raise CodecMismatchError(
                f"{path}: filled by codec {codec_id[:16]} at {code_dim} dimensions, cannot be "
                f"searched with codec {codec.codec_id[:16]} at {codec.code_dim}"
            )
        if rows < 0 or not isinstance(budget, int | None):
            raise IndexFileError(f"{path}: the header is damaged")
        index = cls(codec, dtype=dtype, bytes=budget)
        start = _PREAMBLE.size + length
        expected = start + rows * index.bytes_per_vector
        if os.path.getsize(path) != expected:
            raise IndexFileError(f"{path}: expected {expected} bytes, found {os.path.getsize(path)}")
        if rows:
            empty = index._code.encode(np.empty((0, codec.code_dim), np.float32))
            count = 0 if codec.latent_metric is Metric.DOT else rows
            norms = np.memmap(path, "<f4", "r", start, (count,)) if count else np.empty(0, np.float32)
            usable = (norms == 0) | ((norms >= _NORMS[0]) & (norms <= _NORMS[1]))
            if not usable.all():
                row = int(np.argmin(usable))
                raise IndexFileError(f"{path}: row {row}: {norms[row]:g} is no norm of a vector; the file is damaged")
            codes = np.memmap(path, empty.dtype, "r", start + 4 * count, (rows, empty.shape[1]))
            index._segments.append(_Segment(codes, norms))
        return index

    def _norms(self, codes: NDArray[Any]) -> FloatArray:
        if self._codec.latent_metric is Metric.DOT:
            return np.empty(0, np.float32)
        values = np.empty((len(codes), self._code.steps), np.float32)
        self._code.expand(codes, values)
        mean = self._code.mean
        squares = np.einsum("ij,ij->i", values, values) + mean @ mean
        squares += 2 * (values @ self._code.query_steps(mean[None])[0])
        return np.asarray(np.sqrt(squares.clip(0)), np.float32)

    def _blocks(self, smallest: int, largest: int | None = None) -> Iterator[tuple[int, _Segment]]:
        """The base in blocks that grow fourfold, each with the number of its first row."""
        first, rows = 0, smallest
        for codes, norms in self._segments:
            start = 0
            while start < len(codes):
                part = slice(start, start + rows)
                yield first + start, _Segment(codes[part], norms[part])
                start += rows
                rows = min(4 * rows, largest or smallest)
            first += len(codes)

    def _search_block(self, queries: FloatArray, k: int, threads: int | None) -> tuple[IdArray, FloatArray]:
        best = _Best(len(queries), k)
        metric = self._codec.latent_metric
        steps, offsets = self._code.query_steps(queries), queries @ self._code.mean
        factor = np.float32(2 if metric is Metric.L2 else 1)
        # One more column for the mean and one for the norm, so that a matrix product gives finished scores.
        widened = np.column_stack([factor * steps, factor * offsets, np.ones_like(offsets)])
        rows = np.empty((min(len(self), _BASE_ROWS), widened.shape[1]), np.float32)
        for first, (codes, norms) in self._blocks(_BASE_ROWS):
            scale, bias = self._scale_and_bias(len(codes), norms)
            self._expand(codes, scale, bias, rows, threads)
            best.update(first, widened @ rows[: len(codes)].T)
        if metric is Metric.L2:
            best.scores -= np.einsum("ij,ij->i", queries, queries)[:, None]
        return best.ids, best.scores

    def _search_one(self, query: FloatArray, k: int, threads: int | None) -> tuple[IdArray, FloatArray]:
        """As ``_search_block`` for one query, (k,), without writing values out and giving up most rows early."""
        assert isinstance(self._code, TrellisCode)
        best = _Best(1, k)
        metric = self._codec.latent_metric
        factor = np.float32(2 if metric is Metric.L2 else 1)
        for first, (codes, norms) in self._blocks(_FIRST_ROWS, _LAST_ROWS):
            scale, bias = self._scale_and_bias(len(codes), norms)
            needed = (best.least - bias) / (factor * scale)
            squares = None if metric is Metric.DOT else norms**2
            dots = self._code.dot_products(codes, query, needed, squares, threads=threads)
            best.update(first, (factor * dots * scale + bias)[None])
        if metric is Metric.L2:
            best.scores -= query @ query
        return best.ids[0], best.scores[0]

    def _looks_up(self) -> bool:
        return isinstance(self._code, TrellisCode) and compiled_kernels() is not None

    def _scale_and_bias(self, rows: int, norms: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What turns dot products of rows of these norms into scores: ``factor * dot * scale + bias``, both (rows,)."""
        scale, bias = np.ones(rows, np.float32), np.zeros(rows, np.float32)
        if self._codec.latent_metric is Metric.COSINE:
            np.divide(1, norms, out=scale, where=norms > 0)
        elif self._codec.latent_metric is Metric.L2:
            np.negative(norms**2, out=bias)
        return scale, bias

    def _expand(
        self, codes: NDArray[Any], scale: FloatArray, bias: FloatArray, rows: FloatArray, threads: int | None
    ) -> None:
        """Write ``scale * values``, ``scale`` and ``bias`` of each code into ``rows``, float32 (n, steps + 2)."""
        rows[: len(codes), -2] = scale
        rows[: len(codes), -1] = bias

        def work(start: int, stop: int) -> None:
            values = np.empty((stop - start, self._code.steps), np.float32)
            self._code.expand(codes[start:stop], values)
            np.multiply(values, scale[start:stop, None], out=rows[start:stop, :-2])

        over_rows(work, len(codes), _THREAD_ROWS, threads)

    def _rerank(self, queries: FloatArray, ids: IdArray, originals: Any, k: int) -> tuple[IdArray, FloatArray]:
        best_ids = np.empty((len(queries), k), np.int64)
        best_scores = np.empty((len(queries), k), np.float32)
        for number, query in enumerate(queries):
            candidates = np.sort(ids[number])  # ascending: a memory map is read forwards, ties keep the lower row
            rows = as_vectors(originals[candidates], self._codec.dim, self._codec.metric, name="originals")
            scores = similarities(query[None], rows, self._codec.metric)[0]
            order = np.argsort(-scores, kind="stable")[:k]
            best_ids[number], best_scores[number] = candidates[order], scores[order]
        return best_ids, best_scores


class _Best:
    """The k best rows of each query so far; rows arrive in ascending order."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.ids: IdArray = np.empty((queries, 0), np.int64)
        self.scores: FloatArray = np.empty((queries, 0), np.float32)

    @property
    def least(self) -> np.float32:
        """What a score of the only query has to exceed."""
        return np.float32(self.scores[0, -1] if self.scores.shape[1] == self._k else -np.inf)

    def update(self, first: int, scores: FloatArray) -> None:
        """Take in the scores of the rows from ``first`` on: float32 (queries, rows)."""
        if self.scores.shape[1] < self._k:
            scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)  # of a damaged file; such rows come last
            kept = min(scores.shape[1], self._k)
            passing = scores >= np.partition(scores, -kept, axis=1)[:, -kept, None]
        else:  # a row that only ties with the k-th loses to it, as its number is higher
            passing = scores > self.scores[:, -1:]
        queries, columns = np.nonzero(passing)
        if len(queries):
            self._merge(queries, columns + first, scores[queries, columns])

    def _merge(self, queries: IdArray, ids: IdArray, scores: FloatArray) -> None:
        total = len(self.scores)
        queries = np.concatenate([np.repeat(np.arange(total), self.ids.shape[1]), queries])
        ids = np.concatenate([self.ids.ravel(), ids])
        scores = np.concatenate([self.scores.ravel(), scores])
        order = np.lexsort((ids, -scores, queries))
        counts = np.bincount(queries, minlength=total)
        starts = np.cumsum(counts) - counts
        kept = order[starts[:, None] + np.arange(min(self._k, int(counts.min())))]
        self.ids, self.scores = ids[kept], scores[kept]
