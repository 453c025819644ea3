"""Test that stores search latents by the engines' own indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integrations.stores.vss import connect_with_vss

from vaecodec import Codec
from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec_integrations.stores.base import CompressedStore

pytestmark = pytest.mark.filterwarnings("ignore")  # what the engines warn of is theirs


@pytest.fixture
def codec(svd_path: Path) -> Codec:
    return Codec.load(svd_path)


def found_of_the_nearest(store: CompressedStore, codec: Codec, sample: Any) -> float:
    """Return the share of the ten nearest latents that the store finds."""
    expected, _ = exact_search(
        codec.encode(sample.base[:600]), codec.encode_queries(sample.queries[:30]), 10, Metric.COSINE
    )
    found = [[hit.key for hit in hits] for hits in store.search(sample.queries[:30], 10)]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)]))


def test_lancedb_quantises_the_latents(codec: Codec, sample: Any, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    from vaecodec_integrations.stores.lancedb import LanceDbStore

    store = LanceDbStore(lancedb.connect(tmp_path), codec)
    store.upsert(range(600), sample.base[:600])
    store.table.create_index(metric="cosine", vector_column_name="latent", num_partitions=2, num_sub_vectors=32)
    (index,) = store.table.list_indices()
    assert (index.index_type, index.columns) == ("IvfPq", ["latent"])
    assert found_of_the_nearest(store, codec, sample) > 0.6


def test_duckdb_searches_by_its_graph(codec: Codec, sample: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb", reason="the extra duckdb is not installed")
    from vaecodec_integrations.stores.duckdb import DuckDbStore

    with connect_with_vss(tmp_path / "docs.duckdb") as connection:
        store = DuckDbStore(connection, codec)
        store.upsert(range(500), sample.base[:500])
        connection.execute("CREATE INDEX docs_hnsw ON docs USING HNSW (latent) WITH (metric = 'cosine')")
        store.upsert(range(500, 600), sample.base[500:600])
        zeros = [0.0] * codec.code_dim
        query = f"SELECT id FROM docs ORDER BY array_cosine_distance(latent, {zeros}::FLOAT[{codec.code_dim}]) LIMIT 10"
        assert "HNSW_INDEX_SCAN" in str(connection.execute(f"EXPLAIN {query}").fetchall())
        assert found_of_the_nearest(store, codec, sample) > 0.9
