"""What the packages may import, what the base install needs, and what the public surface is."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import vaecodec

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
    "integrations/vaecodec_integrations/hnsw.py": {"hnswlib"},
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


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_runtime_loads_and_encodes_without_torch_or_onnx(svd_path: Path) -> None:
    run(
        "import sys\n"
        "for name in ('torch', 'onnx', 'numba', 'typer', 'rich', 'h5py', 'pyarrow'): sys.modules[name] = None\n"
        "import numpy, vaecodec\n"
        f"codec = vaecodec.Codec.load({str(svd_path)!r})\n"
        "assert codec.encode(numpy.ones((2, 384))).shape == (2, 64)\n"
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


@pytest.mark.parametrize("name", sorted(SIBLINGS))
def test_public_names_are_sorted_and_importable(name: str) -> None:
    module = importlib.import_module(name)
    public = list(getattr(module, "__all__", []))
    assert public == sorted(public)
    assert all(hasattr(module, entry) for entry in public)


def test_every_error_is_in_the_tree_of_the_module_docstring() -> None:
    from vaecodec import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert errors.__doc__ is not None
    assert classes == {word for word in errors.__doc__.replace("─", " ").split() if word in classes}


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert vaecodec.__version__ == version("vaecodec")
