"""Run the conversion of shards in threads of this process, or in other workers with the same interface."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import Protocol

from vaecodec.bulk.conversion import Conversion, StoppedError
from vaecodec.bulk.inputs import Shard
from vaecodec.bulk.manifest import Entry
from vaecodec.codes.parallel import available_threads
from vaecodec.interface import VectorCodec


class Workers(Protocol):
    """Define workers that convert shards."""

    def accept(self, conversion: Conversion, codec: VectorCodec) -> None:
        """Raise a ``VaecodecError`` if these workers cannot do that; called before anything is written."""
        ...

    def run(
        self,
        conversion: Conversion,
        shards: list[Shard],
        codec: VectorCodec,
        *,
        done: Callable[[Entry], None],
        seen: Callable[[int], None],
    ) -> None:
        """Convert the shards in any order; raise what the first failure raised.

        Args:
            conversion: what to do with each.
            shards: those that are not finished.
            codec: that of the job.
            done: called with each shard's entry, from any thread.
            seen: called with numbers of rows that have been read, from any thread.
        """
        ...


class Threads:
    """Convert shards in threads of this process; the first failure stops the others at their next block.

    Args:
        workers: how many; by default one per core that this process may use.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers

    def accept(self, conversion: Conversion, codec: VectorCodec) -> None:
        """Accept every job: threads can do anything."""

    def run(
        self,
        conversion: Conversion,
        shards: list[Shard],
        codec: VectorCodec,
        *,
        done: Callable[[Entry], None],
        seen: Callable[[int], None],
    ) -> None:
        """See :meth:`Workers.run`."""
        stop = Event()

        def work(shard: Shard) -> None:
            if stop.is_set():
                raise StoppedError
            try:
                done(conversion.run(shard, codec, stop=stop, seen=seen))
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(self._workers or available_threads(), thread_name_prefix="vaecodec") as pool:
            futures = [pool.submit(work, shard) for shard in shards]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # this also catches KeyboardInterrupt
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        errors = [future.exception() for future in futures if future.done() and not future.cancelled()]
        for error in errors:
            if error is not None and not isinstance(error, StoppedError):
                raise error
