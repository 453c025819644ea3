"""Measure what codecs cost, beside uncompressed vectors and untrained baselines, on the same index.

:func:`report` reads files and writes a report. Its parts serve arrays: :func:`measure` searches and keeps figures of
every query and times, :func:`summarise` derives everything else from them, and :func:`write` renders the summary.
"""

from vaecodec_integrations.report.measure import ReportData, measure
from vaecodec_integrations.report.report import Report, ReportFiles, report, write
from vaecodec_integrations.report.run import Run
from vaecodec_integrations.report.summary import ReportSummary, summarise

__all__ = ["Report", "ReportData", "ReportFiles", "ReportSummary", "Run", "measure", "report", "summarise", "write"]
