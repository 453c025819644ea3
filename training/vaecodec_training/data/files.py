"""Say where the vectors to train on are stored, and open them as a collection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaecodec.sources import VectorSource
from vaecodec.sources.bad_rows import list_path
from vaecodec.sources.files import VectorFiles
from vaecodec_training.data.collection import Collection, held_out_share
from vaecodec_training.data.pair_files import read_pairs
from vaecodec_training.recipe import Aim


@dataclass(frozen=True, kw_only=True)
class TrainingFiles(VectorFiles):
    """Say where the vectors to train on are stored.

    The attributes not listed are those of :class:`~vaecodec.sources.files.VectorFiles`.

    Attributes:
        pairs: which document answers which query, as :func:`~vaecodec_training.data.pair_files.read_pairs` reads them.
        embedder: name of the embedding model, kept in the codec's file.
    """

    pairs: str | None = None
    embedder: str = ""

    def collection(
        self,
        sources: Sequence[VectorSource],
        out: Path | None = None,
        *,
        objective: Aim = Aim.NEIGHBOURS,
        confirmation: float | Callable[[int | None], float] = 0.0,
    ) -> Collection:
        """Check the vectors and hold rows out; bad rows are listed beside ``out``.

        Args:
            sources: what :meth:`sources` opened.
            out: the output that the list of bad rows belongs to.
            objective: what will be trained for; see :func:`~vaecodec_training.data.collection.held_out_share`.
            confirmation: share of the rows to hold out for one look at the end; or a function that returns it for the
                number of good queries, or of documents where there are no queries.

        Raises:
            BadRowsError: there are bad rows, and the policy is to report them.
            UnusableDataError, InvalidVectorsError, SourceError: see :meth:`Collection.open`.
        """
        # Pairs count the rows of the files, bad rows included.
        known = None if self.pairs is None else read_pairs(self.pairs, *sources)
        documents, queries = self.good(sources, None if out is None else list_path(out))
        return Collection.open(
            documents,
            queries,
            pairs=known,
            metric=self.metric,
            embedder=self.embedder,
            validation=None if documents.rows is None else held_out_share(documents.rows, objective),
            confirmation=confirmation((queries or documents).rows) if callable(confirmation) else confirmation,
        )
