"""What a report measured, raw: ids and times, from which every figure is derived later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.evaluation import IdArray

# Format of report.json.
FORMAT_VERSION = 1

UNCOMPRESSED = "uncompressed"


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of embeddings whose similarity people have scored, as in the STS benchmarks.

    Attributes:
        first, second: float (n, d), row for row one pair.
        scores: (n,), larger is more alike.
    """

    first: Any
    second: Any
    scores: NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """Scores as stored against original scores, over the nearest stored vectors of each query, up to 100.

    Attributes:
        scale, offset: the least-squares line, original score = ``scale`` x score + ``offset``.
        residual: standard deviation of what the line leaves unexplained, in units of the original score.
        error: mean absolute difference of the two.
        calibrated_error: the same after the calibration in the codec's file; none where it holds none.
    """

    scale: float
    offset: float
    residual: float
    error: float
    calibrated_error: float | None


@dataclass(frozen=True)
class Method:
    """One way to store the vectors, and what came back from it.

    Attributes:
        name: ``uncompressed``, a linear kind, or the codec's name, with the bytes where it is stored as codes.
        packed: stored as the codec's codes in a ``PackedIndex``, searched exactly, instead of in the engine.
        width: dimensions stored.
        bytes_per_vector: of the vectors alone, as they are searched: float32 or a code.
        index_bytes: of the whole index on disk.
        encode_seconds: to encode the base; 0 where nothing is encoded.
        build_seconds: to index it, encoding included only where packed.
        encode_queries_seconds: to encode the queries; 0 where nothing is encoded or the search does it.
        search_seconds: to search them all in one batch, the median of three runs after a warm-up.
        pair_similarity: Spearman correlation of pair scores before and after.
        scored_pairs: Spearman correlation of pair scores with those that people gave; none where not given.
        reconstruction: mean cosine between embeddings and what the codec restores.
        scores: what scores become; none for L2, whose distances are not calibrated.
        unreached: numbers of those sampled documents that no document of their own neighbourhood finds any more.
        exact_ids: (nq, k) by exact search on the float32 vectors that are stored, or would be.
        quantised_ids: (nq, k) by exact search on what the engine's codes stand for; none where it stores float32. They
            are modelled by the codec's own uniform codes, which engines do not tell theirs from by much.
        engine_ids: (nq, k) by the index, -1 where fewer were found.
    """

    name: str
    packed: bool
    width: int
    bytes_per_vector: int
    index_bytes: int
    encode_seconds: float
    build_seconds: float
    encode_queries_seconds: float
    search_seconds: float
    pair_similarity: float
    scored_pairs: float | None
    reconstruction: float
    scores: Scores | None
    unreached: list[int]
    exact_ids: IdArray
    quantised_ids: IdArray | None
    engine_ids: IdArray


@dataclass(frozen=True)
class Run:
    """Everything that a report is made from.

    Attributes:
        codec: name of the codec that is judged.
        setting: what was measured on what: JSON values only.
        truth: (nq, k) by exact search on the uncompressed vectors.
        relevant: rows of the base that answer each query, where known.
        labels: a label for each query, where given.
        sampled: how many documents were looked at for :attr:`Method.unreached`.
        methods: uncompressed, the linear baselines, the codec, the codec's codes.
        svd_curve: (nq, 10) by exact search on SVD latents, for several widths.
    """

    codec: str
    setting: Mapping[str, Any]
    truth: IdArray
    relevant: Sequence[Sequence[int]] | None
    labels: Sequence[str] | None
    sampled: int
    methods: Sequence[Method]
    svd_curve: Mapping[int, IdArray]

    def to_json(self) -> dict[str, Any]:
        """JSON values only; :meth:`from_json` reads them."""
        return {
            **{field: getattr(self, field) for field in ("codec", "setting", "relevant", "labels", "sampled")},
            "truth": self.truth.tolist(),
            "methods": [
                {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in fields.items()}
                for fields in map(asdict, self.methods)
            ],
            "svd_curve": {str(width): ids.tolist() for width, ids in self.svd_curve.items()},
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Run:
        """Read what :meth:`to_json` returned; raises ``KeyError`` or ``TypeError`` when it did not."""
        methods = [_method(method) for method in fields["methods"]]
        curve = {int(width): _ids(ids) for width, ids in fields["svd_curve"].items()}
        return cls(**{**fields, "truth": _ids(fields["truth"]), "methods": methods, "svd_curve": curve})


def _method(fields: Mapping[str, Any]) -> Method:
    names = ("exact_ids", "quantised_ids", "engine_ids")
    ids: dict[str, Any] = {name: None if fields[name] is None else _ids(fields[name]) for name in names}
    scores = None if fields["scores"] is None else Scores(**fields["scores"])
    return Method(**{**fields, **ids, "scores": scores})


def _ids(rows: Any) -> IdArray:
    return np.asarray(rows, np.int64)
