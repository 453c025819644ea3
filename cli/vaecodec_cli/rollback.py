"""``vaecodec rollback``."""

from __future__ import annotations

from contextlib import closing

from vaecodec.extras import require
from vaecodec_cli.console import Terminal, print_json
from vaecodec_cli.migrate import Collection, Into, LocalPath, Named, Url, check_one
from vaecodec_cli.options import AsJson


def rollback(
    collection: Collection,
    url: Url = None,
    path: LocalPath = None,
    into: Into = None,
    named: Named = None,
    as_json: AsJson = False,
) -> None:
    """Undo a migration: point the alias at the source again, or remove the added vector."""
    require("qdrant_client", extra="qdrant")
    from vaecodec_integrations.qdrant.connection import open_client
    from vaecodec_integrations.qdrant.migration import roll_back

    check_one({"--url": url, "--path": path})
    check_one({"--into": into, "--named": named})
    with closing(open_client(url=url, path=path)) as client:
        done = roll_back(client, collection, into=into, named=named)
    if as_json:
        print_json({"collection": collection, "done": done})
    else:
        Terminal().print(done)
