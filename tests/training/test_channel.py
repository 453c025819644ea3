"""Test training for codes: the channel that stands for the quantiser, and what it leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaecodec import Codec, Metric, fit_linear
from vaecodec.codes import Calibration, TrellisTables
from vaecodec.errors import RecipeError
from vaecodec.evaluation import exact_search, recall
from vaecodec.sources import ArraySource
from vaecodec_cli.info import info
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_training.channel import Channel, in_units_of_spread, learned_rotation, through_code
from vaecodec_training.data.collection import Collection
from vaecodec_training.model import ResidualMap, VariationalCodec
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train


def recipe_for(**settings) -> Recipe:
    return Recipe(**{"dim": 32, "kl": 0.0, "hidden": 0, **settings})


def latents(rows: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.standard_normal((rows, 32)) * np.geomspace(1, 0.1, 32) + 0.1).astype(np.float32)


def measured(recipe: Recipe) -> Channel:
    channel = Channel(recipe, Metric.DOT)
    channel.measure(latents(4000))
    return channel


def test_the_channel_has_the_distortion_of_the_code() -> None:
    rows = latents(4000)
    channel = measured(recipe_for(target_bytes=(12,)))
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32))
    sampled = channel(torch.from_numpy(rows), noise, 0).numpy()
    code: Any = Calibration.fit(rows, Metric.DOT).code(bytes=12)
    coded = code.decode(code.encode(rows))
    variance = rows.var(axis=0)
    bits = code.bits
    assert np.allclose(((sampled - rows) ** 2).mean(axis=0) / variance, _distortion(bits), rtol=0.08)
    assert ((sampled - rows) ** 2).sum() == pytest.approx(((coded - rows) ** 2).sum(), rel=0.08)
    assert np.allclose(sampled.var(axis=0), variance * (1 - _distortion(bits)), rtol=0.1, atol=1e-9)


def _distortion(bits: np.ndarray) -> np.ndarray:
    return np.concatenate([[1], TrellisTables.standard().distortion])[bits]


@pytest.mark.parametrize("target", ["int8", "int4", "int2", "binary"])
def test_the_channel_errs_as_much_as_the_uniform_code(target: str) -> None:
    rows = latents(4000)
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32))
    sampled = measured(recipe_for(target=target))(torch.from_numpy(rows), noise, 0).numpy()
    code = Calibration.fit(rows, Metric.DOT).code(dtype=target)
    coded = code.decode(code.encode(rows))
    assert ((sampled - rows) ** 2).sum() == pytest.approx(((coded - rows) ** 2).sum(), rel=0.15)


def test_several_budgets_take_turns() -> None:
    channel = measured(recipe_for(target_bytes=(8, 16)))
    rows = torch.from_numpy(latents(2000))
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    errors = [float((channel(rows, noise, step) - rows).square().mean()) for step in range(4)]
    assert errors[0] == errors[2] > 2 * errors[1] == 2 * errors[3]


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BelowBaselineWarning")
def test_a_small_budget_after_a_large_one_is_no_instability(sample, tmp_path: Path) -> None:
    """Train with losses far apart; an InstabilityWarning would be an error here."""
    collection = Collection.open(ArraySource(sample.train), ArraySource(sample.train_queries))
    recipe = Recipe(dim=96, hidden=0, kl=0.0, target_bytes=(8, 48, 60), epochs=2.0, learning_rate=1e-3, checkpoints=1)
    result = train(collection, recipe, tmp_path / "run", accelerator="cpu")
    assert len(result.checkpoint.provenance["rates"]) == 3


def test_the_kl_is_the_rate_of_the_code_up_to_the_loss_of_the_trellis() -> None:
    (rate,) = measured(recipe_for(target_bytes=(12,))).rates
    assert rate["code_bits"] == 96
    assert 0.85 * 96 < rate["kl_bits"] < 96


def test_bits_follow_the_spread_of_the_latents() -> None:
    channel = measured(recipe_for(target_bytes=(12,)))
    before = channel.distortion.clone()
    channel.measure(latents(4000)[:, ::-1].copy())
    assert before[0, 0] < before[0, -1]
    assert channel.distortion[0, 0] > channel.distortion[0, -1]


def test_units_of_spread_change_nothing_but_the_steps() -> None:
    encoder = ResidualMap(8, 4, 6, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(encoder.output.weight)
    rows = torch.randn(10, 8)
    before = encoder(rows)
    in_units_of_spread(encoder, torch.tensor([1.0, 0.1, 0.01, 0.0]))
    assert torch.allclose(encoder(rows), before, atol=1e-6)
    for parameter in encoder.parameters():
        parameter.grad = None
    encoder(rows).sum().backward()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    weight = encoder.linear.weight.detach().clone()
    optimizer.step()
    moved = (encoder.linear.weight - weight).abs().mean(dim=1)
    assert torch.allclose(moved[:3] / moved[0], torch.tensor([1.0, 0.1, 0.01]).sqrt(), rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "int3"}, "target: expected one of int8, int4, int2, binary, got 'int3'"),
        ({"target": "int4", "target_bytes": (32,)}, "target, target_bytes: expected one of them, got both"),
        ({"trellis_memory": 9}, "trellis_memory: expected one of 8, 10, 12 bits, got 9"),
        ({"target_bytes": (48, 32)}, "target_bytes: expected ascending numbers from 8 up, got [48, 32]"),
        (
            {"target_bytes": (48,), "kl": 0.01},
            "kl: expected 0, as the code fixes the posterior's noise and its rate, got 0.01",
        ),
    ],
)
def test_contradictions_are_refused(settings, message) -> None:
    with pytest.raises(RecipeError) as refusal:
        recipe_for(**settings)
    assert str(refusal.value) == message


def test_one_number_of_bytes_will_do_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("target_bytes = 48\nkl = 0\n")
    assert Recipe.load(path).target_bytes == (48,)
    path.write_text(Recipe.load(path).to_toml())
    assert Recipe.load(path).target_bytes == (48,)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT])
def test_a_learned_rotation_makes_codes_lose_less(sample, metric: Metric) -> None:
    linear = fit_linear(sample.train, 96, metric=metric)
    fitted_on, held_out = linear.encode(sample.train), linear.encode(sample.base)

    def loss(dtype: str, rotation: np.ndarray) -> float:
        code = Calibration.fit(fitted_on @ rotation, metric).code(dtype=dtype)
        decoded = code.decode(code.encode(held_out @ rotation)) @ rotation.T
        return float(((decoded - held_out) ** 2).sum())

    for dtype in ("int2", "binary"):
        rotation = learned_rotation(fitted_on, Calibration.fit(fitted_on, metric).code(dtype=dtype))
        assert np.allclose(rotation @ rotation.T, np.eye(96), atol=1e-5)
        assert loss(dtype, rotation) < 0.97 * loss(dtype, np.eye(96, dtype=np.float32))
    for code in ({"dtype": "int4"}, {"bytes": 24}):
        assert np.array_equal(learned_rotation(fitted_on, Calibration.fit(fitted_on, metric).code(**code)), np.eye(96))


def test_a_rotated_model_compares_and_reconstructs_as_before() -> None:
    model = VariationalCodec(24, 12, hidden=16, decoder_hidden=8, asymmetric=True, seed=1)
    torch.nn.init.normal_(model.encoder.output.weight)
    torch.nn.init.normal_(model.query_encoder.output.weight)
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32))
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        before = model.encode(rows), model.encode_queries(rows), model.decode(model.encode(rows))
        model.rotate(rotation)
        after = model.encode(rows), model.encode_queries(rows), model.decode(model.encode(rows))
    assert torch.allclose(after[0], before[0] @ rotation, atol=1e-5)
    assert torch.allclose(after[1], before[1] @ rotation, atol=1e-5)
    assert torch.allclose(after[2], before[2], atol=1e-5)


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")
def test_training_for_a_code_beats_the_same_code_untrained(sample, tmp_path: Path, capsys, monkeypatch) -> None:
    np.save(tmp_path / "documents.npy", sample.train)
    np.save(tmp_path / "queries.npy", sample.train_queries)
    from vaecodec.sources import open_source

    collection = Collection.open(open_source(tmp_path / "documents.npy"), open_source(tmp_path / "queries.npy"))
    recipe = Recipe(
        dim=160, hidden=0, kl=0.0, target_bytes=(24,), trellis_memory=8, epochs=8.0, learning_rate=1e-3, checkpoints=2
    )
    result = train(collection, recipe, tmp_path / "run", accelerator="cpu")
    assert result.checkpoint.kind == "vae"
    export_checkpoint(tmp_path / "run", tmp_path / "codec.onnx")
    codec = Codec.load(tmp_path / "codec.onnx")
    assert codec.calibration.trellis.memory == 8
    (rate,) = codec.metadata.provenance["rates"]
    assert 0.85 * 192 < rate["kl_bits"] < rate["code_bits"] == 192
    monkeypatch.setenv("COLUMNS", "120")
    info(tmp_path / "codec.onnx")
    assert f"codes of 192 bits, by the model's KL {rate['kl_bits']:.0f}" in capsys.readouterr().out
    linear = collection.linear(160, collection.start_kind)
    untrained = Calibration.fit(linear.encode(sample.train), Metric.COSINE, memory=8).code(bytes=24)
    truth, _ = exact_search(sample.base, sample.queries, 10, Metric.COSINE)

    def recall_of(decoded: np.ndarray, queries: np.ndarray) -> float:
        return float(recall(exact_search(decoded, queries, 10, Metric.COSINE)[0], truth, 10).mean())

    before = recall_of(
        untrained.decode(untrained.encode(linear.encode(sample.base))), linear.encode_queries(sample.queries)
    )
    code = codec.code(bytes=24)
    after = recall_of(code.decode(codec.encode(sample.base, bytes=24)), codec.encode_queries(sample.queries))
    assert after > before


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")
@pytest.mark.parametrize("aim", [{"target": "binary"}, {"target_bytes": (16, 24, 40)}])
def test_validation_figures_are_those_of_the_code_that_is_served(sample, aim: dict, tmp_path: Path) -> None:
    sources = ArraySource(sample.train[:3_000]), ArraySource(sample.train_queries[:3_000])
    collection = Collection.open(*sources, validation=0.3)
    recipe = Recipe(dim=64, hidden=0, kl=0.0, epochs=2.0, batch=256, learning_rate=1e-3, checkpoints=1, **aim)
    result = train(collection, recipe, tmp_path / "run", accelerator="cpu")
    export_checkpoint(tmp_path / "run", tmp_path / "codec.onnx")
    codec = Codec.load(tmp_path / "codec.onnx")
    parameters = {"dtype": "binary"} if "target" in aim else {"bytes": 24}
    code = codec.code(**parameters)
    documents, queries = collection.validation.documents, collection.validation.queries
    coded = code.decode(codec.encode(documents, **parameters))
    found, _ = exact_search(coded, codec.encode_queries(queries), 10, Metric.COSINE)
    served = collection.validation.truth.recall(found, 10).mean()
    # Up to chance: uniform codes are rotated, at random for another order of the latents, and the file has its own.
    assert result.figures["recall@10"].mean() == pytest.approx(served, abs=0.02)


@pytest.mark.parametrize("aim", [{"target": "binary"}, {"target_bytes": (16,)}])
def test_what_is_validated_has_no_part_in_its_calibration(sample, aim: dict) -> None:
    sources = ArraySource(sample.train[:3_000]), ArraySource(sample.train_queries[:3_000])
    collection = Collection.open(*sources, validation=0.3)
    recipe = Recipe(dim=64, hidden=0, kl=0.0, **aim)
    encode = collection.linear(64, collection.start_kind).encode
    coded = through_code(encode, collection.calibration_sample, recipe, Metric.COSINE)
    rows = collection.validation.documents
    np.testing.assert_allclose(coded(rows[:200]), coded(rows)[:200], atol=1e-6)
    if "target_bytes" in aim:  # these are not rotated
        code = Calibration.fit(encode(collection.sample), Metric.COSINE).code(bytes=16)
        np.testing.assert_allclose(coded(rows), code.decode(code.encode(encode(rows))), atol=1e-6)
