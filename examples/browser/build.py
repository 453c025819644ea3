"""Make a folder with a static page that searches compressed vectors in the browser, and serve it if asked.

    python examples/browser/build.py --out out/browser --serve

The bundled sample has 13,500 documents. The rows beyond them are means of two documents each: made up, so that the
page searches as many rows as a real collection has.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
from pathlib import Path

import numpy as np

from vaecodec import Codec, fit_linear
from vaecodec.evaluation import exact_search
from vaecodec_exporters import export_linear

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "debian-sample"


def documents(rows: int) -> np.ndarray:
    """Return unit vectors, float32 (rows, 384): those of the sample first."""
    real = np.concatenate([np.load(SAMPLE / name) for name in ("base.npy", "train.npy")]).astype(np.float32)
    pairs = np.random.default_rng(0).integers(0, len(real), (2, max(rows - len(real), 0)))
    vectors = np.concatenate([real, real[pairs[0]] + real[pairs[1]]])[:rows]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(out: Path, rows: int, size: int) -> None:
    """Write everything that the page fetches."""
    out.mkdir(parents=True, exist_ok=True)
    vectors = documents(rows)
    queries = np.load(SAMPLE / "queries.npy")[:50].astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    train = np.load(SAMPLE / "train.npy").astype(np.float32)
    export_linear(fit_linear(train, 128), out / "codec.onnx", overwrite=True)
    codec = Codec.load(out / "codec.onnx")
    codes = codec.encode(vectors, bytes=size)
    (out / "codes.bin").write_bytes(codes.tobytes())
    (out / "queries.bin").write_bytes(codec.encode_queries(queries).astype("<f4").tobytes())
    exact, _ = exact_search(vectors, queries, 10, codec.metric)
    facts = {"bytes": size, "rows": rows, "original_bytes": vectors.shape[1] * 4, "neighbours": exact.tolist()}
    (out / "facts.json").write_text(json.dumps(facts))
    shutil.copy(HERE / "index.html", out)
    shutil.copy(HERE.parent / "decoders" / "vaecodec.mjs", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/browser"), help="Folder to write.")
    parser.add_argument("--rows", type=int, default=100_000, help="Number of documents.")
    parser.add_argument("--bytes", type=int, default=32, help="Bytes of one code.")
    parser.add_argument("--serve", action="store_true", help="Serve the page at http://localhost:8000 afterwards.")
    arguments = parser.parse_args()
    build(arguments.out, arguments.rows, arguments.bytes)
    print(f"{arguments.out}: open it with any web server, such as: python -m http.server --directory {arguments.out}")
    if arguments.serve:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=arguments.out)
        http.server.ThreadingHTTPServer(("localhost", 8000), handler).serve_forever()


if __name__ == "__main__":
    main()
