"""Provide the bundled sample of real vectors, and codecs fitted on it, for every test."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from vaecodec import Codec, LinearCodec, fit_linear

# Time limits per example fail on a busy machine, whatever the code does. The examples are the same every time, so a
# failure is of the change at hand; `--hypothesis-profile explore` draws others.
settings.register_profile("vaecodec", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("vaecodec")

# sentence-transformers asks the model hub about models that are not there.
os.environ["HF_HUB_OFFLINE"] = "1"

SAMPLE = Path(__file__).parent.parent / "examples" / "debian-sample"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that were skipped by their reason, with their number and files."""
    files: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        file, _, reason = report.longrepr
        files.setdefault(reason.removeprefix("Skipped: "), []).append(os.path.relpath(file, terminalreporter.startpath))
    for reason, where in sorted(files.items(), key=lambda each: -len(each[1])):
        terminalreporter.write_line(f"SKIPPED [{len(where)}] {reason} ({', '.join(sorted(set(where)))})")


class Sample(NamedTuple):
    """Hold float32 arrays of unit norm; see examples/debian-sample/README.md."""

    train: np.ndarray
    train_queries: np.ndarray
    base: np.ndarray
    queries: np.ndarray
    relevant: np.ndarray


def _unit(name: str) -> np.ndarray:
    rows = np.load(SAMPLE / f"{name}.npy").astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows.setflags(write=False)  # a test that writes to shared data would make others fail
    return rows


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """Give a folder in memory if there is one, for tests that wait for the disk after every write."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def sample() -> Sample:
    return Sample(
        _unit("train"),
        _unit("train_queries"),
        _unit("base"),
        _unit("queries"),
        np.load(SAMPLE / "relevant.npy"),
    )


@pytest.fixture(scope="session")
def svd_codec(sample: Sample) -> LinearCodec:
    return fit_linear(sample.train, 64, embedder="all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def svd_path(svd_codec: LinearCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the linear codec to a file."""
    from vaecodec_exporters.linear import export_linear

    path = tmp_path_factory.mktemp("svd") / "svd64.onnx"
    export_linear(svd_codec, path)
    return path


@pytest.fixture(scope="session")
def vae_run(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a nested codec on the sample in a short run."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'vaecodec[train]'")
    from vaecodec.sources import ArraySource
    from vaecodec_training.data.collection import Collection
    from vaecodec_training.diagnostics import BelowBaselineWarning
    from vaecodec_training.recipe import Recipe
    from vaecodec_training.trainer import train

    run = tmp_path_factory.mktemp("vae") / "run"
    collection = Collection.open(
        ArraySource(sample.train), ArraySource(sample.train_queries), embedder="all-MiniLM-L6-v2"
    )
    with warnings.catch_warnings():  # so short a run need not beat the linear codecs
        warnings.simplefilter("ignore", BelowBaselineWarning)
        train(collection, Recipe(dim=64, nested_dims=(16, 32), hidden=128, epochs=3, checkpoints=1), run)
    return run


@pytest.fixture(scope="session")
def vae_path(vae_run: Path) -> Path:
    """Export that run."""
    from vaecodec_exporters.checkpoint import export_checkpoint

    path = vae_run.parent / "vae64.onnx"
    export_checkpoint(vae_run, path)
    return path


@pytest.fixture(scope="session")
def vae_codec(vae_path: Path) -> Codec:
    return Codec.load(vae_path)
