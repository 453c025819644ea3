"""Define the command ``vaecodec doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vaecodec_cli.console import Terminal, print_json, table
from vaecodec_cli.options import AsJson
from vaecodec_cli.progress import steps_shown

if TYPE_CHECKING:
    from vaecodec.doctor import Diagnosis, Extra

_TROUBLE = 3


def doctor(as_json: AsJson = False) -> None:
    """Check the installation: versions, execution providers that work, threads, and extras.

    Exit code 0: nothing is broken, though extras may be missing. 3: something is broken; the output says what and why.
    """
    from vaecodec.doctor import examine  # onnxruntime takes a while to import

    with steps_shown("importing the installed extras"):
        found = examine()
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    if found.troubles:
        raise typer.Exit(_TROUBLE)


def _show(found: Diagnosis) -> None:
    console = Terminal()
    rows = [(name, "", text) for name, text in found.versions.items()]
    rows += [(each.name, "works" if each.works else "unusable", each.problem) for each in found.providers]
    variables = [f"{name}={value}" for name, value in found.thread_variables.items()]
    rows.append(("threads", "", ", ".join([f"{found.usable_cores} of {found.cores} cores", *variables])))
    for extra in found.extras:
        state = "broken" if extra.trouble else "installed" if extra.installed else "missing"
        rows.append((f"extra {extra.name}", state, _note(extra)))
    console.print(table("", "", "", rows=rows))
    for trouble in found.troubles or ["Nothing is broken."]:
        console.print(trouble, style="bold")


def _note(extra: Extra) -> str:
    if extra.trouble:
        return extra.trouble
    if extra.installed:
        return ", ".join(f"{name} {version}" for name, version in extra.versions.items())
    return f"for {extra.enables}: pip install 'vaecodec[{extra.name}]'"
