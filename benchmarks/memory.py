"""Peak memory of preparing to train on a file much larger than memory should be.

    python benchmarks/memory.py --gigabytes 20

Writes a sparse .npy file of float32 rows: one block of 1,024 rows in a hundred holds real vectors (the sample of
examples/, each time with other noise of a tenth of a row's length), the rest are holes that read as zero rows. A
hole is read, mapped and counted like any other page, so the memory measured is that of a full file; because a zero
row has no direction, the metric is l2. What the time and memory of a whole collection of real vectors would be
differs in one point only: here the disk does not have to deliver the holes.

Prints, after each step, its time and the process's peak resident memory so far (getrusage, which counts mapped file
pages).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vaecodec import Metric
from vaecodec.sources import RandomAccessSource, open_source
from vaecodec_training.data import BLOCK_ROWS, ShuffledBatches, check, sample_rows, split

SAMPLE = Path(__file__).parent.parent / "examples" / "debian-sample" / "train.npy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="where the file is written and removed again")
    parser.add_argument("--batch", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "sparse.npy"
        with step("write the sparse file"):
            write_sparse(path, int(arguments.gigabytes * 1e9))
        size, on_disk = path.stat().st_size, path.stat().st_blocks * 512
        print(f"{size / 1e9:.1f} GB, of which {on_disk / 1e9:.2f} GB are not holes")
        source = open_source(path)
        assert isinstance(source, RandomAccessSource)
        with step("check every row"):
            report = check(source, metric=Metric.L2)
        print(report)
        with step("split"):
            parts = split(report.digests)
        with step("sample 100,000 rows"):
            sample_rows(source, 100_000, 0)
        batches = ShuffledBatches([source], parts.train, arguments.batch, 0)
        with step(f"read an epoch of {batches.per_epoch:,} batches"):
            for (batch,) in batches.epoch(0):
                assert len(batch) == arguments.batch


def write_sparse(path: Path, size: int) -> None:
    real = np.load(SAMPLE).astype(np.float32)
    rows = size // (4 * real.shape[1])
    generator = np.random.default_rng(0)
    header = np.lib.format.header_data_from_array_1_0(real) | {"shape": (rows, real.shape[1])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for first in range(0, rows - BLOCK_ROWS, 100 * BLOCK_ROWS):
            block = real[generator.integers(len(real), size=BLOCK_ROWS)]
            noise = generator.normal(scale=0.1 / np.sqrt(real.shape[1]), size=block.shape)
            file.seek(start + first * 4 * real.shape[1])
            file.write((block + noise).astype(np.float32).tobytes())
        file.truncate(start + rows * 4 * real.shape[1])


@contextmanager
def step(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<40} {seconds:8.1f} s   peak RSS {peak:8,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
