"""Load the embeddings that the benchmarks measure on: a folder of train, base, queries and what answers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.interface import FloatArray
from vaecodec.vectors import normalised

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "debian-sample"
_LARGER = ROOT.parent / "shared" / "data" / "debian-minilm"
# The larger collection where it is, else the bundled sample of it.
DATA = _LARGER if _LARGER.is_dir() else SAMPLE


def unit_rows(path: Path, rows: int | None = None) -> FloatArray:
    """Read the first rows of a ``.npy`` file, or all, as float32 of unit norm."""
    return normalised(np.array(np.load(path, mmap_mode="r")[:rows], np.float32))


def load(folder: Path, *names: str) -> list[FloatArray]:
    """Read ``NAME.npy`` for each name, float32 of unit norm."""
    return [unit_rows(folder / f"{name}.npy") for name in names]


def load_relevant(folder: Path) -> Any:
    """Read the rows of the base that answer each query: int (nq,), or a list of lists."""
    path = folder / "relevant.npy"
    return np.load(path) if path.exists() else json.loads(path.with_suffix(".json").read_text())
