"""Measure our codes in mteb's unchanged retrieval evaluation: a local task, and an index behind its encoder.

    python benchmarks/harness/mteb_retrieval.py --codec CODEC.onnx --out benchmarks/harness/results

The task is the collection that all benchmarks use. Its embeddings are stored, so the "model" looks them up by the
number that stands for a text. mteb searches, scores and reports; ours is the index, by mteb's protocol for indexes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SearchEncoderWrapper
from mteb.models.model_meta import ModelMeta, ScoringFunction

from vaecodec import Codec
from vaecodec.packed_index import PackedIndex

sys.path.append(str(Path(__file__).parents[1]))
from embeddings import DATA, load, load_relevant

SIZES = (8, 16, 24, 32, 48, 64, 96)
KINDS = ("base", "queries")


class DebianDescriptions(AbsTaskRetrieval):
    """Find a package's long description by its synopsis."""

    k_values = (1, 10, 100)
    metadata = TaskMetadata(
        name="DebianDescriptions",
        description="Find the long description of a Debian package by its one-line synopsis.",
        reference=None,
        dataset={"path": "local/debian-minilm", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )

    folder = DATA

    def load_data(self, *_: Any, **__: Any) -> None:
        """Use numbers in the place of texts."""
        rows = [len(rows) for rows in load(self.folder, *KINDS)]
        base, queries = (
            Dataset.from_dict({"id": [f"{kind}-{i}" for i in range(n)], "text": [f"{kind} {i}" for i in range(n)]})
            for kind, n in zip(KINDS, rows, strict=True)
        )
        relevant = {f"queries-{i}": {f"base-{row}": 1} for i, row in enumerate(load_relevant(self.folder))}
        split = {"corpus": base, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class StoredEmbeddings:
    """Look up what was embedded before, as an encoder."""

    mteb_model_meta = ModelMeta.create_empty(
        overwrites={
            "name": "local/all-MiniLM-L6-v2-stored",
            "revision": "1",
            "embed_dim": 384,
            "similarity_fn_name": ScoringFunction.COSINE,
        }
    )

    def __init__(self, folder: Path) -> None:
        self._rows = dict(zip(KINDS, load(folder, *KINDS), strict=True))

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Return the rows that the texts number: float32 (n, dim)."""
        named = [text.split() for batch in inputs for text in batch["text"]]
        return np.stack([self._rows[kind][int(number)] for kind, number in named])

    def similarity(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the cosines of rows of unit norm."""
        return np.asarray(first) @ np.asarray(second).T

    def similarity_pairwise(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the cosines of corresponding rows."""
        return np.einsum("ij,ij->i", first, second)


class PackedBackend:
    """Offer a ``PackedIndex`` by mteb's protocol for indexes."""

    def __init__(self, codec: Codec, size: int) -> None:
        self._codec, self._size = codec, size
        self.clear()

    def clear(self) -> None:
        """Forget all documents."""
        self._index = PackedIndex(self._codec, bytes=self._size)

    def add_documents(self, embeddings: np.ndarray, idxs: list[str]) -> None:  # noqa: ARG002
        """Add documents; mteb wants the numbers in the order of adding back."""
        self._index.add(np.asarray(embeddings))

    def search(
        self,
        embeddings: np.ndarray,
        top_k: int,
        similarity_fn: Callable[..., Any],  # noqa: ARG002
        **_: Any,
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Return scores and numbers of the best documents."""
        ids, scores = self._index.search(np.asarray(embeddings), top_k)
        return scores.tolist(), ids.tolist()


def main() -> None:
    """Evaluate the vectors themselves, then codes of every size; write mteb's results and a table of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    codec, DebianDescriptions.folder = Codec.load(arguments.codec), arguments.data
    backends: dict[str, Any] = {"vectors": None}
    backends |= {f"{size} bytes": PackedBackend(codec, size) for size in SIZES}
    kept: dict[str, Any] = {"mteb": mteb.__version__, "task": DebianDescriptions.metadata.name}
    kept |= {"data": arguments.data.name, "results": {}}
    for name, backend in backends.items():
        model = SearchEncoderWrapper(StoredEmbeddings(arguments.data), index_backend=backend)
        found = mteb.evaluate(model, DebianDescriptions(), cache=None, co2_tracker=False, show_progress_bar=False)
        scores = found.task_results[0].scores["test"][0]
        chosen = {key: scores[key] for key in ("ndcg_at_10", "recall_at_10", "recall_at_100", "map_at_10", "mrr_at_10")}
        kept["results"][name] = chosen
        print(f"{name:9} " + "  ".join(f"{key} {value:.4f}" for key, value in chosen.items()), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "mteb.json").write_text(json.dumps(kept, indent=1) + "\n")
    keys = list(kept["results"]["vectors"])
    lines = ["| stored | " + " | ".join(keys) + " |", "|" + "---|" * (len(keys) + 1)]
    for name, scores in kept["results"].items():
        lines.append(f"| {name} | " + " | ".join(f"{scores[key]:.3f}" for key in keys) + " |")
    (arguments.out / "mteb.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
