"""Say where documents and queries are stored, and open both with one policy for bad rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vaecodec.interface import Metric
from vaecodec.sources.bad_rows import OnBadRows, without_bad_rows
from vaecodec.sources.base import VectorSource
from vaecodec.sources.open import open_source


@dataclass(frozen=True, kw_only=True)
class VectorFiles:
    """Say where documents and queries are stored.

    Attributes:
        documents: embeddings: a file or address that :func:`vaecodec.sources.open_source` reads.
        queries: embeddings of queries, likewise; None where there are none.
        metric: how the embeddings are compared.
        on_bad_rows: what to do with rows that hold NaN, have no direction or no vector.
    """

    documents: str
    queries: str | None = None
    metric: Metric = Metric.COSINE
    on_bad_rows: OnBadRows = OnBadRows.FAIL

    def sources(self) -> list[VectorSource]:
        """Open documents and, if there are some, queries; only headers are read.

        Raises:
            SourceError: one of its subclasses.
        """
        lenient = self.on_bad_rows is not OnBadRows.FAIL
        opened = [open_source(self.documents, bad_rows=lenient)]
        if self.queries is not None:
            opened.append(open_source(self.queries, queries=True, bad_rows=lenient))
        return opened

    def good(
        self, sources: Sequence[VectorSource], listed: Path | None = None
    ) -> tuple[VectorSource, VectorSource | None]:
        """Return documents and queries without their bad rows, as the policy says.

        Args:
            sources: what :meth:`sources` opened.
            listed: the file that lists bad rows; by default only the first ten are named in the message.

        Raises:
            BadRowsError: there are bad rows, and the policy is to report them.
        """
        documents, *rest = without_bad_rows(sources, self.metric, self.on_bad_rows, listed)
        return documents, rest[0] if rest else None
