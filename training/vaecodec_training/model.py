"""Define the model: a residual encoder that starts at a linear codec, a log-variance head, and a decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaecodec.interface import FloatArray, Metric
from vaecodec.linear import LinearCodec
from vaecodec.vectors import SMALLEST_NORM
from vaecodec_training.recipe import LatentMetric

# Variance of the posterior at the start, relative to the latent's variance: about 1.5 nats per dimension.
_START_NOISE = 0.05

# The head of the variances learns this many times as fast: variances change by orders of magnitude, weights by parts.
_HEAD_RATE = 20.0

_ENCODE_ROWS = 4096


class ResidualMap(nn.Module):
    """Compute y = linear(x) + output(relu(hidden(x))), without the second part when ``hidden`` is 0.

    The output layer starts at zero, so the map starts linear.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = _linear(inputs, outputs, generator)
        self.hidden = _linear(inputs, hidden, generator) if hidden else None
        self.output = _linear(hidden, outputs, generator) if hidden else None
        if self.output is not None:
            nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if self.hidden is not None and self.output is not None:
            y = y + self.output(torch.relu(self.hidden(x)))
        return y


class Posterior(NamedTuple):
    """Hold what a training step needs for a batch.

    Attributes:
        mean: (n, k) latents before normalisation.
        log_var: (n, k) logarithm of the posterior's variance, or None for a plain autoencoder.
        query_mean: (m, k), or None without queries.
        reconstructions: one (n, d) per width, of sampled latents cut to that width; empty when nothing asks for them.
    """

    mean: Tensor
    log_var: Tensor | None
    query_mean: Tensor | None
    reconstructions: tuple[Tensor, ...]


class VariationalCodec(nn.Module):
    """Map embeddings (n, d) to latents (n, k) and back.

    Under cosine the embeddings are normalised on the way in, and ``decode`` returns unit vectors. Latents are brought
    into their form on the way out. Only the posterior's mean is served.

    Args:
        dim: width d of the embeddings.
        code_dim: width k of the latents.
        hidden: units of the encoder's hidden layer, 0 for none.
        decoder_hidden: units of the decoder's hidden layer, 0 for none.
        asymmetric: queries have an encoder of their own.
        metric: how embeddings are compared.
        form: what is done to the latents before they are compared; see :class:`~vaecodec_training.recipe.LatentMetric`.
        seed: of the random weights.
    """

    def __init__(
        self,
        dim: int,
        code_dim: int,
        *,
        hidden: int,
        decoder_hidden: int = 0,
        asymmetric: bool = False,
        metric: Metric = Metric.COSINE,
        form: LatentMetric = LatentMetric.COSINE,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.dim = dim
        self.code_dim = code_dim
        self.metric = metric
        self.form = form if metric is Metric.COSINE else LatentMetric.DOT
        self.encoder = ResidualMap(dim, code_dim, hidden, generator)
        self.log_var = _linear(dim, code_dim, generator)
        self.decoder = ResidualMap(code_dim, dim, decoder_hidden, generator)
        self.query_encoder = ResidualMap(dim, code_dim, hidden, generator) if asymmetric else None
        self._share_start()

    @torch.no_grad()
    def start_at(self, linear: LinearCodec) -> None:
        """Set the weights so that the model equals the linear codec of the same widths."""
        components, mean = torch.from_numpy(linear.components), torch.from_numpy(linear.mean)
        self.encoder.linear.weight.copy_(components)
        self.encoder.linear.bias.copy_(-components @ mean)
        self.decoder.linear.weight.copy_(components.T)
        self.decoder.linear.bias.copy_(mean)
        self._share_start()

    @torch.no_grad()
    def start_noise(self, variance: Tensor) -> None:
        """Let every posterior's variance start at the same small share of the variance of its latent, (k,)."""
        nn.init.zeros_(self.log_var.weight)
        self.log_var.bias.copy_(torch.log(_START_NOISE * variance.clamp_min(1e-12)))

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        """Permute the latents: the new i-th is the old ``order[i]``; what the model computes stays the same."""
        for layer in (*self._into_latents, self.log_var):
            layer.weight.copy_(layer.weight[order])
            layer.bias.copy_(layer.bias[order])
        for layer in self._out_of_latents:
            layer.weight.copy_(layer.weight[:, order])

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> None:
        """Apply an orthonormal (k, k) map: latents become ``latents @ rotation``, reconstructions stay the same.

        A posterior with a variance for each dimension has none in other coordinates: its head is left as it is.
        """
        for layer in self._into_latents:
            layer.weight.copy_(rotation.T @ layer.weight)
            layer.bias.copy_(rotation.T @ layer.bias)
        for layer in self._out_of_latents:
            layer.weight.copy_(layer.weight @ rotation)

    def encode(self, documents: Tensor) -> Tensor:
        """Encode documents (n, d) to latents (n, k), of unit norm where they are compared by cosine."""
        return finished(self.encoder(self._in(documents)), self.code_dim, self.form)

    def encode_queries(self, queries: Tensor) -> Tensor:
        """Encode queries (n, d) to latents (n, k), of unit norm where they are compared by cosine."""
        return finished(self._query_map(self._in(queries)), self.code_dim, self.form)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode latents (n, k) to reconstructions (n, d), of unit norm under cosine."""
        return self._in(self.decoder(codes))

    def forward(
        self, documents: Tensor, queries: Tensor | None, noise: Tensor | None, widths: tuple[int, ...]
    ) -> Posterior:
        """Make one training pass.

        Args:
            documents: (n, d).
            queries: (m, d), or None.
            noise: (n, k) standard normal, which samples the latents; None decodes the mean.
            widths: those to reconstruct from.
        """
        inputs = self._in(documents)
        mean = self.encoder(inputs)
        log_var = self.log_var(inputs) if noise is not None else None
        query_mean = None if queries is None else self._query_map(self._in(queries))
        sample = mean if noise is None or log_var is None else mean + noise * torch.exp(0.5 * log_var)
        reconstructions = []
        for width in widths:
            prefix = finished(sample, width, self.form)
            reconstructions.append(self.decode(F.pad(prefix, (0, self.code_dim - width))))
        return Posterior(mean, log_var, query_mean, tuple(reconstructions))

    @property
    def latent_metric(self) -> Metric:
        """Return how the latents are compared."""
        if self.metric is not Metric.COSINE:
            return self.metric
        return Metric.COSINE if self.form is LatentMetric.COSINE else Metric.DOT

    @property
    def _query_map(self) -> ResidualMap:
        return self.encoder if self.query_encoder is None else self.query_encoder

    @property
    def _into_latents(self) -> list[nn.Linear]:
        encoders = [self.encoder] if self.query_encoder is None else [self.encoder, self.query_encoder]
        layers = [layer for encoder in encoders for layer in (encoder.linear, encoder.output)]
        return [layer for layer in layers if layer is not None]

    @property
    def _out_of_latents(self) -> list[nn.Linear]:
        return [layer for layer in (self.decoder.linear, self.decoder.hidden) if layer is not None]

    def _share_start(self) -> None:
        if self.query_encoder is not None:
            self.query_encoder.load_state_dict(self.encoder.state_dict())

    def _in(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) if self.metric is Metric.COSINE else vectors


def finished(latents: Tensor, width: int, form: LatentMetric) -> Tensor:
    """Return the first ``width`` latents, of (n, k), in the form in which they are compared."""
    if form is LatentMetric.ROOT:
        latents = latents / latents.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM).sqrt()
    prefix = latents[:, :width]
    return F.normalize(prefix, dim=1) if form is LatentMetric.COSINE else prefix


@torch.no_grad()
def interpolated(start: VariationalCodec, trained: VariationalCodec, share: float) -> VariationalCodec:
    """Return a model with weights between the start, at share 0, and the trained ones, at 1.

    Hidden layers are the trained ones throughout, since the layers after them start at zero.
    """
    model = copy.deepcopy(trained)
    for (name, weight), first in zip(model.named_parameters(), start.parameters(), strict=True):
        if ".hidden." not in name:
            weight.copy_(torch.lerp(first.to(weight.device), weight, share))
    return model


def parameter_groups(model: VariationalCodec, unit: float = 1.0) -> list[dict[str, Any]]:
    """Return the trained parameters in groups for the optimiser.

    Matrices are decayed. Biases are not, nor is the log-variance head, whose zero means a variance of 1.

    Args:
        model: the model.
        unit: typical norm of what it embeds. The optimiser's steps have a size of their own, so that what has a unit
            must move by that unit: biases are as long as the vectors, and the head makes plain numbers of them.

    Returns:
        Groups with ``params``, whether each ``decays``, and ``rate``, its multiple of the learning rate.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, entry in model.named_parameters():
        if entry.requires_grad:
            head = name.startswith("log_var")
            matrix = entry.ndim > 1
            rate = _HEAD_RATE / (unit if matrix else 1.0) if head else 1.0 if matrix else unit
            key = (matrix and not head, rate)
            groups.setdefault(key, []).append(entry)
    return [{"params": entries, "decays": key[0], "rate": key[1]} for key, entries in groups.items()]


@dataclass(frozen=True, eq=False)
class ModelCodec:
    """Run a model's maps on numpy arrays, as a codec does.

    Attributes:
        model: in evaluation mode.
    """

    model: VariationalCodec

    @property
    def metric(self) -> Metric:
        """Return how the embeddings are compared."""
        return self.model.metric

    @property
    def latent_metric(self) -> Metric:
        """Return how the latents are compared."""
        return self.model.latent_metric

    def encode(self, vectors: FloatArray) -> FloatArray:
        """Map documents to latents."""
        return in_numpy(self.model.encode, self.model)(vectors)

    def encode_queries(self, vectors: FloatArray) -> FloatArray:
        """Map queries to latents."""
        return in_numpy(self.model.encode_queries, self.model)(vectors)

    def decode(self, codes: FloatArray) -> FloatArray:
        """Map latents to reconstructions."""
        return in_numpy(self.model.decode, self.model)(codes)


def in_numpy(function: Callable[[Tensor], Tensor], model: nn.Module) -> Callable[[FloatArray], FloatArray]:
    """Run a model's function over arrays in blocks."""
    device = next(model.parameters()).device

    def apply(rows: FloatArray) -> FloatArray:
        with torch.inference_mode():
            blocks = [
                function(torch.from_numpy(rows[start : start + _ENCODE_ROWS]).to(device)).float().cpu().numpy()
                for start in range(0, max(len(rows), 1), _ENCODE_ROWS)
            ]
        return np.concatenate(blocks)

    return apply


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Initialise a layer as PyTorch does, from a given generator, with a bias of zero."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
