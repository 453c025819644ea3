"""Check before a call that the version of the Qdrant server supports it, so that the error is clear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from qdrant_client import models

from vaecodec.errors import UnsupportedRequestError

# Each feature with the first version of the server that has it.
FIRST_VERSIONS = {
    "collection metadata": (1, 16),
    "create_vector_name": (1, 18),
    "TurboQuant codes (quantization_config)": (1, 18),
    "datatype turbo4": (1, 19),
    "datatype turbo8": (1, 19),
    "datatype turbo16": (1, 19),
}


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
        if isinstance(getattr(params, "quantization_config", None), models.TurboQuantization):
            yield "TurboQuant codes (quantization_config)"
    if isinstance(quantization, models.TurboQuantization):
        yield "TurboQuant codes (quantization_config)"


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
        first = FIRST_VERSIONS[feature]
        if found < first:
            needed = ".".join(map(str, first))
            raise UnsupportedRequestError(
                f"{feature}: expected a Qdrant server of version {needed} or later, got {version}; upgrade the server, "
                "or leave it out"
            )
