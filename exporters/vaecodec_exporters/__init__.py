"""Write codecs as ONNX files: needs the extra ``export``, and ``train`` for what trains.

A Python user imports the whole jobs from here: :func:`fit` of a collection, :func:`fit_files` and :func:`train_files`
of files, :func:`export_checkpoint` of a run and :func:`export_linear` of a linear codec.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaecodec_exporters.checkpoint import export_checkpoint
    from vaecodec_exporters.from_files import fit_files, train_files
    from vaecodec_exporters.linear import export_linear
    from vaecodec_exporters.pipeline import fit

__all__ = ["export_checkpoint", "export_linear", "fit", "fit_files", "train_files"]

# Imported when they are asked for: to write a linear codec needs no torch.
_HOMES = {
    "export_checkpoint": "checkpoint",
    "export_linear": "linear",
    "fit": "pipeline",
    "fit_files": "from_files",
    "train_files": "from_files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
