"""Which libraries made a codec file."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def library_versions() -> dict[str, str]:
    """Versions of vaecodec and of the libraries that shape a file; those not installed are left out."""
    versions = {}
    for name in ("vaecodec", "numpy", "onnx", "onnxruntime", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
