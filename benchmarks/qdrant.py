"""Measure Qdrant: what the adapter costs, what re-ranking recovers, what a million vectors take, and what migrating
takes.

    python benchmarks/qdrant.py overhead
    python benchmarks/qdrant.py uploads --dim 128
    python benchmarks/qdrant.py rerank
    python benchmarks/qdrant.py sizes --points 200000
    python benchmarks/qdrant.py migrate --points 200000

Vectors: the folder given by --data (`base.npy`, `queries.npy`, `train.npy`), by default the bundled sample. The engine
is Qdrant's own, in-process (qdrant-edge-py); the client is qdrant-client in local mode. Each part prints a table; the
codec is a linear one unless --codec names a file.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

from embeddings import SAMPLE
from qdrant_data import Data
from qdrant_engine import rerank, resident, sizes
from qdrant_migration import copying, migration
from qdrant_overhead import overhead
from qdrant_uploads import uploads
from vaecodec import Codec, fit_linear
from vaecodec.interface import VectorCodec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["overhead", "uploads", "rerank", "sizes", "migrate"])
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--codec", type=Path, help="a codec file; by default an SVD of --dim is fitted")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rows", type=int, help="rows of the base to use; by default all")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--points", type=int, default=200_000, help="for migrate and sizes")
    scratch = Path(tempfile.gettempdir()) / "vaecodec-migrate"
    parser.add_argument("--folder", type=Path, default=scratch, help="for migrate; removed afterwards")
    parser.add_argument("--resident", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--copying", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.resident is not None:
        resident(arguments.resident)
        return
    data = Data(arguments.data, arguments.rows, arguments.queries)
    codec: VectorCodec
    codec = fit_linear(data.train, arguments.dim) if arguments.codec is None else Codec.load(arguments.codec)
    if arguments.copying is not None:
        copying(data, codec, arguments.points, arguments.copying)
        return
    print(f"{len(data.base):,} x {codec.dim}, codec {codec.codec_id[:12]} with {codec.code_dim} dimensions\n")
    if arguments.part == "migrate":
        codec_given = [] if arguments.codec is None else ["--codec", str(arguments.codec)]
        same = ["--data", str(arguments.data), "--dim", str(arguments.dim), *codec_given]
        migration(arguments.points, arguments.folder, same)
    elif arguments.part == "sizes":
        sizes(data, codec, arguments.points)
    else:
        {"overhead": overhead, "uploads": uploads, "rerank": rerank}[arguments.part or "overhead"](data, codec)


if __name__ == "__main__":
    main()
