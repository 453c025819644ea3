"""Keep latents in an index with the interface of ``hnswlib.Index``: vectors keep their original width outside."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from vaecodec.errors import (
    IndexArgumentError,
    VectorIndexError,
    WrongWidthError,
)
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_integrations.hnsw.payload import check_hnsw_payload
from vaecodec_integrations.index.file import IndexFile
from vaecodec_integrations.index.latent import (
    Labels,
    LatentIndex,
    as_labels,
    check_field,
    check_same_codec,
    identity,
    last_of_each,
)

# hnswlib's names for the distances: squared Euclidean, 1 - dot product, 1 - cosine.
SPACES = {Metric.L2: "l2", Metric.DOT: "ip", Metric.COSINE: "cosine"}

FILE = IndexFile(
    b"VAEHNSW\n",
    "CompressedIndex.save_index",
    "if hnswlib wrote it, load it with hnswlib.Index, take its vectors with get_items and add them to a "
    "CompressedIndex",
    {"space": str, "latent_space": str, "deleted": list},
)


class CompressedIndex(LatentIndex):
    """Keep a codec's latents in an hnswlib index, with the interface of ``hnswlib.Index`` 0.8.

    Vectors given are float (n, dim) or one vector (dim,), as arrays or lists; they are checked as the codec checks
    them and a batch is added whole or not at all. Distances follow the space's convention and are those of the
    latents: ``l2`` squared Euclidean, ``ip`` 1 - dot product, ``cosine`` 1 - cosine.

    Threads: as hnswlib, any number of readers or any number of writers at a time, but not both. A pickle holds the
    index and its codec.

    Args:
        space: ``cosine``, ``ip`` or ``l2``: how the embeddings are compared, which must be the codec's metric.
        dim: width of the embeddings.
        codec: turns embeddings into latents and back.

    Raises:
        IndexArgumentError: the codec was made for another metric, or hnswlib has no such space.
        WrongWidthError: the codec was made for embeddings of another width.
        MissingExtraError: hnswlib is not installed.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.hnsw import CompressedIndex
        >>> embeddings = np.load("embeddings.npy")
        >>> index = CompressedIndex("cosine", 384, Codec.load("codec.onnx"))
        >>> index.init_index(max_elements=10_000, M=16, ef_construction=200)
        >>> index.add_items(embeddings[:1000])
        >>> labels, distances = index.knn_query(embeddings[7], k=10)
        >>> int(labels[0, 0])
        7
    """

    def __init__(self, space: str, dim: int, codec: VectorCodec) -> None:
        if space not in SPACES.values():
            raise IndexArgumentError(f"space: expected one of 'cosine', 'ip', 'l2', got {space!r}")
        if space != SPACES[codec.metric]:
            raise IndexArgumentError(
                f"space: the codec was made for the metric '{codec.metric}', which is hnswlib's "
                f"{SPACES[codec.metric]!r}, got {space!r}; use that space, or train a codec for this one"
            )
        if dim != codec.dim:
            raise WrongWidthError(f"dim: the codec takes embeddings of width {codec.dim}, got {dim}")
        super().__init__(codec)
        self._inner = self._new_inner()
        self._ready = False
        self._allow_replace_deleted = False
        self._next_label = 0
        self._largest_label = -1
        # Remember deleted labels, because hnswlib does not list them. Otherwise a batch could fail half-way.
        self._deleted: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Return the codec, the file that :meth:`save_index` writes, and what hnswlib keeps outside of its own."""
        state = {
            "codec": self._codec,
            "file": FILE.to_bytes(self._write_payload) if self._ready else None,
            "allow_replace_deleted": self._allow_replace_deleted,
            "next_label": self._next_label,
        }
        return state | ({"ef": self.ef, "num_threads": self.num_threads} if self._ready else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the file with the codec."""
        codec = state["codec"]
        self.__init__(SPACES[codec.metric], codec.dim, codec)  # type: ignore[misc]
        if state["file"] is not None:
            with FILE.read_bytes(state["file"]) as (saved, raw):
                self._load(saved, raw, "pickled index", 0, state["allow_replace_deleted"])
            self.set_ef(state["ef"])
            self.set_num_threads(state["num_threads"])
        self._next_label = state["next_label"]

    def __repr__(self) -> str:
        return (
            f"<vaecodec_integrations.hnsw.CompressedIndex(space={self.space!r}, dim={self.dim}, "
            f"code_dim={self._codec.code_dim})>"
        )

    @property
    def space(self) -> str:
        """Return the space that was given: ``cosine``, ``ip`` or ``l2``."""
        return SPACES[self._codec.metric]

    @property
    def dim(self) -> int:
        """Return the width of the vectors that go in and come out."""
        return self._codec.dim

    @property
    def M(self) -> int:  # noqa: N802 (hnswlib's name)
        """Return the number of links per element, 0 before :meth:`init_index`."""
        return int(self._inner.M)

    @property
    def ef_construction(self) -> int:
        """Return how many candidates are compared when an element is added, 0 before :meth:`init_index`."""
        return int(self._inner.ef_construction)

    @property
    def ef(self) -> int:
        """Return how many candidates a query compares."""
        return int(self._inner.ef)

    @ef.setter
    def ef(self, value: int) -> None:
        self._inner.ef = value

    @property
    def num_threads(self) -> int:
        """Return the number of threads of calls that do not name one."""
        return int(self._inner.num_threads)

    @num_threads.setter
    def num_threads(self, value: int) -> None:
        self._inner.num_threads = value

    @property
    def element_count(self) -> int:
        """Return the number of elements, including those marked deleted."""
        return int(self._inner.element_count)

    @property
    def max_elements(self) -> int:
        """Return how many elements fit."""
        return int(self._inner.max_elements)

    def init_index(
        self,
        max_elements: int,
        M: int = 16,
        ef_construction: int = 200,
        random_seed: int = 100,
        allow_replace_deleted: bool = False,
    ) -> None:
        """Make the index empty and ready; see hnswlib's documentation for the parameters.

        Raises:
            VectorIndexError: M is below 2, where hnswlib crashes, or the index is already initialised.
        """
        if M < 2:
            raise VectorIndexError(f"M: expected at least 2 links per element, got {M}")
        with self._lock:
            if self._ready:
                raise VectorIndexError("the index is already initialised; make another CompressedIndex")
            self._inner.init_index(max_elements, M, ef_construction, random_seed, allow_replace_deleted)
            self._allow_replace_deleted = allow_replace_deleted
            self._ready = True

    def set_ef(self, ef: int) -> None:
        """Set how many candidates a query compares; more is slower and finds more."""
        self._inner.set_ef(ef)

    def set_num_threads(self, num_threads: int) -> None:
        """Set the number of threads of calls that do not name one."""
        self._inner.set_num_threads(num_threads)

    def add_items(self, data: Any, ids: Any = None, num_threads: int = -1, replace_deleted: bool = False) -> None:
        """Add vectors, or update those whose ids are there. Either the whole batch goes in or nothing.

        Args:
            data: float (n, dim) or (dim,).
            ids: n integers from 0 to 2**64 - 1, or one for a single vector. By default they count on from the number
                of rows added so far, as in hnswlib, or, where hnswlib would overwrite an element so, from the largest
                id. Of equal ids the last row counts.
            num_threads: threads to add with; the index's own number when not positive.
            replace_deleted: put new elements in the places of deleted ones. Ids already in the index are updated
                in their own place (where hnswlib would leave two vectors under one id).

        Raises:
            InvalidVectorsError: naming the first bad row.
            IndexArgumentError: ids of the wrong shape or type, or of deleted elements that may only be replaced.
            VectorIndexError: the batch does not fit into ``max_elements``, or the index was made without
                ``allow_replace_deleted`` and ``replace_deleted`` is asked for.
        """
        self._check_ready()
        vectors = self._rows(data)
        given = None if ids is None else as_labels(ids, len(vectors))
        if replace_deleted and not self._allow_replace_deleted:
            raise VectorIndexError(
                "replace_deleted: the index was made without it; pass allow_replace_deleted=True to init_index"
            )
        latents = self._codec.encode(vectors)
        if not len(latents):
            return
        with self._lock:
            labels = given if given is not None else self._counted(len(latents))
            if replace_deleted and self._deleted:
                self._add_replacing(latents, labels, num_threads)
            else:
                self._add(latents, labels, num_threads)
            self._next_label += len(latents)
            self._largest_label = max(self._largest_label, int(labels.max()))

    def knn_query(
        self,
        data: Any,
        k: int = 1,
        num_threads: int = -1,
        filter: Callable[[int], bool] | None = None,  # noqa: A002 (hnswlib's name)
    ) -> tuple[Labels, FloatArray]:
        """Return the k nearest elements of each query.

        Args:
            data: float (n, dim) or (dim,); encoded as queries.
            k: neighbours wanted.
            num_threads: threads to search with; the index's own number when not positive.
            filter: keeps the ids for which it is true. It is Python, so use it with ``num_threads=1``.

        Returns:
            Ids, uint64 (n, k), and distances between latents, float32 (n, k), nearest first.

        Raises:
            InvalidVectorsError: naming the first bad row.
            IndexArgumentError: ``k`` is no integer, or not positive, where hnswlib writes beyond its arrays.
            VectorIndexError: fewer than k elements were found.
        """
        self._check_ready()
        if not isinstance(k, (int, np.integer)) or k < 1:
            raise IndexArgumentError(f"k: expected an integer of at least 1, got {k!r}")
        latents = self._codec.encode_queries(self._rows(data, name="queries"))
        available = self.element_count - len(self._deleted)
        if len(latents) and k > available:
            raise VectorIndexError(
                f"k: {k} neighbours wanted, but the index holds {available} elements that are not deleted; lower k"
            )
        try:
            labels, distances = self._inner.knn_query(latents, k, num_threads, filter)
        except RuntimeError as error:
            if "contiguous 2D array" not in str(error):
                raise
            reason = "the filter passes" if filter is not None else "the graph search reached"
            raise VectorIndexError(
                f"k: {k} neighbours wanted, but for at least one query {reason} fewer; lower k or raise ef "
                f"(now {self.ef})"
            ) from error
        return labels, distances

    @overload
    def get_items(self, ids: Any = None, return_type: Literal["numpy"] = "numpy") -> FloatArray: ...
    @overload
    def get_items(self, ids: Any = None, *, return_type: Literal["list"]) -> list[list[float]]: ...
    @overload
    def get_items(self, ids: Any, return_type: str) -> FloatArray | list[list[float]]: ...
    def get_items(self, ids: Any = None, return_type: str = "numpy") -> FloatArray | list[list[float]]:
        """Return vectors as the codec restores them: close to those added, of unit norm under cosine.

        Args:
            ids: n integers, or the (n, 1) labels that :meth:`knn_query` returns for ``k=1``; none by default.
            return_type: ``numpy`` for float32 (n, dim), ``list`` for lists of floats.

        Raises:
            IndexArgumentError: an id is not in the index or is deleted.
        """
        self._check_ready()
        if return_type not in ("numpy", "list"):
            raise IndexArgumentError(f"return_type: expected 'numpy' or 'list', got {return_type!r}")
        if np.ndim(ids) == 2 and np.shape(ids)[1] == 1:
            ids = np.reshape(ids, -1)
        labels = as_labels([] if ids is None else ids, None)
        latents = np.empty((0, self._codec.code_dim), np.float32)
        if len(labels):
            try:
                latents = self._inner.get_items(labels)
            except RuntimeError as error:
                present = set(self._inner.get_ids_list()) - self._deleted
                missing = next((label for label in labels.tolist() if label not in present), None)
                raise IndexArgumentError(f"ids: {missing} is not in the index, or deleted") from error
        vectors = self._codec.decode(latents)
        return vectors.tolist() if return_type == "list" else vectors

    def get_ids_list(self) -> list[int]:
        """Return all ids, those marked deleted included, in no particular order."""
        self._check_ready()
        return list(self._inner.get_ids_list())

    def get_max_elements(self) -> int:
        """Return how many elements fit."""
        self._check_ready()
        return self.max_elements

    def get_current_count(self) -> int:
        """Return the number of elements, including those marked deleted."""
        self._check_ready()
        return self.element_count

    def mark_deleted(self, label: int) -> None:
        """Leave an element out of results; raises ``IndexArgumentError`` when it is not there or already deleted."""
        self._check_ready()
        with self._lock:
            self._on_label(self._inner.mark_deleted, label)
            self._deleted.add(int(label))

    def unmark_deleted(self, label: int) -> None:
        """Undo :meth:`mark_deleted`.

        Raises:
            IndexArgumentError: the element is not there or not deleted.
        """
        self._check_ready()
        with self._lock:
            self._on_label(self._inner.unmark_deleted, label)
            self._deleted.discard(int(label))

    def resize_index(self, new_size: int) -> None:
        """Change how many elements fit; raises ``VectorIndexError`` when more are there already."""
        self._check_ready()
        if new_size < 1:  # otherwise hnswlib would free its memory and fail
            raise VectorIndexError(f"new_size: expected at least 1, got {new_size}")
        with self._lock:
            if new_size < self.element_count:
                raise VectorIndexError(f"new_size: the index holds {self.element_count} elements, got {new_size}")
            self._inner.resize_index(new_size)

    def index_file_size(self) -> int:
        """Return the number of bytes that :meth:`save_index` writes."""
        self._check_ready()
        return FILE.size(self._header(), int(self._inner.index_file_size()))

    def save_index(self, path_to_index: str | os.PathLike[str]) -> None:
        """Write the index and the identity of its codec to one file, atomically.

        Until it is complete, two temporary files lie beside it.

        Raises:
            OSError: the folder is missing, not writable or full; a file that was there before is left as it was.
        """
        self._check_ready()
        FILE.write(path_to_index, self._write_payload)

    def load_index(
        self, path_to_index: str | os.PathLike[str], max_elements: int = 0, allow_replace_deleted: bool = False
    ) -> None:
        """Read what :meth:`save_index` wrote, in place of what the index holds.

        Args:
            path_to_index: the file.
            max_elements: elements that fit from now on; by default, or when it is less than are there, as before.
            allow_replace_deleted: as in :meth:`init_index`; hnswlib does not keep it in the file.

        Raises:
            IndexFileError: not a file of ``save_index``, truncated, changed, or of a newer format.
            CodecMismatchError: the index was filled by another codec.
            FileNotFoundError: there is no such file. After any error the index is as it was.
        """
        threads = self.num_threads
        with FILE.read(path_to_index) as (saved, raw):
            self._load(saved, raw, path_to_index, max_elements, allow_replace_deleted)
        self.set_num_threads(threads)

    def _load(
        self, saved: dict[str, Any], raw: Path, path: str | os.PathLike[str], max_elements: int, replace: bool
    ) -> None:
        check_same_codec(saved, self._codec, path)
        check_field(saved, "space", self.space, path)
        check_field(saved, "latent_space", SPACES[self._codec.latent_metric], path)
        payload = check_hnsw_payload(raw, os.fspath(path), self._codec.code_dim)
        check_field(saved, "deleted", payload.deleted, path)
        inner = self._new_inner()
        inner.load_index(str(raw), max_elements, replace)
        with self._lock:
            self._inner = inner
            self._ready = True
            self._allow_replace_deleted = replace
            self._next_label = len(payload.labels)
            self._largest_label = int(payload.labels.max(initial=0)) if len(payload.labels) else -1
            self._deleted = set(payload.deleted)

    def _new_inner(self) -> Any:
        hnswlib = require("hnswlib", extra="hnsw")
        return hnswlib.Index(SPACES[self._codec.latent_metric], self._codec.code_dim)

    def _check_ready(self) -> None:
        if not self._ready:
            raise VectorIndexError("the index has no elements and no size yet; call init_index or load_index first")

    def _counted(self, rows: int) -> Labels:
        """Return the next ids that are not in the index."""
        start = self._next_label
        if start <= self._largest_label:
            present = self._inner.get_ids_list()
            if any(start <= label < start + rows for label in present):
                start = self._largest_label + 1
        if start + rows > 2**64:
            raise IndexArgumentError(
                f"ids: expected integers, got none, and none follow {self._largest_label}, the largest id so far; "
                "give the ids"
            )
        return np.uint64(start) + np.arange(rows, dtype=np.uint64)

    def _add(self, latents: FloatArray, labels: Labels, num_threads: int) -> None:
        labels, latents = last_of_each(labels, latents)
        batch = set(labels.tolist())
        if self._allow_replace_deleted and not batch.isdisjoint(self._deleted):
            raise IndexArgumentError(
                f"ids: {min(batch & self._deleted)} is marked deleted; call unmark_deleted first or pass "
                "replace_deleted=True"
            )
        # Listing all ids is slow, so do it only if the batch might not fit.
        if self.element_count + len(batch) > self.max_elements:
            self._check_room(len(batch.difference(self._inner.get_ids_list())), places=0)
        self._inner.add_items(latents, labels, num_threads)
        self._deleted -= batch

    def _add_replacing(self, latents: FloatArray, labels: Labels, num_threads: int) -> None:
        labels, latents = last_of_each(labels, latents)  # otherwise hnswlib's threads would race for equal labels
        batch = set(labels.tolist())
        present = set(self._inner.get_ids_list())
        known = np.array([label in present for label in labels.tolist()])
        self._check_room(int((~known).sum()), places=len(self._deleted - batch))
        for label in batch & self._deleted:
            self._inner.unmark_deleted(label)
        self._inner.add_items(latents[known], labels[known], num_threads)
        self._inner.add_items(latents[~known], labels[~known], num_threads, True)
        self._deleted = (self._deleted - batch).intersection(self._inner.get_ids_list())

    def _check_room(self, new: int, *, places: int) -> None:
        room = self.max_elements - self.element_count + places
        if new > room:
            raise VectorIndexError(
                f"the batch holds {new} new ids, but there is room for {room} (max_elements={self.max_elements}); "
                "nothing was added; call resize_index first"
            )

    def _on_label(self, method: Callable[[int], None], label: Any) -> None:
        number = int(as_labels(label, 1)[0])
        try:
            method(number)
        except RuntimeError as error:
            raise IndexArgumentError(f"id {number}: {error}") from error

    def _write_payload(self, raw: Path) -> dict[str, Any]:
        with self._lock:
            self._inner.save_index(str(raw))
            size = int(self._inner.index_file_size())
            header = self._header()
        # hnswlib does not check whether its writes succeeded.
        if raw.stat().st_size != size:
            raise OSError(errno.ENOSPC, "hnswlib could not write the whole index", str(raw))
        return header

    def _header(self) -> dict[str, Any]:
        return {
            **identity(self._codec),
            "space": self.space,
            "latent_space": SPACES[self._codec.latent_metric],
            "deleted": sorted(self._deleted),
        }
