"""Import optional libraries when they are needed, or raise an error that says how to install them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from vaecodec.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module``, which the extra ``extra`` installs.

    Raises:
        MissingExtraError: the library is not installed; the message holds the install command.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # The library is there but lacks a dependency of its own. That is another problem: show it as it is.
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{module.split('.')[0]} is not installed; install it with: pip install 'vaecodec[{extra}]'"
        ) from error
