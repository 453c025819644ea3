"""Test refitting the queries' side: searches find more, documents keep their bits, and indexes open with the file."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from vaecodec import Codec, fit_linear
from vaecodec.artifact import read_artifact
from vaecodec.calibration import reference_of, scores_of
from vaecodec.drift import Stream
from vaecodec.errors import CodecMismatchError, ExportError, InvalidArtifactError, UnusableDataError
from vaecodec.evaluation import Truth, exact_search
from vaecodec.interface import FloatArray, Metric
from vaecodec.packed_index import PackedIndex
from vaecodec.sources import ArraySource
from vaecodec_cli.main import main
from vaecodec_exporters import query_refit
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_exporters.linear import fit_and_export_linear
from vaecodec_exporters.query_refit import CONFIRMATION, refit_queries
from vaecodec_training.data.collection import Collection
from vaecodec_training.query_map import QueryMap
from vaecodec_training.recipe import LatentMetric

BYTES, ROWS = 8, 7_500


@pytest.fixture(scope="module")
def collection(sample: Any) -> Collection:
    documents, queries = sample.train[:ROWS], sample.train_queries[:ROWS]
    return Collection.open(ArraySource(documents), ArraySource(queries), pairs="aligned", confirmation=CONFIRMATION)


@pytest.fixture(scope="module")
def old(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "svd.onnx"
    fit_and_export_linear(ArraySource(sample.train), path, 16)
    return path


@pytest.fixture(scope="module")
def new(old: Path, sample: Any) -> Path:
    """Write the file that the command writes, after fewer steps than a user waits for."""
    for name in ("train", "train_queries"):
        np.save(old.parent / f"{name}.npy", getattr(sample, name)[:ROWS])
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.chdir(old.parent)
        defaults: Any = query_refit.refit_queries.__kwdefaults__
        patch.setitem(defaults, "steps", 150)
        words = ["--docs", "train.npy", "--queries", "train_queries.npy", "--pairs", "aligned", "--out", "new.onnx"]
        with pytest.raises(SystemExit) as ended:
            main(["refit-queries", old.name, *words])
    assert ended.value.code == 0
    assert "held-out queries through float32 latents" in said.getvalue()
    assert "relevant@100" in said.getvalue()
    return old.parent / "new.onnx"


def recall(codec: Codec, sample: Any) -> float:
    truth = Truth.of(sample.base, sample.queries, Metric.COSINE)
    found, _ = exact_search(codec.encode(sample.base), codec.encode_queries(sample.queries), 10, codec.latent_metric)
    return float(truth.recall(found, 10).mean())


def test_other_queries_find_more_among_other_documents(old: Path, new: Path, sample: Any) -> None:
    before, after = (recall(Codec.load(path), sample) for path in (old, new))
    assert after > before + 0.005


def test_documents_are_encoded_and_decoded_as_before_to_the_bit(old: Path, new: Path, sample: Any) -> None:
    before, after = Codec.load(old), Codec.load(new)
    latents = before.encode(sample.base)
    assert after.encode(sample.base).tobytes() == latents.tobytes()
    assert (
        after.encode(sample.base[:300], bytes=BYTES).tobytes()
        == before.encode(sample.base[:300], bytes=BYTES).tobytes()
    )
    assert after.decode(latents).tobytes() == before.decode(latents).tobytes()
    assert not np.allclose(after.encode_queries(sample.queries), before.encode_queries(sample.queries), atol=1e-3)


def test_an_index_that_the_old_file_filled_opens_with_the_new_one(
    old: Path, new: Path, sample: Any, tmp_path: Path
) -> None:
    index = PackedIndex(Codec.load(old), bytes=BYTES)
    index.add(sample.base[:500])
    index.save(tmp_path / "codes")
    codec = Codec.load(new)
    ids, _ = PackedIndex.load(tmp_path / "codes", codec).search(sample.queries[:5], 10)
    assert ids.shape == (5, 10)
    assert codec.codec_id == Codec.load(old).codec_id
    assert codec.metadata.codec_id != codec.codec_id
    assert codec.metadata.nested_dims == ()
    with pytest.raises(CodecMismatchError, match="expected the codec"):  # a pin names the file, not what it is for
        Codec.load(new, codec_id=codec.codec_id)
    assert Codec.load(new, codec_id=codec.metadata.codec_id).codec_id == codec.codec_id


def test_what_depends_on_queries_is_fitted_anew_and_codes_stay(old: Path, new: Path) -> None:
    before, after = Codec.load(old), Codec.load(new)
    assert after.metadata.calibration["codes"] == before.metadata.calibration["codes"]
    assert scores_of(after).scale != scores_of(before).scale
    streams = [reference_of(codec).streams for codec in (before, after)]
    assert Stream.QUERIES not in streams[0]
    assert Stream.QUERIES in streams[1]
    assert streams[0][Stream.DOCUMENTS].to_json() == streams[1][Stream.DOCUMENTS].to_json()


def test_nothing_is_written_where_held_out_queries_do_not_find_more(
    new: Path, collection: Collection, tmp_path: Path
) -> None:
    with pytest.raises(
        ExportError, match=r"expected queries that find more .* held-out queries through int8: recall@10"
    ):
        refit_queries(new, collection, tmp_path / "again.onnx", dtype="int8", steps=1)
    assert not (tmp_path / "again.onnx").exists()


def test_hidden_units_are_kept(vae_path: Path, collection: Collection, tmp_path: Path, monkeypatch: Any) -> None:
    """A map of hidden units gets more of them beside; one that is moved by hand passes for fitted."""
    monkeypatch.setattr(query_refit, "fit_query_map", moved)
    monkeypatch.setattr(query_refit, "gate", passed)
    refit_queries(vae_path, collection, tmp_path / "new.onnx")
    before, after = (Codec.load(path) for path in (vae_path, tmp_path / "new.onnx"))
    rows = collection.validation.queries[:50].copy()
    assert after.encode(rows).tobytes() == before.encode(rows).tobytes()
    difference = np.abs(after.encode_queries(rows) - before.encode_queries(rows)).max()
    assert 1e-4 < difference < 0.1
    stored = {each.name: each for each in onnx.load(tmp_path / "new.onnx").graph.initializer}
    assert stored["query_encoder.hidden"].dims[0] == stored["encoder.hidden"].dims[0] + 8


def moved(_: Any, __: Any, start: QueryMap, **___: Any) -> QueryMap:
    wide = start.widened(8, seed=0)
    wide.map.linear.bias.data += 0.01
    return wide


def passed(*arguments: Any) -> Any:
    from vaecodec_training.gate import Comparison, Gate, gate

    decided = gate(*arguments)
    first = decided.comparisons[0]
    won = Comparison(first.figure, first.over, first.difference._replace(low=0.01, high=0.02))
    return Gate(decided.aim, (won,))


def test_smaller_files_and_other_vectors_are_refused(
    vae_run: Path, old: Path, collection: Collection, sample: Any, tmp_path: Path
) -> None:
    for precision in ("int8", "float16"):
        export_checkpoint(vae_run, tmp_path / f"{precision}.onnx", precision=precision)
        with pytest.raises(ExportError, match="expected a codec file in float32, got a smaller precision"):
            refit_queries(tmp_path / f"{precision}.onnx", collection, tmp_path / "new.onnx")
    documents, queries = ArraySource(sample.train[:900]), ArraySource(sample.train_queries[:900])
    with pytest.raises(UnusableDataError, match="a part of which is held out for confirmation, got none"):
        refit_queries(old, Collection.open(documents, queries), tmp_path / "new.onnx")
    other = Collection.open(documents, queries, metric=Metric.DOT, confirmation=0.1)
    with pytest.raises(UnusableDataError, match=r"width 384 that are compared by cosine.*got 384 and dot"):
        refit_queries(old, other, tmp_path / "new.onnx")


@pytest.mark.parametrize("form", [LatentMetric.COSINE, LatentMetric.ROOT, LatentMetric.DOT])
def test_more_hidden_units_change_nothing_until_they_are_trained(form: LatentMetric, sample: Any) -> None:
    from vaecodec_training.model import VariationalCodec

    model = VariationalCodec(384, 16, hidden=8, form=form, seed=1)
    model.start_at(fit_linear(sample.train[:500], 16))
    assert model.encoder.output is not None
    model.encoder.output.weight.data += 0.05
    first = QueryMap(model.encoder, Metric.COSINE, form)
    rows: FloatArray = sample.queries[:20].copy()
    np.testing.assert_allclose(first.widened(32, seed=3).encode(rows), first.encode(rows), atol=1e-6)


def test_an_identity_for_documents_that_is_none_is_refused(new: Path, tmp_path: Path) -> None:
    from vaecodec.artifact import DOCUMENTS_ID, UNSIGNED, sign

    data, metadata = read_artifact(new)
    model = onnx.load_from_string(data)
    for entry in model.metadata_props:
        if entry.key == DOCUMENTS_ID:
            entry.value = "x" * 64
        if entry.key == "vaecodec.codec_id":
            entry.value = UNSIGNED
    (tmp_path / "forged.onnx").write_bytes(sign(model.SerializeToString(deterministic=True)))
    with pytest.raises(InvalidArtifactError, match="the identity for documents is not 64 hexadecimal digits"):
        Codec.load(tmp_path / "forged.onnx")
    assert len(metadata.documents_id) == 64
