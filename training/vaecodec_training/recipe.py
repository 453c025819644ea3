"""Define the recipe: every setting of a training run, in one frozen dataclass that is also a TOML file."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import tomli_w

from vaecodec.codes import TrellisTables
from vaecodec.errors import RecipeError
from vaecodec.interface import Metric
from vaecodec_training.settings import WIDEST, above_zero, between, check_settings, plain, read_table


class Aim(StrEnum):
    """Name the purpose of a codec."""

    NEIGHBOURS = "neighbours"
    """Find the same documents as the uncompressed embeddings."""
    RELEVANCE = "relevance"
    """Find the right documents, whether the uncompressed embeddings find them or not; pairs are needed."""

    @property
    def figure(self) -> str:
        """Return the figure by which checkpoints and recipes are chosen."""
        return "recall@10" if self is Aim.NEIGHBOURS else "ndcg@10"


class LatentMetric(StrEnum):
    """Name how latents are compared where embeddings are compared by cosine."""

    AUTO = "auto"
    """By whichever suits the collection: held-out rows decide."""
    COSINE = "cosine"
    DOT = "dot"
    """What the codec drops of a document then counts as zero: a document of which much is dropped comes later."""
    ROOT = "root"
    """Halfway between: by dot product, of latents that keep only the square root of their length."""


class Start(StrEnum):
    """Say where the encoder's linear map starts."""

    LINEAR = "linear"
    """At uncentred SVD (PCA under L2), with the non-linear part silent: step 0 is that linear baseline."""
    RANDOM = "random"


class Schedule(StrEnum):
    """Say how the learning rate falls after its warm-up."""

    COSINE = "cosine"
    STEPS = "steps"
    """Divided by ten at 60 % and again at 85 % of the run."""


class TrainingPrecision(StrEnum):
    """Name the arithmetic of matrix products, with Lightning Fabric's names."""

    FULL = "32-true"
    BFLOAT16 = "bf16-mixed"


# Longest line with a dotted key. tomllib's time and memory grow with the square of its length; this takes milliseconds.
_MOST_BYTES = 1 << 14

_TARGETS = ("int8", "int4", "int2", "binary")
_TRELLIS_MEMORIES = (8, 10, 12)

# Half of the documents of a batch belong to its pairs.
_RELEVANCE_BATCH, _RELEVANCE_STEPS = 1536, 1_500
# With fewer pairs a hidden layer overfits (npm-e5small, 6,000 pairs, 64 latents: nDCG@10 .540 instead of .584).
_MANY_PAIRS, _MANY_UNITS = 30_000, 512
# On held-out pairs of npm-e5small (6,000 pairs, 64 latents) this noise gave nDCG@10 .686 and recall@10 .355, none gave
# .683 and .303, and .4 gave .651 and .389. With 40,000 pairs (debian-minilm) it gave .893, and none gave .894.
NOISE_ON_FEW_PAIRS = 0.2
# Floats shall keep most of the old neighbours, too. Short codes lose many anyway, and find far more right documents at
# the larger weight (debian-minilm, 256 latents, 32 bytes: nDCG@10 .776 for .727, recall@10 .655 for .747).
_WEIGHT, WEIGHT_FOR_CODES = 0.2, 0.6
# Assume this many rows if their number is not known.
_UNKNOWN_ROWS = 40_000
# With fewer rows ten epochs are too few steps: 7,500 rows gained .033 over linear in 75 steps, .047 in 550 of 512 rows.
_FEW_ROWS, _SMALL_BATCH, _FEWEST_STEPS = 20_000, 512, 550


@dataclass(frozen=True, kw_only=True)
class Experimental:
    """Hold settings that brought no gain where they were measured. They are here to repeat published recipes."""

    start: Start = Start.LINEAR
    kl_cycles: int = between(1, 1)
    """How often in the run the KL weight rises anew (Fu et al. 2019)."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hold all settings of a run. A weight of zero switches its term off. docs/training.md says what each one is worth.

    The defaults are what ``vaecodec train`` uses.

    Examples:
        >>> from vaecodec_training.recipe import Recipe
        >>> recipe = Recipe(dim=128, nested_dims=(32, 64))
        >>> recipe.replace(epochs=20).widths
        (32, 64, 128)
        >>> Recipe.from_dict({"dims": 128})
        Traceback (most recent call last):
        vaecodec.errors.RecipeError: ...
    """

    # Shape
    dim: int = between(128, 1, WIDEST)
    """Width of the latents."""
    nested_dims: tuple[int, ...] = ()
    """Smaller widths whose prefixes are trained to stand alone, ascending."""
    hidden: int = between(512, 0, WIDEST)
    """Units of the encoder's hidden layer; 0 leaves a linear encoder."""
    decoder_hidden: int = between(0, 0, WIDEST)
    """Units of the decoder's hidden layer; 0 leaves a linear decoder."""
    asymmetric: bool = False
    """Queries get an encoder of their own, started from the documents'."""
    latent_metric: LatentMetric = LatentMetric.AUTO
    """How latents are compared where embeddings are compared by cosine."""

    # Objective
    objective: Aim = Aim.NEIGHBOURS
    """What the codec is for: checkpoints, the recipe of ``fit`` and its gate are chosen by it.

    :meth:`for_relevance` has the weights that suit relevance.
    """
    alignment: float = between(1.0, 0)
    """Weight of similarity distillation."""
    temperature: float = between(0.05, 1e-4)
    """Of the softmax over similarities, in units of ten times the spread of the similarities between documents.

    For most models that unit is about 1 under cosine. For relevance under cosine it is 1.
    """
    deep_lists: bool = False
    """Distil at two and four times the temperature besides, which keeps more of the hundred nearest documents."""
    reconstruction: float = between(0.1, 0)
    """Weight of one minus the cosine between input and reconstruction."""
    reconstruction_mse: float = between(0.0, 0)
    """Weight of the squared error of the reconstruction over the input's mean squared norm."""
    kl: float = between(1e-4, 0)
    """Weight of the KL divergence, in nats per vector. 0 trains a plain autoencoder."""
    kl_warmup: float = between(0.2, 0, 1)
    """Share of the run over which the KL weight rises linearly from 0."""
    kl_target: float = between(0.0, 0)
    """Nats per vector that a controller holds the KL at by moving its weight; 0 switches it off."""
    free_bits: float = between(0.05, 0)
    """Nats per dimension below which the KL costs nothing."""
    contrastive: float = between(0.0, 0)
    """Weight of InfoNCE over (query, document) pairs, or over perturbed copies where there are no pairs."""
    contrastive_temperature: float = between(0.05, 1e-4)
    hard_negatives: int = between(0, 0, 50)
    """Documents near each query that do not answer it, which join its batch. Each one costs as much as a document."""
    soft_labels: float = between(0.0, 0, 1)
    """Share of the known pairs in what distillation teaches queries; the rest are the original similarities."""
    input_noise: float = between(0.0, 0)
    """Norm of the noise added to documents and queries, relative to theirs: less overfitting to few pairs."""
    contrastive_noise: float = between(0.3, 0)
    """Norm of the perturbation of a copy, relative to the vector's."""
    queue: int = between(0, 0)
    """Documents of past batches kept as further negatives, for distillation and InfoNCE."""
    momentum: float = between(0.99, 0, 1)
    """Decay of the averaged encoder that fills the queue; 0 uses the encoder as it is. It needs a queue."""

    # Codes
    target: str = ""
    """Uniform code that the documents' latents shall survive, as engines keep it.

    One of ``int8``, ``int4``, ``int2`` and ``binary``.
    """
    target_bytes: tuple[int, ...] = ()
    """Or the budgets of trellis codes, ascending, that they shall survive; several take turns."""
    trellis_memory: int = 10
    """Bits of the trellis's state, 8, 10 or 12: each step up costs four times the encoding time for less error."""

    # Optimisation
    batch: int = between(1024, 2)
    """Documents per step; half as many queries join them."""
    epochs: float = above_zero(10.0)
    """Passes over the documents."""
    learning_rate: float = above_zero(2e-3, 1e38)
    schedule: Schedule = Schedule.COSINE
    warmup: float = between(0.2, 0, 1)
    """Share of the run over which the learning rate rises linearly."""
    weight_decay: float = between(0.05, 0)
    """Of matrices; biases and the log-variance head are not decayed."""
    clip: float = between(1.0, 0)
    """Largest gradient norm; 0 does not clip."""
    precision: TrainingPrecision = TrainingPrecision.FULL
    seed: int = between(0, 0, 2**31)

    # The run
    checkpoints: int = between(10, 1)
    """How often in the run it is validated and saved."""

    experimental: Experimental = field(default_factory=Experimental)
    """The table ``[experimental]`` of the file."""

    def __post_init__(self) -> None:
        check_settings(self)
        widths = (*self.nested_dims, self.dim)
        if list(widths) != sorted(set(widths)) or widths[0] < 1:
            raise RecipeError(
                f"nested_dims: expected ascending widths below dim = {self.dim}, got {list(self.nested_dims)}"
            )
        if not any((self.alignment, self.reconstruction, self.reconstruction_mse, self.contrastive)):
            raise RecipeError(
                "alignment, reconstruction, reconstruction_mse, contrastive: expected a weight above 0, got none; "
                "there is nothing to learn"
            )
        if self.target and self.target_bytes:
            raise RecipeError("target, target_bytes: expected one of them, got both")
        if self.target and self.target not in _TARGETS:
            raise RecipeError(f"target: expected one of {', '.join(_TARGETS)}, got {self.target!r}")
        if self.trellis_memory not in _TRELLIS_MEMORIES:
            raise RecipeError(f"trellis_memory: expected one of 8, 10, 12 bits, got {self.trellis_memory}")
        if list(self.target_bytes) != sorted(set(self.target_bytes)) or any(size < 8 for size in self.target_bytes):
            raise RecipeError(f"target_bytes: expected ascending numbers from 8 up, got {list(self.target_bytes)}")
        if self.for_codes and self.kl:
            raise RecipeError(f"kl: expected 0, as the code fixes the posterior's noise and its rate, got {self.kl:g}")
        if self.kl_target and not self.kl:
            raise RecipeError("kl_target: expected kl above 0 to start the controller from, got kl = 0")

    @property
    def widths(self) -> tuple[int, ...]:
        """Return every latent width that is trained, ascending."""
        return (*self.nested_dims, self.dim)

    def form(self, metric: Metric) -> LatentMetric:
        """Return the form of latents for a metric of embeddings; ``auto`` becomes this form where nothing else was
        chosen.
        """
        if metric is not Metric.COSINE:
            return LatentMetric.DOT
        return LatentMetric.COSINE if self.latent_metric is LatentMetric.AUTO else self.latent_metric

    @property
    def for_codes(self) -> bool:
        """Tell whether the documents' latents pass through a quantiser."""
        return bool(self.target or self.target_bytes)

    @property
    def judged_bytes(self) -> int | None:
        """Return the bytes of the trellis codes that figures are measured with: the middle one of ``target_bytes``."""
        return self.target_bytes[len(self.target_bytes) // 2] if self.target_bytes else None

    @property
    def reconstructs(self) -> bool:
        """Tell whether the decoder takes part in training."""
        return self.reconstruction > 0 or self.reconstruction_mse > 0

    def check_for(self, *, queries: bool, pairs: bool) -> None:
        """Check that there is what the recipe needs beside documents.

        Args:
            queries: whether there are queries.
            pairs: whether it is known which document answers which query.

        Raises:
            RecipeError: something is missing.
        """
        if self.objective is Aim.RELEVANCE and not pairs:
            raise RecipeError("objective: expected pairs of queries and documents for relevance, got none; give pairs")
        if self.asymmetric and not queries:
            raise RecipeError(
                "asymmetric: expected queries to train the query encoder on, got none; give queries or leave "
                "asymmetric out"
            )
        for name in ("hard_negatives", "soft_labels"):
            if getattr(self, name) and not pairs:
                raise RecipeError(
                    f"{name}: expected pairs of queries and documents, got none; give pairs or leave it out"
                )

    @classmethod
    def for_code(
        cls, *, target: str = "", target_bytes: tuple[int, ...] = (), paired: bool = False, **changes: Any
    ) -> Recipe:
        """Return the recipe that was best for codes in ``benchmarks/channel.py``: ``vaecodec train`` uses it with a
        target.

        Args:
            target: a uniform code, or
            target_bytes: budgets of trellis codes.
            paired: whether it is known which query belongs to which document.
            changes: settings that shall differ.

        Raises:
            RecipeError: a setting is out of its range, or both targets are given.

        Examples:
            >>> from vaecodec_training.recipe import Recipe
            >>> Recipe.for_code(target_bytes=(48,), dim=384).hidden
            0
        """
        settings: dict[str, Any] = {"kl": 0.0, "reconstruction": 0.0, "batch": 512, "checkpoints": 3}
        settings["latent_metric"] = LatentMetric.COSINE
        if target:
            settings |= {"target": target, "epochs": 12.0}
        else:
            settings |= {
                "target_bytes": target_bytes,
                "hidden": 0,
                "epochs": 8.0,
                "contrastive": 0.01 if paired else 0.0,
            }
        return cls(**settings | changes)

    @classmethod
    def for_relevance(cls, *, rows: int, weight: float = _WEIGHT, **changes: Any) -> Recipe:
        """Train for relevance, where pairs are known; ``benchmarks/relevance.py`` measures what it gains.

        Documents and queries get a map each, with a hidden layer from 30,000 documents on. With fewer documents, noise
        on the inputs keeps the maps from learning the pairs by heart. The loss is ``weight`` times InfoNCE over all
        pairs of a batch plus ``1 - weight`` times the distillation of the original similarities.

        Args:
            rows: how many documents there are to train on, which sets the number of epochs: 1,500 steps.
            weight: from 0, which keeps the old neighbours, to 1, which regards the pairs alone.
            changes: settings that shall differ.

        Raises:
            RecipeError: a setting is out of its range.

        Examples:
            >>> from vaecodec_training.recipe import Recipe
            >>> Recipe.for_relevance(rows=40_000).contrastive
            0.2
        """
        if not 0 <= weight <= 1:
            raise RecipeError(f"weight: expected from 0 to 1, got {weight}")
        settings: dict[str, Any] = {
            "objective": Aim.RELEVANCE,
            "latent_metric": LatentMetric.COSINE,
            "asymmetric": True,
            "hidden": _MANY_UNITS if rows >= _MANY_PAIRS else 0,
            "input_noise": 0.0 if rows >= _MANY_PAIRS else NOISE_ON_FEW_PAIRS,
            "kl": 0.0,
            "reconstruction": 0.0,
            "alignment": 1 - weight,
            "contrastive": weight,
            "batch": _RELEVANCE_BATCH,
            "epochs": round(max(1.0, _RELEVANCE_STEPS / max(1, rows // _RELEVANCE_BATCH)), 1),
        }
        return cls(**settings | changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Read plain values, as in TOML or JSON; strings become enums, integers may stand for floats.

        Raises:
            RecipeError: a key is unknown, or a value has the wrong type or lies outside its range.
        """
        return cls(**read_table(values, cls(), "a recipe"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a TOML file; keys left out have their default.

        Raises:
            RecipeError: there is no such file, it is not TOML, or :meth:`from_dict` refuses it.
        """
        try:
            with open(path, "rb") as file:
                text = file.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise ValueError(f"it has more than the {_MOST_BYTES:,} bytes that a recipe may have")
            return cls.from_dict(tomllib.loads(text.decode()))
        except FileNotFoundError:
            raise RecipeError(f"{path}: no such file") from None
        except OSError as error:
            raise RecipeError(f"{path}: {error.strerror}") from None
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{path}: not a TOML file of a recipe: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as :meth:`from_dict` reads them."""
        return plain(asdict(self))

    def to_toml(self) -> str:
        """Return the recipe as TOML, every key written out."""
        return tomli_w.dumps(self.to_dict())

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some settings changed."""
        return dataclasses.replace(self, **changes)


def choose_recipe(
    base: Recipe | None = None,
    *,
    width: int,
    rows: int | None = None,
    target: str = "",
    objective: str = "",
    paired: bool = False,
    **changes: Any,
) -> Recipe:
    """Choose the recipe for a request.

    Args:
        base: settings to start from, or None for the default recipe, or for that for codes where a target is given.
        width: of the embeddings. Latents for trellis codes are as wide, unless ``changes`` hold another ``dim``: these
            codes choose among all latents.
        rows: documents to train on, which set the length of the run where ``base`` does not; None where not known.
        target: what the latents are trained to survive: bytes per vector such as ``"48"`` or ``"32,48,64"``, or a
            uniform code such as ``"int8"``; empty for floats.
        objective: one of :class:`Aim`; empty for that of ``base``.
        paired: whether it is known which query belongs to which document.
        changes: settings that replace those of the recipe; None leaves a setting as it is.

    Raises:
        RecipeError: the target is none, there is no such objective, or a setting is out of its range.
    """
    if objective not in ("", *Aim):
        raise RecipeError(f"objective: expected one of {', '.join(Aim)}, got {objective!r}")
    asked = changes.get("dim")
    if asked is not None and not 1 <= asked <= width:
        raise RecipeError(f"dim: expected a latent width from 1 to {width}, got {asked}")
    wanted = {name: value for name, value in changes.items() if value is not None}
    if base is None and objective == Aim.RELEVANCE:
        documents = rows or _UNKNOWN_ROWS
        closely = _in_bytes(target) and documents >= _MANY_PAIRS
        base = Recipe.for_relevance(rows=documents, weight=WEIGHT_FOR_CODES if closely else _WEIGHT)
        if target and not closely:
            # Linear, as all other recipes for codes, and without noise: the code's own error is enough.
            base = base.replace(hidden=0, input_noise=0.0)
    elif objective:
        wanted["objective"] = Aim(objective)
    if not target:
        return (base or _for_rows(rows)).replace(**wanted)
    aims: dict[str, Any] = {"target": target}
    if _in_bytes(target):
        aims = {"target_bytes": _sizes(target)}
        wanted = {"dim": width, **wanted}
    made = Recipe.for_code(**aims, paired=paired, **wanted) if base is None else base.replace(kl=0.0, **aims, **wanted)
    refuse_too_large(made)
    return made


def refuse_wider(recipe: Recipe, width: int) -> None:
    """Raise ``RecipeError`` where the latents would be wider than the embeddings."""
    if recipe.dim > width:
        raise RecipeError(f"dim: expected a latent width from 1 to {width}, got {recipe.dim}; give another dim (--dim)")


def refuse_too_large(recipe: Recipe) -> None:
    """Raise ``RecipeError`` for trellis codes that take more bytes than so many latents can fill."""
    size = max(recipe.target_bytes, default=0)
    largest = TrellisTables.standard(recipe.trellis_memory).largest(recipe.dim)
    if size > largest:
        raise RecipeError(
            f"target: expected at most {largest} bytes for {recipe.dim} latents, got {size}; beyond that use floats"
        )


def _for_rows(rows: int | None) -> Recipe:
    """Return the default recipe, with more epochs and smaller batches for few rows."""
    if rows is None or rows >= _FEW_ROWS:
        return Recipe()
    steps_of_an_epoch = max(1, rows // _SMALL_BATCH)
    return Recipe(deep_lists=True, batch=_SMALL_BATCH, epochs=max(10.0, round(_FEWEST_STEPS / steps_of_an_epoch, 1)))


def _in_bytes(target: str) -> bool:
    return target != "" and target[0] in "0123456789"


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted(int(size) for size in text.split(",") if size.strip()))
    except ValueError:
        raise RecipeError(f"target: expected bytes per vector such as 48 or 32,48,64, got {text!r}") from None
