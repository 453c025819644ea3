"""Sort the public methods of the installed Qdrant client by what happens to their vectors.

A method of a newer qdrant-client that is in neither list raises instead of passing uncompressed vectors on unseen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.metadata import version
from typing import Any

from vaecodec.errors import UnsupportedRequestError

TRANSLATED = frozenset(
    {
        "batch_update_points",
        "create_collection",
        "create_vector_name",
        "delete",
        "delete_collection",
        "delete_vector_name",
        "delete_vectors",
        "get_collection",
        "query_batch_points",
        "query_points",
        "query_points_groups",
        "recreate_collection",
        "retrieve",
        "scroll",
        "search_matrix_offsets",
        "search_matrix_pairs",
        "update_collection",
        "update_collection_aliases",
        "update_vectors",
        "upload_collection",
        "upload_points",
        "upsert",
    }
)

PASSED_THROUGH = frozenset(
    {
        "clear_payload",
        "close",
        "cluster_collection_update",
        "cluster_status",
        "cluster_telemetry",
        "collection_cluster_info",
        "collection_exists",
        "count",
        "create_full_snapshot",
        "create_payload_index",
        "create_shard_key",
        "create_shard_snapshot",
        "create_snapshot",
        "delete_full_snapshot",
        "delete_payload",
        "delete_payload_index",
        "delete_shard_key",
        "delete_shard_snapshot",
        "delete_snapshot",
        "facet",
        "get_aliases",
        "get_collection_aliases",
        "get_collections",
        "get_optimizations",
        "info",
        "list_full_snapshots",
        "list_shard_keys",
        "list_shard_snapshots",
        "list_snapshots",
        "overwrite_payload",
        "recover_current_peer",
        "recover_shard_snapshot",
        "recover_snapshot",
        "remove_peer",
        "set_payload",
    }
)

# Those of them after which a collection's name may mean another collection.
CHANGING = frozenset(
    {"cluster_collection_update", "recover_current_peer", "recover_shard_snapshot", "recover_snapshot", "remove_peer"}
)

# This copies collections between servers as they are stored, with metadata. The application sees no vector.
COPIED_AS_STORED = frozenset({"migrate"})

# Methods about embedding models, not about a collection.
STATIC = frozenset(
    {
        "get_embedding_size",
        "list_image_models",
        "list_late_interaction_multimodal_models",
        "list_late_interaction_text_models",
        "list_sparse_models",
        "list_text_models",
    }
)


def is_local(options: Mapping[str, Any]) -> bool:
    """Tell whether a client with these options runs Qdrant in its own process, in memory or in a folder."""
    return options["location"] == ":memory:" or options["path"] is not None


def uploads_arrays(options: Mapping[str, Any]) -> bool:
    """Tell whether the uploader of a client with these options sends the bytes of arrays, not lists of floats."""
    major, minor = version("qdrant-client").split(".")[:2]
    return (int(major), int(minor)) >= (1, 20) and bool(options["prefer_grpc"]) and not is_local(options)


def public_methods(client: type) -> dict[str, Callable[..., Any]]:
    """Return the methods that a user of the client can call, by name."""
    return {name: value for name, value in inspect.getmembers(client, callable) if not name.startswith("_")}


def bound_arguments(names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, positional ones included.

    ``inspect.Signature.bind`` would do the same, but takes as long as encoding a vector.
    """
    arguments = dict(zip(names, args, strict=False))
    repeated = arguments.keys() & kwargs.keys()
    if len(args) > len(names) or repeated:
        detail = f"{sorted(repeated)} given twice" if repeated else f"at most {len(names)} positional arguments"
        raise TypeError(f"expected each argument once, got {len(args)} positional ones: {detail}")
    return arguments | kwargs


def refusal(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in for a method that this version of vaecodec does not know."""

    @wraps(original)
    def refuse(*_: Any, **__: Any) -> Any:
        raise UnsupportedRequestError(
            f"{name}: expected a method that this version of vaecodec translates or passes on, got one of a newer "
            f"qdrant-client; upgrade vaecodec, or call client.wrapped.{name} if it carries no vectors"
        )

    return refuse


def parameter_names(method: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a method's parameters that can be given by position, without ``self``."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
