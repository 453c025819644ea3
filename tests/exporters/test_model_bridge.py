"""Test bridges between two embedding models: what they keep, what is predicted and refused, through real indexes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient

from vaecodec import Codec, fit_linear
from vaecodec.errors import CodecMismatchError, ExportError, OutputExistsError, UnusableDataError
from vaecodec.evaluation import exact_search, ndcg, ratio_bootstrap
from vaecodec.interface import Metric
from vaecodec.sources import ArraySource
from vaecodec.two_models.bridge import BridgedCodec, BridgedModel
from vaecodec.two_models.merging import Embedded
from vaecodec.two_models.retention import Answers, probable_answers, searched_by
from vaecodec.vectors import normalised
from vaecodec_cli.main import main
from vaecodec_exporters.bridge_sample import embedded_by_both
from vaecodec_exporters.linear import export_linear
from vaecodec_exporters.model_bridge import answers_apart, bridge_models, predict_retention
from vaecodec_integrations.qdrant import CompressedQdrantClient

pytest.importorskip("torch", reason="torch is not installed: pip install 'vaecodec[train]'")
from vaecodec_training.maps import MapKind, fit_map, map_rows

LINEAR = (MapKind.RIDGE, MapKind.PROCRUSTES, MapKind.LOW_RANK)


def two_models(rows: int, seed: int, *, noise: float = 0.4, bent: float = 0.0) -> Embedded:
    """Embed the same texts by two models of 24 and 32 dimensions, which share their knowledge except for noise."""
    random, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    known = random.normal(size=(rows, 16))
    tables = [fixed.normal(size=(16, width)) for width in (24, 32)]
    bend = fixed.normal(size=(16, 16))
    new = known + bent * np.abs(known @ bend)
    views = [shown @ table for shown, table in zip((known, new), tables, strict=True)]
    return Embedded(*(normalised((view + noise * random.normal(size=view.shape)).astype(np.float32)) for view in views))


@pytest.fixture(scope="module")
def documents() -> Embedded:
    return two_models(1_200, 1)


@pytest.fixture(scope="module")
def queries() -> Embedded:
    return two_models(400, 2)


@pytest.fixture(scope="module")
def bridge_path(documents: Embedded, queries: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bridge") / "bridge.onnx"
    bridge_models(path, documents, queries, kinds=LINEAR, least=0.1, embedder="new model")
    return path


def test_queries_of_the_new_model_find_what_the_old_one_embedded(bridge_path: Path) -> None:
    bridge, others = Codec.load(bridge_path), two_models(300, 3, noise=0.1)
    assert (bridge.dim, bridge.code_dim, bridge.embedder) == (32, 24, "new model")
    found, _ = exact_search(others.old, bridge.encode_queries(others.new), 1, Metric.COSINE)
    assert np.mean(found[:, 0] == np.arange(300)) > 0.9
    # What is stored comes back in the new space.
    assert np.einsum("ij,ij->i", bridge.decode(others.old), others.new).mean() > 0.9


def test_the_file_says_what_each_map_keeps(bridge_path: Path, documents: Embedded, queries: Embedded) -> None:
    known = Codec.load(bridge_path).metadata.provenance
    assert known["model_bridge"]["documents"] == 1_200
    assert known["model_bridge"]["queries"] == 400
    figures = known["validation"]
    assert set(figures) == {str(kind) for kind in LINEAR}
    best = max(figures, key=lambda kind: figures[kind]["nDCG@10 kept"]["mean"])
    assert known["model_bridge"]["map"] == best
    for kind, kept in predict_retention(documents, queries, kinds=LINEAR).kept.items():
        assert figures[kind]["nDCG@10 kept"] == pytest.approx(kept._asdict())


def test_what_is_predicted_is_what_is_kept() -> None:
    """Use texts that the sample lacks, and answers that only the real figure knows."""
    documents, queries = two_models(1_000, 1, noise=1.0), two_models(1_000, 2, noise=1.0)
    base, asked = two_models(1_000, 3, noise=1.0), two_models(1_000, 4, noise=1.0)
    answers = probable_answers(base, asked)
    whole = searched_by(base.new, asked.new, answers)
    predicted = predict_retention(documents, queries, kinds=LINEAR)
    texts = [np.concatenate(pair) for pair in zip(documents, queries, strict=True)]
    assert len(predicted.kept) > 1
    for kind, kept in predicted.kept.items():
        across = map_rows(fit_map(kind, texts[1], texts[0]), asked.new)
        assert kept.mean == pytest.approx(ratio_bootstrap(searched_by(base.old, across, answers), whole).mean, abs=0.03)


def test_queries_without_an_answer_in_the_sample_hardly_count() -> None:
    documents, others = two_models(400, 1, noise=0.1), two_models(100, 2, noise=0.1)
    asked = Embedded(*(np.concatenate([here[:100], other]) for here, other in zip(documents, others, strict=True)))
    answers = probable_answers(documents, asked)
    assert answers.relevant[:100].tolist() == list(range(100))
    assert answers.weights is not None
    answered, unanswered = answers.weights[:100].mean(), answers.weights[100:].mean()
    assert unanswered < 0.5 * answered


def test_known_answers_are_what_counts(documents: Embedded) -> None:
    asked = two_models(1_200, 1, noise=0.8)
    aligned = predict_retention(documents, asked, "aligned", kinds=(MapKind.PROCRUSTES,))
    pairs = np.stack([np.arange(1_200), np.arange(1_200)], axis=1)
    graded = np.concatenate([pairs, np.full((1_200, 1), 3)], axis=1)
    for same in (pairs, graded):
        assert predict_retention(documents, asked, same, kinds=(MapKind.PROCRUSTES,)) == aligned
    found, _ = exact_search(documents.new, asked.new, 10, Metric.COSINE)
    assert ndcg(found, np.arange(1_200), 10).mean() > 0.5
    assert 0.5 < aligned.best.mean < 1.1


def test_a_map_is_not_fitted_on_the_answer_that_judges_it() -> None:
    answers = Answers([np.array([5]), np.array([7, 5]), np.array([2]), np.array([], int), np.array([5])])
    asking = np.arange(100, 105)
    folds = answers_apart(105, asking, answers, np.random.default_rng(0))
    assert len({folds[100], folds[104], folds[5]}) == 1
    assert (folds[101], folds[102]) == (folds[7], folds[2])
    assert set(folds) == set(range(5))
    graded = answers._replace(grades=[np.array([1]), np.array([1, 3]), np.array([1]), np.array([]), np.array([2])])
    folds = answers_apart(105, asking, graded, np.random.default_rng(0))
    assert len({folds[100], folds[101], folds[104], folds[5]}) == 1
    # Where everything has one answer, it cannot be left out.
    one = answers_apart(105, np.arange(1, 105), Answers(np.zeros(104, int)), np.random.default_rng(0))
    assert np.bincount(one).tolist() == [21] * 5


def test_foreign_texts_are_not_better_known_by_pairs() -> None:
    """A map that was fitted on a query's answer would find it, though the models have nothing in common."""
    foreign = Embedded(two_models(1_000, 1).old, two_models(1_000, 2).new)
    found = predict_retention(foreign, foreign, "aligned", kinds=(MapKind.RIDGE,))
    assert found.best.mean < 0.03


def test_documents_ask_where_there_are_no_queries(documents: Embedded) -> None:
    found = predict_retention(documents, kinds=(MapKind.PROCRUSTES,))
    assert found.queries == 1_200
    assert 0.3 < found.best.mean < 1
    own = np.arange(1_200)
    assert not np.any(probable_answers(documents, documents, own).relevant == own)


def test_a_hidden_layer_follows_a_map_that_is_bent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaecodec_training.maps._STEPS", 250)
    monkeypatch.setattr("vaecodec_training.maps._BATCH", 128)
    texts, others = two_models(1_500, 1, noise=0.05, bent=0.7), two_models(500, 2, noise=0.05, bent=0.7)
    near = {}
    for kind in MapKind:
        across = map_rows(fit_map(kind, texts.new, texts.old), others.new)
        near[kind] = ndcg(exact_search(others.old, across, 10, Metric.COSINE)[0], np.arange(500), 10).mean()
    assert near[MapKind.RESIDUAL] > max(near[kind] for kind in LINEAR) + 0.1


def test_linear_maps_are_what_they_are_called(documents: Embedded) -> None:
    orthogonal = fit_map(MapKind.PROCRUSTES, documents.new, documents.old).linear.weight.detach().numpy()
    np.testing.assert_allclose(orthogonal @ orthogonal.T, np.eye(24), atol=1e-5)
    low = fit_map(MapKind.LOW_RANK, documents.new, documents.old).linear.weight.detach().numpy()
    assert np.linalg.matrix_rank(low, tol=1e-4) == 12


# The adapters


def test_a_collection_of_an_old_codec_is_searched_by_the_new_model(bridge_path: Path, tmp_path: Path) -> None:
    stored = two_models(300, 5, noise=0.1)
    export_linear(fit_linear(stored.old, 20), tmp_path / "old.onnx")
    old, bridged = Codec.load(tmp_path / "old.onnx"), BridgedModel.load(bridge_path, tmp_path / "old.onnx")
    assert (bridged.dim, bridged.code_dim, bridged.codec_id) == (32, 20, old.codec_id)
    assert (bridged.embedder, bridged.metric, bridged.latent_metric) == ("new model", Metric.COSINE, old.latent_metric)
    raw = QdrantClient(":memory:")
    filled = CompressedQdrantClient(raw, old)
    filled.create_collection("docs")
    filled.upload_collection("docs", stored.old, ids=range(300), wait=True)
    client = CompressedQdrantClient(raw, bridged)
    first = [client.query_points("docs", row.tolist(), limit=1).points[0].id for row in stored.new[:100]]
    assert np.mean(np.array(first) == np.arange(100)) > 0.9
    np.testing.assert_allclose(bridged.encode(stored.new), bridged.encode_queries(stored.new), atol=1e-6)
    assert np.einsum("ij,ij->i", bridged.decode(old.encode(stored.old)), stored.new).mean() > 0.9
    raw.close()


# What is refused


def test_a_bridge_that_keeps_too_little_is_not_written(tmp_path: Path) -> None:
    foreign = Embedded(two_models(1_000, 1).old, two_models(1_000, 2).new)
    with pytest.raises(
        ExportError, match=r"keeps 0.60 of .* embed the texts again by the new model \(vaecodec reembed"
    ):
        bridge_models(tmp_path / "bridge.onnx", foreign, kinds=LINEAR)
    assert not any(tmp_path.iterdir())


def test_unusable_samples_are_refused(
    documents: Embedded, queries: Embedded, tmp_path: Path, bridge_path: Path
) -> None:
    out = tmp_path / "bridge.onnx"
    with pytest.raises(UnusableDataError, match=r"documents: expected at least 1,000 texts .* got 400"):
        bridge_models(out, queries)
    with pytest.raises(UnusableDataError, match="expected the same texts by both models, got 400 and 399 rows"):
        bridge_models(out, documents, Embedded(queries.old, queries.new[1:]))
    wrong: list[tuple[Any, str]] = [
        (np.array([[0, 1_200]]), r"row 0 is \[0, 1200\], but there are 400 queries and 1,200 documents"),
        (np.array([[400, 0]]), r"row 0 is \[400, 0\], but there are 400 queries and 1,200 documents"),
        (np.array([[3, 4], [3, 4]]), "expected each pair once, got query row 3 with document row 4 again"),
        (np.array([[3, 4, -1]]), "expected grades of at least 0, got -1"),
        (np.arange(3), r"expected integers \(p, 2\)"),
        (np.empty((0, 2), int), r"expected integers \(p, 2\)"),
        ("aligned", "must be as many, got 400 queries and 1,200 documents"),
        (np.array([[0, np.argmin(documents.new @ queries.new[0])]]), "got none among its ten best"),
    ]
    for pairs, message in wrong:
        with pytest.raises(UnusableDataError, match=message):
            bridge_models(out, documents, queries, pairs)
    with pytest.raises(UnusableDataError, match="pairs: expected queries beside them"):
        bridge_models(out, documents, pairs="aligned")
    with pytest.raises(OutputExistsError, match="is there, and only it can read"):
        bridge_models(bridge_path, documents, queries)
    assert not out.exists()


def test_only_fitting_files_are_put_together(bridge_path: Path, svd_path: Path) -> None:
    with pytest.raises(CodecMismatchError, match="expected a bridge between two embedding models, got the codec"):
        BridgedModel.load(svd_path, svd_path)
    with pytest.raises(
        CodecMismatchError, match=r"expected a codec of embeddings of width 24, .* got one of width 384"
    ):
        BridgedModel.load(bridge_path, svd_path)
    with pytest.raises(CodecMismatchError, match="expected the file of a bridge, got the codec"):
        BridgedCodec.load(svd_path, bridge_path)


# The command


def test_the_command_bridges_two_models(
    documents: Embedded, queries: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vaecodec_training.maps._STEPS", 5)
    for name, both in (("X", documents), ("Q", queries)):
        np.save(f"{name}_old.npy", both.old)
        np.save(f"{name}_new.npy", both.new)
    given = ["bridge", "--sample", "X_old.npy", "--new-sample", "X_new.npy"]
    given += ["--queries", "Q_old.npy", "--new-queries", "Q_new.npy", "--out", "bridge.onnx"]
    for options, status in (
        (["--json", "--least", "0.1", "--embedder", "new"], 0),
        (["--overwrite", "--least", "1"], 1),
        ([], 1),
    ):
        with pytest.raises(SystemExit) as end:
            main([*given, *options])
        assert end.value.code == status
        shown = capsys.readouterr()
        if status == 0:
            document = json.loads(shown.out)
            assert document["queries"] == 400
            assert set(document["kept"]) == {str(kind) for kind in MapKind}
    assert Codec.load("bridge.onnx").embedder == "new"
    for wrong in (["bridge", "a.onnx", "--sample", "X_old.npy"], given[:-4]):
        with pytest.raises(SystemExit, match="2"):
            main([*wrong, "--out", "other.onnx"])
        assert "two codec files; or, for two models" in " ".join(capsys.readouterr().err.split())


# Samples


def test_pairs_follow_the_rows_of_a_sample(caplog: pytest.LogCaptureFixture) -> None:
    numbers = np.arange(90, dtype=np.float32)[:, None]
    documents = ArraySource(numbers, name="old"), ArraySource(-numbers, name="new")
    queries = ArraySource(numbers[:30] + 1_000, name="asked"), ArraySource(numbers[:30] + 2_000, name="asked anew")
    pairs = np.array([[query, 89 - query, 1 + query % 3] for query in range(30)])
    with caplog.at_level("INFO", logger="vaecodec_exporters"):
        texts, asked, known = embedded_by_both(documents, queries, pairs, rows=20)
    assert asked is not None
    assert known is not None
    assert len(texts.old) == 20
    assert np.array_equal(texts.old, -texts.new)
    assert np.array_equal(asked.old + 1_000, asked.new)
    # Every query of the sample still has its own answer and its own grade.
    query = asked.old[known[:, 0].astype(int), 0] - 1_000
    assert np.array_equal(texts.old[known[:, 1].astype(int), 0], 89 - query)
    assert np.array_equal(known[:, 2], 1 + query % 3)
    assert len(known) == len(asked.old) == 20
    assert "old: 20 of 90 rows are used" in caplog.messages
    aligned = embedded_by_both(queries, queries, "aligned", rows=20)[2]
    assert aligned is not None
    assert np.array_equal(aligned, np.repeat(np.arange(20)[:, None], 2, axis=1))
    few = embedded_by_both(documents, queries, np.array([[3, 88], [11, 89]]), rows=20)
    assert few[1] is not None
    assert len(few[0].old) == len(few[1].old) == 20
    assert few[2] is not None
    assert len(few[2]) == 2  # queries and documents that belong together come before others
    with pytest.raises(UnusableDataError, match="but there are 30 queries and 90 documents"):
        embedded_by_both(documents, queries, np.array([[0, 90]]), rows=20)
    with pytest.raises(UnusableDataError, match="expected the same texts by both models, got 90 and 30 rows"):
        embedded_by_both((documents[0], queries[0]))


def test_a_sample_has_as_many_rows_as_are_asked_for() -> None:
    numbers = ArraySource(np.arange(41, dtype=np.float32)[:, None])
    texts, asked, _ = embedded_by_both((numbers, numbers), (numbers, numbers), rows=40)
    assert asked is not None
    assert len(texts.old) == len(asked.old) == 40
