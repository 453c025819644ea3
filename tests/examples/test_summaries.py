"""Test that the README and the pages about sizes say what benchmarks measured and the planner counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec.codes import CodeType
from vaecodec_integrations.plan.candidates import Setting
from vaecodec_integrations.plan.stores import STORES, StoreName

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

# Rows of the README's table -> the systems of docs/bytes/ of which the best is shown.
SYSTEMS = {
    "SVD, then one, two or four bits": r"SVD \d+ x (binary|int2|int4)",
    "ours, trained, for engines that quantise": r"uniform \d+ x .*",
    "trellis codes without training": r"SVD x trellis \(untrained\)|trellis alone",
    "ours, trained, trellis codes": "trellis",
}
RIVALS, STAGES = "strongest code of", "[stages]"


def tables(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_readme_is_short_and_shows_one_picture() -> None:
    assert len(README.splitlines()) < 120
    assert README.count("![") == 1


def measured(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((ROOT / "docs" / "bytes" / name).read_text())["rows"]
    return rows


def readme_row(start: str) -> dict[int, float]:
    """Return the figures of the row that starts like this, by bytes per vector."""
    (head,) = (cells for cells in tables(README) if cells[0].startswith("bytes per vector"))
    (shown,) = (cells for cells in tables(README) if cells[0].startswith(start))
    assert len(head) == len(shown) > 3
    return {int(size): float(cell.strip("*")) for size, cell in zip(head[1:], shown[1:], strict=True) if cell}


@pytest.mark.parametrize("row", SYSTEMS)
def test_the_readmes_table_is_what_the_benchmark_measured(row: str) -> None:
    kept = [entry for entry in measured("debian-minilm.json") if entry["part"] in ("peers", "uniform", "trellis")]
    kept += measured("debian-minilm-short.json")
    for size, figure in readme_row(row).items():
        of_size = (entry for entry in kept if entry["bytes"] == size)
        best = max(entry["recall"] for entry in of_size if re.fullmatch(SYSTEMS[row], entry["system"]))
        assert figure == pytest.approx(best, abs=0.00051), size


def test_no_rival_is_left_out_of_the_readmes_table() -> None:
    """Nothing of others finds more in as many bytes than a row that is shown, but Qdrant's two-stage searches."""
    others = [entry for entry in measured("debian-minilm.json") if entry["part"] in ("peers", "engines")]
    others = [entry for entry in others if "trellis" not in entry["system"]]
    bits, rivals = readme_row("SVD, then"), readme_row(RIVALS)
    assert len(bits) > 3
    for size in bits:
        found = max(entry["recall"] for entry in others if entry["bytes"] == size)
        assert found <= max(bits[size], rivals[size]) + 0.001, size


def test_the_readmes_table_of_short_codes_is_what_the_benchmark_measured() -> None:
    ours, rivals = readme_row(STAGES), readme_row(RIVALS)
    assert list(ours) == list(rivals) == [8, 16, 24, 32, 48, 64, 96]
    for size, own in ours.items():
        found = {row["system"]: row["recall"] for row in measured("debian-minilm-short.json") if row["bytes"] == size}
        assert own == pytest.approx(found.pop("stages and trellis"), abs=0.00051)
        del found["trellis alone"]
        assert rivals[size] == pytest.approx(max(found.values()), abs=0.00051)


def rows_under(page: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose first line starts like this."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith(head))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return tables("\n".join(lines[start + 2 : end]))


def figures(cell: str) -> list[float]:
    """Read ``**.594 / .562** (OPQ24)`` as .594 and .562."""
    return [float(figure) for figure in re.findall(r"(?<![\d.\[+-])\.\d{3}(?!\d)", cell)]


def test_figures_of_floats_are_what_the_contract_measured() -> None:
    content = json.loads((ROOT / "docs" / "contract" / "debian-minilm.json").read_text())
    found = {(row["dim"], row["figure"]): row for row in content["results"]}
    columns = ("recall@1", "recall@10", "recall@100", "kept@100", "ndcg@10")
    training, index = (
        rows_under(page, head) for page, head in (("training.md", "| collection | k | lat"), ("index.md", "| all-Mini"))
    )
    for number, width in enumerate((64, 128)):
        shown = {"recall@10": figures(index[number + 1][1]), "ndcg@10": figures(index[number + 1][2])}
        for name, (learned, linear) in shown.items():
            row = found[width, name]
            assert [learned, linear] == pytest.approx([row["learned"], row["learned"] - row["mean"]], abs=0.00051)
        assert training[number][1] == str(width)
        for cell, name in zip(training[number][3:], columns, strict=True):
            learned, gain = map(float, re.findall(r"[+-]?[\d.]+", cell))
            row = found[width, name]
            assert [learned, gain] == pytest.approx([row["learned"], row["mean"]], abs=0.00051), (width, name)
        assert all(f"{figure:.3f}".removeprefix("0") in README for figure in shown["recall@10"])

    content = json.loads((ROOT / "docs" / "contract" / "pypi-wordllama-dot.json").read_text())
    by_dot = {row["figure"]: [row["learned"], row["mean"]] for row in content["results"]}
    (dot,) = (row for row in training if row[0] == "pypi-wordllama by dot product")
    for cell, name in zip(dot[3:], columns, strict=True):
        assert list(map(float, re.findall(r"[+-]?[\d.]+", cell))) == pytest.approx(by_dot[name], abs=0.00051), name


PEERS, SVD_BITS = r"PQ\d+|OPQ\d+|RaBitQ.*|full vector x .*", SYSTEMS["SVD, then one, two or four bits"]
COLUMNS = (PEERS, SVD_BITS, r"SVD x trellis \(untrained\)", "trellis", r"uniform \d+ x .*")


def test_the_table_of_recall_per_byte_is_what_the_benchmark_measured() -> None:
    kept = [entry for entry in measured("debian-minilm.json") if entry["part"] in ("peers", "uniform", "trellis")]
    shown = rows_under("benchmarks.md", "| bytes | best of PQ")
    assert [int(row[0]) for row in shown] == [24, 32, 48, 64, 96, 128, 192]
    for row in shown:
        of_size = [entry for entry in kept if entry["bytes"] == int(row[0])]
        for cell, systems in zip((*row[1:5], row[6]), COLUMNS, strict=True):
            if cell:
                found = [entry for entry in of_size if re.fullmatch(systems, entry["system"])]
                best = max(found, key=lambda entry: entry["recall"])
                assert figures(cell) == pytest.approx([best["recall"], best["ndcg"]], abs=0.00051), (row[0], systems)
        assert ["**" in cell for cell in row].index(True) == max(range(1, 5), key=lambda at: figures(row[at]) or [0.0])


def test_the_table_of_the_shortest_codes_is_what_the_benchmark_measured() -> None:
    content = json.loads((ROOT / "docs" / "bytes" / "debian-minilm-short.json").read_text())
    shown = rows_under("benchmarks.md", "| bytes | **ours** | trellis alone")
    assert len(shown) == 7
    for size, ours, alone, rival, gain in shown:
        found = {row["system"]: row for row in content["rows"] if row["bytes"] == int(size)}
        best = max((name for name in found if "trellis" not in name), key=lambda name: found[name]["recall"])
        for cell, name in ((ours, "stages and trellis"), (alone, "trellis alone"), (rival, best)):
            assert figures(cell) == pytest.approx([found[name]["recall"], found[name]["ndcg"]], abs=0.00051), size
        told = content["gains"][f"{best}|{size}"]
        assert gain == f"{told['mean']:+.3f} [{told['low']:+.3f}, {told['high']:+.3f}]".replace("0.", ".")


def by_codec(name: str) -> dict[str, dict[str, Any]]:
    """Return what a run of benchmarks/relevance.py measured, by the name of the codec."""
    results = json.loads((ROOT / "docs" / "relevance" / f"{name}.json").read_text())["results"]
    return {row["codec"]: row for row in results}


def relevance_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a run of benchmarks/relevance.py measured of the trained codec and of the best linear ones."""
    by_name = by_codec(name)
    return by_name["trained for relevance"], by_name["best linear for each figure"]


def relevance_cell(row: dict[str, Any], figure: str) -> str:
    _, low, high = row[figure]["gain"]
    return f"{row[figure]['mean']:.3f} [{low:+.3f}, {high:+.3f}]".replace("0.", ".")


def test_the_table_of_relevance_is_what_the_benchmark_measured() -> None:
    shown, collection = rows_under("training.md", "| collection, pairs | latents"), ""
    checked = []
    for name, width, ndcg, relevant, near, kept, linear, seconds in shown:
        collection = name.split(",")[0] or collection
        if width.endswith("not compressed"):
            continue
        trained, best = relevance_of(f"{collection}-{width}")
        assert trained["dim"] == best["dim"] == int(width)
        assert [ndcg, relevant] == [relevance_cell(trained, "ndcg@10"), relevance_cell(trained, "relevant@100")]
        told = [float(cell) for cell in (near, kept, *linear.split(", "))]
        found = [(trained, "recall@10"), (trained, "kept@100"), (best, "ndcg@10"), (best, "recall@10")]
        assert told == pytest.approx([row[figure]["mean"] for row, figure in found], abs=0.00051), (collection, width)
        assert int(seconds) == round(trained["cpu_seconds"])
        checked.append((collection, width))
    assert len(checked) == len(shown) - 1 == 8
    heavier, _ = relevance_of("npm-e5small-64-weight3")
    text = (ROOT / "docs" / "training.md").read_text()
    assert f"no more at 64 latents: {heavier['ndcg@10']['mean']:.3f}".replace("0.", ".") in text


def test_the_gain_of_hard_negatives_is_what_the_benchmark_measured() -> None:
    text = " ".join((ROOT / "docs" / "training.md").read_text().split())
    content = json.loads((ROOT / "docs" / "relevance" / "npm-e5small-hard-negatives.json").read_text())
    assert content["recipe"]["hard_negatives"] == 4
    harder = {row["dim"]: row for row in content["results"] if row["codec"] == "trained for relevance"}
    assert harder.keys() == {64, 128}
    for figure in ("ndcg@10", "recall@10"):
        for width, row in harder.items():
            before, _ = relevance_of(f"npm-e5small-{width}-no-noise")
            told = f"from {before[figure]['mean']:.3f} to {row[figure]['mean']:.3f}".replace("0.", ".")
            assert told in text, (figure, width)


def test_what_noise_and_other_seeds_give_is_what_the_benchmark_measured() -> None:
    text, two = " ".join((ROOT / "docs" / "training.md").read_text().split()), ("ndcg@10", "recall@10")

    def told(names: list[str]) -> str:
        runs = [relevance_of(name)[0] for name in names]
        means = [np.mean([run[figure]["mean"] for run in runs]) for figure in two]
        return " / ".join(f"{mean:.3f}".replace("0.", ".") for mean in means)

    for width in (64, 128, 256):
        seeds = [f"npm-e5small-{width}{suffix}" for suffix in ("", "-seed1", "-seed2")]
        assert f"{told(seeds)} at {width}" in text
    without = {"npm-e5small": (64, 128, 256), "pypi-wordllama": (128, 192)}
    for collection, widths in without.items():
        for width in widths:
            assert told([f"{collection}-{width}-no-noise"]) in text
    assert f"256 latents found {told(['debian-minilm-256-noise'])} with it" in text
    assert f"and {told(['debian-minilm-256'])} without" in text


def test_the_second_seed_of_relevance_and_its_codes_are_what_the_benchmark_measured() -> None:
    text, two = (ROOT / "docs" / "training.md").read_text(), ("ndcg@10", "recall@10")
    for width in (128, 256):
        trained, _ = relevance_of(f"debian-minilm-{width}-seed1")
        told = " / ".join(f"{trained[figure]['mean']:.3f}".replace("0.", ".") for figure in two)
        assert f"{told} at {width}" in text
    names = ("384-target48-heavier", "256-heavier", "256-seed1", "384-target48")
    results = [json.loads((ROOT / "docs" / "relevance" / f"debian-minilm-{name}.json").read_text()) for name in names]
    assert [found["recipe"]["contrastive"] for found in results] == [0.6, 0.6, 0.2, 0.2]
    first, *others = ({row["codec"]: row for row in found["results"]} for found in results)
    shown = rows_under("training.md", "| bytes | nDCG@10 | relevant@100 | recall@10 | kept@100 |")
    assert [row[0] for row in shown] == ["96", "64", "48", "32"]
    for size, *cells in shown:
        codec = f"its codes of {size} bytes"
        assert cells[:2] == [relevance_cell(first[codec], figure) for figure in ("ndcg@10", "relevant@100")]
        kept = [first[codec][figure]["mean"] for figure in ("recall@10", "kept@100")]
        assert list(map(float, cells[2:4])) == pytest.approx(kept, abs=0.00051)
        for told, rows in zip(cells[4:], others, strict=True):
            found = [rows[codec][figure]["mean"] for figure in two]
            assert list(map(float, told.split(", "))) == pytest.approx(found, abs=0.00051)
    text = " ".join(text.split())
    seeds = [f"{names[0]}{suffix}" for suffix in ("", "-seed1", "-seed2")]
    for figure in two:
        runs = [by_codec(f"debian-minilm-{seed}") for seed in seeds]
        means = [np.mean([run[f"its codes of {row[0]} bytes"][figure]["mean"] for run in runs]) for row in shown]
        assert " / ".join(f"{mean:.3f}".replace("0.", ".") for mean in means) in text
    smallest = [first["its codes of 32 bytes"][figure]["mean"] for figure in two]
    readme = (ROOT / "README.md").read_text()
    for told, value in zip(("48 times smaller, reach {}", "with the codes {}"), smallest, strict=True):
        assert told.format(f"{value:.3f}".replace("0.", ".")) in readme


def test_the_table_of_time_and_memory_is_what_the_benchmark_measured() -> None:
    results = json.loads((ROOT / "docs" / "scale" / "commands.json").read_text())["results"]
    shown = rows_under("sizes.md", "| command | rows | processor seconds")
    told = {(re.match(r"`([\w-]+)", row[0])[1], row[1]): row[2:] for row in shown}
    assert told == {
        (found["command"], f"{found['rows']:,} x {found['dim']:,}"): [
            f"{found['cpu_seconds']:.0f}",
            f"{found['peak_mb'] / 1e3:.1f} GB",
            f"{found['silence']:.0f} s",
        ]
        for found in results
    }


def test_the_row_of_the_full_width_is_what_the_benchmark_printed() -> None:
    printed = {row[0]: row for row in tables((ROOT / "docs" / "relevance" / "debian-minilm-384.md").read_text())}
    trained, best = printed["trained for relevance"], printed["best linear for each figure"]
    (shown,) = (row for row in rows_under("training.md", "| collection, pairs | latents") if row[1].startswith("384"))
    found = [re.sub(r"\([+-][\d.]+ (.*)\)", r"\1", cell).replace("0.", ".") for cell in trained[2:4]]
    assert shown[2:4] == found
    assert list(map(float, shown[4:6])) == [float(trained[at].split()[0]) for at in (4, 6)]
    assert list(map(float, shown[6].split(", "))) == [float(best[at].split()[0]) for at in (2, 4)]
    assert shown[7] == trained[-1]


def test_the_table_of_mteb_is_what_it_measured() -> None:
    results = json.loads((ROOT / "benchmarks" / "harness" / "results" / "mteb.json").read_text())["results"]
    shown = rows_under("benchmarks.md", "| stored | ndcg_at_10")
    assert len(shown) == len(results)
    for row in shown:
        found = results[row[0].split(",")[0]]
        told = [found[name] for name in ("ndcg_at_10", "recall_at_10", "recall_at_100")]
        assert list(map(float, row[1:])) == pytest.approx(told, abs=0.00051), row[0]


def test_the_page_about_sizes_adds_up_as_the_planner_does() -> None:
    settings = {
        "Qdrant, float32": (384, CodeType.FLOAT32, 1536, 1),
        "Qdrant, 128 latents as float32": (128, CodeType.FLOAT32, 512, 1),
        "Qdrant, 192 latents as 4-bit codes in RAM, the latents on disk": (192, CodeType.INT4, 96, 1),
        "Qdrant, the same and originals on disk as float16 for re-ranking": (192, CodeType.INT4, 96, 4),
        "hnswlib, float32": (384, CodeType.FLOAT32, 1536, 1),
        "hnswlib, 128 latents": (128, CodeType.FLOAT32, 512, 1),
        "hnswlib, 64 latents": (64, CodeType.FLOAT32, 256, 1),
        "`PackedIndex`, 48-byte codes": (384, None, 48, 1),
    }
    stores = {"Qdrant": StoreName.QDRANT, "hnswlib": StoreName.HNSWLIB, "`PackedIndex`": StoreName.PACKED}
    by_name = {store.name: store for store in STORES}
    shown = {row[0]: row[1:] for row in tables((ROOT / "docs" / "sizes.md").read_text())}
    assert settings.keys() <= shown.keys()
    for name, (width, dtype, code_bytes, oversample) in settings.items():
        store = by_name[stores[name.split(",")[0]]]
        setting = Setting("svd", None, width, 384, width, dtype, code_bytes, dtype is CodeType.INT4)
        ram, disk = store.ram(setting), store.disk(setting, oversample)
        assert shown[name] == [f"{code_bytes:,}", f"{ram - code_bytes}", f"{ram:,} MB", f"{disk:,} MB"]


@pytest.mark.parametrize(
    ("page", "file", "first"),
    [
        ("postgres", "postgres", "column"),
        ("stores", "stores", "store"),
    ],
)
def test_the_tables_of_databases_are_what_the_benchmark_measured(page: str, file: str, first: str) -> None:
    measured = json.loads((ROOT / "docs" / "databases" / f"{file}.json").read_text())["rows"]
    rows = tables((ROOT / "docs" / f"{page}.md").read_text())
    (place,) = [number for number, row in enumerate(rows) if row[0] == first]
    head, shown = rows[place], {row[0]: row for row in rows[place + 2 : place + 2 + len(measured)]}
    for row in measured:
        name = row[next(iter(row))]
        for column, cell in zip(head[1:], shown[name][1:], strict=True):
            assert float(cell.replace(",", "")) == pytest.approx(row[column], rel=0.05, abs=0.0006), (name, column)
