"""Encoding and decoding of the vectors inside Qdrant's request and response models; nothing is sent here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest

from vaecodec.errors import InvalidVectorsError, UntranslatableError, WrongWidthError
from vaecodec.interface import FloatArray
from vaecodec.vectors import as_vectors
from vaecodec_integrations.qdrant.layout import UNNAMED, CodedVector, Layout

ModelT = TypeVar("ModelT", bound=BaseModel)
VectorCall = Callable[[FloatArray], FloatArray]
Label = Callable[[int], str]
# Fetches kept originals: ids to float32 (m, dim) of those found, and which were found.
FetchOriginals = Callable[[Sequence[Any]], tuple[FloatArray, "np.ndarray[Any, np.dtype[np.bool_]]"]]

INFERENCE = (models.Document, models.Image, models.InferenceObject)


def copy_with(model: ModelT, **changes: Any) -> ModelT:
    """A copy with some fields replaced, without validating vectors float by float again.

    What ``model_copy(update=changes)`` returns for models without extra or private attributes, as all of Qdrant's are,
    in half the time: it would be most of what this package adds to the upsert of a point.
    """
    copied = _new(model.__class__)
    _set(copied, "__dict__", model.__dict__ | changes)
    _set(copied, "__pydantic_fields_set__", model.__pydantic_fields_set__ | changes.keys())
    _set(copied, "__pydantic_extra__", None)
    _set(copied, "__pydantic_private__", None)
    return copied


_new, _set = object.__new__, object.__setattr__


# What the client's methods take in gRPC's form, too, where translation looks inside or puts it into a REST model.
_FROM_GRPC: dict[type, Callable[[Any], Any]] = {
    grpc.Filter: GrpcToRest.convert_filter,
    grpc.LookupLocation: GrpcToRest.convert_lookup_location,
    grpc.PointId: GrpcToRest.convert_point_id,
    grpc.PointStruct: GrpcToRest.convert_point_struct,
    grpc.QuantizationConfig: GrpcToRest.convert_quantization_config,
    grpc.QuantizationConfigDiff: GrpcToRest.convert_quantization_config_diff,
    grpc.SearchParams: GrpcToRest.convert_search_params,
    grpc.VectorsConfigDiff: GrpcToRest.convert_vectors_config_diff,
}


def as_rest(argument: Any) -> Any:
    """An argument as the REST model that says the same, if it is one of gRPC's messages."""
    convert = _FROM_GRPC.get(type(argument))
    return argument if convert is None else convert(argument)


# ---------------------------------------------------------------- documents


def rest_points(points: Any) -> Any:
    """A batch, or a list of ``PointStruct`` or ``PointVectors``, with gRPC structures converted."""
    if isinstance(points, models.Batch):
        return points
    return list(map(as_rest, points))


def encode_points(layout: Layout, points: Sequence[Any]) -> list[Any]:
    """``PointStruct`` or ``PointVectors`` with their compressed vectors encoded; the rest as it is."""
    encoded = encode_vectors(layout, [p.vector for p in points], [p.id for p in points])
    return [copy_with(point, vector=vector) for point, vector in zip(points, encoded, strict=True)]


def encode_vectors(layout: Layout, vectors: Sequence[Any], ids: Sequence[Any]) -> list[Any]:
    """One point's vectors per item, plain or by name, with the compressed ones encoded as documents.

    Args:
        vectors: per point a vector, a multivector, or a dict of these by name.
        ids: of the points, for error messages.

    Raises:
        InvalidVectorsError: naming the first bad point; nothing is returned then.
    """
    alone = layout.coded.get(UNNAMED)
    if len(layout.coded) == 1 and alone is not None and alone.original is None and _all_plain(vectors):
        return encode_column(alone, vectors, alone.codec.encode, _point_label(ids))
    named = [v if isinstance(v, dict) else {UNNAMED: v} for v in vectors]
    results = [dict(v) for v in named]
    for name, coded in layout.coded.items():
        rows = [i for i, point in enumerate(named) if point.get(name) is not None]
        column = [named[i][name] for i in rows]
        encoded = encode_column(coded, column, coded.codec.encode, _point_label([ids[i] for i in rows]))
        for row, raw, latent in zip(rows, column, encoded, strict=True):
            results[row][name] = latent
            if coded.original is not None:
                results[row][coded.original] = as_lists(raw)
    return [
        result if isinstance(vector, dict) or len(result) > 1 else result[UNNAMED]
        for vector, result in zip(vectors, results, strict=True)
    ]


def _all_plain(vectors: Sequence[Any]) -> bool:
    return all(vector.__class__ is list for vector in vectors)


def _point_label(ids: Sequence[Any]) -> Label:
    return lambda number: f"point {ids[number]!r}"


def encode_batch(layout: Layout, batch: models.Batch) -> models.Batch:
    """A ``Batch`` with its compressed columns encoded."""
    columns: dict[str, Any] = dict(batch.vectors) if isinstance(batch.vectors, dict) else {UNNAMED: batch.vectors}

    def label(row: int) -> str:
        return f"point {batch.ids[row]!r}" if row < len(batch.ids) else f"row {row}"

    for name, coded in layout.coded.items():
        if name not in columns:
            continue
        raw = columns[name]
        columns[name] = encode_column(coded, raw, coded.codec.encode, label)
        if coded.original is not None:
            columns[coded.original] = as_lists(raw)
    return copy_with(batch, vectors=columns[UNNAMED] if list(columns) == [UNNAMED] else columns)


def encode_column(coded: CodedVector, vectors: Sequence[Any], call: VectorCall, label: Label) -> list[Any]:
    """Vectors of one name as lists of floats; multivectors row by row.

    Args:
        vectors: float (dim,) each, or float (m, dim) where ``coded.multi``.
        call: the codec's ``encode`` or ``encode_queries``.
        label: what the vector of a number is called in error messages.
    """
    if not len(vectors):
        return []
    if not coded.multi:
        return list(_call(coded, stacked(coded, vectors, label), call, label).tolist())
    lengths = [len(vector) for vector in vectors]
    flat = [row for vector in vectors for row in vector]
    owners = [number for number, length in enumerate(lengths) for _ in range(length)]

    def owner(row: int) -> str:
        return label(owners[row])

    rows = iter(_call(coded, stacked(coded, flat, owner), call, owner).tolist())
    return [[next(rows) for _ in range(length)] for length in lengths]


def stacked(coded: CodedVector, vectors: Sequence[Any], label: Label) -> FloatArray:
    """Vectors of one name as float32 (n, dim).

    Raises:
        UntranslatableError, WrongWidthError: naming the first vector that is none of this width.
    """
    shape = (len(vectors), coded.codec.dim)
    rows = np.empty(shape, np.float32)
    pack = struct.Struct(f"{shape[1]}f").pack_into
    try:
        # Half the time of np.array, which would be most of what encoding a batch of lists takes.
        for number, vector in enumerate(vectors):
            pack(rows.data, number * rows.strides[0], *vector)
        return rows
    except (struct.error, OverflowError, TypeError):
        pass
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused by the codec
            rows = np.array(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        rows = np.empty((0, 0), np.float32)
    if rows.shape != shape:
        for number, vector in enumerate(vectors):
            check_form(coded, vector, label(number))
        raise UntranslatableError(f"vector {coded.name!r}: expected {shape[1]} floats per point, got other values")
    return rows


def check_form(coded: CodedVector, vector: Any, label: str) -> None:
    dim = coded.codec.dim
    if isinstance(vector, INFERENCE):
        raise UntranslatableError(
            f"{label}, vector {coded.name!r}: expected {dim} floats, got a {type(vector).__name__} to be embedded "
            "elsewhere; embed it first, then pass the vector"
        )
    if isinstance(vector, models.SparseVector) or (len(vector) and isinstance(vector[0], (list, np.ndarray))):
        raise UntranslatableError(
            f"{label}, vector {coded.name!r}: expected {dim} floats, got a {type(vector).__name__} of another kind"
        )
    if len(vector) != dim:
        raise WrongWidthError(
            f"{label}, vector {coded.name!r}: expected width {dim}, got {len(vector)}; "
            "was it made by the embedding model that the codec was trained for?"
        )


def _call(coded: CodedVector, rows: FloatArray, call: VectorCall, label: Label) -> FloatArray:
    try:
        return call(rows)
    except InvalidVectorsError as error:
        raise type(error)(f"{label(_first_bad(coded, rows))}, vector {coded.name!r}: {error}") from None


def _first_bad(coded: CodedVector, rows: FloatArray) -> int:
    for index in range(len(rows)):
        try:
            as_vectors(rows[index : index + 1], coded.codec.dim, coded.codec.metric)
        except InvalidVectorsError:
            return index
    return 0


def as_lists(vectors: Any) -> Any:
    """Arrays at any depth of lists as lists of floats, which is what Qdrant's models hold."""
    if isinstance(vectors, np.ndarray):
        return vectors.tolist()
    return [as_lists(v) if isinstance(v, (np.ndarray, list)) else v for v in vectors]


def is_dense(vector: Any) -> bool:
    """Whether a query input is a vector or multivector, not an id, a sparse vector or an object to be embedded."""
    return isinstance(vector, (list, np.ndarray))


# ---------------------------------------------------------------- responses


def stored_selection(layout: Layout, with_vectors: Any) -> Any:
    """``with_vectors`` as the server must be asked: kept originals instead of their compressed form."""
    if with_vectors is True and layout.hides_originals:
        with_vectors = [*layout.coded, *layout.others]
    if not isinstance(with_vectors, (list, tuple)):
        return with_vectors
    return [layout.coded[name].original or name if name in layout.coded else name for name in with_vectors]


def restore_records(layout: Layout, records: Sequence[Any], fetch: FetchOriginals | None) -> Sequence[Any]:
    """``Record`` or ``ScoredPoint`` with vectors of the original width: the original where one is kept, otherwise
    the reconstruction."""
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


def decode_column(coded: CodedVector, codes: Sequence[Any]) -> list[Any]:
    """Stored latents of one name as reconstructions, lists of ``dim`` floats; multivectors row by row."""
    if not codes:
        return []
    if not coded.multi:
        return list(coded.codec.decode(np.array(codes, np.float32)).tolist())
    flat = np.array([row for multi in codes for row in multi], np.float32)
    rows = iter(coded.codec.decode(flat).tolist())
    return [[next(rows) for _ in multi] for multi in codes]
