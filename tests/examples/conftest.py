"""Provide files that a user has at hand when running an example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def linear(path: Path, dim: int) -> Path:
    """Write what `vaecodec linear` makes of the bundled sample."""
    train = ROOT / "examples" / "debian-sample" / "train.npy"
    command = [sys.executable, "-m", "vaecodec_cli", "linear", str(train), "--dim", str(dim), "--out", str(path)]
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
    """Write a codec that is wide enough for codes of originals."""
    return linear(tmp_path_factory.mktemp("codec") / "wide.onnx", 320)


@pytest.fixture(scope="session")
def documented_folder(codec_path: Path, sample) -> Path:
    """Make the folder that docs/api/index.md describes."""
    np.save(codec_path.parent / "embeddings.npy", sample.base)
    np.save(codec_path.parent / "queries.npy", sample.queries)
    return codec_path.parent


@pytest.fixture
def two_models() -> dict[str, Any]:
    """Provide what the guide to changes of the model needs: two models, texts, and a collection of these."""
    pytest.importorskip("qdrant_client")
    from qdrant_client import QdrantClient, models

    tables = [np.random.default_rng(seed).normal(size=(128, width)) for seed, width in ((0, 24), (1, 32))]

    def model(table: np.ndarray) -> Any:
        return lambda texts: np.array([table[list(text.encode())].mean(axis=0) for text in texts], np.float32)

    random, (old_model, new_model) = np.random.default_rng(0), map(model, tables)
    texts = [" ".join(map(str, random.integers(0, 10**6, 3))) for _ in range(500)]
    client = QdrantClient(":memory:")
    client.create_collection("docs", models.VectorParams(size=24, distance=models.Distance.COSINE))
    client.upload_collection("docs", old_model(texts), ids=range(500), payload=[{"text": text} for text in texts])
    return {
        "old_model": old_model,
        "new_model": new_model,
        "client": client,
        "texts": texts,
        "questions": [text[:12] for text in texts[:50]],
        "answers": [[row] for row in range(50)],
    }
