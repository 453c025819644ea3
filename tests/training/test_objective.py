"""Test the objective's terms, and the state and settings of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from vaecodec.errors import RecipeError
from vaecodec.sources import ArraySource
from vaecodec_training import losses
from vaecodec_training.data.batches import Batch, Batches
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.negatives import hard_negatives
from vaecodec_training.losses import distillation
from vaecodec_training.model import VariationalCodec, parameter_groups
from vaecodec_training.objective import Objective
from vaecodec_training.processes import Processes
from vaecodec_training.recipe import Recipe
from vaecodec_training.schedule import in_force
from vaecodec_training.start import start_model
from vaecodec_training.state import RunState
from vaecodec_training.trainer import refuse_mismatch

SMALL = Recipe(dim=32, hidden=32, batch=256, epochs=2, checkpoints=3)
# Two epochs do not beat the linear codec significantly; the tests that are about something else do not mind.
pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BelowBaselineWarning")


@pytest.fixture(scope="module")
def collection(sample) -> Collection:
    return Collection.open(
        ArraySource(sample.train[:2_500]), ArraySource(sample.train_queries[:2_500]), pairs="aligned"
    )


def objective(collection: Collection, recipe: Recipe) -> tuple[Objective, VariationalCodec, Batch]:
    """Return the objective at the start of a run, the model there, and the first batch."""
    processes = Processes(Fabric(accelerator="cpu", devices=1))
    model = start_model(collection, recipe)
    batch = Batches(collection, recipe, 1).at(0, 0, torch.device("cpu"))
    return Objective(recipe, collection, model, processes), model, batch


def decayed(model: VariationalCodec, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the current weight decay, by parameter."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    return {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}


def test_matrices_decay_but_neither_biases_nor_the_log_variance(collection: Collection) -> None:
    recipe = SMALL.replace(weight_decay=0.2)
    model = start_model(collection, recipe)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=0.1)
    in_force(recipe, RunState(), 10).apply(optimizer)
    matrices = {"encoder.linear.weight", "encoder.hidden.weight", "encoder.output.weight", "decoder.linear.weight"}
    others = {name for name, _ in model.named_parameters()} - matrices
    assert {"encoder.linear.bias", "decoder.linear.bias", "log_var.weight", "log_var.bias"} <= others
    assert decayed(model, optimizer) == dict.fromkeys(matrices, 0.2) | dict.fromkeys(others, 0.0)


def test_a_decayed_matrix_shrinks(collection: Collection) -> None:
    """Shrink by ``rate * decay`` of itself a step more than without decay, as AdamW is defined."""
    moved = []
    for decay in (0.0, 0.5):
        recipe = SMALL.replace(weight_decay=decay, warmup=0.0)
        terms, model, batch = objective(collection, recipe)
        optimizer = torch.optim.AdamW(parameter_groups(model), lr=recipe.learning_rate)
        before = model.encoder.linear.weight.detach().clone()
        now = in_force(recipe, RunState(), 10)
        now.apply(optimizer)
        terms.terms(model, batch, 0).values["alignment"].backward()
        optimizer.step()
        moved.append(model.encoder.linear.weight.detach().clone())
    torch.testing.assert_close(moved[0] - moved[1], now.learning_rate * 0.5 * before, atol=1e-6, rtol=1e-3)


def test_the_queue_holds_negatives_of_the_contrastive_term(collection: Collection) -> None:
    terms, model, batch = objective(collection, SMALL.replace(contrastive=0.1, queue=64, momentum=0.0))
    assert batch.queries is not None
    with torch.no_grad():
        latents, asked = model.encoder(batch.documents), model.encoder(batch.queries)
        alone = terms.contrastive(asked, latents)
        terms.queue.push(batch.queries[:64], 3 * asked[:64], 0)
        queued = terms.contrastive(asked, latents)
    unit, keys = F.normalize(asked, dim=1), F.normalize(torch.cat([latents, asked[:64]]), dim=1)
    logits = unit @ keys.T / 0.05
    own = torch.arange(len(asked))
    assert queued.item() == pytest.approx(F.cross_entropy(logits, own).item(), rel=1e-4)
    assert alone.item() == pytest.approx(F.cross_entropy(logits[:, : len(latents)], own).item(), rel=1e-4)
    assert queued > alone + 1  # half of the queries meet themselves there


def test_without_a_queue_pairs_send_gradients_to_both_sides(collection: Collection) -> None:
    recipe = Recipe.for_relevance(rows=2_000, dim=32, batch=256, weight=1.0, input_noise=0.0)
    terms, model, batch = objective(collection, recipe)
    assert terms.key_encoder is None
    assert model.query_encoder is not None
    values = terms.terms(model, batch, 0).values
    assert batch.queries is not None
    assert set(values) == {"contrastive"}
    unit, keys = (
        F.normalize(model.query_encoder(batch.queries), dim=1),
        F.normalize(model.encoder(batch.documents), dim=1),
    )
    expected = F.cross_entropy(unit @ keys.T / 0.05, torch.arange(len(unit)))
    assert values["contrastive"].item() == pytest.approx(expected.item(), rel=1e-4)
    values["contrastive"].backward()
    for encoder in (model.encoder, model.query_encoder):
        assert encoder.linear.weight.grad is not None
        assert encoder.linear.weight.grad.norm() > 0.01


def test_noise_on_the_inputs_has_the_norm_asked_for_and_leaves_the_teacher_alone(collection: Collection) -> None:
    recipe = SMALL.replace(input_noise=0.3)
    _, _, batch = objective(collection, recipe)
    documents, queries = batch.blurred(0.3)
    assert queries is not None
    for blurred, clean in ((documents, batch.documents), (queries, batch.queries)):
        assert (blurred - clean).norm(dim=1).mean().item() == pytest.approx(0.3, rel=0.02)
    assert batch.blurred(0.0)[0] is batch.documents


def test_the_queue_holds_columns_of_the_distillation(collection: Collection) -> None:
    terms, model, batch = objective(collection, SMALL.replace(queue=64, momentum=0.0))
    documents, queued = batch.documents.split([192, 64])
    batch = replace(batch, documents=documents, queries=None)
    with torch.no_grad():
        latents, queued_latents = model.encoder(documents), 3 * model.encoder(queued)
        terms.queue.push(queued, queued_latents, 0)
        found = terms.alignment(batch, latents, None, 0)
    student = F.normalize(latents, dim=1)
    expected = losses.distillation(
        documents,
        torch.cat([documents, queued]),
        student,
        torch.cat([student, F.normalize(queued_latents, dim=1)]),
        0.05 * collection.scale,
        torch.arange(192),
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_key_encoder_moves_by_its_share_each_step(collection: Collection) -> None:
    terms, model, _ = objective(collection, SMALL.replace(momentum=0.9, queue=64))
    assert terms.key_encoder is not None
    with torch.no_grad():
        model.encoder.linear.weight.add_(1.0)
    for _ in range(2):
        before = [value.detach().clone() for value in terms.key_encoder.parameters()]
        terms.follow(model.encoder)
        for value, start, now in zip(terms.key_encoder.parameters(), before, model.encoder.parameters(), strict=True):
            torch.testing.assert_close(value, 0.9 * start + 0.1 * now)
    assert not torch.equal(terms.key_encoder.linear.weight, model.encoder.linear.weight)


def test_a_rollback_halves_the_rate_and_strengthens_the_regularisers() -> None:
    recipe = SMALL.replace(kl=0.01, kl_warmup=0.0, weight_decay=0.2, warmup=0.0)
    good = RunState(step=3, cursor=3, losses=[1.0], warnings=[["A", "a"]])
    failed = replace(good, step=5, cursor=6, losses=[1.0, 1.0, 1.0])
    back = good.rolled_back(failed)
    assert (back.step, back.cursor, back.rollbacks, back.losses) == (3, 6, 1, [1.0])
    assert (back.learning_rate_scale, back.regulariser_scale) == (0.5, 1.5)
    before, after = in_force(recipe, good, 10), in_force(recipe, back, 10)
    assert before.kl_weight == pytest.approx(0.01)
    assert after.kl_weight == pytest.approx(0.015)
    assert after.weight_decay == pytest.approx(0.3)
    assert after.learning_rate == pytest.approx(before.learning_rate / 2)
    assert good.rolled_back(back).learning_rate_scale == 0.25


def test_a_loss_of_three_times_the_median_is_a_spike() -> None:
    state = RunState()
    for loss in (1.0, 1.0, 1.0, 300.0):  # three are too few to compare with
        assert state.judge(loss, loss, 1.0) is None
    state.losses = [0.5, 1.0, 1.0, 9.0]
    assert state.judge(2.9, 2.9, 1.0) is None
    state.losses = [0.5, 1.0, 1.0, 9.0]
    assert state.judge(301.0, 1.0, 1.0) == "the loss jumped from 1 to 301"
    assert state.losses == [0.5, 1.0, 1.0, 9.0]  # a spike is no measure of later ones
    assert state.judge(1.0, float("nan"), 1.0) == "the loss is not finite"
    assert state.judge(1.0, 1.0, float("inf")) == "the gradient is not finite"


def test_targets_that_take_turns_are_compared_with_their_own_kind() -> None:
    state = RunState(losses=[1.0, 100.0] * 4)
    assert state.judge(2.0, 2.0, 1.0, turns=2) is None
    assert state.judge(120.0, 120.0, 1.0, turns=2) is None
    assert state.judge(9.0, 9.0, 1.0, turns=2) == "the loss jumped from 1 to 9"


def test_hard_negatives_are_near_their_query_and_answer_nothing(collection: Collection) -> None:
    assert collection.queries is not None
    assert collection.pairs is not None
    drawn = hard_negatives(collection, 3, seed=0)
    assert drawn.shape == (len(collection.pairs), 3)
    assert not (drawn == collection.pairs[:, 1:]).any()
    assert np.isin(drawn, collection.document_rows).all()
    rows = collection.documents.take(collection.document_rows)
    for pair in range(0, len(drawn), 97):
        query = collection.queries.take(collection.pairs[pair, :1])[0]
        scores = rows @ query
        at = np.searchsorted(collection.document_rows, drawn[pair])
        assert (scores[at] >= np.sort(scores)[-50] - 1e-6).all()
        assert len(set(drawn[pair])) == 3
    np.testing.assert_array_equal(hard_negatives(collection, 3, seed=0), drawn)
    assert (hard_negatives(collection, 3, seed=1) != drawn).any()


def test_hard_negatives_join_the_batch_after_all_other_documents(collection: Collection) -> None:
    plain, harder = (Recipe(dim=16, batch=64, hard_negatives=count) for count in (0, 2))
    without, batch = (Batches(collection, recipe, 1).at(0, 0, torch.device("cpu")) for recipe in (plain, harder))
    assert batch.queries is not None
    assert len(batch.documents) == len(without.documents) + 2 * len(batch.queries)
    assert torch.equal(batch.documents[: len(without.documents)], without.documents)
    near = (batch.queries * batch.documents[len(without.documents) :][: len(batch.queries)]).sum(1)
    assert near.mean() > 2 * (batch.queries @ without.documents.T).mean()


def test_hard_negatives_are_compared_with_the_queries_and_the_other_documents_only(collection: Collection) -> None:
    recipe = Recipe(dim=16, hidden=0, batch=64, hard_negatives=2)
    terms, model, batch = objective(collection, recipe)
    assert batch.queries is not None
    asking = model.encode_queries(batch.queries)
    latents = model.encode(batch.documents)
    others = len(batch.documents) - 2 * len(batch.queries)
    rows, own = slice(0, others, 2), torch.arange(0, others, 2)
    columns = (batch.documents, latents, terms.temperature)
    near = distillation(batch.documents[rows], columns[0], latents[rows], *columns[1:], own)
    asked = distillation(batch.queries, columns[0], asking, *columns[1:])
    torch.testing.assert_close(terms.alignment(batch, latents, asking, 0), (near + asked) / 2)


def test_soft_labels_ask_for_the_documents_that_answer(collection: Collection) -> None:
    """All of the pairs, none of the original similarities: what is then distilled is the pairs alone."""
    recipe = Recipe(dim=384, hidden=0, batch=64, soft_labels=1.0, kl=0.0, reconstruction=0.0)
    terms, _, batch = objective(collection, recipe)
    assert batch.queries is not None
    rows, columns = terms.softened(batch.queries, batch.documents, 0)
    taught = rows @ columns.T
    assert torch.equal(taught, torch.eye(len(batch.queries), len(batch.documents)))
    half, _, _ = objective(collection, recipe.replace(soft_labels=0.25))
    rows, columns = half.softened(batch.queries, batch.documents, 0)
    expected = 0.75 * batch.queries @ batch.documents.T + 0.25 * taught
    torch.testing.assert_close(rows @ columns.T, expected)


def test_grades_weigh_the_pairs_of_a_batch(sample) -> None:
    rows = np.arange(600)
    pairs = np.stack([rows, rows, 1 + rows % 2], axis=1)
    graded = Collection.open(ArraySource(sample.train[:600]), ArraySource(sample.train_queries[:600]), pairs=pairs)
    batch = Batches(graded, Recipe(dim=16, batch=64), 1).at(0, 0, torch.device("cpu"))
    assert batch.weights is not None
    low, high = np.unique(batch.weights.numpy())
    assert high == pytest.approx(2 * low)
    assert (low + high) / 2 == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("setting", [{"hard_negatives": 2}, {"soft_labels": 0.3}])
def test_settings_of_pairs_need_pairs(sample, setting: dict[str, Any]) -> None:
    without = Collection.open(ArraySource(sample.train[:600]), ArraySource(sample.train_queries[:600]))
    with pytest.raises(RecipeError, match=f"{next(iter(setting))}: expected pairs of queries and documents, got none"):
        refuse_mismatch(Recipe(dim=16, **setting), without)
