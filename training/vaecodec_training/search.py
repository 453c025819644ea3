"""Search for the width and the recipe that suit a collection, train once more with them, and ask the gate.

``vaecodec_exporters.pipeline.fit`` calls this and exports what the gate lets pass. Each step is kept in ``run.json``
the moment it ends, so that an interrupted search goes on where it was:

1. baselines: every linear codec at every width, through the code where one is trained for;
2. pace: how long an epoch takes here;
3. autoencoder, then vae: is the pipeline sound, and what is the prior worth on this data; not for codes, whose noise
   takes the place of the prior;
4. alignment, deep lists, then queue: similarity distillation, at more than one temperature, and with a queue of past
   documents. For relevance steps 3 and 4 try linear maps, a hidden layer, and noise on its inputs instead;
5. sweep: the best of these at every width; the knee of the figure against bytes is chosen;
6. tune: learning rate, for relevance the weight decay, then whether a longer run is a better one, at that width only;
7. final: one long run of the recipe, now locked; default: one of the recipe that was asked for, at the same width. The
   better one is served, so that a search is never worse than training once;
8. frontier, where pairs are known and floats are served: the other aim is trained for, too, and the same without
   compression, so that old neighbours kept stand against right documents found;
9. gate: the confirmation rows, which no step has read so far, decide whether the learned codec ships; their queries
   search all documents, too.

Among runs of one width those that lose no figure to a linear codec come first, then those that gain most. A run that
diverges is noted and does not end the search. Where the last ones do, the best short run is served.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vaecodec.errors import CheckpointError, DivergedError, RecipeError, TrainingError
from vaecodec.files import locked, write_atomically
from vaecodec.files.outputs import check_file
from vaecodec.files.stored_json import parse_with_checksum, with_checksum
from vaecodec_training.checkpoint import STATE, load_checkpoint, mend, save_checkpoint
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import HeldOut
from vaecodec_training.diagnostics import BelowBaselineWarning, BudgetWarning, FullSizeWarning
from vaecodec_training.frontier import frontier, relevance_trials
from vaecodec_training.full_size import judge_at_full_size
from vaecodec_training.gate import Gate, gate
from vaecodec_training.knee import knee
from vaecodec_training.observe import Observer
from vaecodec_training.recipe import Aim, Recipe, choose_recipe
from vaecodec_training.search_result import SearchResult
from vaecodec_training.trainer import refuse_mismatch, train
from vaecodec_training.validation import intervals, linear_figures, validate

_LOG = logging.getLogger(__name__)

OnStep = Callable[[str, dict[str, Any]], None]

RUN = "run.json"
RECIPE = "recipe.toml"
_LOCK = ".fit.lock"

# Shares of the budget for each short run and for the final run. With four widths there are nine short runs and one of
# twice their length. If pairs are known, there are also three short runs for the other objective, its long run, and a
# run at full width.
_SHORT, _FINAL = 0.05, 0.4
_SHORT_OF_BOTH, _FINAL_OF_BOTH, _OTHER = 0.03, 0.25, 0.12
_DECAY = 0.3
_PROBE_EPOCHS = 0.5
_LEARNING_RATES = (0.5, 2.0)
_LONGEST = 60.0

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
        budget: seconds for all training, of processor time where that is less than has passed; the length of the runs
            is chosen by it.
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
        self.trades = collection.pairs is not None and not recipe.for_codes
        self.short, self.final = (_SHORT_OF_BOTH, _FINAL_OF_BOTH) if self.trades else (_SHORT, _FINAL)
        self.observers = observers
        self.on_step = on_step
        asked = {"data": collection.fingerprints, "dims": widths, "budget": budget, "recipe": recipe.to_dict()}
        self.content: dict[str, Any] = {"asked": json.loads(json.dumps(asked)), "steps": {}}
        if (out / RUN).exists():
            self._continue()

    def run(self, confirmation: HeldOut) -> SearchResult:
        first = self.recipe.replace(dim=self.widths[(len(self.widths) - 1) // 2], nested_dims=())
        self._step("baselines", self._baselines)
        short = self._short(first)
        chosen, reached = self._try_terms(first.replace(epochs=short))
        dim, best = self._choose_width(chosen, reached)
        locked = self._tune(chosen.replace(dim=dim), best)
        name, served = self._finish(locked)
        if self.trades:
            self._try_other_aim(name, served)
        write_atomically(self.out / RECIPE, served.to_toml().encode())
        decision = self._step("gate", lambda: self._confirm(name, served, confirmation))
        return SearchResult(self.content, Gate.from_json(decision), served, self._folder(name))

    def _baselines(self) -> dict[str, Any]:
        found = {}
        for width in self.widths:
            recipe = self.recipe.replace(dim=width, nested_dims=())
            kinds = linear_figures(self.collection, recipe, self.collection.validation)
            found[str(width)] = {kind: intervals(figures) for kind, figures in kinds.items()}
        return found

    def _short(self, first: Recipe) -> float:
        """Return the number of epochs of a short run."""
        epoch_seconds = self._step("pace", lambda: self._pace(first))["epoch_seconds"]
        self._warn_of_time(epoch_seconds)
        return self._epochs(self.short, epoch_seconds)

    def _warn_of_time(self, epoch_seconds: float) -> None:
        """Say it where a budget is too small for what is trained in any case."""
        each = self.short * self.budget
        if epoch_seconds > each:
            warnings.warn(
                BudgetWarning(
                    f"an epoch takes {epoch_seconds:.1f} s, more than the {each:.1f} s that a budget "
                    f"of {self.budget:.0f} s leaves for each short run; each will take an epoch, and the fit longer "
                    "than asked; raise the budget, or give fewer dims or documents"
                ),
                stacklevel=4,
            )
        # The given recipe is trained, and so is the final run, which is at least as long, or is the same run.
        most = 2 * self.recipe.epochs * epoch_seconds
        if most > self.budget:
            warnings.warn(
                BudgetWarning(
                    f"training can take up to {most:.0f} s instead of the budget of {self.budget:.0f} s: it lasts at "
                    f"least {self.recipe.epochs:g} epochs, once or twice, and an epoch with its validation takes "
                    f"{epoch_seconds:.1f} s; to shorten it, give fewer documents, or a recipe of fewer epochs"
                ),
                stacklevel=4,
            )

    def _try_terms(self, first: Recipe) -> tuple[Recipe, Standing]:
        """Try sets of terms at one width, and return the best with its rating."""
        queue = self.recipe.queue or 2 * self.recipe.batch
        if self.trades and first.objective is Aim.RELEVANCE:
            trials = relevance_trials(first, self.rows)
            candidates = {name: trial.replace(epochs=first.epochs) for name, trial in trials.items()}
        elif self.recipe.for_codes:
            candidates = {"alignment": first.replace(queue=0), "queue": first.replace(queue=queue)}
        else:
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
        stable = {width: each.figure for width, each in swept.items() if not each.diverged}
        dim, reason = knee(stable, self.figure, "latent" if self.recipe.for_codes else "4 bytes")
        values = {str(width): value for width, value in stable.items()}
        self._step("knee", lambda: {"dim": dim, "reason": reason, self.figure: values})
        return dim, swept[dim]

    def _tune(self, chosen: Recipe, reached: Standing) -> Recipe:
        """Tune learning rate and length, and return the recipe of the final run."""
        tuned = {"as it is": (reached, chosen)}
        for factor in _LEARNING_RATES:
            candidate = chosen.replace(learning_rate=chosen.learning_rate * factor)
            tuned[f"tune {candidate.learning_rate:g}"] = (reached, candidate)
        if chosen.objective is Aim.RELEVANCE:
            tuned["tune decay"] = (reached, chosen.replace(weight_decay=max(_DECAY, 2 * chosen.weight_decay)))
        for name, (_, candidate) in tuned.items():
            if candidate != chosen:
                tuned[name] = (self._train(name, candidate), candidate)
        reached, best = max(tuned.values(), key=lambda each: each[0])
        longer = self._train("tune length", best.replace(epochs=2 * best.epochs))
        # The last run has measured the pace of the chosen width and terms.
        pace = self.content["steps"]["tune length"]["seconds"] / (2 * best.epochs)
        epochs = max(2 * best.epochs, self._epochs(self.final, pace)) if longer > reached else best.epochs
        return best.replace(
            nested_dims=tuple(width for width in self.recipe.nested_dims if width < best.dim),
            epochs=max(epochs, self.recipe.epochs),
        )

    def _finish(self, locked: Recipe) -> tuple[str, Recipe]:
        """Return the step whose run is served: the better one of the last two, or the best short one where both
        diverged.
        """
        last = {"final": locked, "default": self.recipe.replace(dim=locked.dim, nested_dims=locked.nested_dims)}
        if last["default"] == locked:
            del last["default"]
        standing = {name: self._train(name, recipe, full_size=True) for name, recipe in last.items()}
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
        best = max(stable, key=lambda name: float(steps[name]["validation"][self.figure]["mean"]))
        return best, Recipe.from_dict(steps[best]["recipe"])

    def _try_other_aim(self, served: str, recipe: Recipe) -> None:
        """Train for the other aim, and without compression, at the width chosen."""
        other = recipe
        if recipe.objective is Aim.RELEVANCE:
            pace = self.content["steps"]["pace"]["epoch_seconds"]
            neighbours = choose_recipe(width=self.collection.dim, rows=self.rows, dim=recipe.dim)
            self._train("neighbours", self._bounded(neighbours, pace))
        else:
            trials = relevance_trials(recipe, self.rows)
            pace = self._step("relevance pace", lambda: self._pace(trials["relevance"]))["epoch_seconds"]
            short = self._epochs(self.short, pace)
            reached = {name: self._train(name, trial.replace(epochs=short)) for name, trial in trials.items()}
            other = self._bounded(trials[max(reached, key=lambda name: reached[name])], pace)
            self._train("relevance final", other)
        self._train("full width", other.replace(dim=self.collection.dim, nested_dims=()))
        part = self.collection.validation
        self._step(
            "frontier", lambda: frontier(self.content["steps"], recipe.dim, served, opponent="full width", part=part)
        )

    def _bounded(self, recipe: Recipe, pace: float) -> Recipe:
        """Shorten the long run of the other aim to its share of the budget, but not below two short ones."""
        most = max(2 * self._epochs(self.short, pace), self._epochs(_OTHER, pace))
        return recipe.replace(epochs=min(recipe.epochs, most))

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
        start = _clock()
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
                )
            except DivergedError as error:
                return {"seconds": _taken(start), "recipe": recipe.to_dict(), "diverged": str(error)}
        decision = gate(result.figures, result.baselines, recipe.objective)
        return {
            "seconds": _taken(start),
            "recipe": recipe.to_dict(),
            "validation": intervals(result.figures),
            "loses": [each.figure for each in decision.lost],
            "worth": decision.worth,
            "warnings": [str(warning) for warning in result.warnings],
        }

    def _pace(self, recipe: Recipe) -> dict[str, Any]:
        self.collection.baselines(recipe.dim)
        start = _clock()
        with _muted(BelowBaselineWarning), suppress(DivergedError):
            probe = recipe.replace(epochs=_PROBE_EPOCHS, checkpoints=1)
            train(self.collection, probe, self._folder("pace"), full_size=False)
        return {"epoch_seconds": (_taken(start)) / _PROBE_EPOCHS}

    def _epochs(self, share: float, epoch_seconds: float) -> float:
        return min(_LONGEST, max(1.0, round(self.budget * share / epoch_seconds, 1)))

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
        save_checkpoint(
            folder, replace(checkpoint, provenance={**checkpoint.provenance, **found, "gate": str(decision)})
        )
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


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _taken(start: tuple[float, float]) -> float:
    """Return the seconds that the work itself took, whatever else the machine did and however many threads worked."""
    return min(now - then for now, then in zip(_clock(), start, strict=True))


@contextmanager
def _muted(category: type[Warning]) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
