"""Test one call from a collection to a codec file, for floats and for codes, and again after any interruption."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaecodec_training.budget as dividing
from vaecodec import Codec
from vaecodec.errors import CheckpointError, DivergedError, OutputBusyError, OutputExistsError
from vaecodec.sources import ArraySource
from vaecodec_exporters.pipeline import fit
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")
SMALL = Recipe(hidden=0, batch=256, checkpoints=1, epochs=2)


@pytest.fixture(scope="module")
def collection(sample: Any) -> Collection:
    """Open fifteen hundred documents of 32 dimensions, and queries."""
    return Collection.open(
        ArraySource(sample.train[:1_500, :32]), ArraySource(sample.train_queries[:1_500, :32]), confirmation=0.1
    )


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trials last an epoch, whatever this machine has time for just now."""
    monkeypatch.setattr(dividing, "_LONGEST", 1.0)


@pytest.fixture(scope="module")
def noise() -> Collection:
    """Open a collection in which no codec can learn anything."""
    rows = np.random.default_rng(0).normal(size=(1_500, 32)).astype(np.float32)
    return Collection.open(ArraySource(rows), confirmation=0.1)


def test_fit_leaves_a_codec_and_repeats_nothing(collection: Collection, tmp_path: Path) -> None:
    fitted = fit(collection, tmp_path / "fit", dims=(16,), budget=600.0, recipe=SMALL)
    assert fitted.codec == tmp_path / "fit" / "codec.onnx"
    codec = Codec.load(fitted.codec)
    assert (codec.dim, codec.code_dim) == (32, 16)
    assert codec.metadata.provenance["gate"] == str(fitted.gate) == fitted.lines[0]
    assert Recipe.load(fitted.recipe) == fitted.search.recipe
    assert {"recall@10", "figure", "over"} & set(
        json.loads(fitted.record.read_text())["steps"]["gate"]["comparisons"][0]
    )
    written = {path: path.stat().st_mtime_ns for path in (fitted.codec, *fitted.codec.parent.rglob("*.safetensors"))}
    again = fit(collection, tmp_path / "fit", dims=(16,), budget=600.0, recipe=SMALL)
    assert again.gate == fitted.gate
    assert {path: path.stat().st_mtime_ns for path in written} == written
    fitted.codec.unlink()
    fit(collection, tmp_path / "fit", dims=(16,), budget=600.0, recipe=SMALL)
    assert Codec.load(fitted.codec).codec_id == codec.codec_id


@pytest.mark.parametrize(
    ("aims", "parameters", "size"),
    [({"target_bytes": (12,)}, {"bytes": 12}, 12), ({"target": "int4"}, {"dtype": "int4"}, 8)],
)
def test_fit_chooses_codecs_for_codes(
    aims: dict, parameters: dict, size: int, collection: Collection, tmp_path: Path
) -> None:
    recipe = Recipe.for_code(**aims, hidden=0, batch=256, checkpoints=1, epochs=1.0)
    fitted = fit(collection, tmp_path, dims=None if "target_bytes" in aims else (8, 16), budget=600.0, recipe=recipe)
    steps = json.loads(fitted.record.read_text())["steps"]
    assert "autoencoder" not in steps
    assert fitted.search.recipe.dim == (32 if "target_bytes" in aims else 16)
    codec = Codec.load(fitted.codec)
    # Uniform codes keep the norm, too, where latents are compared by dot product.
    norm = 2 if codec.latent_metric == "dot" and "target" in aims else 0
    assert codec.encode(collection.sample[:3], **parameters).shape == (3, size + norm)
    # The rivals went through the same code: what they find is below what their floats find.
    through = steps["baselines"]["32" if "target_bytes" in aims else "16"]["svd"]["recall@10"]["mean"]
    floats = collection.baselines(fitted.search.dim)["svd"]["recall@10"].mean()
    assert 0 < through < floats - 0.005
    assert set(steps["gate"]["confirmation"]) == {"codec", *collection.linear_family(8)}


def test_the_linear_codec_for_binary_codes_ships_with_the_rotation_it_was_measured_with(
    noise: Collection, tmp_path: Path
) -> None:
    recipe = Recipe.for_code(target="binary", hidden=0, batch=256, checkpoints=1, epochs=1.0)
    fitted = fit(noise, tmp_path, dims=(16,), budget=600.0, recipe=recipe)
    assert not fitted.gate.passed
    codec = Codec.load(fitted.codec)
    assert codec.metadata.kind == "linear"
    assert codec.metadata.nested_dims == ()
    part = noise.confirmation
    assert part is not None
    figures = json.loads(fitted.record.read_text())["steps"]["gate"]["confirmation"][fitted.gate.over]
    code = codec.code(dtype="binary")
    measured = part.figures(
        lambda rows: code.decode(code.encode(codec.encode(rows))), codec.encode_queries, codec.latent_metric
    )
    assert measured["recall@10"].mean() == pytest.approx(figures["recall@10"]["mean"], abs=0.02)


def test_the_guides_example_runs(sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    np.save(tmp_path / "DATA.npy", sample.train[:1_000, :8])
    np.save(tmp_path / "Q.npy", sample.train_queries[:1_000, :8])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (example,) = [part for part in re.findall(r"```py\n(.*?)```", guide, re.DOTALL) if "import fit" in part]
    exec(example.replace("budget=600", "budget=0.1"), names)
    assert Codec.load("fit/codec.onnx").code_dim == 8  # no width of the default list is as small


def test_what_no_fit_wrote_is_not_replaced(collection: Collection, tmp_path: Path) -> None:
    for name in ("codec.onnx", "recipe.toml", "recall.png"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(b"mine")
        with pytest.raises(OutputExistsError, match=f"{name}: exists already; delete it or choose another name"):
            fit(collection, folder, dims=(16,), budget=600.0, recipe=SMALL)
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_bytes() == b"mine"
    (tmp_path / "run.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="expected the record of a fit, but this is none or damaged"):
        fit(collection, tmp_path, dims=(16,), budget=600.0, recipe=SMALL)
    assert (tmp_path / "run.json").read_text() == '{"format": 1}'


def test_trials_that_diverge_are_noted(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="every trial diverged; lower learning_rate"):
        fit(collection, tmp_path, dims=(16,), budget=600.0, recipe=SMALL.replace(learning_rate=1e30))
    steps = json.loads((tmp_path / "run.json").read_text())["steps"]
    assert all("rollbacks" in steps[name]["diverged"] for name in ("autoencoder", "vae", "alignment", "queue"))
    assert not (tmp_path / "codec.onnx").exists()


def test_a_fit_that_is_stopped_anywhere_goes_on_to_the_same_codec(collection: Collection, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dims": (8, 16), "budget": 600.0, "recipe": SMALL}
    expected = fit(collection, tmp_path / "whole", **settings)
    steps = 0

    def stop_at_times(_: object) -> None:
        nonlocal steps
        steps += 1
        if steps in (2, 9, 10, 23, 31, 38):
            raise KeyboardInterrupt

    stopped = 0
    while True:
        try:
            fitted = fit(collection, tmp_path / "stopped", observers=[stop_at_times], **settings)
        except KeyboardInterrupt:
            stopped += 1
        else:
            break
    assert stopped >= 5
    figures = [
        {name: step["validation"] for name, step in each.search.content["steps"].items() if "validation" in step}
        for each in (fitted, expected)
    ]
    assert figures[0] == figures[1]
    assert fitted.gate == expected.gate
    rows = collection.sample[:5]
    np.testing.assert_array_equal(Codec.load(fitted.codec).encode(rows), Codec.load(expected.codec).encode(rows))


def test_a_folder_is_for_one_fit_at_a_time(collection: Collection, tmp_path: Path) -> None:
    def fit_again(_: object) -> None:
        fit(collection, tmp_path, dims=(8,), budget=600.0, recipe=SMALL)

    with pytest.raises(OutputBusyError, match="another process is writing it"):
        fit(collection, tmp_path, dims=(8,), budget=600.0, recipe=SMALL, observers=[fit_again])


@pytest.mark.skipif(sys.platform == "win32", reason="kills as Unix does")
def test_a_fit_that_is_killed_at_random_moments_ends_as_if_it_had_not_been() -> None:
    """Kill it once here; ``KILLS=20`` in the environment kills it as often."""
    kills = os.environ.get("KILLS", "1")
    script = Path(__file__).parents[2] / "benchmarks" / "killed_fit.py"
    done = subprocess.run([sys.executable, str(script), "--kills", kills], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["kills"], outcome["identical"]) == (int(kills), True)
