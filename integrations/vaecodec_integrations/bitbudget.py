"""A codec as a compression method of BitBudget, a benchmark of retrieval quality per byte.

BitBudget's own command line imports no other packages, so call it from Python: ``bitbudget.cli.main([...])``.
"""

from __future__ import annotations

from typing import Any

from vaecodec.codec import Codec
from vaecodec.evaluation import similarities
from vaecodec.extras import require
from vaecodec.interface import FloatArray


def register(name: str, codec: Codec, *, dtype: str | None = None, bytes: int | None = None) -> None:  # noqa: A002
    """Make a codec known to BitBudget under a name, in place of a method that has the name already.

    Queries stay float latents; documents are read back from their codes. The bytes reported are those of one code.

    Args:
        name: the method's name.
        codec: trained for the embedding model that BitBudget measures.
        dtype: how a latent's numbers are kept, see :meth:`vaecodec.Codec.code`; by default as float32.
        bytes: or a trellis code of so many bytes per vector.

    Raises:
        MissingExtraError: bitbudget is not installed.
        InvalidBudgetError, NotCalibratedError: see :meth:`vaecodec.Codec.code`.

    Examples:
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.bitbudget import register
        >>> codec = Codec.load("codec.onnx")
        >>> register("svd64", codec)
        >>> register("svd64-int4", codec, dtype="int4")
    """
    bitbudget = require("bitbudget", extra="bitbudget")
    code = None if dtype is None and bytes is None else codec.code(dtype=dtype, bytes=bytes)
    size = 4 * codec.code_dim if code is None else code.bytes_per_vector

    def score(documents: Any, queries: Any) -> tuple[FloatArray, float]:
        """Similarities of float (n, dim) queries and documents, float32 (queries, documents), and bytes."""
        latents = codec.encode(documents)
        if code is not None:
            latents = code.decode(code.encode(latents))
        return similarities(codec.encode_queries(queries), latents, codec.latent_metric), float(size)

    bitbudget.method(name, bits=8 * size / codec.code_dim, axis="learned")(score)
