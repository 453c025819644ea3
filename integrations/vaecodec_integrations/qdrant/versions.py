"""Check before a call that the version of the Qdrant server supports it, so that the error is clear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from vaecodec.errors import UnsupportedRequestError
from vaecodec_integrations.qdrant.surface import is_local

METADATA, VECTOR_NAMES = "collection metadata", "create_vector_name"
TURBO, TURBO_8_BITS = "TurboQuant codes (quantization_config)", "TurboQuant codes of 8 bits (quantization_config)"

# Each feature that this package uses, or passes on and knows, with the first version of the server that has it.
FIRST_VERSIONS = {
    METADATA: (1, 16),
    VECTOR_NAMES: (1, 18),
    TURBO: (1, 18),
    "datatype turbo4": (1, 19),
    "datatype turbo8": (1, 19),
    "datatype turbo16": (1, 19),
    TURBO_8_BITS: (1, 20),
}


def first_version(feature: str) -> str:
    """Return the first version of the server with a feature of :data:`FIRST_VERSIONS`, such as ``1.18``."""
    return ".".join(map(str, FIRST_VERSIONS[feature]))


def features(vectors: Iterable[Any], quantization: Any = None) -> Iterator[str]:
    """Yield the features, of :data:`FIRST_VERSIONS`, that vectors are created with.

    Args:
        vectors: ``VectorParams``, ``VectorParamsDiff`` or ``DenseVectorConfig``.
        quantization: the quantisation of all of them.
    """
    for params in vectors:
        datatype = getattr(params, "datatype", None)
        name = f"datatype {getattr(datatype, 'value', datatype)}"
        if name in FIRST_VERSIONS:
            yield name
        yield from _quantised(getattr(params, "quantization_config", None))
    yield from _quantised(quantization)


def _quantised(config: Any) -> Iterator[str]:
    if isinstance(config, models.TurboQuantization):
        # Clients before 1.20 do not know 8 bits.
        bits = config.turbo.bits
        yield TURBO_8_BITS if bits is not None and bits.value == "bits8" else TURBO


def check_server(client: QdrantClient, wanted: Iterable[str]) -> None:
    """Ask a server for its version, and refuse features that it does not have, as :func:`check_version` does."""
    if is_local(client.init_options):
        return
    try:
        found = client.info()
    except (ApiException, grpc.RpcError):  # A proxy may pass on requests about collections only.
        return
    check_version(found.version, wanted)


def check_version(version: str, wanted: Iterable[str]) -> None:
    """Refuse features that the server does not have.

    Args:
        version: of the server, such as ``1.18.3``.
        wanted: features of :data:`FIRST_VERSIONS`.

    Raises:
        UnsupportedRequestError: naming the first feature that is missing, and the version that has it.
    """
    parts = version.split(".")[:2]
    if not all(part.isdigit() for part in parts):  # a development build of the server
        return
    found = tuple(map(int, parts))
    for feature in wanted:
        if found < FIRST_VERSIONS[feature]:
            raise UnsupportedRequestError(
                f"{feature}: expected a Qdrant server of version {first_version(feature)} or later, got {version}; "
                "upgrade the server, or leave it out"
            )
