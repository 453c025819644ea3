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

    Exit codes: 0; 1 for an error of ours or of the system; 2 for wrong usage; 3 when the answer is no (`plan`, `drift`,
    `doctor`); 4 when `drift` has nothing to compare with; 130 when interrupted. docs/cli.md explains them.
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
    # A file that cannot be written, a full disk: nobody needs to see where in the code that was noticed.
    except (VaecodecError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
