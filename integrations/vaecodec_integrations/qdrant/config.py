"""Settings for a compressed collection at a given size in memory."""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from vaecodec.errors import UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.layout import DISTANCES

# Bits per latent dimension that Qdrant can search over, with how it is asked for them.
_TURBO = {
    1.0: models.TurboQuantBitSize.BITS1,
    1.5: models.TurboQuantBitSize.BITS1_5,
    2.0: models.TurboQuantBitSize.BITS2,
    4.0: models.TurboQuantBitSize.BITS4,
    8.0: models.TurboQuantBitSize.BITS8,
}
_FLOAT = {16.0: models.Datatype.FLOAT16, 32.0: models.Datatype.FLOAT32}


def recommended_config(codec: VectorCodec, *, bytes: int) -> dict[str, Any]:  # noqa: A002 - the user's word for it
    """Arguments of ``create_collection`` for the unnamed vector: the most precise search within the given memory.

    Up to 8 bits per dimension the latents stay on disk as floats and Qdrant's TurboQuant codes of them in RAM; with
    more, the floats themselves are searched. The graph keeps Qdrant's own defaults.

    Args:
        codec: what compresses the vectors.
        bytes: RAM for the codes of one vector, without graph, ids, payload and the few bytes of scale that Qdrant
            adds to each code.

    Raises:
        UnsupportedRequestError: not even one bit per dimension fits; the message says how many dimensions would.
    """
    budget = 8 * bytes / codec.code_dim
    fitting = [bits for bits in (*_TURBO, *_FLOAT) if bits <= budget]
    if not fitting:
        raise UnsupportedRequestError(
            f"bytes: expected at least {-(-codec.code_dim // 8)}, one bit for each of {codec.code_dim} dimensions, got "
            f"{bytes}; load the codec with fewer: Codec.load(path, dim={8 * bytes})"
        )
    bits = max(fitting)
    params = models.VectorParams(size=codec.dim, distance=DISTANCES[codec.metric])
    if bits in _FLOAT:
        return {"vectors_config": params.model_copy(update={"datatype": _FLOAT[bits], "on_disk": False})}
    turbo = models.TurboQuantQuantizationConfig(bits=_TURBO[bits], always_ram=True)
    return {
        "vectors_config": params.model_copy(update={"on_disk": True}),
        "quantization_config": models.TurboQuantization(turbo=turbo),
    }
