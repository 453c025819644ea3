"""Turn a collection into a codec that is worth using, in one call: what ``vaecodec compress`` does.

Where floats or simple codes of all dimensions fit the goal and keep nearly all neighbours, it trains nothing.
Otherwise it trains a codec and lets the gate of :func:`vaecodec_exporters.pipeline.fit` judge it, and asks the planner
how vectors should be stored, with the learned codec and every linear one to choose from. Then it measures what that
choice keeps.
Each step is a function of its own, too.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vaecodec.artifact import read_artifact
from vaecodec.calibration import CodecCalibration
from vaecodec.codec import Codec
from vaecodec.codes import CodeType
from vaecodec.errors import ArtifactError, EvaluationInputError
from vaecodec.extras import require
from vaecodec.files import write_atomically
from vaecodec.files.outputs import check_file, check_is_folder
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec.sources import ArraySource, VectorSource, open_source
from vaecodec.sources.bad_rows import OnBadRows
from vaecodec.sources.open import locate
from vaecodec.sources.parquet import ParquetSource
from vaecodec_exporters.linear import export_linear
from vaecodec_exporters.pipeline import Fitted, fit
from vaecodec_integrations.plan import Answer, Goal, GoalRequest, Plan, plan
from vaecodec_integrations.plan.candidates import Setting
from vaecodec_integrations.plan.commands import QdrantCollection
from vaecodec_integrations.plan.planner import FEWEST_QUERIES, plan_at_full_width, refuse_impossible
from vaecodec_integrations.plan.stores import StoreName, compressed_index, loaded, qdrant_bytes
from vaecodec_integrations.report import ReportData, ReportSummary, measure, summarise, write
from vaecodec_integrations.report.engines import open_engine
from vaecodec_integrations.report.engines.base import SearchEngineName
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.files import TrainingFiles
from vaecodec_training.diagnostics import BudgetWarning, TrainingWarning
from vaecodec_training.observe import Observer
from vaecodec_training.recipe import Recipe, choose_recipe

CODEC = "codec.onnx"
# Libraries that some step needs, with the extras that install them. They are checked before any work.
_NEEDED = (("torch", "train"), ("onnx", "export"), ("numba", "packed"), ("matplotlib", "report"))
_FIT, _REPORT = "fit", "report"
# Share of the rows that nothing is trained or chosen on: they are the queries of the planner and of the report. With
# few queries the share is larger, to hold out about _CONFIRMING of them, but never larger than _MOST_CONFIRMATION.
_CONFIRMATION, _CONFIRMING, _MOST_CONFIRMATION = 0.05, 80, 0.3
# If the whole interval of recall lies above this, training could gain next to nothing.
_NEARLY_ALL = 0.99
# Assume this many vectors if a collection does not say how many it holds and no limit depends on it.
_UNKNOWN_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class CompressionData(TrainingFiles):
    """Say where the vectors are stored; some documents stand in for queries where there are none."""

    def open(self, out: Path | None = None) -> Collection:
        """Check the vectors, and hold out rows to judge by; bad rows are listed beside ``out``.

        Raises:
            EvaluationInputError: too few of them are left for that.
            BadRowsError: there are bad rows, and they are not to be skipped.
        """
        return self.judged(self.sources(), out)

    def judged(self, sources: Sequence[VectorSource], out: Path | None = None) -> Collection:
        """Work as :meth:`open`, from what :meth:`sources` opened."""
        collection = self.collection(sources, out, confirmation=_share_to_judge_by)
        assert collection.confirmation is not None
        held_out = len(collection.confirmation.queries)
        if held_out < FEWEST_QUERIES:
            asked = collection.query_report or collection.report
            least = 2 * FEWEST_QUERIES / _share_to_judge_by(asked.rows)
            raise EvaluationInputError(
                f"{asked.name}: expected at least {FEWEST_QUERIES} rows that can be held out to judge by, got "
                f"{held_out} of those given; give at least {least:,.0f}"
            )
        return collection


def _share_to_judge_by(rows: int | None) -> float:
    """Return the share of so many queries that is held out to judge by."""
    few = _CONFIRMING / max(1, rows) if rows is not None else _CONFIRMATION
    return min(max(_CONFIRMATION, few), _MOST_CONFIRMATION)


@dataclass(frozen=True)
class Compressed:
    """Hold the result of a compression.

    Attributes:
        codec: the codec file to use; None where nothing fits the goal.
        answer: how vectors should be stored, and what that takes.
        plan: everything that was considered.
        fitted: the trained codec and the gate's decision; None where nothing had to be trained.
        report: folder of the report, or None where nothing was measured.
        summary: its figures.
        lines: what was gained and lost in words: the measure of it first, then what it is worth to train, then RAM.
        command: what to type next; empty where there is nothing to do.
    """

    codec: Path | None
    answer: Answer
    plan: Plan
    fitted: Fitted | None
    report: Path | None
    summary: ReportSummary | None
    lines: Sequence[str]
    command: str

    @property
    def met(self) -> bool:
        """Tell whether the goal is met."""
        return self.answer.met

    def to_json(self) -> dict[str, Any]:
        """Return the main results as JSON values; the report's folder holds every figure."""
        return {
            "met": self.met,
            "codec": None if self.codec is None else str(self.codec),
            "setting": None if self.answer.setting is None else asdict(self.answer.setting),
            "learned_ships": self.fitted is not None and self.fitted.ships,
            "report": None if self.report is None else str(self.report),
            "lines": list(self.lines),
            "command": self.command,
        }


def compress(
    data: CompressionData,
    wanted: GoalRequest,
    out: Path,
    *,
    store: StoreName = StoreName.PACKED,
    budget: float = 600.0,
    observers: Sequence[Observer] = (),
    on_step: Callable[[str], None] = lambda _: None,
) -> Compressed:
    """Train, plan, judge and export; call it again with the same ``out`` to go on after an interruption.

    Args:
        data: where the vectors lie.
        wanted: what to reach, and what it may cost.
        out: folder for ``codec.onnx``, the fit and the report.
        store: where the vectors will be kept.
        budget: seconds for all training.
        observers: of every training run.
        on_step: called with the name of each step before it is taken.

    Raises:
        UnusableDataError, InvalidVectorsError, SourceError: the vectors cannot be used.
        InvalidGoalError: a limit of RAM depends on the number of vectors, which nothing says; or no code is as small
            as the limits ask for.
        EvaluationInputError: too few queries can be held out to choose by; before anything is trained.
        CheckpointError: ``out`` holds the fit of other data or settings.
        OutputExistsError: ``out`` holds a codec that this did not write.
        MissingExtraError: a library is not installed.
    """
    for library, extra in _NEEDED:
        require(library, extra=extra)
    file = out / CODEC
    check_is_folder(out)
    if not (out / _FIT).exists():
        check_file(file, is_ours=lambda _: False, parents=True)
    on_step("reading vectors")
    sources = data.sources()
    goal = wanted.goal(sources[0], unknown=None if wanted.ram else _UNKNOWN_ROWS)
    here = replace(goal, stores=(store,))
    refuse_impossible(here, sources[0].dim)
    collection = data.judged(sources, out)
    searched, asked = _searched(collection, data)
    fitted, planned = None, _enough_untrained(searched, here, asked, data.metric, on_step)
    if planned is None:
        on_step("training")
        fitted = _fitted(collection, _recipe(collection, data, here), out / _FIT, budget, observers)
        on_step("planning")
        planned = plan(
            searched,
            here,
            queries=asked,
            codecs=[fitted.codec],
            metric=data.metric,
            on_step=lambda step: on_step(f"planning: {step}"),
        )
    (out / _FIT).mkdir(parents=True, exist_ok=True)  # the next call recognises the folder by this
    (answer,) = planned.answers
    setting = answer.setting
    if setting is None:
        lines = [f"Nothing fits {goal} in {store}."]
        return Compressed(None, answer, planned, fitted, None, None, lines, "")
    on_step("writing the codec")
    _write_codec(setting, collection, file)
    on_step("measuring")
    summary = _measured(setting, collection, file, out / _REPORT, on_step)
    lines = [summary.headline, _worth(setting, fitted), _in_ram(answer)]
    if setting.rescored and answer.recall is not None:
        lines.append(f"{store} orders what the codes find by latents on its disk: recall@{goal.k} {answer.recall:.3f}.")
    if store is StoreName.HNSWLIB:
        lines.append(instead_of_hnswlib(setting, file, data.metric))
    if goal.recall is not None:
        reached = f"recall@{goal.k} {answer.recall:.3f} of the {goal.recall:g} asked for" if answer.recall else ""
        lines.append(f"The goal is {'met' if answer.met else 'not met'}: {reached}.")
    return Compressed(
        file, answer, planned, fitted, out / _REPORT, summary, lines, next_command(data, setting, file, store)
    )


def next_command(data: CompressionData, setting: Setting, codec: Path, store: StoreName) -> str:
    """Write the command that compresses the collection: a migration where it lives, ``encode`` for a file."""
    whole = Codec.load(codec).code_dim
    width = [] if setting.width == whole else ["--dim", str(setting.width)]
    location, _ = locate(data.documents)
    collection = QdrantCollection.at(data.documents)
    skip = data.on_bad_rows is OnBadRows.SKIP
    if collection is not None:
        return shlex.join(collection.migration(str(codec), setting, qdrant_bytes(setting), width=whole, skip=skip))
    if re.match(r"postgres(ql)?://", str(location)):
        return shlex.join(["vaecodec", "migrate-pg", *_table(data.documents, setting), "--codec", str(codec), *width])
    # The other stores keep floats. Qdrant quantises them itself.
    code: list[str] = []
    if store is StoreName.PGVECTOR and setting.dtype is CodeType.FLOAT16:
        code = ["--dtype", "float16"]
    elif store is StoreName.PACKED and setting.dtype is not CodeType.FLOAT32:
        code = ["--dtype", str(setting.dtype)] if setting.dtype else ["--bytes", str(setting.code_bytes)]
    bad = ["--on-bad-rows", "skip"] if skip else []
    words = ["encode", data.documents, "--codec", str(codec), *width, *code, *bad]
    # From Parquet to Parquet: all other columns, ids among them, are copied along.
    output = "latents" if isinstance(open_source(data.documents), ParquetSource) else "latents.npy"
    return shlex.join(["vaecodec", *words, "--out", str(codec.parent / output)])


def instead_of_hnswlib(setting: Setting, codec: Path, metric: Metric) -> str:
    """Say which index takes the place of ``hnswlib.Index`` in Python."""
    part = None if setting.width == Codec.load(codec).code_dim else setting.width
    index = compressed_index(metric, setting.dim, loaded(str(codec), part))
    return (
        f"In Python, write {index} where hnswlib.Index stood. It compresses what is added and what is asked "
        "(from vaecodec_integrations.hnsw import CompressedIndex)."
    )


def _table(address: str, setting: Setting) -> list[str]:
    """Return the options of ``migrate-pg`` for the database, table, key and columns of a PostgreSQL address."""
    from vaecodec_integrations.postgres.source import PostgresSource, TableAddress  # needs psycopg

    source = open_source(address)
    assert isinstance(source, PostgresSource)
    server, table = TableAddress.parse(str(locate(address)[0]))
    kind = "halfvec" if setting.dtype is CodeType.FLOAT16 else "vector"
    key = [] if source.key in (None, "id") else ["--key", str(source.key)]
    words = ["--url", server, "--table", table, "--column", source.column, *key]
    return [*words, "--into", f"{source.column}_compressed", "--storage", kind]


def _searched(collection: Collection, data: CompressionData) -> tuple[VectorSource, VectorSource]:
    """Return what the planner searches, and with which queries.

    It searches all documents, or only those trained on where others stand in for queries.
    """
    assert collection.confirmation is not None
    queries = ArraySource(collection.confirmation.queries, name="held-out queries")
    if collection.queries is not None:
        return collection.documents, queries
    return ArraySource(collection.sample, name=data.documents), queries


def _enough_untrained(
    documents: VectorSource, goal: Goal, queries: VectorSource, metric: Metric, on_step: Callable[[str], None]
) -> Plan | None:
    """Return a plan without training where no recall is asked for and what fits keeps nearly all neighbours."""
    if goal.recall is not None:
        return None
    planned = plan_at_full_width(
        documents,
        goal,
        queries=queries,
        metric=metric,
        on_step=lambda step: on_step(f"trying what needs no training: {step}"),
    )
    kept = planned.answers[0].recall if planned is not None else None
    return planned if kept is not None and kept.low >= _NEARLY_ALL else None


def _fitted(
    collection: Collection, recipe: Recipe, folder: Path, budget: float, observers: Sequence[Observer]
) -> Fitted:
    with warnings.catch_warnings():
        # Hide the warnings of single runs. The fit's folder keeps them, and the gate judges the best run.
        warnings.simplefilter("ignore", TrainingWarning)
        warnings.simplefilter("default", BudgetWarning)
        return fit(collection, folder, budget=budget, recipe=recipe, observers=observers)


def _recipe(collection: Collection, data: CompressionData, goal: Goal) -> Recipe:
    """Return the recipe to start from: for codes, where they are so short that floats would be too few."""
    wanted, (store,) = goal.code_bytes, goal.stores
    small = wanted is not None and store is StoreName.PACKED and 8 <= wanted < collection.dim // 2
    return choose_recipe(width=collection.dim, target=str(wanted) if small else "", paired=data.pairs is not None)


def _write_codec(setting: Setting, collection: Collection, file: Path) -> None:
    """Write the chosen codec; a linear one is fitted on training documents alone, as what it is measured on is not."""
    if setting.file is not None:
        write_atomically(file, Path(setting.file).read_bytes())
    elif not _is_written(file, setting):
        codec = collection.linear(setting.width, LinearKind(setting.codec))
        calibration = CodecCalibration.fit(codec, collection.calibration_rows)
        data = {"data": collection.to_json()}
        export_linear(codec, file, provenance=data, calibration=calibration, overwrite=True)


def _is_written(file: Path, setting: Setting) -> bool:
    try:
        metadata = read_artifact(file)[1]
    except ArtifactError:
        return False
    return (metadata.provenance.get("linear"), metadata.code_dim) == (setting.codec, setting.width)


def _measured(
    setting: Setting, collection: Collection, file: Path, folder: Path, on_step: Callable[[str], None]
) -> ReportSummary:
    """Judge the setting on rows that nothing was trained or chosen on, and write the report."""
    held_out = collection.confirmation
    assert held_out is not None
    codec = Codec.load(file, dim=setting.width)
    relevant = None if held_out.relevant is None else [rows.tolist() for rows in held_out.relevant]
    run = measure(
        ReportData(
            base=held_out.documents,
            queries=held_out.queries,
            train=collection.sample,
            relevant=relevant,
            grades=None if held_out.grades is None else [each.tolist() for each in held_out.grades],
        ),
        {file.name: codec},
        open_engine(SearchEngineName.EXACT),
        budgets=[] if setting.dtype else [setting.code_bytes],
        dtypes=[] if setting.dtype in (None, CodeType.FLOAT32) else [setting.dtype],
        on_method=lambda name: on_step(f"measuring: {name}"),
    )
    summary = summarise(run, chosen=run.methods[-1].name, trained=setting.file is not None)
    write(folder, run, summary)
    return summary


def _in_ram(answer: Answer) -> str:
    """Say what a vector takes with its index, of which the codec makes only the vector smaller."""
    place = "a PackedIndex" if answer.store is StoreName.PACKED else answer.store
    whole, left = answer.uncompressed_ram_bytes, answer.ram_bytes
    return f"Searched in {place}, a vector takes {left:,} bytes of RAM with its index, instead of {whole:,}."


def _worth(setting: Setting, fitted: Fitted | None) -> str:
    """Say in words which of the tried ways is worth using."""
    kept = f"{setting.width} x {setting.dtype}" if setting.dtype else f"codes of {setting.code_bytes} bytes"
    if setting.file is not None and fitted is not None:
        if fitted.ships:
            return f"Training pays here: the learned codec, kept as {kept}, is the best of what fits. {fitted.lines[0]}"
        return f"Training does not pay here: the codec is {fitted.linear}, which needs none. {fitted.lines[0]}"
    # The user waited for the training: say what came of it.
    tried = "" if fitted is None else f" Training was tried, too. {fitted.search.finding}"
    if setting.width == setting.dim:
        return f"No training is needed: {kept} of all dimensions are enough.{tried}"
    if setting.codec.startswith("truncation"):
        return f"No training is needed: the first {setting.width} dimensions are enough, kept as {kept}.{tried}"
    return f"No training is needed: a linear codec ({setting.codec}) is enough, kept as {kept}.{tried}"
