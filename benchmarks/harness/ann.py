"""Run ann-benchmarks, a clone used as it is, with our index and our collection among its own.

    python benchmarks/harness/ann.py --clone CLONE --codec CODEC.onnx --out benchmarks/harness/results

ann-benchmarks builds, times each query on one thread, measures recall and writes the table. What is added is the
name of a data set, the folder `algorithms` with its definitions, and the module that they name.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "debian-minilm-384-angular"


def main() -> None:
    """Run every definition, then the harness's own export of all results as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", default="2")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["VAECODEC_CODEC"] = str(arguments.codec.resolve())
    sys.path[:0] = [str(arguments.clone.resolve()), str(HERE / "algorithms"), str(HERE.parent)]
    os.chdir(arguments.clone)
    shutil.rmtree(Path("results") / NAME, ignore_errors=True)

    from ann_benchmarks.datasets import DATASETS, write_output

    from embeddings import DATA, load

    base, queries = load(DATA, "base", "queries")
    Path("data").mkdir(exist_ok=True)
    file = Path("data") / f"{NAME}.hdf5"
    if not file.exists():
        write_output(base, queries, str(file), "angular")
    DATASETS[NAME] = lambda path: write_output(base, queries, path, "angular")
    with _arguments("run.py", "--dataset", NAME, "--definitions", str(HERE / "algorithms"), "--local",
                    "--runs", arguments.runs, "--force"):  # fmt: skip
        runpy.run_path("run.py", run_name="__main__")
    for other in [name for name in DATASETS if name != NAME]:
        del DATASETS[other]
    with _arguments("data_export.py", "--output", str(out / "ann-benchmarks.csv")):
        runpy.run_path("data_export.py", run_name="__main__")


@contextmanager
def _arguments(*words: str) -> Iterator[None]:
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
