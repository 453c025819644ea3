"""Test that what docs/postgres.md prints runs unchanged, section by section, on a real server."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector

from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_cli.main import main

GUIDE = (Path(__file__).parents[3] / "docs" / "postgres.md").read_text()
# The guide by tasks in docs/guides runs this section's command.
ELSEWHERE = {"Compress a table in one command"}
SECTIONS = {
    section.splitlines()[0]: re.findall(r"^```(sh|python)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    for section in GUIDE.split("\n## ")[1:]
}


def run(code: str, names: dict[str, Any]) -> Any:
    """Run a block as it is printed, and return the value of its last line where that is an expression."""
    parsed = ast.parse(code)
    last = parsed.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(parsed, "docs/postgres.md", "exec", dont_inherit=True), names)
        return None
    exec(compile(ast.Module(parsed.body[:-1], []), "docs/postgres.md", "exec", dont_inherit=True), names)
    return eval(compile(ast.Expression(last.value), "docs/postgres.md", "eval", dont_inherit=True), names)


def python(section: str) -> list[str]:
    return [code for kind, code in SECTIONS[section] if kind == "python"]


@pytest.fixture
def folder(svd_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with the codec file that the guide names."""
    shutil.copy(svd_path, tmp_path / "vae128.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def address(server: str, schema: str) -> str:
    """Return an address whose statements find the test's schema first."""
    return f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema}%2Cpublic"


@pytest.fixture
def uncompressed(connection: Any, base: np.ndarray) -> Any:
    """Make a table of texts with 200 uncompressed vectors, and return the connection."""
    register_vector(connection)
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, embedding vector(384))")
    with connection.cursor() as cursor:
        rows = [(row, f"text {row}", Vector(base[row])) for row in range(200)]
        cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s)", rows)
    return connection


def test_every_section_with_code_runs() -> None:
    tested = set(re.findall(r'python\("(.+?)"\)|SECTIONS\["(.+?)"\]', Path(__file__).read_text()))
    with_code = {name for name, blocks in SECTIONS.items() if blocks}
    assert with_code - ELSEWHERE == {name for names in tested for name in names if name}


def test_the_sections_on_sqlalchemy_and_psycopg(
    folder: Path, address: str, base: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="the extra postgres is not installed")
    names: dict[str, Any] = {"query": base[7], "ids": range(200), "embeddings": base[:200]}
    run(python("SQLAlchemy")[0], names)
    engine = sqlalchemy.create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    names["docs"].metadata.create_all(engine)
    insert, statements = (code.replace("postgresql://localhost/app", address) for code in python("psycopg"))
    run(insert, names)
    assert names["hits"][0].key == 7
    assert len(names["hits"]) == 10
    run(statements, names)
    assert names["rows"][0][0] == 7
    assert names["restored"].shape == (10, 384)
    run(python("SQLAlchemy")[1], names | {"engine": engine})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(key) for key, _ in printed] == [hit.key for hit in names["hits"]]
    with engine.connect() as connection:
        found = connection.execute(names["nearest"]).scalars().all()
        configured: dict[str, Any] = {}
        names |= {
            "connection": connection,
            "metadata": names["docs"].metadata,
            "context": SimpleNamespace(configure=configured.update),
        }
        run(python("SQLAlchemy")[2], names)
        written = configured["render_item"]("type", names["docs"].c.embedding.type, SimpleNamespace(imports=set()))
    assert written.startswith("pgvector.sqlalchemy.")
    engine.dispose()
    assert found[0] == 7
    assert len(set(found) & {hit.key for hit in names["hits"]}) >= 5


def test_the_section_on_django(
    folder: Path, database: Any, base: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from django.test.utils import override_settings

    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    with override_settings(INSTALLED_APPS=["shop"]):
        names: dict[str, Any] = {"__name__": "shop.models", "query": base[3]}
        nearest = run(python("Django")[0], names)
        with database.schema_editor() as editor:
            editor.create_model(names["Doc"])
        names["Doc"].objects.bulk_create([names["Doc"](embedding=row, original=row) for row in base[:40]])
        found = list(nearest)
        assert len(found) == 10
        assert found[0].id == 4  # Django's ids begin at 1
        run(python("Django")[1], names)
        key, distance = capsys.readouterr().out.splitlines()[0].split()
        assert (int(key), float(distance)) == (4, pytest.approx(0, abs=1e-3))
    sys.modules.pop("shop", None)


def test_the_section_on_a_column_that_exists(folder: Path, address: str, uncompressed: Any) -> None:
    ((_, command),) = SECTIONS["Migrate a column that exists"]
    words = shlex.split(command.replace("\\\n", " ").replace("postgresql://localhost/app", address))
    assert words[0] == "vaecodec"
    with pytest.raises(SystemExit, match="0"):
        main(words[1:])
    columns = {column.name for column in uncompressed.execute("SELECT * FROM docs LIMIT 0").description}
    assert columns == {"id", "body", "embedding", "embedding_uncompressed"}
    assert uncompressed.execute("SELECT pg_typeof(embedding)::text FROM docs LIMIT 1").fetchone() == ("halfvec",)


def test_the_section_on_a_change_of_the_model(
    folder: Path, uncompressed: Any, base: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = np.roll(base, 7, axis=1)[:, :300]
    Merger.fit(Embedded(base, turned)).save("merger.npz")
    fill, search, groups, before, switch = python("A change of the embedding model")
    names: dict[str, Any] = {
        "connection": uncompressed,
        "new_model": lambda texts: turned[[int(text.split()[-1]) if text != "width" else 0 for text in texts]],
        "old_query": base[11],
        "new_query": turned[11],
    }
    names |= {"questions": ["text 3", "text 8"], "answers": [[3], [8]], "old_model": lambda texts: base[[3, 8]]}
    run(fill.replace("500", "100_000"), names)
    assert capsys.readouterr().out == "200 texts embedded, 0 left\n"
    uncompressed.execute("UPDATE docs SET embedding_new = NULL WHERE id >= 100")
    run(search, names)
    assert capsys.readouterr().out.split()[0] == "11"
    uncompressed.execute("ALTER TABLE docs ADD COLUMN author text")
    uncompressed.execute("UPDATE docs SET author = 'author ' || id / 4")
    run(groups, names)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 5
    assert shown[0].startswith("author 2 [11, ")
    run(before, names)
    assert capsys.readouterr().out.startswith("200 texts, 0.0 hours, nDCG@10 ")
    names["reembed_column"](uncompressed, names["job"])
    run(switch, names)
    assert uncompressed.execute("SELECT vector_dims(embedding) FROM docs LIMIT 1").fetchone() == (300,)
