"""Imitate the quantiser in training: what codes will do to the latents, as the VAE's own noisy channel.

A quantiser that spends R bits on a Gaussian dimension of variance s^2 leaves a distortion D s^2. Shannon's test channel
has the same distortion: u' = (1 - D) u + sqrt(D (1 - D)) e, with u in units of s and e standard normal (Cover & Thomas,
Elements of Information Theory, 10.3). It is a posterior whose KL from its prior is log(1 / D) / 2 nats, so the rate of
the codes is the rate of the VAE, and the byte budget takes the place of the KL weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaecodec.codes import Calibration, Code, CodeType, TrellisCode, TrellisTables
from vaecodec.codes.importance import importance_of
from vaecodec.codes.rotation import rotate, rotate_back
from vaecodec.codes.uniform import LEVELS, Int8Code, RotatedCode
from vaecodec.interface import FloatArray, Metric
from vaecodec_training.data.held_out import Encode
from vaecodec_training.recipe import Recipe

# Mean squared error per unit variance of the optimal uniform-rate quantisers of a Gaussian (Max 1960).
_UNIFORM_DISTORTION = {CodeType.BINARY: 0.36338, CodeType.INT2: 0.11748, CodeType.INT4: 0.009497}

# Steps to learn a rotation. The distortion falls by 4 % in 5 steps, 7 % in 20, 8 % in 40 (debian-minilm, 192 x 2 bits).
_ROTATION_STEPS = 40
# Rows to learn it on. 2,048 rows cost .003 of held-out recall against 8,192; 20,000 gain nothing (192 x 2 bits).
_ROTATION_ROWS = 8192


class Channel(nn.Module):
    """Map latents (n, k) to what decoding their codes would give, with a gradient.

    Its buffers are part of a run's state: the latents' moments, as last measured, and each dimension's distortion.

    Args:
        recipe: its settings under "Codes" are read.
        metric: how the latents are compared.
    """

    mean: Tensor
    spread: Tensor
    peak: Tensor
    signs: Tensor
    distortion: Tensor

    def __init__(self, recipe: Recipe, metric: Metric) -> None:
        super().__init__()
        self._recipe = recipe
        self._metric = metric
        self._trellis = TrellisTables.standard(recipe.trellis_memory)
        self._codes: list[Code] = []
        for name in ("mean", "spread", "peak"):
            self.register_buffer(name, torch.zeros(recipe.dim))
        self.register_buffer("signs", torch.zeros(4, recipe.dim))
        self.register_buffer("distortion", torch.full((max(1, len(recipe.target_bytes)), recipe.dim), torch.nan))

    def measure(self, latents: FloatArray) -> None:
        """Measure the moments of the latents, float32 (n, k), as they are now, and allocate the bits again."""
        calibration = Calibration.fit(latents, self._metric)
        for name in ("mean", "spread", "peak", "signs"):
            getattr(self, name).copy_(torch.from_numpy(getattr(calibration, name)))
        self._codes = []
        if self._recipe.target == CodeType.INT8:
            (code,) = self.codes
            assert isinstance(code, Int8Code)
            # Errors are distributed uniformly over one step, which all dimensions share.
            self.distortion.fill_(min(1.0, float(code.step**2 / 12 / np.mean(calibration.spread**2))))
        elif self._recipe.target:
            self.distortion.fill_(_UNIFORM_DISTORTION[CodeType(self._recipe.target)])
        else:
            left = np.concatenate([np.ones(1, np.float32), self._trellis.distortion])
            for row, code in zip(self.distortion, self.codes, strict=True):
                assert isinstance(code, TrellisCode)
                row.copy_(torch.from_numpy(left[code.bits]))

    @property
    def codes(self) -> list[Code]:
        """Return the codes trained for, calibrated as last measured: one, or one per byte budget."""
        if not self._codes:
            mean, spread, peak, signs = (
                getattr(self, name).cpu().numpy() for name in ("mean", "spread", "peak", "signs")
            )
            calibration = Calibration(
                self._metric, mean, spread, importance_of(spread), peak, signs, LEVELS, self._trellis
            )
            if self._recipe.target:
                self._codes = [calibration.code(dtype=self._recipe.target)]
            else:
                self._codes = [calibration.code(bytes=size) for size in self._recipe.target_bytes]
        return self._codes

    @property
    def rates(self) -> list[dict[str, float]]:
        """Return for each code the bits that the channel's KL stands for, and the bits that the code really takes."""
        thought = -0.5 * torch.log2(self.distortion.double()).sum(1)
        return [
            {"kl_bits": float(bits), "code_bits": 8.0 * code.bytes_per_vector}
            for bits, code in zip(thought, self.codes, strict=True)
        ]

    def forward(self, latents: Tensor, noise: Tensor, step: int) -> Tensor:
        """Make one pass; several budgets take turns.

        Args:
            latents: (n, k), of unit norm under cosine.
            noise: (n, k) standard normal.
            step: of the optimiser.
        """
        turn = step % len(self.distortion)
        distortion = self.distortion[turn]
        mean, spread = self.mean, self.spread
        if self._recipe.target:
            # A shared step, or a rotation, spreads the error evenly over all dimensions.
            spread = (latents.detach() - mean).square().mean().sqrt().expand_as(spread)
        spread = spread.clamp_min(torch.finfo(spread.dtype).tiny)
        units = (latents - mean) / spread
        sampled = (1 - distortion) * units + torch.sqrt(distortion * (1 - distortion)) * noise
        return mean + spread * sampled

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load the state as usual, and make the codes again."""
        self._codes = []
        return super().load_state_dict(*arguments, **options)


def learned_rotation(latents: FloatArray, code: Code) -> FloatArray:
    """Return the orthonormal map after which a code of one or two bits per dimension loses less.

    Alternates between rounding and the closest rotation, from the code's own rotation on: iterative quantisation (Gong
    et al. 2013, 10.1109/TPAMI.2012.193), with the code's levels in place of signs. Dot products stay what they are.

    Args:
        latents: float32 (n, k) of training documents.
        code: calibrated on them.

    Returns:
        float32 (k, k): ``latents @ map`` takes the place of ``latents``. The identity for other codes, which gain
        nothing: four bits lose too little, and trellis codes want the dimensions apart.
    """
    turned = np.eye(latents.shape[1], dtype=np.float32)
    if not isinstance(code, RotatedCode) or code.type is CodeType.INT4:
        return turned
    coordinates = code.coordinates(latents[:: -(-len(latents) // _ROTATION_ROWS)])
    for _ in range(_ROTATION_STEPS):
        levels = code.levels[code.nearest(coordinates @ turned)]
        left, _, right = np.linalg.svd(coordinates.T @ levels)
        turned = left @ right
    return rotate_back(rotate(np.eye(len(turned), dtype=np.float32), code.signs) @ turned, code.signs)


class _InUnits(nn.Module):
    """Keep a parameter in units of the latents' spread."""

    spread: Tensor

    def __init__(self, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("spread", spread.clamp_min(1e-6))

    def forward(self, parameter: Tensor) -> Tensor:
        return parameter * self._like(parameter)

    def right_inverse(self, parameter: Tensor) -> Tensor:
        return parameter / self._like(parameter)

    def _like(self, parameter: Tensor) -> Tensor:
        return self.spread[:, None] if parameter.ndim > 1 else self.spread


def in_units_of_spread(encoder: nn.Module, variance: Tensor) -> None:
    """Scale parameters so that the optimiser sees each latent in units of its standard deviation.

    Steps of Adam have one size for all weights, but a codec for codes keeps dimensions whose spread differs
    a hundredfold: a rate that suits the widest would drown the narrowest.

    Args:
        encoder: a :class:`~vaecodec_training.model.ResidualMap`.
        variance: (k,) of its outputs.
    """
    for layer in (getattr(encoder, name) for name in ("linear", "output")):
        if layer is not None:
            for name in ("weight", "bias"):
                parametrize.register_parametrization(layer, name, _InUnits(variance.sqrt()))


def code_for(latents: FloatArray, recipe: Recipe, metric: Metric) -> Code:
    """Return the code that a recipe trains for, the middle one of several, calibrated on latents (n, k)."""
    calibration = Calibration.fit(latents, metric, memory=recipe.trellis_memory)
    return calibration.code(dtype=recipe.target or None, bytes=recipe.judged_bytes)


def rotation_for(latents: FloatArray, recipe: Recipe, metric: Metric) -> FloatArray:
    """Return the rotation (k, k) that suits the uniform code trained for. Nested widths stay apart, so they get
    none."""
    if recipe.nested_dims or not recipe.target:
        return np.eye(latents.shape[1], dtype=np.float32)
    return learned_rotation(latents, code_for(latents, recipe, metric))


def through_code(encode: Encode, sample: FloatArray, recipe: Recipe, metric: Metric) -> Encode:
    """Return an encoder whose latents have been through the code that a recipe trains for.

    As in the file that is served, rotation and calibration are fitted on training documents.

    Args:
        encode: documents (n, d) to latents (n, k).
        sample: float32 (n, d) training documents to calibrate on.
        recipe: its target is read.
        metric: how the latents are compared.
    """
    fitted_on = encode(sample)
    rotation = rotation_for(fitted_on, recipe, metric)
    code = code_for(fitted_on @ rotation, recipe, metric)

    def encode_and_decode(rows: FloatArray) -> FloatArray:
        return code.decode(code.encode(encode(rows) @ rotation)) @ rotation.T

    return encode_and_decode
