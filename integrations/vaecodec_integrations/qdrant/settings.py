"""Check the arguments that open a compressed client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vaecodec.calibration import scores_of
from vaecodec.errors import OriginalsError, UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.codecs import Codecs, CodecsArgument
from vaecodec_integrations.qdrant.layout import Originals
from vaecodec_integrations.qdrant.originals import OriginalsFile

KeptOriginals = Literal["disk"] | OriginalsFile | None

DEFAULT_RERANK = 4


@dataclass(frozen=True)
class Settings:
    """Hold the arguments that opened the client; see :class:`~vaecodec_integrations.qdrant.CompressedQdrantClient`."""

    codecs: Codecs
    originals: Originals
    file: OriginalsFile | None
    rerank: int
    calibrate: bool
    trust: bool

    @property
    def originals_id(self) -> str | None:
        """Return the id of the file of originals."""
        return None if self.file is None else self.file.id


def checked_settings(
    codec: VectorCodec | None,
    codecs: CodecsArgument,
    originals: KeptOriginals,
    rerank: int | None,
    *,
    calibrate: bool,
    trust: bool,
) -> Settings:
    """Return checked settings; see :class:`~vaecodec_integrations.qdrant.CompressedQdrantClient` for the arguments.

    Raises:
        UnsupportedRequestError: arguments that contradict each other.
        OriginalsError: a file of originals of another width than the codec's.
        NotCalibratedError: a codec file without a calibration of scores, where one is asked for.
    """
    known = Codecs(codec, codecs)
    file = originals if isinstance(originals, OriginalsFile) else None
    if file is None and originals not in (None, "disk"):
        raise UnsupportedRequestError(f"originals: expected 'disk', an OriginalsFile or None, got {originals!r}")
    if file is not None:
        if callable(codecs) or len(list(known)) != 1:
            got = "a function" if callable(codecs) else len(list(known))
            raise UnsupportedRequestError(
                f"originals: expected one codec beside a file of originals, which holds one vector per point, got "
                f"{got}; use originals='disk'"
            )
        (only,) = known
        if file.dim != only.dim:
            raise OriginalsError(f"{file.path}: expected vectors of width {only.dim}, got width {file.dim}")
    if rerank is not None and (originals is None or rerank < 1):
        raise UnsupportedRequestError(
            f"rerank: expected at least 1, and originals to re-rank with, got rerank={rerank}, originals={originals!r}"
        )
    if calibrate:
        for value in known:
            scores_of(value)
    kept = Originals.NONE if originals is None else Originals.DISK if file is None else Originals.FILE
    return Settings(known, kept, file, rerank or DEFAULT_RERANK, calibrate, trust)
