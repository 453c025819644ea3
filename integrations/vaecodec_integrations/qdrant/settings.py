"""How a compressed client was opened, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vaecodec.errors import OriginalsError, UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec.scores import ScoreCalibration
from vaecodec_integrations.qdrant.layout import UNNAMED, Originals
from vaecodec_integrations.qdrant.originals import OriginalsFile

KeptOriginals = Literal["disk"] | OriginalsFile | None

DEFAULT_RERANK = 4


@dataclass(frozen=True)
class Settings:
    """How the client was opened; see :class:`~vaecodec_integrations.qdrant.CompressedQdrantClient`."""

    codecs: Mapping[str, VectorCodec]
    originals: Originals
    file: OriginalsFile | None
    rerank: int
    calibrate: bool
    trust: bool


def checked_settings(
    codec: VectorCodec | None,
    codecs: Mapping[str, VectorCodec] | None,
    originals: KeptOriginals,
    rerank: int | None,
    *,
    calibrate: bool,
    trust: bool,
) -> Settings:
    """Checked settings; see :class:`~vaecodec_integrations.qdrant.CompressedQdrantClient` for the arguments.

    Raises:
        UnsupportedRequestError: arguments that contradict each other.
        OriginalsError: a file of originals of another width than the codec's.
        NotCalibratedError: a codec file without a calibration of scores, where one is asked for.
    """
    by_name = dict(codecs or {})
    if codec is not None:
        if UNNAMED in by_name:
            raise UnsupportedRequestError("codec, codecs: expected one codec for the unnamed vector, got two")
        by_name[UNNAMED] = codec
    if not by_name:
        raise UnsupportedRequestError("codec: expected a codec, or codecs by vector name, got none")
    file = originals if isinstance(originals, OriginalsFile) else None
    if file is None and originals not in (None, "disk"):
        raise UnsupportedRequestError(f"originals: expected 'disk', an OriginalsFile or None, got {originals!r}")
    if file is not None:
        if len(by_name) != 1:
            raise UnsupportedRequestError(
                f"originals: expected one codec beside a file of originals, which holds one vector per point, got "
                f"{len(by_name)}; use originals='disk'"
            )
        (only,) = by_name.values()
        if file.dim != only.dim:
            raise OriginalsError(f"{file.path}: expected vectors of width {only.dim}, got width {file.dim}")
    if rerank is not None and (originals is None or rerank < 1):
        raise UnsupportedRequestError(
            f"rerank: expected at least 1, and originals to re-rank with, got rerank={rerank}, originals={originals!r}"
        )
    if calibrate:
        for value in by_name.values():
            ScoreCalibration.of(value)
    kept = Originals.NONE if originals is None else Originals.DISK if file is None else Originals.FILE
    return Settings(by_name, kept, file, rerank or DEFAULT_RERANK, calibrate, trust)
