"""Load a codec file and run it with onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from vaecodec.artifact import Metadata, read_artifact
from vaecodec.calibration import check_calibration, codes_of
from vaecodec.codes import Calibration, Code
from vaecodec.codes.saturation import warn_if_saturated
from vaecodec.errors import CodecMismatchError, InvalidDimensionError
from vaecodec.hub import FILE_NAME, fetch, push, save
from vaecodec.interface import FloatArray, Metric
from vaecodec.runtime import Provider, Runtime, start
from vaecodec.vectors import as_array, blocks, check_latents, is_checked_row, normalised


class Codec:
    """Run a learned or linear codec in onnxruntime; a :class:`~vaecodec.interface.VectorCodec`.

    Made by :meth:`load`. Safe to share between threads: a call keeps no state, and gives the same bits whichever
    thread makes it. Can be pickled, file and all, and used after a fork.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> codec = Codec.load("codec.onnx")
        >>> embeddings = np.load("embeddings.npy")
        >>> codec.encode(embeddings).shape
        (6000, 64)
        >>> codec.encode_queries(np.load("queries.npy")).shape
        (1000, 64)
        >>> codec.decode(codec.encode(embeddings)).shape
        (6000, 384)

        The same latents in fewer bytes, and a mistake:

        >>> codec.encode(embeddings, dtype="int4").nbytes / len(embeddings)
        32.0
        >>> codec.encode(embeddings[:, :100])
        Traceback (most recent call last):
        vaecodec.errors.WrongWidthError: ...
    """

    def __init__(self, runtime: Runtime, metadata: Metadata, code_dim: int, file: bytes = b"") -> None:
        self._runtime = runtime
        self._metadata = metadata
        self._code_dim = code_dim
        self._file = file  # the runtime holds the same bytes

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int | None = None,
        providers: Sequence[Provider] | None = None,
        device: str | None = None,
        threads: int | None = None,
        strict: bool = True,
        codec_id: str | None = None,
    ) -> Self:
        """Load and verify a codec file.

        Args:
            path: the file that ``vaecodec export`` wrote.
            dim: width of the latents, one of the file's ``nested_dims``; by default all of them.
            providers: onnxruntime execution providers, most wanted first, each a name or a name and its options, such
                as ``("CUDAExecutionProvider", {"device_id": 1})``; by default the CPU.
            device: instead of ``providers``: ``"cpu"``, ``"cuda"``, or ``"auto"``, a GPU where one starts and else the
                CPU; :attr:`providers` says which.
            threads: threads per call on the CPU; by default onnxruntime's choice, one per core.
            strict: raise when a provider asked for is not there; ``False`` goes on without it, and
                :attr:`providers` says what is used.
            codec_id: ``metadata.codec_id`` of the file expected, all 64 digits. The checksum in a file proves that it
                is whole, and only a checksum that you kept elsewhere proves that it is the one.

        Raises:
            ArtifactError: the file is missing, damaged, foreign or too new; a subclass says which.
            CodecMismatchError: it is another codec than ``codec_id``.
            InvalidDimensionError: the file has no nested codec of width ``dim``.
            DeviceError: there is no such device, or both ``device`` and ``providers`` are given; or a provider is not
                installed, or did not start.
        """
        data, metadata = read_artifact(path)
        if codec_id is not None and codec_id != metadata.codec_id:
            raise CodecMismatchError(
                f"{path}: expected the codec {codec_id}, got {metadata.codec_id}; find the right file"
            )
        check_calibration(metadata)
        widths = sorted({*metadata.nested_dims, metadata.code_dim})
        if dim is not None and dim not in widths:
            raise InvalidDimensionError(
                f"{path}: expected dim to be one of {', '.join(map(str, widths))}, got {dim}; "
                "train with nested dims to have more"
            )
        runtime = start(path, data, providers=providers, device=device, threads=threads, strict=strict)
        return cls(runtime, metadata, dim or metadata.code_dim, data)

    @classmethod
    def from_pretrained(
        cls,
        repository: str | os.PathLike[str],
        *,
        file: str = FILE_NAME,
        revision: str | None = None,
        codec_id: str | None = None,
        **options: Any,
    ) -> Self:
        """Load and verify a codec file from the Hugging Face Hub, or from a folder laid out alike.

        A repository of others may change. Pin what you built an index with, by ``codec_id`` or by a commit.

        Args:
            repository: an existing folder, or ``owner/name`` on the Hub, which takes the extra ``hub``; a file that
                was fetched before is taken from the cache of huggingface_hub.
            file: name of the codec file there.
            revision: branch, tag or commit on the Hub.
            codec_id: see :meth:`load`.
            options: ``dim``, ``providers``, ``device``, ``threads`` and ``strict`` of :meth:`load`.

        Raises:
            ArtifactNotFoundError: there is no such repository, revision or file.
            MissingExtraError: huggingface_hub is not installed, and no such folder exists.
            OSError: the Hub does not answer, or refuses.
            ArtifactError, CodecMismatchError, InvalidDimensionError, DeviceError: see :meth:`load`.
        """
        return cls.load(fetch(repository, file, revision), codec_id=codec_id, **options)

    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the codec file and its card into a folder: ``codec.onnx`` and ``README.md``.

        All latents are in the file, also where this codec uses the first of them. A card that is there stays.

        Args:
            folder: it is made where it is missing.
            overwrite: replace another codec there.

        Raises:
            OutputExistsError: the folder holds another codec, or something that is none.
            OSError: the folder cannot be written to.
        """
        save(self._file, folder, overwrite=overwrite)

    def push_to_hub(self, repository: str, *, private: bool = False, revision: str | None = None) -> str:
        """Publish the codec file and its card on the Hugging Face Hub.

        Args:
            repository: ``owner/name``; it is made where it is missing. Its ``README.md`` is replaced by the card.
                The key is that of ``hf auth login`` or of ``HF_TOKEN``.
            private: whether a new repository is private.
            revision: branch to write to.

        Returns:
            The address of the commit.

        Raises:
            MissingExtraError: huggingface_hub is not installed.
            OSError: the Hub does not answer, or refuses.
        """
        return push(self._file, repository, private=private, revision=revision)

    @property
    def dim(self) -> int:
        """Return the width of the embeddings."""
        return self._metadata.dim

    @property
    def code_dim(self) -> int:
        """Return the width of the latents."""
        return self._code_dim

    @property
    def metric(self) -> Metric:
        """Return how the embeddings are compared."""
        return self._metadata.metric

    @property
    def latent_metric(self) -> Metric:
        """Return how an index must compare the latents."""
        return self._metadata.latent_metric

    @property
    def codec_id(self) -> str:
        """Return the identity of the codec for documents, 64 hexadecimal digits: an index keeps it.

        It is the sha256 of the file; after ``vaecodec refit-queries`` that of the file which filled the index, and
        ``metadata.codec_id`` is this file's own.
        """
        return self._metadata.identity

    @property
    def embedder(self) -> str:
        """Return the embedding model's name as the user gave it, or an empty string."""
        return self._metadata.embedder

    @property
    def metadata(self) -> Metadata:
        """Return the metadata of the file."""
        return self._metadata

    @property
    def providers(self) -> list[str]:
        """Return the onnxruntime execution providers in use, most wanted first."""
        return self._runtime.providers

    @cached_property
    def calibration(self) -> Calibration:
        """Return the statistics of latents that the codes of :meth:`code` need.

        Raises:
            NotCalibratedError: the file does not hold it.
        """
        return codes_of(self)

    def code(self, *, dtype: str | None = None, bytes: int | None = None) -> Code:  # noqa: A002
        """Return one way to write latents as bytes.

        Args:
            dtype: a uniform code: ``float32``, ``float16``, ``int8``, ``int4``, ``int2`` or ``binary``.
            bytes: or a code of so many bytes per vector, from 4 up, or from 8 up where the file has a trellis alone; to
                encode it takes the extra ``packed``.

        Raises:
            InvalidBudgetError: neither or both are given, or there is no such code.
            NotCalibratedError: the file holds no calibration.
        """
        return self.calibration.code(dtype=dtype, bytes=bytes)

    @overload
    def encode(self, vectors: Any) -> FloatArray: ...
    @overload
    def encode(self, vectors: Any, *, dtype: str | None = ..., bytes: int | None = ...) -> NDArray[Any]: ...
    def encode(self, vectors: Any, *, dtype: str | None = None, bytes: int | None = None) -> NDArray[Any]:  # noqa: A002
        """Compress documents, to latents or, with ``dtype`` or ``bytes``, to codes.

        Args:
            vectors: float (n, dim) of any float dtype and layout, or a memory map; need not be normalised.
            dtype: see :meth:`code`.
            bytes: see :meth:`code`.

        Returns:
            float32 (n, code_dim), C-contiguous, of unit norm when ``latent_metric`` is cosine; or codes, (n, width) of
            ``uint8``, or of the ``dtype`` when numpy has it. A row's code is the same alone and in any batch.

        Raises:
            InvalidVectorsError: one of its subclasses, naming the first bad row; nothing is returned then.
            InvalidBudgetError, NotCalibratedError: see :meth:`code`.

        Warns:
            SaturationWarning: more than 5 % of the vectors lie outside the range of the code.
        """
        if dtype is None and bytes is None:
            return self._to_latents("embedding", "latent", vectors, "vectors")
        code = self.code(dtype=dtype, bytes=bytes)
        parts = [code.encode(np.empty((0, self._code_dim), np.float32))]
        saturated = 0
        for _, block in blocks(vectors, self.dim, self.metric):
            latents = self._to_latents("embedding", "latent", block, "vectors")
            saturated += int(code.saturated(latents).sum())
            parts.append(code.encode(latents))
        codes = np.concatenate(parts)
        warn_if_saturated(saturated, len(codes), code.name)
        return codes

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Compress queries; as :meth:`encode`, through the query entry point of the file."""
        return self._to_latents("query", "query_latent", vectors, "queries")

    def decode(self, codes: Any, *, dtype: str | None = None, bytes: int | None = None) -> FloatArray:  # noqa: A002
        """Reconstruct embeddings.

        Args:
            codes: float (n, code_dim) latents, or codes, as :meth:`encode` returned them.
            dtype: what they were encoded with.
            bytes: what they were encoded with.

        Returns:
            float32 (n, dim), C-contiguous, of unit norm when ``metric`` is cosine.

        Raises:
            InvalidVectorsError: the array is not of that code's dtype and width, or a row is bad: a subclass says how.
            InvalidBudgetError, NotCalibratedError: see :meth:`code`.
        """
        if dtype is not None or bytes is not None:
            codes = self.code(dtype=dtype, bytes=bytes).decode(codes)
        codes = as_array(codes, name="codes")
        padding = self._metadata.code_dim - self._code_dim
        reconstructions = _output(codes, self.dim)
        checked = blocks(codes, self._code_dim, self.latent_metric, name="codes", rows=self._runtime.block_rows)
        padded = ((first, np.pad(block, ((0, 0), (0, padding)))) for first, block in checked) if padding else checked
        for _ in self._runtime.run_blocks("code", "reconstruction", padded, reconstructions):
            pass
        return reconstructions

    def _to_latents(self, feed: str, output: str, vectors: Any, name: str) -> FloatArray:
        if is_checked_row(vectors, self._metadata.dim, self._metadata.metric):
            return self._prefix(self._runtime.run(feed, output, vectors), name)
        vectors = as_array(vectors, name=name)
        latents = _output(vectors, self._code_dim)
        checked = blocks(vectors, self.dim, self.metric, name=name, rows=self._runtime.block_rows)
        whole = self._code_dim == self._metadata.code_dim
        for first, block in self._runtime.run_blocks(feed, output, checked, latents if whole else None):
            kept = self._prefix(block, name, first)
            if not whole:
                latents[first : first + len(block)] = kept
        return latents

    def _prefix(self, latents: FloatArray, name: str, first_row: int = 0) -> FloatArray:
        """Return the first ``code_dim`` of all latents in the file, as a codec of that width gives them, each with a
        direction.
        """
        if self._code_dim < latents.shape[1]:
            latents = np.ascontiguousarray(latents[:, : self._code_dim])
            if self.latent_metric is Metric.COSINE:
                with np.errstate(invalid="ignore"):  # a row without a direction becomes NaN, and is refused below
                    latents = normalised(latents)
        check_latents(latents, self.latent_metric, name, first_row)
        return latents


def _output(rows: Any, width: int) -> FloatArray:
    shape = np.shape(rows)  # wrong inputs have a shape, too; they are refused before anything is written here
    return np.empty((shape[0] if shape else 0, width), np.float32)
