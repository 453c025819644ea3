"""Check whether new vectors still match the training data.

Training leaves in the codec file the statistics of documents (and queries) that it held out. docs/drift.md says what
these are and why the tests are the ones they are. :class:`~vaecodec.drift.monitor.MonitoredCodec` gathers the same
statistics from what is encoded in production; :func:`~vaecodec.drift.monitor.check_files` from files.
"""

from vaecodec.drift.reference import FEWEST_REFERENCE, MOST_REFERENCE, Reference
from vaecodec.drift.statistics import Encoded, Statistic, Stream
from vaecodec.drift.verdict import ALPHA, EFFECT, FEWEST_VECTORS, DriftReport, Finding

__all__ = [
    "ALPHA",
    "EFFECT",
    "FEWEST_REFERENCE",
    "FEWEST_VECTORS",
    "MOST_REFERENCE",
    "DriftReport",
    "Encoded",
    "Finding",
    "Reference",
    "Statistic",
    "Stream",
]
