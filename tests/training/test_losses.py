"""Test every term against its definition written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vaecodec.evaluation import similarities
from vaecodec.interface import Metric
from vaecodec_training import losses


@pytest.fixture
def vectors(sample) -> torch.Tensor:
    return torch.from_numpy(sample.train[:600].copy())


def test_distillation_is_the_divergence_of_the_two_softmaxes_and_so_is_its_gradient(vectors: torch.Tensor) -> None:
    rows, columns = vectors[:300], vectors
    own = torch.arange(300)
    latent_rows = vectors[:300, :16].clone().requires_grad_()
    latent_columns = vectors[:, :16].clone().requires_grad_()
    loss = losses.distillation(rows, columns, latent_rows, latent_columns, 0.1, own)
    loss.backward()
    found = latent_rows.grad, latent_columns.grad
    latent_rows.grad = latent_columns.grad = None
    mask = torch.zeros(300, 600).scatter_(1, own[:, None], -1e9)
    teacher = F.log_softmax(rows @ columns.T / 0.1 + mask, 1)
    student = F.log_softmax(latent_rows @ latent_columns.T / 0.1 + mask, 1)
    plain = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-4)
    for mine, theirs in zip(found, (latent_rows.grad, latent_columns.grad), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_distillation_is_zero_for_a_perfect_student(vectors: torch.Tensor) -> None:
    assert abs(losses.distillation(vectors, vectors, vectors, vectors, 0.05).item()) < 1e-6


@pytest.mark.parametrize("metric", list(Metric))
def test_dot_products_of_comparable_vectors_rank_as_the_metric(metric: Metric, vectors: torch.Tensor) -> None:
    rows, columns = vectors[:20] * 2, vectors[100:] * torch.linspace(0.5, 2, 500)[:, None]
    if metric is Metric.COSINE:
        rows, columns = F.normalize(rows, dim=1), F.normalize(columns, dim=1)
    left, right = losses.comparable(rows, columns, metric)
    difference = (left @ right.T).numpy() - similarities(rows.numpy(), columns.numpy(), metric)
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-4)


def test_the_kl_is_the_rate_of_a_gaussian_channel() -> None:
    torch.manual_seed(0)
    mean = torch.randn(200_000, 3) * torch.tensor([1.0, 10.0, 0.0]) + 5
    log_var = torch.log(torch.tensor([0.25, 25.0, 1.0])).expand_as(mean)
    expected = [0.5 * np.log(1 + 4), 0.5 * np.log(1 + 4), 0]
    np.testing.assert_allclose(losses.kl_per_dimension(mean, log_var), expected, atol=5e-3)


def test_free_bits_charge_only_what_lies_above() -> None:
    kl = torch.tensor([0.01, 0.3], requires_grad=True)
    loss = losses.free_bits(kl, 0.05)
    loss.backward()
    assert loss.item() == pytest.approx(0.35)
    assert kl.grad is not None
    assert kl.grad.tolist() == [0, 1]


def test_reconstruction_terms_are_zero_when_perfect_and_one_when_useless(vectors: torch.Tensor) -> None:
    assert losses.cosine_reconstruction(vectors, 3 * vectors).item() == pytest.approx(0, abs=1e-6)
    assert losses.squared_reconstruction(vectors, vectors).item() == 0
    assert losses.squared_reconstruction(vectors, torch.zeros_like(vectors)).item() == pytest.approx(1)


def test_info_nce_prefers_the_right_key_and_counts_the_queue() -> None:
    keys = torch.eye(4)
    right = losses.info_nce(keys, keys, torch.empty(0, 4), 0.1)
    wrong = losses.info_nce(keys.roll(1, 0), keys, torch.empty(0, 4), 0.1)
    assert right < 0.001 < wrong
    queued = losses.info_nce(keys, keys, keys, 0.1)
    assert queued.item() == pytest.approx(np.log(2), abs=1e-3)


def test_weights_of_pairs_count_in_proportion() -> None:
    keys = torch.eye(4)
    queries = F.normalize(keys + 0.3 * keys.roll(1, 0), dim=1)
    each = [float(losses.info_nce(queries[[row]], keys.roll(-row, 0), torch.empty(0, 4), 0.5)) for row in range(4)]
    queries[0] = -queries[0]
    alone = float(losses.info_nce(queries[[0]], keys, torch.empty(0, 4), 0.5))
    weights = torch.tensor([2.0, 1.0, 1.0, 0.0])
    found = float(losses.info_nce(queries, keys, torch.empty(0, 4), 0.5, weights))
    assert found == pytest.approx((2 * alone + each[1] + each[2]) / 4, rel=1e-5)
