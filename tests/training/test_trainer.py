"""Test training on the bundled sample of real vectors: what it reaches, repeats, survives and warns of."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vaecodec import Codec
from vaecodec.errors import CheckpointError, DivergedError, OutputBusyError, RecipeError
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec.sources import ArraySource
from vaecodec.vectors import normalised
from vaecodec_training.checkpoint import MODEL, RUN, load_checkpoint, mend, save_checkpoint
from vaecodec_training.data.collection import Collection
from vaecodec_training.diagnostics import (
    BelowBaselineWarning,
    InstabilityWarning,
    PosteriorCollapseWarning,
)
from vaecodec_training.gate import gate
from vaecodec_training.model import ModelCodec, in_numpy, interpolated
from vaecodec_training.observe import Progress
from vaecodec_training.recipe import Experimental, LatentMetric, Recipe, Schedule, Start
from vaecodec_training.start import decided, start_model
from vaecodec_training.trainer import MOST_ROLLBACKS, train
from vaecodec_training.validation import validate

SMALL = Recipe(dim=32, hidden=32, batch=256, epochs=2, checkpoints=3)
# Two epochs do not beat the linear codec significantly; the tests that are about something else do not mind.
pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BelowBaselineWarning")


@pytest.fixture(scope="module")
def collection(sample) -> Collection:
    return Collection.open(
        ArraySource(sample.train[:2_500]), ArraySource(sample.train_queries[:2_500]), pairs="aligned", validation=0.1
    )


@pytest.fixture(scope="module")
def larger(sample) -> Collection:
    """Open more rows: among few held-out documents the ten nearest lie so deep that a linear codec finds them best."""
    return Collection.open(
        ArraySource(sample.train[:6_000]), ArraySource(sample.train_queries[:6_000]), pairs="aligned", validation=0.3
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / MODEL)


def same(left: Path, right: Path) -> bool:
    return all(torch.equal(value, weights(right)[name]) for name, value in weights(left).items())


# What it reaches


def test_training_loses_no_figure_to_any_linear_codec_on_held_out_queries(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train), ArraySource(sample.train_queries), pairs="aligned")
    result = train(
        collection, Recipe(dim=32, hidden=64, batch=512, epochs=12, deep_lists=True, checkpoints=4), tmp_path
    )
    provenance = result.checkpoint.provenance
    decision = gate(result.figures, result.baselines)
    assert not decision.lost
    assert decision.difference.low > 0.01
    assert set(provenance["validation"]) == {"codec", *map(str, LinearKind)}
    assert result.warnings == ()
    rows = provenance["data"]
    assert rows["rows"] == 7_500
    assert rows["queries"] == 7_500
    assert 1_700 < rows["held_out_rows"] < 2_050


def test_the_best_checkpoint_is_what_is_kept(collection: Collection, tmp_path: Path) -> None:
    result = train(collection, SMALL.replace(epochs=3), tmp_path)
    kept: Any = ModelCodec(load_checkpoint(tmp_path).model)
    served = collection.validation.figures_of(kept)
    for figure in ("recall@1", "recall@10", "recall@100", "ndcg@10"):
        assert served[figure].mean() == pytest.approx(result.figures[figure].mean(), abs=1e-3)
    lost = gate(result.figures, result.baselines).lost
    assert not lost or served["recall@10"].mean() >= max(record.recall for record in result.history) - 0.01


def test_what_is_kept_lies_between_the_start_and_the_trained_weights(collection: Collection) -> None:
    start = start_model(collection, SMALL)
    trained = copy.deepcopy(start)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(1)
    halfway = interpolated(start, trained, 0.5)
    assert torch.allclose(halfway.encoder.linear.weight, start.encoder.linear.weight + 0.5)
    assert torch.equal(halfway.encoder.hidden.weight, trained.encoder.hidden.weight)
    rows = torch.from_numpy(collection.validation.documents)
    assert torch.allclose(interpolated(start, trained, 0).encode(rows), start.encode(rows), atol=1e-6)


def test_auto_takes_the_form_of_latents_in_which_the_start_keeps_most_neighbours(collection: Collection) -> None:
    chosen = decided(SMALL, collection)
    reached = {
        form: validate(start_model(collection, recipe), collection, recipe)["recall@10"].mean()
        for form in ("cosine", "dot", "root")
        for recipe in [SMALL.replace(latent_metric=LatentMetric(form))]
    }
    assert reached[chosen.latent_metric] == max(reached.values())
    assert reached["root"] > reached["cosine"]
    assert decided(SMALL.replace(nested_dims=(8,)), collection).latent_metric is LatentMetric.COSINE
    assert decided(SMALL.replace(latent_metric=LatentMetric.DOT), collection).latent_metric is LatentMetric.DOT


def test_latents_are_ordered_by_variance_within_each_nested_width(collection: Collection, tmp_path: Path) -> None:
    model = train(collection, SMALL.replace(nested_dims=(8, 16)), tmp_path).checkpoint.model
    variance = model.encoder(torch.from_numpy(collection.validation.documents)).var(0)
    for low, high in ((0, 8), (8, 16), (16, 32)):
        assert (variance[low:high].diff() <= 0).all()


def test_nested_widths_are_better_for_having_been_trained(larger: Collection, tmp_path: Path) -> None:
    def recall_of_prefix(nested: tuple[int, ...]) -> float:
        recipe = SMALL.replace(epochs=4, learning_rate=4e-3, nested_dims=nested)
        model = train(larger, recipe, tmp_path / str(nested[0])).checkpoint.model
        encode, encode_queries = (in_numpy(function, model) for function in (model.encode, model.encode_queries))
        figures = larger.validation.figures(
            lambda rows: normalised(encode(rows)[:, :8]),
            lambda rows: normalised(encode_queries(rows)[:, :8]),
            Metric.COSINE,
        )
        return float(figures["recall@10"].mean())

    assert recall_of_prefix((8,)) > recall_of_prefix((31,)) + 0.01


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.L2])
def test_vectors_of_other_metrics_are_learned_too(sample, metric: Metric, tmp_path: Path) -> None:
    scales = np.random.default_rng(0).uniform(0.5, 2, (6_000, 1)).astype(np.float32)
    collection = Collection.open(ArraySource(sample.train[:6_000] * scales), metric=metric, validation=0.3)
    result = train(collection, SMALL.replace(epochs=6), tmp_path)
    start = result.baselines[str(collection.start_kind)]["recall@10"].mean()
    assert result.figures["recall@10"].mean() > start


@pytest.mark.parametrize(
    "changes",
    [
        {"asymmetric": True},
        {"contrastive": 0.1, "queue": 512, "momentum": 0.9, "nested_dims": (8,)},
        {"kl": 0.0, "decoder_hidden": 16, "reconstruction_mse": 1.0, "schedule": Schedule.STEPS},
        {"experimental": Experimental(kl_cycles=2), "queue": 512, "momentum": 0.0},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_option_trains_above_its_start(larger: Collection, changes: dict, tmp_path: Path) -> None:
    result = train(larger, SMALL.replace(epochs=5, temperature=0.1, **changes), tmp_path)
    assert result.figures["recall@10"].mean() > result.baselines["svd"]["recall@10"].mean()
    assert load_checkpoint(tmp_path).kind == ("vae" if result.checkpoint.recipe.kl else "ae")


def test_the_controller_brings_the_kl_to_its_target(collection: Collection, tmp_path: Path) -> None:
    free = train(collection, SMALL.replace(epochs=8), tmp_path / "free").history[-1]
    held = train(collection, SMALL.replace(epochs=8, kl_target=25.0, kl=0.001), tmp_path / "held").history[-1]
    assert sum(free.kl) > 35
    assert sum(held.kl) == pytest.approx(25, abs=5)


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")
def test_free_bits_keep_latents_alive_under_a_heavy_prior(collection: Collection, tmp_path: Path) -> None:
    heavy = SMALL.replace(
        experimental=Experimental(start=Start.RANDOM),
        epochs=10,
        learning_rate=0.01,
        kl=1.0,
        kl_warmup=0.0,
        alignment=0.0,
        reconstruction=1.0,
    )
    with pytest.warns(PosteriorCollapseWarning, match="only .* of 32 latents carry more than 0.02 nats; lower kl"):
        bare = train(collection, heavy.replace(free_bits=0.0), tmp_path / "bare").history[-1]
    kept = train(collection, heavy.replace(free_bits=0.3), tmp_path / "kept").history[-1]
    assert bare.active_dims < 16
    assert kept.active_dims == 32


def test_training_for_relevance_finds_more_of_the_right_documents_than_linear_codecs(larger, tmp_path: Path) -> None:
    recipe = Recipe.for_relevance(rows=4_200, dim=64, batch=512, epochs=6, checkpoints=2)
    result = train(larger, recipe, tmp_path)
    assert result.checkpoint.provenance["gain"]["ndcg@10"]["low"] > 0.01
    assert result.history[-1].score == pytest.approx(result.figures["ndcg@10"].mean(), abs=0.02)


def test_relevance_without_pairs_is_refused(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train[:800]), ArraySource(sample.train_queries[:800]))
    with pytest.raises(RecipeError, match="objective: expected pairs of queries and documents"):
        train(collection, Recipe.for_relevance(rows=800), tmp_path)


def test_where_truncation_is_best_training_starts_there_and_may_leave_it_at_that(tmp_path: Path) -> None:
    # As Matryoshka models have it: what matters comes first, and later coordinates are larger noise.
    generator = np.random.default_rng(0)
    meaning = generator.normal(size=(1_500, 8))
    documents, queries = (
        np.hstack([meaning + 0.1 * generator.normal(size=(1_500, 8)), 2 * generator.normal(size=(1_500, 24))])
        for _ in range(2)
    )
    sources = ArraySource(documents.astype(np.float32)), ArraySource(queries.astype(np.float32))
    collection = Collection.open(*sources, pairs="aligned")
    assert collection.best_start(8, "ndcg@10", Metric.COSINE) is LinearKind.TRUNCATION
    recipe = Recipe.for_relevance(rows=1_100, dim=8, batch=256, epochs=1, learning_rate=0.5, warmup=0.0, weight=0.0)
    with pytest.warns(BelowBaselineWarning, match="training does not pay here, use the linear codec 'truncation"):
        result = train(collection, recipe, tmp_path)
    start = result.baselines["truncation"]["ndcg@10"]
    assert result.figures["ndcg@10"].mean() == pytest.approx(start.mean(), abs=1e-6)


# What it repeats


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(collection: Collection, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(collection, SMALL.replace(seed=seed), tmp_path / name)
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


RESUMABLE = SMALL.replace(checkpoints=8, epochs=4, contrastive=0.05, queue=512, kl_target=30.0)
CHILD = """
import os, signal, sys, warnings
from pathlib import Path
import numpy as np
from vaecodec.sources import ArraySource
from vaecodec_training.checkpoint import STATE
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train
warnings.simplefilter("ignore")
folder, out, recipe = map(Path, sys.argv[1:4])
documents, queries = (ArraySource(np.load(folder / f"{name}.npy")) for name in ("train", "queries"))
collection = Collection.open(documents, queries, pairs="aligned", validation=0.1)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
observers = [lambda progress: progress.step == 25 and die()] if "computing" in sys.argv else []
if "writing" in sys.argv:
    states, replace = [], os.replace
    def die_at_the_third_state(source, target):
        states.extend([target] if target.name == STATE else [])
        die() if len(states) == 3 else replace(source, target)
    os.replace = die_at_the_third_state
train(collection, Recipe.load(recipe), out, accelerator="cpu", observers=observers)
"""


def child(sample, tmp_path: Path, recipe: Recipe, dying: str) -> list[str]:
    np.save(tmp_path / "train.npy", sample.train[:2_500])
    np.save(tmp_path / "queries.npy", sample.train_queries[:2_500])
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    (tmp_path / "child.py").write_text(CHILD)
    paths = [tmp_path / "child.py", tmp_path, tmp_path / "run", tmp_path / "recipe.toml"]
    return [sys.executable, *map(str, paths), dying]


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.ReconstructionOverfitWarning")
@pytest.mark.parametrize("dying", ["computing", "writing"])
def test_a_run_that_was_killed_resumes_to_the_same_bits(
    sample, collection: Collection, dying: str, tmp_path: Path
) -> None:
    train(collection, RESUMABLE, tmp_path / "whole")
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run(child(sample, tmp_path, RESUMABLE, dying), env=threads)
    assert process.returncode == -signal.SIGKILL
    result = train(collection, RESUMABLE, tmp_path / "run", resume=True)
    assert same(tmp_path / "whole", tmp_path / "run")
    assert [record.step for record in result.history] == [
        entry["step"] for entry in load_checkpoint(tmp_path / "whole").provenance["diagnostics"]["history"]
    ]


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")
def test_two_processes_of_the_command_match_one_and_one_of_them_speaks_and_exports(sample, tmp_path: Path) -> None:
    recipe = SMALL.replace(kl=0.001, contrastive=0.05, queue=512)
    documents, queries = sample.train[:1_500, :64], sample.train_queries[:1_500, :64]
    np.save(tmp_path / "train.npy", documents)
    np.save(tmp_path / "queries.npy", queries)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    (tmp_path / "launch.py").write_text("from vaecodec_cli.main import main\nmain()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "launch.py"]
    command += ["train", "train.npy", "--queries", "queries.npy", "--pairs", "aligned", "--recipe", "recipe.toml"]
    process = subprocess.run(
        [*command, "--json", "--out", "run", "--export", "vae32.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["codec"]["code_dim"] == 32  # one document, of one process
    assert process.stderr.count("vectors of 64 dimensions, cosine") == 2  # documents and queries, once each
    collection = Collection.open(ArraySource(documents), ArraySource(queries), pairs="aligned")
    alone = train(collection, recipe, tmp_path / "alone")
    both = load_checkpoint(tmp_path / "run")
    rows = torch.from_numpy(collection.validation.documents)
    torch.testing.assert_close(both.model.encode(rows), alone.checkpoint.model.encode(rows), atol=2e-3, rtol=0)
    history = both.provenance["diagnostics"]["history"]
    assert history[-1]["loss"] == pytest.approx(alone.history[-1].loss, rel=1e-3)
    assert Codec.load(tmp_path / "vae32.onnx").code_dim == 32


@pytest.mark.parametrize("what", ["recipe", "data"])
def test_resuming_something_else_is_refused(sample, collection: Collection, what: str, tmp_path: Path) -> None:
    train(collection, SMALL.replace(epochs=0.5), tmp_path)
    other = Collection.open(ArraySource(sample.train[:2_000])) if what == "data" else collection
    recipe = SMALL.replace(epochs=0.5) if what == "data" else SMALL
    with pytest.raises(CheckpointError, match=f"expected a run of the same {what}, but .* changed"):
        train(other, recipe, tmp_path, resume=True)


def test_a_shift_measured_by_other_threads_is_no_other_data(collection: Collection, tmp_path: Path) -> None:
    train(collection, SMALL.replace(epochs=0.5), tmp_path)
    assert collection.shift is not None
    other = replace(collection, shift=replace(collection.shift, mean_gap=collection.shift.mean_gap * (1 + 1e-12)))
    train(other, SMALL.replace(epochs=0.5), tmp_path, resume=True)
    assert load_checkpoint(tmp_path).provenance["data"]["shift"]["mean_gap"] == pytest.approx(other.shift.mean_gap)


def test_there_may_be_nothing_to_resume(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing to resume, state\.safetensors is not there"):
        train(collection, SMALL, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / RUN).unlink(), r"run\.json is not there"),
        (lambda run: (run / MODEL).write_bytes(b"12345678"), "damaged"),
        (lambda run: (run / RUN).write_text('{"format": 99}'), "written by another version"),
        (lambda run: _change_recipe(run, hidden=64), r"model\.safetensors does not fit run\.json"),
        (lambda run: _flip(run / MODEL, -1_000), "damaged: the weights or the record changed"),
    ],
)
def test_a_damaged_run_is_refused(collection: Collection, damage, message: str, tmp_path: Path) -> None:
    train(collection, SMALL.replace(epochs=0.2), tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def _change_recipe(run: Path, **changes: object) -> None:
    content = json.loads((run / RUN).read_text())
    content["recipe"] |= changes
    (run / RUN).write_text(json.dumps(content))


def _flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 2
    file.write_bytes(content)


# What it survives


def test_a_folder_is_trained_into_by_one_run_at_a_time(collection: Collection, tmp_path: Path) -> None:
    refused = []

    def another(progress: Progress) -> None:
        if progress.step == 1:
            with pytest.raises(OutputBusyError, match="another process is writing it"):
                train(collection, SMALL.replace(seed=1), tmp_path)
            refused.append(progress.step)

    train(collection, SMALL.replace(epochs=0.2), tmp_path, observers=[another])
    assert refused == [1]
    assert load_checkpoint(tmp_path).recipe.seed == 0
    train(collection, SMALL.replace(epochs=0.2, seed=1), tmp_path)
    assert load_checkpoint(tmp_path).recipe.seed == 1


def test_a_run_killed_while_it_saves_leaves_a_whole_checkpoint_or_one_that_is_refused(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(collection, SMALL.replace(epochs=0.2, checkpoints=1), tmp_path).checkpoint
    rename, left = os.replace, [0]

    def die_in_time(source: Path, target: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", die_in_time)
    for moment, renames in enumerate((0, 1)):
        left[0] = renames
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, replace(first, embedder=f"killed {moment}"))
        if moment == 0:
            assert load_checkpoint(tmp_path).embedder == first.embedder
    with pytest.raises(CheckpointError, match=r"does not fit run\.json"):
        load_checkpoint(tmp_path)
    left[0] = 1
    mend(tmp_path)
    assert load_checkpoint(tmp_path).embedder == "killed 1"


def test_weights_that_died_before_a_record_of_the_same_words_are_refused(
    collection: Collection, tmp_path: Path
) -> None:
    """Figures and calibration in ``run.json`` belong to the old weights, whatever else is the same."""
    first = train(collection, SMALL.replace(epochs=0.2, checkpoints=1), tmp_path).checkpoint
    before = (tmp_path / "run.json").read_bytes()
    other = load_checkpoint(tmp_path).model
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    save_checkpoint(tmp_path, replace(first, model=other))
    assert load_checkpoint(tmp_path).embedder == first.embedder
    (tmp_path / "run.json").write_bytes(before)
    with pytest.raises(CheckpointError, match=r"does not fit run\.json"):
        load_checkpoint(tmp_path)


class Poisoned(ArraySource):
    """Read values that turn bad after the check has read them, as from a faulty disk or network mount."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.bad: np.ndarray = np.empty(0, np.int64)

    def take(self, rows: np.ndarray) -> np.ndarray:
        taken = super().take(rows)
        taken[np.isin(rows, self.bad)] = np.nan
        return taken


def test_a_poisoned_batch_is_undone_and_passed_over(sample, tmp_path: Path) -> None:
    source = Poisoned(sample.train[:2_500])
    collection = Collection.open(source)
    collection.baselines(32)  # measured before the rows turn bad
    source.bad = collection.document_rows[100:101]
    seen: list[Progress] = []
    with pytest.warns(InstabilityWarning, match="not finite; went back to step"):
        result = train(collection, SMALL.replace(epochs=2), tmp_path, observers=[seen.append])
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())
    assert result.figures["recall@10"].mean() > result.baselines["svd"]["recall@10"].mean()
    assert seen[-1].step == seen[-1].steps
    kinds = [name for name, _ in result.checkpoint.provenance["diagnostics"]["warnings"]]
    assert "InstabilityWarning" in kinds


def test_an_absurd_learning_rate_is_lowered_a_few_times_then_reported(collection: Collection, tmp_path: Path) -> None:
    with (
        pytest.warns(InstabilityWarning, match="half the learning rate"),
        pytest.raises(DivergedError, match=f"after {MOST_ROLLBACKS} rollbacks .* start with a lower learning_rate"),
    ):
        train(collection, SMALL.replace(learning_rate=1e6), tmp_path)
    linear = collection.baselines(32)["svd"]["recall@10"].mean()
    figures = load_checkpoint(tmp_path).provenance["validation"]["codec"]["recall@10"]
    assert figures["mean"] >= linear - 1e-6


def test_duplicated_and_nearly_constant_vectors_train_without_breaking(sample, tmp_path: Path) -> None:
    few = np.repeat(sample.train[:200], 10, axis=0)
    few[:, 100:] = 0.05
    noise = np.random.default_rng(0).normal(scale=1e-4, size=few.shape).astype(np.float32)
    noise[:1_000] = 0
    collection = Collection.open(ArraySource(few + noise))
    result = train(collection, SMALL, tmp_path)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())
    assert np.isfinite(result.history[-1].loss)


def test_an_encoder_for_queries_needs_queries(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train[:1_000]))
    with pytest.raises(RecipeError, match="asymmetric: expected queries to train the query encoder on, got none"):
        train(collection, SMALL.replace(asymmetric=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
