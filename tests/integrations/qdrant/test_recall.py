"""Test the exact neighbours that a migration gathers while it reads a collection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec_integrations.qdrant.migration.recall import Neighbours


@pytest.mark.parametrize("metric", list(Metric))
def test_pages_give_what_one_exact_search_does(sample: Any, metric: Metric) -> None:
    base = sample.base[:300] * np.linspace(0.5, 2, 300, dtype=np.float32)[:, None]
    ids = [i if i % 3 else f"uuid-{i}" for i in range(300)]
    queries = base[[4, 150, 299]]
    neighbours = Neighbours(queries, [ids[4], ids[150], "elsewhere"], metric, 10)
    for start in range(0, 300, 70):
        neighbours.add(ids[start : start + 70], base[start : start + 70])
    truth, _ = exact_search(base, queries, 11, metric)
    for found, row, own in zip(neighbours.found(), truth, (4, 150, None), strict=True):
        assert found == {ids[i] for i in [i for i in row.tolist() if i != own][:10]}


def test_fewer_points_than_neighbours(sample: Any) -> None:
    neighbours = Neighbours(sample.base[:1], ["a"], Metric.COSINE, 10)
    neighbours.add(["a", "b", "c"], sample.base[:3])
    assert neighbours.found() == [{"b", "c"}]
