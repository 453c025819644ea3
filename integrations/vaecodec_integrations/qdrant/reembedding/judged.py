"""Read queries whose answers are known, with the vectors that the old embedding model gave them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.errors import UnusableDataError
from vaecodec.files.stored_json import parse_object
from vaecodec_integrations.qdrant.reembedding.estimate import JudgedQueries
from vaecodec_integrations.qdrant.reembedding.job import point_id


def read_judged(path: str | os.PathLike[str]) -> JudgedQueries:
    """Read a query in each line, a JSON object: ``{"text": "...", "vector": [0.1, ...], "ids": [17, ...]}``.

    ``text`` is what was asked, ``vector`` what the old model made of it, and ``ids`` the points that answer it:
    integers or UUIDs, at least one.

    Raises:
        UnusableDataError: a line is something else, or there is none.
        OSError: the file cannot be read.
    """
    lines = Path(path).read_text(encoding="utf-8-sig", errors="backslashreplace").split("\n")
    texts: list[str] = []
    vectors: list[list[float]] = []
    answers: list[list[int | str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            text, vector, ids = _query(line)
        except ValueError as error:
            raise UnusableDataError(
                f'{where}: expected a query such as {{"text": "what was asked", "vector": [0.1, -0.2], "ids": [17]}}, '
                f"got {error}"
            ) from None
        if vectors and len(vector) != len(vectors[0]):
            raise UnusableDataError(
                f"{where}: expected a vector of {len(vectors[0])} numbers, as in the lines before, got {len(vector)}"
            )
        texts.append(text)
        vectors.append(vector)
        answers.append([point_id(str(one), where) for one in ids])
    if not texts:
        raise UnusableDataError(f"{path}: expected a query in each line, got none")
    return JudgedQueries(texts, np.array(vectors, np.float32), answers)


def _query(line: str) -> tuple[str, list[float], list[int | str]]:
    """Return a query's text, vector and answers; raise ``ValueError`` if one is missing or of another kind."""
    query = parse_object(line)
    for key in ("text", "vector", "ids"):
        if key not in query:
            raise ValueError(f"none with {key!r}")
    text, vector, ids = query["text"], query["vector"], query["ids"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"text {text!r}")
    if not _list_of(vector, int, float):
        raise ValueError(f"vector {vector!r}")
    if not _list_of(ids, int, str):
        raise ValueError(f"ids {ids!r}")
    return text, vector, ids


def _list_of(values: Any, *kinds: type) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(type(value) in kinds for value in values)
