"""Define the options that name a Qdrant server, folder and collection, for all commands that need one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vaecodec.errors import UnsupportedRequestError
from vaecodec.extras import require

Collection = Annotated[str, typer.Option(help="The collection to compress. Nothing in it is ever deleted.")]


@dataclass(frozen=True, kw_only=True)
class Server:
    """Say where the collection is."""

    panel: ClassVar[str] = "Server"

    url: Annotated[
        str | None, typer.Option(help="Address of the Qdrant server. The key is read from QDRANT_API_KEY.")
    ] = None
    path: Annotated[
        Path | None,
        typer.Option("--path", exists=True, file_okay=False, help="Folder of Qdrant's local mode, instead of --url."),
    ] = None

    def check(self) -> None:
        """Refuse both or none of the two, and an address that is none."""
        check_one({"--url": self.url, "--path": self.path})
        if self.url is not None:
            require("qdrant_client", extra="qdrant")
            from vaecodec_integrations.qdrant.connection import check_address

            try:
                check_address(self.url)
            except UnsupportedRequestError as error:
                raise typer.BadParameter(f"--url: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Target:
    """Say where the compressed vectors are."""

    panel: ClassVar[str] = "Target"

    into: Annotated[str | None, typer.Option(help="Name of the new, compressed collection.")] = None
    named: Annotated[
        str | None,
        typer.Option(
            help="Instead of --into: add the latents to the collection as a vector of this name (Qdrant 1.18 or later)."
        ),
    ] = None

    def check(self) -> None:
        """Refuse both or none of the two, and an empty name."""
        for option, name in (("--into", self.into), ("--named", self.named)):
            if name is not None and not name.strip():
                raise typer.BadParameter(f"{option}: expected a name, got {name!r}")
        check_one({"--into": self.into, "--named": self.named})

    def check_new(self, collection: str, vector: str | None = None, switch_alias: str | None = None) -> None:
        """Refuse both or none of the two, the source itself, and an alias that would change nothing."""
        self.check()
        if self.into is not None and self.into == switch_alias:
            raise typer.BadParameter(f"--switch-alias: expected another name than that of --into, got {switch_alias!r}")
        if self.into == collection:
            raise typer.BadParameter(f"--into: expected another name than the source's, got {collection!r}")
        if self.named is not None and self.named == vector:
            raise typer.BadParameter(f"--named: expected another name than the source's vector, got {vector!r}")
        if self.named is not None and switch_alias is not None:
            raise typer.BadParameter("--switch-alias needs --into: an alias names a collection, not a vector")


def check_one(options: Mapping[str, object]) -> None:
    """Refuse both or none of two options."""
    if [value is None for value in options.values()].count(False) != 1:
        raise typer.BadParameter(f"give one of {' and '.join(options)}")
