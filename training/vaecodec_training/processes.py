"""Exchange tensors with the other processes of a run. With one process nothing is sent."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor


class Processes:
    """Exchange tensors between the processes that share every batch.

    Attributes:
        rank: number of this process, from 0.
        count: how many there are.
        leads: whether this process writes files and speaks.
        device: of this process.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.rank = fabric.global_rank
        self.count = fabric.world_size
        self.leads = fabric.is_global_zero
        self.device = fabric.device

    def gathered(self, rows: Tensor) -> Tensor:
        """Return rows of all processes in order, with their gradient."""
        if self.count == 1:
            return rows
        gathered = self._fabric.all_gather(rows, sync_grads=rows.requires_grad)
        assert isinstance(gathered, Tensor)  # a tensor in, a tensor out
        return gathered.flatten(0, 1)

    def means(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """Return the mean s over all processes, as numbers, in one exchange."""
        values: Tensor = torch.stack([value.detach().double() for value in figures.values()])
        if self.count > 1:
            reduced = self._fabric.all_reduce(values, reduce_op="mean")
            assert isinstance(reduced, Tensor)  # a tensor in, a tensor out
            values = reduced
        return dict(zip(figures, values.tolist(), strict=True))

    def wait(self) -> None:
        """Wait for all processes to come here."""
        self._fabric.barrier()
