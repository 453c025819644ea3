"""Test that files are replaced whole or not at all, whatever happens half-way."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vaecodec.errors import OutputBusyError, OutputExistsError
from vaecodec.files import locked, replacing, scratch_beside, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "codec.onnx"
    write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["codec.onnx"]


def test_the_old_content_stays_until_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "index"
    write_atomically(path, b"old")
    with replacing(path) as file:
        file.write(b"....new")
        file.seek(0)
        file.write(b"the ")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"the new"

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt("by hand")

    with pytest.raises(KeyboardInterrupt, match="by hand"):
        interrupted()
    assert path.read_bytes() == b"the new"
    assert names(tmp_path) == ["index"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_are_kept(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "private"
    write_atomically(path, b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_goes_on_pointing_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    path, link = tmp_path / "versions" / "1.onnx", tmp_path / "current.onnx"
    path.write_bytes(b"old")
    link.symlink_to(path)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(OutputExistsError, match="expected a file to write, got a folder"):
        write_atomically(tmp_path / "run", b"")
    assert names(tmp_path) == ["run"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "index"
    code = (
        "import sys, time\n"
        "from vaecodec.files import replacing, scratch_beside\n"
        "with scratch_beside(sys.argv[1]), replacing(sys.argv[1]) as file:\n"
        "    file.write(bytes(1000)); file.flush(); print(flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / ".index.note.tmp").write_text("not one of ours")
        write_atomically(path, b"first")
        assert len(names(tmp_path)) == 4
        process.send_signal(signal.SIGKILL)
    write_atomically(path, b"second")
    assert names(tmp_path) == [".index.note.tmp", "index"]
    assert path.read_bytes() == b"second"


def test_a_scratch_file_is_gone_afterwards(tmp_path: Path) -> None:
    with scratch_beside(tmp_path / "index") as scratch:
        scratch.write_bytes(b"by a library")
        assert scratch.parent == tmp_path
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_has_its_scratch_files_elsewhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs the tests in containers, may write everywhere
    with scratch_beside(tmp_path / "index") as scratch:
        assert scratch.parent != tmp_path


def hold(lock: Path) -> None:
    with locked(lock, "the run folder"):
        pass


def test_a_lock_is_held_by_one_and_then_by_the_next(tmp_path: Path) -> None:
    lock = tmp_path / "_lock"
    with locked(lock, "x"), pytest.raises(OutputBusyError, match=r"^the run folder: another process is writing it; "):
        hold(lock)
    hold(lock)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from vaecodec.files import locked\n"
        "with locked(sys.argv[1], 'x'): print(flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "_lock")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(OutputBusyError, match="another process is writing it"):
            hold(tmp_path / "_lock")
        process.send_signal(signal.SIGKILL)
    hold(tmp_path / "_lock")
