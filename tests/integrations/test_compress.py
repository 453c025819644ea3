"""Test one call from a collection to a codec that is worth using, and the next command as it is printed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from vaecodec import Codec, fit_linear
from vaecodec.artifact import read_artifact
from vaecodec.codes import CodeType
from vaecodec.errors import EvaluationInputError
from vaecodec.interface import Metric
from vaecodec.sources import ArraySource
from vaecodec_cli.main import main

pytest.importorskip("torch", reason="torch is not installed: pip install 'vaecodec[train]'")

from vaecodec_integrations.compress import CompressionData, instead_of_hnswlib, next_command
from vaecodec_integrations.hnsw import CompressedIndex
from vaecodec_integrations.plan import GoalRequest
from vaecodec_integrations.plan.candidates import Setting
from vaecodec_integrations.plan.goal import bytes_for
from vaecodec_integrations.plan.stores import StoreName

DIM = 48


@pytest.fixture(scope="module")
def folder(sample, tmp_path_factory) -> Path:
    """Write documents and their queries, of few dimensions so that training takes no time."""
    folder = tmp_path_factory.mktemp("compress")
    svd = fit_linear(sample.train, DIM)
    np.save(folder / "docs.npy", svd.encode(sample.train[:1_500]))
    np.save(folder / "queries.npy", svd.encode_queries(sample.train_queries[:1_500]))
    return folder


def typed(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_a_library_that_is_missing_is_named_before_any_work(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "numba", None)
    command = ["compress", str(folder / "docs.npy"), "--bytes", "16", "--out", str(tmp_path / "small")]
    assert typed(*command) == 1
    captured = capsys.readouterr()
    assert "pip install 'vaecodec[packed]'" in captured.err
    assert "training" not in captured.out + captured.err
    assert not (tmp_path / "small").exists()


# A second is too little to train in, and the fit says so.
@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BudgetWarning")
def test_from_vectors_to_the_next_command_and_again(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    command = ["compress", "docs.npy", "--queries", "queries.npy", "--pairs", "aligned", "--bytes", "16"]
    command += ["--budget", "1s", "--out", "small"]
    assert typed(*command) == 0
    said = capsys.readouterr().out
    next_one = said.splitlines()[-1].strip()
    assert "12x smaller (16 bytes per vector); keeps " in said
    assert " with 4x re-ranking" in said
    assert "finds the right document in " in said
    assert "Without training, " in said
    # Each step is one line, whatever it does in detail.
    steps = [line for line in said.splitlines() if line.endswith(" ...")]
    assert steps == [
        f"{step} ..." for step in ("reading vectors", "training", "planning", "writing the codec", "measuring")
    ]
    assert next_one.startswith("vaecodec encode docs.npy --codec small/codec.onnx")
    assert (folder / "small" / "report" / "report.html").exists()

    # What is printed can be typed.
    assert typed(*shlex.split(next_one)[1:]) == 0
    codes = np.load(folder / "small" / "latents.npy")
    assert codes.shape == (1_500, 16)
    assert codes.dtype == np.uint8
    capsys.readouterr()

    # Nothing is trained again.
    trained = (folder / "small" / "fit" / "run.json").read_bytes()
    assert typed(*command, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (folder / "small" / "fit" / "run.json").read_bytes() == trained
    assert document["command"] == next_one
    assert document["met"] is True
    assert document["setting"]["code_bytes"] == 16


def test_nothing_is_trained_where_half_precision_is_enough(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    command = ["compress", "docs.npy", "--queries", "queries.npy", "--save", "half", "--out", "half", "--json"]
    for _ in range(2):  # the second time over what the first one wrote
        assert typed(*command) == 0
        captured = capsys.readouterr()
        document = json.loads(captured.out)
        assert (document["setting"]["dtype"], document["setting"]["width"]) == ("float16", DIM)
        assert document["learned_ships"] is False
        assert document["lines"][0].startswith("codec.onnx, float16: 2x smaller")
        assert "Without training" not in document["lines"][0]  # it is untrained itself
        assert document["lines"][1] == f"No training is needed: {DIM} x float16 of all dimensions are enough."
        assert document["lines"][2] == (
            f"Searched in a PackedIndex, a vector takes {2 * DIM} bytes of RAM with its index, instead of {4 * DIM}."
        )
        steps = [line for line in captured.err.splitlines() if line.endswith(" ...")]
        assert steps[:3] == ["reading vectors ...", "trying what needs no training ...", "writing the codec ..."]
    assert list((folder / "half" / "fit").iterdir()) == []
    # What the codec is judged by was not fitted on.
    opened = CompressionData(documents="docs.npy", queries="queries.npy").open().to_json()
    assert read_artifact(folder / "half" / "codec.onnx")[1].provenance["data"] == opened
    assert opened["held_out_rows"] >= 1_500 * 0.05
    assert typed(*shlex.split(document["command"])[1:]) == 0
    assert np.load(folder / "half" / "latents.npy").dtype == np.float16


def test_too_few_queries_to_judge_by_are_named_before_anything_is_trained(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    np.save(tmp_path / "few.npy", np.load("queries.npy")[:100])
    data = CompressionData(documents="docs.npy", queries=str(tmp_path / "few.npy"))
    with pytest.raises(EvaluationInputError, match="expected at least 40 rows that can be held out to judge by, got 3"):
        data.open()
    # Some hundreds are enough.
    np.save(tmp_path / "few.npy", np.load("queries.npy")[:200])
    assert 40 <= len(data.open().confirmation.queries) <= 80


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            ["--ram", "1GB", "--vectors", "50M", "--for", "qdrant"],
            "ram: expected at least 7.3 GB for 50,000,000",
        ),
        (
            ["--ram", "10GB", "--vectors", "50M", "--for", "hnswlib"],
            "the smallest takes 324 bytes with its index",
        ),
        (["--bytes", "1"], "bytes: expected at least 2 for a vector in packed (saves 98%), got 1"),
    ],
)
def test_limits_that_nothing_can_meet_are_named_before_anything_is_trained(goal, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert typed("compress", "docs.npy", "--queries", "queries.npy", *goal, "--out", "never") == 2
    captured = capsys.readouterr()
    assert message in captured.err.replace("\n", " ")
    assert "training" not in captured.out + captured.err
    assert not (folder / "never").exists()


def test_another_codec_is_not_replaced(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "taken").mkdir()
    (folder / "taken" / "codec.onnx").write_bytes(b"mine")
    assert typed("compress", "docs.npy", "--bytes", "16", "--out", "taken") == 1
    assert "taken/codec.onnx" in capsys.readouterr().err
    assert (folder / "taken" / "codec.onnx").read_bytes() == b"mine"


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_a_collection_in_qdrant_is_migrated_by_the_next_command(svd_path, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    config = models.VectorParams(size=384, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config={"": config, "title": config})
    rows = [{"": vector.tolist(), "title": vector[::-1].tolist()} for vector in sample.base[:60]]
    client.upload_collection("docs", rows, ids=range(60))
    client.close()
    data = CompressionData(documents=f"qdrant+file://{tmp_path}/qdrant/docs#title")
    setting = Setting("svd64.onnx", str(svd_path), 64, 384, 32, CodeType.INT8, 32)
    command = next_command(data, setting, svd_path, StoreName.QDRANT)
    assert command.startswith("vaecodec migrate --path ")
    assert "--collection docs --vector title" in command
    assert typed(*shlex.split(command)[1:]) == 0
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    point: Any = client.retrieve("docs-compressed", [7], with_vectors=True)[0]
    params = client.get_collection("docs-compressed").config.params.vectors["title"]
    client.close()
    # Codes of the bytes that were chosen, not floats.
    assert (params.quantization_config.turbo.bits.value, params.on_disk) == ("bits8", True)
    latents = Codec.load(svd_path, dim=32).encode(sample.base[7:8, ::-1])[0]
    np.testing.assert_allclose(point.vector["title"], latents, atol=1e-5)


def test_an_index_of_hnswlib_is_replaced_by_what_is_printed(svd_path, sample):
    pytest.importorskip("hnswlib")
    setting = Setting("svd64.onnx", str(svd_path), 64, 384, 32, CodeType.FLOAT32, 128)
    names = {"Codec": Codec, "CompressedIndex": CompressedIndex}
    said = instead_of_hnswlib(setting, svd_path, Metric.COSINE)
    index = eval(said.removeprefix("In Python, write ").partition(" where ")[0], names)
    assert index.codec.code_dim == 32
    index.init_index(max_elements=60)
    index.add_items(sample.base[:60])
    labels, _ = index.knn_query(sample.base[7], k=1)
    assert labels.tolist() == [[7]]
    assert index.get_items([7]).shape == (1, 384)


def test_goals_as_people_write_them():
    source = ArraySource(np.zeros((10, 384), np.float32))
    assert bytes_for("half", 384) == 2 * 384
    assert bytes_for("75%", 384) == 384
    goal = GoalRequest(ram="8GB", vectors="50M", recall=0.95).goal(source)
    assert (goal.ram_bytes, goal.vectors, goal.recall) == (8_000_000_000, 50_000_000, 0.95)
    assert GoalRequest(save="half").goal(source).code_bytes == 768
    for save in ("a lot", "0%", "120%"):
        with pytest.raises(EvaluationInputError, match="save: expected half or such as 75%"):
            GoalRequest(save=save).goal(source)
    with pytest.raises(EvaluationInputError, match="save and bytes: expected one of them, got both"):
        GoalRequest(save="half", code_bytes=3).goal(source)
    with pytest.raises(EvaluationInputError, match="expected a target, bytes or ram"):
        GoalRequest().goal(source)


@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BudgetWarning")
def test_what_training_found_is_told_apart_from_what_is_written(tmp_path, monkeypatch, capsys):
    """The planner chooses among more than the fit compared, so the fit's own choice is not what the folder holds."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(size=(1_200, 32)).astype(np.float32)
    np.save("noise.npy", noise)
    assert typed("compress", "noise.npy", "--save", "60%", "--for", "pgvector", "--budget", "1s", "--out", "small") == 0
    _, verdict, *_ = (line for line in capsys.readouterr().out.splitlines() if not line.endswith(" ..."))
    written = read_artifact(tmp_path / "small" / "codec.onnx")[1].provenance["linear"]
    assert verdict.startswith(f"No training is needed: a linear codec ({written}) is enough")
    assert "Training was tried, too. The learned codec's gain is not significant. Recall@10 minus that of " in verdict
    assert "exporting" not in verdict
