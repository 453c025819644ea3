"""Choose the recipe for what a user asks for, once the data are known."""

from __future__ import annotations

from dataclasses import dataclass

from vaecodec.sources import VectorSource
from vaecodec_training.recipe import Recipe, choose_recipe


@dataclass(frozen=True, kw_only=True)
class RecipeRequest:
    """Say how to train; what is not given is as the recipe says.

    Attributes:
        base: settings to start from; by default those that suit the data.
        target: codes to train for, see :func:`~vaecodec_training.recipe.choose_recipe`.
        objective: ``neighbours`` or ``relevance``; empty for that of ``base``.
        dim, nested_dims, epochs, seed: settings of the recipe; None leaves a setting as it is.
    """

    base: Recipe | None = None
    target: str = ""
    objective: str = ""
    dim: int | None = None
    nested_dims: tuple[int, ...] | None = None
    epochs: float | None = None
    seed: int | None = None

    def recipe(self, documents: VectorSource, *, paired: bool) -> Recipe:
        """Return the recipe for these documents; ``paired`` says whether the answers of queries are known.

        Raises:
            RecipeError: the target is none, there is no such objective, or a setting is out of its range.
        """
        return choose_recipe(
            self.base,
            width=documents.dim,
            rows=documents.rows,
            target=self.target,
            objective=self.objective,
            paired=paired,
            dim=self.dim,
            nested_dims=self.nested_dims,
            epochs=self.epochs,
            seed=self.seed,
        )
