"""Test a change of the embedding model, on Qdrant's local mode, with a small ONNX model that is built here."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from vaecodec import LinearCodec, Metric, fit_linear
from vaecodec.errors import BadRowsError, InvalidArtifactError, MigrationError, UnusableDataError
from vaecodec.evaluation import exact_search, ndcg
from vaecodec.fused import Pooling
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_cli.main import main
from vaecodec_integrations.embedder import OnnxEmbedder
from vaecodec_integrations.qdrant import CompressedQdrantClient
from vaecodec_integrations.qdrant.migration import roll_back
from vaecodec_integrations.qdrant.reembedding import (
    AsyncTwoModelSearch,
    JudgedQueries,
    Model,
    Reembedding,
    ReembeddingRequest,
    TwoModelSearch,
    estimate,
    estimate_at,
    read_judged,
    reembed,
    reembed_at,
)
from vaecodec_integrations.qdrant.reembedding.job import read_ids

WORDS = [f"word{i}" for i in range(120)]
N = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two models of the same words: a vector for each word, averaged; the tokenizer beside them."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: i + 1 for i, word in enumerate(WORDS)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, width, seed in (("old", 24, 0), ("new", 32, 1)):
        table = np.random.default_rng(seed).normal(size=(len(WORDS) + 1, width)).astype(np.float32)
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])
        mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["n", "t"])
        tokens = helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["n", "t", width])
        gather = helper.make_node("Gather", ["table", "input_ids"], ["tokens"])
        graph = helper.make_graph([gather], name, [ids, mask], [tokens], [numpy_helper.from_array(table, "table")])
        opset = helper.make_opsetid("", 17)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def old(folder: Path) -> OnnxEmbedder:
    return OnnxEmbedder(folder / "old.onnx", threads=1)


@pytest.fixture(scope="module")
def new(folder: Path) -> OnnxEmbedder:
    return OnnxEmbedder(folder / "new.onnx", threads=1)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, 6)) for _ in range(N)]


@pytest.fixture
def client(old: OnnxEmbedder, texts: list[str]) -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection("docs", models.VectorParams(size=24, distance=models.Distance.COSINE))
    payload = [{"page": {"content": text}, "group": i % 7} for i, text in enumerate(texts)]
    client.upload_collection("docs", old(texts), ids=range(N), payload=payload, wait=True)
    return client


Make = Callable[..., Reembedding]


def interrupted(embed: OnnxEmbedder, after: int) -> tuple[list[str], Callable[[list[str]], Any]]:
    """Return the texts that were embedded, and a model that is interrupted after so many."""
    embedded: list[str] = []

    def stops(batch: list[str]) -> Any:
        if len(embedded) >= after:
            raise KeyboardInterrupt
        embedded.extend(batch)
        return embed(batch)

    return embedded, stops


@pytest.fixture
def make(client: QdrantClient, new: OnnxEmbedder) -> Make:
    def make(**changes: Any) -> Reembedding:
        target = {} if "named" in changes else {"into": "docs_new"}
        return Reembedding(client, "docs", **{"embed": new, "text": "page.content", **target, **changes})

    return make


class TestEmbedder:
    def test_it_averages_the_tokens_of_each_text(self, new: OnnxEmbedder) -> None:
        one, two, both = new(["word1", "word2", "word1 word2"])
        assert both @ one > 0.5 < both @ two
        np.testing.assert_allclose(new(["word1 word2", "word3"])[0], both, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(new(WORDS), axis=1), 1, atol=1e-5)
        assert new([]).shape == (0, 32)
        assert new.count_tokens(["word1 word2", "word3"]) == 3

    def test_the_first_token_alone(self, folder: Path) -> None:
        first = OnnxEmbedder(folder / "new.onnx", pooling=Pooling.CLS, threads=1)
        np.testing.assert_array_equal(first(["word1 word2"]), first(["word1"]))

    def test_other_files_are_refused(self, folder: Path, svd_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"none\.onnx: expected the model and its tokenizer"):
            OnnxEmbedder(folder / "none.onnx")
        with pytest.raises(InvalidArtifactError, match="expected a model of tokens, with input_ids, got inputs"):
            OnnxEmbedder(svd_path, folder / "tokenizer.json")


class TestFilling:
    def test_a_new_collection_gets_every_point(
        self, client: QdrantClient, make: Make, new: OnnxEmbedder, texts: list[str]
    ) -> None:
        seen: list[tuple[int, int]] = []
        outcome = reembed(make(), progress=lambda *step: seen.append(step))
        assert (outcome.embedded, outcome.points, outcome.settled) == (N, N, False)
        assert seen[-1] == (N, N)
        found = client.retrieve("docs_new", [3, 500], with_vectors=True)
        np.testing.assert_allclose([r.vector for r in found], new([texts[3], texts[500]]), atol=1e-5)
        assert found[0].payload == {"page": {"content": texts[3]}, "group": 3}
        assert reembed(make()).settled

    def test_stopped_and_run_again_it_embeds_each_text_once(
        self, client: QdrantClient, make: Make, new: OnnxEmbedder
    ) -> None:
        embedded, stops = interrupted(new, 200)
        with pytest.raises(KeyboardInterrupt):
            reembed(make(embed=stops))
        done = len(embedded)
        assert reembed(make()).embedded == N - done
        assert client.count("docs_new").count == N

    @pytest.mark.parametrize("kind", ["into", "named", "latents"])
    def test_another_model_does_not_go_on_where_one_began(
        self, make: Make, new: OnnxEmbedder, texts: list[str], kind: str
    ) -> None:
        embedded, stops = interrupted(new, 200)
        targets: dict[str, dict[str, Any]] = {
            "named": {"named": "new"},
            "latents": {"codec": fit_linear(new(texts), 20)},
        }
        changes = targets.get(kind, {})
        with pytest.raises(KeyboardInterrupt):
            reembed(make(embed=stops, **changes))
        done = len(embedded)
        with pytest.raises(MigrationError, match=r"expected the vectors of this model, got others \(mean cosine"):
            reembed(make(embed=lambda batch: new(batch)[:, ::-1], **changes))
        assert reembed(make(**changes)).embedded == N - done

    def test_texts_that_changed_beside_a_new_vector_do_not_make_it_another_model(
        self, client: QdrantClient, make: Make
    ) -> None:
        reembed(make(named="new"))
        for row in range(5):
            client.set_payload("docs", {"page": {"content": "word7 word8"}}, [row], wait=True)
        assert reembed(make(named="new")).settled

    def test_ids_that_are_named_come_first(self, make: Make, new: OnnxEmbedder, texts: list[str]) -> None:
        embedded: list[str] = []

        def notes(batch: list[str]) -> Any:
            embedded.extend(batch)
            return new(batch)

        reembed(make(embed=notes, first_ids=[650, 3, 99_999]))
        assert sorted(embedded[:2]) == sorted([texts[650], texts[3]])
        assert len(embedded) == N

    def test_what_was_changed_meanwhile_is_caught_up_with(
        self, client: QdrantClient, make: Make, new: OnnxEmbedder
    ) -> None:
        reembed(make())
        client.delete("docs", [5], wait=True)
        client.set_payload("docs", {"group": 100}, [6], wait=True)
        client.set_payload("docs", {"page": {"content": "word7"}}, [7], wait=True)
        client.upsert("docs", [models.PointStruct(id=8000, vector=[1.0] * 24, payload={"no": "text"})], wait=True)
        outcome = reembed(make())
        assert (outcome.embedded, outcome.payloads, outcome.removed, outcome.without_text) == (1, 1, 1, 1)
        six, seven, last = client.retrieve("docs_new", [6, 7, 8000], with_vectors=True)
        assert six.payload["group"] == 100
        np.testing.assert_allclose(seven.vector, new(["word7"])[0], atol=1e-5)
        assert last.vector in (None, {})
        assert reembed(make()).settled

    def test_other_vectors_come_along(self, client: QdrantClient, make: Make, old: OnnxEmbedder) -> None:
        params = models.VectorParams(size=24, distance=models.Distance.COSINE)
        client.create_collection("two", {"title": params, "body": params}, {"words": models.SparseVectorParams()})
        sparse = models.SparseVector(indices=[4], values=[0.5])
        title, body = old(["word1", "word2"]).tolist()
        vector = {"title": title, "body": body, "words": sparse}
        client.upsert("two", [models.PointStruct(id=1, vector=vector, payload={"text": "word3"})])
        reembed(Reembedding(client, "two", make().embed, into="two_new", vector="body"))
        (point,) = client.retrieve("two_new", [1], with_vectors=True)
        np.testing.assert_allclose(point.vector["title"], title, atol=1e-5)
        assert (len(point.vector["body"]), point.vector["words"]) == (32, sparse)

    def test_latents_that_come_along_keep_their_codec(self, make: Make, old: OnnxEmbedder, new: OnnxEmbedder) -> None:
        codecs = {"title": fit_linear(old(WORDS), 16), "body": fit_linear(new(WORDS), 20)}
        client = QdrantClient(":memory:")
        opened = CompressedQdrantClient(client, codecs={"two": {"title": codecs["title"], "body": None}})
        params = models.VectorParams(size=24, distance=models.Distance.COSINE)
        opened.create_collection("two", {"title": params, "body": params})
        rows = old(WORDS[:9]).tolist()
        points = [
            models.PointStruct(id=i, vector={"title": row, "body": row}, payload={"text": WORDS[i]})
            for i, row in enumerate(rows)
        ]
        opened.upsert("two", points)
        reembed(Reembedding(client, "two", new, into="two_new", vector="body", codec=codecs["body"]))
        both = CompressedQdrantClient(client, codecs={"two_new": codecs})
        for name, model in (("title", old), ("body", new)):
            assert both.query_points("two_new", model([WORDS[7]])[0], using=name, limit=1).points[0].id == 7
        both.upsert(
            "two_new", [models.PointStruct(id=9, vector={"title": rows[0], "body": new(WORDS[:1])[0].tolist()})]
        )

    def test_latents_of_a_codec_and_a_vector_beside_the_old_one(
        self, client: QdrantClient, make: Make, new: OnnxEmbedder, texts: list[str]
    ) -> None:
        codec = fit_linear(new(texts), 16)
        assert reembed(make(named="new", codec=codec)).embedded == N
        assert reembed(make(named="new", codec=codec)).embedded == 0
        assert client.get_collection("docs").config.params.vectors["new"].size == 16
        opened = CompressedQdrantClient(client, codecs={"docs": {"new": codec}})
        assert opened.query_points("docs", new([texts[9]])[0], using="new", limit=1).points[0].id == 9

    def test_the_alias_is_switched_when_nothing_is_left_and_back(self, client: QdrantClient, make: Make) -> None:
        assert reembed(make(), alias="live").switched_alias is None
        assert reembed(make(), alias="live").switched_alias == "live"
        assert client.count("live").count == N
        with pytest.raises(MigrationError, match="expected a collection that only this migration writes to"):
            reembed(make())
        assert "is removed" in roll_back(client, "docs", into="docs_new")

    def test_no_more_texts_a_second_than_allowed(self, make: Make) -> None:
        started = time.monotonic()
        reembed(make(texts_per_second=7000, batch_size=100))
        assert time.monotonic() - started >= (N - 100) / 7000

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"named": "x", "into": "y"}, "got both or none"),
            ({"into": "docs"}, "expected a name of its own"),
            ({"texts_per_second": 0}, "texts_per_second: expected a positive number, got 0"),
            ({"vector": "none"}, "expected a dense vector 'none', got ''"),
            ({"into": "other"}, "into: expected a new collection, or one that texts of 'docs' were embedded into"),
            ({"embed": lambda texts: np.ones((1, 8), np.float32)}, "expected one vector for each of 64 texts"),
        ],
    )
    def test_what_cannot_be_done_is_refused(
        self, client: QdrantClient, make: Make, changes: dict[str, Any], message: str
    ) -> None:
        client.create_collection("other", models.VectorParams(size=32, distance=models.Distance.COSINE))
        with pytest.raises(MigrationError, match=message):
            reembed(make(**changes))
        assert not client.collection_exists("docs_new")

    def test_a_model_that_returns_zeros_is_refused(self, make: Make) -> None:
        with pytest.raises(BadRowsError, match="embedded texts: row 0 has zero norm"):
            reembed(make(embed=lambda texts: np.zeros((len(texts), 8), np.float32)))


class TestBothModels:
    @pytest.fixture
    def merger(self, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str]) -> Merger:
        return Merger.fit(Embedded(old(texts), new(texts)))

    @pytest.fixture(params=["into", "named", "into, latents", "named, latents"])
    def half(
        self, request: pytest.FixtureRequest, make: Make, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str]
    ) -> tuple[Model, Model, Merger]:
        """Embed half of the documents."""
        codec: LinearCodec | None = fit_linear(new(texts), 20) if "latents" in request.param else None
        _, stops = interrupted(new, N // 2)
        target = {"named": "new"} if "named" in request.param else {"into": "docs_new"}
        job = make(embed=stops, batch_size=50, codec=codec, **target)
        with pytest.raises(KeyboardInterrupt):
            reembed(job)
        both = Embedded(old(texts), new(texts) if codec is None else codec.encode(new(texts)))
        return (
            Model(job.client, "docs"),
            Model(job.writer, job.target, job.target_vector, codec),
            Merger.fit(both),
        )

    def test_merged_results_are_those_of_exact_search(
        self, half: tuple[Model, Model, Merger], old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str]
    ) -> None:
        before, after, merger = half
        search = TwoModelSearch(before, after, merger)
        encode = (lambda rows: rows) if after.codec is None else after.codec.encode
        documents = Embedded(old(texts), encode(new(texts)))
        asked = [f"{texts[i]} word1" for i in (1, 400, 640)]
        queries = Embedded(old(asked), encode(new(asked)))
        expected = merger.search(documents, queries, np.arange(N) < N // 2, 12)
        for row, (left, right) in enumerate(zip(old(asked), new(asked), strict=True)):
            points = search.query_points(left, right, limit=12)
            assert [point.id for point in points] == expected[row].tolist()
            pages = [search.query_points(left, right, limit=4, offset=offset) for offset in (0, 4, 8)]
            assert [point.id for page in pages for point in page] == expected[row].tolist()
            assert points[0].payload["group"] == points[0].id % 7

    @pytest.mark.parametrize("calls", [0, 1, 2])
    def test_a_point_that_is_embedded_during_a_search_is_found_once(
        self, client: QdrantClient, make: Make, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str], calls: int
    ) -> None:
        reembed(make())
        client.delete("docs_new", list(range(N // 2, N)), wait=True)
        point = models.PointStruct(id=640, vector=new(texts[640:641])[0].tolist(), payload={})
        made: list[str] = []

        class Writes:
            """Pass calls on, and write the point before one of them."""

            def __getattr__(self, name: str) -> Callable[..., Any]:
                def call(**arguments: Any) -> Any:
                    if len(made) == calls:
                        client.upsert("docs_new", [point], wait=True)
                    made.append(name)
                    return getattr(client, name)(**arguments)

                return call

        merger = Merger.fit(Embedded(old(texts), new(texts)))
        search = TwoModelSearch(Model(Writes(), "docs"), Model(Writes(), "docs_new"), merger)
        found = search.query_points(old(texts[640:641])[0], new(texts[640:641])[0], limit=5)
        assert len(made) > calls
        assert [found_point.id for found_point in found].count(640) == 1

    def test_filters_and_groups_are_as_of_one_collection(
        self, half: tuple[Model, Model, Merger], old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str]
    ) -> None:
        search = TwoModelSearch(*half)
        asked = [f"{texts[640]} word1"]
        left, right = old(asked)[0], new(asked)[0]
        whole = search.query_points(left, right, limit=N)
        assert sorted(point.id for point in whole) == list(range(N))
        group = models.Filter(must=[models.FieldCondition(key="group", match=models.MatchValue(value=3))])
        found = search.query_points(left, right, query_filter=group, limit=20)
        assert [p.id for p in found] == [p.id for p in whole if p.id % 7 == 3][:20]
        groups = search.query_points_groups(left, right, "group", limit=4, group_size=2)
        order = list(dict.fromkeys(p.id % 7 for p in whole))[:4]
        assert [g.id for g in groups] == order
        assert [[h.id for h in g.hits] for g in groups] == [[p.id for p in whole if p.id % 7 == i][:2] for i in order]

    @pytest.mark.parametrize("named", [False, True])
    def test_two_codecs_and_points_without_a_text(
        self, make: Make, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str], named: bool
    ) -> None:
        before, after = fit_linear(old(texts), 16), fit_linear(new(texts), 20)
        client = QdrantClient(":memory:")
        opened = CompressedQdrantClient(client, codecs={"docs": {"old": before}})
        config = {"old": models.VectorParams(size=24, distance=models.Distance.COSINE)}
        opened.create_collection("docs", config)
        points = [
            models.PointStruct(
                id=i, vector={"old": row}, payload={"text": texts[i] if i % 5 else " ", "tags": [i % 3, i % 4]}
            )
            for i, row in enumerate(old(texts).tolist())
        ]
        opened.upsert("docs", points, wait=True)
        target = {"named": "new"} if named else {"into": "docs_new"}
        job = Reembedding(client, "docs", interrupted(new, N // 2)[1], vector="old", codec=after, **target)
        with pytest.raises(KeyboardInterrupt):
            reembed(job)
        stored = Embedded(before.encode(old(texts)), after.encode(new(texts)))
        merger = Merger.fit(stored)
        has = models.Filter(must=[models.HasVectorCondition(has_vector=job.target_vector)])
        done = np.zeros(N, bool)
        done[[record.id for record in client.scroll(job.target, has, limit=N)[0]]] = True
        assert 0 < done.sum() < N - N // 5
        codecs = {"docs": {"old": before, **({"new": after} if named else {})}}
        asks = CompressedQdrantClient(client, codecs=codecs)
        search = TwoModelSearch(
            Model(asks, "docs", "old", before), Model(job.writer, job.target, job.target_vector, after), merger
        )
        asked = [f"{texts[641]} word1"]
        left, right = old(asked), new(asked)
        queries = Embedded(before.encode_queries(left), after.encode_queries(right))
        expected = merger.search(stored, queries, done, N)[0].tolist()
        pages = [search.query_points(left[0], right[0], limit=100, offset=start) for start in range(0, N, 100)]
        assert [point.id for page in pages for point in page] == expected
        tagged = models.Filter(must=[models.FieldCondition(key="tags", match=models.MatchValue(value=3))])
        found = search.query_points(left[0], right[0], query_filter=tagged, limit=30, offset=10)
        assert [point.id for point in found] == [i for i in expected if i % 4 == 3][10:40]
        groups = {group.id: group.hits for group in search.query_points_groups(left[0], right[0], "tags", limit=4)}
        assert groups.keys() == {0, 1, 2, 3}
        for tag, hits in groups.items():
            assert [hit.id for hit in hits] == [i for i in expected if tag in (i % 3, i % 4)][:3]

    async def ask(self, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str], merger: Merger) -> list[Any]:
        """Return what both models find when an asynchronous client asks them."""
        client = AsyncQdrantClient(":memory:")
        for name, model, rows in (("docs", old, N), ("docs_new", new, N // 2)):
            size = model(texts[:1]).shape[1]
            await client.create_collection(name, models.VectorParams(size=size, distance=models.Distance.COSINE))
            vectors = zip(model(texts[:rows]).tolist(), range(rows), strict=True)
            points = [models.PointStruct(id=i, vector=row, payload={"group": i % 7}) for row, i in vectors]
            await client.upsert(name, points)
        search = AsyncTwoModelSearch(Model(client, "docs"), Model(client, "docs_new"), merger)
        queries = old([texts[640]])[0], new([texts[640]])[0]
        found = await search.query_points(*queries, limit=N)
        groups = await search.query_points_groups(*queries, "group", limit=4, group_size=2)
        await client.close()
        return [found, groups]

    def test_an_asynchronous_client_finds_the_same(
        self, merger: Merger, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str]
    ) -> None:
        found, groups = asyncio.run(self.ask(old, new, texts, merger))
        documents = Embedded(old(texts), new(texts))
        expected = merger.search(documents, documents.rows(np.array([640])), np.arange(N) < N // 2, N)
        assert [point.id for point in found] == expected[0].tolist()
        order = list(dict.fromkeys(p.id % 7 for p in found))[:4]
        assert [[h.id for h in g.hits] for g in groups] == [[p.id for p in found if p.id % 7 == i][:2] for i in order]

    def test_the_same_vector_twice_is_refused(self, client: QdrantClient, merger: Merger) -> None:
        with pytest.raises(MigrationError, match="got the same one twice"):
            TwoModelSearch(Model(client, "docs"), Model(client, "docs"), merger)


class TestEstimate:
    def test_cost_and_gain_come_before_the_work(
        self, client: QdrantClient, make: Make, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str]
    ) -> None:
        client.upsert("docs", [models.PointStruct(id=9000 + i, vector=[1.0] * 24) for i in range(N)], wait=True)
        asked = list(range(0, N, 7))
        queries = [" ".join(texts[i].split()[:3]) for i in asked]
        judged = JudgedQueries(queries, old(queries), [[i] for i in asked])
        cost = estimate(make(), count_tokens=new.count_tokens, price_per_million=20.0, queries=judged, sample=2 * N)
        assert (cost.texts, cost.tokens, cost.money) == (N, 6 * N, pytest.approx(6 * N * 20e-6))
        assert cost.hours > 0
        assert cost.gain.low <= cost.gain.mean <= cost.gain.high
        assert cost.gain.mean == pytest.approx(cost.new.mean - cost.old.mean)
        assert not client.collection_exists("docs_new")

    def test_queries_without_an_answer_in_the_collection_tell_nothing(
        self, make: Make, old: OnnxEmbedder, texts: list[str]
    ) -> None:
        judged = JudgedQueries(texts[:30], old(texts[:30]), [[i] for i in range(30)])
        more = JudgedQueries(texts[:40], old(texts[:40]), [*judged.relevant, *([90_000 + i] for i in range(10))])
        costs = [estimate(make(), queries=queries, sample=N) for queries in (judged, more)]
        assert [(cost.judged, cost.gain, cost.old) for cost in costs] == [(30, costs[0].gain, costs[0].old)] * 2

    def test_the_gain_is_that_of_the_latents_where_a_codec_compresses(
        self, make: Make, old: OnnxEmbedder, new: OnnxEmbedder, texts: list[str]
    ) -> None:
        asked = list(range(0, N, 5))
        queries = [" ".join(texts[i].split()[:3]) for i in asked]
        judged = JudgedQueries(queries, old(queries), [[i] for i in asked])
        codec = fit_linear(new(texts), 4)
        plain, latents = (estimate(make(codec=each), queries=judged, sample=2 * N) for each in (None, codec))
        found, _ = exact_search(codec.encode(new(texts)), codec.encode_queries(new(queries)), 10, codec.latent_metric)
        assert latents.new.mean == pytest.approx(ndcg(found, judged.relevant, 10).mean())
        assert latents.new.mean < plain.new.mean
        assert latents.old == plain.old

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"texts": ["one"]}, MigrationError, "expected as many texts as vectors and lists of ids, got 1, 2 and 2"),
            ({"relevant": [[9000], []]}, MigrationError, "expected ids of points of the collection 'docs' that have a"),
            (
                {"old": np.ones((2, 7))},
                MigrationError,
                r"expected old vectors \(2, 24\), as wide as those of .* got \(2, 7\)",
            ),
            ({"old": np.full((2, 24), np.nan)}, BadRowsError, "old vectors of the queries: row 0 holds NaN"),
        ],
    )
    def test_queries_that_cannot_tell_a_gain_are_refused_before_a_text_is_embedded(
        self, make: Make, old: OnnxEmbedder, texts: list[str], changes: dict[str, Any], error: type, message: str
    ) -> None:
        judged = JudgedQueries(texts[:2], old(texts[:2]), [[0], [1]])._replace(**changes)
        embedded, stops = interrupted(old, 0)
        with pytest.raises(error, match=message):
            estimate(make(embed=stops), queries=judged)
        assert embedded == []

    def test_a_rate_that_is_allowed_counts(self, make: Make) -> None:
        assert estimate(make(texts_per_second=0.1, batch_size=N)).hours == pytest.approx(N / 0.1 / 3600)

    def test_it_keeps_to_the_batches_and_the_rate(self, make: Make, new: OnnxEmbedder) -> None:
        sizes: list[int] = []

        def embed(texts: list[str]) -> Any:
            sizes.append(len(texts))
            return new(texts)

        started = time.monotonic()
        estimate(make(embed=embed, texts_per_second=7000, batch_size=100), sample=N)
        assert time.monotonic() - started >= (N - 100) / 7000
        assert sizes == [100] * (N // 100)

    def test_what_cannot_be_told_is_refused(self, make: Make) -> None:
        with pytest.raises(MigrationError, match="expected count_tokens beside it"):
            estimate(make(), price_per_million=1.0)
        with pytest.raises(MigrationError, match="expected texts in the payload under 'body', got none in 200 points"):
            estimate(make(text="body"))


class TestCommandLine:
    def test_estimate_fill_and_switch(
        self, folder: Path, fast_path: Path, old: OnnxEmbedder, texts: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        client = QdrantClient(path=str(fast_path))
        client.create_collection("docs", models.VectorParams(size=24, distance=models.Distance.COSINE))
        payload = [{"text": text} for text in texts[:60]]
        client.upload_collection("docs", old(texts[:60]), ids=range(60), payload=payload, wait=True)
        client.close()
        (fast_path / "first").write_text("7\n3\n")
        asked = ["--path", str(fast_path), "--collection", "docs", "--into", "new", "--model", str(folder / "new.onnx")]

        def run(*arguments: str) -> tuple[Any, str, str]:
            with pytest.raises(SystemExit) as ended:
                main(["reembed", *asked, *arguments, "--json"])
            shown = capsys.readouterr()
            return ended.value.code, shown.out, shown.err

        code, out, _ = run("--dry-run", "--price", "1000")
        cost = json.loads(out)
        assert (code, cost["texts"], cost["tokens"], cost["money"]) == (0, 60, 360, pytest.approx(0.36))
        assert cost["gain"] is None
        queries = [" ".join(text.split()[:3]) for text in texts[:60]]
        lines = [
            json.dumps({"text": text, "vector": row, "ids": [i]})
            for i, (text, row) in enumerate(zip(queries, old(queries).tolist(), strict=True))
        ]
        (fast_path / "judged").write_text("\n".join([*lines, ""]))
        code, out, err = run("--dry-run", "--judged", str(fast_path / "judged"))
        cost = json.loads(out)
        new = OnnxEmbedder(folder / "new.onnx", threads=1)
        sides = [(model(texts[:60]), model(queries)) for model in (old, new)]
        figures = [ndcg(exact_search(*side, 10, Metric.COSINE)[0], np.arange(60), 10).mean() for side in sides]
        assert (cost["old"]["mean"], cost["new"]["mean"]) == pytest.approx(figures)
        assert cost["gain"]["low"] <= cost["gain"]["mean"] == pytest.approx(figures[1] - figures[0])
        assert re.search(r"nDCG@10, new model +│ 0\.\d+ \[0\.\d+, [01]\.\d+\]", err)
        assert re.search(r"gain +│ [+-]0\.\d+ \[[+-]0\.\d+, [+-]0\.\d+\]", err)
        (fast_path / "judged").write_text('{"text": "a"}\n')
        code, _, err = run("--dry-run", "--judged", str(fast_path / "judged"))
        assert (code, "judged, line 1: expected a query such as" in err) == (1, True)
        code, out, err = run("--first-ids", str(fast_path / "first"), "--switch-alias", "live")
        assert (code, out) == (1, "")
        assert re.search(r"embedded +│ 60 texts", err)
        assert "error: Run the same command again, until it finds nothing to do. Pause writes before the run" in err
        code, out, _ = run("--switch-alias", "live")
        outcome = json.loads(out)
        assert (code, outcome["embedded"], outcome["switched_alias"]) == (0, 0, "live")

    def test_python_does_the_same_in_one_call(self, folder: Path, fast_path: Path, old: OnnxEmbedder) -> None:
        client = QdrantClient(path=str(fast_path))
        client.create_collection("docs", models.VectorParams(size=24, distance=models.Distance.COSINE))
        payload = [{"text": text} for text in ("a", "b c")]
        client.upload_collection("docs", old(["a", "b c"]), ids=range(2), payload=payload, wait=True)
        client.close()
        request = ReembeddingRequest(collection="docs", model=folder / "new.onnx", path=fast_path, into="new")
        assert estimate_at(request).texts == 2
        assert reembed_at(request).embedded == 2
        assert reembed_at(request).settled

    def test_the_vectors_of_tokens_are_combined_as_asked(
        self, folder: Path, fast_path: Path, old: OnnxEmbedder
    ) -> None:
        client = QdrantClient(path=str(fast_path))
        client.create_collection("docs", models.VectorParams(size=24, distance=models.Distance.COSINE))
        client.upload_collection("docs", old(["word1 word2"]), ids=[0], payload=[{"text": "word1 word2"}], wait=True)
        client.close()
        asked = ["reembed", "--path", str(fast_path), "--collection", "docs", "--model", str(folder / "new.onnx")]
        for pooling, same in (("cls", True), ("mean", False)):
            with pytest.raises(SystemExit) as ended:
                main([*asked, "--into", pooling, "--pooling", pooling])
            assert ended.value.code == 0
            client = QdrantClient(path=str(fast_path))
            (record,) = client.retrieve(pooling, [0], with_vectors=True)
            client.close()
            first = OnnxEmbedder(folder / "new.onnx", threads=1)(["word1"])[0]
            assert np.allclose(record.vector, first, atol=1e-5) is same

    def test_a_new_vector_in_the_same_collection(
        self, folder: Path, fast_path: Path, old: OnnxEmbedder, texts: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        client = QdrantClient(path=str(fast_path))
        client.create_collection("docs", {"old": models.VectorParams(size=24, distance=models.Distance.COSINE)})
        payload = [{"text": text} for text in texts[:30]]
        client.upload_collection("docs", {"old": old(texts[:30])}, ids=range(30), payload=payload, wait=True)
        client.close()
        asked = ["reembed", "--path", str(fast_path), "--collection", "docs", "--vector", "old"]
        asked += ["--model", str(folder / "new.onnx")]
        shown: list[str] = []
        for targets, code in (
            (["--named", "new"], 0),
            (["--named", "new"], 0),
            ([], 2),
            (["--named", "a", "--into", "b"], 2),
        ):
            with pytest.raises(SystemExit) as ended:
                main([*asked, *targets])
            assert ended.value.code == code
            shown.append(capsys.readouterr().out)
        assert "Run the same command again" in shown[0]
        assert "Nothing is left to do: search the vector 'new' with the new model alone." in shown[1]
        client = QdrantClient(path=str(fast_path))
        record = client.retrieve("docs", [3], with_vectors=True)[0]
        assert (len(record.vector["old"]), len(record.vector["new"])) == (24, 32)
        client.close()


def test_ids_to_embed_first_are_ids_of_points(tmp_path: Path) -> None:
    uuid = "12345678-1234-5678-1234-567812345678"
    path = tmp_path / "ids"
    path.write_bytes(f"\ufeff7\n\n {2**64 - 1} \r\n{uuid.upper()}\n".encode())
    assert read_ids(path) == [7, 2**64 - 1, uuid]
    for line in (str(2**64), "9" * 5000, "page-7", "1.5"):
        path.write_text(f"7\n{line}\n")
        with pytest.raises(UnusableDataError, match="ids, line 2: expected the id of a point"):
            read_ids(path)
    path.write_bytes(b"7\n\xff\n")
    with pytest.raises(UnusableDataError, match=r"line 2: expected the id of a point, below 2.64 or a UUID, got"):
        read_ids(path)


def test_judged_queries_are_read_and_anything_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judged"
    uuid = "12345678-1234-5678-1234-567812345678"
    path.write_text(
        '\ufeff{"text": "a \u2028 b", "vector": [0.5, 1], "ids": [7]}\n\n'
        f'{{"vector": [1e3, -1], "ids": ["{uuid.upper()}", 3], "text": "c", "clicks": 9}}\r\n'
    )
    texts, vectors, ids = read_judged(path)
    assert (texts, vectors.tolist(), ids) == (["a \u2028 b", "c"], [[0.5, 1], [1000, -1]], [[7], [uuid, 3]])
    good = '{"text": "a", "vector": [1, 2], "ids": [7]}'
    for line, message in (
        ("[1]", "expected a JSON object, got list"),
        ('{"vector": [1, 2], "ids": [7]}', "got none with 'text'"),
        ('{"text": " ", "vector": [1, 2], "ids": [7]}', "got text ' '"),
        ('{"text": "a", "vector": [1, true], "ids": [7]}', "got vector \\[1, True\\]"),
        ('{"text": "a", "vector": [], "ids": [7]}', "got vector \\[\\]"),
        ('{"text": "a", "vector": [1, 1e400], "ids": [7]}', "1e400 is too large a number"),
        ('{"text": "a", "vector": [1, 2], "ids": 7}', "got ids 7"),
        ('{"text": "a", "vector": [1, 2], "ids": ["x"]}', "expected the id of a point, below 2.64 or a UUID, got 'x'"),
        ('{"text": "a", "vector": [1, 2, 3], "ids": [7]}', "expected a vector of 2 numbers, as in the lines before"),
    ):
        path.write_text(f"{good}\n{line}\n")
        with pytest.raises(UnusableDataError, match=f"judged, line 2: .*{message}"):
            read_judged(path)
    path.write_text("\n")
    with pytest.raises(UnusableDataError, match="judged: expected a query in each line, got none"):
        read_judged(path)


def test_a_damaged_model_or_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("old.onnx", "tokenizer.json"):
        for each in ("old.onnx", "tokenizer.json"):
            (tmp_path / each).write_bytes((folder / each).read_bytes())
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:-40])
        with pytest.raises(InvalidArtifactError, match=f"{name}: expected"):
            OnnxEmbedder(tmp_path / "old.onnx")


def test_a_model_of_another_tokenizer_or_pooling_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifactError, match=r"expected floats \(texts, width\) with pooling=none, got float32"):
        OnnxEmbedder(folder / "old.onnx", pooling=Pooling.NONE)(["word1"])
    vocabulary = {"[UNK]": 0, "far": 5000}
    Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).save(str(tmp_path / "other.json"))
    with pytest.raises(InvalidArtifactError, match="expected a model that takes the tokens of its tokenizer"):
        OnnxEmbedder(folder / "old.onnx", tmp_path / "other.json")(["far"])
