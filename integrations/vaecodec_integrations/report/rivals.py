"""Measure untrained ways to store vectors in as many bytes as a codec does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from vaecodec.codes import Calibration, Code, CodeType
from vaecodec.evaluation import Figures, best
from vaecodec.interface import FloatArray
from vaecodec.linear import LinearCodec, LinearKind, LinearMoments
from vaecodec.sources import ArraySource, VectorSource, sample_rows
from vaecodec_integrations.report.run import Method, Rival

# Rows to calibrate codes of linear codecs on.
_RIVAL_ROWS = 20_000
_FEWEST_TRELLIS = 8  # bytes of a trellis code

Search = Callable[[LinearCodec, Code], Mapping[str, Figures]]


def best_kinds(linear: Sequence[Method]) -> list[str]:
    """Name the linear kinds that are best by at least one figure."""
    by_name = {method.kind: method.figures for method in linear}
    return sorted({best(by_name, metric) for metric in linear[0].figures})


def rivals_of_floats(method: Method, moments: LinearMoments, train: Any, search: Search) -> list[Rival]:
    """Measure what untrained codes keep in the bytes of a codec's float32 latents."""
    return _untrained(method, moments, train, search)


def rivals_of_codes(
    method: Method, code: Code | None, linear: Sequence[LinearCodec], moments: LinearMoments, train: Any, search: Search
) -> list[Rival]:
    """Measure what the same code of linear latents, and untrained codes, keep in the bytes of a code."""
    if code is None:
        return []
    rows = _rows(train)
    found = []
    for codec in linear:
        calibration = Calibration.fit(codec.encode(rows), codec.latent_metric)
        same = _same_code(calibration, code, method)
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
    return [*found, *_untrained(method, moments, train, search)]


def _same_code(calibration: Calibration, code: Code, method: Method) -> Code:
    if code.name in list(CodeType):
        return calibration.code(dtype=code.name)
    return calibration.code(bytes=method.bytes_per_vector)


def _untrained(method: Method, moments: LinearMoments, train: Any, search: Search) -> list[Rival]:
    """Return the best code of all dimensions that takes no more bytes; trellis codes need numba."""
    codec = moments.codec(len(moments.total), LinearKind.SVD)
    calibration = Calibration.fit(codec.encode(_rows(train)), codec.latent_metric)
    room = method.bytes_per_vector
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


def _rows(train: Any) -> FloatArray:
    source = train if isinstance(train, VectorSource) else ArraySource(np.asarray(train))
    return sample_rows(source, _RIVAL_ROWS, 0)
