"""Define the fuzzing targets that read bytes of anybody: each takes any bytes, and lets only our own errors pass.

:mod:`test_fuzz` feeds them by hypothesis, ``run_atheris.py`` by coverage-guided mutation.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaecodec import Codec, Metric, fit_linear
from vaecodec.artifact import read_artifact, sign
from vaecodec.calibration import CodecCalibration, reference_of, scores_of
from vaecodec.codes import Calibration, CodeType
from vaecodec.drift import Encoded, Reference
from vaecodec.errors import InvalidVectorsError, VaecodecError
from vaecodec.files.stored_json import with_checksum
from vaecodec.model_settings import ModelSettings
from vaecodec.packed_index import PackedIndex
from vaecodec.scores import fit_score_calibration
from vaecodec.sources import RandomAccessSource, VectorSource, open_source
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.qdrant.migration.state import read_state
from vaecodec_integrations.qdrant.reembedding import read_judged
from vaecodec_integrations.qdrant.reembedding.job import read_ids
from vaecodec_integrations.report.inputs import read_labels, read_relevant, read_report, read_scored_pairs
from vaecodec_training.data.pair_files import read_pairs
from vaecodec_training.data.pairs import numbered_pairs
from vaecodec_training.recipe import Recipe

DIM, WIDTH, BUDGET = 32, 24, 8
STATE = {"batch_size": 40, "offset": "12345678-1234-5678-1234-567812345678", "copied": 80, "subject": {"into": "a"}}
MODULES = b'[{"type": "models.Transformer", "path": ""}, {"type": "models.Pooling", "path": "1_Pooling"}]'


class Target(NamedTuple):
    """Hold a reader, and valid files to start mutating from."""

    read: Callable[[bytes], None]
    seeds: Sequence[bytes]


def read_codec_file(data: bytes) -> None:
    """Read a file as it is: whoever changed it did not sign it again."""
    with suppress(VaecodecError):
        Codec.load(_file(data, ".onnx"))


def read_signed_metadata(data: bytes) -> None:
    """Read it with a matching checksum, so that everything behind the check meets odd values, too."""
    try:
        signed = sign(data)
    except (LookupError, ValueError):
        return
    with suppress(VaecodecError):
        _, metadata = read_artifact(_file(signed, ".onnx"))
        # Without a session: what onnxruntime makes of a graph is not ours.
        codec = Codec(None, metadata, metadata.code_dim)  # type: ignore[arg-type]
        for part in (lambda: codec.code(bytes=BUDGET), lambda: scores_of(codec), lambda: reference_of(codec)):
            with suppress(VaecodecError):
                part()


def source_reader(suffix: str) -> Callable[[bytes], None]:
    """Return a reader that opens a file of that format, and reads its first rows as often as possible."""

    def read(data: bytes) -> None:
        with suppress(VaecodecError):
            source = open_source(_file(data, suffix))
            for block in islice(source.blocks(64), 4):
                assert block.shape[1] == source.dim
            if isinstance(source, RandomAccessSource) and source.rows:
                assert source.take(np.array([source.rows - 1])).shape == (1, source.dim)

    return read


def read_packed_index(data: bytes) -> None:
    """Open a saved index, and search in it."""
    with suppress(VaecodecError):
        index = PackedIndex.load(_file(data, ".packed"), codec())
        with np.errstate(all="ignore"):
            ids, _ = index.search(rows()[:3], 2)
        assert ids.shape == (3, min(2, len(index)))


def read_migration_state(data: bytes) -> None:
    """Read how far a migration came."""
    with suppress(VaecodecError):
        assert read_state(_file(data, ".json")).batch_size > 0


def read_model_settings(data: bytes) -> None:
    """Read the same bytes as each of the files that sentence-transformers keeps beside a model."""
    folder = _folder() / "settings"
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    files = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json")
    for damaged in files:
        (folder / "modules.json").write_bytes(MODULES)
        (folder / damaged).write_bytes(data)
        with suppress(VaecodecError):
            assert ModelSettings.beside(folder / "model.onnx") is not None
        (folder / damaged).unlink()


def read_text(read: Callable[[Path], object], suffix: str) -> Callable[[bytes], None]:
    """Return a reader of a file of settings or of figures."""

    def target(data: bytes) -> None:
        with suppress(VaecodecError):
            read(_file(data, suffix))

    return target


def pair_reader(suffix: str) -> Callable[[bytes], None]:
    """Return a reader of pairs that looks their ids up, and checks the rows."""

    def target(data: bytes) -> None:
        with suppress(VaecodecError):
            found = numbered_pairs(read_pairs(str(_file(data, suffix)), *_ided()), 9, 9)
            assert found.rows.max(initial=0) < 9

    return target


def read_codes(data: bytes) -> None:
    """Decode any bytes as codes of every kind, to latents and to embeddings."""
    kinds: list[dict[str, Any]] = [{"dtype": str(kind)} for kind in CodeType] + [{"bytes": BUDGET}]
    for metric in (Metric.COSINE, Metric.L2):
        for kind in kinds:
            code = codec(metric).code(**kind)
            empty = code.encode(np.empty((0, WIDTH), np.float32))
            count = len(data) // code.bytes_per_vector
            codes = np.frombuffer(data[: count * code.bytes_per_vector], empty.dtype).reshape(count, empty.shape[1])
            with suppress(VaecodecError), np.errstate(all="ignore"):
                assert codec(metric).decode(codes, **kind).shape == (count, DIM)
            # Codes of another width are refused, whatever they hold.
            with suppress(InvalidVectorsError):
                code.decode(np.frombuffer(data, np.uint8)[None])
                assert (len(data), empty.dtype) == (empty.shape[1], np.uint8)


@cache
def rows() -> np.ndarray:
    """Return correlated float32 (300, 32)."""
    random = np.random.default_rng(0)
    return (random.standard_normal((300, WIDTH)) @ random.standard_normal((WIDTH, DIM)) + 0.2).astype(np.float32)


@cache
def codec_file(metric: Metric = Metric.COSINE) -> bytes:
    """Return a linear codec file with everything that it can hold."""
    linear = fit_linear(rows(), WIDTH, metric=metric)
    encoded = Encoded.encode(linear.encode, linear.decode, rows())
    path = _folder() / f"{metric}.onnx"
    export_linear(
        linear,
        path,
        provenance={"note": "fuzzed"},
        calibration=CodecCalibration(
            codes=Calibration.fit(linear.encode(rows()), linear.latent_metric, memory=8),
            scores=fit_score_calibration(linear, rows(), rows()[:50]) if metric is Metric.COSINE else None,
            drift=Reference.fit(encoded, None, linear.metric, linear.latent_metric),
        ),
    )
    return path.read_bytes()


@cache
def codec(metric: Metric = Metric.COSINE) -> Codec:
    """Load that codec."""
    return Codec.load(_file(codec_file(metric), ".onnx"), threads=1)


def targets() -> dict[str, Target]:
    """Return every target by name."""
    plain = {suffix: Target(source_reader(suffix), [seed]) for suffix, seed in _plain_files().items()}
    arrow, hdf5 = _folder() / "seed.parquet", _folder() / "seed.hdf5"
    pq.write_table(pa.table({"id": [*range(20)], "vector": rows()[:20].tolist()}), arrow)
    with h5py.File(hdf5, "w") as file:
        file["train"] = rows()[:20]
        file.create_dataset("small", data=rows()[:20], chunks=(4, DIM), compression="gzip")
    index = PackedIndex(codec(), bytes=BUDGET)
    index.add(rows()[:20])
    index.save(_folder() / "seed.packed")
    return {
        "codec file": Target(read_codec_file, [codec_file()]),
        "signed metadata": Target(read_signed_metadata, [codec_file(), codec_file(Metric.L2)]),
        **plain,
        ".parquet": Target(source_reader(".parquet"), [arrow.read_bytes()]),
        ".hdf5": Target(source_reader(".hdf5"), [hdf5.read_bytes()]),
        "packed index": Target(read_packed_index, [(_folder() / "seed.packed").read_bytes()]),
        "migration state": Target(read_migration_state, [with_checksum(STATE), json.dumps(STATE).encode()]),
        "recipe": Target(read_text(Recipe.load, ".toml"), [Recipe(dim=8, nested_dims=(4,)).to_toml().encode()]),
        "relevant rows": Target(read_text(read_relevant, ".json"), [b"[[1, 2], [], [3]]"]),
        "report": Target(read_text(read_report, ".json"), [b'{"format_version": 1, "run": {"a": [1.5]}}']),
        **_pair_files(),
        "labels": Target(read_text(read_labels, ".npy"), [_npy(np.array(["news", "mail"]))]),
        "scored pairs": Target(read_text(read_scored_pairs, ".npz"), [_scored_pairs()]),
        "ids to embed first": Target(read_text(read_ids, ".txt"), [b"12\n12345678-1234-5678-1234-567812345678\n"]),
        "judged queries": Target(
            read_text(read_judged, ".jsonl"), [b'{"text": "a", "vector": [1, 0.5], "ids": [7]}\n']
        ),
        "modules.json": Target(read_model_settings, [MODULES]),
        "codes": Target(read_codes, [rows()[:20].tobytes()]),
    }


@cache
def _ided() -> list[VectorSource]:
    return [open_source(_folder() / f"{name}.parquet") for name in ("documents", "queries")]


def _pair_files() -> dict[str, Target]:
    """Return a target for every format of a table of pairs, and for an array of them."""
    queries, documents = [f"q{i}" for i in range(9)], [f"d{i}" for i in range(9)]
    columns = {"query_id": queries, "document_id": documents, "grade": [*range(9)]}
    for name, ids in (("queries", queries), ("documents", documents)):
        pq.write_table(pa.table({"id": ids, "vector": rows()[:9].tolist()}), _folder() / f"{name}.parquet")
    table = io.BytesIO()
    pq.write_table(pa.table(columns), table)
    lines = [*zip(*columns.values(), strict=True)]
    seeds = {
        ".npy": _npy(np.array([[1, 2], [3, 4]])),
        ".parquet": table.getvalue(),
        ".jsonl": "".join(f"{json.dumps(dict(zip(columns, line, strict=True)))}\n" for line in lines).encode(),
    }
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        seeds[suffix] = "\n".join(mark.join(map(str, line)) for line in [tuple(columns), *lines]).encode()
    return {f"pairs {suffix}": Target(pair_reader(suffix), [seed]) for suffix, seed in seeds.items()}


def _npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def _scored_pairs() -> bytes:
    data = io.BytesIO()
    np.savez(data, first=rows()[:5], second=rows()[5:10], scores=np.arange(5.0))
    return data.getvalue()


def _plain_files() -> dict[str, bytes]:
    few = rows()[:5]
    widths = np.full((len(few), 1), DIM, "<i4")
    npz, compressed = io.BytesIO(), io.BytesIO()
    np.savez(npz, vectors=few)
    np.savez_compressed(compressed, vectors=few, names=np.array(["a", "b"]))
    header = struct.pack("<II", *few.shape)
    return {
        ".npy": _npy(few),
        ".npz": npz.getvalue(),
        ".fvecs": np.hstack([widths.view("<f4"), few]).tobytes(),
        ".bvecs": np.hstack([widths.view("u1"), few.astype("u1")]).tobytes(),
        ".fbin": header + few.tobytes(),
        ".ibin": header + few.astype("<i4").tobytes(),
    }


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _file(data: bytes, suffix: str) -> Path:
    # A new file each time: the last one may still be mapped.
    path = _folder() / f"case{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path
