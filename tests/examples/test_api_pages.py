"""Test that the API pages name every class that a reader of them meets."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("codec", "training", "exporters", "integrations")
LISTED = {
    name: page.name
    for page in ROOT.glob("docs/api/*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
}
SHORT = {name.rpartition(".")[2] for name in LISTED}
# Named in signatures that only the library itself calls; what a reader writes or gets is never among them.
INTERNAL = {"Call", "Conversion", "Entry", "Flows", "Header", "KeptOriginals", "Layout", "Owner", "RowEncoding"}
INTERNAL |= {"Runtime", "Shard", "ShardActor", "Staged"}
# Type aliases, and a class of torch, that share their name with such a class.
INTERNAL |= {"Provider", "Rows", "Tensor"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the library by its name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT / package).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text())
    return found


@cache
def definitions() -> dict[str, list[tuple[str, ast.stmt]]]:
    """Return the classes and functions of the library by their short name, each with its module."""
    found: dict[str, list[tuple[str, ast.stmt]]] = {}
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.setdefault(node.name, []).append((module, node))
    return found


def defined(name: str) -> list[ast.stmt]:
    """Return the definitions that a listed name may stand for: it may be imported from where it is defined."""
    module, _, short = name.rpartition(".")
    known = definitions().get(short, [])
    return [node for where, node in known if where.startswith(module)] or [node for _, node in known]


def on_no_page(names: set[str]) -> set[str]:
    """Return those of the names that are classes of the library and on no page, neither alone nor with their module."""
    return {
        name
        for name in names - SHORT - INTERNAL
        for module, node in definitions().get(name, [])[:1]
        if isinstance(node, ast.ClassDef) and module not in LISTED
    }


def written_types(node: ast.stmt) -> list[ast.expr]:
    """Return the annotations of a function, or of a class's fields and public methods."""
    if isinstance(node, ast.ClassDef):
        return [annotation for member in node.body for annotation in written_types(member)]
    if isinstance(node, ast.AnnAssign):
        return [] if isinstance(node.target, ast.Name) and node.target.id.startswith("_") else [node.annotation]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or re.match(r"_(?!_init__)", node.name):
        return []
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [each for each in (*(argument.annotation for argument in arguments), node.returns) if each is not None]


def test_every_class_in_a_listed_signature_is_listed() -> None:
    met = set()
    for name in LISTED:
        for node in defined(name):
            for annotation in written_types(node):
                met |= {each.id for each in ast.walk(annotation) if isinstance(each, ast.Name)}
    public = {name for name in met if not name.startswith("_")}
    assert len(public & SHORT) > 50
    assert on_no_page(public) == set()


def test_every_class_that_a_package_exports_is_listed() -> None:
    exported: set[str] = set()
    for tree in modules().values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                exported |= set(ast.literal_eval(node.value))
    assert len(exported & SHORT) > 40
    assert on_no_page(exported) == set()
