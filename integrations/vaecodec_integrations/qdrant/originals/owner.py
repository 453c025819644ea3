"""Record which vector of which collection a file of originals belongs to."""

from __future__ import annotations

import json
from typing import NamedTuple

from vaecodec.files.stored_json import parse_object


class Owner(NamedTuple):
    """Describe one compressed vector of a collection.

    Attributes:
        collection: its own name, not an alias.
        vector: the vector's name, empty for the unnamed one.
        codec_id: the codec that compresses it.
    """

    collection: str
    vector: str
    codec_id: str

    def to_json(self) -> str:
        """Return the owner as the file's header holds it."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Read what :meth:`to_json` wrote; raise ``TypeError`` or ``ValueError`` for anything else."""
        owner = cls(**parse_object(text))
        if not all(isinstance(name, str) for name in owner):
            raise ValueError(f"expected three names, got {text}")
        return owner

    def __str__(self) -> str:
        """Name the owner for messages."""
        vector = f"vector {self.vector!r} of " if self.vector else ""
        return f"{vector}collection {self.collection!r} (codec {self.codec_id[:12]})"
