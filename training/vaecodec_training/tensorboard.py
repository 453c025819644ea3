"""Log a run to TensorBoard."""

from __future__ import annotations

from pathlib import Path

from vaecodec.extras import require
from vaecodec_training.observe import Progress


class TensorBoard:
    """Write every step's figures, and each checkpoint's, as TensorBoard events; an observer.

    Args:
        folder: for the event files.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require("tensorboard", extra="tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        self._last = 0

    def __call__(self, progress: Progress) -> None:
        """Log one step."""
        step = progress.step
        scalars = {
            "loss": progress.loss,
            "gradient_norm": progress.gradient_norm,
            "learning_rate": progress.learning_rate,
            **{f"term/{name}": value for name, value in progress.terms.items()},
        }
        record = progress.record
        if record is not None and record.step > self._last:
            self._last = record.step
            scalars |= {
                "validation/recall@10": record.recall,
                "latents/effective_rank": record.effective_rank,
                "latents/active_dims": float(record.active_dims),
                "queue/age": record.queue_age,
            }
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        if step == progress.steps:
            self._writer.close()
