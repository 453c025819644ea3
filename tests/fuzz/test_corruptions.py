"""Test damaged files: none is taken for what it was, none ends the process, and every error is ours.

Forty damaged copies of each file are read; ``CORRUPTIONS=10000`` in the environment asks for as many. Bits are flipped,
stretches are overwritten, lost, repeated or added, and files are cut short.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fuzz_targets import BUDGET, DIM, codec, codec_file, rows

from vaecodec import Codec, LinearCodec, LinearKind, Metric
from vaecodec.bulk import BulkOptions, decode, encode
from vaecodec.bulk.manifest import Entry, Manifest
from vaecodec.codes import CodeType
from vaecodec.errors import VaecodecError
from vaecodec.files import sha256
from vaecodec.packed_index import PackedIndex
from vaecodec.two_models.merging import Embedded, Merger, Scale
from vaecodec_integrations.faiss import CompressedFaissIndex
from vaecodec_integrations.hnsw import CompressedIndex
from vaecodec_integrations.qdrant import OriginalsFile
from vaecodec_integrations.qdrant.migration.state import State, read_state
from vaecodec_integrations.qdrant.originals import Owner
from vaecodec_integrations.usearch import CompressedUsearchIndex
from vaecodec_training.checkpoint import Checkpoint, load_checkpoint, load_state, new_model, save_checkpoint, save_state
from vaecodec_training.recipe import Recipe
from vaecodec_training.search import read_record

COUNT = int(os.environ.get("CORRUPTIONS", "40"))
PLAIN = LinearCodec(LinearKind.TRUNCATION, np.eye(DIM, dtype=np.float32), np.zeros(DIM, np.float32), Metric.L2)
IDS = [3, 2**63, "12345678-1234-5678-1234-567812345678", *range(10, 27)]


class Format(NamedTuple):
    """Describe one kind of file.

    Attributes:
        write: writes it into a folder; returns the files to damage.
        read: reads all that is in it, from the folder.
        spare: some of its bytes decide on nothing: then what is read must be what was written.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    spare: bool = False


def write_codec(folder: Path) -> list[Path]:
    (folder / "codec.onnx").write_bytes(codec_file())
    return [folder / "codec.onnx"]


def write_packed(folder: Path) -> list[Path]:
    index = PackedIndex(codec(), bytes=BUDGET)
    index.add(rows()[:20], 3 * np.arange(20))
    index.save(folder / "packed")
    return [folder / "packed"]


def write_hnsw(folder: Path) -> list[Path]:
    index = CompressedIndex("l2", DIM, PLAIN)
    index.init_index(60, M=4)
    index.add_items(rows()[:50], num_threads=1)
    index.save_index(folder / "hnsw")
    return [folder / "hnsw"]


def read_hnsw(folder: Path) -> Any:
    index = CompressedIndex("l2", DIM, PLAIN)
    index.load_index(folder / "hnsw")
    return index.knn_query(rows()[:5], 3, num_threads=1)


def write_usearch(folder: Path) -> list[Path]:
    index = CompressedUsearchIndex(PLAIN, connectivity=4)
    index.add(np.arange(50), rows()[:50], threads=1)
    index.save(folder / "usearch")
    return [folder / "usearch"]


def read_usearch(folder: Path) -> Any:
    index = CompressedUsearchIndex(PLAIN)
    index.load(folder / "usearch")
    return index.search(rows()[:5], 3, threads=1).keys


def write_faiss(folder: Path) -> list[Path]:
    index = CompressedFaissIndex(PLAIN, "HNSW4")
    index.add(rows()[:50])
    index.save(folder / "faiss")
    return [folder / "faiss"]


def write_originals(folder: Path) -> list[Path]:
    with OriginalsFile(folder / "originals", DIM) as file:
        file.claim(Owner("docs", "", "a" * 64))
        file.append(IDS, rows()[: len(IDS)])
        file.append(IDS[:4], rows()[-4:])
        file.remove(IDS[5:7])
    return [folder / "originals", folder / "originals.ids"]


def read_originals(folder: Path) -> Any:
    with OriginalsFile(folder / "originals", DIM) as file:
        file.check_owner(Owner("docs", "", "a" * 64))
        found = file.get([*IDS[:5], *IDS[7:]])
        list(file.ids())
        file.compact()
        return found


def write_run(folder: Path) -> list[Path]:
    recipe = Recipe(dim=4, hidden=8)
    model = new_model(DIM, recipe, Metric.COSINE)
    save_checkpoint(folder, Checkpoint(model, recipe, Metric.COSINE, "é", {"seed": 1}, {"codes": [1.5]}))
    save_state(folder, model.state_dict(), {"step": 3})
    return sorted(folder.iterdir())


def read_run(folder: Path) -> Any:
    checkpoint = load_checkpoint(folder)
    tensors, values = load_state(folder)
    weights = {**checkpoint.model.state_dict(), **{f"state.{name}": tensor for name, tensor in tensors.items()}}
    about = checkpoint.recipe, checkpoint.embedder, checkpoint.provenance, checkpoint.calibration, values
    return {name: tensor.numpy() for name, tensor in weights.items()}, about


def write_state(folder: Path) -> list[Path]:
    from vaecodec.files import write_atomically
    from vaecodec.files.stored_json import with_checksum

    state = State(batch_size=40, copied=80, subject={"into": "a"})
    write_atomically(folder / "state.json", with_checksum(state.model_dump(mode="json")))
    return [folder / "state.json"]


def write_record(folder: Path) -> list[Path]:
    from vaecodec.files import write_atomically
    from vaecodec.files.stored_json import with_checksum

    record = {"asked": {"dims": [4, 8]}, "steps": {"pace": {"epoch_seconds": 0.25}}}
    write_atomically(folder / "run.json", with_checksum(record, indent=1))
    return [folder / "run.json"]


def manifest(folder: Path) -> Manifest:
    return Manifest(folder, {"work": "encode", "shards": [5, 5, 5]}, ".npy")


def write_manifest(folder: Path) -> list[Path]:
    with manifest(folder).locked():
        manifest(folder).open()
        for number in range(3):
            part = folder / f"part-{number:05d}.npy"
            part.write_bytes(bytes([number]) * 64)
            manifest(folder).add(Entry(number, 5, sha256(part), 0))
    return sorted(path for path in folder.iterdir() if path.name != "_lock")


def read_manifest(folder: Path) -> Any:
    """Read a manifest: damaged shards are made again, and the others stay as they were."""
    with manifest(folder).locked():
        finished = manifest(folder).open()
    expected = {n: Entry(n, 5, sha256(folder / f"part-{n:05d}.npy"), 0) for n in finished}
    assert finished == expected
    assert {path.name for path in folder.glob("part-*")} == {f"part-{n:05d}.npy" for n in finished}
    return all((folder / f"part-{n:05d}.npy").read_bytes() == bytes([n]) * 64 for n in finished)


def write_encoded(folder: Path) -> list[Path]:
    np.save(folder / "in.npy", rows()[:20])
    encode(folder / "in.npy", folder / "out.npy", codec(), options=BulkOptions(dtype=CodeType.INT8, threads=1))
    return [folder / "out.npy", folder / "out.npy.json"]


def read_encoded(folder: Path) -> Any:
    decode(folder / "out.npy", folder / "back.npy", codec(), options=BulkOptions(threads=1, overwrite=True))
    return np.load(folder / "back.npy")


def write_encoded_folder(folder: Path) -> list[Path]:
    np.save(folder / "in.npy", rows()[:20])
    encode(folder / "in.npy", folder / "out", codec(), options=BulkOptions(dtype=CodeType.INT8, threads=1))
    return [*(folder / "out").iterdir()]


def read_encoded_folder(folder: Path) -> Any:
    decode(folder / "out", folder / "back.npy", codec(), options=BulkOptions(threads=1, overwrite=True))
    return np.load(folder / "back.npy")


def write_merger(folder: Path) -> list[Path]:
    old, new = rows()[:30, :4], rows()[:30, 4:9]
    quantiles = np.linspace(-1, 1, 400, dtype=np.float32).reshape(2, 200)
    merger = Merger(Scale.BEST, Embedded(old, new), (Metric.COSINE, Metric.DOT), quantiles, dict.fromkeys(Scale, 0.5))
    merger.save(folder / "merger.npz")
    return [folder / "merger.npz"]


def read_merger(folder: Path) -> Any:
    merger = Merger.load(folder / "merger.npz")
    return merger.scale, merger.metrics, merger.figures, *merger.reference, merger.quantiles


FORMATS = {
    "codec": Format(write_codec, lambda folder: Codec.load(folder / "codec.onnx")),
    "packed index": Format(write_packed, lambda folder: PackedIndex.load(folder / "packed", codec())),
    "hnswlib index": Format(write_hnsw, read_hnsw),
    "usearch index": Format(write_usearch, read_usearch),
    "faiss index": Format(write_faiss, lambda folder: CompressedFaissIndex.load(folder / "faiss", PLAIN)),
    "originals": Format(write_originals, read_originals, spare=True),
    "run": Format(write_run, read_run),
    "record of a fit": Format(write_record, lambda folder: read_record(folder / "run.json"), spare=True),
    "manifest": Format(write_manifest, read_manifest, spare=True),
    "encoded array": Format(write_encoded, read_encoded, spare=True),
    "encoded Parquet": Format(write_encoded_folder, read_encoded_folder, spare=True),
    "migration state": Format(write_state, lambda folder: read_state(folder / "state.json"), spare=True),
    "merger": Format(write_merger, read_merger, spare=True),
}


def damaged(whole: bytes, chosen: random.Random) -> bytes:
    """Return a copy that differs from the whole file."""
    while True:
        changed = bytearray(whole)
        start, length = chosen.randrange(len(whole)), chosen.randint(1, 300)
        match chosen.randrange(8):
            case 0 | 1 | 2:
                changed[start] ^= 1 << chosen.randrange(8)
            case 3:
                changed[start : start + length] = bytes(len(changed[start : start + length]))
            case 4:
                changed[start : start + length] = chosen.randbytes(len(changed[start : start + length]))
            case 5:
                del changed[start : start + length]
            case 6:
                changed[start:start] = changed[start : start + length]
            case 7:
                del changed[start:]
        if changed != whole:
            return bytes(changed)


def equal(one: Any, other: Any) -> bool:
    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


@pytest.mark.timeout(0 if COUNT > 1000 else 120)
@pytest.mark.parametrize("name", FORMATS)
def test_no_damaged_file_is_taken_for_what_it_was(name: str, fast_path: Path) -> None:
    made, chosen = FORMATS[name], random.Random(0)
    files = made.write(fast_path)
    kept = {path: path.read_bytes() for path in fast_path.rglob("*") if path.is_file()}
    whole = made.read(fast_path)
    assert not made.spare or equal(made.read(fast_path), whole)
    for _ in range(COUNT):
        for path in [*fast_path.rglob("*")]:
            if path.is_file() and path not in kept:
                path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
        path = files[chosen.randrange(len(files))]
        path.write_bytes(damaged(kept[path], chosen))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = made.read(fast_path)
            except VaecodecError:
                continue
        assert made.spare, f"{path.name} was read, though it was damaged"
        assert equal(found, whole), f"of the damaged {path.name} something else was read"
