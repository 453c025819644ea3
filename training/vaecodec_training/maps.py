"""Fit maps from the space of one embedding model to that of another, on texts embedded by both."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
import torch
import torch.nn.functional as F

from vaecodec.interface import FloatArray
from vaecodec.two_models.bridge import Affine
from vaecodec_training import losses
from vaecodec_training.model import ResidualMap, in_numpy

_HIDDEN = 512
_STEPS, _WARMUP_STEPS = 1_000, 100
_BATCH = 512
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 0.01
_TEMPERATURE = 0.05


class MapKind(StrEnum):
    """Name the form of a map, and how it is fitted."""

    RIDGE = "ridge"
    """Affine, by ridge regression."""
    PROCRUSTES = "procrustes"
    """Orthogonal, by the singular vectors of the cross-covariance (Schönemann 1966)."""
    LOW_RANK = "low-rank"
    """Affine of half the rank: the ridge regression's predictions in the directions in which they vary most."""
    RESIDUAL = "residual"
    """The orthogonal map and a hidden layer, trained so that a text is nearest to itself (InfoNCE)."""


def fit_map(kind: MapKind, inputs: FloatArray, outputs: FloatArray, *, seed: int = 0) -> ResidualMap:
    """Fit a map on texts embedded by both models.

    Args:
        kind: of the map.
        inputs: float32 (n, d) of unit norm.
        outputs: float32 (n, e) of unit norm, the same texts.
        seed: of the trained map.

    Returns:
        The map; its results are to be normalised.
    """
    if kind is MapKind.RESIDUAL:
        return _trained(inputs, outputs, seed)
    if kind is MapKind.PROCRUSTES:
        return _affine(_orthogonal(inputs, outputs), np.zeros(outputs.shape[1], np.float32))
    fitted = Affine.fit(inputs, outputs)
    if kind is MapKind.RIDGE:
        return _affine(fitted.matrix, fitted.bias)
    mean = outputs.mean(axis=0)
    predicted = inputs @ fitted.matrix.T + (fitted.bias - mean)
    directions = np.linalg.eigh(predicted.T @ predicted)[1][:, -(outputs.shape[1] // 2) :]
    kept = directions @ directions.T
    return _affine(kept @ fitted.matrix, mean + kept @ (fitted.bias - mean))


def map_rows(model: ResidualMap, rows: FloatArray) -> FloatArray:
    """Map float32 (n, d) of any norm to float32 (n, e) of unit norm."""
    return in_numpy(lambda batch: F.normalize(model(F.normalize(batch, dim=1)), dim=1), model)(rows)


def _trained(inputs: FloatArray, outputs: FloatArray, seed: int) -> ResidualMap:
    generator = torch.Generator().manual_seed(seed)
    model = ResidualMap(inputs.shape[1], outputs.shape[1], _HIDDEN, generator)
    with torch.no_grad():
        model.linear.weight.copy_(torch.from_numpy(_orthogonal(inputs, outputs)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _share)
    x, y = torch.from_numpy(inputs), torch.from_numpy(outputs)
    for _ in range(_STEPS):
        rows = torch.randperm(len(x), generator=generator)[:_BATCH]
        loss = losses.info_nce(F.normalize(model(x[rows]), dim=1), y[rows], y[:0], _TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model


def _share(step: int) -> float:
    """Return the share of the learning rate: a linear warm-up, then half a cosine."""
    return min((step + 1) / _WARMUP_STEPS, 0.5 + 0.5 * math.cos(math.pi * step / _STEPS))


def _orthogonal(inputs: FloatArray, outputs: FloatArray) -> FloatArray:
    left, _, right = np.linalg.svd(outputs.T @ inputs, full_matrices=False)
    return np.asarray(left @ right, np.float32)


def _affine(matrix: FloatArray, bias: FloatArray) -> ResidualMap:
    model = ResidualMap(matrix.shape[1], matrix.shape[0], 0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter, value in ((model.linear.weight, matrix), (model.linear.bias, bias)):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value, np.float32)))
    return model
