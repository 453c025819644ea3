"""Train the trellis tables that come with the library: Lloyd's iterations on Gaussian samples, fixed by the seed.

    python benchmarks/trellis_tables.py --out codec/vaecodec/codes/trellis_tables.npz

Each iteration encodes the samples with the tables at hand and moves every level to the mean of the samples that it
stood for (Lloyd 1982, doi:10.1109/TIT.1982.1056489). The distortion written beside the levels is measured on other
samples, after rounding to float16.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from vaecodec.codes.trellis import MEMORIES, TrellisCode, TrellisTables
from vaecodec.interface import FloatArray, Metric

STEPS = 512
SAMPLES_PER_STATE = 200
ITERATIONS = 50
# The levels are shaken at first, by this share of the spacing of a scalar quantiser, so that fewer get stuck.
SHAKE = 0.5


def code_at(rate: int, memory: int, levels: FloatArray) -> TrellisCode:
    """Return a code that spends ``rate`` bits on each of ``STEPS`` dimensions of unit variance."""
    tables: Any = np.zeros((memory // 2, 1 << memory), np.float32)
    tables[rate - 1] = levels
    falling = 0.25 ** np.arange(1, memory // 2 + 1, dtype=np.float32)
    return TrellisCode(
        rate * STEPS // 8,
        np.zeros(STEPS, np.float32),
        np.ones(STEPS, np.float32),
        np.ones(STEPS, np.float32),
        TrellisTables(memory, tables, falling),
        Metric.DOT,
    )


def states_of(code: TrellisCode, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the state after each step, int64 (n, STEPS): decoded with every level equal to its state's number."""
    numbers: Any = np.broadcast_to(np.arange(1 << code.tables.memory, dtype=np.float32), code.tables.levels.shape)
    return replace(code, tables=replace(code.tables, levels=numbers)).decode(codes).astype(np.int64)


def start(rate: int, memory: int, random: np.random.Generator) -> FloatArray:
    """Return distinct Gaussian quantiles for all states, those that follow a group spread over all of them."""
    groups, branches = 1 << (memory - rate), 1 << rate
    coarse = np.stack([random.permutation(branches) for _ in range(groups)])
    fine = (random.permutation(groups) + 0.5) / groups
    return np.asarray(ndtri((coarse + fine[:, None]) / branches).ravel(), np.float32)


def train(rate: int, memory: int, seed: int) -> tuple[NDArray[np.float16], float]:
    """Train levels, float16 (2^memory,); return them and their mean squared error on unseen samples."""
    random = np.random.default_rng([seed, memory, rate])
    states = 1 << memory
    rows = max(64, states * SAMPLES_PER_STATE // STEPS)
    samples = random.standard_normal((rows, STEPS), np.float32)
    levels = start(rate, memory, random)
    for iteration in range(ITERATIONS):
        shake = SHAKE * 2.0**-rate * max(0, 1 - 1.5 * iteration / ITERATIONS)
        shaken = levels + shake * random.standard_normal(states, np.float32)
        code = code_at(rate, memory, shaken.astype(np.float32))
        visited = states_of(code, code.encode(samples)).ravel()
        count = np.bincount(visited, minlength=states)
        total = np.bincount(visited, samples.ravel(), minlength=states)
        levels = np.where(count > 0, total / np.maximum(count, 1), levels).astype(np.float32)
    rounded = levels.astype(np.float16)
    fresh = random.standard_normal((rows, STEPS), np.float32)
    code = code_at(rate, memory, rounded.astype(np.float32))
    return rounded, float(np.mean((code.decode(code.encode(fresh)) - fresh) ** 2, dtype=np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--memory", type=int, choices=MEMORIES, nargs="*", default=MEMORIES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arrays: dict[str, Any] = {}
    if arguments.out.exists():
        with np.load(arguments.out, allow_pickle=False) as kept:
            arrays = dict(kept)
    for memory in arguments.memory:
        levels, distortion = [], []
        for rate in range(1, memory // 2 + 1):
            started = time.perf_counter()
            row, error = train(rate, memory, arguments.seed)
            levels.append(row)
            distortion.append(error)
            print(f"L = {memory}, {rate} bits: {error:.5f}  ({time.perf_counter() - started:.0f} s)", flush=True)
        arrays[f"levels_{memory}"] = np.stack(levels)
        arrays[f"distortion_{memory}"] = np.array(distortion, np.float32)
    np.savez_compressed(arguments.out, **arrays)


if __name__ == "__main__":
    main()
