"""Recommend settings for a compressed collection of a given size in memory, and for searching it."""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from vaecodec.codec import Codec
from vaecodec.errors import UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec.linear import LinearCodec
from vaecodec_integrations.qdrant.layout import DISTANCES

# Bits per latent dimension that Qdrant can search over, with how it is asked for them. qdrant-client has known 8 of
# them since 1.20.
_BITS = {1.0: "bits1", 1.5: "bits1_5", 2.0: "bits2", 4.0: "bits4", 8.0: "bits8"}
_KNOWN = {size.value: size for size in models.TurboQuantBitSize}
_TURBO = {bits: _KNOWN[name] for bits, name in _BITS.items() if name in _KNOWN}
_FLOAT = {16.0: models.Datatype.FLOAT16, 32.0: models.Datatype.FLOAT32}

# Candidates per result to score again with the latents on disk. With three, two bits per dimension lose nothing.
_OVERSAMPLING = 3.0


def recommended_config(codec: VectorCodec, *, bytes: int) -> dict[str, Any]:  # noqa: A002 - the user's word for it
    """Return arguments of ``create_collection`` for the unnamed vector: the most precise search within the given
    memory.

    Up to 8 bits per dimension the latents stay on disk as floats and Qdrant's TurboQuant codes of them in RAM (Qdrant
    1.18 and later); with more, the floats themselves are searched. The graph keeps Qdrant's own defaults. Search with
    the parameters of :func:`recommended_search_params`.

    Args:
        codec: what compresses the vectors.
        bytes: RAM for the codes of one vector, without graph, ids, payload and the few bytes of scale that Qdrant
            adds to each code.

    Raises:
        UnsupportedRequestError: not even one bit per dimension fits; the message names the widest codec that does.
    """
    bits = _bits(codec, bytes)
    params = models.VectorParams(size=codec.dim, distance=DISTANCES[codec.metric])
    if bits in _FLOAT:
        return {"vectors_config": params.model_copy(update={"datatype": _FLOAT[bits], "on_disk": False})}
    turbo = models.TurboQuantQuantizationConfig(bits=_TURBO[bits], always_ram=True)
    return {
        "vectors_config": params.model_copy(update={"on_disk": True}),
        "quantization_config": models.TurboQuantization(turbo=turbo),
    }


def recommended_search_params(codec: VectorCodec, *, bytes: int) -> models.SearchParams:  # noqa: A002 - as above
    """Return ``search_params`` for a collection that :func:`recommended_config` describes: what exact search over the
    float latents finds.

    Codes find three times the candidates wanted, the latents on the disk order them. Without these parameters Qdrant
    decides by itself whether to re-score, and takes no more candidates than are wanted.

    Args:
        codec: as for :func:`recommended_config`.
        bytes: as for :func:`recommended_config`.

    Raises:
        UnsupportedRequestError: as :func:`recommended_config` does.
    """
    if _bits(codec, bytes) in _FLOAT:
        return models.SearchParams()
    again = models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)
    return models.SearchParams(quantization=again)


def _bits(codec: VectorCodec, bytes: int) -> float:  # noqa: A002 - as above
    """Return the most bits per dimension that fit."""
    budget = 8 * bytes / codec.code_dim
    fitting = [bits for bits in (*_TURBO, *_FLOAT) if bits <= budget]
    if not fitting:
        raise UnsupportedRequestError(
            f"bytes: expected at least {-(-codec.code_dim // 8)}, one bit for each of {codec.code_dim} dimensions, got "
            f"{bytes}; {_narrower(codec, 8 * bytes)}"
        )
    return max(fitting)


def _narrower(codec: VectorCodec, most: int) -> str:
    """Say how to get latents of at most so many dimensions."""
    if isinstance(codec, LinearCodec) and most > 0:
        return f"take fewer dimensions: codec.truncated({most})"
    widths = codec.metadata.nested_dims if isinstance(codec, Codec) else ()
    fitting = [width for width in widths if width <= most]
    if fitting:
        return f"load the codec with fewer dimensions: Codec.load(path, dim={max(fitting)})"
    return f"give more bytes, or train a codec of at most {most} dimensions, for this one has no such width"
