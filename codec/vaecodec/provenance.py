"""State where a file comes from: which versions made it, when, and on what data."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

LIBRARIES = ("vaecodec", "numpy", "onnx", "onnxruntime", "torch")


def made_now() -> dict[str, Any]:
    """Return the entries ``created`` and ``versions`` of everything that vaecodec writes about its own making; JSON
    values."""
    return {"created": today(), "versions": versions()}


def today() -> str:
    """Return the date in UTC, such as ``2026-03-31``."""
    return datetime.now(UTC).date().isoformat()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that shape a codec file."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
