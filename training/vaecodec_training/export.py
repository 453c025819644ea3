"""Reach the exporters, which build on this package, through the entry points that they declare."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from vaecodec.extras import require

EXPORTERS = "vaecodec.exporters"


def exporter(name: str) -> Callable[..., Any]:
    """The function that writes a codec file: ``checkpoint`` from a run folder, ``linear`` from a linear codec.

    Raises:
        MissingExtraError: the extra ``export`` is not installed.
    """
    require("onnx", extra="export")
    function: Callable[..., Any] = entry_points(group=EXPORTERS)[name].load()
    return function
