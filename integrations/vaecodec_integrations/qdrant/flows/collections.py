"""Flows of the methods that create, change and describe collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from vaecodec.errors import CodecMismatchError, UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.flows.base import Call, Flow, FlowBase
from vaecodec_integrations.qdrant.identity import identity_record, metadata_key, names_codec
from vaecodec_integrations.qdrant.layout import (
    DISTANCES,
    UNNAMED,
    Originals,
    dense_params,
    logical_info,
    original_name,
)
from vaecodec_integrations.qdrant.vectors import as_rest, copy_with


class CollectionFlows(FlowBase):
    """Collections are created for latents and described as if they held the vectors of the original width."""

    def create_collection(self, **arguments: Any) -> Flow[Any]:
        """Compressed sizes and distances in, the codec's identity into the metadata."""
        return (yield from self._create("create_collection", **arguments))

    def recreate_collection(self, **arguments: Any) -> Flow[Any]:
        """See :meth:`create_collection`."""
        return (yield from self._create("recreate_collection", **arguments))

    def _create(
        self,
        method: str,
        *,
        collection_name: str,
        vectors_config: Any = None,
        quantization_config: Any = None,
        metadata: Any = None,
        **rest: Any,
    ) -> Flow[Any]:
        _refuse_reserved(metadata)
        quantization_config = as_rest(quantization_config)
        asked = self._asked_vectors(vectors_config)
        stored, records = dict(asked), {}
        for name, codec in self._settings.codecs.items():
            if name not in asked:
                continue
            keeps = self._settings.originals is Originals.DISK
            original = original_name(name) if keeps else None
            stored[name] = _compressed_params(name, asked[name], codec, self._settings.originals)
            if original is not None:
                stored[original] = _original_params(asked[name], codec)
            records[metadata_key(name)] = identity_record(codec, self._settings.originals, original)
        if records and self._settings.originals is Originals.DISK and quantization_config is not None:
            # Quantising the originals too would cost RAM and gain nothing: they are only read to re-rank.
            for name in asked:
                if stored[name].quantization_config is None:
                    stored[name] = copy_with(stored[name], quantization_config=quantization_config)
            quantization_config = None
        if records:
            vectors_config = stored[UNNAMED] if list(stored) == [UNNAMED] else stored
            metadata = {**(metadata or {}), **records}
        return (
            yield from self._forgetting(
                method,
                collection_name,
                {
                    "vectors_config": vectors_config,
                    "quantization_config": quantization_config,
                    "metadata": metadata,
                    **rest,
                },
            )
        )

    def _asked_vectors(self, config: Any) -> dict[str, models.VectorParams]:
        if config is None:
            # The codecs know what they need, so the size and the distance may be left out.
            return {
                name: models.VectorParams(size=codec.dim, distance=DISTANCES[codec.metric])
                for name, codec in self._settings.codecs.items()
            }
        return dict(config) if isinstance(config, Mapping) else {UNNAMED: config}

    def create_vector_name(
        self, *, collection_name: str, vector_name: str, vector_name_config: Any, **rest: Any
    ) -> Flow[Any]:
        """A compressed vector added to an existing collection, its identity first."""
        codec = self._settings.codecs.get(vector_name)
        if codec is None or not isinstance(vector_name_config, models.DenseVectorNameConfig):
            arguments = {"vector_name": vector_name, "vector_name_config": vector_name_config, **rest}
            return (yield from self._forgetting("create_vector_name", collection_name, arguments))
        originals = self._settings.originals
        dense = vector_name_config.dense
        original = original_name(vector_name) if originals is Originals.DISK else None
        metadata = {metadata_key(vector_name): identity_record(codec, originals, original)}
        params = _compressed_params(vector_name, dense, codec, originals)
        yield from self._forgetting("update_collection", collection_name, {"metadata": metadata})
        if original is not None:
            kept = copy_with(dense, datatype=models.VectorStorageDatatype.FLOAT16)
            config = models.DenseVectorNameConfig(dense=kept)
            arguments = {"collection_name": collection_name, "vector_name_config": config, **rest}
            yield Call("create_vector_name", {"vector_name": original, **arguments})
            graphless = models.VectorParamsDiff(on_disk=True, hnsw_config=models.HnswConfigDiff(m=0))
            vectors = {original: graphless}
            yield Call("update_collection", {"collection_name": collection_name, "vectors_config": vectors})
        config = models.DenseVectorNameConfig(dense=params)
        arguments = {"vector_name": vector_name, "vector_name_config": config, **rest}
        return (yield from self._forgetting("create_vector_name", collection_name, arguments))

    def delete_vector_name(self, *, collection_name: str, vector_name: str, **rest: Any) -> Flow[Any]:
        """The vector, its kept originals and its identity."""
        layout = yield from self.layout(collection_name)
        coded = layout.coded.get(vector_name)
        result = yield Call(
            "delete_vector_name", {"collection_name": collection_name, "vector_name": vector_name, **rest}
        )
        if coded is not None:
            if coded.original is not None:
                arguments = {"collection_name": collection_name, "vector_name": coded.original, **rest}
                yield Call("delete_vector_name", arguments)
            metadata = {metadata_key(vector_name): None}
            yield Call("update_collection", {"collection_name": collection_name, "metadata": metadata})
        self._layouts.pop(collection_name, None)
        return result

    def update_collection(
        self,
        *,
        collection_name: str,
        vectors_config: Any = None,
        quantization_config: Any = None,
        metadata: Any = None,
        **rest: Any,
    ) -> Flow[Any]:
        """Settings of the stored vectors; kept originals are never quantised."""
        _refuse_reserved(metadata)
        vectors_config, quantization_config = as_rest(vectors_config), as_rest(quantization_config)
        layout = yield from self.layout(collection_name)
        if layout.hides_originals and quantization_config is not None:
            info = yield Call("get_collection", {"collection_name": collection_name})
            dense = [name for name in dense_params(info) if name in layout.coded or name in layout.others]
            vectors_config = dict(vectors_config or {})
            for name in dense:
                diff = vectors_config.get(name, models.VectorParamsDiff())
                if diff.quantization_config is None:
                    vectors_config[name] = copy_with(diff, quantization_config=quantization_config)
            quantization_config = None
        arguments = {
            "vectors_config": vectors_config,
            "quantization_config": quantization_config,
            "metadata": metadata,
            **rest,
        }
        return (yield from self._forgetting("update_collection", collection_name, arguments))

    def delete_collection(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """Forget what was known about the collection."""
        return (yield from self._forgetting("delete_collection", collection_name, rest))

    def update_collection_aliases(self, **arguments: Any) -> Flow[Any]:
        """Forget what was known under any name."""
        result = yield Call("update_collection_aliases", arguments)
        self._layouts.clear()
        return result

    def get_collection(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """The collection as if it were not compressed; its metadata tells what is stored."""
        layout = yield from self.layout(collection_name)
        info = yield Call("get_collection", {"collection_name": collection_name, **rest})
        return logical_info(info, layout)


def _refuse_reserved(metadata: Any) -> None:
    reserved = [key for key in metadata or {} if names_codec(str(key))]
    if reserved:
        raise UnsupportedRequestError(
            f"metadata: expected keys of your own, got {reserved}; these name the codecs and are written by the client"
        )


def _compressed_params(name: str, params: Any, codec: VectorCodec, originals: Originals) -> Any:
    """``VectorParams`` or ``DenseVectorConfig`` for the latents, from those for the embeddings."""
    distance = DISTANCES[codec.metric]
    if params.size != codec.dim or params.distance != distance:
        raise CodecMismatchError(
            f"vector {name!r}: expected size {codec.dim} and distance {distance}, as the codec's embeddings have, got "
            f"size {params.size} and distance {params.distance}"
        )
    if params.datatype is not None and str(params.datatype.value) == "uint8":
        raise UnsupportedRequestError(
            f"vector {name!r}: expected a datatype that keeps fractions, got uint8, which cuts latents (mostly between "
            "-1 and 1) to zero; for one byte per dimension on the disk use turbo8, in RAM recommended_config"
        )
    if params.multivector_config is not None and originals is Originals.FILE:
        raise UnsupportedRequestError(
            f"vector {name!r}: a file of originals holds one row per point, not multivectors; use originals='disk'"
        )
    return copy_with(params, size=codec.code_dim, distance=DISTANCES[codec.latent_metric])


def _original_params(params: models.VectorParams, codec: VectorCodec) -> models.VectorParams:
    return models.VectorParams(
        size=codec.dim,
        distance=DISTANCES[codec.metric],
        datatype=models.Datatype.FLOAT16,
        on_disk=True,
        # Never searched by itself, only read to re-rank, so it needs no graph.
        hnsw_config=models.HnswConfigDiff(m=0),
        multivector_config=params.multivector_config,
    )
