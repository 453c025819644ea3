"""Test the automatic recipe and its gate, on data where each side must win."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vaecodec_training.budget as dividing
import vaecodec_training.search as searching
from vaecodec import Codec
from vaecodec.calibration import codes_of, scores_of
from vaecodec.codes import Calibration
from vaecodec.drift.monitor import MonitoredCodec
from vaecodec.errors import CheckpointError, MissingExtraError, RecipeError, TrainingError
from vaecodec.sources import ArraySource
from vaecodec_cli.main import main
from vaecodec_cli.options import duration
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_exporters.pipeline import fit
from vaecodec_training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vaecodec_training.data.check import check
from vaecodec_training.data.collection import Collection
from vaecodec_training.diagnostics import BelowBaselineWarning, BudgetWarning
from vaecodec_training.knee import knee
from vaecodec_training.recipe import Aim, Recipe, choose_recipe
from vaecodec_training.tensorboard import TensorBoard

pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")
COLUMNS = ("recall@10", "recall@100", "ndcg@10")
SMALL = Recipe(hidden=32, batch=512, checkpoints=2, learning_rate=4e-3, epochs=2)


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trials last an epoch, whatever this machine has time for just now."""
    monkeypatch.setattr(dividing, "_LONGEST", 1.0)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def test_a_fit_ships_the_learned_codec_where_it_wins(sample, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    # Of 2 epochs, and at the end of at most 5, not of as many as this machine has time for just now.
    monkeypatch.setattr(searching._Search, "_pace", lambda *_: {"epoch_seconds": 3.0, "run_seconds": 0.0})
    monkeypatch.setattr(dividing, "_LONGEST", 5.0)
    for name in ("train", "train_queries"):
        np.save(tmp_path / f"{name}.npy", getattr(sample, name)[:2_500])
    (tmp_path / "recipe.toml").write_text(SMALL.replace(temperature=0.1, objective=Aim.RELEVANCE).to_toml())
    out = tmp_path / "fit"
    arguments = ["fit", str(tmp_path / "train.npy"), "--queries", str(tmp_path / "train_queries.npy")]
    arguments += ["--pairs", "aligned", "--dims", "16,32,64", "--budget", "200s"]
    arguments += ["--recipe", str(tmp_path / "recipe.toml"), "--out", str(out)]
    text = run(arguments, capsys)
    # Pairs are known: it finds more relevant documents than any linear codec, and fewer of the old neighbours.
    assert "The learned codec ships: ndcg@10 minus that of svd: +0." in text
    assert "It keeps fewer of the neighbours: recall@100 minus that of svd-dot: -0." in text
    content = json.loads((out / "run.json").read_text())
    trials = ["relevance as asked", "relevance", "relevance mlp", "relevance mlp noise"]
    assert list(content["steps"])[:6] == ["baselines", "pace", *trials]
    last = ["tune length", "final", "default", "neighbours", "full width", "frontier", "gate"]
    assert list(content["steps"])[-7:] == last
    lengths = {name: step["recipe"]["epochs"] for name, step in content["steps"].items() if "recipe" in step}
    short = lengths["relevance"]
    assert short == 2
    assert lengths["tune length"] == 2 * short
    widest = [step for step in content["steps"].values() if step.get("recipe", {}).get("dim") == 32]
    figures = [step["validation"]["ndcg@10"]["mean"] for step in widest if step["recipe"]["epochs"] == short]
    longer = content["steps"]["tune length"]["validation"]["ndcg@10"]["mean"]
    assert (lengths["final"] > short) == (longer > max(figures))
    codec = Codec.load(out / "codec.onnx")
    assert codec.code_dim == content["steps"]["knee"]["dim"] == 32
    assert codec.metadata.provenance["confirmation"]["codec"]["recall@10"]["mean"] > 0.4
    assert (out / "recall.png").stat().st_size > 5_000
    final, gate = content["steps"]["final"], content["steps"]["gate"]["confirmation"]
    better = max((content["steps"][name] for name in ("final", "default")), key=lambda step: step["worth"])
    assert Recipe.load(out / "recipe.toml").to_dict() == better["recipe"]
    rows = {
        cells[0]: cells[1:]
        for cells in ([cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines())
        if cells
    }

    def shown(figures: dict) -> list[str]:
        return ["{mean:.3f}".format(**figures[metric]) for metric in COLUMNS]

    assert rows["final"] == ["32 floats", *shown(final["validation"]), f"{final['seconds']:.1f}"]
    assert rows["sweep 16"][0] == "16 floats"
    assert {name: rows[name] for name in gate} == {name: ["32 floats", *shown(gate[name]), ""] for name in gate}
    # The fair opponent is a codec file, too, and the next command says so.
    opponent = Codec.load(out / "full-width.onnx")
    assert opponent.code_dim == opponent.dim == sample.train.shape[1]
    assert opponent.metadata.provenance["recipe"]["objective"] == "relevance"
    assert f"--adapter {out / 'full-width.onnx'}" in text.replace("\n", " ")


def test_a_fit_ships_the_linear_codec_where_that_wins(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    noise = np.random.default_rng(0).normal(size=(3_000, 32)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    (tmp_path / "recipe.toml").write_text(SMALL.to_toml())
    arguments = ["fit", str(tmp_path / "noise.npy"), "--dims", "16", "--budget", "1s", "--out", str(tmp_path / "fit")]
    text = run([*arguments, "--recipe", str(tmp_path / "recipe.toml")], capsys)
    content = json.loads((tmp_path / "fit" / "run.json").read_text())
    assert not content["steps"]["gate"]["passed"]
    over = content["steps"]["gate"]["over"]
    lines = text.splitlines()
    width = next(number for number, line in enumerate(lines) if line.startswith("Width 16: "))
    verdict = "The learned codec's gain is not significant: exporting the linear codec."
    assert lines[width - 1].startswith(f"{verdict} Recall@10 minus that of {over}: ")
    codec = Codec.load(tmp_path / "fit" / "codec.onnx")
    assert codec.metadata.kind == "linear"
    assert over in codec.metadata.provenance["gate"]
    # Noise is nearer to its neighbours in fewer dimensions, but where latents are compared by dot product.
    assert 0 < scores_of(codec).scale < (1 if codec.latent_metric == "cosine" else 1.05)
    codes = codec.encode(noise, dtype="int8")
    similar = np.einsum("ij,ij->i", codec.decode(codes, dtype="int8"), codec.decode(codec.encode(noise)))
    assert similar.min() > 0.99
    monitor = MonitoredCodec.of(codec)
    monitor.encode(np.random.default_rng(1).normal(size=(1_000, 32)))
    assert not monitor.check().drifted
    monitor.encode(np.random.default_rng(1).normal(0.3, size=(1_000, 32)))
    assert monitor.check().drifted


def test_an_interrupted_fit_goes_on_where_it_was(sample, tmp_path: Path, monkeypatch) -> None:
    collection = Collection.open(ArraySource(sample.train[:2_000]), confirmation=0.1)

    def stop_after_vae(name: str, figures: dict) -> None:
        if name == "vae":
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"dims": (16,), "budget": 600.0, "recipe": SMALL}
    with pytest.raises(KeyboardInterrupt):
        searching.search(collection, tmp_path, **settings, on_step=stop_after_vae)
    kept = json.loads((tmp_path / "run.json").read_text())["steps"]
    assert list(kept) == ["baselines", "pace", "autoencoder", "vae"]

    def die_between_the_files(run: Path, checkpoint: Checkpoint) -> None:
        record = (run / "run.json").read_bytes()
        save_checkpoint(run, checkpoint)
        (run / "run.json").write_bytes(record)
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(searching, "save_checkpoint", die_between_the_files)
        with pytest.raises(KeyboardInterrupt):
            searching.search(collection, tmp_path, **settings)
    result = searching.search(collection, tmp_path, **settings)
    assert "gate" in load_checkpoint(result.run).provenance
    assert {name: result.content["steps"][name] for name in kept} == kept
    with pytest.raises(CheckpointError, match="expected a fit of the same budget"):
        searching.search(collection, tmp_path, **{**settings, "budget": 300.0})


def test_a_shift_measured_by_other_threads_is_no_other_fit(sample, tmp_path: Path) -> None:
    collection = Collection.open(
        ArraySource(sample.train[:2_000]), ArraySource(sample.train_queries[:2_000]), confirmation=0.1
    )
    assert collection.shift is not None
    moved = replace(collection, shift=replace(collection.shift, mean_gap=collection.shift.mean_gap * (1 + 1e-12)))

    def stop(name: str, figures: dict) -> None:
        raise KeyboardInterrupt

    for opened in (collection, moved):
        with pytest.raises(KeyboardInterrupt):
            searching.search(opened, tmp_path, dims=(16,), budget=2.0, recipe=SMALL, on_step=stop)


def test_a_target_for_the_kl_is_kept_by_every_step_but_the_autoencoder(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train[:1_500]), confirmation=0.1)
    recipe = SMALL.replace(kl_target=20.0, checkpoints=1)
    result = searching.search(collection, tmp_path, dims=(16,), budget=600.0, recipe=recipe)
    recipes = {name: step["recipe"] for name, step in result.content["steps"].items() if "recipe" in step}
    aims = [(recipes[name]["kl"], recipes[name]["kl_target"]) for name in ("autoencoder", "vae", "alignment", "queue")]
    assert aims == [(0, 0), (1e-4, 20), (1e-4, 20), (1e-4, 20)]
    assert "gate" in result.content["steps"]


def test_what_cannot_be_fitted_is_refused_before_any_step(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train[:1_000]), confirmation=0.1)
    with pytest.raises(RecipeError, match="objective: expected pairs of queries and documents for relevance, got none"):
        searching.search(collection, tmp_path / "fit", dims=(16,), recipe=SMALL.replace(objective=Aim.RELEVANCE))
    with pytest.raises(RecipeError, match="asymmetric: expected queries to train the query encoder on, got none"):
        searching.search(collection, tmp_path / "fit", dims=(16,), recipe=SMALL.replace(asymmetric=True))
    assert not (tmp_path / "fit").exists()


def test_a_budget_without_time_for_trials_is_spent_on_the_recipe_alone(sample, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(searching._Search, "_pace", lambda *_: {"epoch_seconds": 4.0, "run_seconds": 1.0})
    collection = Collection.open(ArraySource(sample.train[:1_000, :24]), confirmation=0.1)
    settings: dict[str, Any] = {"dims": (8, 16), "recipe": SMALL.replace(checkpoints=1)}
    message = (
        r"a budget of 20 s has no time for trials: the recipe as it is takes about 9 s \(2 epochs of 4\.0 s\), and "
        r"trials would take at least 58 s more; .* give a budget of 74 s or more"
    )
    with pytest.warns(BudgetWarning, match=message):
        result = searching.search(collection, tmp_path / "20s", budget=20.0, **settings)
    steps = result.content["steps"]
    assert list(steps) == ["baselines", "pace", "knee", "final", "gate"]
    linear = {
        width: max(figures["recall@10"]["mean"] for figures in kinds.values())
        for width, kinds in steps["baselines"].items()
    }
    assert (steps["knee"]["of"], steps["knee"]["recall@10"]) == ("linear codecs", linear)
    assert result.recipe == settings["recipe"].replace(dim=16)
    result.draw(tmp_path / "linear.png")
    assert (tmp_path / "linear.png").stat().st_size > 5_000

    def stop(name: str, figures: dict) -> None:
        if name == "autoencoder":
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("error", BudgetWarning)
        with pytest.raises(KeyboardInterrupt):
            searching.search(collection, tmp_path / "70s", budget=70.0, on_step=stop, **settings)
    assert json.loads((tmp_path / "70s" / "run.json").read_text())["steps"]["autoencoder"]["recipe"]["epochs"] == 1


def test_the_final_run_is_no_longer_than_there_is_time_for(sample, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(searching._Search, "_pace", lambda *_: {"epoch_seconds": 4.0, "run_seconds": 1.0})
    collection = Collection.open(ArraySource(sample.train[:1_000, :24]), confirmation=0.1)
    lengths = {}
    for spent in (0.1, 30.0):
        # Steps that ended before tell how much time is gone.
        monkeypatch.setattr(searching, "taken", lambda _, spent=spent: spent)
        settings: dict[str, Any] = {"dims": (8,), "recipe": SMALL.replace(checkpoints=1, epochs=6)}
        result = searching.search(collection, tmp_path / f"{spent:g}", budget=150.0, **settings)
        lengths[spent] = {
            name: step["recipe"]["epochs"] for name, step in result.content["steps"].items() if "recipe" in step
        }
    assert all(found["default"] == 6 for found in lengths.values() if "default" in found)
    assert lengths[0.1]["final"] >= 6
    assert lengths[30.0]["final"] <= 2


def test_stages_of_codes_are_fitted_for_the_codec_that_ships_alone(sample, tmp_path: Path, monkeypatch) -> None:
    fitted: list[int] = []
    original = Calibration.with_residual

    def noted(self: Calibration, *arguments: Any, **settings: Any) -> Calibration:
        fitted.append(self.code_dim)
        return original(self, *arguments, **settings)

    monkeypatch.setattr(Calibration, "with_residual", noted)
    collection = Collection.open(ArraySource(sample.train[:1_200, :24]), confirmation=0.1)
    done = fit(collection, tmp_path, dims=(8,), budget=600.0, recipe=SMALL.replace(checkpoints=1))
    assert len([step for step in done.search.content["steps"].values() if "validation" in step]) == 10
    assert fitted == [8]
    assert codes_of(Codec.load(done.codec)).code_dim == 8
    # The other trials can be exported, too.
    export_checkpoint(tmp_path / "runs" / "alignment", tmp_path / "trial.onnx")
    assert codes_of(Codec.load(tmp_path / "trial.onnx")).code_dim == 8


def test_a_fit_for_neighbours_shows_what_relevance_would_give_where_pairs_are_known(sample, tmp_path: Path) -> None:
    documents, queries = (ArraySource(rows[:1_000, :24]) for rows in (sample.train, sample.train_queries))
    collection = Collection.open(documents, queries, pairs="aligned", confirmation=0.1)
    result = searching.search(collection, tmp_path, dims=(8,), budget=600.0, recipe=SMALL.replace(checkpoints=1))
    steps = result.content["steps"]
    trials = ["relevance", "relevance mlp", "relevance mlp noise", "relevance final"]
    assert list(steps)[-9:] == ["default", "relevance pace", *trials, "full width", "frontier", "gate"]
    assert {steps[name]["recipe"]["objective"] for name in (*trials, "full width")} == {"relevance"}
    assert result.recipe.objective is Aim.NEIGHBOURS
    # The opponent is trained as the trial is, but for its width.
    wide, narrow = (dict(steps[name]["recipe"]) for name in ("full width", "relevance final"))
    assert (wide.pop("dim"), narrow.pop("dim")) == (24, 8)
    assert wide == narrow
    assert {point.name for point in result.points} >= {"uncompressed", "best linear by figure", *trials}
    assert any(line.startswith("Old neighbours kept against right documents found") for line in result.lines)


@pytest.mark.parametrize("objective", list(Aim))
def test_codes_have_a_frontier_of_what_they_store(sample, tmp_path: Path, monkeypatch, objective: Aim) -> None:
    monkeypatch.setattr(searching._Search, "_pace", lambda *_: {"epoch_seconds": 20.0, "run_seconds": 0.0})
    documents, queries = (ArraySource(rows[:1_000, :24]) for rows in (sample.train, sample.train_queries))
    collection = Collection.open(documents, queries, pairs="aligned", confirmation=0.1)
    short: dict[str, Any] = {"epochs": 1.0, "batch": 256, "checkpoints": 1}
    recipe = choose_recipe(width=24, rows=1_000, target="8", objective=objective, paired=True).replace(**short)
    result = searching.search(collection, tmp_path, budget=1_000.0, recipe=recipe)
    steps = result.content["steps"]
    trials = ["relevance", "relevance mlp", "relevance mlp noise", "relevance mlp heavier"]
    others = {Aim.NEIGHBOURS: [*trials, "relevance final"], Aim.RELEVANCE: ["neighbours"]}[objective]
    aims = {name: steps[name]["recipe"]["objective"] for name in (*others, *trials)}
    assert aims == {name: name.split()[0] for name in aims}
    assert {tuple(steps[name]["recipe"]["target_bytes"]) for name in aims} == {(8,)}
    assert steps["full width"]["recipe"]["target_bytes"] == []
    stored = {point.name: point.stored for point in result.points}
    assert {stored[name] for name in aims} == {"codes of 8 bytes"}
    assert stored["uncompressed + the same training"] == stored["uncompressed"] == "24 floats"
    (line,) = [line for line in result.lines if line.startswith("Old neighbours kept against right documents found")]
    assert "best linear by figure (codes of 8 bytes): recall@10 0." in line


def test_runs_that_are_not_to_win_do_not_warn_of_losing(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train[:1_000]), confirmation=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = searching.search(
            collection, tmp_path, dims=(16,), budget=600.0, recipe=SMALL.replace(learning_rate=1e-9)
        )
    said = sum(each.category is BelowBaselineWarning for each in caught)
    runs = {name: step["warnings"] for name, step in result.content["steps"].items() if "warnings" in step}
    assert runs["autoencoder"]  # kept in the file all the same
    assert said == sum("use the linear codec" in text for found in runs.values() for text in found) - 1 > 2


@pytest.mark.parametrize(
    ("recalls", "dim", "reason"),
    [
        (
            {32: 0.45, 64: 0.66, 128: 0.71, 192: 0.75},
            64,
            "from 32 to 64 latents each 4 bytes buy 0.0066 recall@10, from there to 128 only 0.0008",
        ),
        (
            {32: 0.5, 64: 0.71, 128: 0.6},
            64,
            "from 32 to 64 latents each 4 bytes buy 0.0066 recall@10, from there to 128 only -0.0017",
        ),
        (
            {32: 0.1, 64: 0.2, 128: 0.9},
            128,
            "recall@10 rises evenly or ever faster, from 0.100 at 32 latents to 0.900; no knee up to 128",
        ),
        (
            {32: 0.2, 64: 0.3, 128: 0.503, 192: 0.7},
            192,
            "recall@10 rises evenly or ever faster, from 0.200 at 32 latents to 0.700; no knee up to 192",
        ),
        (
            {32: 0.5, 64: 0.504, 128: 0.502},
            32,
            "recall@10 is 0.500 there and at most 0.504 up to 128 latents, within noise",
        ),
        ({32: 0.5, 64: 0.6}, 64, "the larger of two; a knee takes at least three"),
        ({32: 0.5, 64: 0.503}, 32, "recall@10 is 0.500 there and at most 0.503 up to 64 latents, within noise"),
        ({64: 0.6}, 64, "the only width asked for"),
    ],
)
def test_the_knee_lies_where_bytes_begin_to_buy_less(recalls: dict[int, float], dim: int, reason: str) -> None:
    assert knee(recalls) == (dim, reason)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_budgets_are_durations(text: str, expected: float) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["10", "m", "-1m", "nans", ""])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"expected a duration such as 90s, 10m or 1\.5h"):
        duration(text)


def test_widths_and_a_confirmation_part_are_asked_for(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train[:1_000]))
    with pytest.raises(RecipeError, match="expected widths from 1 to 384"):
        searching.search(collection, tmp_path, dims=(500,))
    with pytest.raises(RecipeError, match="expected a collection with a confirmation part"):
        searching.search(collection, tmp_path, dims=(64,))


def test_train_and_export_from_the_command_line(sample, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    np.save(tmp_path / "train.npy", sample.train[:2_000])
    made = tmp_path / "folder" / "that the run makes"
    arguments = ["train", str(tmp_path / "train.npy"), "--dim", "32", "--nested", "8,16", "--epochs", "4"]
    arguments += ["--out", str(made / "run"), "--export", str(made / "vae32.onnx"), "--tensorboard"]
    text = run(arguments, capsys)
    assert "vectors of 384 dimensions, cosine" in text
    validation = load_checkpoint(made / "run").provenance["validation"]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "] │" in line]
    assert [row[0] for row in rows] == list(validation["codec"])
    for figure, ours, linear, kind, difference in rows:
        others = {name: figures[figure]["mean"] for name, figures in validation.items() if name != "codec"}
        assert float(linear) == pytest.approx(max(others.values()), abs=6e-4)
        assert others[kind] == max(others.values())
        assert float(difference.split()[0]) == pytest.approx(float(ours) - float(linear), abs=2e-3)
    assert Codec.load(made / "vae32.onnx", dim=16).encode(sample.base[:3]).shape == (3, 16)
    events = EventAccumulator(str(made / "run" / "tensorboard")).Reload()
    history = load_checkpoint(made / "run").provenance["diagnostics"]["history"]
    validated = events.Scalars("validation/recall@10")
    # An observer hears of a checkpoint at the step after it, so of all but the last.
    assert [each.value for each in validated] == pytest.approx([entry["recall"] for entry in history[:-1]])
    losses = [each.value for each in events.Scalars("loss")]
    assert [each.step for each in events.Scalars("loss")] == list(range(1, history[-1]["step"] + 1))
    first = history[0]
    assert np.mean(losses[: first["step"]]) == pytest.approx(first["loss"], rel=1e-4)


def test_without_tensorboard_the_error_names_an_extra_that_installs_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vaecodec\[(\w+)\]'") as caught:
        TensorBoard(tmp_path)
    extra = re.search(r"\[(\w+)\]", str(caught.value))[1]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("tensorboard>") for each in project["optional-dependencies"][extra])


@pytest.mark.parametrize("command", ["train", "fit"])
def test_columns_are_named_where_there_are_several(sample, command: str, tmp_path: Path, capsys) -> None:
    np.savez(tmp_path / "all.npz", docs=sample.train[:1_000, :64], titles=sample.train_queries[:1_000, :64])
    (tmp_path / "recipe.toml").write_text(SMALL.to_toml())
    arguments = [command, str(tmp_path / "all.npz"), "--queries", str(tmp_path / "all.npz"), "--out"]
    arguments += [str(tmp_path / "run"), "--recipe", str(tmp_path / "recipe.toml")]
    arguments += ["--dim", "8", "--epochs", "1"] if command == "train" else ["--dims", "8", "--budget", "1s"]
    for named, missing in (([], "--column"), (["--column", "docs"], "--query-column")):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *named])
        assert ended.value.code == 1
        wanted = f"several arrays hold vectors: docs, titles; say which is meant, with {missing}"
        assert wanted in capsys.readouterr().err
    run([*arguments, "--column", "docs", "--query-column", "titles"], capsys)
    data = load_checkpoint(tmp_path / "run" / "runs" / "final" if command == "fit" else tmp_path / "run").provenance[
        "data"
    ]
    assert data["fingerprint"] == check(ArraySource(sample.train[:1_000, :64])).fingerprint
    assert data["queries_fingerprint"] == check(ArraySource(sample.train_queries[:1_000, :64])).fingerprint


@pytest.mark.parametrize(("target", "size"), [("24", 24), ("int2", 12)])
def test_a_target_on_the_command_line_trains_with_the_recipe_for_codes(
    sample, tmp_path: Path, target, size, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("train", "train_queries"):
        np.save(tmp_path / f"{name}.npy", getattr(sample, name)[:2_000, :96])
    arguments = ["train", str(tmp_path / "train.npy"), "--queries", str(tmp_path / "train_queries.npy")]
    arguments += ["--pairs", "aligned", "--target", target, "--epochs", "1", "--out", str(tmp_path / "run")]
    arguments += ["--export", str(tmp_path / "codec.onnx"), *([] if target == "24" else ["--dim", "48"])]
    assert f"Held-out rows through codes of {size} bytes" in run(arguments, capsys)
    parameters = {"bytes": 24} if target == "24" else {"dtype": target}
    codec = Codec.load(tmp_path / "codec.onnx")
    assert codec.encode(sample.base[:3, :96], **parameters).shape == (3, size)
    recipe = load_checkpoint(tmp_path / "run").recipe
    wanted: dict[str, Any] = {"target_bytes": (24,), "dim": 96} if target == "24" else {"target": "int2", "dim": 48}
    assert recipe == Recipe.for_code(**wanted, paired=True, epochs=1.0)


def test_fit_is_for_one_process(sample, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    np.save(tmp_path / "few.npy", sample.train[:2])  # refused before it is read
    with pytest.raises(SystemExit) as ended:
        main(["fit", str(tmp_path / "few.npy"), "--out", str(tmp_path / "fit")])
    assert ended.value.code == 1
    assert "fit: expected one process, got WORLD_SIZE = 2; start it without torchrun" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="expected one process"):
        searching.search(Collection.open(ArraySource(sample.train[:1_000]), confirmation=0.1), tmp_path / "fit")
    assert not (tmp_path / "fit").exists()


@pytest.mark.parametrize(("command", "how"), [("train", "with --resume to go on from"), ("fit", "to go on from")])
def test_whoever_interrupts_is_told_how_to_go_on(
    sample, command: str, how: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for name in ("train", "train_queries"):
        np.save(tmp_path / f"{name}.npy", getattr(sample, name)[:1_500])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    arguments = [command, str(tmp_path / "train.npy"), "--queries", str(tmp_path / "train_queries.npy")]
    short = ["--dims", "16", "--budget", "1s"] if command == "fit" else ["--dim", "16", "--epochs", "1"]
    arguments += ["--out", str(tmp_path / "run"), *short]
    with monkeypatch.context() as patch:
        patch.setattr("vaecodec_cli.progress.TrainingBar.__call__", interrupt)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    assert ended.value.code == 130
    text = capsys.readouterr().out
    assert f"Interrupted; repeat the command {how} {tmp_path / 'run'}." in text
    assert "train.npy: 1,500 vectors" in text
    assert "train_queries.npy: 1,500 vectors" in text
    if command == "train":
        run([*arguments, "--resume"], capsys)
