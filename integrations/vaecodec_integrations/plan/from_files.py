"""Plan from files in one call: all of ``vaecodec plan``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vaecodec.sources.files import VectorFiles
from vaecodec_integrations.plan.goal import GoalRequest
from vaecodec_integrations.plan.planner import SAMPLE_ROWS, Plan, check_codecs, plan


def plan_files(
    data: VectorFiles,
    wanted: GoalRequest,
    *,
    codecs: Sequence[Path] = (),
    rows: int = SAMPLE_ROWS,
    on_step: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Open the files and find the cheapest way to store their vectors that meets a goal.

    Args:
        data: where documents and queries are stored.
        wanted: what to reach.
        codecs: codec files to consider beside the linear codecs.
        rows: documents in the sample.
        on_step: called with the name of each step before it is taken.

    Raises:
        InvalidGoalError: the documents do not say how many they are, and ``wanted`` does not either.
        EvaluationInputError, InvalidVectorsError, SourceError, NotCalibratedError: see :func:`plan`.
        BadRowsError: there are bad rows, and the policy is to report them.
    """
    sources = data.sources()
    goal = wanted.goal(sources[0])
    check_codecs(codecs, sources[0].dim, data.metric, queries=data.queries is not None)  # check before rows are read
    documents, queries = data.good(sources)
    return plan(
        documents,
        goal,
        queries=queries,
        codecs=codecs,
        metric=data.metric,
        rows=rows,
        location=data.documents,
        on_step=on_step,
    )
