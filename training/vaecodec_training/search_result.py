"""Hold what a search for a recipe led to, and sum it up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaecodec_training.frontier import Point
from vaecodec_training.gate import Gate
from vaecodec_training.knee import draw_knee
from vaecodec_training.recipe import Recipe

SHORT_RUNS, LINEAR_CODECS = "short runs", "linear codecs"
"""What the width is chosen by."""


@dataclass(frozen=True)
class SearchResult:
    """Hold the result of a search.

    Attributes:
        content: what ``run.json`` holds.
        gate: the decision.
        recipe: of the training run that is served, the final one unless that diverged.
        run: its folder.
        opponent: the folder of the run without compression; None where there is none, or it diverged.
    """

    content: dict[str, Any]
    gate: Gate
    recipe: Recipe
    run: Path
    opponent: Path | None

    @property
    def dim(self) -> int:
        """Return the chosen width."""
        return self.recipe.dim

    @property
    def full_size(self) -> dict[str, Any]:
        """Return what the confirmation queries found among all documents; see
        :meth:`vaecodec_training.full_size.FullSize.to_json`."""
        found: dict[str, Any] = self.content["steps"]["gate"]["full_size"]
        return found

    @property
    def ships(self) -> bool:
        """Tell whether the learned codec ships: the gate lets it pass, and it loses nothing among all documents."""
        return self.gate.passed and not self.full_size["loses"]

    @property
    def linear(self) -> str:
        """Name the linear codec that ships where the learned one does not: the best one among all documents, for codes
        among the held-out ones."""
        return self.gate.over if self.recipe.for_codes else str(self.full_size["over"])

    @property
    def finding(self) -> str:
        """Say how the learned codec compares with linear ones, where something else decides what is exported."""
        return str(self.full_size["loses"]) if self.gate.passed and not self.ships else self.gate.finding

    @property
    def lines(self) -> list[str]:
        """Return the summary for people: the decision, the width and why, and what was found among all documents."""
        steps = self.content["steps"]
        lines = [str(self.gate), f"Width {self.dim}: {steps['knee']['reason']}."]
        if self.gate.passed and not self.ships:
            lines[0] = f"{self.full_size['loses']} Exporting the linear codec {self.linear}."
        if not self.ships:
            lines.append(f"Training does not pay here. The best linear codec is {self.linear}.")
        if "frontier" in steps:
            lines.append(steps["frontier"]["summary"])
        return [*lines, self.full_size["decision"]]

    @property
    def points(self) -> list[Point]:
        """Return the points of the frontier; none where no pairs are known."""
        found = self.content["steps"].get("frontier", {"points": []})
        return [Point(**point) for point in found["points"]]

    def draw(self, path: Path) -> None:
        """Draw the figure of the objective against bytes per vector, learned and best linear, as a picture.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        steps, figure = self.content["steps"], self.recipe.objective.figure

        def sizes(values: dict[str, float]) -> dict[float, float]:
            return {
                bytes_per_vector(self.recipe.replace(dim=int(width), nested_dims=())): values[width] for width in values
            }

        linear = {
            width: max(figures[figure]["mean"] for figures in kinds.values())
            for width, kinds in steps["baselines"].items()
        }
        curves = {"best linear": sizes(linear)}
        if steps["knee"]["of"] == SHORT_RUNS:
            curves = {f"learned, {SHORT_RUNS}": sizes(steps["knee"][figure]), **curves}
        draw_knee(curves, (bytes_per_vector(self.recipe), f"chosen: {self.dim} latents"), figure, path)


def bytes_per_vector(recipe: Recipe) -> float:
    """Return the bytes of one vector of latents, or of the code that a recipe trains for, the middle one of several."""
    if recipe.judged_bytes:
        return float(recipe.judged_bytes)
    bits = {"": 32, "int8": 8, "int4": 4, "int2": 2, "binary": 1}[recipe.target]
    return float(-(-recipe.dim * bits // 8))
