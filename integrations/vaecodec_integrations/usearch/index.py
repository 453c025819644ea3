"""Keep latents in a usearch index: the vectors that go in and come out have their original width."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import CodecMismatchError, IndexArgumentError, IndexFileError, VectorIndexError
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
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
from vaecodec_integrations.usearch.payload import check_usearch_payload

# usearch calls this with the work done and the total; a false result stops it.
UsearchProgress = Callable[[int, int], bool]

# usearch's names for the distances: 1 - cosine, 1 - dot product, squared Euclidean.
METRICS = {Metric.COSINE: "cos", Metric.DOT: "ip", Metric.L2: "l2sq"}

# Properties of the graph over the latents, passed through from usearch.
FROM_USEARCH = (
    "capacity",
    "hardware_acceleration",
    "jit",
    "level_stats",
    "levels_stats",
    "max_level",
    "metric_kind",
    "multi",
    "nlevels",
    "stats",
)

# Methods of usearch that this class does not have, with the reason.
NOT_OFFERED = {
    "metadata": "a file of vaecodec does not start with usearch's bytes; load it, which verifies all of it",
    "restore": "an index needs its codec; make a CompressedUsearchIndex with it and call load",
    "view": "a mapped file could change after it has been verified; call load",
}

# Types in which usearch can keep latents. Before it converts rows to bytes it normalises them: fine for cosine only.
DTYPES = ("f32", "f16", "bf16", "i8")

FILE = IndexFile(
    b"VAEUSEA\n",
    "CompressedUsearchIndex.save",
    "if usearch wrote it, read its vectors with usearch's own Index and add them to a CompressedUsearchIndex",
    {"metric": str, "dtype": str},
)


class CompressedUsearchIndex(LatentIndex):
    """Keep a codec's latents in a ``usearch.index.Index``; width and metric are the codec's.

    Vectors given are float (n, dim) or one vector (dim,), as arrays or lists; they are checked as the codec checks
    them and a batch is added whole or not at all. Distances are usearch's, between the latents: 1 - cosine,
    1 - dot product, or squared Euclidean.

    Args:
        codec: turns embeddings into latents and back.
        dtype: what a latent's number is kept as: ``f32``, ``f16``, ``bf16``, or, under cosine, ``i8``.
        connectivity: links per element; usearch's default when ``None``.
        expansion_add: candidates looked at when an element is added; usearch's default when ``None``.
        expansion_search: candidates looked at by a query; usearch's default when ``None``.

    Raises:
        IndexArgumentError: there is no such dtype, or it does not fit the codec's latents.
        MissingExtraError: usearch is not installed.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.usearch import CompressedUsearchIndex
        >>> embeddings = np.load("embeddings.npy")
        >>> index = CompressedUsearchIndex(Codec.load("codec.onnx"), dtype="f16")
        >>> keys = index.add(np.arange(1000), embeddings[:1000])
        >>> int(index.search(embeddings[7], 10).keys[0])
        7
    """

    def __init__(
        self,
        codec: VectorCodec,
        *,
        dtype: str = "f32",
        connectivity: int | None = None,
        expansion_add: int | None = None,
        expansion_search: int | None = None,
    ) -> None:
        super().__init__(codec)
        self._dtypes = DTYPES if codec.latent_metric is Metric.COSINE else DTYPES[:-1]
        if dtype not in self._dtypes:
            raise IndexArgumentError(
                f"dtype: expected one of {', '.join(self._dtypes)} for latents compared by {codec.latent_metric}, "
                f"got {dtype!r}"
            )
        self._dtype = dtype
        self._settings = {
            "connectivity": connectivity,
            "expansion_add": expansion_add,
            "expansion_search": expansion_search,
        }
        self._inner = self._new_inner()

    def __repr__(self) -> str:
        return (
            f"<vaecodec_integrations.usearch.CompressedUsearchIndex(ndim={self.ndim}, "
            f"code_dim={self._codec.code_dim}, dtype={self._dtype!r}, size={len(self)})>"
        )

    def __len__(self) -> int:
        return len(self._inner)

    def __contains__(self, key: Any) -> bool:
        return bool(self.contains(key))

    def __getitem__(self, keys: Any) -> Any:
        """Work as :meth:`get`."""
        return self.get(keys)

    def __delitem__(self, keys: Any) -> int:
        """Work as :meth:`remove`."""
        return self.remove(keys)

    def __getattr__(self, name: str) -> Any:
        """Raise an error that says why a method of usearch is missing here."""
        if name in NOT_OFFERED:
            raise AttributeError(f"{name}: {NOT_OFFERED[name]}")
        if name in FROM_USEARCH:
            return getattr(self._inner, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *FROM_USEARCH})

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return len(self)

    @property
    def metric(self) -> Any:
        """Return usearch's name of the distance between latents, which follows from the codec."""
        return self._inner.metric

    @property
    def ndim(self) -> int:
        """Return the width of the vectors that go in and come out."""
        return self._codec.dim

    @property
    def dtype(self) -> str:
        """Return the type in which latents are stored."""
        return self._dtype

    @property
    def keys(self) -> Labels:
        """Return all keys, uint64 (size,), in no particular order."""
        return np.asarray(self._inner.keys, np.uint64)

    @property
    def connectivity(self) -> int:
        """Return the number of links per element."""
        return int(self._inner.connectivity)

    @property
    def expansion_add(self) -> int:
        """Return how many candidates are compared when an element is added."""
        return int(self._inner.expansion_add)

    @expansion_add.setter
    def expansion_add(self, value: int) -> None:
        self._inner.expansion_add = value

    @property
    def expansion_search(self) -> int:
        """Return how many candidates a query compares; more is slower and finds more."""
        return int(self._inner.expansion_search)

    @expansion_search.setter
    def expansion_search(self, value: int) -> None:
        self._inner.expansion_search = value

    @property
    def memory_usage(self) -> int:
        """Return the number of bytes that usearch holds in memory."""
        return int(self._inner.memory_usage)

    @property
    def serialized_length(self) -> int:
        """Return the number of bytes that :meth:`save` writes."""
        return FILE.size(self._header(), int(self._inner.serialized_length))

    @property
    def vectors(self) -> FloatArray:
        """Return all vectors as the codec restores them, float32 (size, dim), in the order of :attr:`keys`."""
        keys = self.keys
        return np.stack(self.get(keys)) if len(keys) else np.empty((0, self.ndim), np.float32)

    @property
    def specs(self) -> dict[str, Any]:
        """Return usearch's description of the graph, with the width of the vectors and of the latents."""
        return {**self._inner.specs, "type": type(self).__name__, "ndim": self.ndim, "code_dim": self._codec.code_dim}

    def add(
        self,
        keys: Any,
        vectors: Any,
        *,
        copy: bool = True,
        threads: int = 0,
        log: str | bool = False,
        progress: UsearchProgress | None = None,
    ) -> Labels:
        """Add vectors, or update those whose keys are there. Either the whole batch goes in or nothing.

        Args:
            keys: n integers from 0 to 2**64 - 1, one for a single vector, or ``None`` to count on from the size. Of
                equal keys the last row counts.
            vectors: float (n, dim) or (dim,).
            copy: must be true: the latents, not the vectors given, are what is kept.
            threads: threads to add with; 0 for all cores.
            log: show a progress bar; a string is its name.
            progress: called with the elements added and their total; stops when it returns false.

        Returns:
            The keys, uint64 (n,).

        Raises:
            InvalidVectorsError: naming the first bad row.
            IndexArgumentError: keys of the wrong shape or type; or keys that counting reaches are taken.
            VectorIndexError: ``copy`` is false.
        """
        if not copy:
            raise VectorIndexError("copy: expected True, because the index keeps latents of its own, got False")
        rows = self._rows(vectors)
        given = None if keys is None else as_labels(keys, len(rows))
        latents = self._codec.encode(rows)
        with self._lock:
            labels = given if given is not None else len(self) + np.arange(len(latents), dtype=np.uint64)
            present = self._present(labels)
            if given is None and present.any():
                raise IndexArgumentError(
                    f"keys: counting on from the size, {labels[present][0]} is taken; give the keys"
                )
            added, rows = last_of_each(labels, latents)
            if present.any():
                self._inner.remove(np.unique(labels[present]), threads=threads)
            if len(added):
                self._inner.add(added, rows, threads=threads, log=log, progress=progress)
        return labels

    def search(
        self,
        vectors: Any,
        count: int = 10,
        radius: float = math.inf,
        *,
        threads: int = 0,
        exact: bool = False,
        log: str | bool = False,
        progress: UsearchProgress | None = None,
    ) -> Any:
        """Return the nearest elements of each query.

        Args:
            vectors: float (n, dim) or (dim,); encoded as queries.
            count: neighbours wanted; fewer are returned when there are no more.
            radius: handed to usearch, which up to version 2.26 does nothing with it.
            threads: threads to search with; 0 for all cores.
            exact: compare with every element.
            log: show a progress bar; a string is its name.
            progress: called with the queries answered and their total; stops when it returns false.

        Returns:
            usearch's own ``Matches`` for one query and ``BatchMatches`` for several: ``keys``, uint64, and
            ``distances`` between latents, float32, nearest first.

        Raises:
            InvalidVectorsError: naming the first bad row.
            IndexArgumentError: ``count`` is not positive.
        """
        if count < 1:
            raise IndexArgumentError(f"count: expected at least 1, got {count}")
        latents = self._codec.encode_queries(self._rows(vectors, name="queries"))
        return self._inner.search(latents, count, radius, threads=threads, exact=exact, log=log, progress=progress)

    def get(self, keys: Any) -> Any:
        """Return vectors as the codec restores them: close to those added, of unit norm under cosine.

        Args:
            keys: one key or several.

        Returns:
            As usearch: for one key float32 (dim,), or ``None`` when it is not there; for several a tuple of these.
        """
        labels = as_labels(keys, 1 if np.ndim(keys) == 0 else None)
        # For a missing key some versions of usearch return random memory.
        present = self._present(labels)
        latents = np.array(self._inner.get(labels[present], dtype="f32"), np.float32)
        restored = iter(self._codec.decode(latents.reshape(-1, self._codec.code_dim)))
        vectors = tuple(next(restored) if there else None for there in present)
        return vectors[0] if np.ndim(keys) == 0 else vectors

    def contains(self, keys: Any) -> bool | NDArray[np.bool_]:
        """Tell whether a key is there, or, for several, which are: bool (n,)."""
        labels = as_labels(keys, 1 if np.ndim(keys) == 0 else None)
        present = self._present(labels)
        return bool(present[0]) if np.ndim(keys) == 0 else present

    def count(self, keys: Any) -> int | Labels:
        """Return how many elements a key has, 0 or 1, or, for several, uint64 (n,)."""
        found = self.contains(keys)
        return found.astype(np.uint64) if isinstance(found, np.ndarray) else int(found)

    def rename(self, from_: Any, to: Any) -> Any:
        """Give elements other keys.

        Args:
            from_: one key or several; those that are not there are passed over.
            to: as many keys.

        Returns:
            Whether the key was there, or, for several, a list that tells which were.

        Raises:
            IndexArgumentError: a new key is taken, or is given twice; nothing is renamed then.
        """
        old = as_labels(from_, 1 if np.ndim(from_) == 0 else None)
        new = as_labels(to, len(old))
        with self._lock:
            there = self._present(old)
            found = there.tolist()
            old, new = old[there], new[there]
            taken = new[self._present(new)]
            if len(taken):
                raise IndexArgumentError(f"to: expected keys that are free, got {taken[0]}, which is taken")
            if len(np.unique(new)) < len(new) or len(np.unique(old)) < len(old):
                raise IndexArgumentError("from_, to: expected each key once, got one twice")
            for one, other in zip(old.tolist(), new.tolist(), strict=True):
                self._inner.rename(one, other)
        return found[0] if np.ndim(from_) == 0 else found

    def pairwise_distance(self, left: Any, right: Any) -> Any:
        """Return the distance between the latents of two keys, or, for several of each, float32 (n,)."""
        return self._inner.pairwise_distance(left, right)

    def join(
        self, other: CompressedUsearchIndex, max_proposals: int = 0, exact: bool = False, progress: Any = None
    ) -> dict[int, int]:
        """Pair the elements of two indexes of one codec, each with one; see usearch's documentation.

        Raises:
            CodecMismatchError: the other index has another codec.
        """
        if (other.codec.codec_id, other.codec.code_dim) != (self._codec.codec_id, self._codec.code_dim):
            raise CodecMismatchError("other: expected an index of the same codec, got one of another")
        pairs: dict[int, int] = self._inner.join(other._inner, max_proposals, exact, progress)
        return pairs

    def cluster(self, *, vectors: Any = None, keys: Any = None, **options: Any) -> Any:
        """Find clusters of vectors, or of elements, among their latents; see usearch's documentation.

        Args:
            vectors: float (n, dim), encoded as documents.
            keys: of elements; all of them when neither is given.
            options: ``min_count``, ``max_count``, ``threads``, ``log`` and ``progress`` of usearch.
        """
        latents = None if vectors is None else self._codec.encode(self._rows(vectors))
        return self._inner.cluster(vectors=latents, keys=keys, **options)

    def remove(self, keys: Any, *, compact: bool = False, threads: int = 0) -> int:
        """Remove elements and return how many there were.

        Args:
            keys: one key or several; those that are not there are passed over.
            compact: also remove the links to them, which takes long.
            threads: threads to work with; 0 for all cores.
        """
        labels = as_labels(keys, 1 if np.ndim(keys) == 0 else None)
        with self._lock:
            there = np.unique(labels[self._present(labels)])
            if len(there):
                self._inner.remove(there, compact=compact, threads=threads)
        return len(there)

    @overload
    def save(self, path_or_buffer: None = None, progress: UsearchProgress | None = None) -> bytes: ...
    @overload
    def save(self, path_or_buffer: str | os.PathLike[str], progress: UsearchProgress | None = None) -> None: ...
    def save(
        self, path_or_buffer: str | os.PathLike[str] | None = None, progress: UsearchProgress | None = None
    ) -> bytes | None:
        """Write the index and the identity of its codec to one file, atomically; without a path, return its bytes.

        Raises:
            OSError: the folder is missing, not writable or full; a file that was there before is left as it was.
        """
        write = partial(self._write_payload, progress)
        if path_or_buffer is None:
            return FILE.to_bytes(write)
        FILE.write(path_or_buffer, write)
        return None

    def load(self, path_or_buffer: Any, progress: UsearchProgress | None = None) -> None:
        """Read what :meth:`save` wrote, in place of what the index holds; the dtype becomes that of the file.

        usearch keeps no ``expansion_search``: it stays as it is.

        Args:
            path_or_buffer: a path, or bytes.
            progress: called with the bytes read and their total; stops when it returns false.

        Raises:
            IndexFileError: not a file of :meth:`save`, truncated, changed, not an index that usearch could have
                written, or of a newer format.
            CodecMismatchError: the index was filled by another codec.
            FileNotFoundError: there is no such file. After any error the index is as it was.
        """
        in_memory = isinstance(path_or_buffer, (bytes, bytearray, memoryview))
        name = "index in memory" if in_memory else os.fspath(path_or_buffer)
        with FILE.read_bytes(path_or_buffer) if in_memory else FILE.read(path_or_buffer) as (saved, raw):
            check_same_codec(saved, self._codec, name)
            metric = METRICS[self._codec.latent_metric]
            check_field(saved, "metric", metric, name)
            if saved["dtype"] not in self._dtypes:
                raise IndexFileError(f"{name}: expected one of {', '.join(self._dtypes)} as dtype, got another")
            check_usearch_payload(raw, name, self._codec.code_dim, metric, saved["dtype"])
            inner = self._new_inner()
            inner.load(str(raw), progress)
        inner.expansion_add, inner.expansion_search = self.expansion_add, self.expansion_search
        with self._lock:
            self._inner, self._dtype = inner, saved["dtype"]

    def copy(self) -> CompressedUsearchIndex:
        """Return another index with the same elements and the same codec."""
        twin = CompressedUsearchIndex(self._codec, dtype=self._dtype, **self._settings)
        with self._lock:
            twin._inner = self._inner.copy()
        return twin

    def clear(self) -> None:
        """Remove all elements and keep the memory."""
        with self._lock:
            self._inner.clear()

    def reset(self) -> None:
        """Remove all elements and give the memory back."""
        with self._lock:
            self._inner.reset()

    def _new_inner(self) -> Any:
        usearch = require("usearch.index", extra="usearch")
        metric = METRICS[self._codec.latent_metric]
        return usearch.Index(ndim=self._codec.code_dim, metric=metric, dtype=self._dtype, **self._settings)

    def __getstate__(self) -> dict[str, Any]:
        """Return the codec, the bytes of :meth:`save`, and what they leave out."""
        return {
            "codec": self._codec,
            "settings": self._settings,
            "file": self.save(),
            "expansion": (self.expansion_add, self.expansion_search),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the bytes with the codec."""
        self.__init__(state["codec"], **state["settings"])  # type: ignore[misc]
        self.load(state["file"])
        self.expansion_add, self.expansion_search = state["expansion"]

    def _present(self, labels: Labels) -> NDArray[np.bool_]:
        return np.asarray(self._inner.contains(labels), np.bool_).reshape(len(labels))

    def _write_payload(self, progress: UsearchProgress | None, raw: Path) -> dict[str, Any]:
        with self._lock:
            self._inner.save(str(raw), progress)
            return self._header()

    def _header(self) -> dict[str, Any]:
        return {**identity(self._codec), "metric": METRICS[self._codec.latent_metric], "dtype": self._dtype}
