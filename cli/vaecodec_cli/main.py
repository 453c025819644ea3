"""Run the console script ``vaecodec``, which imports each command only when it is called."""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_type_hints

from vaecodec.errors import (
    AmbiguousColumnError,
    InvalidBudgetError,
    InvalidDimensionError,
    InvalidGoalError,
    InvalidOptionError,
    RecipeError,
    VaecodecError,
)
from vaecodec.extras import require
from vaecodec.text import one_line

# Commands by what they are for, in the order in which --help lists them.
PANELS = {
    "Start here": ("compress", "doctor"),
    "Train": ("fit", "train", "linear", "export"),
    "Choose and judge": ("plan", "report", "info", "drift"),
    "Encode and search": ("encode", "decode", "split", "fuse", "bridge", "refit-queries"),
    "Live databases": ("migrate", "rollback", "migrate-pg", "reembed"),
}
# Command -> the module of this package that defines its function.
COMMANDS = {name: name.replace("-", "_") for names in PANELS.values() for name in names}
# Options by which a command is looked for elsewhere, and where it is.
ELSEWHERE = {("migrate", "--reembed"): "to embed the texts again by another model, call `vaecodec reembed`"}

# Characters of an error that are printed; the longest of ours has about half as many.
_LONGEST = 3_000
# These errors mean that an option has an impossible value.
_WRONG_USAGE = (InvalidBudgetError, InvalidDimensionError, InvalidGoalError, InvalidOptionError, RecipeError)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0; 1 for an error of ours or of the system; 2 for wrong usage; 3 when the answer is no (`plan`,
    `compress`, `drift`, `doctor`); 4 when `drift` has nothing to compare with; 130 when interrupted. docs/cli.md
    explains them.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # show what the terminal lacks as escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        typed = sys.argv[1:] if arguments is None else arguments
        called = next((word for word in typed if not word.startswith("-")), None)
        for (command, option), where in ELSEWHERE.items():
            if called == command and option in typed:
                raise InvalidOptionError(f"{option}: `vaecodec {command}` has no such option; {where}")
        app = application(only=called)
        from vaecodec_cli.console import warnings_shown

        with warnings_shown():
            app(arguments, prog_name="vaecodec")
    # Print one line without a traceback, also for errors of the system such as a full disk.
    except (VaecodecError, OSError) as error:
        print(f"error: {_cut(one_line(_explained(error)))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, _WRONG_USAGE) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _cut(message: str) -> str:
    """Shorten a message that quotes a value of any length from a file."""
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ... ({len(message):,} characters)"


def _explained(error: Exception) -> str:
    """Return an error's message, with the option that chooses a column where there are several."""
    if not isinstance(error, AmbiguousColumnError) or not error.location:
        return str(error)
    option = "--query-column" if error.queries else "--column"
    return f"{error}, with {option} or {error.location}#COLUMN"


def application(*, only: str | None = None) -> Any:
    """Make the typer application.

    Args:
        only: the command that is called. Where it is one of ours, the modules of all others stay unimported.

    Raises:
        MissingExtraError: typer is not installed.
    """
    typer = require("typer", extra="cli")
    app = typer.Typer(
        name="vaecodec",
        help="Compress embedding vectors with a codec that is trained on them.\n\nStart with: vaecodec compress DATA "
        "--save half --out small. It says what to type next.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    options = import_module("vaecodec_cli.options")
    app.callback()(options.root)
    for name, module in {only: COMMANDS[only]}.items() if only in COMMANDS else COMMANDS.items():
        command = getattr(import_module(f"vaecodec_cli.{module}"), name.replace("-", "_"))
        panel = next(title for title, names in PANELS.items() if name in names)
        app.command(name, rich_help_panel=panel)(_with_verbosity(options.flat(command)))
    return app


def _with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--verbose`` and ``--quiet`` to a command."""
    from vaecodec_cli.options import Quiet, Verbose
    from vaecodec_cli.progress import alive, set_level

    @functools.wraps(command)
    def run(*, verbose: bool = False, quiet: bool = False, **options: Any) -> None:
        set_level(verbose=verbose, quiet=quiet)
        with alive(command.__name__.replace("_", "-")):
            command(**options)

    hints = {**get_type_hints(command, include_extras=True), "verbose": Verbose, "quiet": Quiet}
    own = inspect.signature(command).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = {name: inspect.Parameter(name, keyword, default=False) for name in ("verbose", "quiet")}
    parameters = [one.replace(annotation=hints[name], kind=keyword) for name, one in {**own, **added}.items()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run
