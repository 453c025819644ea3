"""Test that the examples in the docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

from vaecodec.errors import MissingExtraError

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT / folder).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("codec", "training", "exporters", "integrations")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, documented_folder, monkeypatch):
    monkeypatch.chdir(documented_folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries say while they are imported
        try:
            module = importlib.import_module(name)
        except MissingExtraError as error:
            pytest.skip(str(error))
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0  # the difference is on stdout


def test_every_example_is_run():
    assert {"vaecodec.codec", "vaecodec.packed_index.index", "vaecodec_integrations.qdrant.client"} <= set(MODULES)
    skipped = [path.name for path in ROOT.glob("*/vaecodec*/**/*.py") if "doctest: +SKIP" in path.read_text()]
    assert skipped == []
