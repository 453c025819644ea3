"""Encode and decode the vectors inside Qdrant's request and response models; nothing is sent here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from vaecodec.errors import InvalidVectorsError, NotFloatingPointError, UnsupportedRequestError, WrongWidthError
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import as_rows, as_vectors
from vaecodec_integrations.qdrant.layout import UNNAMED, CodedVector, Layout
from vaecodec_integrations.qdrant.messages import copy_with
from vaecodec_integrations.qdrant.texts import INFERENCE, TextEmbedder, embedded

VectorCall = Callable[[FloatArray], FloatArray]
Label = Callable[[int], str]
# A function that fetches originals: from ids to float32 (m, dim) of those found, and which were found.
FetchOriginals = Callable[[Sequence[Any]], tuple[FloatArray, "np.ndarray[Any, np.dtype[np.bool_]]"]]

_PLAIN = {list, np.ndarray}

# ---------------------------------------------------------------- documents


def encode_vectors(
    layout: Layout, vectors: Sequence[Any], ids: Sequence[Any], *, arrays: bool = False
) -> Sequence[Any]:
    """Return one point's vectors per item, plain or by name, with the compressed ones encoded as documents.

    Args:
        vectors: per point a vector, a multivector, or a dict of these by name.
        ids: of the points, for error messages.
        arrays: return latents and originals as float32 arrays instead of lists.

    Raises:
        InvalidVectorsError: naming the first bad point; nothing is returned then.
    """
    as_sent: Callable[[Any], Sequence[Any]] = (lambda encoded: encoded) if arrays else as_lists
    alone = layout.coded.get(UNNAMED)
    if len(layout.coded) == 1 and alone is not None and alone.original is None and _all_plain(vectors):
        return as_sent(encode_column(alone, vectors, _point_label(ids)))
    named = [v if isinstance(v, dict) else {UNNAMED: v} for v in vectors]
    results = [dict(v) for v in named]
    for name, coded in layout.coded.items():
        rows = [i for i, point in enumerate(named) if point.get(name) is not None]
        column = [named[i][name] for i in rows]
        encoded = as_sent(encode_column(coded, column, _point_label([ids[i] for i in rows])))
        for row, raw, latent in zip(rows, column, encoded, strict=True):
            results[row][name] = latent
            if coded.original is not None:
                results[row][coded.original] = as_rows(raw).astype(np.float32) if arrays else plain_floats(raw)
    return [
        result if isinstance(vector, dict) or len(result) > 1 else result[UNNAMED]
        for vector, result in zip(vectors, results, strict=True)
    ]


def _all_plain(vectors: Sequence[Any]) -> bool:
    return isinstance(vectors, np.ndarray) or _PLAIN.issuperset(map(type, vectors))


def _point_label(ids: Sequence[Any]) -> Label:
    return lambda number: f"point {ids[number]!r}"


def encode_batch(layout: Layout, batch: models.Batch) -> models.Batch:
    """Return a ``Batch`` with its compressed columns encoded."""
    columns: dict[str, Any] = dict(batch.vectors) if isinstance(batch.vectors, dict) else {UNNAMED: batch.vectors}

    def label(row: int) -> str:
        return f"point {batch.ids[row]!r}" if row < len(batch.ids) else f"row {row}"

    for name, coded in layout.coded.items():
        if name not in columns:
            continue
        raw = columns[name]
        columns[name] = as_lists(encode_column(coded, raw, label))
        if coded.original is not None:
            columns[coded.original] = [plain_floats(vector) for vector in raw]
    return copy_with(batch, vectors=columns[UNNAMED] if list(columns) == [UNNAMED] else columns)


def embed_batch(layout: Layout, batch: models.Batch, texts: TextEmbedder) -> models.Batch:
    """Return a ``Batch`` with the texts and images of its compressed columns replaced by embeddings."""
    columns: dict[str, Any] = dict(batch.vectors) if isinstance(batch.vectors, dict) else {UNNAMED: batch.vectors}
    for name in layout.coded.keys() & columns.keys():
        columns[name] = embedded(texts, columns[name], queries=False, label=f"vector {name!r}")
    return copy_with(batch, vectors=columns if isinstance(batch.vectors, dict) else columns[UNNAMED])


def embed_vectors(layout: Layout, vectors: Sequence[Any], texts: TextEmbedder) -> Sequence[Any]:
    """Return one point's vectors per item, with the texts and images of the compressed ones replaced by embeddings."""
    if _all_plain(vectors):
        return vectors
    for name in layout.coded:
        column = [v.get(name) if isinstance(v, dict) else v if name == UNNAMED else None for v in vectors]
        filled = embedded(texts, column, queries=False, label=f"vector {name!r}")
        if filled is not column:
            vectors = [
                {**old, name: new} if isinstance(old, dict) and new is not None else old if new is None else new
                for old, new in zip(vectors, filled, strict=True)
            ]
    return vectors


# ---------------------------------------------------------------- columns


def encode_column(
    coded: CodedVector, vectors: Sequence[Any], label: Label, *, queries: bool = False
) -> FloatArray | list[FloatArray]:
    """Return vectors of one name as float32 (n, code_dim); multivectors, row by row, as float32 (m, code_dim) each.

    Vectors of the latents' width are latents already, as of an embedding model with the codec inside, and stay so.

    Args:
        vectors: float (dim,) each, or float (m, dim) where ``coded.multi``.
        label: what the vector of a number is called in error messages.
        queries: encode as queries, not as documents.

    Raises:
        UnsupportedRequestError, InvalidVectorsError: naming the first vector that cannot be encoded.
    """
    if not len(vectors):
        return []
    if not coded.multi:
        return _encoded_rows(coded, vectors, label, queries)
    try:
        ends = np.cumsum([len(vector) for vector in vectors])
        flat = [row for vector in vectors for row in vector]
    except TypeError:
        flat, ends = list(vectors), np.arange(len(vectors))

    def owner(row: int) -> str:
        return label(int(np.searchsorted(ends, row, side="right")))

    return list(np.split(_encoded_rows(coded, flat, owner, queries), ends[:-1]))


def as_lists(encoded: FloatArray | list[FloatArray]) -> list[Any]:
    """Return what :func:`encode_column` returns as lists of floats, which is what Qdrant's models hold."""
    if isinstance(encoded, list):
        return [rows.tolist() for rows in encoded]
    return list(encoded.tolist())


def plain_floats(vectors: Any) -> Any:
    """Return arrays, and lists of numbers of any type at any depth, as lists of Python's floats."""
    return as_rows(vectors).astype(np.float64).tolist()


def _encoded_rows(coded: CodedVector, vectors: Sequence[Any], label: Label, queries: bool) -> FloatArray:
    codec = coded.codec
    if not _are_latents(coded, vectors[0] if len(vectors) else None):
        call = codec.encode_queries if queries else codec.encode
        return _call(call, _stacked(coded, vectors, codec.dim, label), coded, codec.dim, codec.metric, label)
    if coded.original is not None:
        raise UnsupportedRequestError(
            f"{label(0)}, vector {coded.name!r}: expected {codec.dim} floats, because the collection keeps originals "
            f"to re-rank by, got latents of width {codec.code_dim}; pass the embedding itself"
        )
    rows = _stacked(coded, vectors, codec.code_dim, label)

    def checked(latents: FloatArray) -> FloatArray:
        return as_vectors(latents, codec.code_dim, codec.latent_metric, name="latents")

    return _call(checked, rows, coded, codec.code_dim, codec.latent_metric, label)


def _are_latents(coded: CodedVector, vector: Any) -> bool:
    try:
        return len(vector) == coded.codec.code_dim != coded.codec.dim and not isinstance(vector[0], (list, np.ndarray))
    except (TypeError, KeyError, IndexError):
        return False


def _stacked(coded: CodedVector, vectors: Sequence[Any], width: int, label: Label) -> FloatArray:
    """Return vectors of one name as float32 (n, width).

    Raises:
        UnsupportedRequestError, WrongWidthError: naming the first vector that is none of this width.
    """
    shape = (len(vectors), width)
    if not isinstance(vectors, np.ndarray) and isinstance(vectors[0], list | tuple):
        rows = np.empty(shape, np.float32)
        pack = struct.Struct(f"{width}f").pack_into
        try:
            # struct takes half the time of np.array, which would be most of the time to encode a batch of lists.
            for number, vector in enumerate(vectors):
                if vector[0].__class__ is bool:  # struct would take it for a number
                    raise TypeError
                pack(rows.data, number * rows.strides[0], *vector)
            return rows
        except (struct.error, OverflowError, TypeError, LookupError):
            pass
    try:
        given = as_rows(vectors)
        if given.dtype.kind not in "fiu":
            raise NotFloatingPointError(f"{label(0)}, vector {coded.name!r}: expected numbers, got {given.dtype}")
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and the codec refuses them
            rows = np.asarray(given, dtype=np.float32)
    except InvalidVectorsError:
        for number, vector in enumerate(vectors):
            _check_form(coded, vector, width, label(number))
        raise
    if rows.shape != shape:
        for number, vector in enumerate(vectors):
            _check_form(coded, vector, width, label(number))
        raise UnsupportedRequestError(f"vector {coded.name!r}: expected {width} floats per point, got other values")
    return rows


def _check_form(coded: CodedVector, vector: Any, width: int, label: str) -> None:
    where = f"{label}, vector {coded.name!r}"
    if isinstance(vector, INFERENCE):
        raise UnsupportedRequestError(
            f"{where}: expected {width} floats, got a {type(vector).__name__} to be embedded elsewhere; embed it "
            "first, then pass the vector"
        )
    try:
        found, nested = len(vector), len(vector) > 0 and isinstance(vector[0], (list, np.ndarray))
    except (TypeError, KeyError):
        found, nested = 0, True
    if nested or isinstance(vector, models.SparseVector):
        raise UnsupportedRequestError(
            f"{where}: expected {width} floats, got a {type(vector).__name__} of another kind"
        )
    if found != width:
        raise WrongWidthError(
            f"{where}: expected width {width}, got {found}; was it made by the embedding model that the codec was "
            "trained for?"
        )


def _call(
    call: VectorCall, rows: FloatArray, coded: CodedVector, width: int, metric: Metric, label: Label
) -> FloatArray:
    try:
        return call(rows)
    except InvalidVectorsError as error:
        raise type(error)(f"{label(_first_bad(rows, width, metric))}, vector {coded.name!r}: {error}") from None


def _first_bad(rows: FloatArray, width: int, metric: Metric) -> int:
    for index in range(len(rows)):
        try:
            as_vectors(rows[index : index + 1], width, metric)
        except InvalidVectorsError:
            return index
    return 0


# ---------------------------------------------------------------- responses


def stored_selection(layout: Layout, with_vectors: Any) -> Any:
    """Return ``with_vectors`` as the server must be asked: kept originals instead of their compressed form."""
    if with_vectors is True and layout.hides_originals:
        with_vectors = [*layout.coded, *layout.others]
    if not isinstance(with_vectors, (list, tuple)):
        return with_vectors
    return [layout.coded[name].original or name if name in layout.coded else name for name in with_vectors]


def restore_records(layout: Layout, records: Sequence[Any], fetch: FetchOriginals | None) -> Sequence[Any]:
    """Return ``Record`` or ``ScoredPoint`` with vectors of the original width: the original where one is kept,
    otherwise the reconstruction."""
    if not layout.coded or all(record.vector is None for record in records):
        return records
    restored: list[Any] = [
        dict(r.vector) if isinstance(r.vector, Mapping) else None if r.vector is None else {UNNAMED: r.vector}
        for r in records
    ]
    for name, coded in layout.coded.items():
        rows = [i for i, vectors in enumerate(restored) if vectors and name in vectors]
        decoded = decode_column(coded, [restored[i][name] for i in rows])
        if fetch is not None and rows:
            originals, found = fetch([records[i].id for i in rows])
            kept = iter(originals.tolist())
            decoded = [next(kept) if f else value for f, value in zip(found, decoded, strict=True)]
        for row, value in zip(rows, decoded, strict=True):
            restored[row][name] = value
        for vectors in restored:
            if vectors and coded.original is not None and coded.original in vectors:
                vectors[name] = vectors.pop(coded.original)
    return [
        record
        if vectors is None
        else copy_with(record, vector=vectors[UNNAMED] if list(vectors) == [UNNAMED] else vectors)
        for record, vectors in zip(records, restored, strict=True)
    ]


def vector_of(record: Any, name: str) -> Any:
    """Return a point's vector of this name, as it was read; None where it has none."""
    found = record.vector
    return found.get(name) if isinstance(found, Mapping) else None if name else found


def decode_column(coded: CodedVector, codes: Sequence[Any]) -> list[Any]:
    """Return stored latents of one name as reconstructions, lists of ``dim`` floats; multivectors row by row."""
    if not codes:
        return []
    if not coded.multi:
        return list(coded.codec.decode(np.array(codes, np.float32)).tolist())
    flat = np.array([row for multi in codes for row in multi], np.float32)
    rows = iter(coded.codec.decode(flat).tolist())
    return [[next(rows) for _ in multi] for multi in codes]
