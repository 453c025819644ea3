"""Learn a codec from a collection's own embeddings; needs the extra ``train``.

A Python user imports :class:`Collection`, :class:`Recipe` and :func:`train` from here. ``fit``, which ends with a codec
file, is in :mod:`vaecodec_exporters`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaecodec_training.data.collection import Collection
    from vaecodec_training.recipe import Recipe
    from vaecodec_training.trainer import train

__all__ = ["Collection", "Recipe", "train"]

# Imported when they are asked for: a report reads pairs by this package, and needs no torch.
_HOMES = {"Collection": "data.collection", "Recipe": "recipe", "train": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
