"""Test migrating a live collection: complete, repeatable, resumable, reversible."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from qdrant_client import QdrantClient, models
from typer.testing import CliRunner

from vaecodec import Codec, LinearCodec, fit_linear
from vaecodec.bulk import OnBadRows
from vaecodec.errors import (
    BadRowsError,
    CodecMismatchError,
    CollectionNotFoundError,
    InvalidDimensionError,
    MigrationError,
    OriginalsError,
    StoreError,
    UnsupportedRequestError,
)
from vaecodec.files.stored_json import with_checksum
from vaecodec_cli.migrate import migrate as migrate_command
from vaecodec_cli.options import flat
from vaecodec_cli.rollback import rollback as rollback_command
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.qdrant import CompressedQdrantClient, OriginalsFile, PackedRows, recommended_config
from vaecodec_integrations.qdrant.connection import open_client
from vaecodec_integrations.qdrant.layout import Originals
from vaecodec_integrations.qdrant.migration import (
    Migration,
    MigrationRequest,
    estimate,
    estimate_at,
    migrate,
    migrate_at,
    roll_back,
    roll_back_at,
    switch_alias,
)
from vaecodec_integrations.qdrant.migration.bad_points import bad_points_path

N = 230
Make = Callable[..., Migration]

# Local mode has no payload indexes, and says so once.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")


def ids() -> list[Any]:
    """Return integers and UUIDs, as real collections mix them."""
    random = np.random.default_rng(0)
    return [*range(N - 30), *(str(uuid.UUID(bytes=random.bytes(16))) for _ in range(30))]


def fill(client: QdrantClient, base: np.ndarray, collection: str = "docs") -> None:
    client.create_collection(collection, **vectors_of_docs(), metadata={"owner": "search"})
    points = [
        models.PointStruct(
            id=point_id,
            vector={
                "": base[row].tolist(),
                "small": [float(row), 1.0, 2.0],
                "words": models.SparseVector(indices=[row, 7 + N], values=[1.0, 0.5]),
            },
            payload={"row": row, "tags": ["a", {"deep": row}]},
        )
        for row, point_id in enumerate(ids())
    ]
    points[11].vector = {"small": [0.0, 0.0, 1.0]}  # a point that lacks the vector to compress
    client.upsert(collection, points)


def vectors_of_docs() -> dict[str, Any]:
    """Return the arguments for what :func:`fill` creates."""
    return {
        "vectors_config": {
            "": models.VectorParams(size=384, distance=models.Distance.COSINE),
            "small": models.VectorParams(size=3, distance=models.Distance.DOT),
        },
        "sparse_vectors_config": {"words": models.SparseVectorParams()},
    }


def contents(client: QdrantClient, collection: str) -> dict[Any, tuple[Any, dict[str, Any]]]:
    records, _ = client.scroll(collection, limit=10_000, with_vectors=True)
    return {r.id: (r.payload, r.vector if isinstance(r.vector, dict) else {"": r.vector}) for r in records}


def assert_same(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    """Assert equal points; local mode normalises vectors again whenever it searches, so floats may move by one
    rounding.
    """
    assert {key: value[0] for key, value in found.items()} == {key: value[0] for key, value in expected.items()}
    for key, (_, vectors) in expected.items():
        assert found[key][1].keys() == vectors.keys()
        for name, vector in vectors.items():
            if isinstance(vector, models.SparseVector):
                assert found[key][1][name] == vector
            else:
                np.testing.assert_allclose(found[key][1][name], vector, atol=1e-6)


def searched_recall(migration: Migration) -> float:
    """Share of each point's ten neighbours in the source that searching the target by its vector finds."""
    shares = []
    for key, (_, vectors) in contents(migration.client, migration.collection).items():
        if "" in vectors:
            sides = ((migration.client, migration.collection), (migration.compressed, migration.target))
            found = [searched.query_points(name, vectors[""], limit=11).points for searched, name in sides]
            exact, small = ([point.id for point in points if point.id != key][:10] for points in found)
            shares.append(len({*exact} & {*small}) / 10)
    return float(np.mean(shares))


@pytest.fixture
def client(sample: Any) -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    fill(client, sample.base)
    yield client
    client.close()


@pytest.fixture
def make(client: QdrantClient, svd_codec: LinearCodec, tmp_path: Path) -> Make:
    def make_it(**settings: Any) -> Migration:
        given = {"into": "docs_small"} if "named" not in settings else {}
        defaults = {"state": tmp_path / "state.json", "batch_size": 40, **given}
        return Migration(client, "docs", svd_codec, **{**defaults, **settings})

    return make_it


class TestIntoACollection:
    def test_everything_arrives_and_the_source_is_untouched(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any
    ) -> None:
        before = contents(client, "docs")
        steps: list[tuple[int, int]] = []
        outcome = migrate(make(), progress=lambda done, total: steps.append((done, total)))
        assert (outcome.copied, outcome.repaired, outcome.removed) == (N, 0, 0)
        assert (outcome.source_points, outcome.target_points, outcome.settled) == (N, N, True)
        assert (steps[0], steps[-1]) == ((0, 2 * N), (2 * N, 2 * N))
        assert_same(contents(client, "docs"), before)
        after = contents(client, "docs_small")
        assert {key: payload for key, (payload, _) in after.items()} == {
            k: payload for k, (payload, _) in before.items()
        }
        for key, (payload, vectors) in before.items():
            small = after[key][1]
            assert {n: v for n, v in small.items() if n} == {n: v for n, v in vectors.items() if n}
            if "" in vectors:
                latent = svd_codec.encode(sample.base[payload["row"]][None])[0]
                np.testing.assert_allclose(small[""], latent, atol=1e-6)
            else:
                assert "" not in small
        assert client.get_collection("docs_small").config.metadata["owner"] == "search"

    def test_recall_is_measured_on_both_sides(self, client: QdrantClient, make: Make) -> None:
        migration = make()
        outcome = migrate(migration, sample=N)  # all of them, so that the same searches can be made here
        assert (outcome.recall_before, outcome.queries) == (1.0, N - 1)  # local mode searches exactly
        assert outcome.recall_after == pytest.approx(searched_recall(migration), abs=1e-3)
        assert outcome.recall_latents == outcome.recall_after
        assert outcome.recalls.after.low < outcome.recall_after < outcome.recalls.after.high
        assert outcome.recalls.before == (1, 1, 1)
        keeping = make(originals=Originals.DISK, into="kept", state=make().state.with_name("kept.json"))
        kept = migrate(keeping, sample=40)
        assert kept.recall_after > 0.95 > (kept.recall_latents or 1)
        assert 38 <= kept.queries <= 40

    def test_recall_is_that_of_what_the_target_really_holds(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any
    ) -> None:
        """Move latents as far as the coarsest datatype may move them: they are equal, but searched as they are."""
        coarse = models.VectorParams(size=384, distance=models.Distance.COSINE, datatype=models.Datatype.TURBO4)
        client.create_collection("coarse", coarse)
        client.upload_collection("coarse", sample.base[:N], ids=range(N))
        migration = Migration(client, "coarse", svd_codec, make().state, into="coarse_small")
        made = migrate(migration, sample=N)
        noise = np.random.default_rng(0).normal(size=(N, 64))
        moved = svd_codec.encode(sample.base[:N]) + 0.3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        client.update_vectors(
            "coarse_small", [models.PointVectors(id=i, vector=v) for i, v in enumerate(moved.tolist())]
        )
        again = migrate(migration, sample=N)
        assert again.settled
        assert again.recall_after < made.recall_after - 0.02
        assert again.recall_after == pytest.approx(searched_recall(migration), abs=2e-3)

    def test_multivectors_arrive_row_by_row(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any
    ) -> None:
        multi = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        params = models.VectorParams(size=384, distance=models.Distance.COSINE, multivector_config=multi)
        client.create_collection("passages", params)
        stacks = {i: sample.base[5 * i : 5 * i + 1 + i % 4] for i in range(40)}
        client.upsert("passages", [models.PointStruct(id=i, vector=rows.tolist()) for i, rows in stacks.items()])
        migration = Migration(client, "passages", svd_codec, make().state, into="passages_small", batch_size=15)
        outcome = migrate(migration, sample=20)
        assert outcome.settled
        assert (outcome.recall_before, outcome.recall_latents) == (1.0, None)
        assert 0.4 < outcome.recall_after < 1
        for record in client.scroll("passages_small", limit=100, with_vectors=True)[0]:
            np.testing.assert_allclose(record.vector, svd_codec.encode(stacks[record.id]), atol=1e-6)

    @pytest.mark.parametrize(
        ("source", "target", "source_bits", "target_bits"),
        [("float16", "float16", 16, 16), ("turbo4", "turbo4", 4, 4), ("uint8", None, 8, 32), (None, None, 32, 32)],
    )
    def test_latents_are_stored_as_the_source_is_but_never_cut_to_integers(
        self,
        client: QdrantClient,
        svd_codec: LinearCodec,
        tmp_path: Path,
        source: str | None,
        target: str | None,
        source_bits: int,
        target_bits: int,
    ) -> None:
        params = models.VectorParams(size=384, distance=models.Distance.COSINE, datatype=source)
        client.create_collection("stored", params)
        rows = np.random.default_rng(0).integers(0, 255, (8, 384)).astype(np.float32)
        client.upload_collection("stored", rows, ids=range(8), wait=True)
        migration = Migration(client, "stored", svd_codec, tmp_path / "s.json", into="small")
        plan = estimate(migration)
        assert (plan.source_bytes, plan.target_bytes) == (8 * 384 * source_bits // 8, 8 * 64 * target_bits // 8)
        assert migrate(migration).settled
        made = client.get_collection("small").config.params.vectors
        assert (made.size, made.datatype) == (64, target)

    def test_an_empty_collection_with_settings_of_its_own_is_filled(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec
    ) -> None:
        config = recommended_config(svd_codec, bytes=16)
        only = Migration(client, "plain", svd_codec, make().state, into="plain_small")
        client.create_collection("plain", models.VectorParams(size=384, distance=models.Distance.COSINE))
        rows = np.random.default_rng(0).normal(size=(8, 384))
        client.upload_collection("plain", rows, ids=range(8), wait=True)
        only.compressed.create_collection("plain_small", **config)
        assert migrate(only).settled
        assert client.get_collection("plain_small").config.params.vectors.on_disk is True
        assert migrate(only).settled

    def test_what_was_written_meanwhile_is_caught_up(self, client: QdrantClient, make: Make, sample: Any) -> None:
        migrate(make())
        client.delete("docs", [3, 4])
        client.set_payload("docs", {"tags": []}, points=[5])
        client.update_vectors("docs", [models.PointVectors(id=6, vector={"": sample.base[999].tolist()})])
        client.upsert(
            "docs", [models.PointStruct(id=5000, vector={"": sample.base[998].tolist()}, payload={"row": 998})]
        )
        words = models.SparseVector(indices=[1], values=[9.0])
        client.update_vectors("docs", [models.PointVectors(id=7, vector={"words": words})])
        outcome = migrate(make())
        assert (outcome.copied, outcome.repaired, outcome.removed, outcome.settled) == (0, 4, 2, False)
        assert outcome.repairs == (1, 2, 1)
        assert outcome.next_step.startswith(
            "4 points were repaired: 1 were missing in the copy, 2 had other vectors, 1 another payload; 2 were removed"
        )
        assert "or the server lost its last writes, as it may when it is killed" in outcome.next_step
        assert migrate(make()).settled
        again = make(into="fresh_small", state=make().state.with_name("other.json"))
        migrate(again)
        assert_same(contents(client, "docs_small"), contents(client, "fresh_small"))

    def test_originals_on_disk_rerank(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any
    ) -> None:
        migrate(make(originals=Originals.DISK))
        compressed = CompressedQdrantClient(client, svd_codec, originals="disk")
        found = compressed.query_points("docs_small", sample.queries[0], limit=5).points
        exact = client.query_points("docs", sample.queries[0], limit=5).points
        assert [point.id for point in found] == [point.id for point in exact]

    def test_originals_in_a_file_rerank(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any, tmp_path: Path
    ) -> None:
        migration = make(originals=Originals.FILE, originals_path=tmp_path / "docs.f16")
        migrate(migration)
        migration.close()
        with OriginalsFile(tmp_path / "docs.f16", 384) as file:
            assert len(file) == N - 1
            compressed = CompressedQdrantClient(client, svd_codec, originals=file)
            found = compressed.query_points("docs_small", sample.queries[0], limit=5).points
        exact = client.query_points("docs", sample.queries[0], limit=5).points
        assert [point.id for point in found] == [point.id for point in exact]

    def test_the_size_is_estimated_before_anything_happens(self, client: QdrantClient, make: Make) -> None:
        plan = estimate(make(originals=Originals.DISK))
        assert (plan.points, plan.source_bytes, plan.target_bytes, plan.originals_bytes) == (
            N,
            N * 384 * 4,
            N * 64 * 4,
            N * 384 * 2,
        )
        assert not client.collection_exists("docs_small")


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
@pytest.mark.parametrize(("size", "bits", "datatype"), [(32, "bits4", None), (128, None, models.Datatype.FLOAT16)])
def test_a_copy_of_a_given_size_has_the_recommended_settings(make: Make, client: QdrantClient, size, bits, datatype):
    outcome = migrate(make(code_bytes=size))
    assert outcome.estimate.codes_bytes == N * size
    params = client.get_collection("docs_small").config.params.vectors
    quantised = params[""].quantization_config
    assert (None if quantised is None else quantised.turbo.bits.value) == bits
    assert (params[""].size, params[""].datatype, params[""].on_disk) == (64, datatype, bits is not None)
    assert params["small"].quantization_config is None
    assert f"recommended_search_params(codec, bytes={size})" in outcome.next_step


def test_a_size_is_refused_where_no_collection_is_made_or_no_code_fits(make: Make) -> None:
    with pytest.raises(MigrationError, match="code_bytes: expected a new collection, got a new vector of the source"):
        make(code_bytes=32, named="vae")
    with pytest.raises(UnsupportedRequestError, match="bytes: expected at least 8, one bit for each of 64 dimensions"):
        make(code_bytes=7)


class TestOneVectorAfterAnother:
    """Test a collection that already holds one compressed vector."""

    @pytest.fixture
    def pages(self, client: QdrantClient, sample: Any) -> dict[str, np.ndarray]:
        rows = {"title": sample.base[:60], "body": sample.base[60:120]}
        params = models.VectorParams(size=384, distance=models.Distance.COSINE)
        client.create_collection("pages", dict.fromkeys(rows, params), metadata={"owner": "search"})
        client.upload_collection("pages", rows, ids=range(60), wait=True)
        return rows

    @pytest.mark.parametrize("originals", [Originals.NONE, Originals.DISK])
    def test_title_then_body(
        self,
        client: QdrantClient,
        svd_codec: LinearCodec,
        sample: Any,
        tmp_path: Path,
        pages: dict[str, np.ndarray],
        originals: Originals,
    ) -> None:
        codecs = {"title": svd_codec, "body": fit_linear(sample.train, 48)}
        for source, vector, into in (("pages", "title", "a"), ("a", "body", "b")):
            migration = Migration(
                client, source, codecs[vector], tmp_path / into, into=into, vector=vector, originals=originals
            )
            assert migrate(migration).settled
            assert migrate(migration).settled  # again, as after an interruption
        stored = contents(client, "b")
        for name, codec in codecs.items():
            found = [stored[i][1][name] for i in range(60)]
            np.testing.assert_allclose(found, codec.encode(pages[name]), atol=1e-5)
        metadata = client.get_collection("b").config.metadata
        assert metadata.keys() == {"owner", "vaecodec:title", "vaecodec:body", "vaecodec-migration"}
        assert metadata["vaecodec-migration"] == {"source": "a"}
        opened = CompressedQdrantClient(
            client, codecs=codecs, originals="disk" if originals is Originals.DISK else None
        )
        for name, rows in pages.items():
            assert opened.query_points("b", rows[7], using=name, limit=1).points[0].id == 7
        with pytest.raises(CodecMismatchError, match="vector 'title': expected codec"):
            CompressedQdrantClient(client, codecs={"title": fit_linear(sample.base, 64)}).scroll("b")

    @pytest.mark.parametrize("originals", [Originals.NONE, Originals.DISK])
    def test_a_named_vector_then_a_collection(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any, originals: Originals
    ) -> None:
        """The vector that was the first one's original is itself compressed in the copy."""
        assert migrate(make(named="latent", originals=Originals.DISK)).settled
        assert migrate(make(state=make().state.with_name("s.json"), originals=originals)).settled
        record = client.get_collection("docs_small").config.metadata["vaecodec:latent"]
        kept = originals is Originals.DISK
        assert (record["originals"], record["original_vector"]) == (str(originals), "original" if kept else None)
        codecs = {"": svd_codec, "latent": svd_codec}
        opened = CompressedQdrantClient(client, codecs=codecs, originals="disk" if kept else None)
        for using in (None, "latent"):
            found = opened.query_points("docs_small", sample.base[9], using=using, limit=1).points[0]
            assert (found.id, found.score) == (9, pytest.approx(1, abs=1e-3))

    def test_latents_are_not_compressed_again(
        self, client: QdrantClient, svd_codec: LinearCodec, sample: Any, tmp_path: Path, pages: dict[str, np.ndarray]
    ) -> None:
        migrate(Migration(client, "pages", svd_codec, tmp_path / "a", into="a", vector="title"))
        narrow = fit_linear(svd_codec.encode(sample.train), 16)
        with pytest.raises(MigrationError, match="vector 'title': expected uncompressed vectors, got latents of codec"):
            migrate(Migration(client, "a", narrow, tmp_path / "b", into="b", vector="title"))
        assert not client.collection_exists("b")

    def test_another_codec_of_the_vector_that_is_compressed_already(
        self, client: QdrantClient, svd_codec: LinearCodec, sample: Any, tmp_path: Path, pages: dict[str, np.ndarray]
    ) -> None:
        migrate(Migration(client, "pages", svd_codec, tmp_path / "a", into="a", vector="title"))
        codecs = {"title": fit_linear(sample.base, 64), "body": svd_codec}
        CompressedQdrantClient(client, codecs=codecs).create_collection("b")
        with pytest.raises(
            CodecMismatchError, match=r"collection 'b', metadata 'vaecodec:title': expected .* as in 'a'"
        ):
            migrate(Migration(client, "a", svd_codec, tmp_path / "b", into="b", vector="body"))
        assert client.count("b").count == 0


class TestIntoANamedVector:
    def test_the_collection_gains_a_vector(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any
    ) -> None:
        before = contents(client, "docs")
        outcome = migrate(make(named="latent"))
        assert outcome.settled
        after = contents(client, "docs")
        assert {key for key in after if "latent" in after[key][1]} == {key for key in before if "" in before[key][1]}
        rest = {k: (p, {n: v for n, v in vectors.items() if n != "latent"}) for k, (p, vectors) in after.items()}
        assert_same(rest, before)
        compressed = CompressedQdrantClient(client, codecs={"latent": svd_codec})
        found = compressed.query_points("docs", sample.queries[0], using="latent", limit=5).points
        latents = (
            svd_codec.encode(np.delete(sample.base[:N], 11, axis=0)) @ svd_codec.encode_queries(sample.queries[:1])[0]
        )
        assert found[0].score == pytest.approx(latents.max(), abs=1e-5)

    def test_the_sources_own_vector_reranks(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any
    ) -> None:
        migrate(make(named="latent", originals=Originals.DISK))
        compressed = CompressedQdrantClient(client, codecs={"latent": svd_codec}, originals="disk")
        found = compressed.query_points("docs", sample.queries[0], using="latent", limit=5).points
        exact = client.query_points("docs", sample.queries[0], limit=5).points
        assert [(p.id, p.score) for p in found] == [(p.id, p.score) for p in exact]

    @pytest.mark.parametrize("datatype", ["float16", "turbo4", "uint8"])
    def test_a_source_of_another_datatype(
        self, client: QdrantClient, svd_codec: LinearCodec, tmp_path: Path, datatype: str
    ) -> None:
        params = models.VectorParams(size=384, distance=models.Distance.COSINE, datatype=datatype)
        client.create_collection("stored", {"": params})
        rows = np.random.default_rng(0).integers(0, 255, (8, 384)).astype(np.float32)
        client.upload_collection("stored", {"": rows}, ids=range(8), wait=True)
        migration = Migration(client, "stored", svd_codec, tmp_path / "s.json", named="latent")
        assert migrate(migration).settled
        stored = [vectors["latent"] for _, vectors in contents(client, "stored").values()]
        np.testing.assert_allclose(stored, svd_codec.encode(rows), atol=1e-5)
        assert migrate(migration).settled

    def test_changes_are_caught_up(self, client: QdrantClient, make: Make, sample: Any) -> None:
        migrate(make(named="latent"))
        client.update_vectors("docs", [models.PointVectors(id=6, vector={"": sample.base[999].tolist()})])
        client.upsert("docs", [models.PointStruct(id=5000, vector={"": sample.base[998].tolist()})])
        assert migrate(make(named="latent")).repaired == 2
        assert migrate(make(named="latent")).settled

    def test_rolling_back_removes_the_vector(self, client: QdrantClient, make: Make) -> None:
        before, config = contents(client, "docs"), client.get_collection("docs").config
        migrate(make(named="latent"))
        assert roll_back(client, "docs", named="latent") == "Removed the vector 'latent' from 'docs'."
        assert_same(contents(client, "docs"), before)
        after = client.get_collection("docs").config
        # Older releases of the client keep a name whose value was taken away.
        after.metadata = {name: value for name, value in (after.metadata or {}).items() if value is not None} or None
        assert after == config


def point_alias(client: QdrantClient, alias: str, collection: str) -> None:
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])


def aliases(client: QdrantClient) -> dict[str, str]:
    return {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}


class TestAliases:
    def test_an_alias_is_switched_and_rolled_back(self, client: QdrantClient, make: Make, sample: Any) -> None:
        point_alias(client, "live", "docs")
        migration = make()
        migrate(migration)
        switch_alias(migration.client, migration.collection, migration.into, "live")
        assert aliases(client) == {"live": "docs_small"}
        found = migration.compressed.query_points("live", sample.queries[0], limit=3).points
        assert len(found) == 3
        switch_alias(migration.client, migration.collection, migration.into, "live")  # again, as after an interruption
        assert roll_back(client, "docs", into="docs_small") == (
            "The alias 'live' points at 'docs' again; 'docs_small' is kept."
        )
        assert aliases(client) == {"live": "docs"}
        assert client.count("docs_small").count == N
        with pytest.raises(MigrationError, match="expected a switch from 'docs' to undo, got none"):
            roll_back(client, "docs", into="docs_small")

    def test_a_new_alias_is_removed_again(self, client: QdrantClient, make: Make) -> None:
        migration = make()
        migrate(migration)
        switch_alias(migration.client, migration.collection, migration.into, "live")
        assert "is removed, as there was none before" in roll_back(client, "docs", into="docs_small")
        assert client.get_aliases().aliases == []

    @pytest.mark.parametrize("moved", ["newer", None])
    def test_rolling_back_leaves_an_alias_that_was_pointed_elsewhere_since(
        self, client: QdrantClient, make: Make, moved: str | None
    ) -> None:
        point_alias(client, "live", "docs")
        migration = make()
        migrate(migration)
        switch_alias(migration.client, migration.collection, migration.into, "live")
        delete = models.DeleteAlias(alias_name="live")
        client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=delete)])
        if moved is not None:
            client.create_collection(moved, models.VectorParams(size=3, distance=models.Distance.DOT))
            point_alias(client, "live", moved)
        before, info = aliases(client), client.get_collection("docs_small")
        now = "points at 'newer' now" if moved else "points at nothing now"
        with pytest.raises(MigrationError, match=f"alias 'live': expected .* 'docs_small', but it {now}; nothing ch"):
            roll_back(client, "docs", into="docs_small")
        assert (aliases(client), client.get_collection("docs_small")) == (before, info)

    def test_an_alias_of_an_unrelated_collection_is_not_taken(self, client: QdrantClient, make: Make) -> None:
        client.create_collection("shop", models.VectorParams(size=3, distance=models.Distance.DOT))
        point_alias(client, "live", "shop")
        migration = make()
        migrate(migration)
        with pytest.raises(MigrationError, match=r"expected one that is free or points at 'docs', .* points at 'shop'"):
            switch_alias(migration.client, migration.collection, migration.into, "live")
        assert aliases(client) == {"live": "shop"}

    def test_a_second_alias_waits_until_the_first_is_rolled_back(self, client: QdrantClient, make: Make) -> None:
        """A rollback remembers one alias, so that a second would make the first one's target be forgotten."""
        point_alias(client, "live", "docs")
        migration = make()
        migrate(migration)
        switch_alias(migration.client, migration.collection, migration.into, "live")
        with pytest.raises(
            MigrationError, match=r"expected 'live', which was switched .*, got 'other'; roll back first"
        ):
            switch_alias(migration.client, migration.collection, migration.into, "other")
        assert aliases(client) == {"live": "docs_small"}
        roll_back(client, "docs", into="docs_small")
        switch_alias(migration.client, migration.collection, migration.into, "other")
        assert aliases(client) == {"live": "docs", "other": "docs_small"}

    def test_an_interrupted_rollback_is_finished(self, client: QdrantClient, make: Make) -> None:
        """Its alias is moved already, but the target still remembers the switch."""
        point_alias(client, "live", "docs")
        migration = make()
        migrate(migration)
        switch_alias(migration.client, migration.collection, migration.into, "live")
        record = client.get_collection("docs_small").config.metadata
        roll_back(client, "docs", into="docs_small")
        client.update_collection("docs_small", metadata=record)
        assert "points at 'docs' again" in roll_back(client, "docs", into="docs_small")
        assert aliases(client) == {"live": "docs"}
        record = client.get_collection("docs_small").config.metadata["vaecodec-migration"]
        assert record == {"source": "docs", "switched": True}

    def test_a_collections_name_is_no_alias(self, make: Make) -> None:
        migration = make()
        migrate(migration)
        with pytest.raises(MigrationError, match="expected a name that no collection has, got 'docs'"):
            switch_alias(migration.client, migration.collection, migration.into, "docs")


def write_to_the_copy(client: QdrantClient, codec: LinearCodec, name: str, sample: Any) -> dict[Any, Any]:
    """Write to the copy as an application: one new point, one changed, one deleted."""
    application = CompressedQdrantClient(client, codec)
    new = [(7000, sample.base[900]), (5, sample.base[901])]
    application.upsert(name, [models.PointStruct(id=i, vector={"": v.tolist()}, payload={"new": i}) for i, v in new])
    application.delete(name, [6])
    return contents(client, "docs_small")


class TestACopyThatWentLive:
    """Test that the source is not used any more once applications may have written to the copy."""

    @pytest.mark.parametrize("way", ["command", "by hand", "interrupted"])
    def test_is_never_brought_up_to_date_again(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any, way: str
    ) -> None:
        migration = make()
        migrate(migration)
        if way == "by hand":
            point_alias(client, "live", "docs_small")
        else:
            switch_alias(migration.client, migration.collection, migration.into, "live")
        if way == "interrupted":  # killed after its alias had moved
            record = {"source": "docs", "alias": "live", "previous": None}
            client.update_collection("docs_small", metadata={"vaecodec-migration": record})
        live = write_to_the_copy(client, svd_codec, "live", sample)
        for again in (migration, make(state=migration.state.with_name("lost.json"))):
            with pytest.raises(
                MigrationError, match=r"got 'docs_small', which serves the alias 'live': .* would delete"
            ):
                migrate(again, alias="live")
        assert_same(contents(client, "docs_small"), live)
        assert aliases(client) == {"live": "docs_small"}
        if way != "by hand":
            roll_back(client, "docs", into="docs_small")
            with pytest.raises(MigrationError, match=r"served an alias before: .* name a new collection"):
                migrate(migration)
        assert_same(contents(client, "docs_small"), live)

    def test_a_copy_that_grew_by_itself_is_kept(self, client: QdrantClient, make: Make) -> None:
        """An application opened the copy by its own name; no alias says that it is in use."""
        migration = make()
        points = migrate(migration).target_points
        client.upsert("docs_small", [models.PointStruct(id=77_000, vector={})])
        found = rf"holds {points + 1:,} points where the last run left {points:,}: .* would delete"
        for _ in range(2):
            with pytest.raises(MigrationError, match=found):
                migrate(migration)
        assert client.count("docs_small").count == points + 1
        migration.state.unlink()  # as the message says
        assert migrate(migration).removed == 1
        client.delete("docs", [client.scroll("docs", limit=1)[0][0].id])
        assert migrate(migration).removed == 1, "what the source loses is no reason to refuse"

    def test_an_unfinished_switch_is_finished(self, client: QdrantClient, make: Make) -> None:
        """Kill the run before its alias moves: nobody can have written to the copy."""
        migration = make()
        migrate(migration)
        record = {"source": "docs", "alias": "live", "previous": None}
        client.update_collection("docs_small", metadata={"vaecodec-migration": record})
        assert migrate(migration, alias="live").switched_alias == "live"
        assert aliases(client) == {"live": "docs_small"}

    def test_an_alias_is_no_source(self, client: QdrantClient, make: Make, svd_codec: LinearCodec) -> None:
        """Pointed elsewhere, the next run would replace the copy's points by those of another collection."""
        point_alias(client, "current", "docs")
        migration = Migration(client, "current", svd_codec, make().state, into="docs_small")
        for switched in (None, "current"):
            with pytest.raises(MigrationError, match="got the alias 'current'; name the collection 'docs' itself"):
                migrate(migration, alias=switched)
        assert not client.collection_exists("docs_small")

    def test_a_source_that_was_made_anew_empties_no_copy(self, client: QdrantClient, make: Make, sample: Any) -> None:
        migrate(make())
        before = contents(client, "docs_small")
        client.delete_collection("docs")
        client.create_collection("docs", **vectors_of_docs())
        client.upsert("docs", [models.PointStruct(id=1, vector={"": sample.base[0].tolist()})])
        with pytest.raises(MigrationError, match=f"at least half as many points .* got 1 and {N}: the copy would lose"):
            migrate(make())
        assert_same(contents(client, "docs_small"), before)


def listed_bad(migration: Migration) -> list[dict[str, str]]:
    return list(csv.DictReader(bad_points_path(migration).read_text().splitlines()))


class TestBadPoints:
    """Test placeholders of zeros, which Qdrant stores under cosine."""

    @pytest.fixture
    def source(self, client: QdrantClient) -> QdrantClient:
        zeros = [models.PointVectors(id=i, vector={"": [0.0] * 384}) for i in (4, 90)]
        client.update_vectors("docs", zeros)
        return client

    @pytest.mark.parametrize("target", [{"into": "docs_small"}, {"named": "latent"}])
    def test_stop_the_run_that_asks_for_it(self, source: QdrantClient, make: Make, target: dict[str, str]) -> None:
        with pytest.raises(BadRowsError, match=r"zero norm.*on_bad_rows=skip \(--on-bad-rows skip\)"):
            migrate(make(**target))

    def test_are_all_reported_before_anything_is_written(self, source: QdrantClient, make: Make) -> None:
        migration = make(on_bad_rows=OnBadRows.REPORT)
        with pytest.raises(BadRowsError, match=r"2 points cannot be compressed, the first is 4: .*nothing was written"):
            migrate(migration)
        assert not source.collection_exists("docs_small")
        listed = listed_bad(migration)
        assert [row["id"] for row in listed] == ["4", "90"]
        assert listed[0]["reason"] == "zero norm"

    @pytest.mark.parametrize("originals", [Originals.NONE, Originals.DISK, Originals.FILE])
    def test_are_copied_without_the_vector(
        self, source: QdrantClient, make: Make, tmp_path: Path, originals: Originals
    ) -> None:
        kept = {"originals": originals, "originals_path": tmp_path / "o" if originals is Originals.FILE else None}
        migration = make(on_bad_rows=OnBadRows.SKIP, **kept)
        outcome = migrate(migration)
        assert (outcome.settled, outcome.bad_points, outcome.target_points) == (True, 2, N)
        before, after = contents(source, "docs"), contents(source, "docs_small")
        for point_id in (4, 90):
            payload, vectors = after[point_id]
            assert payload == before[point_id][0]
            assert vectors.keys() == {"small", "words"}
        assert [row["id"] for row in listed_bad(migration)] == ["4", "90"]

    @pytest.mark.parametrize("target", [{"into": "docs_small"}, {"named": "latent"}])
    def test_that_were_good_before_lose_their_latents(
        self, client: QdrantClient, make: Make, sample: Any, target: dict[str, str]
    ) -> None:
        migration = make(on_bad_rows=OnBadRows.SKIP, **target)
        assert migrate(migration).bad_points == 0
        assert not bad_points_path(migration).exists()
        client.update_vectors("docs", [models.PointVectors(id=4, vector={"": [0.0] * 384})])
        assert migrate(migration).bad_points == 1
        held = contents(client, migration.target)[4][1]
        assert migration.target_vector not in held
        assert migrate(migration).settled
        client.update_vectors("docs", [models.PointVectors(id=4, vector={"": sample.base[4].tolist()})])
        assert migrate(migration).repairs.missing + migrate(migration).repairs.vectors <= 1
        assert migration.target_vector in contents(client, migration.target)[4][1]
        assert not bad_points_path(migration).exists()


class TestRefusals:
    def test_another_codec(self, client: QdrantClient, make: Make, sample: Any, tmp_path: Path) -> None:
        migrate(make())
        other = fit_linear(sample.base, 64)
        with pytest.raises(CodecMismatchError, match="got a collection filled by codec"):
            migrate(Migration(client, "docs", other, tmp_path / "new.json", into="docs_small"))

    def test_another_migrations_state(self, make: Make) -> None:
        migrate(make())
        with pytest.raises(MigrationError, match=r"got that of another one \(into 'docs_small'\)"):
            migrate(make(into="elsewhere"))

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"not json", "another file or a damaged one (Expecting value"),
            (b"\xff\xfe", "another file or a damaged one ("),
            (b"[1]", "another file or a damaged one (expected a JSON object, got list)"),
            (b'{"batch_size": 40}', "another file or a damaged one (the record does not fit its checksum)"),
            (with_checksum({"subject": 1, "batch_size": 40}), "subject: Input should be an object"),
            (with_checksum({"batch_size": 0}), "batch_size: Input should be greater than or equal to 1"),
            (with_checksum({"batch_size": 40, "done": 1}), "done: Input should be a valid boolean"),
            (with_checksum({"batch_size": 40, "offset": "here"}), "offset"),
            (with_checksum({}), "batch_size: Field required"),
        ],
    )
    def test_a_damaged_state_file(self, client: QdrantClient, make: Make, content: bytes, found: str) -> None:
        migration = make()
        migration.state.write_bytes(content)
        with pytest.raises(MigrationError) as refused:
            migrate(migration)
        assert str(refused.value).startswith(f"{migration.state}: expected the state file of a migration, got {found}")
        assert "remove this one" in str(refused.value)
        assert migration.state.read_bytes() == content
        assert not client.collection_exists("docs_small")

    def test_a_vector_that_is_not_there(self, make: Make) -> None:
        with pytest.raises(MigrationError, match="expected a dense vector 'title', got '', 'small'"):
            migrate(make(vector="title"))

    def test_a_vector_of_another_size(self, make: Make) -> None:
        with pytest.raises(CodecMismatchError, match="got size 3 and distance Dot"):
            migrate(make(vector="small"))

    def test_a_distance_that_no_codec_supports(
        self, client: QdrantClient, svd_codec: LinearCodec, tmp_path: Path
    ) -> None:
        client.create_collection("blocks", models.VectorParams(size=384, distance=models.Distance.MANHATTAN))
        message = "expected distance Cosine, Dot or Euclid, got Manhattan, which no codec supports"
        with pytest.raises(MigrationError, match=message):
            estimate(Migration(client, "blocks", svd_codec, tmp_path / "s.json", into="small"))
        assert list(tmp_path.iterdir()) == []

    def test_a_target_with_other_points_loses_none(
        self, client: QdrantClient, make: Make, svd_codec: LinearCodec, sample: Any
    ) -> None:
        """Use another collection's copy by the same codec, and one that the application filled itself."""
        fill(client, sample.base, "others")
        migrate(Migration(client, "others", svd_codec, make().state.with_name("others.json"), into="others_small"))
        mine = CompressedQdrantClient(client, svd_codec)
        mine.create_collection("own")
        mine.upsert("own", [models.PointStruct(id=77_777, vector=sample.base[0].tolist())])
        for target, found in (("others_small", "those of 'others'"), ("own", "points of no migration")):
            before = contents(client, target)
            with pytest.raises(MigrationError, match=f"with the points of 'docs', got '{target}' with {found}; name"):
                migrate(make(into=target))
            assert contents(client, target) == before

    def test_a_target_that_lacks_a_vector(self, client: QdrantClient, make: Make, svd_codec: LinearCodec) -> None:
        CompressedQdrantClient(client, svd_codec).create_collection("docs_small")
        with pytest.raises(MigrationError, match="got 'docs_small', which lacks 'small', 'words'; name a new coll"):
            migrate(make())

    def test_a_vector_that_has_the_name_of_the_originals(
        self, client: QdrantClient, svd_codec: LinearCodec, tmp_path: Path
    ) -> None:
        params = models.VectorParams(size=384, distance=models.Distance.COSINE)
        client.create_collection("taken", {"": params, "original": params})
        migration = Migration(client, "taken", svd_codec, tmp_path / "s", into="small", originals=Originals.DISK)
        with pytest.raises(MigrationError, match="expected the name 'original' to be free for the originals"):
            migrate(migration)
        assert not client.collection_exists("small")

    @pytest.mark.parametrize(
        ("refused", "error", "message"),
        [
            ("codec", CodecMismatchError, "got a collection filled by codec"),
            ("points", MigrationError, "got 'docs_small' with points of no migration"),
            ("name", MigrationError, "expected a new vector name, got 'small', which is taken"),
            ("multivector", MigrationError, "vector '' is a multivector"),
        ],
    )
    def test_no_file_of_originals_is_left_behind(
        self,
        client: QdrantClient,
        make: Make,
        sample: Any,
        refused: str,
        error: type[Exception],
        message: str,
        tmp_path: Path,
    ) -> None:
        file: dict[str, Any] = {"originals": Originals.FILE, "originals_path": tmp_path / "docs.f16"}
        migration = make(**file)
        if refused == "codec":
            other = CompressedQdrantClient(client, fit_linear(sample.base, 64))
            other.create_collection("docs_small", **vectors_of_docs())
        elif refused == "points":
            fill(client, sample.base, "docs_small")
        elif refused == "name":
            migration = make(named="small", **file)
        else:
            multi = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            params = models.VectorParams(size=384, distance=models.Distance.COSINE, multivector_config=multi)
            client.create_collection("passages", params)
            migration = Migration(client, "passages", migration.codec, migration.state, into="p", **file)
        before = client.get_collection("docs")
        for work in (estimate, migrate):
            with pytest.raises(error, match=message):
                work(migration)
        assert list(tmp_path.iterdir()) == []
        assert client.get_collection("docs") == before

    def test_a_file_of_other_originals_is_refused_before_anything_is_created(
        self, client: QdrantClient, make: Make, tmp_path: Path
    ) -> None:
        OriginalsFile(tmp_path / "docs.f16", 100).close()
        before = client.get_collection("docs")
        for target in ({"into": "docs_small"}, {"named": "latent"}):
            with pytest.raises(OriginalsError, match=r"expected dim 384, .* got dim 100"):
                migrate(make(originals=Originals.FILE, originals_path=tmp_path / "docs.f16", **target))
        assert client.get_collection("docs") == before
        assert not client.collection_exists("docs_small")

    @pytest.mark.parametrize("name", ["small", "words"])
    def test_the_name_of_another_vector(self, client: QdrantClient, make: Make, name: str) -> None:
        before = client.get_collection("docs")
        with pytest.raises(MigrationError, match=f"expected a new vector name, got '{name}', which is taken"):
            migrate(make(named=name))
        assert client.get_collection("docs") == before

    @pytest.mark.parametrize("targets", [{"into": None}, {"into": "a", "named": "b"}, {"into": "docs"}])
    def test_contradictory_targets(self, make: Make, targets: dict[str, Any]) -> None:
        with pytest.raises(MigrationError, match="into, named: expected"):
            make(**targets)


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(fast_path: Path) -> None:
    """Kill one migration of a real folder ten times, against an uninterrupted one: same ids, payloads and vectors."""
    script = Path(__file__).parents[3] / "benchmarks" / "killed_migration.py"
    done = subprocess.run(
        [sys.executable, str(script), "--points", "600", "--folder", str(fast_path / "work")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] == 10
    assert len(set(outcome["copied at each"])) > 3, "the kills hit the copy at work"
    assert outcome["identical"]


class TestCommandLine:
    @pytest.fixture
    def folder(self, fast_path: Path, sample: Any) -> Path:
        client = QdrantClient(path=str(fast_path / "qdrant"))
        client.create_collection("docs", models.VectorParams(size=384, distance=models.Distance.COSINE))
        client.upload_collection("docs", sample.base[:60], ids=range(60))
        client.close()
        return fast_path / "qdrant"

    @pytest.fixture
    def run(self, folder: Path, svd_path: Path, tmp_path: Path) -> Callable[..., Any]:
        app = typer.Typer()
        app.command()(flat(migrate_command))
        app.command()(flat(rollback_command))

        def call(command: str, *arguments: str, codec: bool = True) -> Any:
            given = ["--path", str(folder), "--collection", "docs"]
            if codec:
                given += ["--codec", str(svd_path), "--state", str(tmp_path / "state.json")]
            return CliRunner().invoke(app, [command, *given, *arguments], env={"COLUMNS": "200"})

        return call

    def test_dry_run_then_migrate_then_switch_then_roll_back(self, run: Any, folder: Path) -> None:
        dry = run("migrate", "--into", "docs_small", "--dry-run")
        assert dry.exit_code == 0, dry.output
        assert "92,160 bytes" in dry.output
        assert "15,360 bytes" in dry.output
        real = run("migrate", "--into", "docs_small", "--switch-alias", "live")
        assert real.exit_code == 0, real.output
        assert "recall@10 after" in real.output
        assert "The alias 'live' now points at 'docs_small'." in real.output
        back = run("rollback", "--into", "docs_small", codec=False)
        assert "The alias 'live' is removed" in back.output
        client = QdrantClient(path=str(folder))
        assert {c.name for c in client.get_collections().collections} == {"docs", "docs_small"}
        assert client.get_collection("docs_small").config.params.vectors.size == 64
        client.close()

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (("--into", "small", "--switch-alias", "docs"), MigrationError, "alias: expected "),
            (("--into", "a", "--switch-alias", "a"), SystemExit, "--switch-alias: expected another name"),
            (("--named", "x", "--switch-alias", "live"), SystemExit, "--switch-alias needs --into"),
        ],
    )
    def test_an_alias_that_cannot_be_switched_is_refused_before_the_work(
        self, run: Any, folder: Path, arguments: tuple[str, ...], error: type[BaseException], message: str
    ) -> None:
        refused = run("migrate", *arguments)
        assert isinstance(refused.exception, error)
        assert message in f"{refused.exception}{refused.output}"
        client = QdrantClient(path=str(folder))
        assert [c.name for c in client.get_collections().collections] == ["docs"]
        assert client.get_collection("docs").config.metadata is None
        client.close()

    @pytest.mark.parametrize("kind", ["empty", "no vectors", "alone"])
    def test_recall_of_what_has_no_neighbours(self, run: Any, folder: Path, sample: Any, kind: str) -> None:
        client = QdrantClient(path=str(folder))
        client.create_collection("few", {"": models.VectorParams(size=384, distance=models.Distance.COSINE)})
        if kind == "alone":
            client.upload_collection("few", {"": sample.base[:1]}, ids=[0])
        elif kind == "no vectors":
            client.upsert("few", [models.PointStruct(id=i, vector={}) for i in range(3)])
        client.close()
        count = {"empty": 0, "no vectors": 3, "alone": 1}[kind]
        done = run("migrate", "--collection", "few", "--into", "few_small", "--json")
        assert done.exit_code == 0, done.output
        outcome = json.loads(done.stdout)["outcome"]
        assert (outcome["copied"], outcome["target_points"], outcome["settled"]) == (count, count, True)
        assert (outcome["recall_before"], outcome["recall_latents"], outcome["recall_after"]) == (None, None, None)
        assert f"│ recall@10 before │ - ({int(kind == 'alone')} of its own vectors)" in done.stderr
        assert "│ recall@10 after  │ -  " in done.stderr

    def test_a_collection_that_is_not_there_is_answered_with_those_that_are(
        self, run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = run("migrate", "--collection", "nowhere", "--into", "x").exception
        assert isinstance(missing, CollectionNotFoundError)
        assert str(missing) == f"{folder}: there is no collection 'nowhere'; there are: docs"

        def broken(_: object) -> None:
            raise ValueError("a mistake of ours")

        monkeypatch.setattr("vaecodec_integrations.qdrant.migration.run.check_source", broken)
        ours = run("migrate", "--into", "x").exception
        assert type(ours) is ValueError
        assert str(ours) == "a mistake of ours"

    def test_progress_is_logged_where_there_is_no_terminal(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vaecodec_cli.progress.SECONDS", 1e-9)
        done = run("migrate", "--into", "small", "--batch-size", "25", "--json")
        assert done.exit_code == 0, done.output
        lines = re.findall(r"^docs -> small, copied and compared: (\d+) of 120 points, .* points/s", done.stderr, re.M)
        assert lines == ["25", "50", "60", "85", "110", "120"]
        again = run("migrate", "--into", "small", "--batch-size", "25", "--json")
        assert re.findall(r"compared: (\d+) of 120", again.stderr) == ["85", "110", "120"]

    def test_a_rollback_undoes_one_thing(self, run: Any) -> None:
        for arguments in ((), ("--into", "a", "--named", "b")):
            refused = run("rollback", *arguments, codec=False)
            assert refused.exit_code == 2
            assert "give one of --into and --named" in refused.output

    def test_a_folder_that_is_not_there_is_not_made(self, run: Any, folder: Path) -> None:
        missing = folder / "nowhere"
        refused = run("migrate", "--path", str(missing), "--into", "small", "--dry-run")
        assert refused.exit_code == 2
        assert "--path" in refused.output
        assert "does not exist" in refused.output
        with pytest.raises(StoreError, match="expected a folder of Qdrant's local mode, got none"):
            open_client(path=missing)
        assert not missing.exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--originals-codec", "c.onnx"), "--originals-codec and --originals-bytes need each other"),
            (("--originals-codec", "c.onnx", "--originals-bytes", "96", "--keep-originals", "disk"), "needs a file"),
            (("--originals-codec", "c.onnx", "--originals-bytes", "96"), "needs a file: --keep-originals FILE"),
            (("--named", "y"), "give one of --into and --named"),
        ],
    )
    def test_options_that_would_be_ignored_are_refused(
        self, run: Any, arguments: tuple[str, ...], message: str
    ) -> None:
        refused = run("migrate", "--into", "x", *arguments)
        assert refused.exit_code == 2
        assert message in refused.output

    def test_originals_as_codes_of_another_codec(
        self, run: Any, folder: Path, svd_path: Path, sample: Any, tmp_path: Path
    ) -> None:
        fitted = fit_linear(sample.train, 128)
        export_linear(fitted, tmp_path / "wide.onnx")
        export_linear(fit_linear(sample.train[:, :100], 32), tmp_path / "other.onnx")
        kept = ("--keep-originals", str(tmp_path / "docs.32"), "--originals-bytes", "32")
        other = run("migrate", "--into", "small", *kept, "--originals-codec", str(tmp_path / "other.onnx"))
        assert other.exit_code == 2
        assert "--originals-codec: expected a codec for 384 dimensions" in other.output
        large = run("migrate", "--into", "small", *kept[:-1], "999", "--originals-codec", str(tmp_path / "wide.onnx"))
        assert large.exit_code == 2
        assert "--originals-codec, --originals-bytes: bytes: expected 8 to 80 for 128 latents" in large.output
        assert not (tmp_path / "docs.32").exists()
        done = run("migrate", "--into", "small", *kept, "--originals-codec", str(tmp_path / "wide.onnx"))
        assert done.exit_code == 0, done.output
        assert re.search(r"originals added │ +1,920 bytes", done.output)
        assert (tmp_path / "docs.32").stat().st_size == 60 * 32
        wide = Codec.load(tmp_path / "wide.onnx")
        packed = PackedRows(wide, bytes=32)
        client = QdrantClient(path=str(folder))
        with OriginalsFile(tmp_path / "docs.32", 384, encoding=packed) as file:
            np.testing.assert_allclose(file.get(range(60)), packed.unpack(packed.pack(sample.base[:60])))
            opened = CompressedQdrantClient(client, Codec.load(svd_path), originals=file)
            assert opened.query_points("small", sample.base[3], limit=1).points[0].id == 3
        client.close()

    def test_python_does_the_same_in_one_call(self, folder: Path, svd_path: Path, tmp_path: Path) -> None:
        state = tmp_path / "state.json"
        request = MigrationRequest(collection="docs", codec=svd_path, path=folder, into="small", dim=16, state=state)
        assert estimate_at(request).target_bytes == 60 * 16 * 4
        assert not state.exists()
        outcome = migrate_at(request, alias="live")
        assert (outcome.copied, outcome.target_points, outcome.switched_alias) == (60, 60, "live")
        assert roll_back_at("docs", path=folder, into="small").startswith("The alias 'live' is removed")
        half = replace(request, originals_bytes=96)
        with pytest.raises(MigrationError, match="originals_codec, originals_bytes: expected both, and a file of orig"):
            migrate_at(half)

    def test_a_named_vector_comes_with_how_to_save_what_it_added(self, run: Any, folder: Path) -> None:
        asked = ("--named", "latent")
        assert re.search(r"latents added +│ 15,360 bytes", run("migrate", *asked, "--dry-run").output)
        done = run("migrate", *asked)
        assert done.exit_code == 0, done.output
        (call,) = re.findall(r"^client\.(.*)$", done.output, re.M)
        collection, diffs = eval(
            call, {"models": models, "update_collection": lambda name, vectors_config: (name, vectors_config)}
        )
        assert (collection, diffs.keys()) == ("docs", {""})
        assert diffs[""].on_disk is True
        assert diffs[""].hnsw_config.m == 0
        assert diffs[""].quantization_config == models.Disabled.DISABLED
        assert "client." not in run("migrate", "--into", "small", "--state", str(folder / "s.json")).output

    def test_a_nested_width_of_the_file(self, run: Any, folder: Path, svd_path: Path, sample: Any) -> None:
        done = run("migrate", "--into", "narrow", "--dim", "16")
        assert done.exit_code == 0, done.output
        codec = Codec.load(svd_path, dim=16)
        client = QdrantClient(path=str(folder))
        stored = [vectors[""] for _, vectors in contents(client, "narrow").values()]
        np.testing.assert_allclose(stored, codec.encode(sample.base[:60]), atol=1e-5)
        assert CompressedQdrantClient(client, codec).query_points("narrow", sample.base[3]).points[0].id == 3
        client.close()
        refused = run("migrate", "--into", "other", "--dim", "1000")
        assert isinstance(refused.exception, InvalidDimensionError)
