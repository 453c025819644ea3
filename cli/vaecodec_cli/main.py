"""The console script ``vaecodec``: all commands, each imported only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

from vaecodec.errors import VaecodecError
from vaecodec.extras import require

# Command -> the module of this package that holds the function of that name.
COMMANDS = {
    "bridge": "bridge",
    "compress": "compress",
    "decode": "encode",
    "doctor": "info",
    "drift": "drift",
    "encode": "encode",
    "export": "export",
    "fuse": "fuse",
    "fit": "fit",
    "info": "info",
    "linear": "linear",
    "migrate": "migrate",
    "migrate-pg": "migrate_pg",
    "plan": "plan",
    "report": "report",
    "rollback": "rollback",
    "split": "split",
    "train": "train",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0; 1 for an error of ours or of the system; 2 for wrong usage; 3 when the answer is no (`plan`,
    `compress`, `drift`, `doctor`); 4 when `drift` has nothing to compare with; 130 when interrupted. docs/cli.md
    explains them.
    """
    try:
        typer = require("typer", extra="cli")
        app = typer.Typer(
            name="vaecodec",
            help="Learned compression of embedding vectors.",
            no_args_is_help=True,
            pretty_exceptions_enable=False,
        )
        app.callback()(import_module("vaecodec_cli.info").root)
        for name, module in COMMANDS.items():
            app.command(name)(getattr(import_module(f"vaecodec_cli.{module}"), name.replace("-", "_")))
        app(arguments, prog_name="vaecodec")
    # A file that cannot be written, a full disk: nobody needs to see where in the code that was noticed.
    except (VaecodecError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
