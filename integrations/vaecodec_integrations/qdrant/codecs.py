"""Decide which codec compresses which vector of which collection."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vaecodec.errors import UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.layout import UNNAMED

# The codecs of one collection: one for its unnamed vector, or one per name. None leaves a vector as it is.
CollectionCodecs = VectorCodec | Mapping[str, VectorCodec | None] | None
CodecsArgument = Mapping[str, CollectionCodecs] | Callable[[str], CollectionCodecs] | None


@dataclass(frozen=True)
class Assigned:
    """Hold the codecs of one collection.

    Attributes:
        by_vector: a codec for each vector name; None for a vector that is stored as it is.
        named: whether they were given for this very collection. Then it must fit them; otherwise a collection of
            another width is taken for one of another embedding model.
    """

    by_vector: Mapping[str, VectorCodec | None]
    named: bool = True

    @property
    def compressing(self) -> dict[str, VectorCodec]:
        """Return the codecs by vector name, without vectors that stay uncompressed."""
        return {name: codec for name, codec in self.by_vector.items() if codec is not None}


@dataclass
class Codecs:
    """Hold the codecs that a client was opened with.

    Args:
        codec: compresses the unnamed vector of every collection.
        codecs: codecs by vector name, or by collection name, or a function from a collection's name to its codecs. A
            mapping names collections throughout as soon as one of its values is a mapping itself.
    """

    codec: VectorCodec | None = None
    codecs: CodecsArgument = None
    _resolved: dict[str, VectorCodec] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a vector with two codecs, and a client without any."""
        if isinstance(self.codecs, Mapping) and self.codec is not None and UNNAMED in self.codecs:
            raise UnsupportedRequestError("codec, codecs: expected one codec for the unnamed vector, got two")
        if not callable(self.codecs) and not list(self):
            raise UnsupportedRequestError("codec: expected a codec, or codecs by vector name, got none")

    def __iter__(self) -> Iterator[VectorCodec]:
        """Yield every codec that is known so far; a function may name more later."""
        if self.codec is not None:
            yield from Assigned(_by_vector(self.codec)).compressing.values()
        if isinstance(self.codecs, Mapping):
            for value in self.codecs.values():
                yield from Assigned(_by_vector(value)).compressing.values()
        yield from self._resolved.values()

    def of(self, collection: str, vectors: Collection[str]) -> Assigned:
        """Return the codecs of a collection.

        Args:
            collection: its name, or an alias.
            vectors: the names of its dense vectors. They decide what a key means that could name either.
        """
        if callable(self.codecs):
            answer = self.codecs(collection)
            assigned = Assigned(_by_vector(answer), named=answer is not None)
            self._resolved |= {codec.codec_id: codec for codec in assigned.compressing.values()}
            if answer is None and self.codec is not None:
                return Assigned({UNNAMED: self.codec}, named=False)
            return assigned
        given = self.codecs or {}
        if collection in given and (self._names_collections or collection not in vectors):
            return Assigned(_by_vector(given[collection]))
        everywhere: dict[str, Any] = {} if self.codec is None else {UNNAMED: self.codec}
        if not self._names_collections:
            everywhere.update(given)
        return Assigned(everywhere, named=False)

    def of_record(self, record: Mapping[str, Any]) -> VectorCodec | None:
        """Return the codec that a collection's record names, if this client has it."""
        wanted = (record.get("codec_id"), record.get("code_dim"))
        return next((codec for codec in self if (codec.codec_id, codec.code_dim) == wanted), None)

    @property
    def _names_collections(self) -> bool:
        return isinstance(self.codecs, Mapping) and any(isinstance(value, Mapping) for value in self.codecs.values())


def _by_vector(codecs: CollectionCodecs) -> Mapping[str, VectorCodec | None]:
    found = codecs if isinstance(codecs, Mapping) else {UNNAMED: codecs}
    for name, codec in found.items():
        if not (codec is None or hasattr(codec, "codec_id")):
            raise UnsupportedRequestError(
                f"codecs: expected a codec or None for vector {name!r}, got a {type(codec).__name__}; load codec files "
                "by Codec.load"
            )
    return found
