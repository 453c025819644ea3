"""Embed texts by their words, without a model."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


def embed(texts: Any) -> np.ndarray:
    """Turn words into vectors: texts with common words are near."""
    rows = [sum(np.random.default_rng(zlib.crc32(word.encode())).normal(size=384) for word in t.split()) for t in texts]
    return np.array(rows, np.float32)
