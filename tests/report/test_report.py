"""Test the report: what is measured, what is concluded, what is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from vaecodec import Codec, LinearCodec, LinearKind, Metric, fit_linear
from vaecodec.codes import CodeType, calibration, decoder_fit
from vaecodec.errors import BadRowsError, EvaluationInputError, InvalidBudgetError, WrongWidthError
from vaecodec.evaluation import exact_search, recall
from vaecodec.linear import LinearMoments, linear_kinds
from vaecodec_cli.main import main
from vaecodec_integrations.report import ReportData, Run, measure, summarise, write
from vaecodec_integrations.report.engines import open_engine
from vaecodec_integrations.report.engines.base import SearchEngineName
from vaecodec_integrations.report.engines.usearch import UsearchEngine
from vaecodec_integrations.report.inputs import read_labels, read_relevant, read_report, read_scored_pairs
from vaecodec_integrations.report.markdown import markdown
from vaecodec_integrations.report.picture import pictures
from vaecodec_integrations.report.rivals import LinearCodes, rivals_of_codes
from vaecodec_integrations.report.run import ADAPTED, Role, ScoredPairs
from vaecodec_integrations.report.tables import tables
from vaecodec_integrations.report.verdict import verdict

SAMPLE = Path(__file__).parents[2] / "examples" / "debian-sample"
BASE, QUERIES = 800, 100


@pytest.fixture(scope="module")
def small(sample):
    """Return 800 documents, and 100 queries of which 50 have their document among them."""
    found = np.flatnonzero(sample.relevant < BASE)[: QUERIES // 2]
    others = np.flatnonzero(sample.relevant >= BASE)[: QUERIES // 2]
    rows = np.concatenate([found, others])
    relevant = [[int(row)] if row < BASE else [] for row in sample.relevant[rows]]
    return sample.base[:BASE], sample.queries[rows], relevant


@pytest.fixture(scope="module")
def run(small, sample, svd_codec) -> Run:
    base, queries, relevant = small
    data = ReportData(
        base=base,
        queries=queries,
        train=sample.train,
        relevant=relevant,
        labels=["even" if query % 2 == 0 else "odd" for query in range(QUERIES)],
    )
    return measure(data, {"svd32.onnx": svd_codec.truncated(32)}, open_engine(SearchEngineName.EXACT))


def judge(codec, small, train) -> str:
    data = ReportData(base=small[0], queries=small[1], train=train)
    return summarise(measure(data, {"codec.onnx": codec}, open_engine(SearchEngineName.EXACT))).verdicts[0].text


def test_recall_is_that_of_scikit_learns_neighbours(run, small, svd_codec):
    base, queries, _ = small
    codec = svd_codec.truncated(32)
    true = NearestNeighbors(n_neighbors=10, metric="cosine").fit(base).kneighbors(queries, return_distance=False)
    latents = NearestNeighbors(n_neighbors=10, metric="cosine").fit(codec.encode(base))
    found = latents.kneighbors(codec.encode_queries(queries), return_distance=False)
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(true, found, strict=True)])

    summary = summarise(run)

    assert summary.method("svd32.onnx").metrics["recall@10"].mean == pytest.approx(expected, abs=0.002)
    assert summary.method("uncompressed").metrics["recall@10"] == (1.0, 1.0, 1.0)


def test_relevance_counts_only_queries_that_have_an_answer(run, small):
    _, _, relevant = small
    method = summarise(run).method("uncompressed")
    ranks = [
        list(ids[:10]).index(answers[0]) + 1 if answers[0] in ids[:10] else None
        for ids, answers in zip(run.truth.tolist(), relevant, strict=True)
        if answers
    ]
    assert len(ranks) == QUERIES // 2
    assert method.metrics["mrr@10"].mean == pytest.approx(np.mean([1 / rank if rank else 0 for rank in ranks]))
    assert method.metrics["ndcg@10"].mean == pytest.approx(
        np.mean([1 / np.log2(rank + 1) if rank else 0 for rank in ranks])
    )


def test_methods_and_their_sizes(run):
    summary = summarise(run)
    names = ["uncompressed", *linear_kinds(Metric.COSINE), "svd32.onnx"]
    assert [method.name for method in summary.methods] == names
    assert [method.bytes_per_vector for method in summary.methods] == [4 * 384] + 7 * [4 * 32]
    assert [method.index_bytes for method in summary.methods] == [4 * 384 * BASE] + 7 * [4 * 32 * BASE]
    assert all(method.queries_per_second > 0 for method in summary.methods)
    assert summary.method("uncompressed").reconstruction == pytest.approx(1, abs=1e-5)
    assert summary.method("svd").reconstruction == pytest.approx(summary.method("svd32.onnx").reconstruction)
    assert [width for width, _ in summary.svd_curve] == [4 * 8, 4 * 16, 4 * 32, 4 * 64, 4 * 128]
    assert summary.svd_curve[2][1] == pytest.approx(summary.method("svd").metrics["recall@10"].mean, abs=0.002)
    assert [value for _, value in summary.svd_curve] == sorted(value for _, value in summary.svd_curve)


def test_losses_add_up_and_reranking_is_what_scoring_the_candidates_again_gives(run, small):
    base, queries, _ = small
    assert len(run.methods) > 5
    for method, raw in zip(summarise(run).methods, run.methods, strict=True):
        losses = method.losses
        assert losses.codec + losses.graph + losses.found == pytest.approx(1)
        assert losses.found == pytest.approx(method.metrics["recall@10"].mean)
        for times, figure in losses.reranked.items():
            candidates = raw.found.engine[:, : 10 * times]
            scores = np.einsum("qcd,qd->qc", base[candidates], queries)
            again = np.take_along_axis(candidates, np.argsort(-scores, axis=1), axis=1)
            assert figure == pytest.approx(recall(again, run.truth, 10).mean(), abs=0.002), (method.name, times)


def test_unreached_documents_are_those_that_no_neighbour_finds(run, small, svd_codec):
    base, _, _ = small
    codec = svd_codec.truncated(32)
    near = exact_search(base, base, 11, Metric.COSINE)[0]
    near_latents = exact_search(codec.encode(base), codec.encode_queries(base), 11, Metric.COSINE)[0]
    near_sets, latent_sets = [set(row) for row in near.tolist()], [set(row) for row in near_latents.tolist()]
    before = {
        document: any(document in near_sets[n] for n in near_sets[document] - {document}) for document in range(BASE)
    }
    after = {
        document: any(document in latent_sets[n] for n in near_sets[document] - {document}) for document in range(BASE)
    }

    unreached = set(run.methods[-1].unreached)

    assert unreached
    assert all(before[document] and not after[document] for document in unreached)
    expected = np.mean([not after[document] for document in range(BASE) if before[document]])
    assert summarise(run).method("svd32.onnx").unreached == pytest.approx(expected, abs=0.02)
    assert run.methods[0].unreached == []


def test_scored_pairs_are_correlated_as_scipy_does(sample, svd_codec):
    codec = svd_codec.truncated(16)
    first, second = sample.base[:60], sample.base[60:120]
    scores = np.random.default_rng(0).integers(0, 6, 60)
    pairs = ScoredPairs(first, second, scores)
    data = ReportData(base=sample.base[:200], queries=sample.queries[:20], scored_pairs=pairs)
    run = measure(data, {"codec": codec}, open_engine(SearchEngineName.EXACT))
    summary = summarise(run)

    for name, a, b in [("uncompressed", first, second), ("codec", codec.encode(first), codec.encode(second))]:
        cosines = np.einsum("ij,ij->i", a, b)
        assert summary.method(name).scored_pairs == pytest.approx(spearmanr(cosines, scores).statistic, abs=1e-6)
    text = markdown("", [], tables(summary, run), [])
    assert "****" not in text
    assert "| stored as | pair similarity | scored pairs | reconstruction | unreached |" in text
    assert f"{summary.method('codec').scored_pairs:.3f}" in text


def test_scores_are_compared_with_the_original_ones(run, small, svd_codec):
    base, queries, _ = small
    codec = svd_codec.truncated(32)
    ids, stored = exact_search(codec.encode(base), codec.encode_queries(queries), 100, Metric.COSINE)
    original = np.einsum("qnd,qd->qn", base[ids], queries)
    scale, offset = np.polyfit(stored.ravel(), original.ravel(), 1)
    summary = summarise(run)
    uncompressed, scores = summary.method("uncompressed").scores, summary.method("svd32.onnx").scores

    assert (scores.scale, scores.offset) == (pytest.approx(scale, abs=1e-4), pytest.approx(offset, abs=1e-4))
    assert scores.residual == pytest.approx((original - scale * stored - offset).std(), abs=1e-5)
    assert scores.error == pytest.approx(np.abs(stored - original).mean(), abs=1e-5)
    assert (uncompressed.scale, uncompressed.error) == (pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-5))
    assert scores.calibrated_error is None, "this codec comes from no file"
    text = markdown("", [], tables(summary, run), [])
    assert f"| {scores.error:.3f} |  | {scores.scale:.3f} | {scores.offset:+.3f} | {scores.residual:.3f} |" in text
    assert Run.from_json(json.loads(json.dumps(run.to_json()))).methods[-1].scores == run.methods[-1].scores


def test_distances_are_not_compared(small, sample):
    base, queries, _ = small
    codec = fit_linear(sample.train, 8, metric=Metric.L2)
    run = measure(ReportData(base=base, queries=queries), {"codec": codec}, open_engine(SearchEngineName.EXACT))
    assert "What happens to the scores" not in [table.title for table in tables(summarise(run), run)]


def test_codes_lose_by_their_bits(small, vae_codec):
    base, queries, _ = small
    data = ReportData(base=base, queries=queries, labels=["a"] * 100)
    run = measure(data, {"vae64.onnx": vae_codec}, open_engine(SearchEngineName.HNSW), budgets=[16, 32])
    summary = summarise(run)
    small_code, large_code = summary.method("vae64.onnx, 16 bytes"), summary.method("vae64.onnx, 32 bytes")
    floats = summary.method("vae64.onnx")

    assert [method.packed for method in summary.methods] == 8 * [False] + 2 * [True]
    assert (small_code.bytes_per_vector, large_code.bytes_per_vector) == (16, 32)
    assert large_code.index_bytes - small_code.index_bytes == pytest.approx(16 * BASE, rel=0.01)
    assert small_code.losses.bits > large_code.losses.bits > -0.01
    assert small_code.scores.residual > large_code.scores.residual > floats.scores.residual > 0
    assert floats.scores.calibrated_error < 0.7 * floats.scores.error
    assert small_code.losses.codec == large_code.losses.codec == floats.losses.codec
    assert small_code.losses.graph == floats.losses.bits == 0
    assert small_code.losses.codec + small_code.losses.bits + small_code.losses.found == pytest.approx(1)
    assert small_code.reconstruction < large_code.reconstruction < floats.reconstruction
    latents, coded = vae_codec.encode(base), vae_codec.code(bytes=16)
    ids = exact_search(coded.decode(coded.encode(latents)), vae_codec.encode_queries(queries), 10, Metric.COSINE)[0]
    assert small_code.metrics["recall@10"].mean == pytest.approx(
        recall(ids, np.asarray(run.truth), 10).mean(), abs=0.002
    )
    text = markdown("", [], tables(summary, run), [])
    assert "| stored as | lost by the codec | lost by the bits | lost by the index |" in text
    assert "| **vae64.onnx** |" in text


def test_codes_of_an_engine_lose_by_their_bits_and_by_its_graph(small, vae_codec):
    base, queries, _ = small
    dtypes = [CodeType.FLOAT16, CodeType.INT4, CodeType.BINARY]
    engine = open_engine(SearchEngineName.QDRANT)
    data = ReportData(base=base, queries=queries)
    run = measure(data, {"vae64.onnx": vae_codec}, engine, dtypes=dtypes)
    summary = summarise(run)
    half, four, one = (summary.method(f"vae64.onnx, {dtype}") for dtype in dtypes)

    assert [method.packed for method in summary.methods] == 11 * [False]
    assert [method.coded for method in summary.methods] == 8 * [False] + 3 * [True]
    assert [method.bytes_per_vector for method in (half, four, one)] == [128, 32, 8]
    for method in (half, four, one):
        losses = method.losses
        assert losses.codec + losses.bits + losses.graph + losses.found == pytest.approx(1)
        assert losses.codec == summary.method("vae64.onnx").losses.codec
        # Qdrant's own quantiser is not worse than what it is modelled by.
        assert losses.graph < 0.03
    assert one.losses.bits > four.losses.bits > -0.01
    assert one.losses.bits > 0.1
    assert half.losses.bits == pytest.approx(0, abs=0.002)
    assert one.reconstruction < four.reconstruction < half.reconstruction
    latents, code = vae_codec.encode(base), vae_codec.code(dtype="binary")
    ids = exact_search(code.decode(code.encode(latents)), vae_codec.encode_queries(queries), 10, Metric.COSINE)[0]
    exact = 1 - one.losses.codec
    assert exact - one.losses.bits == pytest.approx(recall(ids, np.asarray(run.truth), 10).mean())
    again = Run.from_json(json.loads(json.dumps(run.to_json(ids=True)))).methods[-1]
    assert again.found.quantised[:, :10].tolist() == ids.tolist()

    elsewhere = measure(data, {"v": vae_codec}, open_engine(SearchEngineName.EXACT), dtypes=[CodeType.INT4])
    assert [method.packed for method in elsewhere.methods] == 8 * [False] + [True]


def test_worst_tenth_and_slices(run):
    summary = summarise(run)
    figures = recall(run.methods[-1].found.engine, run.truth, 10)
    assert summary.method("svd32.onnx").worst_decile == pytest.approx(np.sort(figures)[: QUERIES // 10].mean())
    assert [(part.label, part.queries) for part in summary.slices] == [("even", 50), ("odd", 50)]
    assert summary.slices[1].codec.mean == pytest.approx(figures[1::2].mean())
    assert summary.slices[1].linear.mean + summary.slices[1].difference.mean == pytest.approx(figures[1::2].mean())


def test_the_headline_says_who_wins(small, sample):
    base, _, _ = small
    elsewhere = sample.train[:40]  # too few to fit a good baseline on
    won = judge(fit_linear(base[:500], 24), small, elsewhere)
    drawn = judge(fit_linear(sample.train[:2_000], 24), small, sample.train[:2_000])
    lost = judge(fit_linear(base[:500], 24, kind=LinearKind.TRUNCATION), small, None)

    assert won.startswith("codec.onnx beats the best linear baseline (")
    assert drawn.startswith("codec.onnx does not beat the best linear baseline (")
    assert lost.startswith("codec.onnx is worse than the best linear baseline (")
    figures = re.search(r"24 dimensions\): recall@10 (\S+) against (\S+), paired difference \+(\S+) \[\+", won)
    assert figures is not None
    assert float(figures[1]) - float(figures[2]) == pytest.approx(float(figures[3]), abs=0.0011)


def test_the_first_sentence_answers_the_user(run):
    """Check the answers: how much smaller, what is kept, at what depth, is the right document found, and without
    training.
    """
    summary = summarise(run)
    codec, whole = summary.method("svd32.onnx"), summary.method("uncompressed")
    by_hand = [
        f"svd32.onnx: 12x smaller ({4 * 32} bytes per vector)",
        f"keeps {codec.metrics['recall@10'].mean:.0%} of the ten nearest",
        f"{codec.losses.reranked[4]:.0%} with 4x re-ranking",
        f"{codec.metrics['recall@100'].mean:.0%} of the hundred nearest",
        f"reaches nDCG@10 {codec.metrics['ndcg@10'].mean:.3f} (uncompressed {whole.metrics['ndcg@10'].mean:.3f})",
        f"in {100 * codec.metrics['relevant@10'].mean:.0f} of 100 searches, uncompressed in "
        f"{100 * whole.metrics['relevant@10'].mean:.0f}.",
    ]
    places = [summary.headline.index(part) for part in by_hand]
    assert places == sorted(places)
    linear = [method for method in summary.methods if method.role is Role.LINEAR]
    best = {key: max(method.metrics[key].mean for method in linear) for key in ("recall@10", "recall@100")}
    assert f"best linear codecs of this size keep {best['recall@10']:.0%} and {best['recall@100']:.0%}" in (
        summary.headline
    )
    (untrained,) = [rival for rival in summary.rivals if rival.untrained]
    assert untrained.bytes_per_vector <= 4 * 32
    assert f"{untrained.name}, {untrained.metrics['recall@10'].mean:.0%} and" in summary.headline


def test_the_first_sentence_names_the_opponent_of_codecs_trained_on_pairs(run):
    adapter = replace(run.method("uncompressed"), name=ADAPTED, role=Role.ADAPTER)
    summary = summarise(replace(run, methods=[run.methods[0], adapter, *run.methods[1:]]))
    whole = summary.method("uncompressed").metrics
    found = f"{100 * whole['relevant@10'].mean:.0f}"
    expected = f"uncompressed in {found}, uncompressed + adapter in {found} (nDCG@10 {whole['ndcg@10'].mean:.3f})."
    assert expected in summary.headline


def test_a_report_says_what_a_codec_trained_on_pairs_is_not_compared_with(run):
    adapter = replace(run.method("uncompressed"), name=ADAPTED, role=Role.ADAPTER)
    paired = replace(
        run, setting={**run.setting, "codecs": [{**each, "objective": "relevance"} for each in run.setting["codecs"]]}
    )
    compared = replace(paired, methods=[run.methods[0], adapter, *run.methods[1:]])
    says = ["give it by --adapter" in summarise(each).judgements[-1] for each in (run, paired, compared)]
    assert says == [False, True, False]


@pytest.fixture(scope="module")
def coded(run) -> Run:
    """Return the run with a code that is held against the same untrained codes as the codec."""
    codec = run.method("svd32.onnx")
    code = replace(codec, name="svd32.onnx, float16", role=Role.CODE, of=codec.name, bytes_per_vector=64)
    rivals = [replace(rival, of=code.name) for rival in run.rivals]
    return replace(run, methods=[*run.methods, code], rivals=[*run.rivals, *rivals])


def test_the_first_sentence_is_about_what_was_chosen(coded, tmp_path):
    summary = summarise(coded, chosen="svd32.onnx, float16")
    assert summary.headline.startswith("svd32.onnx, float16: 24x smaller (64 bytes per vector)")
    assert "Without training," in summary.headline
    assert [text.split(" ")[1] for text in summary.judgements] == ["float16", "does"]
    assert [shown.rows[row][0] for shown in tables(summary, coded)[:1] for row in shown.emphasised] == [
        "svd32.onnx",
        "svd32.onnx, float16",
    ]
    write(tmp_path, coded, summary)
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["chosen"] == "svd32.onnx, float16"
    assert (tmp_path / "report.md").read_text().startswith("# svd32.onnx, float16: 24x smaller")


def test_who_asks_for_codes_is_told_of_the_first_of_them(coded, run):
    assert summarise(coded).headline.startswith("svd32.onnx, float16: 24x smaller (64 bytes per vector)")
    assert summarise(run).headline.startswith("svd32.onnx: 12x smaller (128 bytes per vector)")


def test_what_needs_no_training_is_not_judged_against_what_needs_none(coded):
    summary = summarise(coded, chosen="svd32.onnx, float16", trained=False)
    assert summary.headline == summary.gain_in_words("svd32.onnx, float16")
    assert summary.judgements == ["It needs no training. What else needs none is beside it below."]
    assert not any("minus the" in shown.title for shown in tables(summary, coded))


def test_untrained_codes_of_several_methods_stand_once(coded):
    summary = summarise(coded)
    (name,) = {rival.name for rival in coded.rivals if rival.untrained}
    (rivals,) = [shown for shown in tables(summary, coded) if shown.title == "In as many bytes, without training"]
    names = [row[0] for row in rivals.rows]
    assert names.count(name) == 1
    assert names.index(name) > names.index("svd32.onnx, float16")
    assert pictures(summary)[0].shows.count(name) == 1


def test_untrained_codes_have_the_stages_that_trained_ones_have(sample, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(calibration, "_STAGED_ROWS", 700)
    monkeypatch.setattr(decoder_fit, "EPOCHS", 1)
    train = sample.train[:700]
    codes, moments = LinearCodes(train), LinearMoments.of(train)
    svd = moments.codec(16, LinearKind.SVD)
    staged = codes.of(svd, staged=True)
    assert staged.residual is not None
    assert codes.of(svd, staged=True) is staged
    assert codes.of(svd, staged=False).residual is None


def test_linear_codecs_of_full_width_that_only_turn_vectors_have_one_code_for_all(coded, sample, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(calibration, "_STAGED_ROWS", 700)
    monkeypatch.setattr(decoder_fit, "EPOCHS", 1)
    rows = np.ascontiguousarray(sample.train[:1_000, :32])
    moments = LinearMoments.of(rows[:700])
    codes = LinearCodes(rows[:700])
    code = codes.of(moments.codec(32, LinearKind.SVD), staged=True).code(bytes=8)
    method = replace(coded.methods[-1], width=32, bytes_per_vector=8)
    kinds = [moments.codec(32, kind) for kind in (LinearKind.TRUNCATION, LinearKind.PCA, LinearKind.SVD_DOT)]
    errors = {}

    def search(codec, code):
        latents = codec.encode(rows)
        errors[codec.kind] = ((latents - code.decode(code.encode(latents))) ** 2).mean()
        return {}

    rivals = rivals_of_codes(method, code, kinds, moments, codes, search)
    assert [rival.name.split(" x ")[0] for rival in rivals if not rival.untrained] == ["svd, 32", "pca, 32"]
    for codec in (kinds[0], kinds[2]):  # what is left out is as good
        search(codec, codes.of(codec, staged=True).code(bytes=8))
        assert errors[codec.kind] == pytest.approx(errors[LinearKind.SVD], rel=0.05)


def test_a_share_of_nearly_all_is_not_said_to_be_all(coded):
    codec = coded.method("svd32.onnx")
    nearly = replace(codec, figures={**codec.figures, "recall@10": np.where(np.arange(QUERIES) == 0, 0.97, 1.0)})
    run = replace(coded, methods=[*coded.methods[:-2], nearly, coded.methods[-1]])
    summary = summarise(run, chosen="svd32.onnx")
    assert "keeps over 99.9% of the ten nearest" in summary.headline


def test_two_codecs_are_judged_in_one_report(small, sample, svd_codec):
    base, queries, _ = small
    data = ReportData(base=base, queries=queries, train=sample.train[:2_000])
    codecs = {"narrow": svd_codec.truncated(16), "wide": svd_codec}
    summary = summarise(measure(data, codecs, open_engine(SearchEngineName.EXACT)))
    assert [judged.method for judged in summary.verdicts] == ["narrow", "wide"]
    for judged, width in zip(summary.verdicts, (16, 64), strict=True):
        assert {difference.rival.split(" at ")[1] for difference in judged.differences.values()} == {str(width)}
        assert summary.method(judged.method).width == width
        assert re.search(rf"\([^()]+(?<! at {width}); {width} dimensions\)", judged.text)
    other = fit_linear(base[:, :100], 8)
    with pytest.raises(EvaluationInputError, match=r"other: expected a codec for embeddings of width 384 .* width 100"):
        measure(data, {**codecs, "other": other}, open_engine(SearchEngineName.EXACT))


def test_a_verdict_names_what_is_lost_though_the_goal_is_won():
    rng = np.random.default_rng(0)
    low, high = rng.uniform(0.4, 0.5, 200), rng.uniform(0.6, 0.7, 200)
    codec = {"recall@1": high, "recall@10": high, "recall@100": low}
    linear = {"svd": {"recall@1": low, "recall@10": low, "recall@100": high}}
    found = verdict("codec", codec, linear, str, "8 dimensions", "neighbours")
    assert not found.better
    assert found.worse == ("recall@100",)
    assert "codec beats the best linear baseline (svd; 8 dimensions): recall@10" in found.text
    assert "It loses recall@100 (svd: -0.1" in found.text
    assert verdict("codec", codec, {"svd": {**linear["svd"], "recall@100": low}}, str, "", "neighbours").better


def test_a_verdict_on_a_code_names_its_size_once_and_calls_no_trellis_linear():
    figures = {"recall@10": np.linspace(0.6, 0.7, 50)}
    rivals = {"trellis codes of 32 bytes": {"recall@10": figures["recall@10"] - 0.1}}
    found = verdict("a, 32 bytes", figures, rivals, str, "32 bytes", "neighbours", "best code without training")
    assert found.text.startswith(
        "a, 32 bytes beats the best code without training (trellis codes of 32 bytes): recall@10 0.650 against 0.550"
    )
    assert found.opponent == "best code without training"


ENGINES = {**{str(name): partial(open_engine, name) for name in SearchEngineName}, "usearch": UsearchEngine}


@pytest.mark.parametrize("opened", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("metric", list(Metric))
def test_every_engine_finds_what_exact_search_finds(small, opened, metric, tmp_path):
    base, queries, _ = small
    # Rows of different lengths, so that the three metrics disagree.
    base = base * np.linspace(0.5, 2, len(base), dtype=np.float32)[:, None]
    (tmp_path / "wide").mkdir()
    (tmp_path / "narrow").mkdir()
    wide = opened().build(base, metric, tmp_path / "wide")
    narrow = opened().build(np.ascontiguousarray(base[:, :48]), metric, tmp_path / "narrow")

    ids = wide.search(queries, 100)

    assert ids.dtype == np.int64
    assert ids.shape == (QUERIES, 100)
    assert recall(ids, exact_search(base, queries, 100, metric)[0], 100).mean() > 0.95
    assert wide.size_bytes - narrow.size_bytes == pytest.approx(BASE * 4 * (384 - 48), rel=0.1)
    np.testing.assert_array_equal(wide.search(queries[:1], 5), ids[:1, :5])
    wide.close()
    narrow.close()


def test_without_hnswlib_the_graph_is_usearchs(small, monkeypatch, tmp_path):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "vaecodec_integrations.report.engines.find_spec", lambda name: None if name == "hnswlib" else found(name)
    )
    engine = open_engine(SearchEngineName.HNSW)
    assert "usearch" in engine.parameters
    assert engine.parameters["expansion_search"] == 128
    few = engine.build(small[0][:7], Metric.COSINE, tmp_path).search(small[1][:2], 9)
    assert (few[:, 7:] == -1).all(), "only seven are there"
    assert sorted(few[0, :7].tolist()) == list(range(7))


def test_an_index_that_finds_too_few_says_so_by_minus_one(tmp_path):
    """Equal vectors make a graph of islands."""
    base = np.repeat(np.eye(4, dtype=np.float32), 60, axis=0)
    index = open_engine(SearchEngineName.HNSW).build(base, Metric.COSINE, tmp_path)
    ids = index.search(base[:1], 240)
    found = ids[ids >= 0]
    assert len(set(found.tolist())) == len(found) >= 10
    assert (ids[0, len(found) :] == -1).all()


def test_l2_has_one_pca(small):
    base, queries, _ = small
    codec = LinearCodec(LinearKind.TRUNCATION, np.eye(16, 384, dtype=np.float32), np.zeros(384, np.float32), Metric.L2)
    data = ReportData(base=base[:500], queries=queries[:50])
    methods = measure(data, {"first16": codec}, open_engine(SearchEngineName.EXACT)).methods
    assert [method.name for method in methods] == ["uncompressed", "svd", "pca", "truncation", "first16"]
    np.testing.assert_array_equal(methods[3].found.engine, methods[-1].found.engine)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    """Write the report."""
    folder = tmp_path_factory.mktemp("written") / "report"
    write(folder, run, summarise(run))
    return folder


def test_what_is_written_can_be_summarised_again(run, folder):
    written = json.loads((folder / "report.json").read_text())

    assert sorted(os.listdir(folder)) == ["losses.png", "recall.png", "report.html", "report.json", "report.md"]
    assert json.loads(json.dumps(summarise(Run.from_json(written["run"])).to_json())) == written["summary"]
    assert written["run"]["truth"] is None
    assert {method["found"] for method in written["run"]["methods"]} == {None}
    for picture in ("losses.png", "recall.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG\r\n")


def test_markdown_begins_with_the_headline_and_holds_every_figure(run, folder):
    summary = summarise(run)
    text = (folder / "report.md").read_text()
    assert text.splitlines()[0].replace("\\", "") == f"# {summary.headline}"
    for method in summary.methods:
        for value in method.metrics.values():
            assert f"{value.mean:.3f}" in text
        assert f"{method.queries_per_second:,.0f}" in text
    assert "fitted on | the training vectors given" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) >= 3
    setting = {**run.setting, "linear_fitted_on": "base"}
    favoured = markdown("", [], tables(summary, replace(run, setting=setting)), [])
    assert "fitted on | the base itself, which favours them" in favoured


def test_an_earlier_report_shows_what_changed(run, small, sample, svd_codec, folder):
    base, queries, relevant = small
    data = ReportData(base=base, queries=queries, train=sample.train[:2_000], relevant=relevant)
    now = measure(data, {"svd64.onnx": svd_codec}, open_engine(SearchEngineName.EXACT))
    changes = {
        (change.method, change.metric): change for change in summarise(now, read_report(folder / "report.json")).changes
    }

    assert [metric for method, metric in changes if method == "svd64.onnx"] == [
        "recall@1",
        "recall@10",
        "recall@100",
        "kept@100",
        "ndcg@10",
        "mrr@10",
        "relevant@100",
        "relevant@10",
    ]
    change = changes["svd64.onnx", "recall@10"]
    assert change.before == pytest.approx(summarise(run).method("svd32.onnx").metrics["recall@10"].mean)
    assert change.now == pytest.approx(summarise(now).method("svd64.onnx").metrics["recall@10"].mean)
    assert change.difference is not None
    assert change.difference.low > 0
    assert changes["uncompressed", "recall@10"].difference == (0, 0, 0)
    text = markdown("", [], tables(summarise(now, run), now), [])
    assert f"| svd64.onnx | recall@10 | {change.before:.3f} | {change.now:.3f} | {change.difference.mean:+.3f}" in text

    setting = {**now.setting, "base": {**now.setting["base"], "fingerprint": "of other vectors"}}
    other = replace(now, setting=setting)
    assert {change.difference for change in summarise(other, run).changes} == {None}
    assert "not paired" in markdown("", [], tables(summarise(other, run), other), [])


# The largest number is none that a float holds.
EMPTY_RUN = json.dumps(
    {
        "setting": {},
        "truth": [[0]],
        "relevant": None,
        "labels": None,
        "sampled": None,
        "methods": [],
        "rivals": [{"figures": {"recall_at_10": [10**400]}}],
        "svd_curve": {},
    }
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected the report.json of an earlier report, got something else"),
        ("{", "expected the report.json"),
        ('{"format_version": 2, "run": {"methods": 3}}', "expected the report.json"),
        (f'{{"format_version": 2, "run": {EMPTY_RUN}}}', "expected the report.json"),
        ('{"format_version": 1}', "a report of format 1, but this vaecodec reads 2"),
    ],
)
def test_what_is_no_report_is_not_compared_with(content, message, tmp_path):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(EvaluationInputError, match=message):
        read_report(tmp_path / "report.json")


def test_figures_of_an_earlier_report_whose_sums_overflow_are_refused(folder, tmp_path):
    document = json.loads((folder / "report.json").read_text())
    figures = document["run"]["methods"][0]["figures"]
    name = next(iter(figures))
    figures[name] = [1.7e308] * len(figures[name])
    (tmp_path / "report.json").write_text(json.dumps(document))
    with pytest.raises(EvaluationInputError, match=r"expected the report.json of an earlier report"):
        read_report(tmp_path / "report.json")


def test_names_cannot_break_the_tables():
    text = markdown("a_b*c", [], [], [("recall.png", "[x]|`y`<z>")])
    assert text == "# a\\_b\\*c\n\n![\\[x]\\|\\`y\\`\\<z>](recall.png)\n"


def test_a_report_that_fails_leaves_the_old_one(run, folder):
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    broken = replace(run, setting={**run.setting, "cores": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(folder, broken, replace(summarise(run), slices=[]))
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before


def test_bad_input_is_refused_before_anything_is_measured(small, svd_codec):
    base, queries, relevant = small

    def refused(error, message, base=base, queries=queries, name="codec", budgets=(), **known):
        measured: list[str] = []
        data = ReportData(base=base, queries=queries, **known)
        engine = open_engine(SearchEngineName.EXACT)
        with pytest.raises(error, match=re.escape(message)):
            measure(data, {name: svd_codec}, engine, budgets=budgets, on_method=measured.append)
        assert measured == []

    spoiled = queries.copy()
    spoiled[7, 3] = np.nan
    refused(BadRowsError, "queries: row 7 holds NaN", queries=spoiled)
    refused(WrongWidthError, "base: expected rows of width 384, got 100", base=base[:, :100])
    refused(EvaluationInputError, "at least 11 rows in base and 1 in queries, got 10 and 100", base=base[:10])
    refused(EvaluationInputError, "at least 11 rows in base and 1 in queries, got 800 and 0", queries=queries[:0])
    refused(EvaluationInputError, "relevant: expected 100 entries, one for each query, got 3", relevant=[[1], [2], [3]])
    refused(EvaluationInputError, "labels: expected 100 entries", labels=["a"])
    refused(
        EvaluationInputError, "relevant: query 1 names a row outside the base", relevant=[[0], [BASE], *relevant[2:]]
    )
    refused(EvaluationInputError, "base: all rows are the same vector", base=np.repeat(base[:1], 20, axis=0))
    three = np.arange(3.0)
    for pairs, message in [
        (ScoredPairs(base[:3], base[:2], three), "got 3, 2 and scores of shape (3,)"),
        (ScoredPairs(base[:3], base[:3], np.ones(3)), "finite scores that are not all the same"),
        (ScoredPairs(base[:3], base[:3], np.array([1, 2, np.nan])), "finite scores"),
    ]:
        refused(EvaluationInputError, message, scored_pairs=pairs)
    refused(WrongWidthError, "scored pairs, second: expected", scored_pairs=ScoredPairs(base[:3], base[:3, :9], three))
    refused(EvaluationInputError, "codes need a codec loaded from a file", budgets=[32])
    refused(EvaluationInputError, "name: 'svd' is the name of a baseline", name="svd")


def test_relevance_and_labels_from_files(tmp_path):
    np.save(tmp_path / "one.npy", np.array([3, 1, 2], np.int32))
    (tmp_path / "lists.json").write_text("[[3], [], [1, 2]]")
    np.save(tmp_path / "labels.npy", np.array(["de", "en"]))
    (tmp_path / "labels.txt").write_text("de\nen\n")

    assert read_relevant(tmp_path / "one.npy") == [[3], [1], [2]]
    assert read_relevant(tmp_path / "lists.json") == [[3], [], [1, 2]]
    assert list(read_labels(tmp_path / "labels.npy")) == list(read_labels(tmp_path / "labels.txt")) == ["de", "en"]

    np.savez(tmp_path / "pairs.npz", first=np.eye(3), second=np.eye(3), scores=[1, 2, 3])
    assert read_scored_pairs(tmp_path / "pairs.npz").scores.tolist() == [1, 2, 3]
    for name in ("one.npy", "labels.txt", "absent.npz"):
        with pytest.raises(EvaluationInputError, match=r"expected a \.npz file with first, second and scores"):
            read_scored_pairs(tmp_path / name)

    np.save(tmp_path / "floats.npy", np.ones(3))
    np.save(tmp_path / "objects.npy", np.array([[1], None], dtype=object), allow_pickle=True)
    (tmp_path / "mixed.json").write_text('[[3], ["a"]]')
    (tmp_path / "text.json").write_text("no json")
    for name, message in {
        "floats.npy": "expected one integer for each query, got dtype float64",
        "objects.npy": "cannot be read as a .npy file",
        "mixed.json": "a list of row numbers for each query",
        "text.json": "expected .npy or JSON",
        "absent.json": "cannot be read as text",
    }.items():
        with pytest.raises(EvaluationInputError, match=re.escape(message)):
            read_relevant(tmp_path / name)
    with pytest.raises(EvaluationInputError, match="expected one string or integer for each query, got dtype float64"):
        read_labels(tmp_path / "floats.npy")


def test_command(vae_path, tmp_path):
    """Type the command as a person does, on the bundled sample."""
    for name, rows in [("base", 1_000), ("queries", 100), ("train", 2_000)]:
        np.save(tmp_path / f"{name}.npy", np.load(SAMPLE / f"{name}.npy")[:rows])
    (tmp_path / "relevant.json").write_text(json.dumps([[query] for query in range(100)]))
    (tmp_path / "labels.txt").write_text("a\n" * 60 + "b\n" * 40)
    command = [
        sys.executable,
        "-m",
        "vaecodec_cli",
        "report",
        "--codec",
        str(vae_path),
        "--out",
        str(tmp_path / "report"),
    ]
    command += ["--base", str(tmp_path / "base.npy"), "--queries", str(tmp_path / "queries.npy"), "--engine", "hnsw"]
    command += ["--train", str(tmp_path / "train.npy"), "--relevant", str(tmp_path / "relevant.json")]
    command += ["--labels", str(tmp_path / "labels.txt")]
    environment = {**os.environ, "COLUMNS": "80"}

    result = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "report" / "report.json").read_text())["summary"]
    assert " ".join(result.stdout.split()).startswith(summary["headline"])
    # On a terminal of 80 columns nothing is cut off, and the line after the tables says where all others are.
    assert "…" not in result.stdout
    assert " recall@10 " in result.stdout
    assert re.search(r"│ queries +│ 100 +│", result.stdout)
    assert " ".join(result.stdout.split()).endswith(
        f"All tables and the pictures are in {tmp_path}/report/report.html."
    )
    assert max(len(line) for line in result.stdout.splitlines() if "report.html" not in line) <= 80
    assert summary["headline"].startswith(vae_path.name)
    assert (tmp_path / "report" / "report.md").read_text().replace("\\", "").startswith(f"# {summary['headline']}\n")
    assert [part["label"] for part in summary["slices"]] == ["a", "b"]

    (tmp_path / "relevant.json").write_text("[[1]]")
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert "relevant: expected 100 entries, one for each query, got 1" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_measures_a_nested_width(vae_path, tmp_path, capsys):
    """What the planner answers with ``Codec.load(path, dim=32)`` can be judged."""
    rows = {name: np.load(SAMPLE / f"{name}.npy")[:count] for name, count in (("base", 400), ("queries", 50))}
    for name, vectors in rows.items():
        np.save(tmp_path / f"{name}.npy", vectors)
    command = ["report", "--codec", str(vae_path), "--out", str(tmp_path / "report"), "--dtype", "int8", "--keep-ids"]
    command += ["--base", str(tmp_path / "base.npy"), "--queries", str(tmp_path / "queries.npy")]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--dim", "32"])
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    name = f"{vae_path.name} at 32"
    assert document["summary"]["headline"].startswith(name)
    methods = {method["name"]: method for method in document["run"]["methods"]}
    assert {method["width"] for key, method in methods.items() if key != "uncompressed"} == {32}
    assert methods[f"{name}, int8"]["bytes_per_vector"] == 32
    codec = Codec.load(vae_path, dim=32)
    found, _ = exact_search(codec.encode(rows["base"]), codec.encode_queries(rows["queries"]), 100, codec.latent_metric)
    np.testing.assert_array_equal(methods[name]["found"]["engine"], found)

    with pytest.raises(SystemExit, match="2"):
        main([*command, "--dim", "40"])
    assert "expected dim to be one of 16, 32, 64, got 40" in capsys.readouterr().err


def test_what_is_as_wide_as_the_uncompressed_vectors_is_named_once(sample):
    """Draw no name upon another, where a codec keeps all dimensions."""
    whole = fit_linear(sample.train[:500, :32], 32)
    data = ReportData(base=sample.base[:300, :32], queries=sample.queries[:40, :32], train=sample.train[:500, :32])
    found = summarise(measure(data, {"whole.onnx": whole}, open_engine(SearchEngineName.EXACT)))
    svg = pictures(found)[0].light.decode()
    assert len(re.findall(r">uncompressed, [^<]*whole\.onnx[^<]*</text>", svg)) == 1
    assert not re.search(r">[^<,]*both sides centred[^<]*</text>", svg)


def test_a_codec_that_has_no_code_of_that_size_is_named(svd_path, tmp_path, sample):
    data = ReportData(base=sample.base[:60], queries=sample.queries[:10])
    with pytest.raises(InvalidBudgetError, match=r"small\.onnx: bytes: expected 8 to 40 for 64 latents, got 48"):
        measure(data, {"small.onnx": Codec.load(svd_path)}, open_engine(SearchEngineName.EXACT), budgets=[48])


def test_a_damaged_character_is_no_label(tmp_path):
    np.save(tmp_path / "labels.npy", np.array(["ab", "cd"]))
    data = bytearray((tmp_path / "labels.npy").read_bytes())
    data[-1] = 0x7F
    (tmp_path / "labels.npy").write_bytes(data)
    with pytest.raises(
        EvaluationInputError, match=r"labels.npy: not a complete array of plain values: a character is none"
    ):
        read_labels(tmp_path / "labels.npy")
