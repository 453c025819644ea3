"""Encode in somebody else's pipeline: a Ray Data actor, and an iterator over pandas frames for Spark.

Ray Data, one codec per actor (give an actor a share of a GPU with ``num_gpus=0.25``)::

    import ray.data
    from vaecodec_integrations.ray import CodecActor

    (
        ray.data.read_parquet("s3://bucket/docs")
        .map_batches(
            CodecActor,
            fn_constructor_args=("/models/vae128.onnx",),
            fn_constructor_kwargs={"column": "embedding"},
            batch_format="pyarrow",
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

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaecodec.codec import Codec
from vaecodec.errors import RaggedVectorsError
from vaecodec.extras import require
from vaecodec.sources import list_rows, vector_column

if TYPE_CHECKING:
    import pandas as pd


class CodecActor:
    """A callable for ``map_batches(..., batch_format="pyarrow")`` that puts latents in the place of vectors.

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
        # Ray counts one CPU per actor; more threads would take those of its neighbours.
        self._codec = Codec.load(codec, dim=dim, providers=providers, threads=1)
        self._column = column

    def __call__(self, batch: Any) -> Any:
        """A pyarrow table with vectors to the same table with latents, float32 fixed-size lists.

        Raises:
            InvalidVectorsError: a row is bad; rows are counted within the batch.
            MissingVectorError, RaggedVectorsError: a row has no vector, or one of another width.
        """
        arrow = require("pyarrow", extra="parquet")
        batch = batch.combine_chunks()
        place = Path("batch")
        column = vector_column(batch.schema, place, self._column)
        lists = batch.column(column)
        values = lists.chunk(0) if lists.num_chunks else arrow.array([], lists.type)
        latents = self._codec.encode(list_rows(values, self._codec.dim, place, 0))
        field = arrow.field(column, arrow.list_(arrow.float32(), self._codec.code_dim))
        encoded = arrow.FixedSizeListArray.from_arrays(arrow.array(latents.reshape(-1)), type=field.type)
        return batch.set_column(batch.schema.get_field_index(column), field, encoded)


def encode_frames(
    frames: Iterator[pd.DataFrame], *, codec: str | Path, column: str, dim: int | None = None
) -> Iterator[pd.DataFrame]:
    """Frames with vectors to the same frames with latents; the codec is loaded once per iterator.

    Args:
        frames: each with a column of equally long lists or arrays of floats.
        codec: path of the codec file.
        column: the column of vectors, which the latents replace, as float32 arrays.
        dim: width of the latents, where the file has several.

    Raises:
        InvalidVectorsError: a row is bad; rows are counted within the frame.
        RaggedVectorsError: rows have no vector or differ in width.
    """
    loaded = Codec.load(codec, dim=dim, threads=1)
    for frame in frames:
        widths = {np.size(vector) if vector is not None else 0 for vector in frame[column]}
        if widths - {loaded.dim}:
            raise RaggedVectorsError(
                f"column {column!r}: expected vectors of width {loaded.dim} in every row, got widths {sorted(widths)}"
            )
        vectors = np.array([np.asarray(vector, np.float32) for vector in frame[column]], np.float32)
        latents = loaded.encode(vectors.reshape(len(frame), loaded.dim))
        yield frame.assign(**{column: list(latents)})
