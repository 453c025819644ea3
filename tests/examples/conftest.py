"""Files that a user has at hand when running an example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def linear(path: Path, dim: int) -> Path:
    """What `vaecodec linear` makes of the bundled sample."""
    train = ROOT / "examples" / "debian-sample" / "train.npy"
    command = [sys.executable, "-m", "vaecodec_cli", "linear", train, "--dim", str(dim), "--out", path]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def codec_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear(tmp_path_factory.mktemp("codec") / "codec.onnx", 64)


@pytest.fixture(scope="session")
def wide_codec_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear(tmp_path_factory.mktemp("codec") / "vae128.onnx", 128)


@pytest.fixture(scope="session")
def originals_codec_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for codes of originals."""
    return linear(tmp_path_factory.mktemp("codec") / "wide.onnx", 320)


@pytest.fixture(scope="session")
def documented_folder(codec_path: Path, sample) -> Path:
    """The folder that docs/api/index.md describes."""
    np.save(codec_path.parent / "embeddings.npy", sample.base)
    np.save(codec_path.parent / "queries.npy", sample.queries)
    return codec_path.parent
