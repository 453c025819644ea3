"""Read the inputs of a report from files."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import EvaluationInputError, SourceError, UnusableDataError
from vaecodec.files.stored_json import parse_json
from vaecodec.sources import open_source
from vaecodec.sources.arrays import read_npy, read_npz
from vaecodec.steps import Steps
from vaecodec_integrations.report.run import FORMAT_VERSION, Run, ScoredPairs
from vaecodec_integrations.report.summary import summarise
from vaecodec_training.data.pair_files import read_pairs
from vaecodec_training.data.pairs import numbered_pairs

_LOG = logging.getLogger(__name__)


def read_vectors(location: str, *, queries: bool = False) -> NDArray[Any]:
    """Read all vectors of a file, folder or address that ``open_source`` reads, float (n, d); raises ``SourceError``.

    Args:
        location: where they lie.
        queries: whether they are searched with: of an HDF5 file that has it, the dataset ``test`` is read.
    """
    source = open_source(location, queries=queries)
    blocks: list[NDArray[Any]] = []
    rows, say = 0, Steps(_LOG)
    for block in source.blocks():
        say("reading %s: %s rows", source.name, f"{rows:,}")
        blocks.append(block)
        rows += len(block)
    return np.concatenate(blocks) if blocks else np.empty((0, source.dim), np.float32)


class Relevance(NamedTuple):
    """Hold the documents that answer each query.

    Attributes:
        rows: for each query the rows of the base.
        grades: for each query how well each of these answers it; None where all answer equally.
    """

    rows: list[list[int]]
    grades: list[list[float]] | None


def read_relevance(location: str, base: str, queries: str) -> Relevance:
    """Return which rows of the base answer each query.

    Args:
        location: what :func:`read_relevant` reads, or pairs as
            :func:`~vaecodec_training.data.pair_files.read_pairs` reads them.
        base, queries: where the vectors lie, whose ids a table of pairs may name.

    Raises:
        EvaluationInputError: it is neither, or does not fit base and queries.
    """
    path = Path(location)
    if path.suffix == ".json" or (path.suffix == ".npy" and _load(path).ndim == 1):
        return Relevance(read_relevant(path), None)
    try:
        sources = open_source(base), open_source(queries, queries=True)
        counts = [sum(len(block) for block in each.blocks()) if each.rows is None else each.rows for each in sources]
        pairs = numbered_pairs(read_pairs(location, *sources), *counts)
    except UnusableDataError as error:
        raise EvaluationInputError(f"relevant: {error}") from error
    rows, grades = pairs.by_query(np.arange(counts[1]), np.arange(counts[0]))
    return Relevance([each.tolist() for each in rows], None if grades is None else [each.tolist() for each in grades])


def read_relevant(path: Path) -> list[list[int]]:
    """Return the rows of the base that answer each query.

    Args:
        path: ``.npy`` with integers (nq,), one row for each query, or ``.json`` with a list of rows for each.

    Raises:
        EvaluationInputError: there is no such file, or it holds something else.
    """
    if path.suffix == ".npy":
        array = _load(path)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise EvaluationInputError(
                f"{path}: expected one integer for each query, got dtype {array.dtype} and shape {array.shape}; "
                "several for a query need a .json file with a list for each"
            )
        return [[row] for row in array.tolist()]
    try:
        lists = parse_json(_text(path))
    except ValueError as error:
        raise EvaluationInputError(f"{path}: expected .npy or JSON, got text that is neither: {error}") from error
    if not isinstance(lists, list) or not all(isinstance(rows, list) and all(map(_is_row, rows)) for rows in lists):
        raise EvaluationInputError(f"{path}: expected a JSON list that holds a list of row numbers for each query")
    return lists


def read_labels(path: Path) -> Sequence[str]:
    """Return a label for each query: ``.npy`` with strings or integers (nq,), or text with one line for each.

    Raises:
        EvaluationInputError: there is no such file, or it holds something else.
    """
    if path.suffix != ".npy":
        return _text(path).splitlines()
    array = _load(path)
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise EvaluationInputError(
            f"{path}: expected one string or integer for each query, got dtype {array.dtype} and shape {array.shape}"
        )
    return [str(label) for label in array.tolist()]


def read_scored_pairs(path: Path) -> ScoredPairs:
    """Return pairs of embeddings and how alike people found them.

    Args:
        path: ``.npz`` with float (n, d) arrays ``first`` and ``second``, and ``scores`` (n,).

    Raises:
        EvaluationInputError: there is no such file, or it holds something else.
    """
    try:
        return ScoredPairs(*read_npz(path, ("first", "second", "scores")))
    except (OSError, SourceError) as error:
        raise EvaluationInputError(f"{path}: expected a .npz file with first, second and scores: {error}") from error


def read_report(path: Path) -> Run:
    """Return what an earlier report measured, from its ``report.json``; raises ``EvaluationInputError``."""
    try:
        document = parse_json(_text(path))
        version = document["format_version"]
        if version == FORMAT_VERSION:
            run = Run.from_json(document["run"])
            for part in ("base", "queries"):  # they tell whether both reports are of the same vectors
                run.setting[part]["fingerprint"]
            with np.errstate(over="ignore", invalid="ignore"):
                json.dumps(summarise(run, run).to_json(), allow_nan=False)  # figures so large that sums overflow
            return run
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise EvaluationInputError(
            f"{path}: expected the report.json of an earlier report, got something else"
        ) from error
    raise EvaluationInputError(
        f"{path}: a report of format {version}, but this vaecodec reads {FORMAT_VERSION}; make that report again"
    )


def _is_row(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _load(path: Path) -> NDArray[Any]:
    try:
        return read_npy(path)
    except (OSError, SourceError) as error:
        raise EvaluationInputError(f"{path}: cannot be read as a .npy file: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationInputError(f"{path}: cannot be read as text: {error}") from error
