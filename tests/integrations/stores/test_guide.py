"""Test that what docs/stores.md prints runs on the real engines, with a model of words for one that is downloaded."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integrations.stores.words import embed

from vaecodec import Codec

BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (Path(__file__).parents[3] / "docs" / "stores.md").read_text(), re.DOTALL | re.MULTILINE
)

pytestmark = pytest.mark.filterwarnings("ignore")  # what the engines warn of is theirs


@pytest.fixture
def codec(svd_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Codec:
    """Go to a folder with the codec file that the guide names."""
    shutil.copy(svd_path, tmp_path / "vae128.onnx")
    monkeypatch.chdir(tmp_path)
    return Codec.load("vae128.onnx")


def run(block: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(block, "docs/stores.md", "exec", dont_inherit=True), names)
    return names


def test_every_block_is_run() -> None:
    assert [re.findall("lancedb|chroma", block)[0] for block in BLOCKS] == ["lancedb", "chroma", "lancedb"]


def test_vectors_in_and_out(codec: Codec, sample: Any) -> None:
    pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    base = sample.base[:200]
    names = run(BLOCKS[0], {"ids": range(200), "embeddings": base, "queries": base[10:13]})
    assert [hits[0].key for hits in names["hits"]] == [10, 11, 12]
    assert {len(hits) for hits in names["hits"]} == {10}
    np.testing.assert_allclose(names["vectors"], codec.decode(codec.encode(base[[3, 5]])), atol=1e-4)
    assert len(names["store"]) == 199


def test_texts_in_chroma(codec: Codec, words_of_chroma: Any) -> None:
    import chromadb

    client = chromadb.EphemeralClient(chromadb.config.Settings(anonymized_telemetry=False))
    block = BLOCKS[1].replace("DefaultEmbeddingFunction()", "words")
    assert "words" in block
    names = run(block, {"client": client, "words": words_of_chroma})
    assert names["found"]["ids"] == [["1"]]
    stored = names["collection"].get(ids=["1"], include=["embeddings"])["embeddings"]
    np.testing.assert_allclose(stored, codec.encode(embed(["how to mount a disk"])), atol=1e-6)


def test_texts_in_lancedb(codec: Codec, words_of_lancedb: Any) -> None:
    import lancedb

    block = BLOCKS[2].replace('model="sentence-transformers"', 'model="words"')
    assert 'model="words"' in block
    names = run(block, {"database": lancedb.connect("lance")})
    (found,) = names["found"]
    assert found["text"] == "how to mount a disk"
    np.testing.assert_allclose(found["latent"], codec.encode(embed(["how to mount a disk"]))[0], atol=1e-6)
