"""Choose a way to store vectors on some queries, and confirm it on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaecodec.codec import Codec
from vaecodec.errors import EvaluationInputError, InvalidGoalError, InvalidOptionError
from vaecodec.evaluation import Interval, bootstrap, exact_search, paired_bootstrap, recall_among
from vaecodec.interface import FloatArray, Metric
from vaecodec.sources import VectorSource, sample_rows
from vaecodec.vectors import as_compared, as_vectors
from vaecodec_integrations.plan.candidates import PlanSample, Setting, TriedSetting, candidates, linear_candidates
from vaecodec_integrations.plan.goal import Goal
from vaecodec_integrations.plan.stores import STORES, Store, StoreName, Use
from vaecodec_integrations.plan.trial import Trial, try_out

# Documents to search: intervals of about half a point of recall either way, in a minute or two on one core.
SAMPLE_ROWS = 20_000
_MOST_SAMPLE = 10_000_000
# Linear codecs are fitted on more, as `vaecodec linear` fits them on all: on so many values, but not more rows.
_FITTED_VALUES, _FITTED_ROWS = 64_000_000, 100_000
_MOST_QUERIES = 2_000
FEWEST_QUERIES = 40
_HELD_OUT = 0.1
# Settings to try in each store's own engine: the cheapest that exact search finds good enough, then dearer ones.
_TRIALS = 4


@dataclass(frozen=True)
class Option:
    """Hold a setting with its re-ranking, and its figures on the choosing queries."""

    setting: Setting
    oversample: int
    recall: float


@dataclass(frozen=True)
class Answer:
    """Hold the cheapest setting for one store that meets the goal, or the one that comes nearest to it.

    Attributes:
        store: where vectors are kept.
        met: whether the goal is met, also by the store itself on the confirming queries; where it could not be tried,
            a recall that was asked for is not promised.
        setting, oversample: what was chosen; no setting where nothing fits the limits.
        recall: mean recall@k with its 95 % interval, by exact search, on the confirming queries.
        per_doubling: what the last doubling of the sample cost in recall@k, with its 95 % interval.
        ram_bytes, disk_bytes: for one vector, index included.
        uncompressed_ram_bytes: the same for a float32 vector as it is.
        trial: what the store itself gave, where its library is installed.
        instructions: a command and Python that set it up.
    """

    store: StoreName
    met: bool
    setting: Setting | None = None
    oversample: int = 1
    recall: Interval | None = None
    per_doubling: Interval | None = None
    ram_bytes: int = 0
    disk_bytes: int = 0
    uncompressed_ram_bytes: int = 0
    trial: Trial | None = None
    instructions: str = ""


@dataclass(frozen=True)
class Plan:
    """Hold an answer for each store, and the basis of the answers.

    Attributes:
        goal: what was asked for.
        documents, dim: shape of what was searched.
        sampled_from: how many documents there are where a sample of them was searched; otherwise None.
        choosing, confirming: how many queries.
        held_out: whether the queries are documents that were taken out of the sample.
        answers: one for each store.
        options: everything that was looked at.
    """

    goal: Goal
    documents: int
    dim: int
    sampled_from: int | None
    choosing: int
    confirming: int
    held_out: bool
    answers: Sequence[Answer]
    options: Sequence[Option]

    @property
    def met(self) -> bool:
        """Tell whether the goal is met anywhere."""
        return any(answer.met for answer in self.answers)


def plan(
    data: VectorSource,
    goal: Goal,
    *,
    queries: VectorSource | None = None,
    codecs: Sequence[Path] = (),
    metric: Metric = Metric.COSINE,
    rows: int = SAMPLE_ROWS,
    location: str = "",
    on_step: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Find the cheapest way to store vectors that meets a goal.

    Every codec, width, code and amount of re-ranking is searched exactly in a sample of the documents. One half of the
    queries ranks them; the other half confirms, from the most precise down to the first that its 95 % interval does not
    put wholly above the target (fixed-sequence testing, as in Angelopoulos et al., arXiv 2110.01052): the
    chance that the answer misses the target is then at most 2.5 %, however many settings there are.

    Args:
        data: the documents' embeddings.
        goal: what to reach, and what it may take.
        queries: embeddings to search with, which no codec was trained on; by default a tenth of the sampled documents,
            which are then not searched.
        codecs: codec files to consider beside the linear codecs.
        metric: how the embeddings are compared.
        rows: documents in the sample.
        location: where the documents lie, with their column, for the instructions; by default the source's name.
        on_step: called with the name of each step before it is taken.

    Raises:
        EvaluationInputError: too few rows, or codec files that do not fit the data.
        InvalidVectorsError: naming the first bad row of the sample.
        SourceError: a source is malformed.
        NotCalibratedError: a codec file holds no calibration for codes.
    """
    check_codecs(codecs, data.dim, metric, queries=queries is not None)
    on_step("reading vectors")
    sample = draw(data, queries, goal.k, metric, rows)

    def considered(factors: Sequence[int], wanted: Callable[[Setting], bool]) -> Iterator[TriedSetting]:
        return candidates(sample, codecs, factors, wanted, on_step)

    return _planned(considered, goal, sample, queries is None, location or data.name, on_step)


def plan_at_full_width(
    data: VectorSource,
    goal: Goal,
    *,
    queries: VectorSource | None = None,
    metric: Metric = Metric.COSINE,
    rows: int = SAMPLE_ROWS,
    on_step: Callable[[str], None] = lambda _: None,
) -> Plan | None:
    """Plan with floats and uniform codes of all dimensions alone: seconds instead of minutes.

    See :func:`plan` for arguments and errors. Returns None where the goal leaves no room for a code of eight bits.
    """
    if _most_bytes(goal) < data.dim:
        return None
    on_step("reading vectors")
    sample = draw(data, queries, goal.k, metric, rows)

    def considered(factors: Sequence[int], wanted: Callable[[Setting], bool]) -> Iterator[TriedSetting]:
        def uniform(setting: Setting) -> bool:
            return setting.dtype is not None and wanted(setting)

        return linear_candidates(sample, [data.dim], factors, uniform, on_step)

    return _planned(considered, goal, sample, queries is None, data.name, on_step)


def refuse_impossible(goal: Goal, dim: int) -> None:
    """Raise ``InvalidGoalError`` where no store that is asked for can hold vectors of this width within the limits."""
    stores = [store for store in STORES if store.name in goal.stores]
    code_bytes, ram = (min(least) for least in zip(*(store.least(dim) for store in stores), strict=True))
    names = " or ".join(store.name for store in stores)
    if goal.code_bytes is not None and goal.code_bytes < code_bytes:
        saved = f"saves {int(100 * (1 - code_bytes / (4 * dim)))}%"
        raise InvalidGoalError(
            f"bytes: expected at least {code_bytes} for a vector in {names} ({saved}), got {goal.code_bytes}"
        )
    if goal.ram_bytes is not None and goal.ram_bytes < ram * goal.vectors:
        raise InvalidGoalError(
            f"ram: expected at least {ram * goal.vectors / 1e9:,.3g} GB for {goal.vectors:,} vectors in {names}, where "
            f"the smallest takes {ram} bytes with its index, got {goal.ram_bytes / 1e9:,.3g} GB"
        )


def _most_bytes(goal: Goal) -> float:
    return min(goal.code_bytes or np.inf, (goal.ram_bytes or np.inf) / goal.vectors)


def _planned(
    considered: Callable[[Sequence[int], Callable[[Setting], bool]], Iterable[TriedSetting]],
    goal: Goal,
    sample: PlanSample,
    held_out: bool,
    location: str,
    on_step: Callable[[str], None],
) -> Plan:
    """Answer for each store; ``considered`` takes the amounts of re-ranking and which settings are wanted."""
    factors = sorted({1, goal.rerank, *(1 << power for power in range(1, goal.rerank.bit_length()))})
    most = _most_bytes(goal)
    stores = [store for store in STORES if store.name in goal.stores]

    def wanted(setting: Setting) -> bool:
        return setting.code_bytes <= most and any(store.holds(setting) for store in stores)

    offered = choices(considered(factors, wanted), factors, sample)
    answers = []
    for store in stores:
        on_step(f"choosing for {store.name}")
        answers.append(_answer(store, offered, goal, sample, location))
    return Plan(
        goal=goal,
        documents=len(sample.base),
        dim=sample.base.shape[1],
        sampled_from=sample.sampled_from,
        choosing=len(sample.choosing),
        confirming=len(sample.confirming),
        held_out=held_out,
        answers=answers,
        options=[Option(choice.candidate.setting, choice.oversample, choice.recall) for choice in offered],
    )


@dataclass(frozen=True, eq=False)
class Choice:
    """Hold a candidate with re-ranking of ``oversample`` times k, and its recall on the choosing queries."""

    candidate: TriedSetting
    oversample: int
    recall: float


def choices(considered: Iterable[TriedSetting], factors: Sequence[int], sample: PlanSample) -> list[Choice]:
    """Return every candidate with every amount of re-ranking."""
    return [
        Choice(candidate, factor, float(candidate.recalls[factor][sample.choosing].mean()))
        for candidate in considered
        for factor in factors
    ]


@dataclass(frozen=True, eq=False)
class EnoughByExactSearch:
    """Hold the choices that are good enough for a store by exact search.

    Attributes:
        met: whether any choice meets the goal.
        choices: those that do, cheapest first; or the one that comes nearest.
    """

    met: bool
    choices: Sequence[Choice]


def choose(store: Store, offered: Sequence[Choice], goal: Goal, sample: PlanSample) -> EnoughByExactSearch | None:
    """Find the choices for a store that meet the goal by exact search, or what comes nearest.

    None where nothing fits the limits. :func:`plan` says how they are chosen.
    """

    def price(choice: Choice) -> tuple[float, ...]:
        setting = choice.candidate.setting
        # At the same price prefer fewer reads of originals, then the higher recall.
        return store.ram(setting), store.disk(setting, choice.oversample), choice.oversample, -choice.recall

    affordable = [
        choice
        for choice in sorted(offered, key=price)
        if store.holds(choice.candidate.setting)
        and (goal.ram_bytes is None or store.ram(choice.candidate.setting) * goal.vectors <= goal.ram_bytes)
    ]
    # Each of these finds more than all that cost the same or less.
    frontier: list[Choice] = []
    for choice in affordable:
        if not frontier or choice.recall > frontier[-1].recall:
            frontier.append(choice)
    if not frontier:
        return None
    if goal.recall is None:
        return EnoughByExactSearch(True, frontier[-1:])
    enough: list[Choice] = []
    for choice in reversed(frontier):
        if _confirmed(choice, sample).low < goal.recall:
            break
        enough.insert(0, choice)
    return EnoughByExactSearch(bool(enough), enough or frontier[-1:])


def _tried(
    found: EnoughByExactSearch, store: Store, goal: Goal, sample: PlanSample
) -> tuple[Choice, bool, Trial | None]:
    """Take the cheapest choice whose own trial reaches the target; without one that does, the goal is not met."""
    trials = []
    for choice in found.choices[:_TRIALS]:
        trial = try_out(store.name, choice.candidate, choice.oversample, sample)
        if goal.recall is None or not found.met or trial is None:
            # Do not promise what was not tried.
            return choice, found.met and (goal.recall is None or trial is not None), trial
        if trial.recall.mean >= goal.recall:
            return choice, True, trial
        trials.append((trial.recall.mean, choice, trial))
    _, choice, trial = max(trials, key=lambda tried: tried[0])
    return choice, False, trial


def _answer(store: Store, offered: Sequence[Choice], goal: Goal, sample: PlanSample, data: str) -> Answer:
    found = choose(store, offered, goal, sample)
    if found is None:
        return Answer(store.name, met=False)
    chosen, met, trial = _tried(found, store, goal, sample)
    setting = chosen.candidate.setting
    use = Use(data, sample.metric, goal.vectors, goal.k, chosen.oversample)
    return Answer(
        store=store.name,
        met=met,
        setting=setting,
        oversample=chosen.oversample,
        recall=_confirmed(chosen, sample),
        per_doubling=_per_doubling(chosen, sample),
        ram_bytes=store.ram(setting),
        disk_bytes=store.disk(setting, chosen.oversample),
        uncompressed_ram_bytes=store.uncompressed(setting.dim),
        trial=trial,
        instructions=store.instructions(setting, use),
    )


def _confirmed(choice: Choice, sample: PlanSample) -> Interval:
    return bootstrap(choice.candidate.recalls[choice.oversample][sample.confirming])


def _per_doubling(choice: Choice, sample: PlanSample) -> Interval:
    """Return recall in every second document minus recall in all: neighbours lie closer in a larger collection."""
    candidate, k = choice.candidate, sample.truth.shape[1]
    base, queries = sample.base[::2], sample.queries[sample.confirming]
    truth = exact_search(base, queries, k, sample.metric)[0]
    ids = candidate.found(base, queries, k * choice.oversample)
    return paired_bootstrap(recall_among(ids, truth), candidate.recalls[choice.oversample][sample.confirming])


def draw(
    data: VectorSource, queries: VectorSource | None, k: int, metric: Metric, rows: int, seed: int = 0
) -> PlanSample:
    """Return documents and queries at random, and the exact answers; see :func:`plan` for arguments and errors."""
    if not 1 <= rows <= _MOST_SAMPLE:
        raise InvalidOptionError(f"sample: expected from 1 to {_MOST_SAMPLE:,} rows, got {rows:,}")
    fitted = min(_FITTED_ROWS, _FITTED_VALUES // data.dim)
    known = _rows(sample_rows(data, max(rows, fitted), seed), metric, data)
    random = np.random.default_rng(seed)
    if queries is not None:
        if queries.dim != data.dim:
            raise EvaluationInputError(
                f"{queries.name}: expected queries of width {data.dim}, as in {data.name}, got {queries.dim}"
            )
        asked = _rows(sample_rows(queries, _MOST_QUERIES, seed), metric, queries)
    else:
        shuffled = random.permutation(len(known))
        held_out = min(_MOST_QUERIES, int(_HELD_OUT * min(rows, len(known))))
        asked, known = known[shuffled[:held_out]], known[np.sort(shuffled[held_out:])]
    base = known[np.sort(random.permutation(len(known))[:rows])]
    if len(base) < 4 * k or len(asked) < FEWEST_QUERIES:
        raise EvaluationInputError(
            f"expected at least {4 * k} documents and {FEWEST_QUERIES} queries (where none are given, a tenth of the "
            f"documents), got {len(base)} and {len(asked)}"
        )
    if (base == base[0]).all():
        raise EvaluationInputError(f"{data.name}: all rows are the same vector, so that there is nothing to rank")
    halves = np.sort(random.permutation(len(asked))[: len(asked) // 2])
    return PlanSample(
        fitted_on=known,
        base=base,
        queries=asked,
        truth=exact_search(base, asked, k, metric)[0],
        choosing=halves,
        confirming=np.setdiff1d(np.arange(len(asked)), halves),
        metric=metric,
        sampled_from=data.rows if data.rows is not None and data.rows > rows else None,
    )


def _rows(sample: FloatArray, metric: Metric, source: VectorSource) -> FloatArray:
    rows = as_vectors(sample, source.dim, metric, name=f"{source.name}, sampled")
    return as_compared(rows, metric)


def check_codecs(codecs: Sequence[Path], dim: int, metric: Metric, *, queries: bool) -> None:
    """Check that codec files are for such embeddings, and that there are queries to judge them by.

    Raises:
        EvaluationInputError: they are not, or there are none.
        ArtifactError: a file cannot be used.
    """
    for path in codecs:
        codec = Codec.load(path)
        if (codec.dim, codec.metric) != (dim, metric):
            raise EvaluationInputError(
                f"{path}: expected a codec for embeddings of width {dim} compared by {metric}, got one for width "
                f"{codec.dim} and {codec.metric}"
            )
        if not queries:
            raise EvaluationInputError(
                f"{path}: a codec may have been trained on the documents that would stand in for queries; give queries "
                "that it was not trained on"
            )
