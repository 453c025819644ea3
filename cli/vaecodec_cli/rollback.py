"""Define the command ``vaecodec rollback``."""

from __future__ import annotations

from vaecodec.extras import require
from vaecodec_cli.console import Terminal, print_json
from vaecodec_cli.options import AsJson
from vaecodec_cli.server import Collection, Server, Target


def rollback(collection: Collection, server: Server, target: Target, as_json: AsJson = False) -> None:
    """Undo a migration: point the alias at the source again, or remove the added vector."""
    require("qdrant_client", extra="qdrant")
    from vaecodec_integrations.qdrant.migration import roll_back_at

    server.check()
    target.check_new(collection)
    done = roll_back_at(collection, **vars(server), **vars(target))
    if as_json:
        print_json({"collection": collection, "done": done})
    else:
        Terminal().print(done)
