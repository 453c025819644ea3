"""Training on the bundled sample of real vectors: what it reaches, repeats, survives and warns of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from safetensors.torch import load_file

from vaecodec.errors import CheckpointError, DivergedError, RecipeError, UnusableDataError, WrongWidthError
from vaecodec.interface import Metric
from vaecodec.sources import ArraySource
from vaecodec.vectors import normalised
from vaecodec_training import losses
from vaecodec_training.checkpoint import MODEL, RUN, load_checkpoint
from vaecodec_training.data.check import check
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.pairs import read_pairs
from vaecodec_training.data.shift import measure_shift
from vaecodec_training.data.split import split
from vaecodec_training.diagnostics import (
    BelowBaselineWarning,
    DegenerateLatentsWarning,
    HeavyContrastiveWarning,
    InstabilityWarning,
    PosteriorCollapseWarning,
    QueryShiftWarning,
    ReconstructionOverfitWarning,
    Record,
    StaleQueueWarning,
    effective_rank,
    inspect,
    inspect_shift,
)
from vaecodec_training.recipe import Precision, Recipe, Schedule, Start
from vaecodec_training.trainer import MOST_ROLLBACKS, Observer, Progress, _Trainer, in_numpy, train

SMALL = Recipe(dim=32, hidden=32, batch=256, epochs=2, checkpoints=3)
# Two epochs do not beat the linear codec surely; the tests that are about something else do not mind.
pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BelowBaselineWarning")


@pytest.fixture(scope="module")
def collection(sample) -> Collection:
    return Collection.open(
        ArraySource(sample.train[:2_500]), ArraySource(sample.train_queries[:2_500]), pairs="aligned"
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / MODEL)


def same(left: Path, right: Path) -> bool:
    return all(torch.equal(value, weights(right)[name]) for name, value in weights(left).items())


# What it reaches


def test_training_beats_every_linear_codec_on_held_out_queries(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train), ArraySource(sample.train_queries), pairs="aligned")
    result = train(collection, Recipe(dim=64, hidden=64, batch=512, epochs=4, checkpoints=4), tmp_path)
    provenance = result.checkpoint.provenance
    assert provenance["gain"]["over"] == "svd"
    assert provenance["gain"]["recall@10"]["low"] > 0
    assert provenance["gain"]["ndcg@10"]["mean"] > 0
    assert set(provenance["validation"]) == {"codec", "svd", "pca", "pca-documents", "truncation"}
    assert result.warnings == ()
    rows = provenance["data"]
    assert rows["rows"] == 7_500
    assert rows["queries"] == 7_500
    assert 300 < rows["held_out_rows"] < 450


def test_the_best_checkpoint_is_what_is_kept(collection: Collection, tmp_path: Path) -> None:
    result = train(collection, SMALL.replace(epochs=3), tmp_path)
    model = load_checkpoint(tmp_path).model
    served = collection.validation.figures(
        lambda rows: model.encode(torch.from_numpy(rows)).detach().numpy(),
        lambda rows: model.encode_queries(torch.from_numpy(rows)).detach().numpy(),
        Metric.COSINE,
    )
    best = max(record.recall for record in result.history)
    assert served["recall@10"].mean() == pytest.approx(best, abs=1e-3)


def test_latents_are_ordered_by_variance_within_each_nested_width(collection: Collection, tmp_path: Path) -> None:
    model = train(collection, SMALL.replace(nested_dims=(8, 16)), tmp_path).checkpoint.model
    variance = model.encoder(torch.from_numpy(collection.validation.documents)).var(0)
    for low, high in ((0, 8), (8, 16), (16, 32)):
        assert (variance[low:high].diff() <= 0).all()


def test_nested_widths_are_better_for_having_been_trained(collection: Collection, tmp_path: Path) -> None:
    def recall_of_prefix(nested: tuple[int, ...]) -> float:
        recipe = SMALL.replace(epochs=4, learning_rate=4e-3, nested_dims=nested)
        model = train(collection, recipe, tmp_path / str(len(nested))).checkpoint.model
        encode, encode_queries = (in_numpy(function, model) for function in (model.encode, model.encode_queries))
        figures = collection.validation.figures(
            lambda rows: normalised(encode(rows)[:, :8]),
            lambda rows: normalised(encode_queries(rows)[:, :8]),
            Metric.COSINE,
        )
        return float(figures["recall@10"].mean())

    assert recall_of_prefix((8,)) > recall_of_prefix(()) + 0.01


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.L2])
def test_vectors_of_other_metrics_are_learned_too(sample, metric: Metric, tmp_path: Path) -> None:
    scales = np.random.default_rng(0).uniform(0.5, 2, (2_500, 1)).astype(np.float32)
    collection = Collection.open(ArraySource(sample.train[:2_500] * scales), metric=metric)
    result = train(collection, SMALL.replace(epochs=4), tmp_path)
    start = result.baselines[str(collection.start_kind)]["recall@10"].mean()
    assert result.figures["recall@10"].mean() > start


@pytest.mark.parametrize(
    "changes",
    [
        {"asymmetric": True, "average": 0.9, "accumulate": 2},
        {"contrastive": 0.1, "queue": 512, "momentum": 0.9, "nested_dims": (8,)},
        {"kl": 0.0, "decoder_hidden": 16, "reconstruction_mse": 1.0, "schedule": Schedule.STEPS},
        {"kl_cycles": 2, "queue": 512, "momentum": 0.0},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_option_trains_above_its_start(collection: Collection, changes: dict, tmp_path: Path) -> None:
    result = train(collection, SMALL.replace(**changes), tmp_path)
    assert result.figures["recall@10"].mean() > result.baselines["svd"]["recall@10"].mean()
    assert load_checkpoint(tmp_path).kind == ("vae" if result.checkpoint.recipe.kl else "ae")


def test_the_controller_brings_the_kl_to_its_target(collection: Collection, tmp_path: Path) -> None:
    free = train(collection, SMALL.replace(epochs=6), tmp_path / "free").history[-1]
    held = train(collection, SMALL.replace(epochs=6, kl_target=25.0, kl=0.001), tmp_path / "held").history[-1]
    assert sum(free.kl) > 35
    assert sum(held.kl) == pytest.approx(25, abs=5)


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")
def test_free_bits_keep_latents_alive_under_a_heavy_prior(collection: Collection, tmp_path: Path) -> None:
    heavy = SMALL.replace(
        start=Start.RANDOM, epochs=10, learning_rate=0.01, kl=1.0, kl_warmup=0.0, alignment=0.0, reconstruction=1.0
    )
    with pytest.warns(PosteriorCollapseWarning, match="only .* of 32 latents carry more than 0.02 nats; lower kl"):
        bare = train(collection, heavy.replace(free_bits=0.0), tmp_path / "bare").history[-1]
    kept = train(collection, heavy.replace(free_bits=0.3), tmp_path / "kept").history[-1]
    assert bare.active_dims < 16
    assert kept.active_dims == 32


# What it repeats


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(collection: Collection, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(collection, SMALL.replace(seed=seed), tmp_path / name)
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


RESUMABLE = SMALL.replace(checkpoints=8, epochs=4, contrastive=0.05, queue=512, average=0.9, kl_target=30.0)
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
collection = Collection.open(documents, queries, pairs="aligned")
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


def child(sample, tmp_path: Path, recipe: Recipe, *launcher: str, dying: str = "") -> list[str]:
    np.save(tmp_path / "train.npy", sample.train[:2_500])
    np.save(tmp_path / "queries.npy", sample.train_queries[:2_500])
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    (tmp_path / "child.py").write_text(CHILD)
    paths = [tmp_path / "child.py", tmp_path, tmp_path / "run", tmp_path / "recipe.toml"]
    return [sys.executable, *launcher, *map(str, paths), dying]


@pytest.mark.parametrize("dying", ["computing", "writing"])
def test_a_run_that_was_killed_resumes_to_the_same_bits(
    sample, collection: Collection, dying: str, tmp_path: Path
) -> None:
    train(collection, RESUMABLE, tmp_path / "whole")
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run(child(sample, tmp_path, RESUMABLE, dying=dying), env=threads)
    assert process.returncode == -signal.SIGKILL
    result = train(collection, RESUMABLE, tmp_path / "run", resume=True)
    assert same(tmp_path / "whole", tmp_path / "run")
    assert [record.step for record in result.history] == [
        entry["step"] for entry in load_checkpoint(tmp_path / "whole").provenance["diagnostics"]["history"]
    ]


def test_two_processes_match_one(sample, collection: Collection, tmp_path: Path) -> None:
    recipe = SMALL.replace(kl=0.001, contrastive=0.05, queue=512)
    alone = train(collection, recipe, tmp_path / "alone")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    subprocess.run(
        child(sample, tmp_path, recipe, *launcher),
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    both = load_checkpoint(tmp_path / "run")
    rows = torch.from_numpy(collection.validation.documents)
    torch.testing.assert_close(both.model.encode(rows), alone.checkpoint.model.encode(rows), atol=2e-3, rtol=0)
    history = both.provenance["diagnostics"]["history"]
    assert history[-1]["loss"] == pytest.approx(alone.history[-1].loss, rel=1e-3)


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


# What it survives


class Poisoned(ArraySource):
    """A source whose values turn bad after the check has read it, as a faulty disk or network mount would do."""

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


# What a step does


def stepwise(collection: Collection, recipe: Recipe, run: Path, *observers: Observer) -> _Trainer:
    return _Trainer(Fabric(accelerator="cpu", devices=1), collection, recipe, run, False, observers)


def decayed(trainer: _Trainer) -> dict[str, float]:
    """The weight decay in force, by parameter."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    return {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}


def test_matrices_decay_but_neither_biases_nor_the_log_variance(collection: Collection, tmp_path: Path) -> None:
    trainer = stepwise(collection, SMALL.replace(weight_decay=0.2), tmp_path)
    assert trainer._step() is None
    matrices = {"encoder.linear.weight", "encoder.hidden.weight", "encoder.output.weight", "decoder.linear.weight"}
    others = {name for name, _ in trainer.model.named_parameters()} - matrices
    assert {"encoder.linear.bias", "decoder.linear.bias", "log_var.weight", "log_var.bias"} <= others
    assert decayed(trainer) == dict.fromkeys(matrices, 0.2) | dict.fromkeys(others, 0.0)


def test_a_decayed_matrix_shrinks(collection: Collection, tmp_path: Path) -> None:
    """By ``rate * decay`` of itself a step more than without decay, as AdamW is defined."""
    moved = []
    for decay in (0.0, 0.5):
        trainer = stepwise(collection, SMALL.replace(weight_decay=decay, warmup=0.0), tmp_path)
        before = trainer.model.encoder.linear.weight.detach().clone()
        trainer._step()
        moved.append(trainer.model.encoder.linear.weight.detach().clone())
    rate = trainer.optimizer.param_groups[0]["lr"]
    torch.testing.assert_close(moved[0] - moved[1], rate * 0.5 * before, atol=1e-6, rtol=1e-3)


def test_the_queue_holds_negatives_of_the_contrastive_term(collection: Collection, tmp_path: Path) -> None:
    trainer = stepwise(collection, SMALL.replace(contrastive=0.1, queue=64, momentum=0.0), tmp_path)
    batch = trainer.batches.at(0, 0, torch.device("cpu"))
    assert batch.queries is not None
    with torch.no_grad():
        latents, asked = trainer.model.encoder(batch.documents), trainer.model.encoder(batch.queries)
        alone = trainer._contrastive(batch, latents, asked, None)
        trainer.queue.push(batch.queries[:64], 3 * asked[:64], 0)
        queued = trainer._contrastive(batch, latents, asked, None)
    unit, keys = F.normalize(asked, dim=1), F.normalize(torch.cat([latents, asked[:64]]), dim=1)
    logits = unit @ keys.T / 0.05
    own = torch.arange(len(asked))
    assert queued.item() == pytest.approx(F.cross_entropy(logits, own).item(), rel=1e-4)
    assert alone.item() == pytest.approx(F.cross_entropy(logits[:, : len(latents)], own).item(), rel=1e-4)
    assert queued > alone + 1  # half of the queries meet themselves there


def test_the_queue_holds_columns_of_the_distillation(collection: Collection, tmp_path: Path) -> None:
    trainer = stepwise(collection, SMALL.replace(queue=64, momentum=0.0), tmp_path)
    documents, queued = trainer.batches.at(0, 0, torch.device("cpu")).documents.split([192, 64])
    batch = replace(trainer.batches.at(0, 0, torch.device("cpu")), documents=documents, queries=None)
    with torch.no_grad():
        latents, queued_latents = trainer.model.encoder(documents), 3 * trainer.model.encoder(queued)
        trainer.queue.push(queued, queued_latents, 0)
        found = trainer._alignment(batch, latents, None)
    student = F.normalize(latents, dim=1)
    expected = losses.distillation(
        documents,
        torch.cat([documents, queued]),
        student,
        torch.cat([student, F.normalize(queued_latents, dim=1)]),
        0.05,
        torch.arange(192),
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_rollback_halves_the_rate_and_strengthens_the_regularisers(collection: Collection, tmp_path: Path) -> None:
    recipe = SMALL.replace(kl=0.01, kl_warmup=0.0, free_bits=0.0, weight_decay=0.2, warmup=0.0)
    seen: list[Progress] = []

    def kl_weight() -> float:
        at = seen[-1]
        return (at.loss - at.terms["alignment"] - 0.1 * at.terms["reconstruction"]) / at.terms["kl"]

    trainer = stepwise(collection, recipe, tmp_path, seen.append)
    good = trainer._state()
    trainer._step()
    assert kl_weight() == pytest.approx(0.01, rel=1e-3)
    with pytest.warns(InstabilityWarning, match="step 2: a spike; went back to step 0"):
        trainer._roll_back(good, "a spike")
    assert (trainer.at.step, trainer.at.cursor) == (0, 1)
    assert (trainer.at.learning_rate_scale, trainer.at.regulariser_scale) == (0.5, 1.5)
    trainer._step()
    assert kl_weight() == pytest.approx(0.015, rel=1e-3)
    assert decayed(trainer)["encoder.linear.weight"] == pytest.approx(0.3)
    assert seen[1].learning_rate == pytest.approx(seen[0].learning_rate / 2)
    assert trainer._record().kl_weight == pytest.approx(0.015)


def test_a_loss_of_three_times_the_median_is_a_spike(collection: Collection, tmp_path: Path) -> None:
    trainer = stepwise(collection, SMALL, tmp_path)
    for loss in (1.0, 1.0, 1.0, 300.0):  # three are too few to compare with
        assert trainer._problem(loss, loss, 1.0) is None
    trainer.at.losses = [0.5, 1.0, 1.0, 9.0]
    assert trainer._problem(2.9, 2.9, 1.0) is None
    trainer.at.losses = [0.5, 1.0, 1.0, 9.0]
    assert trainer._problem(301.0, 1.0, 1.0) == "the loss jumped from 1 to 301"
    assert trainer.at.losses == [0.5, 1.0, 1.0, 9.0]  # a spike is no measure of later ones
    assert trainer._problem(1.0, float("nan"), 1.0) == "the loss is not finite"
    assert trainer._problem(1.0, 1.0, float("inf")) == "the gradient is not finite"


def test_averages_move_by_their_share_each_step(collection: Collection, tmp_path: Path) -> None:
    recipe = SMALL.replace(average=0.9, momentum=0.9, queue=64, learning_rate=0.1, warmup=0.0)
    trainer = stepwise(collection, recipe, tmp_path)
    assert trainer.average is not None
    assert trainer.key_encoder is not None
    followers = ((trainer.key_encoder, trainer.model.encoder), (trainer.average, trainer.model))
    for decays in ((0.9, 2 / 11), (0.9, 3 / 12)):  # the average's own decay only after enough steps
        before = [[value.detach().clone() for value in follower.parameters()] for follower, _ in followers]
        trainer._step()
        for (follower, source), old, decay in zip(followers, before, decays, strict=True):
            for value, start, now in zip(follower.parameters(), old, source.parameters(), strict=True):
                torch.testing.assert_close(value, decay * start + (1 - decay) * now)
        assert not torch.equal(trainer.key_encoder.linear.weight, trainer.model.encoder.linear.weight)


# What it warns of


def record(**changes: object) -> Record:
    values: dict = {
        "step": 10,
        "recall": 0.5,
        "loss": 1.0,
        "terms": {"alignment": 0.9, "reconstruction": 0.3},
        "kl": (1.0,) * 32,
        "kl_weight": 1e-4,
        "gradient_norm": 1.0,
        "learning_rate": 1e-3,
        "effective_rank": 30.0,
        "queue_age": 0.0,
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "changes", "recipe"),
    [
        ("PosteriorCollapseWarning", {"kl": (0.0,) * 20 + (1.0,) * 12}, SMALL),
        ("DegenerateLatentsWarning", {"effective_rank": 3.0}, SMALL),
        (
            "HeavyContrastiveWarning",
            {"terms": {"alignment": 0.1, "contrastive": 3.0}, "loss": 3.1},
            SMALL.replace(contrastive=1.0),
        ),
        ("StaleQueueWarning", {"queue_age": 40.0}, SMALL.replace(queue=10_000, momentum=0.9)),
    ],
)
def test_each_pitfall_has_a_name_and_a_remedy(name: str, changes: dict, recipe: Recipe) -> None:
    assert inspect([record()], recipe) == []
    (warning,) = inspect([record(**changes)], recipe)
    assert type(warning).__name__ == name
    assert str(warning).startswith("step 10: ")


def test_overfitting_to_reconstruction_is_seen_over_three_checkpoints() -> None:
    recalls, errors = (0.50, 0.49, 0.48), (0.30, 0.29, 0.28)
    history = [
        record(recall=recall, terms={"alignment": 0.9, "reconstruction": error})
        for recall, error in zip(recalls, errors, strict=True)
    ]
    (warning,) = inspect(history, SMALL)
    assert isinstance(warning, ReconstructionOverfitWarning)
    assert "fell from 0.500 to 0.480" in str(warning)
    assert inspect(history[::-1], SMALL) == []


def test_a_heavy_contrastive_weight_is_warned_of_in_a_real_run(collection: Collection, tmp_path: Path) -> None:
    with pytest.warns(HeavyContrastiveWarning, match="lower contrastive"):
        train(collection, SMALL.replace(contrastive=2.0), tmp_path)


def test_a_run_that_does_not_beat_the_linear_codec_says_so(collection: Collection, tmp_path: Path) -> None:
    with pytest.warns(BelowBaselineWarning, match="use the linear codec"):
        train(collection, SMALL.replace(start=Start.RANDOM, kl=0.0, epochs=0.5), tmp_path)


def test_the_shift_of_queries_is_measured_and_warned_of(sample) -> None:
    near = measure_shift(sample.train, sample.train[::-1].copy())
    assert near.mean_gap == pytest.approx(0, abs=1e-5)
    assert max(near.angles) < 1
    moved = np.roll(sample.train_queries, 192, axis=1) + 0.05
    far = measure_shift(sample.train, moved)
    assert inspect_shift(near, SMALL) == []
    (warning,) = inspect_shift(far, SMALL)
    assert isinstance(warning, QueryShiftWarning)
    assert inspect_shift(far, SMALL.replace(asymmetric=True)) == []


def test_queries_far_from_documents_are_warned_of_in_a_real_run(sample, tmp_path: Path) -> None:
    moved = np.roll(sample.train_queries[:1_500], 192, axis=1) + 0.05
    collection = Collection.open(ArraySource(sample.train[:1_500]), ArraySource(moved))
    with pytest.warns(QueryShiftWarning, match="query/document shift: mean gap .* try asymmetric = true"):
        result = train(collection, SMALL.replace(epochs=0.5), tmp_path)
    kinds = [name for name, _ in result.checkpoint.provenance["diagnostics"]["warnings"]]
    assert kinds[0] == "QueryShiftWarning"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(collection, SMALL.replace(epochs=0.5, asymmetric=True), tmp_path)
    assert not [each for each in caught if each.category is QueryShiftWarning]


def test_the_age_of_the_queue_is_measured_and_warned_of_in_a_real_run(collection: Collection, tmp_path: Path) -> None:
    """A queue of 4 batches holds entries of 1 to 4 steps, one of 40 batches of 1 to 40."""
    young = train(collection, SMALL.replace(queue=1024, epochs=1), tmp_path)
    assert young.history[-1].queue_age == pytest.approx(2.5)
    recipe = SMALL.replace(batch=64, queue=40 * 64, momentum=0.9, epochs=1.5, checkpoints=1)
    with pytest.warns(StaleQueueWarning, match=r"20 steps old on average, the momentum encoder averages over 16"):
        stale = train(collection, recipe, tmp_path)
    assert stale.history[-1].queue_age == pytest.approx(20.5)


def test_latents_that_fill_one_dimension_are_warned_of_in_a_real_run(sample, tmp_path: Path) -> None:
    flat = sample.train[:1_500, :1] * np.linspace(1, 2, 64, dtype=np.float32) + 1e-4 * sample.train[:1_500, :64]
    collection = Collection.open(ArraySource(flat), metric=Metric.DOT)
    with pytest.warns(DegenerateLatentsWarning, match=r"the 32 latents have an effective rank of 1\.0"):
        train(collection, SMALL.replace(epochs=0.5), tmp_path)


def test_mixed_precision_trains_to_the_same_but_for_rounding(collection: Collection, tmp_path: Path) -> None:
    full = train(collection, SMALL.replace(epochs=1), tmp_path / "full")
    mixed = train(collection, SMALL.replace(epochs=1, precision=Precision.BFLOAT16), tmp_path / "mixed")
    assert not same(tmp_path / "full", tmp_path / "mixed")
    assert weights(tmp_path / "mixed")["encoder.linear.weight"].dtype == torch.float32
    assert mixed.history[-1].loss == pytest.approx(full.history[-1].loss, rel=0.02)
    assert mixed.figures["recall@10"].mean() == pytest.approx(full.figures["recall@10"].mean(), abs=0.01)


def test_effective_rank_counts_dimensions_in_use() -> None:
    latents = np.random.default_rng(0).normal(size=(5_000, 8))
    assert effective_rank(latents) == pytest.approx(8, abs=0.1)
    latents[:, 4:] = 0
    assert effective_rank(latents) == pytest.approx(4, abs=0.1)
    assert effective_rank(np.ones((10, 4))) == 0


# Collections


def test_held_out_queries_follow_their_documents(collection: Collection) -> None:
    assert collection.pairs is not None
    assert np.array_equal(collection.pairs[:, 0], collection.query_rows)
    assert np.array_equal(collection.query_rows, collection.document_rows)
    validation = collection.validation
    assert validation.relevant is not None
    for query, answers in zip(validation.queries, validation.relevant, strict=True):
        scores = validation.documents @ query
        assert scores[answers[0]] > np.median(scores)


def test_equal_queries_of_several_documents_are_used_on_one_side(sample) -> None:
    documents, queries = sample.train[:1_500], sample.train_queries[:1_500].copy()
    parts = split(check(ArraySource(documents)).digests, validation=0.1, confirmation=0.1)
    train, validation, confirmation = parts.train, parts.validation, parts.confirmation
    queries[train[0]] = queries[validation[0]]  # in training and validation
    queries[train[1]] = queries[validation[1]] = queries[confirmation[1]]  # in all three
    queries[validation[2]] = queries[confirmation[2]]
    collection = Collection.open(
        ArraySource(documents), ArraySource(queries), pairs="aligned", confirmation=0.1, validation=0.1
    )
    assert collection.confirmation is not None
    sides = [queries[collection.query_rows], collection.validation.queries, collection.confirmation.queries]
    texts = [{row.tobytes() for row in side} for side in sides]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]
    assert queries[train[0]].tobytes() in texts[1]
    assert queries[train[1]].tobytes() in texts[2]
    assert queries[validation[2]].tobytes() in texts[2]
    assert collection.pairs is not None
    assert not np.isin(train[:2], collection.pairs[:, 0]).any()
    assert len(collection.query_rows) > 0.98 * len(train)  # no others are left out


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("aligned", "aligned queries and documents must be as many, got 900 queries and 1,000 documents"),
        (np.array([[0.5, 1]]), r"expected integers \(p, 2\)"),
        (np.array([[0, 1], [900, 0]]), r"row 1 is \[900, 0\], but there are 900 queries and 1,000 documents"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(sample, pairs, message: str) -> None:
    with pytest.raises(UnusableDataError, match=message):
        Collection.open(ArraySource(sample.train[:1_000]), ArraySource(sample.train_queries[:900]), pairs=pairs)


def test_pairs_are_read_from_files_without_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "pairs.npy", np.array([[0, 1], [1, 0]]))
    assert np.array_equal(read_pairs(str(tmp_path / "pairs.npy")), [[0, 1], [1, 0]])
    assert read_pairs("aligned") == "aligned"
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("missing.npy", "objects.npy"):
        with pytest.raises(
            UnusableDataError, match=rf"expected 'aligned' or a \.npy file of integers \(p, 2\), got .*{name}"
        ):
            read_pairs(str(tmp_path / name))


def test_pairs_without_queries_and_queries_of_another_width_are_refused(sample) -> None:
    with pytest.raises(UnusableDataError, match="expected queries to go with them"):
        Collection.open(ArraySource(sample.train[:1_000]), pairs="aligned")
    with pytest.raises(WrongWidthError, match="expected queries of width 384"):
        Collection.open(ArraySource(sample.train[:1_000]), ArraySource(sample.train_queries[:1_000, :100]))


def test_queries_without_pairs_share_batches_with_their_nearest_documents(sample) -> None:
    collection = Collection.open(ArraySource(sample.train[:1_000]), ArraySource(sample.train_queries[:500]))
    companions = collection.companions
    assert companions is not None
    assert len(companions) == 10 * len(collection.query_rows)
    for query in collection.query_rows[:20]:
        scores = sample.train[:1_000][collection.document_rows] @ sample.train_queries[query]
        nearest = collection.document_rows[np.argsort(-scores)[:10]]
        assert list(companions[companions[:, 0] == query, 1]) == list(nearest)
