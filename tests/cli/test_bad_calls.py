"""Test every command: values that cannot be right exit 2, and outputs are refused, before anything is read or written.

The rows of the files hold nothing but NaN, so that a command that reads them says so instead.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vaecodec import fit_linear
from vaecodec_cli.main import COMMANDS, main
from vaecodec_exporters.linear import export_linear

WRONG_VALUES = {
    "bridge --sample x.npy --new-sample x.npy --least 1.5 --out o": "--least",
    "bridge --sample x.npy --out o": "--new-sample",
    "compress x.npy --save 150% --out o": "150%",
    "compress x.npy --bytes 0 --out o": "got 0",
    "compress x.npy --ram x --out o": "'x'",
    "compress x.npy --recall nan --out o": "nan",
    "compress x.npy --pairs aligned --out o": "--pairs needs --queries",
    "decode x.npy --codec c.onnx --dim 77 --out o": "77",
    "decode x.npy --codec c.onnx --workers 0 --out o": "--workers",
    "doctor --nothing": "No such option",
    "drift --codec c.onnx --data x.npy --query-column q": "--query-column needs --queries",
    "encode x.npy --codec c.onnx --bytes 5000 --out o": "4 latents are too few for such a code",
    "encode x.npy --codec c.onnx --gpus-per-worker 1 --out o": "need --engine ray",
    "export folder --precision float64 --out o": "float64",
    "fit x.npy --dims 0 --out o": "dims: expected widths from 1 to 8, got [0]",
    "fit x.npy --dims 4,99 --out o": "dims: expected widths from 1 to 8, got [4, 99]",
    "fit x.npy --budget soon --out o": "soon",
    "fit x.npy --pairs aligned --out o": "--pairs needs --queries",
    "fit x.npy --target 5000 --out o": "expected at most",
    "fuse c.onnx c.onnx --pooling median --out o": "median",
    "info c.onnx --nothing": "No such option",
    "linear x.npy --dim 0 --out o": "expected a latent width from 1 to 8, got 0",
    "linear x.npy --dim 99 --out o": "expected a latent width from 1 to 8, got 99",
    "migrate --collection a --codec c.onnx --path local --into a": "--into: expected another name",
    "migrate --collection a --codec c.onnx --path local --named x --switch-alias y": "--switch-alias needs --into",
    "migrate --collection a --codec c.onnx --path local --into b --bytes 0": "--bytes",
    "migrate --collection a --codec c.onnx --url ftp://x --into b": "expected an address such as http://localhost:6333",
    "migrate --collection a --codec c.onnx --url http://x:port --into b": "got 'http://x:port'",
    "migrate --reembed --collection a --model m.onnx --path local --into b": "call `vaecodec reembed`",
    "migrate-pg --url postgresql://h --table t --column c --codec c.onnx --into c": "--into: expected another name",
    "migrate-pg --url http://h --table t --column c --codec c.onnx --into d": "expected an address such as postgresql",
    "plan x.npy --target recall@10>=1.5": "1.5",
    "plan x.npy --target recall@10>=0.9 --rerank 0": "rerank",
    "plan x.npy --query-column q": "--query-column needs --queries",
    "reembed --collection a --path local --into a --model m.onnx": "--into: expected another name",
    "reembed --collection a --path local --into b --model m.onnx --texts-per-second 0": "--texts-per-second",
    "refit-queries c.onnx --docs x.npy --queries x.npy --bytes 5000 --out o": "4 latents are too few for such a code",
    "refit-queries c.onnx --docs x.npy --queries x.npy --dtype x --out o": "--dtype",
    "report --base x.npy --queries x.npy --codec c.onnx --out o --bytes 5000": "4 latents are too few for such a code",
    "rollback --collection a --path local --into b --named c": "give one of --into and --named",
    "rollback --collection a --url http:// --into b": "expected an address",
    "split c.onnx": "--out",
    "train x.npy --dim 99 --out o": "dim: expected a latent width from 1 to 8, got 99",
    "bridge c.onnx c.onnx --sample x.npy --least 0.5 --out o": "--least: for a bridge between two models",
    "bridge --sample x.npy --new-sample x.npy --pairs aligned --out o": "--pairs needs --queries",
    "decode x.npy --codec c.onnx --resume --overwrite --out o": "resume, overwrite: expected one of them, got both",
    "encode x.npy --codec c.onnx --resume --overwrite --out o": "resume, overwrite: expected one of them, got both",
    "encode x.npy --codec c.onnx --dtype int8 --bytes 8 --out o": "dtype, bytes: expected one of them",
    "fit wide.npy --dims 4,32 --target 16 --out o": "expected at most 2 bytes for 4 latents, got 16",
    "fit x.npy --dims , --out o": "expected widths such as 32,64, got ','",
    "fit x.npy --objective relevance --out o": "objective: expected pairs of queries and documents for relevance",
    "linear x.npy --dim 4 --column= --out o": "expected the name of a column, got ''",
    "migrate --collection a --codec c.onnx --path local --into b --switch-alias b": "--switch-alias: expected another",
    "migrate-pg --url postgresql://h --table t --column c --codec c.onnx --into d --originals d": "the compressed",
    "migrate-pg --url postgresql://h --table t --column c --codec c.onnx --into id": "other name than the key",
    "plan x.npy --target recall@10>=0.9 --rerank 100000": "rerank: expected from 1 to 1,000",
    "plan x.npy --target recall@٣>=0.9": "expected such as",
    "reembed --collection a --path local --into b --model m.onnx --price 1": "--price needs --dry-run",
    "reembed --collection a --path local --into b --model m.onnx --judged x.npy": "--judged needs --dry-run",
    "reembed --collection a --path local --into b --model m.onnx --dry-run --query-prompt q": "needs --judged",
    "reembed --collection a --path local --into b --model m.onnx --texts-per-second inf": "expected a number, got inf",
    "report --base x.npy --queries x.npy --codec c.onnx --codec c.onnx --out o": "codec: expected different files",
    "report --base x.npy --queries x.npy --codec c.onnx --dtype int8 --dtype int8 --out o": "dtype: expected different",
    "rollback --collection a --path local --into a": "--into: expected another name",
    "train x.npy --epochs 0 --dim 4 --out o": "epochs: expected above 0 and at most 1,000,000, got 0",
    "train x.npy --epochs 1e300 --dim 4 --out o": "epochs: expected above 0",
    "train x.npy --dim 4 --nested , --out o": "expected widths such as 32,64, got ','",
    "train x.npy --target ١٢ --out o": "target: expected one of",
    "train x.npy --objective relevance --dim 4 --out o": "objective: expected pairs of queries and documents",
    "train x.npy --out o": "dim: expected a latent width from 1 to 8, got 128",
    "train x.npy --nested a --out o": "expected widths such as 32,64, got 'a'",
}

TAKEN_OUTPUTS = {
    "encode x.npy --codec c.onnx --out /": "expected a name for the output",
    "linear x.npy --dim 4 --out missing/c.onnx": "No such file or directory",
    "report --base x.npy --queries x.npy --codec c.onnx --out x.npy/report": "Not a directory",
    "compress x.npy --save 90% --out taken": "expected a folder to write, got a file",
    "encode x.npy --codec c.onnx --out x.npy --overwrite": "is an input, which is never overwritten",
    "fit x.npy --out taken": "expected a folder to write, got a file",
    "linear x.npy --dim 4 --out taken --overwrite": "something else is there",
    "linear x.npy --dim 4 --out c.onnx": "replace it with overwrite (--overwrite)",
    "refit-queries c.onnx --docs x.npy --queries x.npy --out c.onnx --overwrite": "is an input",
    "refit-queries c.onnx --docs x.npy --queries x.npy --out taken --overwrite": "something else is there",
    "report --base x.npy --queries x.npy --codec c.onnx --out taken": "expected a folder to write, got a file",
    "report --base x.npy --queries x.npy --codec c.onnx --out folder": "report.html: exists already",
    "split c.onnx --out taken": "expected a folder to write, got a file",
    "split cut/encode.onnx --out cut --overwrite": "is the input itself",
    "train x.npy --out taken": "expected a folder to write, got a file",
    "train x.npy --dim 4 --out o --export c.onnx": "replace it with overwrite (--overwrite)",
    "train x.npy --dim 4 --out o --export missing/c.onnx": "No such file or directory",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of files whose rows cannot be used."""
    folder = tmp_path_factory.mktemp("calls")
    for name, width in (("x.npy", 8), ("wide.npy", 32)):
        np.save(folder / name, np.full((60, width), np.nan, np.float32))
    for name in ("local", "folder", "cut"):
        (folder / name).mkdir()
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    for name in ("c.onnx", "cut/encode.onnx"):
        export_linear(fit_linear(rows, 4), folder / name)
    for name in ("taken", "folder/report.html"):
        (folder / name).write_text("somebody else's")
    return folder


def refused(call: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Type a call; return its exit code and its message, after nothing was written."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        main(call.split())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return int(ended.value.code or 0), " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize("call", WRONG_VALUES)
def test_values_that_cannot_be_right_exit_2(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code, message = refused(call, folder, capsys)
    assert code == 2
    assert WRONG_VALUES[call] in message


@pytest.mark.parametrize("call", TAKEN_OUTPUTS)
def test_outputs_are_checked_before_anything_is_read(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code, message = refused(call, folder, capsys)
    assert code == 1
    assert TAKEN_OUTPUTS[call] in message
    assert "NaN" not in message


def test_no_command_is_left_out() -> None:
    assert {call.split()[0] for call in WRONG_VALUES} == set(COMMANDS)
