"""Keep latents in a faiss index: the vectors that go in and come out have their original width."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    IndexArgumentError,
    IndexFileError,
    VectorIndexError,
)
from vaecodec.evaluation import IdArray
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_integrations.index.file import IndexFile
from vaecodec_integrations.index.latent import LatentIndex, as_labels, check_same_codec, identity, last_of_each

FILE = IndexFile(
    b"VAEFAIS\n",
    "CompressedFaissIndex.save",
    "if faiss wrote it, read its vectors with faiss.read_index and reconstruct_n, and add them to a "
    "CompressedFaissIndex",
    {"description": str},
)

# Methods of faiss that this class does not have, with the reason.
_INNER = "it is about latents and their codes; call it on the attribute inner"
_READ_ONLY = "it would change elements without the codec; add them through this class"
NOT_OFFERED = {
    "add_sa_codes": _READ_ONLY,
    "check_compatible_for_merge": _INNER,
    "compute_residual": _INNER,
    "compute_residual_n": _INNER,
    "get_distance_computer": _INNER,
    "merge_from": _READ_ONLY,
    "metric_arg": _INNER,
    "sa_code_size": _INNER,
    "sa_decode": _INNER,
    "sa_encode": _INNER,
    "search1": _INNER,
    "search_subset": _INNER,
    "thisown": "this class is no SWIG object; its attribute inner is",
    "train_with_queries": _INNER,
    "verbose": "set it on the attribute inner",
}

# Attributes of some kinds of index only, as the index over latents has them. nprobe is beside them, as it can be set.
FROM_FAISS = ("hnsw", "nlist")

# Parameters of faiss's methods that are not taken: arrays know their dtype, and only few indexes train with queries.
PARAMETERS_LEFT_OUT = ("numeric_type", "xq_train")


class CompressedFaissIndex(LatentIndex):
    """Keep a codec's latents in a faiss index, with ids; width and metric are the codec's.

    Vectors given are float (n, dim) or one vector (dim,), as arrays or lists; they are checked as the codec checks
    them and a batch is added whole or not at all. Scores are faiss's, between the latents: the dot product under
    cosine (of unit vectors) and dot, largest first; squared Euclidean distances under L2, smallest first.

    Args:
        codec: turns embeddings into latents and back.
        description: as for ``faiss.index_factory``, of an index over latents: ``Flat``, ``HNSW32``, ``IVF4096,SQ8``,
            ``OPQ16,IVF4096,PQ16``. Ids are taken care of, so without ``IDMap``.

    Raises:
        VectorIndexError: faiss cannot make such an index, or not one whose vectors can be found by id.
        MissingExtraError: faiss is not installed.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.faiss import CompressedFaissIndex
        >>> embeddings = np.load("embeddings.npy")
        >>> index = CompressedFaissIndex(Codec.load("codec.onnx"), "IVF16,SQ8")
        >>> index.train(embeddings)
        >>> index.add(embeddings)
        >>> scores, ids = index.search(embeddings[:5], 10)
        >>> ids[:, 0].tolist()
        [0, 1, 2, 3, 4]
    """

    def __init__(self, codec: VectorCodec, description: str) -> None:
        super().__init__(codec)
        self._faiss = require("faiss", extra="faiss")
        self._description = description
        self._inner = self._new_inner()

    def __repr__(self) -> str:
        return (
            f"<vaecodec_integrations.faiss.CompressedFaissIndex(d={self.d}, code_dim={self._codec.code_dim}, "
            f"description={self._description!r}, ntotal={self.ntotal})>"
        )

    def __getattr__(self, name: str) -> Any:
        """Raise an error that says why a method of faiss is missing here."""
        if name in NOT_OFFERED:
            raise AttributeError(f"{name}: {NOT_OFFERED[name]}")
        if name in FROM_FAISS:
            return getattr(self._over_latents(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to set what only faiss's own index would follow."""
        if not (name.startswith("_") or name == "nprobe"):
            raise AttributeError(f"{name}: this class follows no such setting; set it on the attribute inner")
        super().__setattr__(name, value)

    @property
    def nprobe(self) -> int:
        """Return how many inverted lists a search reads; an index without such lists has no such attribute."""
        return int(self._over_latents().nprobe)

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        inverted = self._over_latents()
        if not hasattr(inverted, "nprobe"):
            raise AttributeError(f"nprobe: expected an index with inverted lists, got {self._description!r}")
        inverted.nprobe = value

    @property
    def inner(self) -> Any:
        """Return faiss's own index over the latents: set its search parameters there, but add through this class."""
        return self._inner

    @property
    def d(self) -> int:
        """Return the width of the vectors that go in and come out."""
        return self._codec.dim

    @property
    def metric_type(self) -> int:
        """Return faiss's number of the metric that compares the latents."""
        return int(self._inner.metric_type)

    @property
    def ntotal(self) -> int:
        """Return the number of elements."""
        return int(self._inner.ntotal)

    @property
    def is_trained(self) -> bool:
        """Tell whether elements can be added."""
        return bool(self._inner.is_trained)

    def train(self, x: Any) -> None:
        """Learn clusters and quantisers from the latents of vectors, float (n, dim).

        Raises:
            InvalidVectorsError: naming the first bad row.
            VectorIndexError: too few vectors for faiss, or the index holds elements already.
        """
        latents = self._codec.encode(self._rows(x))
        with self._lock:
            if self.ntotal:
                raise VectorIndexError(f"the index holds {self.ntotal} elements; train another one")
            try:
                self._inner.train(latents)
            except RuntimeError as error:
                raise VectorIndexError(f"faiss cannot train {self._description!r} on this: {error}") from error

    def add(self, x: Any) -> None:
        """Add vectors under the ids that follow on ``ntotal``; see :meth:`add_with_ids`."""
        self._add(self._rows(x), None)

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """Add vectors, or update those whose ids are there. Either the whole batch goes in or nothing.

        Args:
            x: float (n, dim) or (dim,).
            ids: n integers from 0 to 2**63 - 1, or one for a single vector.

        Raises:
            InvalidVectorsError: naming the first bad row.
            IndexArgumentError: ids of the wrong shape, type or range, or ids that are there in a kind of index that
                cannot remove, such as HNSW.
            VectorIndexError: the index must be trained first.
        """
        rows = self._rows(x)
        self._add(rows, self._ids(ids, len(rows)))

    def search(
        self,
        x: Any,
        k: int,
        *,
        params: Any = None,
        D: FloatArray | None = None,
        I: IdArray | None = None,  # noqa: E741 (faiss's name)
    ) -> tuple[FloatArray, IdArray]:
        """Return the k nearest elements of each query.

        Args:
            x: float (n, dim) or (dim,); encoded as queries.
            k: neighbours wanted.
            params: search parameters of faiss, such as ``faiss.SearchParametersIVF(nprobe=8)``.
            D: where the scores are written, float32 (n, k); by default a new array.
            I: where the ids are written, int64 (n, k).

        Returns:
            As faiss: scores between latents, float32 (n, k), nearest first, and ids, int64 (n, k), with -1 where
            fewer were found.

        Raises:
            InvalidVectorsError: naming the first bad row.
            IndexArgumentError: ``k`` is not positive, an array to write to has another form, or faiss refuses the
                parameters.
            VectorIndexError: the index must be trained first.
        """
        if k < 1:
            raise IndexArgumentError(f"k: expected at least 1, got {k}")
        latents = self._queries(x)
        for name, target, dtype in (("D", D, np.float32), ("I", I, np.int64)):
            if target is not None:
                _check_target(name, target, (len(latents), k), dtype)
        try:
            scores, ids = self._inner.search(latents, k, params=params, D=D, I=I)
        except RuntimeError as error:
            raise IndexArgumentError(f"faiss cannot search {self._description!r} so: {error}") from error
        return scores, ids

    def assign(self, x: Any, k: int = 1, labels: IdArray | None = None) -> IdArray:
        """Return the ids of :meth:`search`, int64 (n, k), without the scores; or write them into ``labels``."""
        return self.search(x, k, I=labels)[1]

    def search_and_reconstruct(
        self,
        x: Any,
        k: int,
        *,
        params: Any = None,
        D: FloatArray | None = None,
        I: IdArray | None = None,  # noqa: E741 (faiss's name)
        R: FloatArray | None = None,
    ) -> tuple[FloatArray, IdArray, FloatArray]:
        """Return what :meth:`search` returns, and the vectors of the elements found as the codec restores them.

        ``R`` is where the vectors are written, float32 (n, k, dim); the other arguments are those of :meth:`search`.

        Returns:
            Scores, ids and float32 (n, k, dim), NaN where the id is -1.
        """
        if R is not None:
            _check_target("R", R, (len(self._rows(x, name="queries")), k, self.d), np.float32)
        scores, ids = self.search(x, k, params=params, D=D, I=I)
        found = np.empty((*ids.shape, self.d), np.float32) if R is None else R
        found[ids < 0] = np.nan
        found[ids >= 0] = self.reconstruct_batch(ids[ids >= 0])
        return scores, ids, found

    def range_search(
        self, x: Any, thresh: float, *, params: Any = None
    ) -> tuple[NDArray[np.uint64], FloatArray, IdArray]:
        """Return all elements whose score passes a threshold: larger than it, or smaller under L2.

        Args:
            x: float (n, dim) or (dim,); encoded as queries.
            thresh: the threshold, of scores between latents.
            params: search parameters of faiss.

        Returns:
            As faiss: uint64 (n + 1,), where the results of each query start; scores and ids of all of them.

        Raises:
            IndexArgumentError: this kind of index has no such search.
        """
        latents = self._queries(x)
        try:
            starts, scores, ids = self._inner.range_search(latents, thresh, params=params)
        except RuntimeError as error:
            raise IndexArgumentError(f"faiss cannot search {self._description!r} by a threshold: {error}") from error
        return starts, scores, ids

    def reconstruct(self, key: int, x: FloatArray | None = None) -> FloatArray:
        """Return one vector as the codec restores it, float32 (dim,); see :meth:`reconstruct_batch`."""
        row: FloatArray = self.reconstruct_batch([key])[0]
        return _written(row, x)

    def reconstruct_batch(self, key: Any, x: FloatArray | None = None) -> FloatArray:
        """Return vectors as the codec restores them: close to those added, of unit norm under cosine.

        Args:
            key: n integers.
            x: where the vectors are written; by default a new array.

        Returns:
            float32 (n, dim).

        Raises:
            IndexArgumentError: an id is not in the index, or the array to write to has another form.
        """
        labels = self._ids(key, None)
        missing = [label for label in labels.tolist() if not self._holds(label)]
        if missing:
            raise IndexArgumentError(f"ids: {missing[0]} is not in the index")
        if not len(labels):
            return _written(self._codec.decode(np.empty((0, self._codec.code_dim), np.float32)), x)
        return _written(self._codec.decode(self._inner.reconstruct_batch(labels)), x)

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: FloatArray | None = None) -> FloatArray:
        """Return the vectors of the ids from ``n0`` on, ``ni`` of them or as many as there are elements after it."""
        return self.reconstruct_batch(np.arange(n0, self.ntotal if ni < 0 else n0 + ni, dtype=np.int64), x)

    def reset(self) -> None:
        """Remove all elements; what was learned by :meth:`train` stays."""
        with self._lock:
            self._inner.reset()

    def remove_ids(self, x: Any) -> int:
        """Remove elements and return how many there were; ids that are not there are passed over.

        Args:
            x: n integers, or a selector of faiss, such as ``faiss.IDSelectorRange(0, 10)``.

        Raises:
            VectorIndexError: this kind of index cannot remove, such as HNSW.
        """
        selected = x if isinstance(x, self._faiss.IDSelector) else np.unique(self._ids(x, None))
        with self._lock:
            try:
                return int(self._inner.remove_ids(selected))
            except RuntimeError as error:
                raise VectorIndexError(f"faiss cannot remove from {self._description!r}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index and the identity of its codec to one file, atomically.

        Raises:
            OSError: the folder is missing, not writable or full; a file that was there before is left as it was.
        """
        FILE.write(path, self._write_payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str], codec: VectorCodec) -> CompressedFaissIndex:
        """Read what :meth:`save` wrote.

        Raises:
            IndexFileError: not a file of :meth:`save`, truncated, changed, or of a newer format.
            CodecMismatchError: the index was filled by another codec.
            FileNotFoundError: there is no such file.
        """
        with FILE.read(path) as (saved, raw):
            return cls._loaded(saved, raw, codec, path)

    @classmethod
    def _loaded(
        cls, saved: dict[str, Any], raw: Path, codec: VectorCodec, path: str | os.PathLike[str]
    ) -> CompressedFaissIndex:
        check_same_codec(saved, codec, path)
        try:
            index = cls(codec, saved["description"])
        except VectorIndexError as error:
            raise IndexFileError(f"{os.fspath(path)}: in the header: {error}") from error
        inner = _read(index._faiss, raw)
        wanted, found = _structure(index._faiss, index._inner), _structure(index._faiss, inner)
        if wanted != found:
            raise IndexFileError(
                f"{os.fspath(path)}: expected an index {saved['description']!r} over latents of width "
                f"{codec.code_dim}, got {' of '.join(map(str, found))}; save it again from its source"
            )
        if isinstance(inner, index._faiss.IndexIDMap2):
            inner.check_consistency()
        index._inner = inner
        if inner.is_trained and inner.ntotal:  # search once, because faiss detects some damage only then
            inner.search(np.ones((1, codec.code_dim), np.float32), 1)
        return index

    def __getstate__(self) -> dict[str, Any]:
        """Return the codec and the file that :meth:`save` writes."""
        return {"codec": self._codec, "file": FILE.to_bytes(self._write_payload)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the file with the codec."""
        with FILE.read_bytes(state["file"]) as (saved, raw):
            loaded = self._loaded(saved, raw, state["codec"], "pickled index")
        self.__dict__.update(loaded.__dict__)

    def _over_latents(self) -> Any:
        """Return the index that does the work, without what wraps it for ids."""
        inverted = self._faiss.try_extract_index_ivf(self._inner)
        return self._faiss.downcast_index(self._inner.index if inverted is None else inverted)

    def _new_inner(self) -> Any:
        faiss, codec = self._faiss, self._codec
        metric = faiss.METRIC_L2 if codec.latent_metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
        try:
            index = faiss.index_factory(codec.code_dim, self._description, metric)
        except RuntimeError as error:
            raise VectorIndexError(
                f"description: faiss cannot make {self._description!r} over {codec.code_dim} dimensions: {error}"
            ) from error
        if isinstance(index, faiss.IndexIDMap):
            raise VectorIndexError(f"description: expected one without IDMap, got {self._description!r}")
        inverted = faiss.try_extract_index_ivf(index)
        if inverted is None or isinstance(index, faiss.IndexRefine):
            return faiss.IndexIDMap2(index)
        if isinstance(faiss.downcast_index(inverted), faiss.IndexIVFFastScan):
            raise VectorIndexError(
                f"description: {self._description!r} scans packed lists, from which faiss reads no vector back by "
                "id; take one without 'fs'"
            )
        inverted.set_direct_map_type(faiss.DirectMap.Hashtable)
        return index

    def _add(self, rows: NDArray[Any], ids: IdArray | None) -> None:
        latents = self._codec.encode(rows)
        self._check_trained()
        with self._lock:
            counted = ids is None
            labels = self.ntotal + np.arange(len(latents), dtype=np.int64) if ids is None else ids
            present = [label for label in np.unique(labels).tolist() if self._holds(label)]
            if present and counted:
                raise IndexArgumentError(f"ids: counting on from ntotal, {present[0]} is taken; use add_with_ids")
            if present:
                try:
                    self._inner.remove_ids(np.array(present, np.int64))
                except RuntimeError as error:
                    raise IndexArgumentError(
                        f"ids: {present[0]} is in the index already, and faiss cannot update {self._description!r}, "
                        "as it removes nothing from such an index; nothing was added"
                    ) from error
            labels, latents = last_of_each(labels, latents)
            if len(labels):
                self._inner.add_with_ids(latents, labels)

    def _holds(self, label: int) -> bool:
        # faiss has no other way to look up an id, and listing all ids takes longer than looking up a batch.
        try:
            self._inner.reconstruct(label)
        except RuntimeError:
            return False
        return True

    def _ids(self, ids: Any, rows: int | None) -> IdArray:
        labels = as_labels(ids, rows)
        if len(labels) and labels.max() >= 2**63:
            raise IndexArgumentError(f"ids: faiss takes integers from 0 to 2**63 - 1, got {labels.max()}")
        return labels.astype(np.int64)

    def _queries(self, vectors: Any) -> FloatArray:
        latents = self._codec.encode_queries(self._rows(vectors, name="queries"))
        self._check_trained()
        return latents

    def _check_trained(self) -> None:
        if not self.is_trained:
            raise VectorIndexError(f"an index of {self._description!r} learns from data first; call train")

    def _write_payload(self, raw: Path) -> dict[str, Any]:
        with self._lock:
            self._faiss.write_index(self._inner, str(raw))
        return {**identity(self._codec), "description": self._description}


def _check_target(name: str, target: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Check an array that a method writes its result to."""
    found = (getattr(target, "shape", None), getattr(target, "dtype", None))
    if found != (shape, dtype):
        raise IndexArgumentError(
            f"{name}: expected an array of {np.dtype(dtype)} and shape {shape} to write to, got {found[1]} and "
            f"{found[0]}"
        )


def _written(result: FloatArray, target: FloatArray | None) -> FloatArray:
    """Return the result, in the array of the caller if there is one."""
    if target is None:
        return result
    _check_target("x", target, result.shape, np.float32)
    target[...] = result
    return target


_READING = threading.Lock()


def _read(faiss: Any, raw: Path) -> Any:
    """Let faiss read a file. It checks counts, sizes and links as it does so, within limits that hold for all threads.

    No list of a file is larger than the file, which saves faiss from reserving memory for what cannot come.
    """
    size = raw.stat().st_size
    with _READING:
        limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        faiss.set_deserialization_loop_limit(size)
        try:
            return faiss.read_index(str(raw))
        finally:
            faiss.set_deserialization_vector_byte_limit(limits[0])
            faiss.set_deserialization_loop_limit(limits[1])


def _structure(faiss: Any, index: Any) -> list[tuple[str, int, int]]:
    """Return class, width and metric of an index and of the indexes inside it."""
    parts = []
    while index is not None:
        index = faiss.downcast_index(index)
        # faiss reads a flat index back as one of two classes, whatever class it was written from.
        kind = "IndexFlat" if isinstance(index, faiss.IndexFlat) else type(index).__name__
        parts.append((kind, int(index.d), int(index.metric_type)))
        index = getattr(index, "index", None) or getattr(index, "base_index", None) or getattr(index, "quantizer", None)
    return parts
