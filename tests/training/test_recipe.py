"""Test recipes: the TOML round trip, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaecodec.errors import RecipeError
from vaecodec_training.recipe import Aim, Experimental, Recipe, Schedule, Start, TrainingPrecision, choose_recipe
from vaecodec_training.schedule import kl_factor, learning_rate_factor


@given(
    st.builds(
        Recipe,
        dim=st.integers(65, 512),
        nested_dims=st.sets(st.integers(1, 64), max_size=3).map(lambda widths: tuple(sorted(widths))),
        temperature=st.floats(1e-4, 10),
        asymmetric=st.booleans(),
        experimental=st.builds(Experimental, start=st.sampled_from(Start), kl_cycles=st.integers(1, 9)),
        schedule=st.sampled_from(Schedule),
        precision=st.sampled_from(TrainingPrecision),
        queue=st.integers(0, 10**6),
    )
)
def test_a_recipe_survives_its_file(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert Recipe.load(path) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wieght_decay = 1.0", "unknown keys wieght_decay; a recipe knows alignment, asymmetric"),
        ("dim = 64.0", "dim: expected int, got 64.0"),
        ("kl = true", "kl: expected float, got True"),
        ("dim = 0", "dim: expected from 1 to 65,536, got 0"),
        ("momentum = 1.5", "momentum: expected from 0 to 1, got 1.5"),
        ("kl = nan", "kl: expected from 0 to 1,000,000, got nan"),
        ("epochs = 0", "epochs: expected above 0 and at most 1,000,000, got 0.0"),
        ("learning_rate = 0.0", "learning_rate: expected above 0"),
        ("batch = 9223372036854775808", "batch: expected from 2 to 1,000,000"),
        (f"batch = 1{'0' * 400}", "batch: expected from 2 to 1,000,000, got 1000"),
        ("hidden = 1000000", "hidden: expected from 0 to 65,536"),
        ("alignment = 1e300", "alignment: expected from 0 to 1,000,000, got 1e+300"),
        ("weight_decay = -inf", "weight_decay: expected from 0 to 1,000,000, got -inf"),
        ('[experimental]\nstart = "svd"', "start: expected one of linear, random, got 'svd'"),
        ("[experimental]\naverage = 0.9", "unknown keys average; the table [experimental] knows kl_cycles, start"),
        ("[experimental]\nkl_cycles = 0", "kl_cycles: expected from 1 to 1,000,000, got 0"),
        ("experimental = 1", "experimental: expected a table [experimental], got 1"),
        ('nested_dims = ["a"]', "nested_dims: expected a list of integers, got ['a']"),
        ("dim = 64\nnested_dims = [64]", "nested_dims: expected ascending widths below dim = 64, got [64]"),
        ("alignment = 0\nreconstruction = 0", "there is nothing to learn"),
        ("kl = 0\nkl_target = 20", "expected kl above 0 to start the controller from"),
        ("dim = ", "not a TOML file"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_file_and_its_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_recipe_made_in_python_is_checked_as_its_file_is() -> None:
    made = Recipe(epochs=3, dim=np.int64(64), clip=np.float32(0.5), schedule="steps", nested_dims=[8, 16])  # type: ignore[arg-type]
    assert made == Recipe.from_dict(tomllib.loads(made.to_toml()))
    assert (made.epochs, made.dim, made.schedule, made.nested_dims) == (3.0, 64, Schedule.STEPS, (8, 16))
    for wrong in ({"batch": "64"}, {"epochs": True}, {"dim": 2.5}, {"nested_dims": (1.5,)}, {"learning_rate": None}):
        with pytest.raises(RecipeError, match=f"{next(iter(wrong))}: expected"):
            Recipe(**wrong)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml: no such file"):
        Recipe.load(tmp_path / "none.toml")


def test_the_learning_rate_rises_then_falls() -> None:
    cosine = Recipe(warmup=0.2)
    assert [learning_rate_factor(at, cosine) for at in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1, 0.5, 0])
    steps = Recipe(warmup=0.2, schedule=Schedule.STEPS)
    assert [learning_rate_factor(at, steps) for at in (0.1, 0.2, 0.7, 0.9)] == pytest.approx([0.5, 1, 0.1, 0.01])


def test_the_kl_weight_rises_once_or_in_cycles() -> None:
    assert [kl_factor(at, Recipe(kl_warmup=0.5)) for at in (0, 0.25, 0.5, 1)] == pytest.approx([0, 0.5, 1, 1])
    cycles = Recipe(kl_warmup=0.5, experimental=Experimental(kl_cycles=2))
    assert [kl_factor(at, cycles) for at in (0, 0.125, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0.5, 1, 0, 1, 1])
    assert kl_factor(0, Recipe(kl_warmup=0)) == 1


def test_the_documented_recipe_is_the_default_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert page.split("```toml\n")[1].split("```")[0] == Recipe().to_toml()


def test_few_rows_are_trained_on_for_as_many_steps_as_many_are() -> None:
    few, many = choose_recipe(width=384, rows=4_000), choose_recipe(width=384, rows=100_000)
    assert few.epochs * (4_000 // few.batch) == pytest.approx(550, rel=0.01)
    assert many == Recipe()
    assert choose_recipe(width=384, rows=4_000, epochs=3.0).epochs == 3
    assert choose_recipe(Recipe(batch=64), width=384, rows=4_000) == Recipe(batch=64)


def test_the_objective_chooses_the_recipe_and_the_figure_that_chooses_checkpoints() -> None:
    recipe = choose_recipe(width=384, rows=40_000, objective="relevance", dim=64)
    assert (recipe.objective, recipe.objective.figure, recipe.dim) == (Aim.RELEVANCE, "ndcg@10", 64)
    assert recipe.contrastive + recipe.alignment == 1
    assert recipe.epochs * (40_000 // recipe.batch) == pytest.approx(1_500, rel=0.01)
    assert choose_recipe(width=384).objective.figure == "recall@10"
    coded = choose_recipe(width=384, rows=40_000, objective="relevance", target="48")
    assert (coded.objective.figure, coded.target_bytes, coded.dim) == ("ndcg@10", (48,), 384)
    # Few pairs overfit a hidden layer, and codes of many pairs follow these more closely than floats do.
    few, few_coded = (choose_recipe(width=384, rows=10_000, objective="relevance", target=to) for to in ("", "48"))
    assert (recipe.hidden, coded.hidden, few.hidden, few_coded.hidden) == (512, 512, 0, 0)
    assert (recipe.contrastive, coded.contrastive, few.contrastive, few_coded.contrastive) == (0.2, 0.6, 0.2, 0.2)
    assert (recipe.input_noise, coded.input_noise, few.input_noise, few_coded.input_noise) == (0, 0, 0.2, 0)
    uniform = choose_recipe(width=384, rows=40_000, objective="relevance", target="int8")
    assert (uniform.hidden, uniform.contrastive) == (0, 0.2)
    with pytest.raises(RecipeError, match="objective: expected one of neighbours, relevance, got 'hits'"):
        choose_recipe(width=384, objective="hits")
    with pytest.raises(RecipeError, match="weight: expected from 0 to 1, got 2"):
        Recipe.for_relevance(rows=1, weight=2)
