"""Test that BitBudget measures our codecs and gets the same figures as our own evaluation."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vaecodec import Codec
from vaecodec.errors import InvalidBudgetError
from vaecodec.evaluation import exact_search, ndcg, recall

bitbudget = pytest.importorskip("bitbudget", reason="bitbudget is not installed: pip install bitbudget")
cli = pytest.importorskip("bitbudget.cli")
EXAMPLE = Path(__file__).parents[2] / "examples" / "bitbudget_codec.py"
register = runpy.run_path(str(EXAMPLE))["register"]


@pytest.fixture
def methods():
    """Yield BitBudget's registry, and restore it afterwards."""
    kept = dict(bitbudget.METHODS)
    yield bitbudget.METHODS
    bitbudget.METHODS.clear()
    bitbudget.METHODS.update(kept)


def test_its_figures_are_those_of_our_own_evaluation(methods, sample, vae_path):
    codec = Codec.load(vae_path)
    settings: dict[str, dict[str, Any]] = {"latents": {}, "int8": {"dtype": "int8"}, "binary": {"dtype": "binary"}}
    for name, setting in settings.items():
        register(f"vae, {name}", codec, **setting)
    base, queries, relevant = sample.base[:1_500], sample.queries[:60], sample.relevant[:60]
    judged = [{f"d{row}": 1} if row < 1_500 else {} for row in relevant.tolist()]

    rows = bitbudget.evaluate(
        base,
        queries,
        [f"d{row}" for row in range(1_500)],
        [f"q{row}" for row in range(60)],
        {f"q{row}": answers for row, answers in enumerate(judged) if answers},
        methods=["float32", *(f"vae, {name}" for name in settings)],
    )

    truth, _ = exact_search(base, queries, 10, codec.metric)
    answerable = [row for row, answers in enumerate(judged) if answers]
    assert len(answerable) > 10
    figures = {row["method"]: row for row in rows}
    assert [figures[f"vae, {name}"]["bytes"] for name in settings] == [256, 64, 8]
    for name, setting in settings.items():
        latents = codec.encode(base)
        if setting:
            code = codec.code(**setting)
            latents = code.decode(code.encode(latents))
        ids, _ = exact_search(latents, codec.encode_queries(queries), 10, codec.latent_metric)
        figure = figures[f"vae, {name}"]
        assert figure["recall"] == pytest.approx(recall(ids, truth, 10).mean(), abs=2e-3)
        ours = ndcg(ids[answerable], relevant[answerable], 10).mean()
        assert figure["ndcg"] == pytest.approx(ours, abs=2e-3)
    assert figures["float32"]["recall"] == 1
    assert figures["vae, latents"]["recall"] > figures["vae, binary"]["recall"]


def test_its_command_line_lists_the_method(methods, vae_path, capsys):
    register("vae, binary", Codec.load(vae_path, dim=32), dtype="binary")
    cli.main(["methods"])
    assert "  vae, binary      learned      1.0\n" in capsys.readouterr().out


def test_a_code_that_does_not_exist_is_not_registered(methods, vae_path):
    with pytest.raises(InvalidBudgetError, match="expected 8 to 40 for 64 latents, got 3"):
        register("vae, 3 bytes", Codec.load(vae_path), bytes=3)
    assert "vae, 3 bytes" not in methods


def test_the_example_measures_a_codec_beside_other_methods(codec_path):
    command = [sys.executable, EXAMPLE, codec_path, "--dtype", "int4"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = re.findall(r"^(.+?) +(\d+) bytes, recall@10 ([\d.]+), nDCG@10 [\d.]+$", finished.stdout, re.M)
    figures = {method: (int(size), float(recall)) for method, size, recall in found}
    assert set(figures) == {"float32", "pq", "codec", "codec, int4"}
    assert figures["float32"] == (1536, 1.0)
    assert (figures["codec"][0], figures["codec, int4"][0]) == (256, 32)
    assert figures["codec, int4"][1] <= figures["codec"][1] < 1
