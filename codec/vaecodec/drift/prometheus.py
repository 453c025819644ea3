"""Show the statistics of a monitor to Prometheus, through the library prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vaecodec.drift.statistics import Histogram, Statistic, Stream, StreamStatistics
from vaecodec.drift.verdict import DriftReport
from vaecodec.extras import require

_HELP = {
    Statistic.RECONSTRUCTION: "Cosine between vectors and their reconstructions.",
    Statistic.DEVIATION: "Root mean square of a vector's latents in standard deviations from their mean at training.",
    Statistic.AGREEMENT: "Share of ten nearest neighbours that the latents keep, among a sample of what was encoded.",
}


class Collector(Protocol):
    """Define what a registry of prometheus-client takes: anything that collects metric families."""

    def collect(self) -> Iterator[Any]:
        """Yield metric families."""
        ...


def exposition(collector: Collector) -> str:
    """Return what a collector yields in Prometheus' text format 0.0.4.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    client = require("prometheus_client", extra="prometheus")
    registry = client.CollectorRegistry()
    registry.register(collector)
    return str(client.generate_latest(registry).decode())


def metric_families(codec_id: str, statistics: Mapping[Stream, StreamStatistics], report: DriftReport) -> Iterator[Any]:
    """Yield the statistics and the report as families of prometheus-client; docs/drift.md lists them."""
    core = require("prometheus_client.core", extra="prometheus")
    codec = codec_id[:12]
    by_stream = ("codec", "stream")
    vectors = core.CounterMetricFamily("vaecodec_vectors", "Vectors encoded.", labels=by_stream)
    for stream in Stream:
        vectors.add_metric((codec, stream), statistics[stream].rows if stream in statistics else 0)
    yield vectors
    for name, text in (("coded", "Documents encoded."), ("clipped", "Documents outside the range of the code.")):
        family = core.CounterMetricFamily(f"vaecodec_{name}", text, labels=("codec", "code"))
        for code, each in report.clipped.items():
            family.add_metric((codec, code), each.rows if name == "coded" else each.clipped)
        yield family
    for statistic, text in _HELP.items():
        family = core.HistogramMetricFamily(f"vaecodec_{statistic}", text, labels=by_stream)
        for stream, measured in statistics.items():
            histogram = measured.histograms.get(statistic)
            if histogram is not None:
                family.add_metric((codec, stream), _buckets(histogram), histogram.total)
        yield family
    for name, text in (
        ("effect", "How different a statistic's distribution is from that at training, 0 to 1."),
        ("p_value", "Probability of such a difference when nothing changed, corrected for the number of tests."),
    ):
        family = core.GaugeMetricFamily(f"vaecodec_drift_{name}", text, labels=(*by_stream, "statistic"))
        for finding in report.findings:
            family.add_metric((codec, finding.stream, finding.statistic), getattr(finding, name))
        yield family
    not_compared = core.GaugeMetricFamily(
        "vaecodec_drift_not_compared", "Whether vectors were seen that the check could not compare.", labels=by_stream
    )
    for stream in statistics:
        not_compared.add_metric((codec, stream), stream in report.not_compared)
    yield not_compared
    drift = core.GaugeMetricFamily(
        "vaecodec_drift", "Whether what was encoded no longer matches the training data.", labels=("codec",)
    )
    drift.add_metric((codec,), report.drifted)
    yield drift


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    bounds = [*(f"{edge:.9g}" for edge in histogram.edges), "+Inf"]
    return [(bound, int(count)) for bound, count in zip(bounds, histogram.counts.cumsum(), strict=True)]
