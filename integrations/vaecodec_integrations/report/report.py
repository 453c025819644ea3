"""Turn files of vectors and codecs into a report on disk in one call: what ``vaecodec report`` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaecodec.codec import Codec
from vaecodec.codes import CodeType
from vaecodec.errors import InvalidOptionError, WrongWidthError
from vaecodec.extras import require
from vaecodec.files import write_atomically
from vaecodec.files.outputs import check_file, check_is_folder
from vaecodec.files.stored_json import parse_json
from vaecodec.sources import open_source
from vaecodec_integrations.report.engines import open_engine
from vaecodec_integrations.report.engines.base import SearchEngineName
from vaecodec_integrations.report.inputs import (
    read_labels,
    read_relevance,
    read_report,
    read_scored_pairs,
    read_vectors,
)
from vaecodec_integrations.report.markdown import markdown
from vaecodec_integrations.report.measure import ReportData, codings, measure
from vaecodec_integrations.report.page import page
from vaecodec_integrations.report.picture import pictures
from vaecodec_integrations.report.run import FORMAT_VERSION, Run
from vaecodec_integrations.report.summary import ReportSummary, summarise
from vaecodec_integrations.report.tables import Table, tables


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Name the files of a report: vectors, codecs and what is known of them.

    Attributes:
        base: what is indexed: a file or address that :func:`vaecodec.sources.open_source` reads.
        queries: what is searched with, the same; of an HDF5 file that has it, the dataset ``test``.
        codecs: codec files to judge.
        dim: width of their latents, where the files have several.
        adapter: a codec file of all dimensions from the same training, the opponent of codecs trained on pairs.
        train: what the linear baselines are fitted on; the base by default, which favours them.
        relevant: which rows of the base answer each query; see
            :func:`~vaecodec_integrations.report.inputs.read_relevance`.
        labels: the slice of each query; see :func:`~vaecodec_integrations.report.inputs.read_labels`.
        scored_pairs: pairs whose similarity people scored; see
            :func:`~vaecodec_integrations.report.inputs.read_scored_pairs`.
        earlier: ``report.json`` of an earlier report, to show what changed.
    """

    base: str
    queries: str
    codecs: Sequence[Path]
    dim: int | None = None
    adapter: Path | None = None
    train: str | None = None
    relevant: str | None = None
    labels: Path | None = None
    scored_pairs: Path | None = None
    earlier: Path | None = None

    def data(self) -> ReportData:
        """Read everything but the codecs."""
        known = None if self.relevant is None else read_relevance(self.relevant, self.base, self.queries)
        return ReportData(
            relevant=None if known is None else known.rows,
            grades=None if known is None else known.grades,
            labels=None if self.labels is None else read_labels(self.labels),
            scored_pairs=None if self.scored_pairs is None else read_scored_pairs(self.scored_pairs),
            base=read_vectors(self.base),
            queries=read_vectors(self.queries, queries=True),
            train=None if self.train is None else read_vectors(self.train),
        )

    def check_widths(self, dim: int) -> None:
        """Check, by what the files say of themselves, that the codecs are for such embeddings.

        Raises:
            WrongWidthError: they are not.
        """
        for location, queries in ((self.base, False), (self.queries, True), (self.train, False)):
            if location is None:
                continue
            source = open_source(location, queries=queries)
            if source.dim != dim and source.rows != 0:
                raise WrongWidthError(f"{source.name}: expected rows of width {dim}, as the codec's, got {source.dim}")

    def open_codecs(self) -> dict[str, Codec]:
        """Load the codecs, by the names that they have in the report."""
        width = "" if self.dim is None else f" at {self.dim}"
        opened = {}
        for path in self.codecs:
            # Files in different folders may have the same name.
            name = path.name if [other.name for other in self.codecs].count(path.name) == 1 else str(path)
            if f"{name}{width}" in opened:
                raise InvalidOptionError(f"codec: expected different files, got {path} twice")
            opened[f"{name}{width}"] = Codec.load(path, dim=self.dim)
        return opened


@dataclass(frozen=True)
class Report:
    """Hold a report that was written.

    Attributes:
        folder: where ``report.html``, ``report.md``, ``report.json`` and the pictures lie.
        run: what was measured.
        summary: what it means.
    """

    folder: Path
    run: Run
    summary: ReportSummary

    @property
    def tables(self) -> list[Table]:
        """Return everything that is shown in tables, in order."""
        return tables(self.summary, self.run)


def report(
    files: ReportFiles,
    out: Path,
    *,
    engine: SearchEngineName = SearchEngineName.EXACT,
    budgets: Sequence[int] = (),
    dtypes: Sequence[CodeType] = (),
    keep_ids: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure what codecs cost, beside uncompressed vectors and what needs no training, and write a report.

    Args:
        files: what is measured.
        out: folder to write; a report that is there is replaced.
        engine: what the vectors are indexed in.
        budgets: bytes per vector at which the codecs' codes are measured too.
        dtypes: uniform codes that are measured too, by the engine itself where it has them.
        keep_ids: whether ``report.json`` holds the ids that every search returned.
        on_step: called with the name of each step before it is taken.

    Raises:
        OutputExistsError: ``out`` is a file, or holds such files that no report wrote.
        EvaluationInputError, SourceError, InvalidVectorsError, ArtifactError: a file cannot be used;
            nothing was written.
        InvalidBudgetError, NotCalibratedError: a codec has no code of that many bytes.
        InvalidOptionError: a codec, a number of bytes or a type is given twice.
        MissingExtraError: the engine's library, matplotlib or Jinja2 is not installed.
    """
    require("matplotlib", extra="report")
    require("jinja2", extra="report")
    _check_out(out)
    measured_on = open_engine(engine)
    codecs = files.open_codecs()
    adapter = None if files.adapter is None else Codec.load(files.adapter)
    earlier = None if files.earlier is None else read_report(files.earlier)
    codings(codecs, measured_on, budgets=budgets, dtypes=dtypes, adapter=adapter)  # checked before the vectors are read
    files.check_widths(next(iter(codecs.values())).dim)
    on_step("reading vectors")
    run = measure(
        files.data(),
        codecs,
        measured_on,
        budgets=budgets,
        dtypes=dtypes,
        adapter=adapter,
        on_method=lambda name: on_step(f"measuring {name}"),
    )
    on_step("writing the report")
    summary = summarise(run, earlier)
    write(out, run, summary, ids=keep_ids)
    return Report(out, run, summary)


def _check_out(out: Path) -> None:
    """Refuse a file, and a folder with files of somebody else under a report's names."""
    check_is_folder(out)
    if not _is_report(out / "report.json"):
        for name in ("report.json", "report.html", "report.md"):
            check_file(out / name, is_ours=lambda _: False, parents=True)


def _is_report(path: Path) -> bool:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"format_version", "summary", "run"} <= document.keys()


def write(folder: Path, run: Run, summary: ReportSummary, *, ids: bool = False) -> None:
    """Write a report; one that was there is replaced.

    Everything is rendered before the first file is written, and each file appears whole.
    """
    shown = tables(summary, run)
    drawn = pictures(summary)
    document = {"format_version": FORMAT_VERSION, "summary": summary.to_json(), "run": run.to_json(ids=ids)}
    text = markdown(
        summary.headline, summary.judgements, shown, [(f"{picture.name}.png", picture.shows) for picture in drawn]
    )
    files = {f"{picture.name}.png": picture.png for picture in drawn}
    files["report.md"] = text.encode()
    files["report.html"] = page(summary.headline, summary.judgements, shown, drawn).encode()
    files["report.json"] = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
