"""Encode on a Ray cluster or in somebody else's pipeline.

- :class:`RayWorkers`: ``vaecodec encode --engine ray``; one output folder, resumable, the same bytes as on one machine.
- :class:`CodecActor`: a step of a Ray Data pipeline, for object stores and whatever else Ray reads and writes.
- :func:`encode_frames`: an iterator over pandas frames, for Spark.

A pipeline with one codec per actor (give an actor a share of a GPU with ``num_gpus=0.25`` and
``providers=["CUDAExecutionProvider"]``)::

    import ray.data
    from vaecodec_integrations.ray import CodecActor

    (
        ray.data.read_parquet("s3://bucket/docs")
        .map_batches(
            CodecActor,
            fn_constructor_args=("/models/vae128.onnx",),
            fn_constructor_kwargs={"column": "embedding"},
            compute=ray.data.ActorPoolStrategy(size=8),
            num_cpus=1,
        )
        .write_parquet("s3://bucket/docs_vae")
    )

Encoding depends on the rows alone, so a batch that Ray runs again after a worker has died gives the same output, and
Ray hands on the output of one run only. Leave at least one CPU beside the actors for reading and writing.

Spark, or anything else that maps iterators of frames::

    from functools import partial
    from vaecodec_integrations.ray import encode_frames

    frame.mapInPandas(partial(encode_frames, codec="/models/vae128.onnx", column="embedding"), schema=frame.schema)
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaecodec import errors
from vaecodec.artifact import read_artifact
from vaecodec.bulk.conversion import Conversion
from vaecodec.bulk.inputs import ParquetInput, Shard
from vaecodec.bulk.manifest import Entry
from vaecodec.bulk.parts import part_path
from vaecodec.codec import Codec
from vaecodec.codes.parallel import available_threads
from vaecodec.errors import (
    BulkStoppedError,
    CodecMismatchError,
    MalformedSourceError,
    MissingColumnError,
    UnknownSourceError,
    VaecodecError,
)
from vaecodec.extras import require
from vaecodec.interface import VectorCodec
from vaecodec.sources.parquet import list_rows, list_storage, vector_column

if TYPE_CHECKING:
    import pandas as pd


class RayWorkers:
    """Run bulk jobs on Ray: actors take whole shards from Parquet to the output folder.

    Every machine must see the input, the codec file and the output folder under the same paths. A shard whose worker
    dies is done again by another one. It has one file, which appears in one rename and whose bytes depend on the shard
    alone, so that nothing is lost or doubled, whenever the worker died.

    Args:
        codec: path of the codec file; each actor loads it once.
        workers: the most actors at a time, of one CPU each; by default as many as there are CPUs, or shares of GPUs.
        gpus_per_worker: share of a GPU for each actor, which then encodes on it; 0 for the CPU.
        address: of a running cluster, ``"auto"`` for the one that this machine belongs to; by default the one that
            this process is connected to, that of ``RAY_ADDRESS``, or a new one on this machine alone.
        retries: how often a shard is done again when its worker dies.
    """

    actor: type[ShardActor]

    def __init__(
        self,
        codec: str | Path,
        *,
        workers: int | None = None,
        gpus_per_worker: float = 0.0,
        address: str | None = None,
        retries: int = 3,
    ) -> None:
        self._codec = Path(codec).absolute()
        self._workers, self._gpus = workers, gpus_per_worker
        self._address, self._retries = address, retries
        self.actor = ShardActor

    def accept(self, conversion: Conversion, codec: VectorCodec) -> None:
        """Refuse what is not Parquet, or a codec that is not in the file.

        Raises:
            UnknownSourceError: the input is not Parquet.
            CodecMismatchError: the file holds another codec.
            MissingExtraError: Ray is not installed.
        """
        require("ray.data", extra="ray")
        if not isinstance(conversion.source, ParquetInput):
            raise UnknownSourceError(
                f"{conversion.source.files[0]}: Ray works on Parquet files; leave out --engine ray for other formats"
            )
        _, metadata = read_artifact(self._codec)
        if metadata.identity != codec.codec_id:
            raise CodecMismatchError(
                f"{self._codec}: expected codec {codec.codec_id[:16]}, found {metadata.identity[:16]}"
            )

    def run(
        self,
        conversion: Conversion,
        shards: list[Shard],
        codec: VectorCodec,
        *,
        done: Callable[[Entry], None],
        seen: Callable[[int], None],
    ) -> None:
        """See :meth:`vaecodec.bulk.Workers.run`.

        Raises:
            BulkStoppedError: a shard lost its worker once more than ``retries`` allow, or a worker writes elsewhere.
        """
        if not shards:
            return
        ray, exceptions = require("ray", extra="ray"), require("ray.exceptions", extra="ray")
        started = self._connect(ray)
        rows = {shard.number: shard.rows for shard in shards}
        try:
            for outcome in self._outcomes(conversion, shards, codec):
                if isinstance(outcome, Exception):
                    raise outcome
                if (
                    outcome.sha256 is not None
                    and not part_path(conversion.folder, outcome.shard, conversion.suffix).exists()
                ):
                    raise BulkStoppedError(
                        f"{conversion.folder}: a worker has written shard {outcome.shard}, and it is not here; "
                        "expected a folder that all machines of the cluster share"
                    )
                seen(rows[outcome.shard])
                done(outcome)
        except exceptions.RayError as error:
            raise BulkStoppedError(f"Ray gave up: {error}") from error
        finally:
            if started:
                ray.shutdown()

    def _connect(self, ray: Any) -> bool:
        """Connect to a cluster, and tell whether this call started it."""
        if ray.is_initialized():
            return False
        address = self._address or os.environ.get("RAY_ADDRESS", "local")
        cpus = {"num_cpus": self._workers or available_threads()} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **cpus)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        return True

    def _outcomes(self, conversion: Conversion, shards: list[Shard], codec: VectorCodec) -> Iterator[Entry | Exception]:
        ray, data = require("ray", extra="ray"), require("ray.data", extra="ray")
        data.DataContext.get_current().enable_progress_bars = False  # Ray is running already
        there = ray.cluster_resources()
        room = int(there.get("GPU", 0) / self._gpus if self._gpus else there.get("CPU", 1))
        most = min(len(shards), self._workers or max(1, room))
        outcomes = data.from_items([{"shard": shard.number} for shard in shards], override_num_blocks=len(shards))
        outcomes = outcomes.map_batches(
            self.actor,
            fn_constructor_args=(conversion, str(self._codec), codec.code_dim, codec.codec_id, bool(self._gpus)),
            batch_size=1,
            # Allow more actors than there is room for now: the cluster may grow.
            compute=data.ActorPoolStrategy(min_size=max(1, min(most, room)), max_size=most),
            num_cpus=1,
            num_gpus=self._gpus or None,
            ray_remote_args_fn=partial(dict, max_task_retries=self._retries),
        )
        for row in outcomes.iter_rows():
            yield _outcome(json.loads(row["outcome"]))


class ShardActor:
    """Convert shards as an actor of :class:`RayWorkers`: shard numbers in, results as JSON out.

    What stops a shard comes back as a value, because Ray would wrap it, or try again.
    """

    def __init__(self, conversion: Conversion, codec: str, dim: int, codec_id: str, on_gpu: bool) -> None:
        self._conversion = conversion
        self._codec = Codec.load(codec, dim=dim, device="cuda" if on_gpu else "cpu", threads=1)
        if self._codec.codec_id != codec_id:
            raise CodecMismatchError(
                f"{codec}: expected codec {codec_id[:16]}, found {self._codec.codec_id[:16]} on this machine"
            )

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"outcome": np.array([json.dumps(_plain(self.convert(int(number)))) for number in batch["shard"]])}

    def convert(self, number: int) -> Entry | VaecodecError | OSError:
        """Convert one shard to its part; see :meth:`vaecodec.bulk.conversion.Conversion.run`."""
        try:
            return self._conversion.run(self._conversion.source.shards[number], self._codec)
        except (VaecodecError, OSError) as error:
            return error


def _plain(outcome: Entry | VaecodecError | OSError) -> dict[str, Any]:
    if isinstance(outcome, Entry):
        return {"entry": outcome}
    if isinstance(outcome, VaecodecError):
        return {"error": type(outcome).__name__, "message": str(outcome)}
    return {"errno": outcome.errno, "message": outcome.strerror or str(outcome)}


def _outcome(plain: dict[str, Any]) -> Entry | Exception:
    """Return on the other machine what :func:`_plain` was given."""
    if "entry" in plain:
        return Entry(*plain["entry"])
    if "error" in plain:
        error: Exception = getattr(errors, plain["error"])(plain["message"])
        return error
    return OSError(plain["message"]) if plain["errno"] is None else OSError(plain["errno"], plain["message"])


class CodecActor:
    """Replace vectors by latents in ``map_batches``, for every batch format of Ray.

    Args:
        codec: path of the codec file, which every worker must be able to read.
        column: the column of vectors, lists or fixed-size lists; by default the only one.
        dim: width of the latents, where the file has several.
        providers: see :meth:`vaecodec.Codec.load`.
    """

    def __init__(
        self,
        codec: str | Path,
        *,
        column: str | None = None,
        dim: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        # Ray counts one CPU per actor. More threads would take the CPUs of other actors.
        self._codec = Codec.load(codec, dim=dim, providers=providers, threads=1)
        self._column = column

    def __call__(self, batch: Any) -> Any:
        """Replace the vectors of a batch by float32 latents.

        Args:
            batch: a dict of numpy arrays, which Ray gives by default; a pandas frame; or a pyarrow table, in which
                latents are fixed-size lists.

        Returns:
            A batch of the same type.

        Raises:
            InvalidVectorsError: a row is bad; rows are counted within the batch.
            BadRowsError, MalformedSourceError: a row has no vector, or one of another width.
            MissingColumnError: the batch has no such column, or ``column`` was not given for a dict or a frame.
        """
        if hasattr(batch, "combine_chunks"):
            return self._table(batch)
        if self._column is None or self._column not in batch:
            raise MissingColumnError(
                f"batch: expected the column of vectors {self._column!r}; it has: {', '.join(map(str, batch))}; "
                "give CodecActor its name, column=..."
            )
        latents = self._codec.encode(_matrix(batch[self._column], self._column, self._codec.dim))
        if isinstance(batch, dict):
            return {**batch, self._column: latents}
        return batch.assign(**{self._column: list(latents)})

    def _table(self, batch: Any) -> Any:
        arrow = require("pyarrow", extra="parquet")
        batch = batch.combine_chunks()
        place = Path("batch")
        column = vector_column(batch.schema, place, self._column)
        lists = batch.column(column)
        values = lists.chunk(0) if lists.num_chunks else arrow.array([], lists.type)
        latents = self._codec.encode(list_rows(list_storage(values), self._codec.dim, place, 0))
        field = arrow.field(column, arrow.list_(arrow.float32(), self._codec.code_dim))
        encoded = arrow.FixedSizeListArray.from_arrays(arrow.array(latents.reshape(-1)), type=field.type)
        return batch.set_column(batch.schema.get_field_index(column), field, encoded)


def encode_frames(
    frames: Iterator[pd.DataFrame], *, codec: str | Path, column: str, dim: int | None = None
) -> Iterator[pd.DataFrame]:
    """Turn frames with vectors into the same frames with latents; the codec is loaded once per iterator.

    Args:
        frames: each with a column of equally long lists or arrays of floats.
        codec: path of the codec file.
        column: the column of vectors, which the latents replace, as float32 arrays.
        dim: width of the latents, where the file has several.

    Raises:
        InvalidVectorsError: a row is bad; rows are counted within the frame.
        MalformedSourceError: rows have no vector or differ in width.
    """
    loaded = Codec.load(codec, dim=dim, threads=1)
    for frame in frames:
        yield frame.assign(**{column: list(loaded.encode(_matrix(frame[column], column, loaded.dim)))})


def _matrix(values: Any, column: str, dim: int) -> NDArray[Any]:
    """Return the vectors of a column, a matrix already or one array or list a row, as float (n, dim)."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return values
    for row, vector in enumerate(values):
        width = np.size(vector) if vector is not None else 0
        if width != dim:
            raise MalformedSourceError(
                f"column {column!r}: expected vectors of width {dim} in every row, row {row} has {width}"
            )
    return np.array([np.asarray(vector, np.float32) for vector in values], np.float32).reshape(len(values), dim)
