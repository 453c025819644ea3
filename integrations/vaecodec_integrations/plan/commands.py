"""Write the commands that compress a Qdrant collection, from the address that it was read by."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from vaecodec.codes import CodeType
from vaecodec.sources.open import locate
from vaecodec_integrations.plan.candidates import Setting


class QdrantCollection:
    """Name a collection at an address such as ``qdrant+http://localhost:6333/docs#title``.

    Args:
        location: the address, which may name the vector.

    Attributes:
        url: the server's address; None for a folder of local mode.
        folder: that folder; None for a server.
        name: the collection's name.
        vector: the vector's name, empty for the unnamed one.
    """

    def __init__(self, location: str) -> None:
        address, vector = locate(location)
        scheme, _, rest = str(address).partition("+")[2].partition("://")
        place, _, name = rest.rpartition("/")
        self.url = None if scheme == "file" else urlsplit(f"{scheme}://{place}").geturl()
        self.folder = unquote(place) if scheme == "file" else None
        self.name, self.vector = unquote(name), vector or ""

    @classmethod
    def at(cls, location: str) -> QdrantCollection | None:
        """Return the collection at a location; None if it is a file or something else."""
        return cls(location) if re.match(r"qdrant\+(http|https|file)://", location) else None

    @property
    def target(self) -> str:
        """Return the name of the compressed collection."""
        return f"{self.name}-compressed"

    @property
    def client(self) -> str:
        """Return Python that opens the plain client."""
        return f"QdrantClient({self.url!r})" if self.url is not None else f"QdrantClient(path={self.folder!r})"

    def migration(
        self, codec: str, setting: Setting, code_bytes: int, *, width: int, oversample: int = 1, skip: bool = False
    ) -> list[str]:
        """Return the command that copies the collection into a compressed one, word by word.

        Args:
            codec: path of the codec file.
            setting: how vectors are stored.
            code_bytes: bytes of their codes in RAM.
            width: latents that the codec file has by itself.
            oversample: that many times as many candidates are scored again by originals, kept on disk; 1 for none.
            skip: points whose vector cannot be compressed are copied without it.
        """
        place = ["--url", self.url] if self.url is not None else ["--path", str(self.folder)]
        vector = ["--vector", self.vector] if self.vector else []
        dim = [] if setting.width == width else ["--dim", str(setting.width)]
        size = [] if setting.dtype is CodeType.FLOAT32 else ["--bytes", str(code_bytes)]
        originals = ["--keep-originals", "disk"] if oversample > 1 else []
        bad = ["--on-bad-rows", "skip"] if skip else []
        words = ["vaecodec", "migrate", *place, "--collection", self.name, *vector, "--codec", codec]
        return [*words, *dim, *size, *originals, *bad, "--into", self.target]
