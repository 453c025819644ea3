"""Peak memory on files much larger than memory should be.

    python benchmarks/memory.py train --gigabytes 20
    python benchmarks/memory.py encode --gigabytes 10

``train`` prepares to train: check, split, sample, and one epoch of batches. Its .npy file is sparse: one block of 1,024
float32 rows in a hundred holds real vectors (the sample of examples/, each time with other noise of a tenth of a row's
length), the rest are holes that read as zero rows. A hole is read, mapped and counted like any other page, so the
memory measured is that of a full file, but the disk's share of the time is missing. Because a zero row has no
direction, the metric is l2.

``encode`` sends a full file, the same blocks without holes, through a linear codec file of 64 dimensions.

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
from pathlib import Path

import numpy as np

from vaecodec import Codec, Metric, fit_linear
from vaecodec.bulk import BulkOptions, encode
from vaecodec.sources import RandomAccessSource, open_source
from vaecodec_exporters.linear import export_linear
from vaecodec_training.data import BLOCK_ROWS, ShuffledBatches, check, sample_rows, split

SAMPLE = Path(__file__).parent.parent / "examples" / "debian-sample" / "train.npy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("train", "encode"))
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="where the file is written and removed again")
    parser.add_argument("--workers", type=int, help="threads that encode; by default one per core")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "vectors.npy"
        train = arguments.subject == "train"
        with step("write the file"):
            write_rows(path, int(arguments.gigabytes * 1e9), one_block_in=100 if train else 1)
        size, on_disk = path.stat().st_size, path.stat().st_blocks * 512
        print(f"{size / 1e9:.1f} GB, of which {on_disk / 1e9:.2f} GB are not holes")
        if train:
            prepare_training(path)
        else:
            encode_file(path, arguments.workers)


def prepare_training(path: Path) -> None:
    source = open_source(path)
    assert isinstance(source, RandomAccessSource)
    with step("check every row"):
        report = check(source, metric=Metric.L2)
    print(report)
    with step("split"):
        parts = split(report.digests)
    with step("sample 100,000 rows"):
        sample_rows(source, 100_000, 0)
    batches = ShuffledBatches([source], parts.train, 1024, 0)
    with step(f"read an epoch of {batches.per_epoch:,} batches"):
        for (batch,) in batches.epoch(0):
            assert len(batch) == 1024


def encode_file(path: Path, workers: int | None) -> None:
    with step("fit and load a codec"):
        export_linear(fit_linear(np.load(SAMPLE), 64), path.with_name("svd64.onnx"))
        codec = Codec.load(path.with_name("svd64.onnx"), threads=1)
    with step("encode") as seconds:
        result = encode(path, path.with_name("latents.npy"), codec, options=BulkOptions(workers=workers))
    print(f"{result.rows:,} rows, {result.rows / seconds():,.0f} a second")


def write_rows(path: Path, size: int, *, one_block_in: int) -> None:
    real = np.load(SAMPLE).astype(np.float32)
    rows = size // (4 * real.shape[1])
    generator = np.random.default_rng(0)
    header = np.lib.format.header_data_from_array_1_0(real) | {"shape": (rows, real.shape[1])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for first in range(0, rows, one_block_in * BLOCK_ROWS):
            block = real[generator.integers(len(real), size=min(BLOCK_ROWS, rows - first))]
            noise = generator.normal(scale=0.1 / np.sqrt(real.shape[1]), size=block.shape)
            file.seek(start + first * 4 * real.shape[1])
            file.write((block + noise).astype(np.float32).tobytes())
        file.truncate(start + rows * 4 * real.shape[1])


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
