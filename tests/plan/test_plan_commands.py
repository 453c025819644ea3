"""Test that what a plan prints can be typed: for the given source, its column or vector, and a collection."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient, models

from vaecodec import Codec, fit_linear
from vaecodec.codes import CodeType
from vaecodec.sources.bad_rows import LeftOutWarning, OnBadRows
from vaecodec.vectors import normalised
from vaecodec_cli.main import main
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.compress import CompressionData, next_command
from vaecodec_integrations.plan.candidates import Setting
from vaecodec_integrations.plan.commands import QdrantCollection
from vaecodec_integrations.plan.stores import StoreName

ROWS, DIM = 400, 64


@pytest.fixture
def rows(sample) -> np.ndarray:
    return normalised(np.ascontiguousarray(sample.base[:ROWS, :DIM]))


def typed(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(str(ended.value.code))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], str]:
    """Return the commands and the Python of the only store that is asked for."""
    capsys.readouterr()
    assert typed("plan", *arguments) in (0, 3)
    text = capsys.readouterr().out
    instructions = text[text.index("\n# ") + 1 :].partition("\n")[2]
    commands = re.findall(r"^\$ vaecodec (.*)$", instructions, re.MULTILINE)
    return commands, instructions.rpartition("\n\nfrom ")[2] if not commands else instructions.split("\n\n", 1)[1]


@pytest.mark.parametrize("form", ["#", "--column"])
def test_a_column_stays_in_the_commands(rows, tmp_path: Path, monkeypatch, capsys, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    other = np.random.default_rng(0).standard_normal(rows.shape).astype(np.float32)
    pq.write_table(pa.table({"title": rows.tolist(), "body": other.tolist()}), "docs.parquet")
    source = ["docs.parquet#title"] if form == "#" else ["docs.parquet", "--column", "title"]
    (command,), _ = printed(capsys, *source, "--for", "packed", "--bytes", "64")
    assert shlex.split(command)[:2] == ["linear", "docs.parquet#title"]
    assert typed(*shlex.split(command)) == 0
    file = shlex.split(command)[shlex.split(command).index("--out") + 1]
    codec = Codec.load(file)
    restored = codec.decode(codec.encode(rows))
    assert (restored * rows).sum(axis=1).mean() > 0.7  # of the title, and not of the body


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
@pytest.mark.parametrize("vector", ["", "title"])
def test_a_collection_is_migrated_and_searched(rows, fast_path: Path, monkeypatch, capsys, vector: str) -> None:
    monkeypatch.chdir(fast_path)
    client = QdrantClient(path=str(fast_path / "qdrant"))
    config = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config={vector: config, "body": config} if vector else config)
    points: Any = [{vector: row.tolist(), "body": row[::-1].tolist()} if vector else row.tolist() for row in rows]
    client.upload_collection("docs", points, ids=range(ROWS))
    client.close()
    address = f"qdrant+file://{fast_path}/qdrant/docs" + (f"#{vector}" if vector else "")
    asked = [address, "--for", "qdrant", "--bytes", "64", "--vectors", str(ROWS)]
    commands, code = printed(capsys, *asked)
    assert [shlex.split(command)[0] for command in commands] == ["linear", "migrate"]
    for command in commands:
        assert typed(*shlex.split(command)) == 0
    lines = code.rstrip().splitlines()
    names: dict[str, Any] = {"query": rows[7]}
    exec("\n".join([*lines[:-1], f"answer = {lines[-1]}", "client.close()"]), names)
    assert names["answer"].points[0].id == 7


def test_addresses_are_read_as_they_are_written() -> None:
    assert QdrantCollection.at("docs.parquet#title") is None
    found = QdrantCollection("qdrant+https://example.org:6333/some/base/my%20docs#title")
    assert (found.url, found.folder, found.name) == ("https://example.org:6333/some/base", None, "my docs")
    assert (found.vector, found.target) == ("title", "my docs-compressed")
    local = QdrantCollection("qdrant+file:///data/docs")
    assert (local.url, local.folder, local.name, local.vector) == (None, "/data", "docs", "")


def test_compress_leaves_bad_rows_out_and_says_so(rows, sample, tmp_path: Path, monkeypatch, capsys) -> None:
    """The policy is that of train, fit, encode, migrate and plan."""
    monkeypatch.chdir(tmp_path)
    many = np.ascontiguousarray(sample.train[:1500, :16])
    many[3], many[700] = np.nan, 0
    np.save("docs.npy", many)
    command = ["compress", "docs.npy", "--bytes", "32", "--budget", "1s", "--out", "small"]
    assert typed(*command) == 1
    assert "1 row (3) has NaN" in capsys.readouterr().err
    assert typed(*command, "--on-bad-rows", "report") == 1
    assert "2 rows cannot be used" in capsys.readouterr().err
    assert (tmp_path / "small.bad-rows.csv").read_text().count("\n") == 3
    data = CompressionData(documents="docs.npy", on_bad_rows=OnBadRows.SKIP)
    with pytest.warns(LeftOutWarning, match="2 rows are left out"):
        assert data.open().documents.rows == 1498
    export_linear(fit_linear(sample.train[:500, :16], 8), "codec.onnx")
    setting = Setting("svd8.onnx", "codec.onnx", 8, 16, 8, CodeType.FLOAT32, 8)
    next_one = shlex.split(next_command(data, setting, Path("codec.onnx"), StoreName.PACKED))
    assert next_one[-4:] == ["--on-bad-rows", "skip", "--out", "latents.npy"]
    assert typed(*next_one[1:]) == 0
    assert len(np.load("latents.npy")) == 1498


def test_the_next_command_for_parquet_keeps_all_columns(sample, tmp_path: Path, monkeypatch, capsys) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    rows = np.ascontiguousarray(sample.train[:40, :16])
    parquet.write_table(arrow.table({"id": range(40), "vector": rows.tolist()}), "docs.parquet")
    export_linear(fit_linear(sample.train[:500, :16], 8), "codec.onnx")
    setting = Setting("svd8.onnx", "codec.onnx", 8, 16, 8, CodeType.FLOAT32, 8)
    data = CompressionData(documents="docs.parquet")
    next_one = shlex.split(next_command(data, setting, Path("codec.onnx"), StoreName.PACKED))
    assert typed(*next_one[1:]) == 0
    written = parquet.read_table(next_one[-1])
    assert written["id"].to_pylist() == list(range(40))


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "docs.npy", "--out", "small"],
        ["compress", "docs.npy", "--save", "200%", "--out", "small"],
        ["compress", "docs.npy", "--recall", "3", "--out", "small"],
        ["plan", "docs.npy", "--bytes", "16", "--sample", "-3"],
        ["plan", "docs.npy", "--target", "recall@10>=7"],
    ],
)
def test_goals_that_cannot_be_meant_are_wrong_usage(rows, tmp_path: Path, monkeypatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("docs.npy", rows)
    assert typed(*arguments) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs.npy"]
