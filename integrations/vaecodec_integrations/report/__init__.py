"""What a codec costs: measured beside the uncompressed vectors and the linear baselines, on the same index.

``measure`` keeps raw ids and times, ``summarise`` derives every figure from them, and ``write`` renders the summary.
"""

from vaecodec_integrations.report.measure import measure
from vaecodec_integrations.report.run import Run
from vaecodec_integrations.report.summary import ReportSummary, summarise
from vaecodec_integrations.report.write import write

__all__ = ["ReportSummary", "Run", "measure", "summarise", "write"]
