"""The console script ``vaecodec``: gathers the commands that the installed packages contribute."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points

from vaecodec.errors import VaecodecError
from vaecodec.extras import require

COMMANDS = "vaecodec.commands"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0; 1 for an error of ours; 2 for wrong usage; 3 when `plan` finds nothing that meets the goal; 130 when
    interrupted.
    """
    try:
        typer = require("typer", extra="cli")
        app = typer.Typer(
            name="vaecodec",
            help="Learned compression of embedding vectors.",
            no_args_is_help=True,
            pretty_exceptions_enable=False,
        )
        app.callback()(import_module("vaecodec.cli").root)
        for command in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
            app.command(command.name)(command.load())
        app(arguments)
    except VaecodecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
