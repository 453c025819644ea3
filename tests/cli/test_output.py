"""Test what commands print: text is text, the reference is current, progress fits, wrong values exit 2."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vaecodec import fit_linear
from vaecodec.text import one_line, visible
from vaecodec_cli import progress
from vaecodec_cli.console import Terminal, print_json, table, tables_for, warnings_shown
from vaecodec_cli.main import COMMANDS, main
from vaecodec_cli.progress import LogLines, TrainingBar, alive, set_level, shown, steps_shown, working
from vaecodec_cli.reference import updated
from vaecodec_exporters.linear import export_linear
from vaecodec_training.observe import Progress

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def codec_file(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    export_linear(fit_linear(rows, 4, embedder="\x1b[2J e5 [v2] [/b]"), tmp_path / "c[b].onnx")
    return tmp_path / "c[b].onnx"


def test_the_page_of_commands_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "run python -m vaecodec_cli.reference docs/cli.md"
    assert all(f"### `vaecodec {name}`\n" in page for name in COMMANDS)


def test_a_wrong_name_is_an_error_before_torch_is_imported(tmp_path: Path) -> None:
    script = """
import sys
from vaecodec_cli.main import main
for command in (["train"], ["fit"], ["compress", "--save", "half"]):
    try:
        main([*command, "missing.npy", "--out", "out"])
    except SystemExit as ended:
        assert ended.code == 1
assert "torch" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines() == 3 * ["error: missing.npy: no such file or folder"]


def test_help_says_where_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "Start with: vaecodec compress" in shown
    places = [shown.index(f"│ {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [b]text[/]", "plain [b]text[/]"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("naïve\tlatin\n", "naïve\tlatin\n"),
        ("name\udcff.npy", "name\\udcff.npy"),
        ("txt\u202egnp", "txt\\u202egnp"),
        ("\x9b1m", "\\x9b1m"),
    ],
)
def test_what_controls_a_terminal_becomes_visible(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_an_error_takes_one_line() -> None:
    assert one_line("first\n\n  second\x1b\n") == "first second\\x1b"


def test_an_error_that_quotes_a_long_value_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns: dict[str, Any] = {"x" * 5000: np.eye(8)}
    np.savez(tmp_path / "rows.npz", **columns)
    with pytest.raises(SystemExit) as ended:
        main(["linear", f"{tmp_path}/rows.npz#y", "--dim", "2", "--out", f"{tmp_path}/codec.onnx"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "has no array 'y'; it has: xxx" in said
    assert said.endswith(" characters)\n")
    assert len(said) < 3_100


def test_tables_and_lines_show_brackets_and_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console = Terminal()
    console.print("see [docs] \x1b[1m :smile:")
    console.print(table("name[0]", "n", title="[x] \x07", rows=[("[/b]\x1b", "1")]))
    printed = capsys.readouterr().out
    assert "see [docs] \\x1b[1m :smile:\n" in printed
    assert all(text in printed for text in ("name[0]", "[x] \\x07", "[/b]\\x1b"))
    assert "\x1b" not in printed


def test_a_wide_table_is_told_in_parts_that_repeat_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("svd", *["0.500 [0.400, 0.600]"] * 3), ("vae", "0.6", "0.7", "0.8")]
    console = Terminal()
    for part in tables_for(44, ("codec", "recall@1", "recall@10", "recall@100"), rows, title="Figures", bold=(1,)):
        console.print(part)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 44
    assert [line for line in lines if "svd" in line] == [
        "│ svd   │          0.500 │          0.500 │",
        "│ svd   │          0.500 │",
    ]
    assert sum(line.count("[0.400, 0.600]") for line in lines) == 3
    assert lines.count("Figures") == 1


def test_a_foreign_file_cannot_control_the_terminal(codec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", codec_file) == 0
    printed = capsys.readouterr().out
    assert "\\x1b[2J e5 [v2] [/b]" in printed
    assert str(codec_file) in printed.replace("\n", "")
    assert run("info", codec_file, "--card") == 0
    assert "## Limits" in capsys.readouterr().out


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), 1.5], "b": float("inf")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": None}


def test_warnings_are_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_shown(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("odd [x]\x1b", UserWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "UserWarning: odd [x]\\x1b\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linear", "x.npy", "--dim", 99, "--out", "y.onnx"), "expected a latent width from 1 to 8, got 99"),
        (("encode", "x.npy", "--codec", "c[b].onnx", "--dim", 77, "--out", "y.npy"), "77"),
        (("fit", "x.npy", "--budget", "soon", "--out", "y"), "expected a duration such as 90s, 10m or 1.5h"),
        (("fit", "x.npy", "--dims", "a", "--out", "y"), "expected widths such as 32,64, got 'a'"),
        (("plan", "x.npy", "--target", "much"), "much"),
        (("plan", "x.npy", "--ram", "x"), "'x'"),
    ],
)
def test_values_that_cannot_be_right_are_wrong_usage(
    arguments: tuple[object, ...],
    message: str,
    codec_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(codec_file.parent)
    assert run(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sorted(path.name for path in codec_file.parent.iterdir()) == ["c[b].onnx", "x.npy"]


def test_the_time_left_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with shown("/a/very/long/folder/of/somebody/embeddings.parquet") as progress:
        progress(1_000_000, 10_000_000)
        progress(2_000_000, 10_000_000)
    printed = capsys.readouterr().err
    assert "…" in printed
    assert "2000000/10000000" in printed
    assert ":" in printed.rsplit("rows/s", 1)[-1]


def step(number: int) -> Progress:
    return Progress(number, 30, 1.5, terms={}, gradient_norm=2.0, learning_rate=0.1, record=None, best=0.25)


def test_training_without_a_terminal_logs_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vaecodec_cli.progress.SECONDS", 1e-9)
    with TrainingBar() as bar:
        bar(step(1))
        bar(step(2))
    line = capsys.readouterr().err
    assert line.startswith("train: 2 of 30 steps, ")
    assert line.endswith("left, loss 1.5000, best so far 0.250, gradient 2\n")


def test_a_command_that_is_silent_for_long_says_what_it_is_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vaecodec_cli.progress.SECONDS", 0.01)
    with alive("linear"):
        logging.getLogger("vaecodec.codes.residual_fit").debug("fitting the codes: stage %d of %d", 2, 8)
        printed = ""
        while "stage" not in printed:
            time.sleep(0.01)
            printed += capsys.readouterr().err
    assert "linear: fitting the codes: stage 2 of 8, 0:00:00 so far\n" in printed
    assert not any(thread.name == "vaecodec-alive" for thread in threading.enumerate())


def test_on_a_terminal_the_bar_shows_the_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with TrainingBar():
        logging.getLogger("vaecodec.codes.residual_fit").debug("fitting the codes: stage %d of %d", 2, 8)
    assert "fitting the codes: stage 2 of 8" in capsys.readouterr().err
    with working("reading vectors"):
        logging.getLogger("vaecodec.linear").debug("reading \x1b[2Jdocs.npy: %s rows", "5,000")
        time.sleep(0.15)
    assert "reading \\x1b[2Jdocs.npy: 5,000 rows" in capsys.readouterr().err


def test_quiet_hides_progress_and_verbose_adds_details(
    codec_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(codec_file.parent)
    command = ("encode", "x.npy", "--codec", codec_file.name, "--overwrite", "--out", "y.npy")
    try:
        assert run(*command, "-v") == 0
        assert "y.npy: shard 0 is done, 60 rows" in capsys.readouterr().err
        assert run(*command) == 0
        assert capsys.readouterr().err == ""
        with monkeypatch.context() as clock:
            ticks = itertools.count(0.0, 2.0)
            clock.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
            lines = LogLines("docs", seconds=1e-9)
            lines(1, 10)
            lines(2, 10)
            assert capsys.readouterr().err == "docs: 2 of 10 rows, 0.5 rows/s, 0:00:16 left\n"
            # Fewer than before are those of the next run, which has a rate of its own.
            lines(1, 10)
            lines(3, 10)
        expected = "docs: 1 of 10 rows, 0.0 rows/s\ndocs: 3 of 10 rows, 0.5 rows/s, 0:00:14 left\n"
        assert capsys.readouterr().err == expected
        set_level(quiet=True)
        lines(3, 10)
        with steps_shown("reading") as say:
            say("measuring")
        assert capsys.readouterr().err == ""
    finally:
        set_level()
