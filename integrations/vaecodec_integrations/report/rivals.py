"""Measure untrained ways to store vectors in as many bytes as a codec does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from vaecodec.codes import Calibration, Code, CodeType
from vaecodec.codes.residual import ResidualCode
from vaecodec.evaluation import Figures, best
from vaecodec.linear import LinearCodec, LinearKind, LinearMoments
from vaecodec.sources import ArraySource, VectorSource, sample_rows
from vaecodec_integrations.report.run import Method, Rival

# Rows to calibrate codes of linear codecs on.
_RIVAL_ROWS = 20_000
_FEWEST_TRELLIS = 8  # bytes of a trellis code
# Up to so many bytes stages before the trellis find more; larger codes gain next to nothing by them.
_MOST_STAGED = 128

Search = Callable[[LinearCodec, Code], Mapping[str, Figures]]


class LinearCodes:
    """Fit the codes of linear codecs on training rows, each once."""

    def __init__(self, train: Any) -> None:
        source = train if isinstance(train, VectorSource) else ArraySource(np.asarray(train))
        self._rows = sample_rows(source, _RIVAL_ROWS, 0)
        self._fitted: dict[tuple[str, int, bool], Calibration] = {}

    def of(self, codec: LinearCodec, *, staged: bool) -> Calibration:
        """Return the codes of a codec, with stages where they are asked for and the rows are enough for them."""
        key = (str(codec.kind), codec.code_dim, staged)
        if key not in self._fitted:
            latents = codec.encode(self._rows)
            fitted = Calibration.fit(latents, codec.latent_metric)
            self._fitted[key] = fitted.with_residual(latents) if staged else fitted
        return self._fitted[key]


def best_kinds(linear: Sequence[Method]) -> list[str]:
    """Name the linear kinds that are best by at least one figure."""
    by_name = {method.kind: method.figures for method in linear}
    return sorted({best(by_name, metric) for metric in linear[0].figures})


def rivals_of_floats(method: Method, moments: LinearMoments, codes: LinearCodes, search: Search) -> list[Rival]:
    """Measure what untrained codes keep in the bytes of a codec's float32 latents."""
    return _untrained(method, moments, codes, search)


def rivals_of_codes(
    method: Method,
    code: Code | None,
    linear: Sequence[LinearCodec],
    moments: LinearMoments,
    codes: LinearCodes,
    search: Search,
) -> list[Rival]:
    """Measure what the same code of linear latents, and untrained codes, keep in the bytes of a code."""
    if code is None:
        return []
    found, staged = [], isinstance(code, ResidualCode)
    for codec in _that_differ(linear, moments) if staged else linear:
        same = _same_code(codes.of(codec, staged=staged), code, method)
        found.append(
            Rival(
                of=method.name,
                name=f"{codec.kind}, {codec.code_dim} x the same code",
                untrained=False,
                width=codec.code_dim,
                bytes_per_vector=same.bytes_per_vector,
                figures=search(codec, same),
            )
        )
    return [*found, *_untrained(method, moments, codes, search)]


def _that_differ(linear: Sequence[LinearCodec], moments: LinearMoments) -> list[LinearCodec]:
    """Return one codec for all whose codes with stages are the same, since a fit of them takes up to minutes.

    At full width all but PCA only turn the vectors, and centroids and the axes of the rest are turned along. The SVD
    stands for them, as the untrained codes are made of it.
    """
    turning = (LinearKind.SVD, LinearKind.SVD_DOT, LinearKind.TRUNCATION, LinearKind.TRUNCATION_DOT)
    others = [codec for codec in linear if codec.code_dim < codec.dim or codec.kind not in turning]
    if len(others) == len(linear):
        return others
    return [moments.codec(len(moments.total), LinearKind.SVD), *others]


def _same_code(calibration: Calibration, code: Code, method: Method) -> Code:
    if code.name in list(CodeType):
        return calibration.code(dtype=code.name)
    return calibration.code(bytes=method.bytes_per_vector)


def _untrained(method: Method, moments: LinearMoments, codes: LinearCodes, search: Search) -> list[Rival]:
    """Return the best code of all dimensions that takes no more bytes; trellis codes need numba."""
    codec = moments.codec(len(moments.total), LinearKind.SVD)
    room = method.bytes_per_vector
    calibration = codes.of(codec, staged=room <= _MOST_STAGED)
    name, code = CodeType.INT8.value, calibration.code(dtype=CodeType.INT8)
    if code.bytes_per_vector > room and find_spec("numba") and room >= _FEWEST_TRELLIS:
        name, code = "trellis", calibration.code(bytes=min(room, calibration.trellis.largest(codec.dim)))
    for dtype in (CodeType.INT4, CodeType.INT2, CodeType.BINARY):
        if code.bytes_per_vector > room:
            name, code = dtype.value, calibration.code(dtype=dtype)
    if code.bytes_per_vector > room:
        return []
    name = f"untrained {name} codes of {code.bytes_per_vector} bytes"
    return [Rival(method.name, name, True, codec.code_dim, code.bytes_per_vector, search(codec, code))]
