"""Compute the objective: the terms that a step minimises, and what they keep from past steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaecodec.interface import Metric
from vaecodec_training import losses
from vaecodec_training.channel import Channel
from vaecodec_training.data.batches import Batch
from vaecodec_training.data.collection import Collection
from vaecodec_training.model import Posterior, ResidualMap, VariationalCodec, finished
from vaecodec_training.processes import Processes
from vaecodec_training.queue import Queue
from vaecodec_training.recipe import Aim, LatentMetric, Recipe

# The weight of the distillation is divided among nested widths in proportion to this power of the width. Narrow
# widths have larger errors, and without the power the wide ones would suffer for them.
_NESTED_POWER = 1.5

# Multiples of the temperature and their weights, which sum to 1. At higher temperatures lower ranks count more.
_DEEP = ((1.0, 1 / 7), (2.0, 2 / 7), (4.0, 4 / 7))


class Terms(NamedTuple):
    """Hold the terms of one batch.

    Attributes:
        values: each term unweighted, under the name of its weight in the recipe.
        kl: nats per dimension (k,), or None for a plain autoencoder.
    """

    values: dict[str, Tensor]
    kl: Tensor | None


class Objective:
    """Compute the terms of a recipe over the batches of a collection.

    Attributes:
        queue: documents of past batches.
        key_encoder: the slowly moving encoder that fills the queue, or None.
        channel: what the target code does to latents, or None.
    """

    def __init__(self, recipe: Recipe, collection: Collection, model: VariationalCodec, processes: Processes) -> None:
        self.recipe = recipe
        self.metric = collection.metric
        self.form = recipe.form(collection.metric)
        self.latent_metric = model.latent_metric
        encoder = model.encoder
        self.paired = collection.pairs is not None
        # For relevance, distillation and InfoNCE use plain cosines. Scaled by the spread of similarities, models whose
        # vectors lie in a narrow cone keep more neighbours but find fewer relevant documents (e5: nDCG@10 .516 instead
        # of .561).
        with_pairs = recipe.objective is Aim.RELEVANCE and collection.metric is Metric.COSINE
        self.temperature = recipe.temperature * (1.0 if with_pairs else collection.scale)
        self.depths = _DEEP if recipe.deep_lists else ((1.0, 1.0),)
        self.processes = processes
        self.queue = Queue(recipe.queue, collection.dim, recipe.dim, processes.device)
        needs_keys = recipe.momentum > 0 and recipe.queue > 0
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False) if needs_keys else None
        self.channel = Channel(recipe, self.latent_metric).to(processes.device) if recipe.for_codes else None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Return the modules whose tensors carry over from step to step, by name."""
        modules = {"keys": self.key_encoder, "channel": self.channel}
        return {name: module for name, module in modules.items() if module is not None}

    def terms(self, model: Callable[..., Posterior], batch: Batch, step: int) -> Terms:
        """Compute every term that the recipe weighs, and fill the queue."""
        recipe = self.recipe
        widths = recipe.widths if recipe.reconstructs else ()
        posterior = model(*batch.blurred(recipe.input_noise), batch.noise if recipe.kl else None, widths)
        values: dict[str, Tensor] = {}
        if recipe.alignment:
            values["alignment"] = self.alignment(batch, posterior.mean, posterior.query_mean, step)
        for name, function in (
            ("reconstruction", losses.cosine_reconstruction),
            ("reconstruction_mse", losses.squared_reconstruction),
        ):
            if getattr(recipe, name):
                each = [function(batch.documents, decoded) for decoded in posterior.reconstructions]
                values[name] = torch.stack(each).mean()
        keys = None
        if self.key_encoder is not None:
            with torch.no_grad():
                keys = self.processes.gathered(self.key_encoder(batch.documents))
        if recipe.contrastive:
            asked = posterior.query_mean
            if not self.paired or asked is None:
                # Call the wrapped model, so that several processes exchange these gradients, too.
                asked = model(self._perturbed(batch), None, None, ()).mean
            values["contrastive"] = self.contrastive(
                asked, keys if keys is not None else self.processes.gathered(posterior.mean), batch.weights
            )
        if recipe.queue:
            latents = keys if keys is not None else self.processes.gathered(posterior.mean.detach())
            self.queue.push(self.processes.gathered(batch.documents), latents, step)
        kl = None
        if posterior.log_var is not None:
            kl = losses.kl_per_dimension(
                self.processes.gathered(posterior.mean), self.processes.gathered(posterior.log_var)
            )
        return Terms(values, kl)

    def alignment(self, batch: Batch, mean: Tensor, query_mean: Tensor | None, step: int) -> Tensor:
        """Compute similarity distillation, with all documents of the step as columns.

        Without queries every document is a row; with them every other one, since the queries are rows as well. Hard
        negatives are columns only: as rows they would take most of the time.

        Args:
            batch: vectors of this process.
            mean, query_mean: their latents before normalisation.
            step: of the optimiser; byte budgets take turns by it.
        """
        columns = torch.cat([self.processes.gathered(batch.documents), self.queue.vectors])
        latent_columns = self.processes.gathered(mean)
        coded_columns = None
        if self.channel is not None:
            coded = self.channel(finished(mean, self.recipe.dim, self.form), batch.noise, step)
            coded_columns = self.processes.gathered(coded)
        stride = 1 if query_mean is None else 2
        first = self.processes.rank * len(mean)
        negatives = 0 if batch.queries is None else self.recipe.hard_negatives * len(batch.queries)
        chosen = slice(0, len(mean) - negatives, stride)
        own = first + torch.arange(len(mean), device=mean.device)[chosen]
        rows: list[tuple[Tensor, Tensor, Tensor | None]] = [(batch.documents[chosen], mean[chosen], own)]
        if batch.queries is not None and query_mean is not None:
            rows.append((batch.queries, query_mean, None))
        total = mean.new_zeros(())
        for vectors, latents, itself in rows:
            teacher = losses.comparable(vectors, columns, self.metric)
            if itself is None and self.paired:
                teacher = self.softened(*teacher, first)
            for width in self.recipe.widths:
                # Nested widths are searched as floats, the whole width as codes.
                searched = finished(latent_columns, width, self.form)
                if coded_columns is not None and width == self.recipe.dim:
                    by_cosine = self.form is LatentMetric.COSINE
                    searched = F.normalize(coded_columns, dim=1) if by_cosine else coded_columns
                student = losses.comparable(
                    finished(latents, width, self.form),
                    torch.cat([searched, finished(self.queue.latents, width, self.form)]),
                    self.latent_metric,
                )
                weight: float = float(width) ** _NESTED_POWER
                for factor, share in self.depths:
                    temperature = factor * self.temperature
                    total = total + weight * share * losses.distillation(*teacher, *student, temperature, itself)
        weights: float = sum(float(width) ** _NESTED_POWER for width in self.recipe.widths)
        return total / (len(rows) * weights)

    def contrastive(self, asked: Tensor, keys: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute InfoNCE of queries against their documents, or of perturbed copies against the documents themselves.

        Args:
            asked: (m, k), of this process; row i belongs to this process's i-th document.
            keys: (n, k), latents of the documents of all processes.
            weights: (m,), how much each pair counts, or None.
        """
        # Put the documents of this process first, so that the document of query i is in column i.
        keys = keys.roll(-self.processes.rank * (len(keys) // self.processes.count), 0)
        form = LatentMetric.ROOT if self.form is LatentMetric.ROOT else LatentMetric.COSINE
        return losses.info_nce(
            finished(asked, self.recipe.dim, form),
            finished(keys, self.recipe.dim, form),
            finished(self.queue.latents, self.recipe.dim, form),
            self.recipe.contrastive_temperature,
            weights,
        )

    def softened(self, rows: Tensor, columns: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Mix similarities with known pairs: 1 for a query's own document, 0 for the others.

        Args:
            rows, columns: whose dot products are the similarities.
            first: column of the document of the first query.
        """
        share = self.recipe.soft_labels
        if not share:
            return rows, columns
        pairs = torch.eye(len(rows), device=rows.device)
        own = torch.zeros(len(columns), len(rows), device=rows.device)
        own[first : first + len(rows)] = pairs
        return torch.cat([(1 - share) * rows, share * pairs], 1), torch.cat([columns, own], 1)

    @torch.no_grad()
    def follow(self, encoder: ResidualMap) -> None:
        """Move the key encoder towards the encoder as it is now."""
        if self.key_encoder is not None:
            averages: list[Tensor] = list(self.key_encoder.parameters())
            present: list[Tensor] = list(encoder.parameters())
            torch._foreach_lerp_(averages, present, 1 - self.recipe.momentum)

    def _perturbed(self, batch: Batch) -> Tensor:
        size = self.recipe.contrastive_noise / math.sqrt(batch.documents.shape[1])
        norms: Tensor = batch.documents.norm(dim=1, keepdim=True)
        return batch.documents + size * norms * batch.perturbation
