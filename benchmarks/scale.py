"""Measure minutes and peak memory of every command on collections of the sizes that people have.

    python benchmarks/scale.py --data DIR --rows 500000 --out scale.json

The collection is DIR/base.npy followed by copies of its rows with a little noise, of the width of the base, or made
wider by repeating its dimensions: good for time and memory, worthless for recall. Each command runs in a process of its
own; its peak memory is the resident set that the system recorded of it, memory-mapped files included. Silence is the
longest time without a line of output, where no terminal shows a bar. To see what is bounded, run two sizes and compare.

Each result is written to the JSON at once, and what is there already is not run again. ``--table`` prints it
as Markdown.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from vaecodec.provenance import made_now

_BLOCK = 20_000
_NOISE = 0.05
QUERIES = 1_000


def main(
    data: Annotated[Path, typer.Option(help="Folder with base.npy and queries.npy.")],
    rows: Annotated[list[int], typer.Option(help="Rows of the collection; may be repeated.")],
    out: Annotated[Path, typer.Option(help="JSON to write.")],
    dim: Annotated[int | None, typer.Option(help="Width; by default that of the base.")] = None,
    commands: Annotated[str, typer.Option(help="Which of them to run.")] = "linear,train,plan,encode,report",
    budget: Annotated[str, typer.Option(help="Time for all training in fit and compress.")] = "10m",
    show: Annotated[bool, typer.Option("--table", help="Print the results that are there, and run nothing.")] = False,
) -> None:
    """Run the commands on each size, and write what they took."""
    found: list[dict[str, Any]] = json.loads(out.read_text())["results"] if out.exists() else []
    if show:
        print("\n".join(table(found)))
        return
    for count in rows:
        with tempfile.TemporaryDirectory(prefix="vaecodec-scale-", dir=out.parent) as folder:
            # In a process of its own: the system counts the largest memory of the parent for its children, too.
            with get_context("spawn").Pool(1) as pool:
                width = pool.apply(make_collection, (data, Path(folder), count, dim))
            done = [entry["command"] for entry in found if (entry["rows"], entry["dim"]) == (count, width)]
            wanted = [name for name in commands.split(",") if name not in done]
            # The codec that others use comes first, and is not measured unless it was asked for.
            for name in dict.fromkeys(["linear", *wanted]):
                took = run(words(name, budget), Path(folder))
                if name in wanted:
                    found.append({"command": name, "rows": count, "dim": width, **took})
                    print(table(found)[-1], flush=True)
                    content = {**made_now(), "cores": os.cpu_count(), "results": found}
                    out.write_text(json.dumps(content, indent=1) + "\n")


def table(found: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| command | rows | seconds | of processor | peak memory | longest silence |", "|---|---|---|---|---|---|"]
    for entry in found:
        memory = f"{entry['peak_mb'] / 1e3:.1f} GB | {entry['silence']:.0f} s"
        times = f"{entry['seconds']:,.0f} | {entry['cpu_seconds']:,.0f}"
        lines += [f"| `{entry['command']}` | {entry['rows']:,} x {entry['dim']:,} | {times} | {memory} |"]
    return lines


def make_collection(data: Path, folder: Path, rows: int, dim: int | None) -> int:
    """Write docs.npy and queries.npy block by block; returns their width."""
    base = np.load(data / "base.npy", mmap_mode="r")
    queries = np.load(data / "queries.npy", mmap_mode="r")[:QUERIES]
    width = dim or base.shape[1]
    columns = np.arange(width) % base.shape[1]
    random = np.random.default_rng(0)
    docs = np.lib.format.open_memmap(folder / "docs.npy", "w+", np.float32, (rows, width))
    for start in range(0, rows, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, rows))
        block = np.asarray(base[numbers % len(base)], np.float32)[:, columns]
        noise = random.standard_normal(block.shape, np.float32) * (_NOISE / np.sqrt(width)) * np.linalg.norm(block)
        docs[numbers] = block + noise / np.sqrt(len(block)) * (numbers >= len(base))[:, None]
    docs.flush()
    np.save(folder / "queries.npy", np.asarray(queries, np.float32)[:, columns])
    return width


def words(name: str, budget: str) -> list[str]:
    """Return a command as it is typed in the folder of the collection."""
    return {
        "linear": ["linear", "docs.npy", "--dim", "64", "--out", "linear.onnx"],
        "train": ["train", "docs.npy", "--queries", "queries.npy", "--dim", "64", "--out", "run"],
        "fit": ["fit", "docs.npy", "--queries", "queries.npy", "--budget", budget, "--out", "fitted"],
        "plan": ["plan", "docs.npy", "--queries", "queries.npy", "--target", "recall@10>=0.5"],
        "encode": ["encode", "docs.npy", "--codec", "linear.onnx", "--out", "latents.npy"],
        "report": [
            "report",
            "--base",
            "docs.npy",
            "--queries",
            "queries.npy",
            "--codec",
            "linear.onnx",
            "--out",
            "report",
        ],
        "compress": [
            "compress",
            "docs.npy",
            "--queries",
            "queries.npy",
            "--bytes",
            "64",
            "--budget",
            budget,
            "--out",
            "small",
        ],
    }[name]


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
