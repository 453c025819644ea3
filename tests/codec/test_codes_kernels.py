"""Test that compiled loops work where numba can keep nothing on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

SCRIPT = """
import sys
from vaecodec.codes.kernels import compiled
import loops
if {limit}:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
print(compiled(loops.twice)(21))
"""


def run(folder: Path, *, limit: int = 0) -> str:
    """Run a process that compiles a function of ``folder`` and keeps the code in ``folder / "cache"``."""
    (folder / "loops.py").write_text("def twice(number):\n    return 2 * number\n")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(limit=limit)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def kept(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "cache").rglob("*twice*") if file.is_file())


def test_machine_code_is_kept_for_the_next_process(tmp_path: Path) -> None:
    assert run(tmp_path) == "42\n"
    assert [file.suffix for file in kept(tmp_path)] == [".nbc", ".nbi"]
    assert run(tmp_path) == "42\n"


def test_without_a_folder_to_write_to_nothing_is_kept() -> None:
    from vaecodec.codes.kernels import compiled

    nowhere: dict[str, object] = {}
    exec(compile("def twice(number):\n    return 2 * number\n", "<nowhere>", "exec"), nowhere)
    assert compiled(nowhere["twice"])(21) == 42  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are set by Unix's resource module")
def test_a_full_disk_costs_the_cache_only(tmp_path: Path) -> None:
    assert run(tmp_path, limit=100) == "42\n"
    assert kept(tmp_path) == []


def test_a_cache_that_a_power_cut_emptied_is_compiled_anew(tmp_path: Path) -> None:
    run(tmp_path)
    files = kept(tmp_path)
    assert len(files) == 2
    for file in files:
        file.write_bytes(b"")
        assert run(tmp_path) == "42\n"
