"""Files that a user has at hand when running an example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def codec_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `vaecodec linear` makes of the bundled sample."""
    path = tmp_path_factory.mktemp("codec") / "codec.onnx"
    train = ROOT / "examples" / "debian-sample" / "train.npy"
    subprocess.run(
        [sys.executable, "-m", "vaecodec", "linear", train, "--dim", "64", "--out", path],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture(scope="session")
def documented_folder(codec_path: Path, sample) -> Path:
    """The folder that docs/api/index.md describes."""
    np.save(codec_path.parent / "embeddings.npy", sample.base)
    np.save(codec_path.parent / "queries.npy", sample.queries)
    return codec_path.parent
