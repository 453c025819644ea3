"""Hold what a report measured: figures of every query, times and, where they are kept, the ids that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.evaluation import Figures, IdArray

# Format of report.json.
FORMAT_VERSION = 2

UNCOMPRESSED = "uncompressed"
ADAPTED = "uncompressed + adapter"


class Role(StrEnum):
    """Name the role of a method in a report."""

    UNCOMPRESSED = "uncompressed"
    """The vectors as they are."""
    ADAPTER = "adapter"
    """All dimensions after the same training: the opponent of a codec that was trained on pairs."""
    LINEAR = "linear"
    """A linear codec of the width of a codec that is judged."""
    CODEC = "codec"
    """A codec that is judged, with float32 latents."""
    CODE = "code"
    """The same codec with its latents stored as codes."""


@dataclass(frozen=True)
class ScoredPairs:
    """Hold pairs of embeddings whose similarity people have scored, as in the STS benchmarks.

    Attributes:
        first, second: float (n, d), row for row one pair.
        scores: (n,), larger is more alike.
    """

    first: Any
    second: Any
    scores: NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """Compare scores of stored vectors with original scores, over the nearest stored vectors of each query, up to 100.

    Attributes:
        scale, offset: the least-squares line, original score = ``scale`` x score + ``offset``.
        residual: standard deviation of what the line leaves unexplained, in units of the original score.
        error: mean absolute difference of the two.
        calibrated_error: the same after the calibration in the codec's file; None where it holds none.
    """

    scale: float
    offset: float
    residual: float
    error: float
    calibrated_error: float | None


@dataclass(frozen=True)
class FoundIds:
    """Hold the ids that searches returned, int64 (nq, k), -1 where fewer were found.

    Attributes:
        exact: by exact search on the float32 vectors that are stored, or would be.
        quantised: by exact search on what the engine's codes stand for; None where it stores float32. They are
            modelled by the codec's own uniform codes, whose recall differs little from that of the engines' codes.
        engine: by the index.
    """

    exact: IdArray
    quantised: IdArray | None
    engine: IdArray


@dataclass(frozen=True)
class Method:
    """Hold one way to store the vectors, and how well searches find in it.

    Attributes:
        name: unique in the report.
        role: what it is.
        of: the name of the codec that it belongs to; empty for uncompressed vectors and adapter.
        kind: the linear kind of a linear codec; empty for others.
        packed: whether codes of the codec are searched exactly, in a ``PackedIndex``, instead of in the engine.
        width: dimensions stored.
        bytes_per_vector: of the vectors alone, as they are searched: float32 or a code.
        index_bytes: of the whole index on disk.
        encode_seconds: to encode the base; 0 where nothing is encoded.
        build_seconds: to index it, encoding included only where packed.
        encode_queries_seconds: to encode the queries; 0 where nothing is encoded or the search does it.
        search_seconds: to search them all in one batch, the median of three runs after a warm-up.
        pair_similarity: Spearman correlation of pair scores before and after.
        scored_pairs: Spearman correlation of pair scores with those that people gave; None where not given.
        reconstruction: mean cosine between embeddings and what the codec restores; None where the original vectors
            are stored in another basis.
        scores: what scores become; None for L2, whose distances are not calibrated.
        unreached: numbers of those sampled documents that no document of their own neighbourhood finds any more.
        figures: by name, for every query (nq,): those of :func:`vaecodec.evaluation.judge`, and ``relevant@10``.
        exact: recall@10 of exact search on the float32 vectors, (nq,).
        quantised: recall@10 of exact search on the codes, (nq,); None where the engine stores float32.
        reranked: recall@10 after so many times 10 candidates of the index were scored again with the original
            vectors, (nq,).
        found: the ids; None where they were not kept.
    """

    name: str
    role: Role
    of: str
    kind: str
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
    unreached: Sequence[int]
    figures: Mapping[str, Figures]
    exact: Figures
    quantised: Figures | None
    reranked: Mapping[int, Figures]
    found: FoundIds | None


@dataclass(frozen=True)
class Rival:
    """Hold an untrained way to store vectors in as many bytes as a method, searched exactly.

    Attributes:
        of: the method that it is held against.
        name: what it is called in print, unique for each method.
        untrained: a trellis code of all dimensions, turned to their principal axes; otherwise a linear codec of the
            method's width with the method's code.
        width: dimensions stored.
        bytes_per_vector: of one code.
        figures: as those of :class:`Method`.
    """

    of: str
    name: str
    untrained: bool
    width: int
    bytes_per_vector: int
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class Run:
    """Hold everything that a report is made from.

    Attributes:
        setting: what was measured on what: JSON values only.
        truth: (nq, k) by exact search on the uncompressed vectors; None where ids were not kept.
        relevant: rows of the base that answer each query, where known.
        labels: a label for each query, where given.
        sampled: how many documents were looked at for :attr:`Method.unreached`.
        methods: uncompressed, the linear baselines, the codecs, their codes.
        rivals: what stores vectors in as many bytes without training.
        svd_curve: recall@10 by exact search on SVD latents of several widths.
    """

    setting: Mapping[str, Any]
    truth: IdArray | None
    relevant: Sequence[Sequence[int]] | None
    labels: Sequence[str] | None
    sampled: int
    methods: Sequence[Method]
    rivals: Sequence[Rival]
    svd_curve: Mapping[int, float]

    @property
    def codecs(self) -> list[str]:
        """Return the names of the codecs that are judged."""
        return [method.name for method in self.methods if method.role is Role.CODEC]

    def method(self, name: str) -> Method:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)

    def to_json(self, *, ids: bool = False) -> dict[str, Any]:
        """Return JSON values, with the ids where they are wanted; :meth:`from_json` reads them."""
        whole: dict[str, Any] = plain(asdict(self))
        if not ids:
            whole["truth"] = None
            for method in whole["methods"]:
                method["found"] = None
        return whole

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Run:
        """Read what :meth:`to_json` returned; raises ``KeyError``, ``TypeError`` or ``ValueError`` for other values."""
        return cls(
            setting=values["setting"],
            truth=_ids(values["truth"]),
            relevant=values["relevant"],
            labels=values["labels"],
            sampled=values["sampled"],
            methods=[_method(method) for method in values["methods"]],
            rivals=[Rival(**{**rival, "figures": _figures(rival["figures"])}) for rival in values["rivals"]],
            svd_curve={int(width.removeprefix("x")): value for width, value in values["svd_curve"].items()},
        )


def plain(value: Any) -> Any:
    """Turn arrays, tuples and mappings into JSON values whose keys are identifiers: ``recall_at_10``, ``x4``."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _key(key: Any) -> str:
    return f"x{key}" if isinstance(key, int) else str(key).replace("@", "_at_")


def _method(values: Mapping[str, Any]) -> Method:
    found = values["found"]
    scores = values["scores"]
    quantised = values["quantised"]
    read = {
        "role": Role(values["role"]),
        "scores": None if scores is None else Scores(**scores),
        "figures": _figures(values["figures"]),
        "exact": np.asarray(values["exact"], np.float64),
        "quantised": None if quantised is None else np.asarray(quantised, np.float64),
        "reranked": {int(key.removeprefix("x")): np.asarray(row) for key, row in values["reranked"].items()},
        "found": None
        if found is None
        else FoundIds(**{field.name: _ids(found[field.name]) for field in fields(FoundIds)}),
    }
    return Method(**{**values, **read})


def _figures(values: Mapping[str, Any]) -> dict[str, Figures]:
    return {key.replace("_at_", "@"): np.asarray(row, np.float64) for key, row in values.items()}


def _ids(rows: Any) -> Any:
    return None if rows is None else np.asarray(rows, np.int64)
