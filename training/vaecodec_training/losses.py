"""Compute every term of the objective as a pure function of tensors; the recipe holds the weights.

n documents, d dimensions of the embeddings, k of the latents. All return a scalar unless said otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vaecodec.interface import Metric

# Rows of similarities per block: a block of (256, columns) stays in a CPU's cache.
_CHUNK = 256


def cosine_reconstruction(vectors: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the mean of one minus the cosine, both (n, d)."""
    return 1 - F.cosine_similarity(vectors, reconstructions, dim=1).mean()


def squared_reconstruction(vectors: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the squared error over the mean squared norm, both (n, d): 0 is perfect, 1 is as good as zeros."""
    return (vectors - reconstructions).square().sum(1).mean() / vectors.square().sum(1).mean()


def kl_per_dimension(mean: Tensor, log_var: Tensor) -> Tensor:
    """Compute KL divergence of the posterior from a prior as wide as the latents themselves, in nats: (k,).

    The prior of a dimension is the normal distribution with the batch's own moments: the mean of ``mean`` and the
    variance of ``mean`` plus the mean posterior variance. For a constant posterior variance this is
    ``log(1 + spread / noise) / 2``, the rate of a Gaussian channel: noise at the size of a quantiser's step costs
    that quantiser's bits, a dimension whose noise drowns its spread costs none, and no scale of the latents is
    favoured.

    Args:
        mean, log_var: (n, k).
    """
    variance = log_var.exp()
    prior = mean.var(0, correction=0) + variance.mean(0)
    return 0.5 * (torch.log(prior) - log_var.mean(0))


def free_bits(kl: Tensor, least: float) -> Tensor:
    """Sum of the KL per dimension (k,), each charged only above ``least`` nats (Kingma et al. 2016)."""
    return kl.clamp_min(least).sum()


def comparable(rows: Tensor, columns: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Rewrite both arrays so that their dot products rank as the metric does, up to a constant per row.

    Under L2, ``-|a - b|^2 = 2 a.b - |b|^2 - |a|^2`` becomes ``[2 a, 1] . [b, -|b|^2]``.
    """
    if metric is not Metric.L2:
        return rows, columns
    ones = torch.ones_like(rows[:, :1])
    return torch.cat([2 * rows, ones], 1), torch.cat([columns, -columns.square().sum(1, keepdim=True)], 1)


def distillation(
    teacher_rows: Tensor,
    teacher_columns: Tensor,
    student_rows: Tensor,
    student_columns: Tensor,
    temperature: float,
    own: Tensor | None = None,
) -> Tensor:
    """Compute similarity distillation: mean over rows of KL(softmax(T / temperature) || softmax(S / temperature)).

    ``T`` and ``S`` are the dot products of every row with every column, in the original and in the latent space
    (for other metrics see :func:`comparable`). No matrix of that size is kept: blocks of rows are computed with
    their gradient at once, since ``dKL/dS = (softmax(S) - softmax(T)) / temperature``.

    Args:
        teacher_rows, teacher_columns: (r, d) and (c, d); constants.
        student_rows, student_columns: (r, k) and (c, k).
        own: int64 (r,), the column that is the row itself and is left out; None when there is none.
    """
    loss: Tensor = _Distillation.apply(  # type: ignore[no-untyped-call]
        student_rows, student_columns, teacher_rows, teacher_columns, temperature, own
    )
    return loss


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_rows: Tensor,
        student_columns: Tensor,
        teacher_rows: Tensor,
        teacher_columns: Tensor,
        temperature: float,
        own: Tensor | None,
    ) -> Tensor:
        # Divide the rows by the temperature, not the blocks of similarities, which are larger.
        teacher_rows, warm_rows = teacher_rows / temperature, student_rows / temperature
        row_gradient = torch.empty_like(student_rows)
        column_gradient = torch.zeros_like(student_columns)
        total = student_rows.new_zeros(())
        for start in range(0, len(teacher_rows), _CHUNK):
            rows = slice(start, start + _CHUNK)
            teacher = teacher_rows[rows] @ teacher_columns.T
            student = warm_rows[rows] @ student_columns.T
            if own is not None:
                at = own[rows, None]
                teacher.scatter_(1, at, -1e9)
                student.scatter_(1, at, -1e9)
            teacher_norm = teacher.logsumexp(1, keepdim=True)
            student_norm = student.logsumexp(1, keepdim=True)
            probability = (teacher - teacher_norm).exp_()
            total += torch.dot(probability.view(-1), teacher.sub_(student).view(-1))
            total -= (teacher_norm - student_norm).sum()
            gradient = student.sub_(student_norm).exp_().sub_(probability)
            torch.mm(gradient, student_columns, out=row_gradient[rows])
            column_gradient.addmm_(gradient.T, warm_rows[rows])
        count = len(teacher_rows)
        row_gradient.div_(temperature * count)
        column_gradient.div_(count)
        ctx.save_for_backward(row_gradient, column_gradient)
        return total / count

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        row_gradient, column_gradient = ctx.saved_tensors
        return row_gradient * outer[0], column_gradient * outer[0], None, None, None, None


def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Compute InfoNCE (van den Oord et al. 2018) with a queue of negatives (He et al. 2020, MoCo).

    Args:
        queries: (n, k), unit norm; query i belongs to ``keys[i]``, the others are its negatives.
        keys: (c, k), c >= n, unit norm.
        negatives: (q, k), unit norm, q >= 0.
        temperature: of the softmax over cosines.
        weights: (n,), how much each query counts; about 1 on average. All count alike without them.
    """
    logits = queries @ torch.cat([keys, negatives]).T / temperature
    right = torch.arange(len(queries), device=logits.device)
    if weights is None:
        return F.cross_entropy(logits, right)
    return (weights * F.cross_entropy(logits, right, reduction="none")).mean()
