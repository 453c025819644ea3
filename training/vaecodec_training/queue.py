"""Keep documents of past batches, first in, first out, as further columns and negatives."""

from __future__ import annotations

import torch
from torch import Tensor


class Queue:
    """Hold the last ``length`` documents with the latents they had when they came.

    Attributes:
        vectors: float32 (q, d), as the teacher compares them.
        latents: float32 (q, k), posterior means; they carry no gradient.
        steps: int64 (q,), the step at which each came.
    """

    def __init__(self, length: int, dim: int, code_dim: int, device: torch.device) -> None:
        self.length = length
        self.vectors = torch.empty(0, dim, device=device)
        self.latents = torch.empty(0, code_dim, device=device)
        self.steps = torch.empty(0, dtype=torch.int64, device=device)

    def push(self, vectors: Tensor, latents: Tensor, step: int) -> None:
        """Add documents; the oldest leave."""
        steps = torch.full((len(vectors),), step, dtype=torch.int64, device=self.steps.device)
        self.vectors = torch.cat([self.vectors, vectors.detach()])[-self.length :]
        self.latents = torch.cat([self.latents, latents.detach()])[-self.length :]
        self.steps = torch.cat([self.steps, steps])[-self.length :]

    def age(self, step: int) -> float:
        """Return the mean number of steps that the entries have waited; 0 when empty."""
        return float(step - self.steps.double().mean()) if len(self.steps) else 0.0

    def state(self) -> dict[str, Tensor]:
        """Return the queue's tensors by name."""
        return {"vectors": self.vectors, "latents": self.latents, "steps": self.steps}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the tensors that :meth:`state` returned."""
        device = self.steps.device
        self.vectors, self.latents, self.steps = (state[key].to(device) for key in ("vectors", "latents", "steps"))
