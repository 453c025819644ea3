"""Test what the packages may import, what the base install needs, and what the public surface is."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vaecodec
from vaecodec import errors

ROOT = Path(__file__).parents[2]
SIBLINGS = {"vaecodec", "vaecodec_training", "vaecodec_exporters", "vaecodec_integrations", "vaecodec_cli"}

# Which other packages each may import at the top of a module; what an extra installs is imported inside functions.
ALLOWED = {
    "codec/vaecodec": {"numpy", "onnxruntime", "filelock"},
    "training/vaecodec_training": {"vaecodec", "numpy", "torch", "lightning_fabric", "safetensors", "tomli_w"},
    "exporters/vaecodec_exporters": {"vaecodec", "vaecodec_training", "numpy", "onnx", "onnxruntime", "torch"},
    "integrations/vaecodec_integrations": {"vaecodec", "vaecodec_training", "vaecodec_exporters", "numpy"},
    "cli/vaecodec_cli": {*SIBLINGS, "numpy", "typer", "rich"},
}
# Files that wrap one engine's library each, and may import it at the top.
ENGINES = {
    "integrations/vaecodec_integrations/hnsw": {"hnswlib"},
    "integrations/vaecodec_integrations/langchain.py": {"langchain_core"},
    "integrations/vaecodec_integrations/llama_index.py": {"llama_index"},
    "integrations/vaecodec_integrations/postgres": {"pgvector", "psycopg", "sqlalchemy", "django"},
    "integrations/vaecodec_integrations/qdrant": {"qdrant_client", "grpc", "pydantic"},
    "integrations/vaecodec_integrations/sentence_transformers.py": {"sentence_transformers", "torch"},
    "integrations/vaecodec_integrations/sklearn.py": {"sklearn"},
    "integrations/vaecodec_integrations/stores/chroma_embedding.py": {"chromadb"},
    "integrations/vaecodec_integrations/stores/lancedb_embedding.py": {"lancedb", "pydantic"},
    "codec/vaecodec/codes/kernels.py": {"numba"},
    "codec/vaecodec/packed_index/kernels.py": {"numba"},
}


def imported(tree: ast.AST, *, top_only: bool) -> set[str]:
    nodes = ast.iter_child_nodes(tree) if top_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names)


def modules() -> list[tuple[str, Path]]:
    return [(package, path) for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda value: getattr(value, "name", value))
def test_a_module_imports_only_what_its_package_may(package: str, path: Path) -> None:
    tree = ast.parse(path.read_text())
    own = {Path(package).name}
    allowed = ALLOWED[package] | own
    relative = path.relative_to(ROOT).as_posix()
    for prefix, libraries in ENGINES.items():
        if relative.startswith(prefix):
            allowed |= libraries
    assert imported(tree, top_only=True) <= allowed
    # Inside functions any optional library may appear, but never a package higher up.
    assert imported(tree, top_only=False) & SIBLINGS <= allowed


# What may be longer than others, and why.
EXCEPTIONS = {
    "integrations/vaecodec_integrations/qdrant/flows/searches.py:query_points": "mirrors Qdrant's method",
    "integrations/vaecodec_integrations/qdrant/flows/searches.py:query_points_groups": "mirrors Qdrant's method",
    "integrations/vaecodec_integrations/qdrant/queries.py:of": "what these two methods take",
}
# Compiled code takes arrays, and no structures of them.
COMPILED = "kernels.py"
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 500, 60, 8


def too_long(path: str, text: str) -> set[str]:
    """Return the file if it is too long, and its functions that are too long or take too many arguments. Docstrings are
    not counted.
    """
    found = {path} if text.count("\n") > 1.1 * MOST_LINES else set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        described = len((ast.get_docstring(node, clean=False) or "").splitlines())
        lines = (node.end_lineno or 0) - node.lineno + 1 - described
        names = [one.arg for one in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
        if lines > 1.1 * MOST_FUNCTION_LINES or len(set(names) - {"self", "cls"}) > MOST_PARAMETERS:
            found.add(f"{path}:{node.name}")
    return found


def test_no_file_and_no_function_is_too_long_or_takes_too_much() -> None:
    files = [path for folder in (*ALLOWED, "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    files = [path for path in files if not path.name.endswith(COMPILED)]
    assert len(files) > 200
    found = {entry for path in files for entry in too_long(path.relative_to(ROOT).as_posix(), path.read_text())}
    assert found == EXCEPTIONS.keys()


def test_what_is_too_long_is_found() -> None:
    body = "    x = 1\n" * 70
    assert too_long("a.py", f"def f():\n{body}") == {"a.py:f"}
    assert too_long("a.py", f'def f():\n    """{body}"""\n    x = 1\n') == set()
    assert too_long("a.py", "def f(self, a, b, c, d, e, f, g, h): ...") == set()
    assert too_long("a.py", "async def f(a, b, c, d, *, e, f, g, h, i): ...") == {"a.py:f"}
    assert too_long("a.py", "\n" * 551) == {"a.py"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_runtime_loads_and_encodes_without_torch_or_onnx(svd_path: Path) -> None:
    run(
        "import sys\n"
        "for name in ('torch', 'onnx', 'numba', 'typer', 'rich', 'h5py', 'pyarrow'): sys.modules[name] = None\n"
        "import numpy, vaecodec\n"
        f"codec = vaecodec.Codec.load({str(svd_path)!r})\n"
        "assert codec.encode(numpy.ones((2, 384))).shape == (2, 64)\n"
        "import vaecodec_training, vaecodec_exporters\n"
    )


def test_importing_the_runtime_pulls_in_nothing_large() -> None:
    code = (
        "import sys\n"
        "import vaecodec\n"
        "print(*{'torch', 'onnx', 'numba', 'typer', 'scipy', 'pandas', 'pyarrow', 'h5py'} & set(sys.modules))\n"
    )
    assert run(code).split() == []


def test_a_missing_command_line_extra_answers_with_its_install_command() -> None:
    code = "import sys; sys.modules['typer'] = None; from vaecodec_cli.main import main; main(['info', 'x'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: typer is not installed; install it with: pip install 'vaecodec[cli]'\n"


def module_name(package: str, path: Path) -> str:
    parts = path.relative_to(ROOT / Path(package).parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(package, path): path for package, path in modules()}


def imports_among(name: str, path: Path) -> set[str]:
    """Return our modules that a module names anywhere: at the top, inside functions, or for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
    return (found & MODULES.keys()) - {name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import one another in a circle, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {name: imports_among(name, path) for name, path in MODULES.items()}
    assert len(graph) > 100
    assert "vaecodec.codec" in graph["vaecodec"]
    assert circle(graph) == []
    assert circle({**graph, "vaecodec.errors": {"vaecodec.codec"}}) != []


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(
        "if TYPE_CHECKING:\n    from vaecodec import bulk\n"
        "def late():\n    import vaecodec.codec\n    from vaecodec.errors import VaecodecError\n"
    )
    expected = {"vaecodec.bulk", "vaecodec.codec", "vaecodec.errors"}
    assert imports_among("some", tmp_path / "some.py") == expected


def public_names(path: Path) -> set[str]:
    """Return our names that the top of a package's ``__init__`` imports, also for type checkers, or defines, except
    private ones.
    """
    names: set[str] = set()
    body = ast.parse(path.read_text()).body
    for node in [*body, *(one for block in body if isinstance(block, ast.If) for one in block.body)]:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in SIBLINGS:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(name for name, path in MODULES.items() if path.name == "__init__.py"))
def test_a_package_lists_what_it_offers(name: str) -> None:
    if name.split(".")[0] in ("vaecodec_training", "vaecodec_exporters"):
        pytest.importorskip("torch", reason="torch is not installed: pip install 'vaecodec[train]'")
    module = importlib.import_module(name)
    offered = list(getattr(module, "__all__", []))
    assert sorted(set(offered)) == sorted(offered)
    assert [entry for entry in offered if not hasattr(module, entry)] == []
    if name in SIBLINGS:
        assert offered == sorted(offered)
        assert set(offered) == public_names(MODULES[name])


def test_the_runtime_offers_what_the_guides_import() -> None:
    assert {"Codec", "LinearCodec", "Metric", "VaecodecError", "fit_linear"} <= set(vaecodec.__all__)


def drawn(tree: str) -> dict[str, tuple[str, set[str]]]:
    """Return each class in the drawing with its parent there and with the built-in classes in brackets."""
    found: dict[str, tuple[str, set[str]]] = {}
    above: dict[int, str] = {}
    for line in tree.splitlines():
        matched = re.match(r"( {4}[ │├└─]*)(\w+(?:Error|Warning)) *(?:\((\w+)\))?", line)
        if matched:
            depth = len(matched[1])
            above = {level: name for level, name in above.items() if level < depth}
            found[matched[2]] = (above[max(above)] if above else "", {matched[3]} - {None})
            above[depth] = matched[2]
    return found


def test_the_drawing_of_all_errors_is_what_they_are() -> None:
    assert errors.__doc__ is not None
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    bases = {name: {base.__name__ for base in value.__bases__} for name, value in classes.items()}
    ours = {name: (next(iter(names & classes.keys()), ""), names - classes.keys()) for name, names in bases.items()}
    ours["VaecodecError"] = ("", set())
    assert drawn(errors.__doc__) == ours
    assert len(ours) > 30


def test_a_drawing_that_is_wrong_is_noticed() -> None:
    tree = "    AError\n    ├── BError     (ValueError) x\n    │   └── CError  y\n    └── DWarning (UserWarning) z\n"
    assert drawn(tree) == {
        "AError": ("", set()),
        "BError": ("AError", {"ValueError"}),
        "CError": ("BError", set()),
        "DWarning": ("AError", {"UserWarning"}),
    }


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert vaecodec.__version__ == version("vaecodec")


# With these begin descriptions that have no verb.
NO_VERB = {"A", "An", "All", "As", "Each", "Every", "How", "None", "Of", "One", "Some", "The", "Those", "What"} | {
    "Where",
    "Whether",
    "Which",
}


def first_words(text: str) -> dict[str, str]:
    """Return the first word of each docstring by the name of what it describes; those of errors state what is wrong."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name, described = getattr(node, "name", "module"), ast.get_docstring(node)
            if described and not name.endswith(("Error", "Warning")):
                found[name] = described.split()[0]
    return found


@pytest.mark.parametrize("folder", [*ALLOWED, "benchmarks", "examples"])
def test_docstrings_begin_with_a_verb(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        (path.name, name) for path in files for name, word in first_words(path.read_text()).items() if word in NO_VERB
    ]
    assert wrong == []


# What opens files and servers: library functions do that, so that one call from Python does what a command does.
OPENERS = {"open_source", "open_client", "QdrantClient", "connect", "Collection", "load_checkpoint", "export_linear"}


def test_commands_open_no_sources_and_no_servers() -> None:
    package = ROOT / "cli" / "vaecodec_cli"
    named = {
        (path.name, node.id)
        for path in package.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in OPENERS
    }
    # The type of an option of `migrate`, and of what is shown of the data.
    assert named == {("migrate.py", "Collection"), ("rollback.py", "Collection"), ("server.py", "Collection")} | {
        ("console.py", "Collection")
    }
