"""Choose how many bits each latent dimension gets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vaecodec.interface import FloatArray


def allocate_bits(importance: FloatArray, distortion: FloatArray, bits: int) -> NDArray[np.int64]:
    """Allocate whole bits by reverse water-filling (Cover & Thomas, Elements of Information Theory, 10.3).

    Every next bit goes to the dimension where it removes the most distortion; equal gains go to the lower dimension.
    One float32 product per gain, so that every machine finds the same allocation.

    Args:
        importance: float32 (k,), what a unit of relative distortion costs in each dimension, usually its variance.
        distortion: float32 (r,), mean squared error per unit variance at 1 to r bits, falling and convex.
        bits: how many bits to hand out, at most k * r.

    Returns:
        Bits per dimension: int64 (k,), 0 to r each, of sum ``bits``.
    """
    drops = -np.diff(np.concatenate([np.ones(1, np.float32), distortion.astype(np.float32)]))
    gains = importance.astype(np.float32)[:, None] * drops
    # Within a dimension each further bit gains less than the one before. So the best choice is always its first bits.
    best = np.argsort(-gains, axis=None, kind="stable")[:bits]
    return np.bincount(best // len(drops), minlength=len(importance))
