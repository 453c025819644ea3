"""Define what every flow shares: the calls that it yields, and the proof of what a collection holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

from qdrant_client import AsyncQdrantClient, QdrantClient, models

from vaecodec.errors import CodecMismatchError
from vaecodec_integrations.qdrant.identity import metadata_not_kept, no_identity, read_layout
from vaecodec_integrations.qdrant.layout import Layout
from vaecodec_integrations.qdrant.originals import Owner
from vaecodec_integrations.qdrant.originals.file import Decided
from vaecodec_integrations.qdrant.settings import Settings
from vaecodec_integrations.qdrant.surface import is_local, uploads_arrays
from vaecodec_integrations.qdrant.texts import TextEmbedder
from vaecodec_integrations.qdrant.vectors import restore_records, vector_of

T = TypeVar("T")
Flow = Generator["Call", Any, T]

# Seconds that searches trust what was read about a collection. Anyone can point an alias at another collection.
SEARCH_SECONDS = 3.0
# Longest time from the identity check to its write: less than most requests take. Each write checks anew.
WRITE_SECONDS = 0.01
# Within an upload nothing else runs between batches, so one check serves all batches of this time. A check takes as
# long as half a batch.
UPLOAD_SECONDS = 0.1
# If the caller's code takes longer than this to make the next points of an upload, it may have called the server. Then
# the next batch is checked anew.
CALLER_SECONDS = 0.001


class Call(NamedTuple):
    """Describe one call of the wrapped client.

    Attributes:
        method: its name.
        arguments: its arguments by name.
        points: what is passed as the argument ``points`` while it is made. It yields lists of points, and calls that
            are to be sent between them.
    """

    method: str
    arguments: dict[str, Any]
    points: Generator[Any, Any, None] | None = None


def sent_between(points: Generator[Any, Any, None], send: Callable[[Call], Any]) -> Iterator[Any]:
    """Yield the points of a :class:`Call`, and send the calls that it yields between them."""
    response = None
    while True:
        try:
            item = points.send(response)
        except StopIteration:
            return
        if isinstance(item, Call):
            response = send(item)
        else:
            response = None
            yield from item


class Changes:
    """Count what this process does that can change what a name stands for, through any client of this package."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Forget what was known of any collection, however the block ends."""
        try:
            yield
        finally:
            self.count += 1


CHANGES = Changes()


class Proof(NamedTuple):
    """Hold what was read about a collection.

    Attributes:
        read: when, in seconds of the monotonic clock, before the question was sent.
        change: the value of :data:`CHANGES` then.
        layout: what it holds.
        info: how the server describes it.
    """

    read: float
    change: int
    layout: Layout
    info: models.CollectionInfo

    def younger_than(self, seconds: float) -> bool:
        """Tell whether the proof is younger than so many seconds and this process changed nothing since."""
        return self.change == CHANGES.count and time.monotonic() - self.read < seconds


class FlowBase:
    """Hold how a client was opened, and what it knows about collections.

    Args:
        settings: the arguments it was opened with.
        wrapped: the client that sends.
    """

    def __init__(self, settings: Settings, wrapped: QdrantClient | AsyncQdrantClient) -> None:
        self._settings = settings
        self._local = is_local(wrapped.init_options)
        self._texts = TextEmbedder(
            local=self._local, cloud=wrapped.cloud_inference, batch_size=wrapped.local_inference_batch_size
        )
        self._sends_arrays = uploads_arrays(wrapped.init_options)
        self._proofs: dict[str, Proof] = {}

    def layout(self, collection: str) -> Flow[Layout]:
        """Return the layout of the collection, as known for a few seconds or read now: enough for a search.

        Raises:
            CodecMismatchError: other codecs filled it, or the proof is missing.
        """
        known = self._proofs.get(collection)
        if known is None or not known.younger_than(SEARCH_SECONDS):
            known = yield from self.proof(collection, writing=False)
        return known.layout

    def proof(self, collection: str, *, writing: bool = True) -> Flow[Proof]:
        """Read what the collection holds, and prove that these codecs filled it.

        Args:
            writing: an empty collection gets the identity that it lacks, and one that must not be written is refused.

        Raises:
            CodecMismatchError: other codecs filled it, the proof is missing, or a codec belongs to none of its vectors.
        """
        self._proofs.pop(collection, None)
        read, change = time.monotonic(), CHANGES.count
        info = yield Call("get_collection", {"collection_name": collection})
        layout, missing = self._read(collection, info)
        yield from self._owned(collection, layout)
        if missing:
            counted = yield Call("count", {"collection_name": collection, "exact": True})
            if counted.count:
                raise no_identity(collection, missing)
            if writing:
                yield Call("update_collection", {"collection_name": collection, "metadata": missing})
                info = yield Call("get_collection", {"collection_name": collection})
                layout, missing = self._read(collection, info)
                if missing:
                    raise metadata_not_kept(collection)
        if writing and layout.unwritable:
            raise CodecMismatchError(layout.unwritable)
        found = Proof(read, change, layout, info)
        self._proofs[collection] = found
        return found

    def proven(
        self,
        collection: str,
        encode: Callable[[Layout], T],
        known: Proof | None = None,
        *,
        seconds: float = WRITE_SECONDS,
    ) -> Flow[tuple[T, Proof]]:
        """Return what ``encode`` makes for the collection's layout, and a proof of the layout read right before
        sending.

        Args:
            known: a proof of the same upload, which saves another one while it is young.
            seconds: how old a proof may be.
        """
        proof = known if known is not None else (yield from self.proof(collection))
        result = encode(proof.layout)
        while not proof.younger_than(seconds):
            again = yield from self.proof(collection)
            if again.layout.stores_like(proof.layout):
                return result, again
            proof, result = again, encode(again.layout)
        return result, proof

    def _read(self, collection: str, info: models.CollectionInfo) -> tuple[Layout, dict[str, Any]]:
        return read_layout(
            collection,
            info,
            self._settings.codecs,
            self._settings.originals,
            trust=self._settings.trust,
            originals_id=self._settings.originals_id,
        )

    def _owned(self, collection: str, layout: Layout) -> Flow[None]:
        """Prove that the file of originals, where there is one, belongs to this collection.

        Its id in the collection's metadata is not enough: a copy of the collection has it, too.
        """
        file = self._settings.file
        if file is None or not layout.coded:
            return
        owner, collections = file.owner, {collection}
        if owner is None or owner.collection != collection:
            found = yield Call("get_aliases", {})
            collections = {a.collection_name for a in found.aliases if a.alias_name == collection} or collections
        for name, coded in layout.coded.items():
            wanted = Owner(min(collections), name, coded.codec.codec_id)
            if owner is None:
                file.claim(wanted)
            else:
                file.check_owner(wanted)

    def _changing(self, method: str, collection_name: str, arguments: dict[str, Any]) -> Flow[Any]:
        """Yield a call after which the name may stand for something else."""
        with CHANGES.expected():
            return (yield Call(method, {"collection_name": collection_name, **arguments}))

    def _restored(self, collection: str, layout: Layout, records: Sequence[Any]) -> Flow[Sequence[Any]]:
        """Return records with vectors of the original width."""
        file = self._settings.file
        if file is None or not layout.coded or all(record.vector is None for record in records):
            return restore_records(layout, records, None)
        decided = yield from self._decided(collection, layout, [record.id for record in records])
        return restore_records(layout, records, partial(file.find, decided=decided))

    def _decided(self, collection: str, layout: Layout, ids: Sequence[Any]) -> Flow[Decided]:
        """Return which originals are valid for points whose last write did not finish: those that match the engine."""
        file = self._settings.file
        assert file is not None
        undecided = file.undecided(ids)
        if not undecided:
            return {}
        ((name, coded),) = layout.coded.items()
        arguments = {"ids": undecided, "with_payload": False, "with_vectors": [name]}
        records = yield Call("retrieve", {"collection_name": collection, **arguments})
        latents = dict.fromkeys(undecided)
        latents.update((record.id, vector_of(record, name)) for record in records)
        return file.decide(latents, coded.codec)
