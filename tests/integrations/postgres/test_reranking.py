"""Test that psycopg, SQLAlchemy and Django keep the same originals and find the same rows, on a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("django", reason="the extra django is not installed")
from django.apps import apps
from django.db import models
from django.db.migrations.writer import MigrationWriter
from sqlalchemy import Column, Engine, Integer, MetaData, Table, insert, select
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Session, aliased

from vaecodec import Codec, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.errors import CodecMismatchError, InvalidBudgetError, InvalidVectorsError, NotCalibratedError
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.postgres import django, sqlalchemy
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.sqlalchemy import CompressedVector, OriginalVector
from vaecodec_integrations.reranking import OriginalsColumn

ROWS = 120
Found = list[tuple[int, float]]


class Kept(NamedTuple):
    """Say what the column of originals holds: float16, or codes of a codec and a size."""

    path: Any
    code_bytes: int | None

    @property
    def column(self) -> OriginalsColumn:
        owner = None if self.code_bytes is None else Codec.load(self.path)
        return OriginalsColumn("original", owner, self.code_bytes)


class Adapter(NamedTuple):
    """Make the table ``docs``, insert rows (id, part, vector, original), and search one part of it, or all."""

    create: Callable[[], None]
    insert: Callable[[list[tuple[int, int, Any, Any]]], None]
    search: Callable[..., Found]

    def fill(self, rows: list[tuple[int, int, Any, Any]]) -> None:
        self.create()
        self.insert(rows)


def with_psycopg(connection: Any, codec: Codec, storage: str, kept: Kept) -> Adapter:
    originals = kept.column
    column = CompressedColumn(codec, "docs", "embedding", storage=storage, originals=originals)

    def create() -> None:
        connection.execute("CREATE TABLE docs (id integer PRIMARY KEY, part integer NOT NULL)")
        column.add_to(connection)

    def insert(rows: list[tuple[int, int, Any, Any]]) -> None:
        column.check(connection)
        for row, part, vector, original in rows:
            values = [
                None if vector is None else column.documents(vector[None])[0],
                None if original is None else originals.values(original[None], codec.dim)[0],
            ]
            statement = "INSERT INTO docs (id, part, embedding, original) VALUES (%s, %s, %s, %s)"
            connection.execute(statement, (row, part, *values))

    def search(query: Any, k: int, rerank: int | None, part: int | None = None) -> Found:
        if part is None:
            return [(hit.key, hit.distance) for hit in column.search(connection, query, k, rerank=rerank)]
        connection.execute("CREATE OR REPLACE VIEW one AS SELECT * FROM docs WHERE part = " + str(part))
        view = CompressedColumn(codec, "one", "embedding", storage=storage, originals=originals)
        view.record(connection)
        return [(hit.key, hit.distance) for hit in view.search(connection, query, k, rerank=rerank)]

    return Adapter(create, insert, search)


def sqlalchemy_table(codec: Codec, storage: str, kept: Kept) -> Table:
    return Table(
        "docs",
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("part", Integer, nullable=False),
        Column("embedding", CompressedVector(codec, storage=storage)),
        Column("original", OriginalVector(Codec.load(kept.path), code_bytes=kept.code_bytes), comment="to re-rank"),
    )


def with_sqlalchemy(engine: Engine, codec: Codec, storage: str, kept: Kept) -> Adapter:
    class Base(DeclarativeBase):
        pass

    table = sqlalchemy_table(codec, storage, kept)
    Doc: Any = type("Doc", (Base,), {"__table__": table})

    def insert_rows(rows: list[tuple[int, int, Any, Any]]) -> None:
        with engine.begin() as connection:
            names = ("id", "part", "embedding", "original")
            connection.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])

    def search(query: Any, k: int, rerank: int | None, part: int | None = None) -> Found:
        docs = table.alias("chosen")
        whole, some = select(Doc), select(docs.c.part, docs.c.id).order_by(docs.c.part)
        if part is not None:
            whole, some = whole.where(Doc.part == part), some.where(docs.c.part == part)
        options: dict[str, Any] = {"rerank": rerank}
        with Session(engine) as session:
            models = sqlalchemy.nearest(session, whole, Doc.embedding, query, k, originals=Doc.original, **options)
            found = [(row.Doc.id, distance) for row, distance in models]
        with engine.connect() as connection:
            rows = sqlalchemy.nearest(
                connection, some, docs.c.embedding, query, k, originals=docs.c.original, **options
            )
        assert [(row.id, distance) for row, distance in rows] == found
        assert all(len(row) == 2 for row, _ in rows)
        return found

    return Adapter(lambda: table.create(engine), insert_rows, search)


def django_model(path: Any, storage: str, kept: Kept) -> Any:
    apps.all_models["vaecodec_tests"].pop("doc", None)
    fields = {
        "__module__": __name__,
        "Meta": type("Meta", (), {"app_label": "vaecodec_tests", "db_table": "docs"}),
        "id": models.IntegerField(primary_key=True),
        "part": models.IntegerField(),
        "embedding": django.CompressedVectorField(codec=path, storage=storage, null=True),
        "original": django.OriginalVectorField(
            codec=kept.path, code_bytes=kept.code_bytes, null=True, db_comment="to re-rank"
        ),
    }
    return type("Doc", (models.Model,), fields)


def with_django(database: Any, path: Any, storage: str, kept: Kept) -> Adapter:
    doc = django_model(path, storage, kept)

    def create() -> None:
        with database.schema_editor() as editor:
            editor.create_model(doc)

    def insert(rows: list[tuple[int, int, Any, Any]]) -> None:
        doc.objects.bulk_create(
            [doc(id=row, part=part, embedding=vector, original=original) for row, part, vector, original in rows]
        )

    def search(query: Any, k: int, rerank: int | None, part: int | None = None) -> Found:
        chosen = doc.objects.order_by("part") if part is None else doc.objects.filter(part=part)
        found = django.nearest(chosen, "embedding", query, k, originals="original", rerank=rerank)
        assert not any(name.startswith("vaecodec") for each, _ in found for name in vars(each))
        return [(each.id, distance) for each, distance in found]

    return Adapter(create, insert, search)


Open = Callable[[Kept], dict[str, Adapter]]


@pytest.fixture
def opened(connection: Any, engine: Engine, database: Any, vae_path: Any, vae_codec: Codec) -> Open:
    """Return a function that opens the table by each library as if its originals were such."""

    def adapters(kept: Kept, storage: str = "vector") -> dict[str, Adapter]:
        return {
            "psycopg": with_psycopg(connection, vae_codec, storage, kept),
            "sqlalchemy": with_sqlalchemy(engine, vae_codec, storage, kept),
            "django": with_django(database, vae_path, storage, kept),
        }

    return adapters


@pytest.fixture(params=["vector", "halfvec", "bit"])
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[None, 32], ids=["float16", "codes"])
def code_bytes(request: pytest.FixtureRequest) -> int | None:
    return None if request.param is None else int(request.param)


@pytest.fixture
def adapters(opened: Any, vae_path: Any, storage: str, code_bytes: int | None) -> dict[str, Adapter]:
    return dict(opened(Kept(vae_path, code_bytes), storage))


@pytest.fixture
def forms(vae_path: Any, other_codec_path: Any) -> dict[str, Kept]:
    """Return what a column of originals may hold; of the codes two kinds have as many bytes."""
    return {
        "float16 originals of 384 dimensions": Kept(vae_path, None),
        "codes of 32 bytes": Kept(vae_path, 32),
        "codes of 40 bytes": Kept(vae_path, 40),
        "codes of 32 bytes by codec": Kept(other_codec_path, 32),
    }


@pytest.mark.parametrize("writer", ["psycopg", "sqlalchemy", "django"])
def test_all_find_the_same_rows_at_the_same_distances(
    adapters: dict[str, Adapter], writer: str, base: np.ndarray, sample: Any, vae_codec: Codec, code_bytes: int | None
) -> None:
    rows: list[tuple[int, int, Any, Any]] = [(i, i % 3, base[i], base[i]) for i in range(ROWS)]
    rows += [(ROWS, 0, None, base[ROWS])]
    for i in range(0, ROWS, 5):
        rows[i] = (i, i % 3, base[i], None)
    adapters[writer].fill(rows)
    for query in (*sample.queries[:1], base[5]):
        for k, rerank, part in ((7, None, None), (7, 4, None), (5, 3, 1), (500, 1, None)):
            expected = adapters["psycopg"].search(query, k, rerank, part)
            assert len(expected) == min(k, ROWS)
            assert all(part is None or row % 3 == part for row, _ in expected)
            assert [distance for _, distance in expected] == sorted(distance for _, distance in expected)
            for adapter in adapters.values():
                found = adapter.search(query, k, rerank, part)
                assert [row for row, _ in found] == [row for row, _ in expected]
                np.testing.assert_allclose(
                    [distance for _, distance in found], [distance for _, distance in expected], atol=1e-6
                )
    kept = base if code_bytes is None else vae_codec.decode(vae_codec.encode(base, bytes=code_bytes), bytes=code_bytes)
    query = sample.queries[0]
    for row, distance in adapters["django"].search(query, 100, 2):
        if row % 5:
            cosine = float(kept[row] @ query) / float(np.linalg.norm(kept[row]) * np.linalg.norm(query))
            assert distance == pytest.approx(1 - cosine, abs=1e-3)


def test_what_cannot_be_reranked_is_refused(
    connection: Any, engine: Engine, database: Any, vae_path: Any, vae_codec: Codec, base: np.ndarray
) -> None:
    kept = Kept(vae_path, None)
    with_psycopg(connection, vae_codec, "vector", kept).fill([(1, 1, base[1], base[1])])
    table, doc = sqlalchemy_table(vae_codec, "vector", kept), django_model(vae_path, "vector", kept)
    latent = vae_codec.encode(base[:1])[0]
    column = CompressedColumn(vae_codec, "docs", "embedding", originals=OriginalsColumn("original"))
    with engine.connect() as opened:

        def searches(originals: bool) -> list[Callable[[Any, int | None], Any]]:
            return [
                lambda query, rerank: column.search(connection, query, 1, rerank=rerank),
                lambda query, rerank: sqlalchemy.nearest(
                    opened,
                    select(table.c.id),
                    table.c.embedding,
                    query,
                    1,
                    originals=table.c.original if originals else None,
                    rerank=rerank,
                ),
                lambda query, rerank: django.nearest(
                    doc.objects.all(),
                    "embedding",
                    query,
                    1,
                    originals="original" if originals else None,
                    rerank=rerank,
                ),
            ]

        for search in searches(originals=True):
            assert len(search(latent, None)) == 1
            with pytest.raises(ValueError, match="rerank: expected a query of width 384, got latents"):
                search(latent, 4)
            with pytest.raises((InvalidVectorsError, StatementError), match="expected rows of width 384, got 100"):
                search(base[0, :100], 4)
        for search in searches(originals=False)[1:]:
            with pytest.raises(ValueError, match="expected a column of originals, got none; give one with originals="):
                search(base[0], 4)
    with pytest.raises(TypeError, match="expected one of models, got one of values"):
        django.nearest(doc.objects.values("id"), "embedding", base[0], 1)
    with pytest.raises(InvalidVectorsError, match="384"):
        doc.objects.create(id=2, part=1, embedding=base[2], original=base[2, :100])
    assert doc.objects.count() == 1


def contents(connection: Any) -> list[Any]:
    rows = connection.execute("SELECT id, part, embedding::text, original FROM docs ORDER BY id").fetchall()
    comments = connection.execute("SELECT objsubid, description FROM pg_description WHERE objoid = 'docs'::regclass")
    return [rows, sorted(comments.fetchall())]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("writer", ["psycopg", "sqlalchemy", "django"])
def test_originals_of_another_form_are_refused_before_anything_is_read_or_written(
    connection: Any, opened: Open, forms: dict[str, Kept], writer: str, place: int, base: np.ndarray
) -> None:
    stored, kept = list(forms.items())[place]
    opened(kept)[writer].fill([(1, 1, base[1], base[1])])
    before = contents(connection)
    for asked, other in forms.items():
        for name, adapter in opened(other).items():
            if other == kept:
                assert [row for row, _ in adapter.search(base[1], 1, 2)] == [1]
                continue
            for use in (
                lambda: adapter.search(base[1], 1, 2),  # noqa: B023 - used at once
                lambda: adapter.insert([(2, 2, base[2], base[2])]),  # noqa: B023
            ):
                with pytest.raises(CodecMismatchError, match=rf"docs\.original: expected {asked}.* with {stored}"):
                    use()
            assert contents(connection) == before, name


def test_codes_of_fewer_latents_of_the_same_codec_are_refused(
    connection: Any, vae_path: Any, vae_codec: Codec, base: np.ndarray
) -> None:
    with_psycopg(connection, vae_codec, "vector", Kept(vae_path, 10)).fill([(1, 1, base[1], base[1])])
    nested = OriginalsColumn("original", Codec.load(vae_path, dim=vae_codec.metadata.nested_dims[0]), 10)
    with pytest.raises(
        CodecMismatchError, match=r"expected codes of 10 bytes.*, 16 latents, but .* codes of 10 bytes .*, 64"
    ):
        CompressedColumn(vae_codec, "docs", "embedding", originals=nested).search(connection, base[1], 1, rerank=2)


def test_a_column_of_originals_without_a_record_is_refused_until_it_is_recorded(
    connection: Any, opened: Open, vae_path: Any, vae_codec: Codec, base: np.ndarray
) -> None:
    kept = Kept(vae_path, 32)
    opened(kept)["psycopg"].fill([(1, 1, base[1], base[1])])
    connection.execute("COMMENT ON COLUMN docs.original IS 'ours'")
    before = contents(connection)
    column = CompressedColumn(vae_codec, "docs", "embedding", originals=kept.column)
    refused = (
        r"docs\.original: expected the codec's record .* got none; .* write the record with CompressedColumn.record"
    )
    with pytest.raises(CodecMismatchError, match=refused):
        column.add_to(connection)
    for adapter in opened(kept).values():
        with pytest.raises(CodecMismatchError, match=refused):
            adapter.search(base[1], 1, 2)
        with pytest.raises(CodecMismatchError, match=refused):
            adapter.insert([(2, 2, base[2], base[2])])
    assert contents(connection) == before
    column.record(connection)
    for row, adapter in enumerate(opened(kept).values(), 2):
        adapter.insert([(row, 2, base[row], base[row])])
        assert [found for found, _ in adapter.search(base[row], 1, 2)] == [row]


@pytest.mark.parametrize("writer", ["by hand", "sqlalchemy", "django"])
def test_a_record_stands_below_what_people_wrote(
    connection: Any, opened: Open, writer: str, vae_path: Any, vae_codec: Codec
) -> None:
    kept = Kept(vae_path, 32)
    if writer == "by hand":
        connection.execute("CREATE TABLE docs (id integer PRIMARY KEY, part integer, original bytea)")
        connection.execute("COMMENT ON COLUMN docs.original IS 'to re-rank'")
        column = CompressedColumn(vae_codec, "docs", "embedding", originals=kept.column)
        column.add_to(connection)  # there is no value yet
        column.add_to(connection)
    else:
        opened(kept)[writer].create()
    statement = (
        "SELECT col_description(attrelid, attnum) FROM pg_attribute "
        "WHERE attrelid = 'docs'::regclass AND attname = 'original'"
    )
    ((comment,),) = connection.execute(statement).fetchall()
    assert comment.startswith("to re-rank\nvaecodec: {")
    assert comment.count("\n") == 1
    CompressedColumn(vae_codec, "docs", "embedding", originals=kept.column).check(connection)


def test_codes_that_a_codec_does_not_have_are_refused_at_once(
    base: np.ndarray, vae_path: Any, vae_codec: Codec, tmp_path: Any
) -> None:
    path = tmp_path / "uncalibrated.onnx"
    export_linear(fit_linear(base, 16), path, calibration=CodecCalibration())
    uncalibrated = Codec.load(path)
    for make in (
        lambda codec, path, size: OriginalVector(codec, code_bytes=size),
        lambda codec, path, size: django.OriginalVectorField(codec=path, code_bytes=size),
        lambda codec, path, size: CompressedColumn(
            codec, "docs", "embedding", originals=OriginalsColumn("original", codec, size)
        ),
    ):
        with pytest.raises(InvalidBudgetError, match="bytes"):
            make(vae_codec, vae_path, 1)
        with pytest.raises(NotCalibratedError):
            make(uncalibrated, path, 32)


def test_originals_of_other_embeddings_are_refused(vae_codec: Codec, base: np.ndarray, tmp_path: Any) -> None:
    export_linear(fit_linear(np.ascontiguousarray(base[:, :200]), 64), tmp_path / "narrow.onnx")
    narrow = Codec.load(tmp_path / "narrow.onnx")
    with pytest.raises(CodecMismatchError, match="expected a codec for 384 dimensions"):
        CompressedColumn(vae_codec, "docs", "embedding", originals=OriginalsColumn("original", narrow, 32))


@pytest.mark.parametrize("rerank", [None, 3])
def test_an_alias_of_a_model_is_searched(
    engine: Engine, vae_path: Any, vae_codec: Codec, base: np.ndarray, rerank: int | None
) -> None:
    class Base(DeclarativeBase):
        pass

    table = sqlalchemy_table(vae_codec, "vector", Kept(vae_path, None))
    Doc: Any = type("Doc", (Base,), {"__table__": table})
    table.metadata.create_all(engine)
    other = aliased(Doc)
    with Session(engine) as session:
        search = (session, select(other), other.embedding, base[3], 2)
        options: dict[str, Any] = {"originals": other.original, "rerank": rerank}
        assert sqlalchemy.nearest(*search, **options) == []
        session.add_all(Doc(id=i, part=i // 2, embedding=base[i], original=base[i]) for i in range(10))
        session.flush()
        (first, near), (_, far) = sqlalchemy.nearest(*search, **options)
        assert first[0].id == 3
    assert near < far


def test_originals_are_selected_as_vectors(engine: Engine, vae_path: Any, vae_codec: Codec, base: np.ndarray) -> None:
    table = sqlalchemy_table(vae_codec, "vector", Kept(vae_path, None))
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(
            insert(table), [{"id": i, "part": 0, "original": each} for i, each in ((1, base[1]), (2, None))]
        )
        first, second = connection.scalars(select(table.c.original).order_by(table.c.id)).all()
    np.testing.assert_allclose(first, base[1], atol=1e-3)
    assert second is None


def test_a_migration_of_django_names_the_codec(vae_path: Any) -> None:
    text, imports = MigrationWriter.serialize(django.OriginalVectorField(codec=vae_path, code_bytes=32, null=True))
    assert str(vae_path) in text
    assert "code_bytes=32" in text
    assert imports == {"import vaecodec_integrations.postgres.django"}
