"""Validate a model beside the linear codecs, and compare figures."""

from __future__ import annotations

from vaecodec.evaluation import bootstrap, paired_bootstrap
from vaecodec_training.channel import through_code
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.model import VariationalCodec, in_numpy
from vaecodec_training.recipe import Recipe


def validate(model: VariationalCodec, collection: Collection, recipe: Recipe) -> QueryFigures:
    """Validation figures of the latents, or of what their codes decode to when it is these that are trained for."""
    encode = in_numpy(model.encode, model)
    if recipe.for_codes:
        encode = through_code(encode, collection.calibration_sample, recipe, collection.metric)
    return collection.validation.figures(encode, in_numpy(model.encode_queries, model), collection.metric)


def baselines(collection: Collection, recipe: Recipe) -> dict[str, QueryFigures]:
    """Validation figures of the linear codecs by kind; training for codes, of the start through the same code."""
    if not recipe.for_codes:
        return collection.baselines(recipe.dim)
    kind = collection.start_kind
    linear = collection.linear(recipe.dim, kind)
    encode = through_code(linear.encode, collection.calibration_sample, recipe, collection.metric)
    return {str(kind): collection.validation.figures(encode, linear.encode_queries, collection.metric)}


def intervals(figures: QueryFigures) -> dict[str, dict[str, float]]:
    """Means with their 95 % bootstrap intervals over the queries, as JSON values."""
    return {name: bootstrap(values)._asdict() for name, values in figures.items()}


def gain(figures: QueryFigures, baseline: QueryFigures) -> dict[str, dict[str, float]]:
    """Paired differences to a baseline with their 95 % intervals, as JSON values."""
    return {name: paired_bootstrap(values, baseline[name])._asdict() for name, values in figures.items()}
