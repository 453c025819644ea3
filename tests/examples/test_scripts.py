"""Test the scripts of examples/ as a user runs them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec

EXAMPLES = Path(__file__).parents[2] / "examples"
# Runs a script until it has printed its first line.
KILLED = """
import builtins, os, runpy, signal, sys
def last_words(line, **_):
    os.write(1, f"{line}\\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
builtins.print = last_words
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True)


def put(inbox: Path, name: str, ids: range, vectors: np.ndarray) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"id": list(ids), "text": [f"text {row}" for row in ids], "embedding": list(vectors)}
    pyarrow.parquet.write_table(pyarrow.table(columns), inbox / name)


def test_ingestion_goes_on_after_a_kill_and_sets_a_bad_file_aside(sample, codec_path, fast_path):
    pytest.importorskip("pyarrow")
    qdrant_client = pytest.importorskip("qdrant_client")
    from vaecodec_integrations.qdrant import CompressedQdrantClient

    inbox, data = fast_path / "inbox", fast_path / "qdrant"
    inbox.mkdir()
    bad = sample.base[120:240].copy()
    bad[17, 3] = np.nan
    for number in range(6):
        rows = range(120 * number, 120 * number + 120)
        put(inbox, f"{number}.parquet", rows, bad if number == 1 else sample.base[rows.start : rows.stop])
    arguments = [inbox, "--codec", codec_path, "--qdrant", data, "--drift"]

    first = subprocess.run(
        [sys.executable, "-c", KILLED, EXAMPLES / "ingest.py", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert first.returncode == -signal.SIGKILL
    assert first.stdout == "0.parquet: 120 points\n"

    second = run("ingest.py", *arguments)
    assert second.returncode == 1  # something was refused
    assert "0.parquet" not in second.stdout
    assert second.stdout.endswith("5.parquet: 120 points\n")
    assert {path.name for path in (inbox / "done").iterdir()} == {f"{number}.parquet" for number in (0, 2, 3, 4, 5)}
    assert "row 17" in (inbox / "refused" / "1.reason.txt").read_text()
    assert not list(inbox.glob("*.parquet"))

    client = CompressedQdrantClient(qdrant_client.QdrantClient(path=str(data)), Codec.load(codec_path))
    assert client.count("docs").count == 600
    nearest = client.query_points("docs", sample.base[680], limit=1).points[0]
    assert (nearest.id, nearest.payload) == (680, {"text": "text 680", "file": "5.parquet"})
    client.close()

    put(inbox, "6.parquet", range(120), sample.base[:120, ::-1])  # as if of another embedding model
    third = run("ingest.py", *arguments)
    assert third.returncode == 0
    assert "drift: train again" in third.stdout


def test_migration_keeps_most_neighbours_and_rolls_back_to_all(codec_path, fast_path):
    pytest.importorskip("qdrant_client")
    finished = run("migrate_qdrant.py", "--codec", codec_path, "--folder", fast_path / "qdrant")
    assert finished.returncode == 0, finished.stderr
    migrated, back = (
        float(value) for value in re.findall(r"^recall@10 through 'live'.*?: ([\d.]+)", finished.stdout, re.M)
    )
    assert 0.55 < migrated < 0.9
    assert back == 1
    assert "'docs_small' is kept" in finished.stdout


def test_retrieval_puts_the_right_guide_into_the_prompt():
    question = "What is posterior collapse?"
    pytest.importorskip("langchain_qdrant")
    pytest.importorskip("sklearn")
    finished = run("rag_langchain.py", question)
    assert finished.returncode == 0, finished.stderr
    assert "bytes each as they are, 512 compressed" in finished.stdout
    assert "training.md" in re.findall(r"^\[(\S+?): ", finished.stdout, re.M)
    assert finished.stdout.rstrip().endswith(f"Question: {question}")
