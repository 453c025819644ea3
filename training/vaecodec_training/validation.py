"""Validate a model beside the linear codecs, and compare figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from vaecodec.evaluation import best, bootstraps
from vaecodec_training.channel import through_code
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import Encode, HeldOut, QueryFigures
from vaecodec_training.model import VariationalCodec, in_numpy
from vaecodec_training.recipe import Recipe

_LOG = logging.getLogger(__name__)


def validate(
    model: VariationalCodec, collection: Collection, recipe: Recipe, part: HeldOut | None = None
) -> QueryFigures:
    """Return the figures of the latents, or of what their codes decode to when it is these that are trained for.

    Args:
        model: the codec.
        collection: what it is trained on.
        recipe: how.
        part: what to measure on; by default what the collection holds out for validation.
    """
    _LOG.debug("validating")
    encode = in_numpy(model.encode, model)
    if recipe.for_codes:
        encode = through_code(encode, collection.calibration_sample, recipe, model.latent_metric)
    part = part or collection.validation
    return part.figures(encode, in_numpy(model.encode_queries, model), model.latent_metric)


def baselines(collection: Collection, recipe: Recipe) -> dict[str, QueryFigures]:
    """Return the validation figures of the linear codecs by kind; training for codes, of the start through the same
    code."""
    _LOG.debug("measuring the linear codecs of %d latents", recipe.dim)
    if not recipe.for_codes:
        return collection.baselines(recipe.dim)
    kind = collection.start_kind
    linear = collection.linear(recipe.dim, kind)
    encode = through_code(linear.encode, collection.calibration_sample, recipe, collection.metric)
    return {str(kind): collection.validation.figures(encode, linear.encode_queries, collection.metric)}


def linear_figures(collection: Collection, recipe: Recipe, part: HeldOut) -> dict[str, QueryFigures]:
    """Return the figures of every linear codec of a recipe's width by kind, through the code that is trained for."""
    if not recipe.for_codes and part is collection.validation:
        return collection.baselines(recipe.dim)
    found = {}
    for kind, linear in collection.linear_family(recipe.dim).items():
        encode: Encode = linear.encode
        if recipe.for_codes:
            encode = through_code(encode, collection.calibration_sample, recipe, linear.latent_metric)
        found[kind] = part.figures(encode, linear.encode_queries, linear.latent_metric)
    return found


def intervals(figures: QueryFigures) -> dict[str, dict[str, float]]:
    """Return the means with their 95 % bootstrap intervals over the queries, as JSON values."""
    return {name: each._asdict() for name, each in bootstraps(figures).items()}


def gain(figures: QueryFigures, baseline: QueryFigures) -> dict[str, dict[str, float]]:
    """Return paired differences to a baseline with their 95 % intervals, as JSON values."""
    return intervals({name: values - baseline[name] for name, values in figures.items()})


def gains(figures: QueryFigures, baselines: Mapping[str, QueryFigures]) -> dict[str, dict[str, float]]:
    """Return what :func:`gain` does, each figure minus that of the linear codec which is best in it."""
    return intervals({name: values - baselines[best(baselines, name)][name] for name, values in figures.items()})
