"""Test one client and many collections: each with its own codecs, or with none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from vaecodec import LinearCodec, fit_linear
from vaecodec.errors import CodecMismatchError, UnsupportedRequestError
from vaecodec_integrations.qdrant.codecs import Codecs

Open = Callable[..., Any]


def cosine(size: int) -> models.VectorParams:
    return models.VectorParams(size=size, distance=models.Distance.COSINE)


@pytest.fixture(scope="module")
def narrow(sample: Any) -> LinearCodec:
    return fit_linear(sample.train, 32, embedder="all-MiniLM-L6-v2")


def stored_sizes(client: Any, collection: str) -> Any:
    vectors = client.wrapped.get_collection(collection).config.params.vectors
    if isinstance(vectors, dict):
        return {vector: params.size for vector, params in vectors.items()}
    return vectors.size


class TestOthersCollections:
    """Test that collections without a codec behave as without this package."""

    @pytest.mark.parametrize("made_by", ["the client", "somebody else"])
    def test_a_collection_of_another_width_passes_through(
        self, open_client: Open, svd_codec: LinearCodec, name: str, made_by: str
    ) -> None:
        client = open_client(svd_codec)
        maker = client if made_by == "the client" else client.wrapped
        maker.create_collection(name, cosine(3), metadata={"owner": "cache"})
        client.upsert(name, [models.PointStruct(id=1, vector=[3.0, 0.0, 4.0], payload={"n": 1})])
        client.upload_collection(name, np.eye(3, dtype=np.float32), ids=[2, 3, 4], wait=True)
        client.update_vectors(name, [models.PointVectors(id=4, vector=[1.0, 1.0, 1.0])])
        assert client.get_collection(name) == client.wrapped.get_collection(name)
        assert client.get_collection(name).config.metadata == {"owner": "cache"}
        (record,) = client.retrieve(name, [1], with_vectors=True)
        np.testing.assert_allclose(record.vector, [0.6, 0, 0.8], atol=1e-6)
        assert client.query_points(name, [0.0, 1.0, 0.0], limit=1).points[0].id == 3
        assert client.update_collection(name, metadata={"owner": "me"})
        assert client.get_collection(name).config.metadata == {"owner": "me"}

    def test_an_uncompressed_collection_of_the_codecs_width_is_read_but_not_written(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(svd_codec)
        client.wrapped.create_collection(name, cosine(384))
        client.wrapped.upload_collection(name, sample.base[:5], ids=range(5), wait=True)
        assert client.query_points(name, sample.base[3], limit=1).points[0].score == pytest.approx(1, abs=1e-5)
        (record,) = client.retrieve(name, [2], with_vectors=True)
        np.testing.assert_allclose(record.vector, sample.base[2], atol=1e-6)
        point = models.PointStruct(id=9, vector=sample.base[9].tolist())
        with pytest.raises(CodecMismatchError, match="got uncompressed ones of size 384; copy the collection with"):
            client.upsert(name, [point])
        stated = open_client(svd_codec, codecs={name: None})
        stated.upsert(name, [point])
        assert stated.query_points(name, sample.base[9], limit=1).points[0].id == 9
        assert stored_sizes(client, name) == 384

    def test_without_dense_vectors_it_stays(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec)
        client.create_collection(name, sparse_vectors_config={"words": models.SparseVectorParams()})
        client.create_collection(f"{name}-payload", {})
        for collection in (name, f"{name}-payload"):
            assert not client.get_collection(collection).config.params.vectors
        words = models.SparseVector(indices=[1], values=[2.0])
        client.upsert(name, [models.PointStruct(id=1, vector={"words": words})])
        assert client.query_points(name, words, using="words").points[0].score == 4


class TestCodecsOfEachCollection:
    def test_a_mapping(
        self, open_client: Open, svd_codec: LinearCodec, narrow: LinearCodec, sample: Any, name: str
    ) -> None:
        docs, cache, plain = f"{name}-docs", f"{name}-cache", f"{name}-plain"
        client = open_client(codecs={docs: svd_codec, cache: {"title": narrow}})
        client.create_collection(docs)
        client.create_collection(cache)
        client.create_collection(plain, cosine(384))
        assert [stored_sizes(client, c) for c in (docs, cache, plain)] == [64, {"title": 32}, 384]
        raw = sample.base[0].tolist()
        client.upsert(docs, [models.PointStruct(id=1, vector=raw)])
        client.upsert(cache, [models.PointStruct(id=1, vector={"title": raw})])
        client.upsert(plain, [models.PointStruct(id=1, vector=raw)])
        for collection, using in ((docs, None), (cache, "title"), (plain, None)):
            assert client.query_points(collection, raw, using=using).points[0].score == pytest.approx(1, abs=1e-5)
        records = client.wrapped.get_collection(cache).config.metadata
        assert records["vaecodec:title"]["codec_id"] == narrow.codec_id

    def test_a_function(
        self, open_client: Open, svd_codec: LinearCodec, narrow: LinearCodec, sample: Any, name: str
    ) -> None:
        def codecs(collection: str) -> Any:
            return {f"{name}-64": svd_codec, f"{name}-32": {"": narrow}}.get(collection)

        client = open_client(codecs=codecs)
        for collection in (f"{name}-64", f"{name}-32"):
            client.create_collection(collection)
            client.upload_collection(collection, sample.base[:9], ids=range(9), wait=True)
            assert client.query_points(collection, sample.base[4], limit=1).points[0].id == 4
        client.create_collection(f"{name}-384", cosine(384))
        client.upload_collection(f"{name}-384", sample.base[:9], ids=range(9), wait=True)
        assert [stored_sizes(client, f"{name}-{size}") for size in (64, 32, 384)] == [64, 32, 384]

    def test_an_alias_finds_the_codec_that_the_record_names(
        self, open_client: Open, svd_codec: LinearCodec, narrow: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(codecs={f"{name}-a": svd_codec, f"{name}-b": {"": narrow}})
        for collection in (f"{name}-a", f"{name}-b"):
            client.create_collection(collection)
            create = models.CreateAlias(collection_name=collection, alias_name=f"{name}-live")
            client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
            client.upsert(f"{name}-live", [models.PointStruct(id=1, vector=sample.base[0].tolist())])
            assert client.query_points(f"{name}-live", sample.base[0]).points[0].score == pytest.approx(1, abs=1e-5)

    def test_a_collection_of_a_codec_that_the_client_lacks_is_refused(
        self, open_client: Open, svd_codec: LinearCodec, narrow: LinearCodec, sample: Any, name: str
    ) -> None:
        open_client(svd_codec).create_collection(name)
        client = open_client(codecs={f"{name}-other": {"": narrow}})
        expected = rf"vector '': expected the codec {svd_codec.codec_id[:12]} \(all-MiniLM-L6-v2\), which compressed it"
        for call in (lambda: client.upsert(name, []), lambda: client.query_points(name, sample.base[0])):
            with pytest.raises(CodecMismatchError, match=expected):
                call()
        stated = open_client(codecs={f"{name}-other": {"": narrow}, name: None})
        latent = svd_codec.encode(sample.base[:1])[0].tolist()
        stated.upsert(name, [models.PointStruct(id=1, vector=latent)])
        np.testing.assert_allclose(stated.retrieve(name, [1], with_vectors=True)[0].vector, latent, atol=1e-6)

    def test_a_key_that_could_name_either_names_the_vector_that_is_there(
        self, svd_codec: LinearCodec, narrow: LinearCodec
    ) -> None:
        flat = Codecs(codecs={"docs": svd_codec, "title": narrow})
        assert flat.of("docs", ["", "title"]).compressing == {"": svd_codec}
        assert flat.of("docs", ["docs"]).compressing == {"docs": svd_codec, "title": narrow}
        assert flat.of("pages", ["title"]).compressing == {"docs": svd_codec, "title": narrow}
        nested = Codecs(narrow, {"docs": svd_codec, "pages": {"title": svd_codec}})
        assert nested.of("docs", ["docs"]).compressing == {"": svd_codec}
        assert nested.of("else", ["", "docs"]).compressing == {"": narrow}
        assert not nested.of("else", [""]).named

    def test_a_file_of_originals_is_for_one_codec(
        self, open_client: Open, svd_codec: LinearCodec, tmp_path: Any
    ) -> None:
        from vaecodec_integrations.qdrant import OriginalsFile

        with (
            OriginalsFile(tmp_path / "o", 384) as file,
            pytest.raises(UnsupportedRequestError, match=r"expected one codec beside a file .*, got a function"),
        ):
            open_client(codecs=lambda _: svd_codec, originals=file)


class TestCodecsThatBelongNowhere:
    """Test that nothing is stored uncompressed without an error."""

    @pytest.mark.parametrize("opened_with", ["codec", "a name with a typo", "a typo beside a right name"])
    def test_they_are_refused_when_a_collection_is_created_and_when_it_is_written(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, opened_with: str
    ) -> None:
        vectors = {"content": cosine(384)}
        if opened_with == "codec":
            client, missing = open_client(svd_codec), "''"
        elif opened_with == "a name with a typo":
            client, missing = open_client(codecs={"contnet": svd_codec}), "'contnet'"
        else:
            vectors["title"] = cosine(384)
            client, missing = open_client(codecs={"title": svd_codec, "contnet": svd_codec}), "'contnet'"
        expected = (
            rf"expected a vector {missing} for the codec of that name, got .*'content'.*codecs=\{{'content': codec"
        )
        with pytest.raises(CodecMismatchError, match=expected):
            client.create_collection(name, vectors)
        assert not client.collection_exists(name)
        right = {"title": svd_codec} if len(vectors) == 2 else {}
        if right:
            open_client(codecs={**right, "content": None}).create_collection(name, vectors)
        else:
            client.wrapped.create_collection(name, vectors)
        point = models.PointStruct(id=1, vector={"content": sample.base[0].tolist()})
        with pytest.raises(CodecMismatchError, match=expected):
            client.upsert(name, [point])
        with pytest.raises(CodecMismatchError, match=expected):
            client.upload_points(name, [point], max_retries=1)
        assert client.count(name).count == 0

    def test_a_vector_that_is_meant_to_stay_is_named(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(codecs={"late": svd_codec, "content": None})
        client.create_collection(name, {"content": cosine(384)})
        client.upsert(name, [models.PointStruct(id=1, vector={"content": sample.base[0].tolist()})])
        assert stored_sizes(client, name) == {"content": 384}


class TestMetadata:
    def test_what_is_read_can_be_written_back(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec)
        client.create_collection(name, metadata={"owner": "me"})
        seen = client.get_collection(name).config.metadata
        assert seen == {"owner": "me"}
        client.update_collection(name, metadata={**seen, "owner": "you"})
        client.create_collection(f"{name}-copy", metadata=client.get_collection(name).config.metadata)
        for collection in (name, f"{name}-copy"):
            stored = client.wrapped.get_collection(collection).config.metadata
            assert (stored["owner"], stored["vaecodec"]["codec_id"]) == ("you", svd_codec.codec_id)

    def test_none_of_the_users_own_reads_as_none(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        assert client.get_collection(name).config.metadata is None

    def test_records_that_say_what_is_there_anyway_may_be_repeated(
        self, open_client: Open, svd_codec: LinearCodec, narrow: LinearCodec, name: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name, metadata={"owner": "me"})
        stored = client.wrapped.get_collection(name).config.metadata
        assert client.update_collection(name, metadata={**stored, "owner": "you"})
        client.create_collection(f"{name}-copy", metadata=stored)
        with pytest.raises(UnsupportedRequestError, match=r"expected keys of your own, got \['vaecodec'\]"):
            open_client(narrow).create_collection(f"{name}-narrow", metadata=stored)
