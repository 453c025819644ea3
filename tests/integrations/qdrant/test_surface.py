"""Test that no method of the installed Qdrant client escapes translation: its types are inspected, not a list alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import qdrant_client
from numpy.typing import NDArray
from pydantic import BaseModel
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from vaecodec.errors import UnsupportedRequestError
from vaecodec_integrations.qdrant import AsyncCompressedQdrantClient, CompressedQdrantClient
from vaecodec_integrations.qdrant.flows import Flows
from vaecodec_integrations.qdrant.surface import (
    COPIED_AS_STORED,
    PASSED_THROUGH,
    STATIC,
    TRANSLATED,
    public_methods,
    refusal,
)

CLIENTS = [(QdrantClient, CompressedQdrantClient), (AsyncQdrantClient, AsyncCompressedQdrantClient)]

# Every field of the models that holds vectors or their sizes. The first column is translated by the client; the
# tests of the contract suite send and read each of them.
TRANSLATED_FIELDS = {
    ("Batch", "vectors"),
    ("CollectionParams", "vectors"),
    ("ContextPair", "negative"),
    ("ContextPair", "positive"),
    ("DenseVectorNameConfig", "dense"),
    ("DiscoverInput", "target"),
    ("FeedbackItem", "example"),
    ("NearestQuery", "nearest"),
    ("PointStruct", "vector"),
    ("PointVectors", "vector"),
    ("Prefetch", "query"),
    ("QueryRequest", "query"),
    ("RecommendInput", "negative"),
    ("RecommendInput", "positive"),
    ("Record", "vector"),
    ("RelevanceFeedbackInput", "target"),
    ("ScoredPoint", "vector"),
}
# Built inside the wrapped client from arguments that are translated.
BUILT_BY_THE_CLIENT = {("CreateCollection", "vectors"), ("QueryGroupsRequest", "query")}
# Lists of numbers that are no dense vectors of a collection; the last is a model that no method returns any more.
NO_VECTORS = {
    ("Rrf", "weights"),
    ("SearchMatrixOffsetsResponse", "scores"),
    ("SparseVector", "values"),
    ("QueryResponse", "embedding"),
}

# (method, parameter) of everything that a vector, or its size, can be given by.
VECTOR_PARAMETERS = {
    ("batch_update_points", "update_operations"),
    ("create_collection", "vectors_config"),
    ("create_vector_name", "vector_name_config"),
    ("query_batch_points", "requests"),
    ("query_points", "prefetch"),
    ("query_points", "query"),
    ("query_points_groups", "prefetch"),
    ("query_points_groups", "query"),
    ("recreate_collection", "vectors_config"),
    ("update_vectors", "points"),
    ("upload_collection", "vectors"),
    ("upload_points", "points"),
    ("upsert", "points"),
}

SIZED = (models.VectorParams, models.DenseVectorConfig)


def leaves(annotation: Any) -> Iterator[Any]:
    """Yield the annotation and everything inside its containers and unions."""
    yield annotation
    for part in get_args(annotation):
        yield from leaves(part)


def holds_floats(annotation: Any) -> bool:
    """Tell whether an array, or any sequence of floats, occurs in the annotation."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if np.ndarray in (annotation, origin):
        return True
    if origin is Annotated:
        return holds_floats(parts[0])
    if inspect.isclass(origin) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        plain = [get_args(part)[0] if get_origin(part) is Annotated else part for part in parts]
        return float in plain or any(map(holds_floats, plain))
    return any(holds_floats(part) for part in parts)


def reaches_vectors(annotation: Any) -> bool:
    """Tell whether a vector, or its size, can be anywhere inside what is annotated."""
    classes = [leaf for leaf in leaves(annotation) if inspect.isclass(leaf)]
    return holds_floats(annotation) or any(
        leaf in SIZED or (issubclass(leaf, BaseModel) and carries_vectors(leaf)) for leaf in classes
    )


def all_models() -> list[type[BaseModel]]:
    found = {v for v in vars(models).values() if inspect.isclass(v) and issubclass(v, BaseModel)}
    return sorted(found, key=lambda model: model.__name__)


@cache
def carries_vectors(model: type[BaseModel]) -> bool:
    """Tell whether vectors can be anywhere inside the model."""
    return _reaches(model, set())


def _reaches(model: type[BaseModel], seen: set[type[BaseModel]]) -> bool:
    if model in seen:
        return False
    seen.add(model)
    for field, info in model.model_fields.items():
        if (model.__name__, field) in TRANSLATED_FIELDS | BUILT_BY_THE_CLIENT:
            return True
        for part in leaves(info.annotation):
            if inspect.isclass(part) and issubclass(part, BaseModel) and _reaches(part, seen):
                return True
    return False


def test_every_vector_field_of_the_models_is_known() -> None:
    found = {
        (model.__name__, field)
        for model in all_models()
        for field, info in model.model_fields.items()
        if holds_floats(info.annotation) or any(leaf in SIZED for leaf in leaves(info.annotation))
    }
    assert found == TRANSLATED_FIELDS | BUILT_BY_THE_CLIENT | NO_VECTORS


@pytest.mark.parametrize(("original", "wrapper"), CLIENTS)
def test_every_public_method_is_known(original: type, wrapper: type) -> None:
    known = TRANSLATED | PASSED_THROUGH | COPIED_AS_STORED | STATIC
    assert set(public_methods(original)) - known == set(), "new methods of qdrant-client"
    if original is QdrantClient:
        assert known - set(public_methods(original)) == set(), "methods that qdrant-client no longer has"
    for name, method in public_methods(original).items():
        own = getattr(wrapper, name)
        assert inspect.signature(own) == inspect.signature(method)
        assert inspect.iscoroutinefunction(own) == inspect.iscoroutinefunction(method), name
        assert (own is method) == (name in STATIC) or inspect.ismethod(method), name


@pytest.mark.parametrize(("original", "wrapper"), CLIENTS)
def test_every_method_whose_types_reach_a_vector_is_translated(original: type, wrapper: type) -> None:
    reaching = {
        name
        for name, method in public_methods(original).items()
        if any(map(reaches_vectors, get_type_hints(method).values()))
    }
    assert reaching - TRANSLATED == set()
    # The inspection itself works: the best known methods are among those found.
    assert {"upsert", "query_points", "scroll", "retrieve", "create_collection", "batch_update_points"} <= reaching


@pytest.mark.parametrize("original", [QdrantClient, AsyncQdrantClient])
def test_every_parameter_whose_type_reaches_a_vector_is_known_and_translated(original: type) -> None:
    """Refuse it, rather than pass it on as a new method that is already translated."""
    found = {
        (name, parameter)
        for name, method in public_methods(original).items()
        for parameter, annotation in get_type_hints(method).items()
        if parameter != "return" and reaches_vectors(annotation)
    }
    assert found == VECTOR_PARAMETERS
    for name, parameter in found:
        flow = Flows._create if name in ("create_collection", "recreate_collection") else getattr(Flows, name)
        assert parameter in inspect.signature(flow).parameters, (name, parameter)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Sequence[float], True),
        (tuple[float, ...] | None, True),
        (NDArray[np.float32], True),
        (dict[str, np.ndarray], True),
        (Iterable[models.PointStruct], True),
        (models.VectorParams | None, True),
        (float | None, False),
        (dict[str, float], False),
        (Sequence[int], False),
        (models.Filter, False),
    ],
)
def test_vectors_are_found_in_annotations(annotation: Any, expected: bool) -> None:
    assert reaches_vectors(annotation) is expected


def test_a_method_of_a_newer_client_is_refused() -> None:
    def upsert_many(self: Any, points: Any) -> None:
        """Stand for a method that a later version may bring."""

    with pytest.raises(UnsupportedRequestError, match=r"^upsert_many: expected a method that this version"):
        refusal("upsert_many", upsert_many)(object(), [])


def test_the_client_is_accepted_where_qdrants_own_is(svd_codec: Any) -> None:
    with_options = QdrantClient(":memory:", timeout=7)
    client = CompressedQdrantClient(with_options, svd_codec)
    assert isinstance(client, qdrant_client.QdrantClient)
    assert client.init_options["timeout"] == 7
    assert client.cloud_inference is False
    assert client._client is with_options._client
    with pytest.raises(AttributeError, match="no attribute '_other'"):
        client._other  # noqa: B018
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        with_options.get_collection("any")


def test_dropping_the_wrapper_leaves_the_wrapped_client_open(svd_codec: Any) -> None:
    wrapped = QdrantClient(":memory:")
    client = CompressedQdrantClient(wrapped, svd_codec)
    del client
    assert wrapped.get_collections().collections == []
    wrapped.close()
