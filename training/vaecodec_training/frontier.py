"""Show the frontier between two aims: old neighbours that are kept, and right documents that are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaecodec.charts import LIGHT, MARKERS, Name, chart, rendered, write_names
from vaecodec.files import write_atomically
from vaecodec_training.data.held_out import HeldOut, QueryFigures
from vaecodec_training.recipe import NOISE_ON_FEW_PAIRS, WEIGHT_FOR_CODES, Aim, Recipe, choose_recipe
from vaecodec_training.validation import intervals

UNCOMPRESSED = "uncompressed"
BEST_LINEAR = "best linear by figure"
FULL_WIDTH = "uncompressed + the same training"
_FIGURES = ("recall@10", "recall@100", "ndcg@10")

_HIDDEN = 512


@dataclass(frozen=True)
class Point:
    """Hold one trial on the validation rows.

    Attributes:
        name: of the step, or of what stands beside the trials.
        stored: what is stored of a document, such as "64 floats" or "codes of 48 bytes".
        figures: recall@10, recall@100 and ndcg@10, each as mean, low and high.
    """

    name: str
    stored: str
    figures: Mapping[str, Mapping[str, float]]

    def __str__(self) -> str:
        kept, found = (self.figures[name]["mean"] for name in ("recall@10", "ndcg@10"))
        return f"{self.name} ({self.stored}): recall@10 {kept:.3f}, nDCG@10 {found:.3f}"


def relevance_trials(asked: Recipe, rows: int) -> dict[str, Recipe]:
    """Return what is tried for relevance at one width, by the name of the step.

    Args:
        asked: a recipe whose width, codes and seed are taken; it is tried itself where relevance is what it is for.
        rows: how many documents there are to train on.
    """
    shape: dict[str, Any] = {"dim": asked.dim, "seed": asked.seed}
    plain = Recipe.for_relevance(rows=rows, **shape).replace(hidden=0, input_noise=0.0, **_codes(asked))
    trials = {
        "relevance": plain if asked.for_codes else plain.replace(input_noise=NOISE_ON_FEW_PAIRS),
        "relevance mlp": plain.replace(hidden=_HIDDEN),
        "relevance mlp noise": plain.replace(hidden=_HIDDEN, input_noise=NOISE_ON_FEW_PAIRS),
    }
    if asked.for_codes:
        heavier = Recipe.for_relevance(rows=rows, weight=WEIGHT_FOR_CODES, **shape)
        trials["relevance mlp heavier"] = heavier.replace(hidden=_HIDDEN, input_noise=0.0, **_codes(asked))
    own = {"relevance as asked": asked.replace(nested_dims=())} if asked.objective is Aim.RELEVANCE else {}
    return {**own, **{name: trial for name, trial in trials.items() if trial not in own.values()}}


def for_neighbours(asked: Recipe, rows: int) -> Recipe:
    """Return the default recipe for neighbours at a width, for the same codes.

    Args:
        asked: a recipe whose width and codes are taken.
        rows: how many documents there are to train on.
    """
    if asked.for_codes:
        return Recipe.for_code(**_codes(asked), paired=True, dim=asked.dim)
    return choose_recipe(width=asked.dim, rows=rows, dim=asked.dim)


def uncompressed(part: HeldOut) -> QueryFigures:
    """Return the figures of the embeddings themselves."""
    return part.figures(lambda rows: rows, lambda rows: rows, part.metric)


def frontier(
    steps: Mapping[str, Mapping[str, Any]], recipe: Recipe, served: str, opponent: str, part: HeldOut
) -> dict[str, Any]:
    """Return the points of a search, and the sentence that sums them up, as JSON values.

    Args:
        steps: of the search so far, by name.
        recipe: the one that is served. Trials at other widths are left out.
        served: the step whose run is served.
        opponent: the step that trained without compression.
        part: what the trials were validated on.
    """
    kinds, small = steps["baselines"][str(recipe.dim)], stored(recipe)
    best = {name: max((each[name] for each in kinds.values()), key=lambda figure: figure["mean"]) for name in _FIGURES}
    trials = [
        Point(name, small, _chosen(step["validation"]))
        for name, step in steps.items()
        if "validation" in step and step["recipe"]["dim"] == recipe.dim and name != opponent
    ]
    whole = f"{part.documents.shape[1]} floats"
    beside = [
        Point(UNCOMPRESSED, whole, _chosen(intervals(uncompressed(part)))),
        Point(BEST_LINEAR, small, best),
    ]
    if "validation" in steps[opponent]:
        beside.append(Point(FULL_WIDTH, whole, _chosen(steps[opponent]["validation"])))
    edge = [trial for trial in trials if not any(_beats(other, trial) for other in trials)]
    said = [*beside, *(trial for trial in edge if trial.name != served)]
    (own,) = (trial for trial in trials if trial.name == served)
    summary = f"Old neighbours kept against right documents found, on validation queries: this codec, {own}; "
    summary += "; ".join(map(str, said)) + ". More neighbours or more right documents: export another trial from runs/."
    return {"served": served, "points": [asdict(point) for point in (*beside, *trials)], "summary": summary}


def draw_frontier(points: Sequence[Point], served: str, path: Path) -> None:
    """Draw old neighbours kept against nDCG@10, one mark for each trial, as a picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    beside = (UNCOMPRESSED, BEST_LINEAR, FULL_WIDTH)
    groups = {
        "other trials": [point for point in points if point.name not in (*beside, served)],
        **{name: [point for point in points if point.name == name] for name in beside},
        "served": [point for point in points if point.name == served],
    }
    with chart(6, 4) as (drawing, (axes,)):
        colours = (*LIGHT.lines, LIGHT.ink)
        names: list[Name] = []
        others: list[tuple[float, float]] = []
        for (label, marked), colour, marker in zip(groups.items(), colours, MARKERS, strict=False):
            figures = [point.figures for point in marked]
            places: list[tuple[float, float]] = [
                (each["recall@10"]["mean"], each["ndcg@10"]["mean"]) for each in figures
            ]
            if places:
                axes.plot(*zip(*places, strict=True), linestyle="", marker=marker, color=colour)
                across, up = max(places)
                names.append(Name(label, across, up, colour, bold=label == "served"))
                others += places
        axes.set(xlabel="recall@10 of the old neighbours", ylabel="nDCG@10 on validation queries")
        axes.margins(0.08)
        write_names(axes, names, others=others)
        write_atomically(path, rendered(drawing, "png"))


def _codes(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe that say which codes its latents are trained for."""
    return {name: getattr(recipe, name) for name in ("target", "target_bytes", "trellis_memory")}


def stored(recipe: Recipe) -> str:
    """Say what is stored of a document, in a word or two."""
    return (
        f"codes of {recipe.judged_bytes} bytes" if recipe.judged_bytes else f"{recipe.dim} {recipe.target or 'floats'}"
    )


def _chosen(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in _FIGURES if name in figures}


def _beats(one: Point, other: Point) -> bool:
    """Tell whether one trial is better in both figures."""
    return all(one.figures[name]["mean"] > other.figures[name]["mean"] for name in ("recall@10", "ndcg@10"))
