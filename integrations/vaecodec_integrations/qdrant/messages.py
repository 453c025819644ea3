"""Read Qdrant's request models in every form that its clients take: models, gRPC messages, plain dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest

from vaecodec.errors import NotFloatingPointError, UnsupportedRequestError
from vaecodec.vectors import as_rows

ModelT = TypeVar("ModelT", bound=BaseModel)


def copy_with(model: ModelT, **changes: Any) -> ModelT:
    """Return a copy with some fields replaced, without validating vectors float by float again.

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


# Messages that the client's methods also take in gRPC's form. They are converted where our code reads them or puts them
# into a REST model.
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


# Fields of points whose values are vectors.
_VECTORS = ("vector", "vectors")

# Types of arguments that have no class of their own, taken from the models of requests.
VECTORS_CONFIG: Any = models.CreateCollection.model_fields["vectors"].annotation
VECTORS_CONFIG_DIFF: Any = models.UpdateCollection.model_fields["vectors"].annotation
QUERY: Any = models.QueryRequest.model_fields["query"].annotation


def as_rest(argument: Any, kind: Any = None) -> Any:
    """Return an argument as a REST model, if it is a gRPC message or a plain dict.

    Args:
        argument: as the client was given it.
        kind: the type that a dict stands for; without one a dict stays as it is.

    Raises:
        pydantic.ValidationError: a dict that is not of this kind.
    """
    if kind is not None and isinstance(argument, Mapping):
        return _adapter(kind).validate_python(_with_lists(argument))
    convert = _FROM_GRPC.get(type(argument))
    return argument if convert is None else convert(argument)


def _with_lists(argument: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a plain dict with its vectors as lists of floats, the only form that a model holds."""
    return {
        key: _with_lists(value) if isinstance(value, Mapping) else _as_list(value) if key in _VECTORS else value
        for key, value in argument.items()
    }


def _as_list(vectors: Any) -> Any:
    plain = as_plain(vectors)
    return plain.tolist() if isinstance(plain, np.ndarray) else plain


def as_plain(vectors: Any) -> Any:
    """Return one or several vectors in a tensor, series or frame as an array; return anything else unchanged.

    Raises:
        InvalidVectorsError: it holds masked values, rows of several widths or no numbers.
    """
    kind = type(vectors[0] if isinstance(vectors, list | tuple) and len(vectors) else vectors)
    if not (hasattr(kind, "__array__") or hasattr(kind, "as_py")):
        return vectors
    array = as_rows(vectors, name="vector")
    if array.dtype.kind not in "fiu":
        raise NotFloatingPointError(f"vector: expected numbers, got {array.dtype}")
    return array


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def rest_points(points: Any, kind: type[BaseModel] = models.PointStruct) -> Any:
    """Return a batch, or a list of points, as models.

    Args:
        points: a batch, or an iterable of points.
        kind: ``PointStruct`` or ``PointVectors``: what a plain dict among the points stands for.
    """
    if isinstance(points, models.Batch):
        return points
    if isinstance(points, Mapping):
        return _read(points, models.Batch, "points")
    if isinstance(points, BaseModel):  # iterating over one gives its fields
        raise UnsupportedRequestError(
            f"points: expected a Batch or a list of {kind.__name__}, got a {type(points).__name__}; pass a list"
        )
    return [point if point.__class__ is kind else _point(point, kind) for point in points]


def _point(point: Any, kind: type[BaseModel]) -> Any:
    return _read(point, kind, f"point {point.get('id')!r}" if isinstance(point, Mapping) else "point")


def _read(given: Any, kind: type[BaseModel], name: str) -> Any:
    """Return what :func:`as_rest` does; raise ``UnsupportedRequestError`` where a dict is of another kind."""
    try:
        return as_rest(given, kind)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        raise UnsupportedRequestError(f"{name}: expected a {kind.__name__}, got other values ({reason})") from error
