"""Search over codes, exactly or fast, for files, tests and up to some ten million vectors.

To serve larger collections, or payloads, use an engine.
"""

from __future__ import annotations

import os
import threading
from typing import Any, NamedTuple

import numpy as np

from vaecodec.codec import Codec
from vaecodec.codes import Code
from vaecodec.codes.parallel import over_rows
from vaecodec.codes.saturation import warn_if_saturated
from vaecodec.errors import IndexArgumentError
from vaecodec.evaluation import IdArray, similarities
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.packed_index import file
from vaecodec.packed_index.growing import Growing
from vaecodec.packed_index.rows import IdLookup, Rows
from vaecodec.packed_index.search import Derived, Effort, Scorer
from vaecodec.vectors import as_array, as_vectors, blocks

_WRITTEN_ROWS = 65_536
_QUERY_ROWS = 1024
# Up to this many queries it is faster to score each on its own than to expand codes for a matrix product.
_FEW_QUERIES = 4


class PackedIndex:
    """Keep vectors as codes and search them with float queries.

    Safe to share between threads: a search sees the index as it was when it began, whatever is added and deleted
    meanwhile.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> from vaecodec.packed_index import PackedIndex
        >>> embeddings = np.load("embeddings.npy")
        >>> index = PackedIndex(Codec.load("codec.onnx"), dtype="int4")
        >>> index.add(embeddings)
        >>> index.bytes_per_vector
        32
        >>> ids, scores = index.search(np.load("queries.npy"), 10, originals=embeddings)
        >>> ids.shape
        (1000, 10)
        >>> index.delete(ids[0])
        >>> len(index) == len(embeddings) - 10
        True
    """

    def __init__(self, codec: Codec, *, dtype: str | None = None, bytes: int | None = None) -> None:  # noqa: A002
        """Make an empty index.

        Args:
            codec: what encodes vectors and queries.
            dtype: see :meth:`vaecodec.Codec.code`.
            bytes: see :meth:`vaecodec.Codec.code`.

        Raises:
            InvalidBudgetError, NotCalibratedError: see :meth:`vaecodec.Codec.code`.
        """
        self._codec = codec
        self._parameters: dict[str, Any] = {"dtype": dtype} if bytes is None else {"bytes": bytes}
        self._code = codec.code(dtype=dtype, bytes=bytes)
        self._scorer = Scorer(self._code, codec.latent_metric)
        empty = self._code.encode(np.empty((0, codec.code_dim), np.float32))
        self._lock = threading.RLock()
        self._start(Rows(empty, empty, None, np.empty(0, np.int64)), 0)

    def _start(self, rows: Rows, next_id: int) -> None:
        """Hold these rows, and nothing that was derived from others."""
        self._codes = Growing(rows.added)
        self._ids = Growing(np.empty(0, np.int64))
        if rows.ids is not None:
            self._ids.append(rows.ids)
        self._lookup = IdLookup()
        self._next_id = next_id
        # Searches read this without the lock, so replace it in one assignment.
        self._state = _State(rows, Derived(), object())

    @property
    def _rows(self) -> Rows:
        return self._state.rows

    def __len__(self) -> int:
        return self._rows.live

    @property
    def code(self) -> Code:
        """Return the code that writes vectors as bytes."""
        return self._code

    @property
    def bytes_per_vector(self) -> int:
        """Return the bytes that each vector takes in the file, beside 8 for its id where ids were given."""
        return self._code.bytes_per_vector

    @property
    def ids(self) -> IdArray:
        """Return the ids of all vectors, in the order in which they were added: int64 (n,)."""
        rows = self._rows
        return rows.ids_of(rows.live_numbers())

    def add(self, vectors: Any, ids: Any = None) -> None:
        """Append vectors.

        Args:
            vectors: float (n, dim), an array or a memory map.
            ids: int (n,), different ones that are not in the index; by default they go on from the largest so far, 0
                in an empty index.

        Raises:
            InvalidVectorsError: one of its subclasses, naming the first bad row; nothing was added then.
            IndexArgumentError: ids of another number or form, or ids that are taken; nothing was added then.
            MissingExtraError: the code needs numba, which is not installed.

        Warns:
            SaturationWarning: more than 5 % of the vectors lie outside the range of the code; they are added.
        """
        parts = [self._codes.rows[:0]]
        saturated = 0
        for _, block in blocks(vectors, self._codec.dim, self._codec.metric):
            latents = self._codec.encode(block)
            saturated += int(self._code.saturated(latents).sum())
            parts.append(self._code.encode(latents))
        codes = np.concatenate(parts)
        with self._lock:
            own = self._new_ids(ids, len(codes))
            rows = self._rows
            self._codes.append(codes)
            all_ids = rows.ids
            if all_ids is not None or not np.array_equal(own, np.arange(len(rows), len(rows) + len(own))):
                if all_ids is None:
                    self._ids.append(np.arange(len(rows)))
                self._ids.append(own)
                all_ids = self._ids.rows
            self._next_id = max(self._next_id, int(own.max(initial=-1)) + 1)
            self._state = self._state._replace(rows=Rows(rows.stored, self._codes.rows, all_ids, rows.deleted))
        warn_if_saturated(saturated, len(codes), self._code.name)

    def _new_ids(self, ids: Any, count: int) -> IdArray:
        if ids is None:
            if self._next_id + count > 1 << 63:
                raise IndexArgumentError(f"ids: none are left after {self._next_id - 1}; give ids of your own")
            return np.arange(self._next_id, self._next_id + count)
        checked = _checked_ids(ids)
        if len(checked) != count:
            raise IndexArgumentError(f"ids: expected one for each of the {count} vectors, got {len(checked)}")
        taken = self._lookup.find(self._rows, checked) >= 0
        if taken.any():
            raise IndexArgumentError(f"ids: {checked[np.argmax(taken)]} is in the index; delete it first")
        return checked

    def delete(self, ids: Any) -> None:
        """Delete vectors. Their codes stay until :meth:`compact`, or until the index is saved and loaded.

        Args:
            ids: int (n,), different ones.

        Raises:
            IndexArgumentError: an id is not in the index, or is named twice; nothing was deleted then.
        """
        checked = _checked_ids(ids)
        with self._lock:
            numbers = self._lookup.find(self._rows, checked)
            if (numbers < 0).any():
                raise IndexArgumentError(f"ids: {checked[np.argmin(numbers)]} is not in the index; nothing was deleted")
            self._state = self._state._replace(rows=self._rows.without(numbers))

    def compact(self) -> None:
        """Give back the memory of deleted vectors. All codes are then in memory, no longer in the file."""
        with self._lock:
            numbers = self._rows.live_numbers()
            if len(numbers) < len(self._rows):
                codes, ids = self._rows.take(numbers), self._rows.ids_of(numbers)
                self._start(Rows(codes, codes[:0], ids, np.empty(0, np.int64)), self._next_id)

    def prepare(self, *, threads: int | None = None) -> None:
        """Make what a search for few queries needs in memory; else the first such search does.

        That is a norm and a sketch of each vector, about as large as its code. Codes that are searched by matrix
        products, which are all but those of ``bytes=``, need it for an effort below full only.

        Args:
            threads: by default one per core.

        Raises:
            MissingExtraError: numba is not installed.
        """
        require("numba", extra="packed")
        self._prepared(self._state, threads)

    def _prepared(self, state: _State, threads: int | None) -> _State:
        """Return the same rows with all that is derived from them, even if the index has moved on meanwhile."""
        if len(state.derived.norms) >= len(state.rows):
            return state
        with self._lock:
            now = self._state
            if now.numbering is not state.numbering:
                return state._replace(derived=state.derived.grown(state.rows, self._scorer, threads))
            self._state = now._replace(derived=now.derived.grown(now.rows, self._scorer, threads))
            return state._replace(derived=self._state.derived)

    def search(
        self,
        queries: Any,
        k: int,
        *,
        among: Any = None,
        effort: str = Effort.FULL,
        originals: Any = None,
        oversample: int = 4,
        threads: int | None = None,
    ) -> tuple[IdArray, FloatArray]:
        """Find the k nearest vectors to each query.

        Args:
            queries: float (nq, dim).
            k: neighbours asked for; at most as many are returned as there are.
            among: int (m,), the ids to search; those that are not in the index do not matter. By default all.
            effort: ``full`` compares every code, and its answer is exact. ``high``, ``medium`` and ``low`` look closely
                at the best of a first stage only; docs/codes.md has the recall of each. It takes the extra ``packed``.
            originals: float (n, dim), an array or a memory map that holds the vector of each id in the row of that
                number: the best ``k * oversample`` are ranked again by them.
            oversample: see ``originals``.
            threads: by default one per core. Matrix products use BLAS's own threads.

        Returns:
            Ids, int64 (nq, min(k, n)), and scores, float32, nearest first, at equal scores what was added first.
            Scores are cosines, dot products or negated squared distances of the latents, of the originals if given.

        Raises:
            IndexArgumentError: ``k`` or ``oversample`` is not positive, there is no such effort, ``originals`` lacks
                rows, or ``among`` does not hold integers.
            InvalidVectorsError: one of its subclasses, naming the first bad query.
            MissingExtraError: the effort needs numba, which is not installed.
        """
        if k < 1 or oversample < 1:
            raise IndexArgumentError(f"expected k and oversample of at least 1, got k={k} and oversample={oversample}")
        if effort not in list(Effort):
            raise IndexArgumentError(f"effort: expected one of {', '.join(Effort)}, got {effort!r}")
        rows = as_vectors(queries, self._codec.dim, self._codec.metric, name="queries")
        allowed, state = self._allowed(among)
        if originals is not None:
            originals = as_array(originals, name="originals")
            self._check_originals(originals, state.rows)
        few = (len(rows) <= _FEW_QUERIES and self._scorer.looks_up) or effort != Effort.FULL
        if few:
            require("numba", extra="packed")
            state = self._prepared(state, threads)
        latents = self._codec.encode_queries(rows)
        count = state.rows.live if allowed is None else len(allowed)
        wanted = min(k if originals is None else k * oversample, count)
        if not wanted:
            return np.empty((len(rows), 0), np.int64), np.empty((len(rows), 0), np.float32)
        numbers, scores = np.empty((len(rows), wanted), np.int64), np.empty((len(rows), wanted), np.float32)

        def each(start: int, stop: int) -> None:
            for row in range(start, stop):
                numbers[row], scores[row] = self._scorer.one(
                    state.rows,
                    state.derived,
                    latents[row],
                    wanted,
                    Effort(effort),
                    allowed,
                    threads if len(rows) == 1 else 1,
                )

        if few:
            over_rows(each, len(rows), 1, threads)
        else:
            for start in range(0, len(rows), _QUERY_ROWS):
                part = slice(start, start + _QUERY_ROWS)
                numbers[part], scores[part] = self._scorer.many(state.rows, latents[part], wanted, allowed, threads)
        ids = state.rows.ids_of(numbers)
        return (ids, scores) if originals is None else self._rerank(rows, ids, originals, min(k, wanted))

    def _allowed(self, among: Any) -> tuple[IdArray | None, _State]:
        """Return the numbers of the rows to search, ascending, and the state that they belong to; None for all."""
        if among is None:
            state = self._state
            return (state.rows.live_numbers() if len(state.rows.deleted) else None), state
        wanted = _checked_ids(among, unique=False)
        with self._lock:
            numbers = self._lookup.find(self._rows, wanted)
            return np.unique(numbers[numbers >= 0]), self._state

    def _check_originals(self, originals: Any, rows: Rows) -> None:
        shape = np.shape(originals)
        needed = len(rows) if rows.ids is None else max(0, int(rows.ids.max(initial=-1)) + 1)
        if len(shape) != 2 or shape[1] != self._codec.dim or shape[0] < needed:
            raise IndexArgumentError(f"originals: expected shape ({needed}, {self._codec.dim}), got {shape}")
        if rows.ids is not None and int(rows.ids.min(initial=0)) < 0:
            raise IndexArgumentError("originals: expected ids that are row numbers, got negative ones")

    def _rerank(self, queries: FloatArray, ids: IdArray, originals: Any, k: int) -> tuple[IdArray, FloatArray]:
        best_ids = np.empty((len(queries), k), np.int64)
        best_scores = np.empty((len(queries), k), np.float32)
        for number, query in enumerate(queries):
            candidates = np.sort(ids[number])  # ascending: memory maps are read forwards, and ties keep the lower id
            rows = as_vectors(originals[candidates], self._codec.dim, self._codec.metric, name="originals")
            scores = similarities(query[None], rows, self._codec.metric)[0]
            order = np.argsort(-scores, kind="stable")[:k]
            best_ids[number], best_scores[number] = candidates[order], scores[order]
        return best_ids, best_scores

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vectors that are not deleted to one file; readers find the old file or the new one."""
        with self._lock:
            rows, next_id = self._rows, self._next_id
        numbers = rows.live_numbers()
        ids = None if rows.ids is None and not len(rows.deleted) else rows.ids_of(numbers)
        header = file.Header(
            codec_id=self._codec.codec_id,
            code_dim=self._codec.code_dim,
            code=self._parameters,
            rows=len(numbers),
            next_id=next_id,
            ids=ids is not None,
        )
        parts = (rows.take(numbers[start : start + _WRITTEN_ROWS]) for start in range(0, len(numbers), _WRITTEN_ROWS))
        file.write(path, header, ids, parts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], codec: Codec) -> PackedIndex:
        """Open a saved index; the codes stay in the file, memory-mapped.

        The whole file is read once, to compare it with its checksum.

        Raises:
            FileNotFoundError: there is no such file.
            IndexFileError: it is not an index, of another version, cut short or damaged.
            CodecMismatchError: another codec, or another width of it, filled the index.
        """
        header, rows = file.read(path, codec)
        index = cls(codec, **header.code)
        index._start(rows, header.next_id)
        return index


class _State(NamedTuple):
    """Hold the state of an index that a search sees.

    Attributes:
        rows: those of the index at some time.
        derived: of these rows or of later ones with the same numbers.
        numbering: the same object as long as rows keep their numbers.
    """

    rows: Rows
    derived: Derived
    numbering: object


def _checked_ids(ids: Any, *, unique: bool = True) -> IdArray:
    """Return the ids as int64 (n,); raises ``IndexArgumentError``."""
    array = np.asarray(ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise IndexArgumentError(f"ids: expected integers of shape (n,), got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        raise IndexArgumentError(f"ids: expected at most {np.iinfo(np.int64).max}, got {array.max()}")
    checked = array.astype(np.int64)
    if unique:
        values, counts = np.unique(checked, return_counts=True)
        if (counts > 1).any():
            raise IndexArgumentError(f"ids: expected different ones, got {values[np.argmax(counts > 1)]} twice")
    return checked
