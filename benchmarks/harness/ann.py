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
_ATTEMPTS = 5


def main() -> None:
    """Run every definition, then the harness's own export of all results as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", default="1")
    arguments = parser.parse_args()
    data = arguments.data and arguments.data.resolve()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["VAECODEC_CODEC"] = str(arguments.codec.resolve())
    sys.path[:0] = [str(arguments.clone.resolve()), str(HERE / "algorithms"), str(HERE.parent)]
    os.chdir(arguments.clone)
    shutil.rmtree(Path("results") / NAME, ignore_errors=True)

    from ann_benchmarks.datasets import DATASETS, write_output

    from embeddings import DATA, load

    base, queries = load(data or DATA, "base", "queries")
    Path("data").mkdir(exist_ok=True)
    # The harness downloads a data set that is not there, so it has to be.
    write_output(base, queries, f"data/{NAME}.hdf5", "angular")
    DATASETS[NAME] = lambda path: write_output(base, queries, path, "angular")
    # The harness's worker ends at once if it looks at its queue before the first task has come through.
    for _ in range(_ATTEMPTS):
        _run(arguments.runs)
        if list(Path("results").glob(f"{NAME}/**/*.hdf5")):
            break
    else:
        raise SystemExit(f"ann-benchmarks ran {_ATTEMPTS} times and left no result; see what it printed")
    for other in [name for name in DATASETS if name != NAME]:
        del DATASETS[other]
    with _arguments("data_export.py", "--output", str(out / "ann-benchmarks.csv")):
        runpy.run_path("data_export.py", run_name="__main__")


def _run(runs: str) -> None:
    with _arguments("run.py", "--dataset", NAME, "--definitions", str(HERE / "algorithms"), "--local",
                    "--runs", runs, "--force"):  # fmt: skip
        runpy.run_path("run.py", run_name="__main__")


@contextmanager
def _arguments(*words: str) -> Iterator[None]:
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
