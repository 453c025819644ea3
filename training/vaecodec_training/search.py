"""Search for the width and the recipe that suit a collection, train once more with them, and ask the gate.

``vaecodec_exporters.pipeline.fit`` calls this and exports what the gate lets pass. Each step is kept in ``run.json``
the moment it ends, so that an interrupted search goes on where it was:

1. baselines: every linear codec at every width, through the code where one is trained for;
2. pace: how long an epoch takes here, and what a run takes besides. Where the budget does not hold steps 3 to 6 and 8
   beside one run of the recipe that was asked for, they are left out: the width is the knee of the linear codecs;
3. autoencoder, then vae: is the pipeline sound, and what is the prior worth on this data; not for codes, whose noise
   takes the place of the prior;
4. alignment, deep lists, then queue: similarity distillation, at more than one temperature, and with a queue of past
   documents. For relevance steps 3 and 4 try linear maps, and a hidden layer without and with noise, instead;
5. sweep: the best of these at every width; the knee of the figure against bytes is chosen;
6. tune: learning rate, for relevance the weight decay, then whether a longer run is a better one, at that width only;
7. final: one run of the recipe, now locked, long if there is time for that; default: one of the recipe that was asked
   for, at the same width, whatever the budget. The better one is served, so that a search is never worse than training
   once;
8. frontier, where pairs are known: the other aim is trained for, too, and the same without compression, so that old
   neighbours kept stand against right documents found;
9. gate: the confirmation rows, which no step has read so far, decide whether the learned codec ships; their queries
   search all documents, too. Only for a codec that ships the stages of the codes are fitted.

Among runs of one width those that lose no figure to a linear codec come first, then those that gain most. A run that
diverges is noted and does not end the search. Where the last ones do, the best short run is served.
"""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vaecodec.errors import CheckpointError, DivergedError, RecipeError, TrainingError
from vaecodec.files import locked, write_atomically
from vaecodec.files.outputs import check_file
from vaecodec.files.stored_json import parse_with_checksum, with_checksum
from vaecodec_training.budget import Budget, Pace, Stopwatch, clock, probe_epochs, taken
from vaecodec_training.checkpoint import STATE, load_checkpoint, mend, save_checkpoint
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import HeldOut
from vaecodec_training.diagnostics import BelowBaselineWarning, BudgetWarning, FullSizeWarning
from vaecodec_training.frontier import for_neighbours, frontier, relevance_trials
from vaecodec_training.full_size import judge_at_full_size
from vaecodec_training.gate import Gate, gate
from vaecodec_training.knee import knee
from vaecodec_training.observe import Observer
from vaecodec_training.outcome import calibrated
from vaecodec_training.recipe import Aim, Recipe, choose_recipe
from vaecodec_training.search_result import LINEAR_CODECS, SHORT_RUNS, SearchResult
from vaecodec_training.trainer import refuse_mismatch, train
from vaecodec_training.validation import intervals, linear_figures, validate

_LOG = logging.getLogger(__name__)

OnStep = Callable[[str, dict[str, Any]], None]

RUN = "run.json"
RECIPE = "recipe.toml"
_LOCK = ".fit.lock"

# The step that trains without compression.
_WHOLE = "full width"

_DECAY = 0.3
_LEARNING_RATES = (0.5, 2.0)

# Default widths to choose among.
_WIDTHS = (32, 64, 128, 192)


class Standing(NamedTuple):
    """Rate a run on the validation rows; among runs of one width a larger rating is better.

    Attributes:
        loses_nothing: no figure that counts is significantly below that of the linear codec which is best in it.
        worth: see :attr:`vaecodec_training.gate.Gate.worth`; minus infinity where the run diverged.
        figure: that of the objective.
    """

    loses_nothing: bool
    worth: float
    figure: float

    @property
    def diverged(self) -> bool:
        """Tell whether the run diverged and left no model."""
        return math.isinf(self.worth)


def search(
    collection: Collection,
    out: Path,
    *,
    dims: Sequence[int] | None = None,
    budget: float = 600.0,
    recipe: Recipe | None = None,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
) -> SearchResult:
    """Run every step of the module's list that ``out`` does not hold yet.

    Args:
        collection: opened with a confirmation part.
        out: folder for ``run.json``, the training runs, and the recipe of the last one, ``recipe.toml``.
        dims: widths of the sweep; by default 32, 64, 128 and 192, as far as the embeddings are as wide, and for trellis
            codes, which choose among all latents, the width of the embeddings.
        budget: seconds for all training, of processor time where that is less than has passed; the number and length
            of the runs are chosen by it.
        recipe: where to start from, with what the codec is for and which codes it has to survive; the steps change
            its weights, width, learning rate and length. The final run is at least as long as it says.
        observers: of every training run.
        on_step: called with the name and the figures of each step when it has ended.

    Raises:
        RecipeError: no widths, or not all of them below that of the embeddings; or the recipe does not fit the
            data.
        TrainingError: this is one of several processes.
        CheckpointError: ``out`` holds the fit of other data or settings.
        OutputExistsError: ``out`` holds another recipe.
        OutputBusyError: another fit into ``out`` is running.
        DivergedError: all trials stayed unstable, or the final run of a recipe with nested widths did.
    """
    refuse_processes()
    recipe = recipe or choose_recipe(width=collection.dim, rows=collection.report.rows)
    widths = sorted(set(_default_widths(recipe, collection.dim) if dims is None else dims))
    refuse_widths(widths, collection.dim)
    if collection.confirmation is None:
        raise RecipeError("expected a collection with a confirmation part, got none; open it with confirmation=0.05")
    refuse_mismatch(recipe, collection)
    if not (out / RUN).exists():
        check_file(out / RECIPE, is_ours=lambda _: False, parents=True)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / _LOCK, f"{out}"):
        return _Search(collection, out, widths, budget, recipe, observers, on_step).run(collection.confirmation)


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a fit, ``run.json``.

    Returns:
        ``asked``, what the fit was started with, and ``steps``, what each step that has ended found.

    Raises:
        CheckpointError: it is the record of something else, or damaged.
    """
    try:
        found = parse_with_checksum(path.read_bytes())
        if not all(isinstance(found[name], dict) for name in ("asked", "steps")):
            raise ValueError("what was asked and the steps are no objects")
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: expected the record of a fit, but this is none or damaged: {error!r}; choose another folder"
        ) from None
    return found


def refuse_widths(widths: Sequence[int], dim: int) -> None:
    """Raise ``RecipeError`` unless there are widths, all of them from 1 to that of the embeddings."""
    if not widths or min(widths) < 1 or max(widths) > dim:
        raise RecipeError(f"dims: expected widths from 1 to {dim}, got {sorted(widths)}")


def refuse_processes() -> None:
    """Raise when this is one of several processes, each of which would choose and write for itself.

    Raises:
        TrainingError: it is.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise TrainingError(
            f"fit: expected one process, got WORLD_SIZE = {processes}; start it without torchrun, and let "
            "vaecodec train repeat its recipe.toml on several"
        )


def _default_widths(recipe: Recipe, dim: int) -> tuple[int, ...]:
    if recipe.target_bytes:
        return (dim,)
    return tuple(width for width in _WIDTHS if width <= dim) or (dim,)


class _Search:
    """Take the steps in the order in which they are written here."""

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
        self.figure = recipe.objective.figure
        self.rows = len(collection.document_rows)
        self.trades = collection.pairs is not None
        self.observers = observers
        self.on_step = on_step
        asked = {"data": collection.fingerprints, "dims": widths, "budget": budget, "recipe": recipe.to_dict()}
        self.content: dict[str, Any] = {"asked": json.loads(json.dumps(asked)), "steps": {}}
        if (out / RUN).exists():
            self._continue()

    def run(self, confirmation: HeldOut) -> SearchResult:
        first = self.recipe.replace(dim=self.widths[(len(self.widths) - 1) // 2], nested_dims=())
        self._step("baselines", self._baselines)
        pace = Pace(**self._step("pace", lambda: self._pace(first)))
        budget = self._divided(first, pace)
        if budget.has_trials:
            chosen, reached = self._try_terms(first.replace(epochs=budget.short(pace)))
            dim, best = self._choose_width(chosen, reached)
            locked = self._tune(chosen.replace(dim=dim), best, budget)
        else:
            locked = self._at_width(self.recipe, self._width_of_linear())
        name, served = self._finish(locked)
        if self.trades and budget.has_trials:
            self._try_other_aim(name, served, budget)
        write_atomically(self.out / RECIPE, served.to_toml().encode())
        decision = self._step("gate", lambda: self._confirm(name, served, confirmation))
        stable = "validation" in self.content["steps"].get(_WHOLE, {})
        opponent = self._folder(_WHOLE) if stable else None
        return SearchResult(self.content, Gate.from_json(decision), served, self._folder(name), opponent)

    def _baselines(self) -> dict[str, Any]:
        found = {}
        for width in self.widths:
            recipe = self.recipe.replace(dim=width, nested_dims=())
            kinds = linear_figures(self.collection, recipe, self.collection.validation)
            found[str(width)] = {kind: intervals(figures) for kind, figures in kinds.items()}
        return found

    def _divided(self, first: Recipe, pace: Pace) -> Budget:
        """Divide the budget, and say it where that is too small for trials."""
        terms, rates = len(self._terms(first)), len(self._rates(first))
        runs = terms + len(self.widths) - 1 + rates + 1
        others = 0
        if self.trades:
            others = 2 if first.objective is Aim.RELEVANCE else 2 + len(relevance_trials(first, self.rows))
        budget = Budget(self.budget, self.recipe.epochs, self._steps_per_epoch(first), pace, runs, others)
        if not budget.has_trials:
            warnings.warn(BudgetWarning(str(budget)), stacklevel=4)
        return budget

    def _steps_per_epoch(self, recipe: Recipe) -> float:
        return max(1, self.rows // recipe.batch)

    def _terms(self, first: Recipe) -> dict[str, Recipe]:
        """Return the sets of terms to try, by name."""
        queue = self.recipe.queue or 2 * self.recipe.batch
        if self.trades and first.objective is Aim.RELEVANCE:
            trials = relevance_trials(first, self.rows)
            return {name: trial.replace(epochs=first.epochs) for name, trial in trials.items()}
        if self.recipe.for_codes:
            return {"alignment": first.replace(queue=0), "queue": first.replace(queue=queue)}
        plain = first.replace(alignment=0.0, contrastive=0.0, queue=0, kl=0.0, kl_target=0.0, reconstruction=1.0)
        kl = self.recipe.kl or Recipe().kl
        candidates = {
            "autoencoder": plain,
            "vae": plain.replace(kl=kl, kl_target=first.kl_target),
            "alignment": first.replace(kl=kl, queue=0),
            "queue": first.replace(kl=kl, queue=queue),
        }
        if first.objective is Aim.NEIGHBOURS:
            candidates["deep lists"] = first.replace(kl=kl, queue=0, deep_lists=True)
        return candidates

    def _try_terms(self, first: Recipe) -> tuple[Recipe, Standing]:
        """Try sets of terms at one width, and return the best with its rating."""
        candidates = self._terms(first)
        reached = {name: self._train(name, candidate) for name, candidate in candidates.items()}
        best = max(reached, key=lambda name: reached[name])
        if reached[best].diverged:
            raise DivergedError(f"{self.out}: every trial diverged; lower learning_rate, or check the data")
        return candidates[best], reached[best]

    def _choose_width(self, chosen: Recipe, reached: Standing) -> tuple[int, Standing]:
        """Choose the width at the knee, and return it with the rating of its short run."""
        swept = {}
        for width in self.widths:
            swept[width] = reached if width == chosen.dim else self._train(f"sweep {width}", chosen.replace(dim=width))
        dim = self._knee({width: each.figure for width, each in swept.items() if not each.diverged}, SHORT_RUNS)
        return dim, swept[dim]

    def _width_of_linear(self) -> int:
        """Choose the width at the knee of the best linear codecs, where no time is left for short runs."""
        kinds = self.content["steps"]["baselines"]
        best = {width: max(each[self.figure]["mean"] for each in kinds[str(width)].values()) for width in self.widths}
        return self._knee(best, LINEAR_CODECS)

    def _knee(self, values: Mapping[int, float], of: str) -> int:
        dim, reason = knee(values, self.figure, "latent" if self.recipe.for_codes else "4 bytes")
        shown = {str(width): value for width, value in values.items()}
        self._step("knee", lambda: {"dim": dim, "reason": reason, "of": of, self.figure: shown})
        return dim

    def _rates(self, chosen: Recipe) -> dict[str, Recipe]:
        """Return the settings of the optimiser to try, by name."""
        rates = [chosen.learning_rate * factor for factor in _LEARNING_RATES]
        tuned = {f"tune {rate:g}": chosen.replace(learning_rate=rate) for rate in rates}
        if chosen.objective is Aim.RELEVANCE:
            tuned["tune decay"] = chosen.replace(weight_decay=max(_DECAY, 2 * chosen.weight_decay))
        return tuned

    def _tune(self, chosen: Recipe, reached: Standing, budget: Budget) -> Recipe:
        """Tune learning rate and length, and return the recipe of the final run."""
        tuned = [(self._train(name, candidate), candidate) for name, candidate in self._rates(chosen).items()]
        reached, best = max([(reached, chosen), *tuned], key=lambda each: each[0])
        longer = self._train("tune length", best.replace(epochs=2 * best.epochs)) > reached
        epochs = 2 * best.epochs if longer else best.epochs
        steps = self.content["steps"]
        # The last run has measured the pace of the chosen width and terms.
        pace = budget.pace.measured_again(steps["tune length"]["seconds"], 2 * best.epochs)
        room = budget.room(pace, spent=sum(step.get("seconds", 0.0) for step in steps.values()))
        if room >= max(epochs, self.recipe.epochs):
            most = min(room, budget.final(pace)) if longer else 0.0
            epochs = max(epochs, self.recipe.epochs, most)
        return self._at_width(best.replace(epochs=epochs), best.dim)

    def _at_width(self, recipe: Recipe, dim: int) -> Recipe:
        return recipe.replace(dim=dim, nested_dims=tuple(width for width in self.recipe.nested_dims if width < dim))

    def _finish(self, locked: Recipe) -> tuple[str, Recipe]:
        """Return the step whose run is served: the better one of the last two, or the best short one where both
        diverged.
        """
        last = {"final": locked, "default": self._at_width(self.recipe, locked.dim)}
        if last["default"] == locked:
            del last["default"]
        # What is kept of codes and nested widths does not depend on figures among all documents; the gate has them.
        whole = not (locked.for_codes or locked.nested_dims)
        standing = {name: self._train(name, recipe, full_size=whole) for name, recipe in last.items()}
        best = max(standing, key=lambda name: standing[name])
        if not standing[best].diverged:
            return best, last[best]
        steps = self.content["steps"]
        if locked.nested_dims:  # short runs do not train nested widths
            raise DivergedError(steps["final"]["diverged"])
        same = {"dim": locked.dim, "objective": str(locked.objective)}
        stable = [
            name
            for name, step in steps.items()
            if "validation" in step and same == {key: step["recipe"][key] for key in same}
        ]
        if not stable:
            raise DivergedError(steps["final"]["diverged"])
        best = max(stable, key=lambda name: float(steps[name]["validation"][self.figure]["mean"]))
        return best, Recipe.from_dict(steps[best]["recipe"])

    def _try_other_aim(self, served: str, recipe: Recipe, budget: Budget) -> None:
        """Train for the other aim, and without compression, at the width chosen."""
        other = recipe
        if recipe.objective is Aim.RELEVANCE:
            neighbours = for_neighbours(recipe, self.rows)
            self._train("neighbours", neighbours.replace(epochs=min(neighbours.epochs, budget.other(budget.pace))))
        else:
            trials = relevance_trials(recipe, self.rows)
            pace = Pace(**self._step("relevance pace", lambda: self._pace(trials["relevance"])))
            short = budget.short(pace)
            reached = {name: self._train(name, trial.replace(epochs=short)) for name, trial in trials.items()}
            other = trials[max(reached, key=lambda name: reached[name])]
            other = other.replace(epochs=min(other.epochs, budget.other(pace)))
            self._train("relevance final", other)
        whole: dict[str, Any] = {"dim": self.collection.dim, "nested_dims": (), "target": "", "target_bytes": ()}
        self._train(_WHOLE, other.replace(**whole))
        part = self.collection.validation
        self._step("frontier", lambda: frontier(self.content["steps"], recipe, served, opponent=_WHOLE, part=part))

    def _step(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        steps: dict[str, dict[str, Any]] = self.content["steps"]
        if name not in steps:
            _LOG.debug("step %s", name)
            steps[name] = work()
            write_atomically(self.out / RUN, with_checksum(self.content, indent=1))
        if self.on_step is not None:
            self.on_step(name, steps[name])
        return steps[name]

    def _train(self, name: str, recipe: Recipe, *, full_size: bool = False) -> Standing:
        """Train, and say how good that is on the validation rows."""
        step = self._step(name, lambda: self._trained(name, recipe, full_size))
        if "validation" not in step:
            return Standing(False, -math.inf, -math.inf)
        return Standing(not step["loses"], step["worth"], float(step["validation"][self.figure]["mean"]))

    def _trained(self, name: str, recipe: Recipe, full_size: bool) -> dict[str, Any]:
        folder = self._folder(name)
        start = clock()
        # The autoencoder is trained for comparison only, so do not warn that it loses. What is lost among all documents
        # is reported by the gate.
        with _muted(BelowBaselineWarning if name == "autoencoder" else FullSizeWarning):
            try:
                result = train(
                    self.collection,
                    recipe,
                    folder,
                    resume=(folder / STATE).exists(),
                    observers=self.observers,
                    full_size=full_size,
                    staged=False,
                )
            except DivergedError as error:
                return {"seconds": taken(start), "recipe": recipe.to_dict(), "diverged": str(error)}
        decision = gate(result.figures, result.baselines, recipe.objective)
        return {
            "seconds": taken(start),
            "recipe": recipe.to_dict(),
            "validation": intervals(result.figures),
            "loses": [each.figure for each in decision.lost],
            "worth": decision.worth,
            "warnings": [str(warning) for warning in result.warnings],
        }

    def _pace(self, recipe: Recipe) -> dict[str, Any]:
        if not recipe.for_codes:
            self.collection.baselines(recipe.dim)  # which all runs share
        epochs = probe_epochs(self._steps_per_epoch(recipe))
        watch = Stopwatch(self._steps_per_epoch(recipe))
        with _muted(BelowBaselineWarning), suppress(DivergedError):
            probe = recipe.replace(epochs=epochs, checkpoints=1)
            train(self.collection, probe, self._folder("pace"), observers=[watch], full_size=False, staged=False)
        return watch.pace()._asdict()

    def _confirm(self, name: str, recipe: Recipe, confirmation: HeldOut) -> dict[str, Any]:
        """Measure on rows that no choice was made on, and add the figures to the run's own provenance."""
        folder = self._folder(name)
        mend(folder)  # the process may have died while it added the figures
        checkpoint = load_checkpoint(folder)
        learned = validate(checkpoint.model, self.collection, recipe, confirmation)
        linear = linear_figures(self.collection, recipe, confirmation)
        decision = gate(learned, linear, recipe.objective)
        figures = {"codec": intervals(learned), **{kind: intervals(measured) for kind, measured in linear.items()}}
        [whole] = judge_at_full_size([checkpoint.model], self.collection, recipe, confirmation)
        found = {"confirmation": figures, "full_size": whole.to_json()}
        provenance = {**checkpoint.provenance, **found, "gate": str(decision)}
        checkpoint = replace(checkpoint, provenance=provenance)
        if decision.passed and not whole.lost:  # it ships
            checkpoint = calibrated(checkpoint, self.collection)
        save_checkpoint(folder, checkpoint)
        return {**decision.to_json(), **found}

    def _folder(self, name: str) -> Path:
        return self.out / "runs" / name.replace(" ", "-")

    def _continue(self) -> None:
        path = self.out / RUN
        found = read_record(path)
        asked = found["asked"]
        changed = sorted(key for key, value in self.content["asked"].items() if asked.get(key) != value)
        if changed:
            raise CheckpointError(
                f"{path}: expected a fit of the same {', '.join(changed)}; fit into another folder or repeat what it "
                "was started with"
            )
        self.content = found


@contextmanager
def _muted(category: type[Warning]) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
