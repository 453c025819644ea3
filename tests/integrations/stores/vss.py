"""Find DuckDB's extension vss, which its wheel carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def connect_with_vss(file: Path) -> Any:
    """Open a database that may hold HNSW indexes; skip the test where DuckDB or the extension is absent."""
    duckdb = pytest.importorskip("duckdb", reason="the extra duckdb is not installed")
    wheel = pytest.importorskip("duckdb_extension_vss", reason="the extension's wheel, duckdb-extension-vss, is absent")
    extension = Path(wheel.__file__).parent / "extensions" / f"v{duckdb.__version__}" / "vss.duckdb_extension"
    if not extension.exists():
        pytest.skip(f"duckdb-extension-vss is not for DuckDB {duckdb.__version__}")
    connection = duckdb.connect(str(file))
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET hnsw_enable_experimental_persistence = true")
    return connection
