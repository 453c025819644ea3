"""Python in the guides runs as it stands, page by page, and links hold on GitHub. The site's build checks its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
# docs/ecosystem.md has a test of its own.
GUIDES = [
    "README.md",
    "docs/index.md",
    "docs/hnswlib.md",
    "docs/codes.md",
    "docs/format.md",
    "docs/drift.md",
    "docs/qdrant.md",
]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")]


@pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
@pytest.mark.parametrize("guide", GUIDES)
def test_the_examples_of_a_guide_run(guide, sample, wide_codec_path, originals_codec_path, tmp_path, monkeypatch):
    pytest.importorskip("numba")
    pytest.importorskip("hnswlib")
    pytest.importorskip("qdrant_client")
    for name in ("vae128.onnx", "vae.onnx", "codec.onnx"):
        shutil.copy(wide_codec_path, tmp_path / name)
    shutil.copy(originals_codec_path, tmp_path)
    np.save(tmp_path / "embeddings.npy", sample.base[:500])
    monkeypatch.chdir(tmp_path)
    names = {
        "embeddings": sample.base[:500],
        "query_embeddings": sample.queries[:20],
        "queries": sample.queries[:20],
        "query": sample.queries[0],
        "query_embedding": sample.queries[0],
        "payloads": [{"row": row} for row in range(500)],
        "ids": list(range(500)),
    }
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / guide).read_text(), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        exec(compile(example.replace("http://localhost:6333", ":memory:"), guide, "exec"), names)
    for value in names.values():
        if type(value).__name__ == "OriginalsFile":
            value.close()


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
