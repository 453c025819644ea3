"""Search for the width and the recipe that suit a collection, train once more with them, and ask the gate.

``vaecodec_exporters.pipeline.fit`` calls this and exports what the gate lets pass. Each step is kept in ``run.json``
the moment it ends, so that an interrupted search goes on where it was:

1. baselines: every linear codec at every width;
2. pace: how long an epoch takes here;
3. autoencoder, then vae: is the pipeline sound, and what is the prior worth on this data;
4. alignment, then queue: similarity distillation without and with a queue of past documents;
5. sweep: the best of these at every width; the knee of recall against bytes is chosen;
6. tune: learning rate, then whether a longer run is a better one, at that width only;
7. final: one long run of the recipe, now locked;
8. gate: the confirmation rows, which no step has read so far, decide whether the learned codec ships.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.errors import CheckpointError, RecipeError, TrainingError
from vaecodec.evaluation import Interval
from vaecodec.files import write_atomically
from vaecodec.linear import LinearKind
from vaecodec_training.checkpoint import STATE, load_checkpoint, save_checkpoint
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import HeldOut
from vaecodec_training.diagnostics import BelowBaselineWarning, BudgetWarning
from vaecodec_training.gate import SELECTED, Gate, gate
from vaecodec_training.model import in_numpy
from vaecodec_training.observe import Observer
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import refuse_mismatch, train
from vaecodec_training.validation import intervals

OnStep = Callable[[str, dict[str, Any]], None]

RUN = "run.json"
RECIPE = "recipe.toml"

# Shares of the budget: each short run, and the final one. With four widths there are nine short runs, and one of
# twice their length.
_SHORT = 0.05
_FINAL = 0.4
_PROBE_EPOCHS = 0.5
_LEARNING_RATES = (0.5, 2.0)
_LONGEST = 60.0

# Differences of recall@10 below this are noise.
_NOISE = 0.005


def knee(recalls: dict[int, float]) -> tuple[int, str]:
    """The width where more bytes begin to buy less, and why.

    The knee lies farthest above the straight line between the ends (Kneedle, Satopää et al. 2011). Where no width lies
    above it by more than noise, recall does not flatten and the largest width is chosen; where none has more than the
    smallest, that one.
    """
    widths = sorted(recalls)
    first, last = widths[0], widths[-1]
    if len(widths) == 1:
        return first, "the only width asked for"
    most = max(recalls.values())
    if most - recalls[first] <= _NOISE:
        return first, (
            f"recall@10 is {recalls[first]:.3f} there and at most {most:.3f} up to {last} latents, within noise"
        )
    if len(widths) == 2:
        return last, "the larger of two; a knee takes at least three"
    slope = (recalls[last] - recalls[first]) / (last - first)
    above = {width: recalls[width] - recalls[first] - slope * (width - first) for width in widths[1:-1]}
    best = max(above, key=lambda width: above[width])
    if above[best] <= _NOISE:
        return last, (
            f"recall@10 rises evenly or ever faster, from {recalls[first]:.3f} at {first} latents to "
            f"{recalls[last]:.3f}; no knee up to {last}"
        )
    before, after = widths[widths.index(best) - 1], widths[widths.index(best) + 1]

    def bought(low: int, high: int) -> str:
        return f"{(recalls[high] - recalls[low]) / (high - low):.4f}"

    return best, (
        f"from {before} to {best} latents each 4 bytes buy {bought(before, best)} recall@10, "
        f"from there to {after} only {bought(best, after)}"
    )


@dataclass(frozen=True)
class SearchResult:
    """What a search led to.

    Attributes:
        content: what ``run.json`` holds.
        gate: the decision.
        dim: the width chosen.
        run: folder of the final training run.
    """

    content: dict[str, Any]
    gate: Gate
    dim: int
    run: Path


def search(
    collection: Collection,
    out: Path,
    *,
    dims: Sequence[int] = (32, 64, 128, 192),
    budget: float = 600.0,
    recipe: Recipe | None = None,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
) -> SearchResult:
    """Run every step of the module's list that ``out`` does not hold yet.

    Args:
        collection: opened with a confirmation part.
        out: folder for ``run.json``, the training runs, and the recipe of the last one, ``recipe.toml``.
        dims: widths of the sweep.
        budget: seconds for all training; the length of the runs is chosen by it.
        recipe: where to start from; the steps change its weights, width, learning rate and length.
        observers: of every training run.
        on_step: called with the name and the figures of each step when it has ended.

    Raises:
        RecipeError: no widths, or not all of them below that of the embeddings; the recipe is for codes or does not
            fit the data.
        TrainingError: this is one of several processes.
        CheckpointError: ``out`` holds the fit of other data or settings.
        DivergedError: the final run stayed unstable.
    """
    refuse_processes()
    recipe = recipe or Recipe()
    widths = sorted(set(dims))
    if not widths or widths[0] < 1 or widths[-1] > collection.dim:
        raise RecipeError(f"dims: expected widths from 1 to {collection.dim}, got {list(dims)}")
    if collection.confirmation is None:
        raise RecipeError("expected a collection with a confirmation part, got none; open it with confirmation=0.05")
    if recipe.for_codes:
        raise RecipeError(
            f"target, target_bytes: expected neither, as fit chooses float codecs, got {recipe.target!r}, "
            f"{list(recipe.target_bytes)}; use vaecodec train --target"
        )
    refuse_mismatch(recipe, collection)
    return _Search(collection, out, widths, budget, recipe, observers, on_step).run(collection.confirmation)


def refuse_processes() -> None:
    """Raise when this is one of several processes, which would all choose and write for themselves.

    Raises:
        TrainingError: it is.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise TrainingError(
            f"fit: expected one process, got WORLD_SIZE = {processes}; start it without torchrun, and let "
            "vaecodec train repeat its recipe.toml on several"
        )


class _Search:
    def __init__(
        self,
        collection: Collection,
        out: Path,
        widths: list[int],
        budget: float,
        recipe: Recipe,
        observers: Sequence[Observer],
        on_step: OnStep | None,
    ) -> None:
        self.collection = collection
        self.out = out
        self.widths = widths
        self.budget = budget
        self.recipe = recipe
        self.observers = observers
        self.on_step = on_step
        out.mkdir(parents=True, exist_ok=True)
        asked = {"data": collection.identity, "dims": widths, "budget": budget, "recipe": recipe.to_dict()}
        self.content: dict[str, Any] = {"asked": json.loads(json.dumps(asked)), "steps": {}}
        if (out / RUN).exists():
            self._continue()

    def run(self, confirmation: HeldOut) -> SearchResult:
        first = self.recipe.replace(dim=self.widths[(len(self.widths) - 1) // 2], nested_dims=())
        self._step("baselines", self._baselines)
        epoch_seconds = self._step("pace", lambda: self._pace(first))["epoch_seconds"]
        if epoch_seconds > _SHORT * self.budget:
            warnings.warn(
                BudgetWarning(
                    f"an epoch takes {epoch_seconds:.1f} s, more than the {_SHORT * self.budget:.1f} s that a budget "
                    f"of {self.budget:.0f} s leaves for each short run; each will take an epoch, and the fit longer "
                    "than asked; raise the budget, or give fewer dims or documents"
                ),
                stacklevel=2,
            )
        short = self._epochs(_SHORT, epoch_seconds)
        first = first.replace(epochs=short)

        plain = first.replace(alignment=0.0, contrastive=0.0, queue=0, kl=0.0, kl_target=0.0, reconstruction=1.0)
        kl = self.recipe.kl or Recipe().kl
        queue = self.recipe.queue or 2 * self.recipe.batch
        candidates = {
            "autoencoder": plain,
            "vae": plain.replace(kl=kl, kl_target=first.kl_target),
            "alignment": first.replace(kl=kl, queue=0),
            "queue": first.replace(kl=kl, queue=queue),
        }
        recalls = {name: self._train(name, candidate) for name, candidate in candidates.items()}
        chosen = candidates[max(recalls, key=lambda name: recalls[name])]

        swept = {}
        for width in self.widths:
            if width == chosen.dim:
                swept[width] = max(recalls.values())
            else:
                swept[width] = self._train(f"sweep {width}", chosen.replace(dim=width))
        dim, reason = knee(swept)
        self._step("knee", lambda: {"dim": dim, "reason": reason, "recall@10": {str(k): swept[k] for k in swept}})

        tuned = {1.0: swept[dim]}
        for factor in _LEARNING_RATES:
            rate = chosen.learning_rate * factor
            tuned[factor] = self._train(f"tune {rate:g}", chosen.replace(dim=dim, learning_rate=rate))
        factor = max(tuned, key=lambda key: tuned[key])
        best = chosen.replace(dim=dim, learning_rate=chosen.learning_rate * factor)
        longer = self._train("tune length", best.replace(epochs=2 * short))
        # The width and the terms that were chosen have their own pace; the last run knows it.
        pace = self.content["steps"]["tune length"]["seconds"] / (2 * short)
        locked = best.replace(
            nested_dims=tuple(width for width in self.recipe.nested_dims if width < dim),
            epochs=self._epochs(_FINAL, pace) if longer > tuned[factor] else short,
        )
        write_atomically(self.out / RECIPE, locked.to_toml().encode())
        self._train("final", locked)
        decision = self._step("gate", lambda: self._confirm(locked, confirmation))
        verdict = Gate(decision["over"], Interval(*(decision["difference"][key] for key in Interval._fields)))
        return SearchResult(self.content, verdict, dim, self._folder("final"))

    def _step(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        steps: dict[str, dict[str, Any]] = self.content["steps"]
        if name not in steps:
            steps[name] = work()
            write_atomically(self.out / RUN, json.dumps(self.content, indent=1, allow_nan=False).encode())
        if self.on_step is not None:
            self.on_step(name, steps[name])
        return steps[name]

    def _train(self, name: str, recipe: Recipe) -> float:
        """Validation recall@10 of a run."""

        def work() -> dict[str, Any]:
            folder = self._folder(name)
            start = time.perf_counter()
            # The autoencoder is there to be compared with, not to win.
            with _muted(BelowBaselineWarning if name == "autoencoder" else None):
                result = train(
                    self.collection, recipe, folder, resume=(folder / STATE).exists(), observers=self.observers
                )
            return {
                "seconds": time.perf_counter() - start,
                "recipe": recipe.to_dict(),
                "validation": intervals(result.figures),
                "warnings": [str(warning) for warning in result.warnings],
            }

        return float(self._step(name, work)["validation"][SELECTED]["mean"])

    def _baselines(self) -> dict[str, Any]:
        return {
            str(width): {kind: intervals(figures) for kind, figures in self.collection.baselines(width).items()}
            for width in self.widths
        }

    def _pace(self, recipe: Recipe) -> dict[str, Any]:
        self.collection.baselines(recipe.dim)
        start = time.perf_counter()
        with _muted(BelowBaselineWarning):
            train(self.collection, recipe.replace(epochs=_PROBE_EPOCHS, checkpoints=1), self._folder("pace"))
        return {"epoch_seconds": (time.perf_counter() - start) / _PROBE_EPOCHS}

    def _epochs(self, share: float, epoch_seconds: float) -> float:
        return min(_LONGEST, max(1.0, round(self.budget * share / epoch_seconds, 1)))

    def _confirm(self, recipe: Recipe, confirmation: HeldOut) -> dict[str, Any]:
        """Measure on rows that no choice was made on, and add the figures to the run's own provenance."""
        folder = self._folder("final")
        checkpoint = load_checkpoint(folder)
        model = checkpoint.model
        learned = confirmation.figures(
            in_numpy(model.encode, model), in_numpy(model.encode_queries, model), checkpoint.metric
        )
        linear = {str(kind): confirmation.figures_of(self.collection.linear(recipe.dim, kind)) for kind in LinearKind}
        decision = gate(learned, linear)
        figures = {
            "codec": intervals(learned),
            **{kind: intervals(measured) for kind, measured in linear.items()},
        }
        provenance = {**checkpoint.provenance, "confirmation": figures, "gate": str(decision)}
        save_checkpoint(
            folder,
            type(checkpoint)(model, recipe, checkpoint.metric, checkpoint.embedder, provenance, checkpoint.calibration),
        )
        return {
            "decision": str(decision),
            "passed": decision.passed,
            "over": decision.over,
            "difference": decision.difference._asdict(),
            "confirmation": figures,
        }

    def _folder(self, name: str) -> Path:
        return self.out / "runs" / name.replace(" ", "-")

    def _continue(self) -> None:
        path = self.out / RUN
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            asked = found["asked"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged: {error!r}; remove it to start afresh") from None
        changed = sorted(key for key, value in self.content["asked"].items() if asked.get(key) != value)
        if changed:
            raise CheckpointError(
                f"{path}: expected a fit of the same {', '.join(changed)}; fit into another folder or repeat what it "
                "was started with"
            )
        self.content = found


@contextmanager
def _muted(category: type[Warning] | None) -> Iterator[None]:
    with warnings.catch_warnings():
        if category is not None:
            warnings.simplefilter("ignore", category)
        yield


def first_lines(result: SearchResult) -> list[str]:
    """The summary for people: the gate's verdict first, then the width and why."""
    steps = result.content["steps"]
    return [str(result.gate), f"Width {result.dim}: {steps['knee']['reason']}."]


def draw(result: SearchResult, path: Path) -> None:
    """Recall against bytes per vector, learned and best linear, with the knee marked, as a picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from vaecodec.extras import require

    require("matplotlib", extra="report")
    from matplotlib.figure import Figure

    steps = result.content["steps"]
    learned = {int(width): recall for width, recall in steps["knee"]["recall@10"].items()}
    linear = {
        int(width): max(figures[SELECTED]["mean"] for figures in kinds.values())
        for width, kinds in steps["baselines"].items()
    }
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in (("learned, short runs", learned), ("best linear", linear)):
        widths = np.array(sorted(points))
        axes.plot(4 * widths, [points[width] for width in widths], marker="o", label=label)
    axes.axvline(4 * result.dim, linestyle=":", color="grey", label=f"chosen: {result.dim} latents")
    axes.set(xlabel="bytes per vector (float32)", ylabel="recall@10 on validation queries")
    axes.legend()
    figure.savefig(path, dpi=120)


def seconds(text: str) -> float:
    """A duration such as 90s, 10m or 1.5h, in seconds.

    Raises:
        RecipeError: it is none.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise RecipeError(f"budget: expected a duration such as 90s, 10m or 1.5h, got {text!r}")
    return value
