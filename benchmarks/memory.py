"""Measure peak memory on files much larger than memory should be.

    python benchmarks/memory.py train --gigabytes 20
    python benchmarks/memory.py encode --gigabytes 10
    python benchmarks/memory.py encode --gigabytes 2 --parquet --workers 4

The file is an .npy of float32 rows made of the sample in examples/, each time with other noise of a tenth of a row's
length, or a folder of Parquet files of one row group of 100,000 such rows each, encoded to another such folder. Another
process writes it. ``train`` opens it as a collection (check, split, validation set), reads one epoch of batches, and
trains for some steps. ``encode`` sends it through a linear codec file of 64 dimensions.

Prints, after each step, its time and the process's peak resident memory so far (getrusage, which counts mapped file
pages).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from embeddings import SAMPLE
from vaecodec import Codec, fit_linear
from vaecodec.bulk import BulkOptions, encode
from vaecodec.sources import open_source
from vaecodec_exporters.linear import export_linear
from vaecodec_training.data.batches import BLOCK_ROWS, ShuffledBatches
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train

BATCH = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("train", "encode"))
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="where files are written and removed again")
    parser.add_argument("--data", type=Path, help="a file to use instead of writing one")
    parser.add_argument("--steps", type=int, default=100, help="steps of training")
    parser.add_argument("--workers", type=int, help="threads that encode; by default one per core")
    parser.add_argument("--parquet", action="store_true", help="encode Parquet to Parquet")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = arguments.data
        if path is None:
            with step("write the file"):
                path = Path(folder) / ("vectors" if arguments.parquet else "vectors.npy")
                write = write_parquet if arguments.parquet else write_rows
                child = get_context("spawn").Process(target=write, args=(path, int(arguments.gigabytes * 1e9)))
                child.start()
                child.join()
        if arguments.subject == "train":
            train_on(path, Path(folder), arguments.steps)
        else:
            encode_file(path, Path(folder) / ("latents" if path.is_dir() else "latents.npy"), arguments.workers)


def train_on(path: Path, folder: Path, steps: int) -> None:
    with step("check, split, sample, search baselines"):
        collection = Collection.open(open_source(path))
    print(collection.report)
    per_epoch = len(collection.document_rows) // BATCH
    batches = ShuffledBatches([collection.documents], collection.document_rows, BATCH, 0)
    with step(f"read an epoch of {per_epoch:,} batches"):
        for (batch,) in batches.epoch(0):
            assert len(batch) == BATCH
    recipe = Recipe(dim=64, batch=BATCH, epochs=steps / per_epoch)
    with step(f"train {steps} steps"):
        train(collection, recipe, folder / "run")


def encode_file(path: Path, output: Path, workers: int | None) -> None:
    with step("fit and load a codec"):
        export_linear(fit_linear(np.load(SAMPLE / "train.npy"), 64), output.with_name("svd64.onnx"))
        codec = Codec.load(output.with_name("svd64.onnx"), threads=1)
    with step("encode") as seconds:
        result = encode(path, output, codec, options=BulkOptions(threads=workers))
    print(f"{result.rows:,} rows, {result.rows / seconds():,.0f} a second")


def write_rows(path: Path, size: int) -> None:
    rows, dim = shape_of(size)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in made_rows(rows, BLOCK_ROWS):
            block.tofile(file)


def write_parquet(folder: Path, size: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for number, block in enumerate(made_rows(shape_of(size)[0], 100_000)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
        pq.write_table(pa.table({"embedding": vectors}), folder / f"{number:04}.parquet", row_group_size=len(block))


def shape_of(size: int) -> tuple[int, int]:
    dim = np.load(SAMPLE / "train.npy", mmap_mode="r").shape[1]
    return size // (4 * dim), dim


def made_rows(rows: int, block: int) -> Iterator[np.ndarray]:
    real = np.load(SAMPLE / "train.npy").astype(np.float32)
    dim = real.shape[1]
    noise = np.random.default_rng(0).standard_normal((10_007, dim), np.float32) * np.float32(0.1 / np.sqrt(dim))
    for first in range(0, rows, block):
        numbers = np.arange(first, min(first + block, rows))
        yield real[numbers % len(real)] + noise[numbers % len(noise)]  # 75 million different rows


@contextmanager
def step(name: str) -> Iterator[Callable[[], float]]:
    """Time a step; what it yields gives the seconds that it took, or has taken so far."""
    start = time.perf_counter()
    end: list[float] = []
    yield lambda: (end[0] if end else time.perf_counter()) - start
    end.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<40} {end[0] - start:8.1f} s   peak RSS {peak:8,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
