"""Choose how much of a training is kept: the model between the start and the best trained one that loses no figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.full_size import FullSize, judge_at_full_size
from vaecodec_training.gate import gate
from vaecodec_training.model import VariationalCodec, interpolated
from vaecodec_training.recipe import Recipe
from vaecodec_training.validation import validate

# How far from the start to the trained weights the model that is kept may lie. Figures change fastest near the start.
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0)
# Codes take long to calibrate, and nested widths would be lost unseen: for these the better end is kept.
_ENDS = (1.0, 0.0)
# So many models are searched in one pass over all documents. The first passes mostly find one that loses nothing there.
_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class Kept:
    """Hold the model that is kept.

    Attributes:
        model: the codec.
        share: how far it lies from the start, at 0, to the best trained weights, at 1.
        figures: of the validation queries among the held-out documents.
        loses: whether it loses a figure there to a linear codec.
        worth: what it is chosen by, higher is better.
        full_size: the figures among all documents, or None where these were not searched.
    """

    model: VariationalCodec
    share: float
    figures: QueryFigures
    loses: bool
    worth: float
    full_size: FullSize | None = None


def choose_kept(
    start: VariationalCodec,
    trained: VariationalCodec,
    collection: Collection,
    recipe: Recipe,
    baselines: Mapping[str, QueryFigures],
    *,
    full_size: bool,
) -> Kept:
    """Choose among models between the start and the trained one, by the validation queries.

    Of those that lose no figure to a linear codec it is the one that gains most. Where all lose some, what is lost
    counts against what the codec is for. The same queries are then asked among all documents: where the chosen model
    loses a figure there, the best of the others that does not takes its place.

    Args:
        start, trained: the two ends.
        collection: what was trained on.
        recipe: how.
        baselines: validation figures of the linear codecs, by kind.
        full_size: whether to search all documents, too.
    """
    ends = recipe.for_codes or bool(recipe.nested_dims)
    tried = []
    for share in _ENDS if ends else _SHARES:
        model = interpolated(start, trained, share)
        figures = validate(model, collection, recipe)
        decision = gate(figures, baselines, recipe.objective)
        worth = decision.difference.mean if ends else decision.worth
        tried.append(Kept(model, share, figures, bool(decision.lost), worth))
    best = max(tried, key=lambda each: (ends or not each.loses, each.worth))
    if not full_size:
        return best
    others = [] if ends or best.loses else [each for each in tried if not each.loses and each is not best]
    others.sort(key=lambda each: each.worth, reverse=True)
    [best] = _judged([best], collection, recipe)
    if _lossless(best):
        return best
    for first in range(0, len(others), _AT_ONCE):
        judged = _judged(others[first : first + _AT_ONCE], collection, recipe, best.full_size)
        for each in judged:
            if _lossless(each):
                return each
    return best


def _judged(tried: list[Kept], collection: Collection, recipe: Recipe, known: FullSize | None = None) -> list[Kept]:
    models = [each.model for each in tried]
    found = judge_at_full_size(models, collection, recipe, collection.validation, known)
    return [replace(each, full_size=whole) for each, whole in zip(tried, found, strict=True)]


def _lossless(kept: Kept) -> bool:
    return kept.full_size is not None and not kept.full_size.lost
