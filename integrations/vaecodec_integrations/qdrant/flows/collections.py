"""Translate the methods that create, change and describe collections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qdrant_client import models

from vaecodec.errors import CodecMismatchError, UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.flows.base import CHANGES, Call, Flow, FlowBase
from vaecodec_integrations.qdrant.identity import (
    identity_record,
    logical_info,
    metadata_key,
    names_codec,
    vector_of_key,
    without_vector,
)
from vaecodec_integrations.qdrant.layout import (
    DISTANCES,
    UNNAMED,
    Originals,
    dense_params,
    original_name,
)
from vaecodec_integrations.qdrant.messages import VECTORS_CONFIG, VECTORS_CONFIG_DIFF, as_rest, copy_with
from vaecodec_integrations.qdrant.originals import Owner
from vaecodec_integrations.qdrant.versions import VECTOR_NAMES, check_version, features


class CollectionFlows(FlowBase):
    """Create collections for latents, and describe them as if they held the vectors of the original width."""

    def create_collection(self, **arguments: Any) -> Flow[Any]:
        """Create a collection of compressed sizes and distances, with the codec's identity in its metadata."""
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
        quantization_config = as_rest(quantization_config, models.QuantizationConfig)
        asked = self._asked_vectors(collection_name, vectors_config, without=bool(rest.get("sparse_vectors_config")))
        stored, records = self._stored_vectors(collection_name, asked)
        if records and self._settings.originals is Originals.DISK and quantization_config is not None:
            # Do not quantise the originals: that would cost RAM for nothing, because they are only read to re-rank.
            for name in asked:
                if stored[name].quantization_config is None:
                    stored[name] = copy_with(stored[name], quantization_config=quantization_config)
            quantization_config = None
        metadata = _users_metadata(metadata, records)
        if records:
            vectors_config = stored[UNNAMED] if list(stored) == [UNNAMED] else stored
            metadata = {**(metadata or {}), **records}
        yield from self._supported(features(stored.values(), quantization_config))
        arguments = {
            "vectors_config": vectors_config,
            "quantization_config": quantization_config,
            "metadata": metadata,
            **rest,
        }
        owners = self._owners(collection_name, records)
        result = yield from self._changing(method, collection_name, arguments)
        self._claim(owners)
        return result

    def _owners(self, collection: str, records: Mapping[str, Any]) -> list[Owner]:
        """Return the owner that the file of originals, if there is one, gets with these records of a new collection.

        Raises:
            OriginalsError: it belongs to another collection.
        """
        file = self._settings.file
        if file is None:
            return []
        owners = [Owner(collection, vector_of_key(key), record["codec_id"]) for key, record in records.items()]
        for owner in owners:
            file.check_owner(owner)
        return owners

    def _claim(self, owners: list[Owner]) -> None:
        """Clear the file of originals: its content belongs to a collection that no longer exists."""
        file = self._settings.file
        for owner in owners:
            assert file is not None
            file.clear()
            file.claim(owner)

    def _asked_vectors(self, collection: str, config: Any, *, without: bool) -> dict[str, models.VectorParams]:
        """Return the dense vectors that a user asked for by name; by default, unless ``without``, those of the codecs.

        The codecs know what they need, so the size and the distance may be left out.
        """
        if config is None and not without:
            codecs = self._settings.codecs.of(collection, ()).compressing
            return {
                name: models.VectorParams(size=codec.dim, distance=DISTANCES[codec.metric])
                for name, codec in codecs.items()
            }
        config = as_rest(config, VECTORS_CONFIG)
        return {} if config is None else dict(config) if isinstance(config, Mapping) else {UNNAMED: config}

    def _stored_vectors(
        self, collection: str, asked: Mapping[str, models.VectorParams]
    ) -> tuple[dict[str, models.VectorParams], dict[str, Any]]:
        """Return the dense vectors as they are stored, and the records of those that are compressed."""
        assigned, originals = self._settings.codecs.of(collection, asked), self._settings.originals
        stored, records = dict(asked), {}
        for name, codec in assigned.compressing.items():
            # Leave vectors of another width as they are: they are of another model, unless a codec was given by name.
            if name not in asked or not (assigned.named or asked[name].size in (codec.dim, codec.code_dim)):
                continue
            original = original_name(name) if originals is Originals.DISK else None
            stored[name] = _compressed_params(name, asked[name], codec, originals)
            if original is not None:
                stored[original] = _original_params(asked[name], codec)
            records[metadata_key(name)] = identity_record(codec, originals, original, self._settings.originals_id)
        plain = {name: params.size for name, params in asked.items() if metadata_key(name) not in records}
        if wrong := without_vector(collection, assigned, plain, list(asked)):
            raise CodecMismatchError(wrong)
        return stored, records

    def create_vector_name(
        self, *, collection_name: str, vector_name: str, vector_name_config: Any, **rest: Any
    ) -> Flow[Any]:
        """Add a compressed vector to an existing collection, its identity first."""
        given = as_rest(vector_name_config, models.VectorNameConfig)
        proof = yield from self.proof(collection_name, writing=False)
        codec = self._settings.codecs.of(collection_name, [*dense_params(proof.info), vector_name]).by_vector.get(
            vector_name
        )
        if codec is None or not isinstance(given, models.DenseVectorNameConfig):
            yield from self._supported([VECTOR_NAMES])
            arguments = {"vector_name": vector_name, "vector_name_config": given, **rest}
            return (yield from self._changing("create_vector_name", collection_name, arguments))
        originals, dense = self._settings.originals, given.dense
        original = original_name(vector_name) if originals is Originals.DISK else None
        record = identity_record(codec, originals, original, self._settings.originals_id)
        metadata = {metadata_key(vector_name): record}
        owners = self._owners(collection_name, metadata)
        params = _compressed_params(vector_name, dense, codec, originals)
        yield from self._supported([VECTOR_NAMES, *features([dense])])
        yield from self._changing("update_collection", collection_name, {"metadata": metadata})
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
        result = yield from self._changing("create_vector_name", collection_name, arguments)
        self._claim(owners)
        return result

    def delete_vector_name(self, *, collection_name: str, vector_name: str, **rest: Any) -> Flow[Any]:
        """Delete the vector, its kept originals and its identity."""
        proof = yield from self.proof(collection_name, writing=False)
        coded = proof.layout.coded.get(vector_name)
        result = yield from self._changing("delete_vector_name", collection_name, {"vector_name": vector_name, **rest})
        if coded is not None:
            if coded.original is not None:
                arguments = {"vector_name": coded.original, **rest}
                yield from self._changing("delete_vector_name", collection_name, arguments)
            metadata = {metadata_key(vector_name): None}
            yield from self._changing("update_collection", collection_name, {"metadata": metadata})
            if self._settings.file is not None:
                self._settings.file.clear()
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
        """Change settings of the stored vectors; kept originals are never quantised."""
        vectors_config = as_rest(vectors_config, VECTORS_CONFIG_DIFF)
        quantization_config = as_rest(quantization_config, models.QuantizationConfigDiff)
        layout, info = (yield from self.proof(collection_name, writing=False))[-2:]
        metadata = _users_metadata(metadata, info.config.metadata or {})
        if layout.hides_originals and quantization_config is not None:
            dense = [name for name in dense_params(info) if name in layout.coded or name in layout.others]
            vectors_config = dict(vectors_config or {})
            for name in dense:
                diff = vectors_config.get(name, models.VectorParamsDiff())
                if diff.quantization_config is None:
                    vectors_config[name] = copy_with(diff, quantization_config=quantization_config)
            quantization_config = None
        yield from self._supported(features((vectors_config or {}).values(), quantization_config))
        arguments = {
            "vectors_config": vectors_config,
            "quantization_config": quantization_config,
            "metadata": metadata,
            **rest,
        }
        return (yield from self._changing("update_collection", collection_name, arguments))

    def delete_collection(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """Forget what was known about the collection, and its originals."""
        result = yield from self._changing("delete_collection", collection_name, rest)
        file = self._settings.file
        if file is not None and file.owner is not None and file.owner.collection == collection_name:
            file.clear()
        return result

    def update_collection_aliases(self, **arguments: Any) -> Flow[Any]:
        """Forget what was known under any name."""
        with CHANGES.expected():
            return (yield Call("update_collection_aliases", arguments))

    def get_collection(self, *, collection_name: str, **_: Any) -> Flow[Any]:
        """Return the collection as if it were not compressed."""
        proof = yield from self.proof(collection_name, writing=False)
        return logical_info(proof.info, proof.layout)

    def _supported(self, wanted: Iterable[str]) -> Flow[None]:
        """Refuse what the server's version lacks; ask for it only where something depends on it."""
        needed = list(wanted)
        if needed and not self._local:
            found = yield Call("info", {})
            check_version(found.version, needed)


def _users_metadata(metadata: Any, records: Mapping[str, Any]) -> Any:
    """Return the user's metadata without records that the collection has anyway.

    Raises:
        UnsupportedRequestError: a record that says something else.
    """
    own = {key: value for key, value in (metadata or {}).items() if names_codec(str(key))}
    reserved = [key for key, value in own.items() if records.get(key) != value or value is None]
    if reserved:
        raise UnsupportedRequestError(
            f"metadata: expected keys of your own, got {reserved}; these name the codecs and are written by the client"
        )
    return {key: value for key, value in metadata.items() if key not in own} if own else metadata


def _compressed_params(name: str, params: Any, codec: VectorCodec, originals: Originals) -> Any:
    """Return ``VectorParams`` or ``DenseVectorConfig`` for the latents, from those for the embeddings."""
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
        # This vector needs no graph: it is only read to re-rank, never searched.
        hnsw_config=models.HnswConfigDiff(m=0),
        multivector_config=params.multivector_config,
    )
