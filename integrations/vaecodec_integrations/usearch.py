"""A usearch index that holds latents: the vectors that go in and come out keep their width."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import IndexArgumentError
from vaecodec.extras import require
from vaecodec.interface import Metric, VectorCodec
from vaecodec_integrations.index_file import IndexFile
from vaecodec_integrations.latent_index import (
    Labels,
    LatentIndex,
    as_labels,
    check_same_codec,
    identity,
    last_of_each,
)

# usearch's names for the distances: 1 - cosine, 1 - dot product, squared Euclidean.
METRICS = {Metric.COSINE: "cos", Metric.DOT: "ip", Metric.L2: "l2sq"}

# How usearch may keep latents. It scales rows to unit norm before it makes bytes of them, which only cosine ignores.
DTYPES = ("f32", "f16", "bf16", "i8")

FILE = IndexFile(
    b"VAEUSEA\n",
    "CompressedUsearchIndex.save",
    "if usearch wrote it, read its vectors with usearch's own Index and add them to a CompressedUsearchIndex",
)


class CompressedUsearchIndex(LatentIndex):
    """A ``usearch.index.Index`` over a codec's latents; width and metric are the codec's.

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
        fitting = DTYPES if codec.latent_metric is Metric.COSINE else DTYPES[:-1]
        if dtype not in fitting:
            raise IndexArgumentError(
                f"dtype: expected one of {', '.join(fitting)} for latents compared by {codec.latent_metric}, "
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

    @property
    def size(self) -> int:
        """Elements held."""
        return len(self)

    @property
    def ndim(self) -> int:
        """Width of the vectors that go in and come out."""
        return self._codec.dim

    @property
    def dtype(self) -> str:
        """What a latent's number is kept as."""
        return self._dtype

    @property
    def keys(self) -> Labels:
        """All keys, uint64 (size,), in no particular order."""
        return np.asarray(self._inner.keys, np.uint64)

    @property
    def connectivity(self) -> int:
        """Links per element."""
        return int(self._inner.connectivity)

    @property
    def expansion_add(self) -> int:
        """Candidates looked at when an element is added."""
        return int(self._inner.expansion_add)

    @expansion_add.setter
    def expansion_add(self, value: int) -> None:
        self._inner.expansion_add = value

    @property
    def expansion_search(self) -> int:
        """Candidates looked at by a query; more is slower and finds more."""
        return int(self._inner.expansion_search)

    @expansion_search.setter
    def expansion_search(self, value: int) -> None:
        self._inner.expansion_search = value

    @property
    def memory_usage(self) -> int:
        """Bytes that usearch holds."""
        return int(self._inner.memory_usage)

    def add(self, keys: Any, vectors: Any, *, threads: int = 0) -> Labels:
        """Add vectors, or update those whose keys are there. Either the whole batch goes in or nothing.

        Args:
            keys: n integers from 0 to 2**64 - 1, one for a single vector, or ``None`` to count on from the size.
            vectors: float (n, dim) or (dim,).
            threads: threads to add with; 0 for all cores.

        Returns:
            The keys, uint64 (n,).

        Raises:
            InvalidVectorsError: naming the first bad row.
            IndexArgumentError: keys of the wrong shape or type; or keys that counting reaches are taken.
        """
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
                self._inner.add(added, rows, threads=threads)
        return labels

    def search(self, vectors: Any, count: int = 10, *, threads: int = 0, exact: bool = False) -> Any:
        """The nearest elements of each query.

        Args:
            vectors: float (n, dim) or (dim,); encoded as queries.
            count: neighbours wanted; fewer are returned when there are no more.
            threads: threads to search with; 0 for all cores.
            exact: compare with every element.

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
        return self._inner.search(latents, count, threads=threads, exact=exact)

    def get(self, keys: Any) -> Any:
        """Vectors as the codec restores them: close to those added, of unit norm under cosine.

        Args:
            keys: one key or several.

        Returns:
            As usearch: for one key float32 (dim,), or ``None`` when it is not there; for several a tuple of these.
        """
        labels = as_labels(keys, 1 if np.ndim(keys) == 0 else None)
        # Some versions of usearch return whatever is in memory for a key that is not there.
        present = self._present(labels)
        latents = np.array(self._inner.get(labels[present], dtype="f32"), np.float32)
        restored = iter(self._codec.decode(latents.reshape(-1, self._codec.code_dim)))
        vectors = tuple(next(restored) if there else None for there in present)
        return vectors[0] if np.ndim(keys) == 0 else vectors

    def contains(self, keys: Any) -> bool | NDArray[np.bool_]:
        """Whether a key is there, or, for several, which are: bool (n,)."""
        labels = as_labels(keys, 1 if np.ndim(keys) == 0 else None)
        present = self._present(labels)
        return bool(present[0]) if np.ndim(keys) == 0 else present

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index and the identity of its codec to one file, atomically.

        Raises:
            OSError: the folder is missing, not writable or full; a file that was there before is left as it was.
        """
        FILE.write(path, self._write_payload)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what :meth:`save` wrote, in place of what the index holds; the dtype becomes that of the file.

        usearch keeps no ``expansion_search``: it stays as it is.

        Raises:
            IndexFileError: not a file of :meth:`save`, truncated, changed, or of a newer format.
            CodecMismatchError: the index was filled by another codec.
            FileNotFoundError: there is no such file. After any error the index is as it was.
        """
        inner = self._new_inner()
        with FILE.read(path) as (saved, raw):
            check_same_codec(saved, self._codec, path)
            inner.load(str(raw))
        inner.expansion_add, inner.expansion_search = self.expansion_add, self.expansion_search
        with self._lock:
            self._inner, self._dtype = inner, saved["dtype"]

    def _new_inner(self) -> Any:
        usearch = require("usearch.index", extra="usearch")
        metric = METRICS[self._codec.latent_metric]
        return usearch.Index(ndim=self._codec.code_dim, metric=metric, dtype=self._dtype, **self._settings)

    def _present(self, labels: Labels) -> NDArray[np.bool_]:
        return np.asarray(self._inner.contains(labels), np.bool_).reshape(len(labels))

    def _write_payload(self, raw: Path) -> dict[str, Any]:
        with self._lock:
            self._inner.save(str(raw))
        return {**identity(self._codec), "metric": METRICS[self._codec.latent_metric], "dtype": self._dtype}
