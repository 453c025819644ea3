"""Test every embedded store by one suite, on the real engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integrations.stores.vss import connect_with_vss

from vaecodec import Codec, fit_linear
from vaecodec.errors import (
    BadRowsError,
    CodecMismatchError,
    IndexArgumentError,
    StoreError,
    UnsupportedRequestError,
    WrongWidthError,
)
from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec_integrations.reranking import OriginalsColumn
from vaecodec_integrations.stores.base import CompressedStore

Opener = Callable[..., CompressedStore]


def sqlite_store(folder: Path) -> Iterator[Opener]:
    sqlite_vec = pytest.importorskip("sqlite_vec", reason="the extra sqlite-vec is not installed")
    from vaecodec_integrations.stores.sqlite_vec import SqliteVecStore

    # Python itself is often built without SQLite's extensions.
    sqlite3 = pytest.importorskip("pysqlite3", reason="pysqlite3, which loads extensions, is not installed")
    opened = []

    def connect(codec: Codec, **options: Any) -> CompressedStore:
        connection = sqlite3.connect(folder / "docs.db")
        opened.append(connection)
        connection.enable_load_extension(True)
        sqlite_vec.load(connection)
        return SqliteVecStore(connection, codec, **options)

    yield connect
    for connection in opened:
        connection.close()


def duckdb_store(folder: Path) -> Iterator[Opener]:
    duckdb = pytest.importorskip("duckdb", reason="the extra duckdb is not installed")
    from vaecodec_integrations.stores.duckdb import DuckDbStore

    opened: list[Any] = []

    def connect(codec: Codec, **options: Any) -> CompressedStore:
        while opened:  # one connection to a file at a time
            opened.pop().close()
        opened.append(duckdb.connect(str(folder / "docs.duckdb")))
        return DuckDbStore(opened[0], codec, **options)

    yield connect
    while opened:
        opened.pop().close()


def duckdb_hnsw_store(folder: Path) -> Iterator[Opener]:
    pytest.importorskip("duckdb", reason="the extra duckdb is not installed")
    from vaecodec_integrations.stores.duckdb import DuckDbStore

    opened: list[Any] = []

    def connect(codec: Codec, name: str = "docs", **options: Any) -> CompressedStore:
        while opened:
            opened.pop().close()
        opened.append(connect_with_vss(folder / "docs.duckdb"))
        store = DuckDbStore(opened[0], codec, name, **options)
        metric = {Metric.DOT: "ip", Metric.L2: "l2sq"}.get(codec.latent_metric, "cosine")
        opened[0].execute(
            f"CREATE INDEX IF NOT EXISTS {name}_hnsw ON {name} USING HNSW (latent) WITH (metric = '{metric}')"
        )
        return store

    yield connect
    while opened:
        opened.pop().close()


def lancedb_store(folder: Path) -> Iterator[Opener]:
    lancedb = pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    from vaecodec_integrations.stores.lancedb import LanceDbStore

    yield lambda codec, **options: LanceDbStore(lancedb.connect(folder / "lance"), codec, **options)


def lancedb_quantised_store(folder: Path) -> Iterator[Opener]:
    lancedb = pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    from vaecodec_integrations.stores.lancedb import LanceDbStore

    class Quantised(LanceDbStore):
        """Index the first rows, which LanceDB learns the quantiser from; it finds later ones beside the index."""

        def upsert(self, ids: Any, vectors: Any) -> None:
            super().upsert(ids, vectors)
            if len(self) and not self.table.list_indices():
                self.table.create_index(
                    metric=str(self.codec.latent_metric), vector_column_name="latent", index_type="IVF_SQ"
                )

    yield lambda codec, **options: Quantised(lancedb.connect(folder / "lance"), codec, **options)


def chroma_store(folder: Path) -> Iterator[Opener]:
    chromadb = pytest.importorskip("chromadb", reason="the extra chroma is not installed")
    from vaecodec_integrations.stores.chroma import ChromaStore

    settings = chromadb.Settings(anonymized_telemetry=False)
    yield lambda codec, **options: ChromaStore(
        chromadb.PersistentClient(str(folder / "chroma"), settings=settings), codec, **options
    )


def milvus_store(folder: Path) -> Iterator[Opener]:
    pymilvus = pytest.importorskip("pymilvus", reason="the extra milvus is not installed")
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    from vaecodec_integrations.stores.milvus import MilvusStore

    opened: list[Any] = []

    def connect(codec: Codec, **options: Any) -> CompressedStore:
        while opened:
            opened.pop().close()
        opened.append(pymilvus.MilvusClient(str(folder / "milvus.db")))
        return MilvusStore(opened[0], codec, **options)

    yield connect
    while opened:
        opened.pop().close()


ENGINES = {
    "sqlite-vec": sqlite_store,
    "duckdb": duckdb_store,
    "duckdb, HNSW index": duckdb_hnsw_store,
    "lancedb": lancedb_store,
    "lancedb, IVF_SQ index": lancedb_quantised_store,
    "chroma": chroma_store,
    "milvus": milvus_store,
}

pytestmark = pytest.mark.filterwarnings("ignore")  # what the engines warn of is theirs


@pytest.fixture(params=ENGINES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Yield a function that opens the engine's store in one place, again and again."""
    yield from ENGINES[request.param](tmp_path)


@pytest.fixture(scope="module")
def base(sample: Any) -> np.ndarray:
    return sample.base[:400]


@pytest.fixture(scope="module")
def other_codec(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    from vaecodec_exporters.linear import export_linear

    path = tmp_path_factory.mktemp("other") / "other64.onnx"
    export_linear(fit_linear(sample.train[:2000], 64), path)
    return Codec.load(path)


def test_search_finds_the_nearest_latents(opener: Opener, base, sample, vae_codec: Codec) -> None:
    with opener(vae_codec) as store:
        store.upsert(np.arange(400) + 7_000_000_000, base)
        assert len(store) == 400
        queries = sample.queries[:20]
        expected, scores = exact_search(vae_codec.encode(base), vae_codec.encode_queries(queries), 10, Metric.COSINE)
        found = store.search(queries, 10)
        shared = [
            len({hit.key - 7_000_000_000 for hit in hits} & set(row)) for hits, row in zip(found, expected, strict=True)
        ]
        assert np.mean(shared) >= 9.5
        assert found[0][0].distance == pytest.approx(1 - scores[0, 0], abs=1e-3)
        assert [hit.distance for hit in found[0]] == sorted(hit.distance for hit in found[0])


def test_stored_rows_decode_to_the_codecs_reconstruction(opener: Opener, base, vae_codec: Codec) -> None:
    with opener(vae_codec) as store:
        store.upsert([4, 2, 9], base[:3])
        expected = vae_codec.decode(vae_codec.encode(base[:3]))
        np.testing.assert_allclose(store.get([9, 4]), expected[[2, 0]], atol=1e-4)
        with pytest.raises(StoreError, match="expected ids that are stored, got 5"):
            store.get([4, 5])


def test_codes_and_latents_are_stored_as_they_are(opener: Opener, base, svd_path: Path) -> None:
    codec = Codec.load(svd_path)
    code = codec.code(bytes=32)
    latents = np.concatenate([codec.encode(base[:20]), code.decode(codec.encode(base[20:40], bytes=32))])
    with opener(codec) as store:
        store.upsert(range(40), latents)
        np.testing.assert_allclose(store.get([3, 30]), codec.decode(latents[[3, 30]]), atol=1e-4)
        by_latents, by_vectors = store.search(codec.encode_queries(base[:5]), 4), store.search(base[:5], 4)
        assert [[hit.key for hit in hits] for hits in by_latents] == [[hit.key for hit in hits] for hits in by_vectors]
        assert [hits[0].key for hits in by_latents] == list(range(5))
        bad = latents[:3].copy()
        bad[2, 5] = np.nan
        with pytest.raises(BadRowsError, match="row 2"):
            store.upsert(range(3), bad)
        with pytest.raises(WrongWidthError, match=f"{codec.code_dim - 1}"):
            store.upsert(range(3), latents[:3, 1:])
        assert len(store) == 40


def test_latents_have_no_originals_to_rerank_by(opener: Opener, base, svd_path: Path) -> None:
    codec = Codec.load(svd_path)
    with opener(codec, originals=OriginalsColumn("original")) as store:
        with pytest.raises(
            UnsupportedRequestError, match="expected 384 floats each, because the store keeps originals"
        ):
            store.upsert(range(3), codec.encode(base[:3]))
        assert len(store) == 0
        store.upsert(range(3), base[:3])
        with pytest.raises(ValueError, match="rerank: expected queries of width 384, got latents"):
            store.search(codec.encode_queries(base[:1]), 1, rerank=2)


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.L2])
def test_latents_of_every_metric_are_compared_by_it(opener: Opener, metric: Metric, base, sample) -> None:
    # Norms differ, so that cosine would find others.
    vectors = base * np.random.default_rng(0).uniform(0.5, 2, (len(base), 1)).astype(np.float32)
    codec = fit_linear(vectors, 24, metric=metric)
    if metric is Metric.DOT and opener.__qualname__.startswith("sqlite"):
        with pytest.raises(UnsupportedRequestError, match="sqlite-vec compares by cosine or l2"):
            opener(codec)
        return
    with opener(codec) as store:
        store.upsert(range(400), vectors)
        found = [[hit.key for hit in hits] for hits in store.search(sample.queries[:10], 5)]
    expected, _ = exact_search(codec.encode(vectors), codec.encode_queries(sample.queries[:10]), 5, codec.latent_metric)
    assert np.mean([len(set(keys) & set(row)) for keys, row in zip(found, expected, strict=True)]) >= 4.8


def test_an_update_replaces_and_a_delete_removes(opener: Opener, base, vae_codec: Codec) -> None:
    with opener(vae_codec) as store:
        store.upsert(range(10), base[:10])
        store.upsert([3, 4, 4], base[[20, 21, 22]])
        store.delete([0, 1, 555])
        assert len(store) == 8
        assert [hits[0].key for hits in store.search(base[[20, 22, 5]], 1)] == [3, 4, 5]
        found = {hit.key for hit in store.search(base[:1], 10)[0]}
        assert found == set(range(2, 10))


def test_others_are_found_where_the_nearest_were_deleted_or_replaced(opener: Opener, base, vae_codec: Codec) -> None:
    with opener(vae_codec) as store:
        store.upsert(range(400), base)
    with opener(vae_codec) as store:
        store.delete(range(150))
        store.upsert(range(150, 250), base[:100])
        found = store.search(base[:20], 5)
        assert [len(hits) for hits in found] == [5] * 20
        # Chroma's graph misses a row now and then.
        assert sum(hits[0].key == 150 + row for row, hits in enumerate(found)) >= 18
        assert {hit.key for hits in found for hit in hits} <= set(range(150, 400))


def test_a_reopened_store_holds_what_was_written(opener: Opener, base, vae_codec: Codec) -> None:
    with opener(vae_codec) as store:
        store.upsert(range(50), base[:50])
        before = store.search(base[100:103], 5)
    with opener(vae_codec) as store:
        after = store.search(base[100:103], 5)
        assert [[hit.key for hit in hits] for hits in after] == [[hit.key for hit in hits] for hits in before]


def test_another_codec_is_refused(opener: Opener, base, vae_codec: Codec, other_codec: Codec) -> None:
    with opener(vae_codec) as store:
        store.upsert(range(5), base[:5])
    with pytest.raises(CodecMismatchError, match="codec_id"):
        opener(other_codec)
    with pytest.raises(CodecMismatchError, match="originals"):
        opener(vae_codec, originals=OriginalsColumn("original"))
    with opener(other_codec, name="others") as store:
        assert len(store) == 0


def test_codes_of_fewer_latents_of_the_same_codec_are_refused(opener: Opener, vae_path: Path, vae_codec: Codec) -> None:
    opener(vae_codec, originals=OriginalsColumn("original", vae_codec, 10)).close()
    nested = Codec.load(vae_path, dim=vae_codec.metadata.nested_dims[0])
    with pytest.raises(CodecMismatchError, match="originals"):
        opener(vae_codec, originals=OriginalsColumn("original", nested, 10))


def test_reranking_takes_the_order_of_the_originals(opener: Opener, base, sample, vae_codec: Codec) -> None:
    with opener(vae_codec, originals=OriginalsColumn("original")) as store:
        store.upsert(range(400), base * 50.0)
        queries = sample.queries[:20]
        expected, scores = exact_search(base, queries, 5, Metric.COSINE)
        found = store.search(queries, 5, rerank=20)
        shared = [len({hit.key for hit in hits} & set(row)) for hits, row in zip(found, expected, strict=True)]
        assert np.mean(shared) >= 4.8
        assert found[0][0].distance == pytest.approx(1 - scores[0, 0], abs=1e-3)


def test_reranking_without_originals_is_refused(opener: Opener, base, vae_codec: Codec) -> None:
    with opener(vae_codec) as store, pytest.raises(ValueError, match="open it with originals="):
        store.search(base[:1], 3, rerank=2)


def test_bad_rows_and_ids_change_nothing(opener: Opener, base, vae_codec: Codec) -> None:
    bad = base[:3].copy()
    bad[1, 0] = np.inf
    with opener(vae_codec) as store:
        with pytest.raises(BadRowsError, match="row 1"):
            store.upsert(range(3), bad)
        with pytest.raises(IndexArgumentError, match="3 integers, one for each vector"):
            store.upsert(range(2), base[:3])
        with pytest.raises(IndexArgumentError, match="expected integers from 0"):
            store.upsert([1, -2, 3], base[:3])
        assert len(store) == 0
        assert store.search(base[:2], 3) == [[], []]
        store.upsert([], base[:0])
        store.delete([])


def test_duckdb_writes_within_a_transaction_that_is_open(base, vae_codec: Codec) -> None:
    duckdb = pytest.importorskip("duckdb", reason="the extra duckdb is not installed")
    from vaecodec_integrations.stores.duckdb import DuckDbStore

    with duckdb.connect() as connection:
        store = DuckDbStore(connection, vae_codec)
        store.upsert(range(2), base[:2])
        connection.execute("BEGIN")
        store.upsert(range(1, 5), base[1:5])
        assert len(store) == 5
        connection.execute("ROLLBACK")
        assert len(store) == 2
