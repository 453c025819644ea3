"""Test that the notebooks run from top to bottom in a fresh kernel and reach the conclusions in their text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"

# What jupyter's own sockets and event loops leave to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")


def printed(name: str) -> str:
    """Return everything that the notebook prints."""
    notebook: Any = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def test_the_learned_codec_is_judged_at_two_depths():
    text = printed("train_and_judge.ipynb")
    for depth in (10, 100):
        order = re.findall(rf"^(\S+) +recall@{depth} ", text, re.M)
        assert order[0].startswith("truncation")
        assert order[-1] == "learned"
    assert len(re.findall(r"^recall@10+, learned - (?:pca|svd)\S*: \+0\.\d+ \[\+", text, re.M)) == 2
    assert "verdict: ship the learned codec" in text
    # What the text says of the rows that training held out.
    assert re.search(r"BelowBaselineWarning: the codec loses recall@100 to svd-dot", text)
    assert "9,216,000 bytes of vectors, 1,536,000 bytes of latents" in text


def test_trellis_codes_lead_at_equal_bytes_and_re_ranking_pays():
    text = printed("bytes_and_rerank.ipynb")
    names = re.findall(r"^(\w+) +0\.\d+", text, re.M)
    assert names[0] == "trellis"
    assert names[-1] == "float32"
    reached = [float(value) for value in re.findall(r"x: recall@10 (0\.\d+)", text)]
    assert reached == sorted(reached)
    assert reached[2] > 0.9


def test_notebooks_opened_elsewhere_fetch_the_sample_once(tmp_path):
    repository = NOTEBOOKS.parents[1]
    if not (repository / ".git").exists():
        pytest.skip("the tests do not run in a git repository")
    # git takes this repository in the place of the public one.
    here = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf"}
    here["GIT_CONFIG_VALUE_0"] = "https://github.com/vaecodec/vaecodec"
    for name in ("train_and_judge.ipynb", "bytes_and_rerank.ipynb"):
        cells = nbformat.read(NOTEBOOKS / name, as_version=4).cells
        first = next(cell.source for cell in cells if cell.cell_type == "code")
        ran = subprocess.run(
            [sys.executable, "-c", first], cwd=tmp_path, env=os.environ | here, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert (tmp_path / "vaecodec" / "examples" / "debian-sample" / "train.npy").is_file()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
