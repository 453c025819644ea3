"""Write the reference of all commands and options in docs/cli.md: ``python -m vaecodec_cli.reference docs/cli.md``."""

from __future__ import annotations

import inspect
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from vaecodec.files import write_atomically
from vaecodec_cli.main import application

BEGIN, END = "<!-- commands: begin -->\n", "<!-- commands: end -->\n"


def reference() -> str:
    """Return the Markdown reference of all commands, made from what ``--help`` shows."""
    commands: dict[str, Any] = typer.main.get_command(application()).commands  # type: ignore[attr-defined]
    return "\n".join(_section(name, command) for name, command in sorted(commands.items()))


def updated(page: str) -> str:
    """Return a page with the reference between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + reference() + "\n" + END + rest.partition(END)[2]


def _section(name: str, command: Any) -> str:
    lines = [
        f"### `vaecodec {name}`",
        "",
        inspect.cleandoc(command.help or ""),
        "",
        "| option | what it does |",
        "|---|---|",
    ]
    for parameter in command.params:
        words = [parameter.help or ""]
        if parameter.required:
            words.append("Required.")
        elif not isinstance(parameter.default, bool | None) and parameter.default not in ("", []):
            default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
            words.append(f"Default: {default}.")
        shown = ", ".join(f"`{option}`" for option in _names(parameter))
        lines.append(f"| {shown} | {_cell(' '.join(words))} |")
    return "\n".join(lines) + "\n"


def _names(parameter: Any) -> list[str]:
    names = [*parameter.opts, *parameter.secondary_opts]
    return names if names[0].startswith("-") else [names[0].upper()]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_atomically(target, updated(target.read_text(encoding="utf-8")).encode())
