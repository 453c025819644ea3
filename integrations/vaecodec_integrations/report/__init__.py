"""What a codec costs: measured beside the uncompressed vectors and the linear baselines, on the same index.

``measure`` keeps raw ids and times, ``summarise`` derives every figure from them, and ``write`` renders the summary.
"""

from vaecodec_integrations.report.measure import Run, measure
from vaecodec_integrations.report.summarise import Summary, summarise
from vaecodec_integrations.report.write import write

__all__ = ["Run", "Summary", "measure", "summarise", "write"]
