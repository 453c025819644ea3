"""The setting that was chosen, built and searched for real: one query at a time, as an application does."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vaecodec.codec import Codec
from vaecodec.codes import CodeType
from vaecodec.errors import MissingExtraError
from vaecodec.evaluation import Interval, bootstrap, recall_among, similarities
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.linear import LinearCodec
from vaecodec.packed_index import PackedIndex
from vaecodec_integrations.plan.candidates import Candidate, Sample
from vaecodec_integrations.plan.stores import StoreName
from vaecodec_integrations.report.engine import EngineName
from vaecodec_integrations.report.engines import open_engine

_MILLION = 1_000_000
_WARM_UP = 10

Search = Callable[[FloatArray], NDArray[np.int64]]


@dataclass(frozen=True)
class Trial:
    """What the store itself gave on the sample.

    Attributes:
        recall: mean recall@k of the confirming queries with its 95 % interval: what the store's own graph and
            quantiser lose is in it.
        milliseconds: median for one query with encoding and re-ranking, the originals in memory.
        milliseconds_per_million: the same, scaled to a million vectors: in proportion where every code is looked at,
            otherwise with the logarithm, as hierarchical graphs do (Malkov and Yashunin, arXiv 1603.09320).
    """

    recall: Interval
    milliseconds: float
    milliseconds_per_million: float


def try_out(store: StoreName, candidate: Candidate, oversample: int, sample: Sample) -> Trial | None:
    """Build the store on the sample and search it; none where its library is not installed."""
    truth = sample.truth[sample.confirming]
    with tempfile.TemporaryDirectory(prefix="vaecodec-plan-") as folder:
        try:
            if store is StoreName.PACKED:
                return _timed(_packed(candidate, oversample, sample, truth.shape[1], Path(folder)), sample, linear=True)
            engine = open_engine(EngineName.QDRANT if store is StoreName.QDRANT else EngineName.HNSW)
        except MissingExtraError:
            return None
        codec = candidate.codec
        dtype = candidate.setting.dtype or CodeType.FLOAT32
        index = engine.build(codec.encode(sample.base), codec.latent_metric, Path(folder), dtype=dtype)

        def search(query: FloatArray) -> NDArray[np.int64]:
            found = index.search(codec.encode_queries(query), truth.shape[1] * oversample)[0]
            if oversample == 1:
                return found
            scores = similarities(query, sample.base[found], sample.metric)[0]
            return np.asarray(found[np.argsort(-scores, kind="stable")[: truth.shape[1]]])

        try:
            return _timed(search, sample, linear=False)
        finally:
            index.close()


def _packed(candidate: Candidate, oversample: int, sample: Sample, k: int, folder: Path) -> Search:
    codec = candidate.codec
    if isinstance(codec, LinearCodec):
        codec = _exported(codec, candidate, folder / "codec.onnx")
    assert isinstance(codec, Codec)
    setting = candidate.setting
    index = PackedIndex(codec, dtype=setting.dtype, bytes=None if setting.dtype else setting.code_bytes)
    index.add(sample.base)
    originals = sample.base if oversample > 1 else None
    search = partial(index.search, k=k, originals=originals, oversample=oversample, threads=1)
    return lambda query: search(query)[0][0]


def _exported(codec: LinearCodec, candidate: Candidate, path: Path) -> Codec:
    """A ``PackedIndex`` takes codec files; what writes these builds on other packages and is found by its name."""
    require("onnx", extra="export")
    write = entry_points(group="vaecodec.exporters")["linear"].load()
    write(codec, path, calibration=candidate.calibration)
    return Codec.load(path)


def _timed(search: Search, sample: Sample, *, linear: bool) -> Trial:
    truth = sample.truth[sample.confirming]
    queries = sample.queries[sample.confirming]
    for row in range(min(_WARM_UP, len(queries))):
        search(queries[row : row + 1])
    found, seconds = [], []
    for row in range(len(queries)):
        start = time.perf_counter()
        found.append(search(queries[row : row + 1]))
        seconds.append(time.perf_counter() - start)
    milliseconds = 1_000 * statistics.median(seconds)
    rows = len(sample.base)
    factor = _MILLION / rows if linear else log(_MILLION) / log(rows)
    return Trial(bootstrap(recall_among(np.stack(found), truth)), milliseconds, milliseconds * factor)
