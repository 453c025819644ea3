"""Decide where training starts: the form of the latents, and the linear codec."""

from __future__ import annotations

import torch

from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec_training.channel import in_units_of_spread
from vaecodec_training.checkpoint import new_model
from vaecodec_training.data.collection import Collection
from vaecodec_training.model import VariationalCodec, in_numpy
from vaecodec_training.recipe import Aim, LatentMetric, Recipe, Start
from vaecodec_training.validation import validate

# ``auto`` chooses among these.
_FORMS = (LatentMetric.COSINE, LatentMetric.ROOT, LatentMetric.DOT)


def decided(recipe: Recipe, collection: Collection) -> Recipe:
    """Return the recipe with the form of the latents that ``auto`` stands for.

    For neighbours it is the one in which the start, a linear map, has the highest recall@10 on the validation rows. For
    relevance and for codes it is cosine, with which those recipes were measured. So it is with nested widths, since the
    first latents of many have another length than all of them.
    """
    if recipe.latent_metric is not LatentMetric.AUTO or collection.metric is not Metric.COSINE:
        return recipe
    linear_start = recipe.experimental.start is Start.LINEAR
    if recipe.for_codes or recipe.nested_dims or recipe.objective is Aim.RELEVANCE or not linear_start:
        return recipe.replace(latent_metric=LatentMetric.COSINE)

    def reached(form: LatentMetric) -> float:
        candidate = recipe.replace(latent_metric=form)
        figures = validate(start_model(collection, candidate), collection, candidate)
        return float(figures[recipe.objective.figure].mean())

    return recipe.replace(latent_metric=max(_FORMS, key=reached))


def start_kind(collection: Collection, recipe: Recipe) -> LinearKind:
    """Return the linear codec that is best for the objective; training for codes, the one whose spread these are
    made for."""
    if recipe.for_codes:
        return collection.start_kind
    latent_metric = collection.metric
    if recipe.form(collection.metric) in (LatentMetric.DOT, LatentMetric.ROOT) and latent_metric is Metric.COSINE:
        latent_metric = Metric.DOT
    return collection.best_start(recipe.dim, recipe.objective.figure, latent_metric)


def start_model(collection: Collection, recipe: Recipe) -> VariationalCodec:
    """Return a model at the linear codec that training starts from."""
    model = new_model(collection.dim, recipe, collection.metric)
    if recipe.experimental.start is Start.LINEAR:
        model.start_at(collection.linear(recipe.dim, start_kind(collection, recipe)))
    variance = torch.from_numpy(in_numpy(model.encoder, model)(collection.validation.documents).var(axis=0))
    model.start_noise(variance)
    if recipe.for_codes:
        for encoder in (model.encoder, model.query_encoder):
            if encoder is not None:
                in_units_of_spread(encoder, variance)
    # With several processes every parameter must get a gradient, unless it is declared fixed.
    model.log_var.requires_grad_(recipe.kl > 0)
    model.decoder.requires_grad_(recipe.reconstructs)
    return model
