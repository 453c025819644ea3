"""Test results of two embedding models merged on one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vaecodec.errors import MalformedSourceError, UnusableDataError
from vaecodec.evaluation import exact_search, ndcg
from vaecodec.interface import Metric
from vaecodec.two_models.merging import Embedded, Merger, Scale

SHARES = (0.25, 0.5, 0.75)


def embedded(rows: int, noise: float, seed: int, texts: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Embed texts: a rotation of their meaning, noise, and a common direction that raises all cosines."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(texts.shape[1], texts.shape[1])))[0]
    vectors = texts @ rotation + noise * random.normal(size=texts.shape)
    vectors[:, 0] += shift
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def texts() -> tuple[Embedded, Embedded, np.ndarray]:
    """Return 1,500 documents and 200 queries about 200 of them, by a model and by a better one with larger cosines."""
    random = np.random.default_rng(0)
    meanings = random.normal(size=(1500, 24))
    relevant = random.choice(1500, 200, replace=False)
    both = np.concatenate([meanings, meanings[relevant] + 0.3 * random.normal(size=(200, 24))])
    old, new = embedded(1700, 0.7, 1, both), embedded(1700, 0.4, 2, both, shift=6.0)
    return Embedded(old[:1500], new[:1500]), Embedded(old[1500:], new[1500:]), relevant


def quality(documents: np.ndarray, queries: np.ndarray, relevant: np.ndarray) -> float:
    return float(ndcg(exact_search(documents, queries, 10, Metric.COSINE)[0], relevant, 10).mean())


def test_the_best_scale_is_chosen_and_stays_near_the_line_between_the_models(
    texts: tuple[Embedded, Embedded, np.ndarray],
) -> None:
    documents, queries, relevant = texts
    merger = Merger.fit(documents, queries, relevant)
    assert merger.figures[merger.scale] == max(merger.figures.values())
    assert merger.scale is not Scale.RAW, "the new model's cosines are all larger"
    old, new = (quality(rows, asked, relevant) for rows, asked in zip(documents, queries, strict=True))
    assert new > old + 0.05
    for share in SHARES:
        merged = np.mean([merger.judge(documents, queries, relevant, share, seed=s).mean() for s in range(3)])
        assert merged > old + share * (new - old) - 0.03
    assert merger.judge(documents, queries, relevant, 0.0).mean() == pytest.approx(old)
    assert merger.judge(documents, queries, relevant, 1.0).mean() == pytest.approx(new)


def test_without_answers_what_the_new_model_finds_first_is_the_answer(
    texts: tuple[Embedded, Embedded, np.ndarray],
) -> None:
    documents, queries, _ = texts
    merger = Merger.fit(documents, queries)
    assert merger.scale is Scale.BEST
    assert set(Merger.fit(documents).figures) == set(merger.figures) == set(Scale)
    assert merger.judge(documents, queries, None, 1.0).mean() == 1


def test_equal_models_are_merged_as_one(texts: tuple[Embedded, Embedded, np.ndarray]) -> None:
    documents, queries, relevant = texts
    same, asked = Embedded(documents.new, documents.new), Embedded(queries.new, queries.new)
    merger = Merger.fit(same, asked, relevant)
    np.testing.assert_array_equal(
        merger.search(same, asked, np.arange(1500) % 2 == 0, 10),
        exact_search(documents.new, queries.new, 10, Metric.COSINE)[0],
    )


@pytest.mark.parametrize("scale", list(Scale))
def test_scales_keep_the_order_of_each_models_results(
    texts: tuple[Embedded, Embedded, np.ndarray], scale: Scale, tmp_path: Path
) -> None:
    documents, queries, relevant = texts
    fitted = Merger.fit(documents, queries, relevant)
    merger = Merger(scale, fitted.reference, fitted.metrics, fitted.quantiles, fitted.figures)
    scores = np.linspace(-0.9, 0.999, 50, dtype=np.float32)[None].repeat(2, 0)
    for scaled in (merger.old(queries.old[:2], scores), merger.new(queries.new[:2], scores)):
        assert (np.diff(scaled, axis=1) > 0).all()
    merger.save(tmp_path / "merger.npz")
    again = Merger.load(tmp_path / "merger.npz")
    assert (again.scale, again.metrics, again.figures) == (merger.scale, merger.metrics, merger.figures)
    np.testing.assert_array_equal(again.old(queries.old[:2], scores), merger.old(queries.old[:2], scores))


def test_too_little_and_unequal_data_is_refused(texts: tuple[Embedded, Embedded, np.ndarray]) -> None:
    documents, queries, _ = texts
    with pytest.raises(UnusableDataError, match="at least 500 texts embedded by both models, got 99"):
        Merger.fit(documents.rows(np.arange(99)))
    with pytest.raises(UnusableDataError, match="queries: expected the same texts by both models, got 200 and 7 rows"):
        Merger.fit(documents, Embedded(queries.old, queries.new[:7]))


def test_damaged_files_are_refused(texts: tuple[Embedded, Embedded, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "merger.npz"
    Merger.fit(texts[0]).save(path)
    whole = path.read_bytes()
    for content in (b"", b"something else", whole[:-50], whole.replace(b'"format_version": 1', b'"format_version": 7')):
        path.write_bytes(content)
        with pytest.raises(MalformedSourceError, match=r"merger\.npz: expected a merger"):
            Merger.load(path)
