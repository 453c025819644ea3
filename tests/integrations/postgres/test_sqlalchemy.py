"""Test the SQLAlchemy type on a real server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy
from sqlalchemy import Column, Engine, Integer, MetaData, Table, func, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from vaecodec import Codec
from vaecodec.errors import BadRowsError, CodecMismatchError
from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec_integrations.postgres.sqlalchemy import CompressedVector, OriginalVector, render_item


def docs_table(codec: Codec, storage: str = "vector") -> Table:
    return Table(
        "docs",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("embedding", CompressedVector(codec, storage=storage)),
    )


def fill(engine: Engine, docs: Table, base: np.ndarray) -> None:
    docs.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(docs), [{"id": row, "embedding": vector} for row, vector in enumerate(base)])


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_documents_queries_and_results_pass_through_the_codec(
    engine: Engine, base, sample, vae_codec: Codec, storage: str
) -> None:
    docs = docs_table(vae_codec, storage)
    fill(engine, docs, base)
    expected, _ = exact_search(vae_codec.encode(base), vae_codec.encode_queries(sample.queries[:5]), 10, Metric.COSINE)
    with engine.connect() as connection:
        for query, row in zip(sample.queries[:5], expected, strict=True):
            nearest = select(docs.c.id).order_by(docs.c.embedding.cosine_distance(query)).limit(10)
            assert len(set(connection.scalars(nearest)) & set(row)) >= 9
        restored = connection.scalars(select(docs.c.embedding).where(docs.c.id == 7)).one()
    np.testing.assert_allclose(restored, vae_codec.decode(vae_codec.encode(base[7:8]))[0], atol=5e-3)


def test_bits_take_the_hamming_distance(engine: Engine, base, sample, vae_codec: Codec) -> None:
    docs = docs_table(vae_codec, "bit")
    fill(engine, docs, base)
    with engine.connect() as connection:
        nearest = connection.scalars(
            select(docs.c.id).order_by(docs.c.embedding.distance(sample.queries[0])).limit(10)
        ).all()
    expected, _ = exact_search(base, sample.queries[:1], 100, Metric.COSINE)
    assert len(set(nearest) & set(expected[0])) >= 5


def test_a_declarative_model_updates_and_filters_by_distance(engine: Engine, base, vae_codec: Codec) -> None:
    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        embedding = mapped_column(CompressedVector(vae_codec), nullable=True)

    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Doc(id=row, embedding=vector) for row, vector in enumerate(base[:20])])
        session.add(Doc(id=99, embedding=None))
        session.commit()
        session.execute(update(Doc).where(Doc.id == 3).values(embedding=base[100]))
        session.commit()
        near = session.scalars(select(Doc.id).where(Doc.embedding.distance(base[100]) < 1e-3)).all()
        assert near == [3]
        assert session.get(Doc, 99).embedding is None


def test_the_first_statement_refuses_another_codec(engine: Engine, base, vae_codec: Codec, other_codec) -> None:
    fill(engine, docs_table(vae_codec), base[:5])
    docs = docs_table(other_codec)
    with engine.connect() as connection:
        for statement in (
            select(docs.c.id),
            insert(docs).values(id=50, embedding=base[50]),
            select(docs.c.id).order_by(docs.c.embedding.distance(base[0])),
        ):
            with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
                connection.execute(statement)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM docs").scalar() == 5


def test_the_column_carries_its_codec_in_its_comment_beside_ones_own(vae_codec: Codec) -> None:
    column: Column[Any] = Column("embedding", CompressedVector(vae_codec), comment="of the summaries")
    assert column.comment.startswith("of the summaries\n")
    assert vae_codec.codec_id in column.comment


def test_a_distance_that_does_not_fit_the_codec_is_refused(vae_codec: Codec, base) -> None:
    docs = docs_table(vae_codec)
    with pytest.raises(CodecMismatchError, match="compared by cosine_distance"):
        docs.c.embedding.l2_distance(base[0])


def test_a_zero_vector_is_refused_before_it_is_sent(engine: Engine, base, vae_codec: Codec) -> None:
    docs = docs_table(vae_codec)
    docs.create(engine)
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.StatementError) as refused:
        connection.execute(insert(docs).values(id=1, embedding=np.zeros(384)))
    assert isinstance(refused.value.orig, BadRowsError)


def test_a_subquery_is_a_value_or_a_table_and_is_checked(
    engine: Engine, base, vae_codec: Codec, other_codec: Codec
) -> None:
    docs = docs_table(vae_codec)
    fill(engine, docs, base[:20])
    other = docs_table(other_codec)
    for table, refused in ((docs, False), (other, True)):
        last = select(func.max(table.c.id)).where(table.c.embedding.is_not(None)).scalar_subquery()
        for statement in (select(last), select(table.c.id).where(table.c.id == last)):
            with engine.connect() as connection:
                if refused:
                    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
                        connection.execute(statement)
                else:
                    assert connection.scalars(statement).all() == [19]
    with engine.connect() as connection:  # a statement of other tables, too
        assert connection.scalar(select(select(sqlalchemy.literal(3)).scalar_subquery())) == 3


@pytest.mark.parametrize("storage", ["vector", "halfvec", "bit"])
def test_alembic_writes_a_migration_that_makes_the_column(engine: Engine, vae_codec: Codec, storage: str) -> None:
    autogenerate = pytest.importorskip("alembic.autogenerate", reason="Alembic is not installed")
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    docs = docs_table(vae_codec, storage)
    docs.append_column(Column("original", OriginalVector(vae_codec)))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": docs.metadata})
        upgrade = autogenerate.produce_migrations(context, docs.metadata).upgrade_ops
        imports = {"import sqlalchemy as sa"}

        def rendered(*asked: Any) -> str | bool:
            found = render_item(*asked)
            imports.update(asked[-1].imports)
            return found

        written = autogenerate.render_python_code(upgrade, render_item=rendered)
        assert "CompressedVector" not in written
        assert "OriginalVector" not in written
        body = written.replace("\n", "\n    ")
        module: dict[str, Any] = {}
        exec("\n".join([*imports, "def upgrade(op):", f"    {body}"]), module)
        module["upgrade"](Operations(context))
        assert autogenerate.compare_metadata(context, docs.metadata) == []
        ones = np.ones(vae_codec.dim, np.float32)
        connection.execute(insert(docs), [{"id": 1, "embedding": ones, "original": ones}])
