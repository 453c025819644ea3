"""Test drift: how often the tests are wrong, what they catch, and that a monitor counts what it encodes."""

from __future__ import annotations

import itertools
import json
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats

from vaecodec import Codec, LinearCodec, LinearKind, Metric, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.drift import ALPHA, Encoded, Reference, Statistic, Stream
from vaecodec.drift.monitor import MonitoredCodec, Reservoir
from vaecodec.drift.statistics import Histogram, Moments, StreamStatistics
from vaecodec.errors import BadRowsError, NotCalibratedError, SaturationWarning
from vaecodec.evaluation import pair_scores
from vaecodec_cli.main import main
from vaecodec_exporters.linear import export_linear


@pytest.fixture(scope="module")
def watched_path(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a linear codec fitted on 19 rows of 20, with the statistics of the others, and of held-out queries."""
    codec = fit_linear(sample.train, 64, hold_out=20)
    reference = Reference.fit(
        encoded(codec, sample.train[::20]),
        Encoded.encode(codec.encode_queries, codec.decode, sample.train_queries[::20]),
        codec.metric,
        codec.latent_metric,
    )
    path = tmp_path_factory.mktemp("watched") / "svd64.onnx"
    calibration = Calibration.fit(codec.encode(sample.train), codec.latent_metric)
    export_linear(codec, path, calibration=CodecCalibration(codes=calibration, drift=reference))
    return path


@pytest.fixture
def monitor(watched_path: Path) -> MonitoredCodec:
    return MonitoredCodec.load(watched_path, threads=1)


def encoded(codec: LinearCodec, rows: np.ndarray) -> Encoded:
    return Encoded.encode(codec.encode, codec.decode, rows)


def chosen(rows: Encoded, which: np.ndarray) -> Encoded:
    return Encoded(*(array[which] for array in rows))


def rotated(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return what another embedding model of the same geometry would give: the same vectors in other coordinates."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((rows.shape[1],) * 2))
    return np.asarray(rows @ basis, np.float32)


def test_vectors_as_at_training_raise_an_alarm_as_rarely_as_promised(sample: Any) -> None:
    codec = fit_linear(sample.train, 64)
    unseen = encoded(codec, sample.base)
    random, checks, alarms, rare = np.random.default_rng(0), 300, 0, []
    for _ in range(checks):
        order = random.permutation(len(sample.base))
        reference = Reference.fit(chosen(unseen, order[:300]), None, codec.metric, codec.latent_metric)
        new = chosen(unseen, order[300:1_300])
        summary = reference.measure(Stream.DOCUMENTS, new)
        agreement = reference.agreement(chosen(new, np.arange(256)), codec.metric, codec.latent_metric)
        whole = StreamStatistics(summary.moments, {**summary.histograms, Statistic.AGREEMENT: agreement})
        report = reference.compare({Stream.DOCUMENTS: whole})
        assert [finding.statistic for finding in report.findings] == list(Statistic)
        alarms += report.drifted
        rare.append(min(finding.p_value for finding in report.findings))
    # One check in a hundred may raise an alarm; more than eight of 300 would be a chance of one in 250.
    assert alarms <= stats.binom.ppf(0.996, checks, 0.01)
    # That is not because nothing ever would: the p-values reach down to where one in twenty of them should be.
    assert 0.002 < np.mean(np.array(rare) < 0.05) < stats.binom.ppf(0.996, checks, 0.05) / checks


SHIFTS = {
    "another embedder": lambda sample: rotated(sample.base, 0),
    "queries for documents": lambda sample: sample.queries,
    "a part of the collection": lambda sample: sample.base[np.argsort(-sample.base @ sample.base[17])],
    "one vector again and again": lambda sample: np.repeat(sample.base[:1], 300, axis=0),
    "noise": lambda sample: sample.base + np.random.default_rng(0).normal(0, 0.02, sample.base.shape),
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_is_caught_within_a_thousand_vectors(shift: str, sample: Any, monitor: MonitoredCodec) -> None:
    monitor.encode(SHIFTS[shift](sample)[:300])
    assert monitor.check().drifted


def test_a_trained_codec_knows_its_documents_and_its_queries(vae_path: Path, sample: Any) -> None:
    monitor = MonitoredCodec.load(vae_path)
    monitor.encode(sample.base)
    monitor.encode_queries(sample.queries)
    report = monitor.check()
    assert not report.drifted
    assert [(finding.stream, finding.statistic) for finding in report.findings] == [
        *itertools.product(["documents"], ["reconstruction", "deviation", "agreement", "latent mean"]),
        *itertools.product(["queries"], ["reconstruction", "deviation", "latent mean"]),
    ]
    monitor.reset()
    monitor.encode(sample.base)
    monitor.encode_queries(sample.base[:1_000])
    assert {finding.stream for finding in monitor.check().findings if finding.drifted} == {Stream.QUERIES}


def test_a_difference_too_small_to_matter_is_no_alarm_however_sure(sample: Any) -> None:
    codec = fit_linear(sample.train, 16)
    known = encoded(codec, sample.base[:4_000])
    reference = Reference.fit(known, None, codec.metric, codec.latent_metric)
    mixed = np.concatenate([sample.base[4_000:], sample.queries[:400]])
    once = reference.measure(Stream.DOCUMENTS, encoded(codec, mixed))
    many = once
    for _ in range(10):
        many = many + many
    report = reference.compare({Stream.DOCUMENTS: many})
    assert report.rows == {Stream.DOCUMENTS: 2_457_600}
    assert not report.drifted
    assert min(finding.p_value for finding in report.findings) < ALPHA
    assert max(finding.effect for finding in report.findings) < 0.1


# The figures against definitions and scipy


def test_reference_holds_what_held_out_rows_are(sample: Any) -> None:
    codec = fit_linear(sample.train, 32, kind=LinearKind.PCA)
    rows = sample.base[:1_000]
    latents = codec.encode(rows)
    reference = Reference.fit(encoded(codec, rows), None, codec.metric, codec.latent_metric)
    summary = reference.streams[Stream.DOCUMENTS]
    np.testing.assert_allclose(summary.moments.mean, latents.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(summary.moments.spread, latents.std(axis=0), rtol=1e-4)
    cosines = pair_scores(rows, codec.decode(latents), Metric.COSINE)
    histogram = summary.histograms[Statistic.RECONSTRUCTION]
    assert histogram.mean == pytest.approx(cosines.mean(), abs=1e-5)
    assert histogram.size == 1_000
    assert len(histogram.counts) == 32
    assert np.ptp(histogram.counts) <= 3
    kept = [
        len(
            set(np.argsort(-(group @ group.T) + 9 * np.eye(256), axis=1)[row, :10])
            & set(np.argsort(-(coded @ coded.T) + 9 * np.eye(256), axis=1)[row, :10])
        )
        for group, coded in ((rows[a : a + 256], latents[a : a + 256]) for a in (0, 256, 512))
        for row in range(0, 256, 16)
    ]
    agreement = reference.agreement(encoded(codec, rows), codec.metric, codec.latent_metric)
    assert agreement.size == 768
    assert agreement.mean == pytest.approx(np.mean(kept) / 10, abs=0.06)
    assert reference.to_json() == Reference.from_json(json.loads(json.dumps(reference.to_json()))).to_json()


def test_each_held_out_row_deviates_from_the_others_only(sample: Any) -> None:
    codec = fit_linear(sample.train, 8)
    rows = sample.base[:64]
    latents = codec.encode(rows).astype(np.float64)
    expected = []
    for row in range(64):
        others = np.delete(latents, row, axis=0)
        expected.append(np.sqrt(np.mean(((latents[row] - others.mean(0)) / others.std(0)) ** 2)))
    reference = Reference.fit(encoded(codec, rows), None, codec.metric, codec.latent_metric)
    histogram = reference.streams[Stream.DOCUMENTS].histograms[Statistic.DEVIATION]
    assert histogram.mean == pytest.approx(np.mean(expected), rel=1e-4)


@given(
    sizes=st.tuples(st.integers(100, 500), st.integers(100, 500)),
    shift=st.floats(0, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_test_of_distributions_is_kolmogorovs_on_the_edges(sizes: tuple[int, int], shift: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    known, found = (random.normal(mean, 1, n).clip(-3, 3).round(1) for mean, n in zip((0, shift), sizes, strict=True))
    edges = np.arange(-3, 3, 0.1).round(1)  # every value that there can be: nothing is lost between edges
    sides = [
        StreamStatistics(
            Moments.of(values.astype(np.float32)[:, None]), {Statistic.RECONSTRUCTION: Histogram.of(values, edges)}
        )
        for values in (known, found)
    ]
    reference = Reference({Stream.DOCUMENTS: sides[0]}, 256, 1)
    finding, means = reference.compare({Stream.DOCUMENTS: sides[1]}).findings
    theirs = stats.ks_2samp(known, found, method="asymp")
    assert finding.effect == pytest.approx(theirs.statistic)
    size = np.prod(sizes) / sum(sizes)
    uncorrected = stats.kstwobign.sf(np.sqrt(size) * theirs.statistic)
    assert finding.p_value >= min(1, 2 * uncorrected) - 1e-9  # bounded from above, for two tests
    if uncorrected < 0.1:
        assert finding.p_value == pytest.approx(2 * uncorrected, rel=1e-2)
    student = stats.ttest_ind(known, found).statistic
    assert means.p_value == pytest.approx(min(1, 4 * stats.norm.sf(abs(student))), rel=1e-3, abs=1e-9)
    assert means.expected == pytest.approx(np.mean(known), abs=1e-5)
    assert means.found == pytest.approx(np.mean(found), abs=1e-5)


# The reservoir


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_what_is_kept_does_not_depend_on_batches(sizes: list[int], seed: int) -> None:
    rows = np.arange(sum(sizes), dtype=np.float32)[:, None]
    whole, parts = Reservoir(7, seed=seed), Reservoir(7, seed=seed)
    whole.add(rows)
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        parts.add(part)
    np.testing.assert_array_equal(whole.rows, parts.rows)
    assert len(whole.rows) == min(7, len(rows))
    assert len(np.unique(whole.rows)) == len(whole.rows)


def test_every_row_is_kept_with_the_same_probability() -> None:
    kept = np.zeros(50)
    for seed in range(3_000):
        reservoir = Reservoir(5, seed=seed)
        reservoir.add(np.arange(50, dtype=np.float32)[:, None])
        kept[reservoir.rows[:, 0].astype(int)] += 1
    assert stats.chisquare(kept).pvalue > 0.001


# The monitor


def test_a_monitor_gives_the_codecs_own_latents_and_counts_them(
    monitor: MonitoredCodec, watched_path: Path, sample: Any
) -> None:
    codec = Codec.load(watched_path, threads=1)
    assert monitor.codec_id == codec.codec_id
    np.testing.assert_array_equal(monitor.encode(sample.base[:300]), codec.encode(sample.base[:300]))
    np.testing.assert_array_equal(monitor.encode_queries(sample.queries[:1]), codec.encode_queries(sample.queries[:1]))
    np.testing.assert_array_equal(
        monitor.encode(sample.base[:20], dtype="int4"), codec.encode(sample.base[:20], dtype="int4")
    )
    assert monitor.check().rows == {Stream.DOCUMENTS: 320, Stream.QUERIES: 1}
    monitor.reset()
    assert monitor.check().rows == {}
    assert str(monitor.check()) == "Not enough vectors: at least 100 documents or queries are needed; got no vectors."


def test_a_refused_batch_does_not_count(monitor: MonitoredCodec, sample: Any) -> None:
    bad = np.repeat(sample.base, 4, axis=0)  # several blocks: the row is in the last
    bad[-1, 3] = np.nan
    for options in ({}, {"dtype": "int8"}):
        with pytest.raises(BadRowsError, match="row 23999"):
            monitor.encode(bad, **options)
    assert monitor.check().rows == {}


def test_memory_does_not_grow_with_what_is_seen(monitor: MonitoredCodec, sample: Any) -> None:
    monitor.encode(sample.base)
    tracemalloc.start()
    for _ in range(5):
        monitor.encode(sample.base)
        monitor.check()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 50_000  # the sums of 30,000 vectors more, in place of those before; one vector takes 1,536


def test_threads_share_a_monitor(monitor: MonitoredCodec, sample: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda start: monitor.encode(sample.base[start : start + 10]), range(0, 2_000, 10)))
    report = monitor.check()
    assert report.rows == {Stream.DOCUMENTS: 2_000}
    alone = MonitoredCodec.of(monitor)
    alone.encode(sample.base[:2_000])
    by_itself = {finding.statistic: finding.found for finding in alone.check().findings}
    for finding in report.findings:
        near = 0.05 if finding.statistic is Statistic.AGREEMENT else 1e-6  # another order, another sample
        assert finding.found == pytest.approx(by_itself[finding.statistic], abs=near)


def test_a_monitor_is_a_codec_to_an_index(monitor: MonitoredCodec, sample: Any) -> None:
    pytest.importorskip("hnswlib", reason="hnswlib is not installed: pip install 'vaecodec[hnsw]'")
    from vaecodec_integrations.hnsw import CompressedIndex

    index = CompressedIndex("cosine", 384, monitor)
    index.init_index(500)
    index.add_items(sample.base[:500])
    labels, _ = index.knn_query(sample.base[:120], k=1)
    assert np.mean(labels[:, 0] == np.arange(120)) > 0.95
    assert monitor.check().rows == {Stream.DOCUMENTS: 500, Stream.QUERIES: 120}


def test_prometheus_reads_what_was_seen_and_found(monitor: MonitoredCodec, sample: Any) -> None:
    def scrape() -> dict[str, Any]:
        families = {family.name: family for family in text_string_to_metric_families(monitor.prometheus())}
        return {
            name: SimpleNamespace(
                type=family.type,
                samples={(s.name, s.labels.get("stream"), s.labels.get("le")): s.value for s in family.samples},
            )
            for name, family in families.items()
        }

    assert scrape()["vaecodec_vectors"].samples["vaecodec_vectors_total", "documents", None] == 0
    monitor.encode(sample.base[:600])
    monitor.encode_queries(sample.queries[:5])
    found = scrape()
    assert found["vaecodec_vectors"].samples["vaecodec_vectors_total", "documents", None] == 600
    assert found["vaecodec_vectors"].samples["vaecodec_vectors_total", "queries", None] == 5
    reconstruction = found["vaecodec_reconstruction"]
    assert reconstruction.type == "histogram"
    cosines = pair_scores(sample.base[:600], monitor.decode(Codec.encode(monitor, sample.base[:600])), Metric.COSINE)
    total = reconstruction.samples["vaecodec_reconstruction_sum", "documents", None]
    assert total == pytest.approx(cosines.sum(), abs=0.01)
    for (name, stream, bound), value in reconstruction.samples.items():
        if name.endswith("_bucket") and stream == "documents" and bound != "+Inf":
            assert value == pytest.approx(np.sum(cosines <= float(bound)), abs=2)
    assert found["vaecodec_agreement"].samples["vaecodec_agreement_count", "documents", None] == 512
    assert found["vaecodec_drift"].samples["vaecodec_drift", None, None] == 0
    monitor.encode(rotated(sample.base[:600], 1))
    assert scrape()["vaecodec_drift"].samples["vaecodec_drift", None, None] == 1


def test_queries_that_cannot_be_compared_are_not_called_sound(
    sample: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check queries against a file without statistics of queries: noise among them is neither drift nor its absence."""
    np.save(tmp_path / "train.npy", sample.train[:2_000])
    np.save(tmp_path / "base.npy", sample.base)
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).standard_normal((1_000, 384)).astype(np.float32))
    with pytest.raises(SystemExit, match="0"):
        main(["linear", str(tmp_path / "train.npy"), "--dim", "32", "--out", str(tmp_path / "svd32.onnx")])
    capsys.readouterr()
    command = ["drift", "--codec", str(tmp_path / "svd32.onnx"), "--data", str(tmp_path / "base.npy")]
    command += ["--queries", str(tmp_path / "noise.npy")]
    with pytest.raises(SystemExit, match="4"):
        main(command)
    verdict, left_out, *findings = capsys.readouterr().out.splitlines()
    assert verdict == "no drift: nothing that calls for training again (6,000 documents)"
    assert left_out == "queries: not compared, the codec file holds no statistics of queries"
    assert all(line.startswith("documents: ") for line in findings)
    with pytest.raises(SystemExit, match="4"):
        main([*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["not_compared"] == {"queries": "the codec file holds no statistics of queries"}

    monitor = MonitoredCodec.load(tmp_path / "svd32.onnx")
    monitor.encode(sample.base)
    monitor.encode_queries(np.load(tmp_path / "noise.npy"))
    lines = [line for line in monitor.prometheus().splitlines() if line.startswith("vaecodec_drift_not_compared")]
    assert [line.split(",")[1] for line in lines] == ['stream="documents"} 0.0', 'stream="queries"} 1.0']


def test_a_monitor_can_be_registered_with_prometheus(monitor: MonitoredCodec, sample: Any) -> None:
    registry = CollectorRegistry()
    registry.register(monitor)
    monitor.encode(sample.base[:250])
    labels = {"codec": monitor.codec_id[:12], "stream": "documents"}
    assert registry.get_sample_value("vaecodec_vectors_total", labels) == 250
    assert generate_latest(registry).decode() == monitor.prometheus()


def test_a_wrapped_codec_stays_as_it_is(watched_path: Path, sample: Any) -> None:
    codec = Codec.load(watched_path, threads=1)
    monitor = MonitoredCodec.of(codec)
    codec.encode(sample.base[:200])
    assert monitor.check().rows == {}
    np.testing.assert_array_equal(monitor.encode(sample.base[:10]), codec.encode(sample.base[:10]))
    assert monitor.check().rows == {Stream.DOCUMENTS: 10}


def test_a_file_without_statistics_cannot_be_monitored(svd_path: Path, watched_path: Path) -> None:
    with pytest.raises(NotCalibratedError, match="for 64 dimensions, got none"):
        MonitoredCodec.of(Codec.load(svd_path))
    with pytest.raises(NotCalibratedError, match="for 32 dimensions, got one for 64 dimensions"):
        MonitoredCodec.load(watched_path, dim=32)


# The command


def test_the_command_answers_by_its_exit_code(
    watched_path: Path, svd_path: Path, sample: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sample.base[:3_000].copy()
    bad[2_990] = 0
    files = {
        "same": sample.base,
        "other": rotated(sample.base, 2)[:1_000],
        "few": sample.base[:99],
        "bad": bad,
        "none": bad[:0],
    }
    for name, rows in files.items():
        np.save(tmp_path / f"{name}.npy", rows)

    def drift(codec: Path, data: str, *options: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["drift", "--codec", str(codec), "--data", str(tmp_path / f"{data}.npy"), *options])
        return (end.value.code, *capsys.readouterr())

    code, shown, _ = drift(watched_path, "same", "--json")
    found = json.loads(shown)
    assert (code, found["drifted"], found["rows"], found["not_compared"]) == (0, False, {"documents": 6_000}, {})
    code, shown, _ = drift(watched_path, "same", "--queries", str(tmp_path / "few.npy"), "--json")
    found = json.loads(shown)
    assert (code, found["drifted"], found["rows"]) == (4, False, {"documents": 6_000, "queries": 99})
    assert found["not_compared"] == {"queries": "fewer than 100 vectors"}
    code, shown, _ = drift(watched_path, "few", "--queries", str(tmp_path / "same.npy"))
    assert (code, shown.splitlines()[0][:18]) == (3, "drift: train again")  # what was found comes before what was not
    assert shown.splitlines()[1] == "documents: not compared, fewer than 100 vectors"
    code, shown, _ = drift(watched_path, "other")
    assert (code, shown.splitlines()[0][:18]) == (3, "drift: train again")
    code, _, error = drift(svd_path, "same")
    assert code == 4
    assert "expected a codec file with drift statistics for 64 dimensions, got none" in error
    code, shown, _ = drift(watched_path, "few")
    assert code == 4
    assert "Not enough vectors: at least 100 documents or queries are needed; got 99 documents." in shown
    code, _, error = drift(watched_path, "same", "--queries", str(tmp_path / "none.npy"))
    assert code == 1
    assert "none.npy: expected at least 100 vectors, got none" in error
    code, _, error = drift(watched_path, "bad")
    assert code == 1
    assert "bad.npy: row 2990 has zero norm" in error


def test_the_share_that_codes_clip_is_shown(watched_path: Path, sample: Any) -> None:
    monitor = MonitoredCodec.load(watched_path, threads=1)
    strange = monitor.decode(np.eye(64, dtype=np.float32)[-40:].repeat(5, axis=0))  # all in one latent of little spread
    expected: dict[Any, Any] = {}
    for rows, parameters in ((sample.base[:300], {}), (sample.base[:300], {"bytes": 16}), (strange, {"dtype": "int8"})):
        code = monitor.code(**(parameters or {"dtype": "int8"}))
        count = int(code.saturated(Codec.encode(monitor, rows)).sum())
        before = expected.get(code.name, (0, 0))
        expected[code.name] = (before[0] + len(rows), before[1] + count)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            monitor.encode(rows, **parameters)
        assert [w.category for w in seen] == [SaturationWarning] * bool(parameters and count > 0.05 * len(rows))
    report = monitor.check()
    assert report.clipped == expected
    many = {name: each for name, each in report.clipped.items() if each.share > 0.05}
    assert many
    for name, each in many.items():
        text = f"documents: {each.clipped} of {each.rows} lie outside the range of {name} and are clipped"
        assert text in str(report)
        assert report.to_json()["clipped"][name]["share"] == each.clipped / each.rows
        assert f'code="{name}",codec="{monitor.codec_id[:12]}"}} {each.clipped}.0' in monitor.prometheus()
    monitor.reset()
    assert monitor.check().clipped == {}
