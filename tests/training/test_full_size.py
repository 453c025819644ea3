"""Test that the check among all documents agrees with a search that holds them all in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaecodec_training.full_size as full_size
from vaecodec.evaluation import Interval, Truth, exact_search, judge, without_own
from vaecodec.interface import Metric
from vaecodec.sources import ArraySource
from vaecodec_training.checkpoint import load_checkpoint
from vaecodec_training.data.collection import Collection
from vaecodec_training.diagnostics import FullSizeWarning
from vaecodec_training.full_size import FullSize, judge_at_full_size
from vaecodec_training.gate import Gate
from vaecodec_training.kept import choose_kept
from vaecodec_training.model import VariationalCodec, interpolated
from vaecodec_training.recipe import Recipe
from vaecodec_training.start import start_model
from vaecodec_training.trainer import train

ROWS = 1_500
RECIPE = Recipe(dim=24, hidden=16, batch=256, epochs=0.5, checkpoints=1)
pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")


def test_all_documents_are_searched_in_blocks_and_every_answer_counts(sample, monkeypatch) -> None:
    monkeypatch.setattr(full_size, "_BLOCK_ROWS", 400)
    documents, queries = sample.train[:ROWS], sample.train_queries[:ROWS]
    # Each query is also answered by a document that may lie in another part of the split.
    pairs = np.concatenate(
        [np.stack([np.arange(ROWS), (np.arange(ROWS) + 7) % ROWS], 1), [[n, n] for n in range(ROWS)]]
    )
    collection = Collection.open(ArraySource(documents), ArraySource(queries), pairs=pairs)
    [found] = judge_at_full_size([start_model(collection, RECIPE)], collection, RECIPE, collection.validation)
    assert found.documents == ROWS
    assert found.unseen == ROWS - len(collection.document_rows)
    rows = collection.validation.query_rows
    assert found.queries == len(rows) < 401
    truth = Truth.of(documents, queries[rows], Metric.COSINE)
    assert len(found.baselines) == 6
    for kind, codec in collection.linear_family(RECIPE.dim).items():
        ids, _ = exact_search(codec.encode(documents), codec.encode_queries(queries[rows]), 100, codec.latent_metric)
        expected = judge(ids, truth, [np.sort([row, (row + 7) % ROWS]) for row in rows])
        for name, values in expected.items():
            assert found.baselines[kind][name].mean() == pytest.approx(values.mean(), abs=2e-3), (kind, name)
    # An untrained model is the linear codec that it starts at.
    assert found.figures["recall@10"].mean() == pytest.approx(found.baselines["svd"]["recall@10"].mean(), abs=2e-3)
    assert str(found).startswith(f"Among all {ROWS:,} documents ({found.unseen:,} of them not trained on), ")


def test_without_queries_no_document_finds_itself(sample) -> None:
    documents = sample.train[:ROWS]
    collection = Collection.open(ArraySource(documents))
    [found] = judge_at_full_size([start_model(collection, RECIPE)], collection, RECIPE, collection.validation)
    rows = collection.validation.query_rows
    truth = Truth.of(documents, documents[rows], Metric.COSINE, own=rows)
    codec = collection.linear_family(RECIPE.dim)["svd-dot"]
    ids, _ = exact_search(codec.encode(documents), codec.encode(documents[rows]), 101, codec.latent_metric)
    expected = judge(without_own(ids, rows), truth)
    assert found.baselines["svd-dot"]["recall@100"].mean() == pytest.approx(expected["recall@100"].mean(), abs=2e-3)
    assert "ndcg@10" not in found.figures


def test_a_run_says_what_it_found_among_all_documents_and_warns_of_losses(sample, tmp_path: Path) -> None:
    collection = Collection.open(ArraySource(sample.train[:ROWS]), ArraySource(sample.train_queries[:ROWS]))
    result = train(collection, RECIPE, tmp_path / "whole")
    assert result.full_size is not None
    kept = load_checkpoint(tmp_path / "whole").provenance["full_size"]
    assert kept == json.loads(json.dumps(result.full_size.to_json())) == result.to_json()["full_size"]
    assert kept["documents"] == ROWS
    assert any(isinstance(each, FullSizeWarning) for each in result.warnings) == bool(result.full_size.lost)
    assert train(collection, RECIPE, tmp_path / "part", full_size=False).full_size is None


def test_a_code_is_searched_through_the_code(sample) -> None:
    collection = Collection.open(ArraySource(sample.train[:ROWS]), ArraySource(sample.train_queries[:ROWS]))
    recipe = Recipe.for_code(target="binary", dim=24)
    model = start_model(collection, recipe)
    [floats] = judge_at_full_size([model], collection, RECIPE, collection.validation)
    [codes] = judge_at_full_size([model], collection, recipe, collection.validation)
    assert list(codes.baselines) == ["svd"]
    assert codes.figures["recall@10"].mean() < floats.figures["recall@10"].mean() - 0.05


@pytest.mark.parametrize("all_lose", [False, True])
def test_where_the_best_share_loses_among_all_documents_another_is_kept(sample, monkeypatch, all_lose: bool) -> None:
    """The searches are real; which of their figures are lost is decided here."""
    documents, queries = sample.train[:ROWS], sample.train_queries[:ROWS]
    collection = Collection.open(ArraySource(documents), ArraySource(queries), pairs="aligned", validation=0.25)
    start, baselines = start_model(collection, RECIPE), {"svd": collection.baselines(RECIPE.dim)["svd"]}
    trained = interpolated(start, start, 1.0)
    with torch.no_grad():
        weight = trained.encoder.linear.weight
        weight += 0.001 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    judged = []

    def judge_so(models: Sequence[VariationalCodec], *given: Any) -> list[FullSize]:
        judged.append(models)
        found = judge_at_full_size(models, *given)
        afresh = judge_at_full_size(models[:1], *given[:3])
        assert afresh[0].gate.to_json() == found[0].gate.to_json()  # also where linear codecs were not searched again
        # The chosen model loses, and then all others but the last one of the first pass.
        lose = len(judged) == 1 or all_lose
        return [with_difference(each, -0.1 if lose or each is not found[-1] else 0.1) for each in found]

    monkeypatch.setattr("vaecodec_training.kept.judge_at_full_size", judge_so)
    by_held_out = choose_kept(start, trained, collection, RECIPE, baselines, full_size=False)
    kept = choose_kept(start, trained, collection, RECIPE, baselines, full_size=True)
    assert by_held_out.full_size is None
    assert not by_held_out.loses
    assert kept.full_size is not None
    assert [len(models) for models in judged[:2]] == [1, 4]
    assert (len(judged) > 2) == all_lose
    assert len({id(model) for models in judged for model in models}) == sum(map(len, judged))
    assert (kept.share == by_held_out.share) == all_lose == bool(kept.full_size.lost)
    assert kept.worth <= by_held_out.worth


def with_difference(found: FullSize, mean: float) -> FullSize:
    """Return what was found with another difference in the figure of the purpose."""
    first, *others = found.gate.comparisons
    changed = replace(first, difference=Interval(mean, mean - 0.05, mean + 0.05))
    kept = [replace(each, difference=Interval(0.0, -0.1, 0.1)) for each in others]
    return replace(found, gate=Gate(found.gate.aim, (changed, *kept)))
