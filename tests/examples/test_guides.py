"""Test that Python in the guides runs unchanged, page by page, and that links work on GitHub. The site's build checks
its own.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import Codec
from vaecodec_cli.main import main

ROOT = Path(__file__).parents[2]
# docs/ecosystem.md has a test of its own.
_NAMES = (
    "index",
    "hnswlib",
    "hub",
    "codes",
    "format",
    "drift",
    "qdrant",
    "report",
    "plan",
    "bridge",
    "change-of-model",
    "training",
)
GUIDES = ["README.md", *(f"docs/{name}.md" for name in _NAMES)]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/guides/*.md"), *ROOT.glob("examples/*/*.md")]


@pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
# The rows are few, and a codec trained on them is no better than the linear one.
@pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BelowBaselineWarning")
@pytest.mark.parametrize("guide", GUIDES)
def test_the_examples_of_a_guide_run(
    guide, sample, codec_path, wide_codec_path, originals_codec_path, tmp_path, monkeypatch, request
):
    pytest.importorskip("numba")
    pytest.importorskip("hnswlib")
    pytest.importorskip("qdrant_client")
    for name in ("vae128.onnx", "vae.onnx", "codec.onnx", "new.onnx"):
        shutil.copy(wide_codec_path, tmp_path / name)
    shutil.copy(originals_codec_path, tmp_path)
    for name in ("embeddings", "base", "docs"):
        np.save(tmp_path / f"{name}.npy", sample.base[:500])
    np.save(tmp_path / "train.npy", sample.train[:1_000])
    np.save(tmp_path / "queries.npy", sample.queries[:100])
    monkeypatch.chdir(tmp_path)
    if guide == "docs/bridge.md":
        what_an_old_codec_left(codec_path, sample.base)
    names: dict[str, Any] = {
        "embeddings": sample.base[:500],
        "query_embeddings": sample.queries[:20],
        "queries": sample.queries[:20],
        "query": sample.queries[0],
        "query_embedding": sample.queries[0],
        "payloads": [{"row": row} for row in range(500)],
        "ids": list(range(500)),
    }
    if guide == "docs/bridge.md":
        monkeypatch.setattr("vaecodec_training.maps._STEPS", 2)
        turned = np.roll(sample.base[:1_000], 7, axis=1)
        names |= {"old_rows": sample.base[:1_000], "new_rows": turned}
        names |= {"old_asked": sample.base[:100], "new_asked": turned[:100]}
    if guide == "docs/change-of-model.md":
        names |= request.getfixturevalue("two_models")
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / guide).read_text(), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        exec(compile(example.replace("http://localhost:6333", ":memory:"), guide, "exec"), names)
    for value in names.values():
        if type(value).__name__ == "OriginalsFile":
            value.close()


def what_an_old_codec_left(codec_path: Path, vectors: np.ndarray) -> None:
    """Write the files that the guide to bridges opens: an index that ``old.onnx`` filled, and a bridge."""
    from vaecodec_integrations.hnsw import CompressedIndex

    shutil.copy(codec_path, "old.onnx")
    np.save("X.npy", vectors)
    index = CompressedIndex("cosine", vectors.shape[1], Codec.load("old.onnx"))
    index.init_index(100)
    index.add_items(vectors[:100])
    index.save_index("old.index")
    with pytest.raises(SystemExit, match="0"):
        main(["bridge", "old.onnx", "new.onnx", "--sample", "X.npy", "--out", "bridge.onnx"])


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Return the addresses of a page's links."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


def test_pages_are_linked_to_each_other():
    assert sum(len(links(page)) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
