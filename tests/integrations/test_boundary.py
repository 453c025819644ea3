"""Test one boundary: whatever holds vectors is accepted or refused alike, in our words, at every entry point."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from qdrant_client import QdrantClient, models

from vaecodec import Codec, Metric, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.drift import Encoded, Reference
from vaecodec.drift.monitor import MonitoredCodec
from vaecodec.errors import InvalidVectorsError, VaecodecError
from vaecodec.evaluation import exact_search
from vaecodec.packed_index import PackedIndex
from vaecodec.scores import fit_score_calibration
from vaecodec.sources import ArraySource
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.qdrant import CompressedQdrantClient, OriginalsFile
from vaecodec_integrations.reranking import OriginalsColumn
from vaecodec_integrations.stores.base import CompressedStore
from vaecodec_training.data.collection import Collection

DIM, WIDTH, ROWS = 16, 4, 60
# Values that bfloat16 holds: what is taken must give the same bits as the plain array.
VECTORS = np.random.default_rng(0).integers(-8, 9, (ROWS, DIM)).astype(np.float32) + 0.5
TYPED = ("a tensor of bfloat16", "an array of bfloat16")


class Named(np.ndarray):
    """Subclass arrays, as libraries of units and of metadata do."""


class Shared:
    """Offer DLPack alone."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class Askable:
    """Offer ``__array__``, or fail when it is asked for."""

    def __init__(self, array: np.ndarray | None) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._array is None:
            raise RuntimeError("the device is lost")
        return self._array


@pytest.fixture(scope="module")
def codec_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    many = np.random.default_rng(1).standard_normal((500, DIM)).astype(np.float32)
    codec = fit_linear(many, WIDTH, embedder="some")
    encoded = Encoded.encode(codec.encode, codec.decode, many[:200])
    path = tmp_path_factory.mktemp("boundary") / "codec.onnx"
    calibration = CodecCalibration(
        codes=Calibration.fit(codec.encode(many), codec.latent_metric, memory=8),
        drift=Reference.fit(encoded, None, codec.metric, codec.latent_metric),
    )
    export_linear(codec, path, calibration=calibration)
    return path


@pytest.fixture(scope="module")
def codec(codec_path: Path) -> Codec:
    return Codec.load(codec_path, threads=1)


def hnsw(codec: Codec, vectors: Any, _: Path) -> Any:
    from vaecodec_integrations.hnsw import CompressedIndex

    index = CompressedIndex("cosine", DIM, codec)
    index.init_index(ROWS)
    index.add_items(vectors, num_threads=1)
    return index.get_items(range(3)), index.knn_query(vectors, 1)[0]


def usearch(codec: Codec, vectors: Any, _: Path) -> Any:
    from vaecodec_integrations.usearch import CompressedUsearchIndex

    index = CompressedUsearchIndex(codec)
    index.add(np.arange(ROWS), vectors, threads=1)
    return index.get(np.arange(3)), index.search(vectors, 1).keys


def faiss(codec: Codec, vectors: Any, _: Path) -> Any:
    from vaecodec_integrations.faiss import CompressedFaissIndex

    index = CompressedFaissIndex(codec, "Flat")
    index.add(vectors)
    return index.search(vectors, 2)


def packed(codec: Codec, vectors: Any, _: Path) -> Any:
    index = PackedIndex(codec, dtype="int8")
    index.add(vectors)
    return index.search(vectors, 2), index.search(vectors, 2, originals=vectors)


def store(codec: Codec, vectors: Any, folder: Path) -> Any:
    import duckdb

    from vaecodec_integrations.stores.duckdb import DuckDbStore

    with DuckDbStore(duckdb.connect(str(folder / "a.db")), codec, originals=OriginalsColumn("original")) as made:
        made.upsert(np.arange(ROWS), vectors)
        return [[hit.key for hit in hits] for hits in made.search(vectors, 2, rerank=2)]


def sqlite_store(codec: Codec, vectors: Any, folder: Path) -> Any:
    import pysqlite3
    import sqlite_vec

    from vaecodec_integrations.stores.sqlite_vec import SqliteVecStore

    connection = pysqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    with SqliteVecStore(connection, codec) as made:
        made.upsert(np.arange(ROWS), vectors)
        return [[hit.key for hit in hits] for hits in made.search(vectors, 2)]


def chroma(codec: Codec, vectors: Any, folder: Path) -> Any:
    from vaecodec_integrations.stores.chroma_embedding import CompressedEmbeddingFunction

    class Model:
        def __call__(self, _: Any) -> Any:
            return vectors

        embed_query = __call__

    (folder / "codec.onnx").write_bytes(codec._file)
    model: Any = Model()
    made = CompressedEmbeddingFunction(model, folder / "codec.onnx")
    return made(["a"] * ROWS), made.embed_query(["a"] * ROWS)


def column(codec: Codec, vectors: Any, _: Path) -> Any:
    from vaecodec_integrations.postgres.column import CompressedColumn

    made = CompressedColumn(codec, "docs", "embedding")
    return [row.to_text() for row in made.documents(vectors)], made.query(next(rows_of(vectors))).to_text()


def django(codec: Codec, vectors: Any, folder: Path) -> Any:
    from vaecodec_integrations.postgres.django import CompressedVectorField

    (folder / "codec.onnx").write_bytes(codec._file)
    field = CompressedVectorField(codec=folder / "codec.onnx")
    database = SimpleNamespace(alias="default")
    field._checked.add("default")  # there is no database whose comment could be compared
    return [field.get_db_prep_value(row, database) for row in rows_of(vectors)]


def llama_index(codec: Codec, vectors: Any, _: Path) -> Any:
    from llama_index.core.base.embeddings.base import BaseEmbedding

    from vaecodec_integrations.llama_index import CompressedEmbedding

    class Model(BaseEmbedding):
        def get_text_embedding_batch(self, texts: Any, **_: Any) -> Any:
            return vectors

        def get_query_embedding(self, query: Any) -> Any:
            return next(rows_of(vectors))

        def _get_text_embedding(self, text: Any) -> Any:
            raise NotImplementedError

        _get_query_embedding = _aget_query_embedding = _get_text_embedding

    made = CompressedEmbedding(Model(), codec)
    return made._get_text_embeddings(["a"] * ROWS), made._get_query_embedding("a")


def bound(codec: Codec, vectors: Any, _: Path) -> Any:
    from vaecodec_integrations.postgres.sqlalchemy import CompressedVector

    column = CompressedVector(codec)
    return [column.process_bind_param(row, None).to_text() for row in rows_of(vectors)]


def langchain(codec: Codec, vectors: Any, _: Path) -> Any:
    from vaecodec_integrations.langchain import CompressedEmbeddings

    class Model:
        def embed_documents(self, _: Any) -> Any:
            return vectors

        def embed_query(self, _: Any) -> Any:
            return next(rows_of(vectors))

    model: Any = Model()
    made = CompressedEmbeddings(model, codec)
    return made.embed_documents(["a"] * ROWS), made.embed_query("a")


def transformer(codec: Codec, vectors: Any, folder: Path) -> Any:
    from vaecodec_integrations.sklearn import CodecTransformer

    (folder / "codec.onnx").write_bytes(codec._file)
    return CodecTransformer(folder / "codec.onnx").fit(vectors).transform(vectors)


def upserted(codec: Codec, vectors: Any, _: Path) -> Any:
    """Use models, plain dicts, a batch and a query."""
    client = CompressedQdrantClient(QdrantClient(":memory:"), codec)
    client.create_collection("a", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))
    points: Any = [{"id": number, "vector": row} for number, row in enumerate(rows_of(vectors))]
    client.upsert("a", points)
    found = client.query_points("a", query=next(rows_of(vectors)), limit=2, with_vectors=True).points
    return [(point.id, point.vector) for point in found]


def uploaded(codec: Codec, vectors: Any, folder: Path) -> Any:
    with OriginalsFile(folder / "originals", DIM) as file:
        client = CompressedQdrantClient(QdrantClient(":memory:"), codec, originals=file)
        client.create_collection("a", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))
        client.upload_collection("a", vectors, ids=range(ROWS))
        return file.get(range(ROWS))


def monitored(codec: Codec, vectors: Any, folder: Path) -> Any:
    (folder / "codec.onnx").write_bytes(codec._file)
    monitor = MonitoredCodec.load(folder / "codec.onnx", threads=1)
    latents = monitor.encode(vectors), monitor.encode_queries(vectors)
    return latents, {str(stream): rows for stream, rows in monitor.check().rows.items()}


def rows_of(vectors: Any) -> Iterator[Any]:
    """Yield one vector after another, each in the form that they have together."""
    if isinstance(vectors, pd.DataFrame):
        return (row for _, row in vectors.iterrows())
    return iter(vectors)


ENTRIES: dict[str, Callable[[Codec, Any, Path], Any]] = {
    "encode": lambda codec, vectors, _: (codec.encode(vectors), codec.encode_queries(vectors)),
    "encode to codes": lambda codec, vectors, _: codec.encode(vectors, dtype="int8"),
    "fit": lambda codec, vectors, _: fit_linear(vectors, WIDTH).encode(VECTORS),
    "encode in memory": lambda codec, vectors, _: fit_linear(VECTORS, WIDTH).encode(vectors),
    "score calibration": lambda codec, vectors, _: fit_score_calibration(codec, vectors, vectors).to_json(),
    "evaluation": lambda codec, vectors, _: exact_search(vectors, vectors, 3, Metric.COSINE),
    "training": lambda codec, vectors, _: Collection.open(ArraySource(vectors), validation=0.5).report.fingerprint,
    "monitor": monitored,
    "packed index": packed,
    "hnswlib": hnsw,
    "usearch": usearch,
    "faiss": faiss,
    "store": store,
    "sqlite-vec": sqlite_store,
    "chroma": chroma,
    "PostgreSQL": column,
    "bound to a column": bound,
    "django": django,
    "langchain": langchain,
    "llama-index": llama_index,
    "scikit-learn": transformer,
    "Qdrant, points": upserted,
    "Qdrant, upload": uploaded,
}

LIBRARIES = {
    **{name: (name,) for name in ("hnswlib", "usearch", "faiss", "django")},
    "sqlite-vec": ("sqlite_vec", "pysqlite3"),
    "chroma": ("chromadb",),
    "langchain": ("langchain_core",),
    "llama-index": ("llama_index.core",),
}

TAKEN: dict[str, Any] = {
    "lists": VECTORS.tolist(),
    "float64, by columns": np.asfortranarray(VECTORS.astype(np.float64)),
    "a masked array without masked values": np.ma.masked_array(VECTORS),
    "a tensor with gradients": torch.tensor(VECTORS, requires_grad=True),
    "a tensor of bfloat16": torch.tensor(VECTORS).bfloat16(),
    "a list of tensors": [torch.tensor(row, requires_grad=True) for row in VECTORS],
    "an array of bfloat16": VECTORS.astype(ml_dtypes.bfloat16),
    "a series of lists": pd.Series(VECTORS.tolist()),
    "a data frame": pd.DataFrame(VECTORS),
    "a subclass of arrays": VECTORS.view(Named),
    "a structured field": np.array([(row,) for row in VECTORS], [("vector", np.float32, DIM)])["vector"],
    "a column of lists": pa.array(VECTORS.tolist()),
}


# Once they are an array, they are one for every entry point.
ARRAYS: dict[str, Any] = {
    "a data frame that knows missing values": pd.DataFrame(VECTORS).astype("Float64"),
    "a data frame of Arrow": pd.DataFrame(VECTORS).astype("float[pyarrow]"),
    "what shares its memory": Shared(VECTORS),
    "what numpy can ask": Askable(VECTORS),
    "a memoryview": memoryview(VECTORS.data),
    "rows of the standard library": [array("f", row.tolist()) for row in VECTORS],
    "big-endian": VECTORS.astype(">f4"),
    "a sliced column": pa.FixedSizeListArray.from_arrays(np.vstack([VECTORS, VECTORS]).ravel(), DIM)[ROWS:],
    "chunks": pa.chunked_array([pa.array(VECTORS[:9].tolist()), pa.array(VECTORS[9:].tolist())]),
}
NO_ARRAYS: dict[str, Any] = {
    "a sparse tensor": torch.tensor(VECTORS).to_sparse(),
    "a tensor without data": torch.zeros(2, DIM, device="meta"),
    "what raises when it is asked": Askable(None),
    "a missing value": pd.DataFrame(VECTORS).astype("Float64").mask(pd.DataFrame(VECTORS) > 7),
    "a row that is missing": [*VECTORS[:3], None],
    "nested without end": [[[[[0.5]]]]],
    "objects": VECTORS.astype(object),
    "a generator": (row for row in VECTORS),
}


def _with(row: int, value: Any) -> list[Any]:
    lists: list[Any] = VECTORS.tolist()
    lists[row] = value
    return lists


REFUSED: dict[str, Any] = {
    "a masked value": np.ma.masked_equal(VECTORS, VECTORS[0, 0]),
    "rows with a masked value": list(np.ma.masked_equal(VECTORS, VECTORS[0, 0])),
    "ragged lists": _with(5, [0.5] * (DIM - 1)),
    "a null": pa.array(_with(5, None)),
    "text": [[str(value) for value in row] for row in VECTORS.tolist()],
    "booleans": (VECTORS > 0).tolist(),
    "an array of booleans": VECTORS > 0,
    "complex numbers": VECTORS.astype(np.complex64),
    "NaN": _with(5, [float("nan")] * DIM),
}


@pytest.fixture
def entry(request: pytest.FixtureRequest) -> Callable[[Codec, Any, Path], Any]:
    for library in LIBRARIES.get(request.param, ()):
        pytest.importorskip(library, reason=f"{library} is not installed")
    return ENTRIES[request.param]


@pytest.mark.parametrize("entry", ENTRIES, indirect=True)
def test_vectors_are_taken_from_whatever_holds_them(entry, codec: Codec, fast_path: Path) -> None:
    (fast_path / "plain").mkdir()
    expected = entry(codec, VECTORS, fast_path / "plain")
    for name, vectors in TAKEN.items():
        folder = fast_path / name
        folder.mkdir()
        np.testing.assert_equal(entry(codec, vectors, folder), expected, err_msg=name)


@pytest.mark.parametrize("entry", ENTRIES, indirect=True)
def test_what_is_no_vectors_is_refused_in_our_words(entry, codec: Codec, fast_path: Path) -> None:
    for name, vectors in REFUSED.items():
        folder = fast_path / name
        folder.mkdir()
        with pytest.raises(ValueError if entry is transformer else VaecodecError) as raised:
            entry(codec, vectors, folder)
        assert len(str(raised.value)) > 20, name


def test_whatever_numpy_can_read_is_taken(codec: Codec) -> None:
    expected = codec.encode(VECTORS)
    for name, vectors in ARRAYS.items():
        np.testing.assert_array_equal(codec.encode(vectors), expected, err_msg=name)


class OnDisk:
    """Stand for a table that has named columns, and reads nothing before it is asked to."""

    schema = ("id", "vector")


TABLES: dict[str, Any] = {
    "DataFrame": pd.DataFrame({"id": range(ROWS), "vector": [*VECTORS]}),
    "Table": pa.table({"vector": pa.array(VECTORS.tolist())}),
    "RecordBatch": pa.record_batch({"vector": pa.array(VECTORS.tolist())}),
    "OnDisk": OnDisk(),
}


@pytest.mark.parametrize("name", ["encode", "hnswlib", "Qdrant, upload"])
def test_of_a_table_the_column_is_asked_for(codec: Codec, name: str, fast_path: Path) -> None:
    for kind, table in TABLES.items():
        (fast_path / kind).mkdir()
        with pytest.raises(InvalidVectorsError, match=f"expected rows of floats, got a whole {kind}; give its column"):
            ENTRIES[name](codec, table, fast_path / kind)


def test_what_polars_holds_is_taken(codec: Codec) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    expected = codec.encode(VECTORS)
    column = polars.Series("vector", VECTORS.tolist())
    fixed = column.cast(polars.Array(polars.Float32, DIM))
    for vectors in (column, fixed, polars.DataFrame(VECTORS), [polars.Series(row) for row in VECTORS]):
        np.testing.assert_array_equal(codec.encode(vectors), expected)
    for table in (polars.DataFrame({"vector": column}), polars.DataFrame({"vector": column}).lazy()):
        with pytest.raises(InvalidVectorsError, match="got a whole"):
            codec.encode(table)
    for missing in (polars.Series([None, *VECTORS[1:].tolist()]), polars.Series([[None] * DIM, *VECTORS[1:].tolist()])):
        with pytest.raises(InvalidVectorsError, match="vectors: "):
            codec.encode(missing)


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_what_numpy_cannot_read_is_refused_in_our_words(codec: Codec, name: str) -> None:
    with pytest.raises(InvalidVectorsError, match="vectors: "):
        codec.encode(NO_ARRAYS[name])


@pytest.mark.parametrize(
    ("library", "module", "name"),
    [
        ("chromadb", "chroma", "ChromaStore"),
        ("duckdb", "duckdb", "DuckDbStore"),
        ("lancedb", "lancedb", "LanceDbStore"),
        ("pymilvus", "milvus", "MilvusStore"),
        ("sqlite_vec", "sqlite_vec", "SqliteVecStore"),
    ],
)
def test_stores_take_vectors_at_one_place(library: str, module: str, name: str) -> None:
    """The entries above show that place; an engine sees only what the codec made of them."""
    pytest.importorskip(library, reason=f"{library} is not installed")
    store = getattr(import_module(f"vaecodec_integrations.stores.{module}"), name)
    assert (store.upsert, store.search) == (CompressedStore.upsert, CompressedStore.search)
