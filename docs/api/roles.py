"""Render docstrings: roles of Sphinx, :class:`~package.Name`, become links, and each object links to its source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

_REPOSITORY = "https://github.com/vaecodec/vaecodec/blob/main"
_ROOT = Path(__file__).resolve().parents[2]
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(?:(?P<text>[^`<]+) <)?(?P<target>[^`>]+)>?`")


class Roles(griffe.Extension):
    """Turn each role into a link to the object, or into plain code where the site has no page for it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is None:
            return
        text = _ROLE.sub(lambda role: self._link(role, obj), obj.docstring.value)
        # A literal block's marker; the indented block that follows is code in Markdown, too.
        obj.docstring.value = re.sub(r"^::$\n", "", text, flags=re.MULTILINE) + _source(obj)

    def _link(self, role: re.Match[str], obj: griffe.Object) -> str:
        target = role["target"].lstrip("~")
        short = target.rpartition(".")[2] if role["target"].startswith("~") else target
        return f'<autoref optional identifier="{_resolved(target, obj)}"><code>{role["text"] or short}</code></autoref>'


def _source(obj: griffe.Object) -> str:
    """Return a link to the code of a class or function of a module; nothing for their members."""
    if not isinstance(obj.parent, griffe.Module) or not (obj.is_class or obj.is_function):
        return ""
    path = Path(str(obj.filepath)).resolve().relative_to(_ROOT).as_posix()
    return f"\n\n[Source]({_REPOSITORY}/{path}#L{obj.lineno})"


def _resolved(target: str, obj: griffe.Object) -> str:
    """The full path of what a docstring calls by a shorter name: looked up in its class, then in its module."""
    scope: griffe.Object | None = obj
    while scope is not None:
        if target.partition(".")[0] in scope.members:
            return f"{scope.path}.{target}"
        scope = scope.parent if isinstance(scope.parent, griffe.Object) else None
    return target
