"""Add a codec to the compression methods of BitBudget, a benchmark of retrieval quality per byte.

    pip install bitbudget
    python examples/bitbudget_codec.py codec.onnx --dtype int4

It measures the bundled sample. For your own data, copy `register` and call `bitbudget.evaluate` with your vectors. A
codec must not be measured on vectors that it was trained on. BitBudget's own command line imports no other packages:
call it from Python after `register`, by `bitbudget.cli.main([...])`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bitbudget
import numpy as np

from vaecodec import Codec
from vaecodec.evaluation import similarities

SAMPLE = Path(__file__).parent / "debian-sample"


def register(name: str, codec: Codec, *, dtype: str | None = None, bytes: int | None = None) -> None:  # noqa: A002
    """Make a codec known to BitBudget under a name; a method that has the name already is replaced.

    Queries stay float latents. Documents are read back from their codes. The bytes reported are those of one code.

    Args:
        name: the method's name.
        codec: trained for the embedding model that BitBudget measures.
        dtype: how a latent's numbers are kept, see `Codec.code`; by default as float32.
        bytes: or a trellis code of so many bytes per vector.
    """
    code = None if dtype is None and bytes is None else codec.code(dtype=dtype, bytes=bytes)
    size = 4 * codec.code_dim if code is None else code.bytes_per_vector

    def score(documents: Any, queries: Any) -> tuple[Any, float]:
        """Return similarities of float (n, dim) queries and documents, float32 (queries, documents), and bytes."""
        latents = codec.encode(documents)
        if code is not None:
            latents = code.decode(code.encode(latents))
        return similarities(codec.encode_queries(queries), latents, codec.latent_metric), float(size)

    bitbudget.method(name, bits=8 * size / codec.code_dim, axis="learned")(score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec", type=Path)
    parser.add_argument("--dtype", default="int8")
    arguments = parser.parse_args()
    codec = Codec.load(arguments.codec)
    register("codec", codec)
    register(f"codec, {arguments.dtype}", codec, dtype=arguments.dtype)

    base, queries = (np.load(SAMPLE / f"{name}.npy").astype(np.float32) for name in ("base", "queries"))
    relevant = np.load(SAMPLE / "relevant.npy")
    rows = bitbudget.evaluate(
        base,
        queries,
        [f"d{row}" for row in range(len(base))],
        [f"q{row}" for row in range(len(queries))],
        {f"q{row}": {f"d{answer}": 1} for row, answer in enumerate(relevant.tolist())},
        methods=["float32", "pq", "codec", f"codec, {arguments.dtype}"],
    )
    for row in rows:
        print(f"{row['method']:16} {row['bytes']:6.0f} bytes, recall@10 {row['recall']:.3f}, nDCG@10 {row['ndcg']:.3f}")


if __name__ == "__main__":
    main()
