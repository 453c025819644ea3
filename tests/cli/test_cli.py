"""Test the command line as a person types it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client.models import CreateAlias, CreateAliasOperation, Distance, VectorParams

from vaecodec import Codec, Metric, __version__
from vaecodec.calibration import scores_of
from vaecodec.drift.monitor import MonitoredCodec
from vaecodec.errors import NotCalibratedError
from vaecodec.evaluation import exact_search, pair_scores
from vaecodec_cli.linear import linear
from vaecodec_cli.main import COMMANDS, main
from vaecodec_cli.options import CodecOutput


def vaecodec(*arguments: object, code: int = 0) -> str:
    """Run the console script; its standard output, or its standard error when it should fail."""
    command = [sys.executable, "-m", "vaecodec_cli", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env={"COLUMNS": "120", "PATH": "/usr/bin:/bin"})
    assert result.returncode == code, result.stderr
    return result.stderr if code else result.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    assert f"vaecodec {command}" in help_text
    assert len(help_text) > 200


def test_info_shows_the_file_and_its_identity(capsys, vae_path: Path) -> None:
    codec = Codec.load(vae_path)
    shown = vaecodec("info", vae_path)
    assert codec.codec_id in shown
    assert re.search(rf"latents\s+│ {codec.code_dim} dimensions, compared by cosine", shown)
    assert "kept@100 is the share of the old top 10" in shown
    whole = printed(capsys, "info", vae_path)
    assert whole["codec_id"] == codec.codec_id
    assert whole["dim"] == 384


def test_a_linear_codec_in_one_command(capsys, tmp_path: Path) -> None:
    train = Path(__file__).parents[2] / "examples" / "debian-sample" / "train.npy"
    typed = "linear", train, "--dim", 16, "--kind", "pca", "--out", tmp_path / "pca.onnx", "--embedder", "minilm"
    assert printed(capsys, *typed)["code_dim"] == 16
    codec = Codec.load(tmp_path / "pca.onnx")
    assert (codec.dim, codec.code_dim, codec.embedder) == (384, 16, "minilm")
    assert codec.metadata.provenance["linear"] == "pca"
    assert codec.metadata.provenance["data"] == {"rows": 7500, "held_out_rows": 375}
    held_out, monitor = np.load(train)[::20].astype(np.float32), MonitoredCodec.of(codec)
    monitor.encode(np.load(train.with_name("base.npy")))
    finding = monitor.check().findings[0]
    cosines = pair_scores(held_out, codec.decode(codec.encode(held_out)), Metric.COSINE)
    assert finding.expected == pytest.approx(cosines.mean(), abs=1e-4)
    assert not finding.drifted


def test_a_linear_codec_says_what_its_scores_mean(sample, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", sample.train)
    vaecodec("linear", tmp_path / "train.npy", "--dim", 64, "--out", tmp_path / "svd.onnx")
    codec = Codec.load(tmp_path / "svd.onnx")
    fitted = scores_of(codec)
    ids, scores = exact_search(codec.encode(sample.base), codec.encode_queries(sample.queries), 10, Metric.COSINE)
    original = np.einsum("qnd,qd->qn", sample.base[ids], sample.queries)
    assert np.abs(fitted.scale * scores + fitted.offset - original).mean() < 0.4 * np.abs(scores - original).mean()
    linear(str(tmp_path / "train.npy"), 16, CodecOutput(out=tmp_path / "l2.onnx"), metric=Metric.L2)
    with pytest.raises(NotCalibratedError, match="scores"):
        scores_of(Codec.load(tmp_path / "l2.onnx"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    """Return what a command prints under --json: standard output as one document."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert ended.value.code == code, shown.err
    return json.loads(shown.out)


@pytest.fixture
def files(sample, svd_path: Path, tmp_path: Path) -> Path:
    """Return a folder with base.npy, queries.npy and svd.onnx."""
    np.save(tmp_path / "base.npy", sample.base[:1500])
    np.save(tmp_path / "queries.npy", sample.queries[:120])
    (tmp_path / "svd.onnx").write_bytes(svd_path.read_bytes())
    return tmp_path


@pytest.mark.filterwarnings("default")  # these runs are too short to be any good, which training says
def test_commands_that_write_a_codec_say_which_as_json(capsys, files: Path, vae_run: Path) -> None:
    data, run = files / "base.npy", files / "run"
    linear_codec = printed(capsys, "linear", data, "--dim", 8, "--out", files / "l.onnx")
    exported = printed(capsys, "export", vae_run, "--out", files / "vae.onnx")
    trained = printed(capsys, "train", data, "--dim", 8, "--epochs", 1, "--out", run, "--export", files / "t.onnx")
    (files / "short.toml").write_text("epochs = 1\nhidden = 32\n")
    briefly = ("--recipe", files / "short.toml", "--budget", "2s")
    fitted = printed(capsys, "fit", data, "--dims", "8", *briefly, "--out", files / "fit")
    for written in (linear_codec, exported, trained["codec"], fitted["codec"]):
        codec = Codec.load(written["file"])
        assert (written["codec_id"], written["code_dim"]) == (codec.codec_id, codec.code_dim)
        assert written["bytes"] == Path(written["file"]).stat().st_size
    assert printed(capsys, "info", files / "vae.onnx")["codec_id"] == exported["codec_id"]
    assert 0 < trained["validation"]["codec"]["recall@10"]["mean"] < 1
    assert trained["gain"]["over"] in trained["validation"]
    assert fitted["learned_ships"] == (fitted["difference"]["low"] > 0)


def test_commands_that_read_a_collection_answer_as_json(capsys, files: Path) -> None:
    base, codec = files / "base.npy", ("--codec", files / "svd.onnx")
    encoded = printed(capsys, "encode", base, *codec, "--out", files / "latents.npy")
    assert (encoded["output"], encoded["rows"], encoded["bad_rows"]) == (str(files / "latents.npy"), 1500, 0)
    decoded = printed(capsys, "decode", files / "latents.npy", *codec, "--out", files / "decoded.npy")
    assert decoded["rows"] == len(np.load(files / "decoded.npy")) == 1500
    searched = ("--base", base, "--queries", files / "queries.npy")
    report = printed(capsys, "report", *searched, *codec, "--out", files / "report")
    assert report["summary"] == json.loads((files / "report" / "report.json").read_text())["summary"]
    goal = ("--target", "recall@10>=0.99", "--bytes", 16)
    plan = printed(capsys, "plan", base, "--queries", files / "queries.npy", *goal, code=3)
    assert not plan["met"]
    ends = (files / "svd.onnx", files / "svd.onnx")
    crossed = printed(capsys, "bridge", *ends, "--sample", base, "--out", files / "bridge.onnx")
    assert crossed["bridged"]["recall@10"]["mean"] > 0.5


def test_a_migration_and_its_undoing_answer_as_json(capsys, sample, files: Path) -> None:
    with closing(QdrantClient(path=str(files / "qdrant"))) as client:
        client.create_collection("docs", VectorParams(size=384, distance=Distance.COSINE))
        client.upload_collection("docs", sample.base[:200], ids=range(200))
        client.update_collection_aliases(
            [CreateAliasOperation(create_alias=CreateAlias(collection_name="docs", alias_name="live"))]
        )
    where = ("--path", files / "qdrant", "--collection", "docs", "--into", "small")
    work = ("migrate", *where, "--codec", files / "svd.onnx", "--state", files / "state.json")
    assert "outcome" not in printed(capsys, *work, "--dry-run")
    done = printed(capsys, *work, "--switch-alias", "live")
    assert (done["target"], done["estimate"]["points"], done["switched_alias"]) == ("small", 200, "live")
    assert (done["outcome"]["copied"], done["outcome"]["settled"]) == (200, True)
    assert "points at 'docs' again" in printed(capsys, "rollback", *where)["done"]


def test_drift_exits_with_its_answer(capsys, sample, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", sample.train)
    np.save(tmp_path / "base.npy", sample.base)
    np.save(tmp_path / "moved.npy", np.roll(sample.base, 1, axis=1))
    printed(capsys, "linear", tmp_path / "train.npy", "--dim", 16, "--out", tmp_path / "with.onnx")
    codec = ("drift", "--codec", tmp_path / "with.onnx", "--data")
    assert not printed(capsys, *codec, tmp_path / "base.npy")["drifted"]
    assert printed(capsys, *codec, tmp_path / "moved.npy", code=3)["drifted"]
    golden = Path(__file__).parents[1] / "codec" / "golden" / "linear4.onnx"
    with pytest.raises(SystemExit) as ended:
        main(["drift", "--codec", str(golden), "--data", str(tmp_path / "base.npy"), "--json"])
    assert ended.value.code == 4
    assert capsys.readouterr().out == ""


def test_errors_of_the_system_are_one_line_and_exit_code_1(capsys, files: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["linear", str(files / "base.npy"), "--dim", "4", "--out", str(files / "none" / "l.onnx")])
    assert ended.value.code == 1
    assert re.fullmatch(r"error: \[Errno 2\] No such file or directory: '.*'\n", capsys.readouterr().err)


def test_a_qdrant_that_does_not_answer_or_lacks_the_collection_is_one_line(capsys, tmp_path: Path) -> None:
    asked = ("rollback", "--collection", "docs", "--into", "small")
    # The client itself warns before, that it could not ask the server for its version.
    silent = vaecodec(*asked, "--url", "http://127.0.0.1:1", code=1).splitlines()[-1]
    assert silent.startswith("error: http://127.0.0.1:1: the server does not answer (")
    with pytest.raises(SystemExit, match="1"):
        main([*asked, "--path", str(tmp_path)])
    missing = capsys.readouterr().err
    assert missing == f"error: {tmp_path}: there is no collection 'small'; there are: none\n"
    with closing(QdrantClient(path=str(tmp_path))):
        locked = vaecodec(*asked, "--path", tmp_path, code=1)
    assert locked.startswith(f"error: {tmp_path}: Storage folder {tmp_path} is already accessed by another instance")


def test_an_interrupt_is_exit_code_130(sample, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", sample.train)
    command: list[Any] = [sys.executable, "-m", "vaecodec_cli", "train", tmp_path / "train.npy"]
    command += ["--out", tmp_path / "run", "--json"]
    # Where the tests run in the background the signal may be ignored, and children inherit that.
    heard: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heard) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the data check: training is about to begin
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors


def test_the_shell_completes_commands_and_options() -> None:
    """Complete as a shell does: run the script with the words so far in its environment."""
    script = Path(sys.executable).with_name("vaecodec")
    complete = {"_VAECODEC_COMPLETE": "complete_bash", "PATH": "/usr/bin:/bin"}

    def completed(words: str) -> list[str]:
        position = str(len(words.split(" ")) - 1)
        environment = complete | {"COMP_WORDS": words, "COMP_CWORD": position}
        return subprocess.run([script], env=environment, capture_output=True, text=True).stdout.split()

    assert completed("vaecodec enc") == ["encode"]
    assert set(completed("vaecodec train --e")) == {"--epochs", "--embedder", "--export"}
    shown = subprocess.run([script, "--show-completion", "bash"], capture_output=True, text=True)
    assert "complete -o default -F _vaecodec_completion vaecodec" in shown.stdout


def test_errors_of_ours_are_one_line_and_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert vaecodec("info", path, code=1) == f"error: {path}: there is no such codec file\n"


def test_wrong_usage_is_exit_code_2() -> None:
    assert "Missing argument" in vaecodec("info", code=2)


def test_python_runs_the_program_by_the_name_of_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "vaecodec", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"vaecodec {__version__}\n")
