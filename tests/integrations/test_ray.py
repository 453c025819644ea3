"""Latents take the place of vectors in other people's pipelines; a worker that dies loses and doubles nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaecodec import Codec
from vaecodec.errors import InvalidVectorsError, MissingVectorError, RaggedVectorsError
from vaecodec_integrations.ray import CodecActor, encode_frames

PIPELINE = """
import os, signal, sys
import pyarrow.parquet as pq
import ray
from vaecodec_integrations.ray import CodecActor

source, output, codec, marker = sys.argv[1:]


class Dying(CodecActor):
    def __call__(self, batch):
        encoded = super().__call__(batch)
        if 450 in batch["id"].to_pylist() and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return encoded


ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
(
    ray.data.read_parquet(source)
    .map_batches(
        Dying,
        fn_constructor_args=(codec,),
        fn_constructor_kwargs={"column": "vector"},
        batch_format="pyarrow",
        batch_size=50,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    .write_parquet(output)
)
"""


def table(rows: np.ndarray) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table({"id": range(len(rows)), "vector": vectors, "text": [f"t{n}" for n in range(len(rows))]})


def test_the_actor_encodes_a_batch_and_keeps_its_columns(sample: Any, vae_path: Path) -> None:
    batch = table(sample.base[:100])
    encoded = CodecActor(vae_path, dim=32)(pa.concat_tables([batch[:30], batch[30:]]))
    assert encoded.drop(["vector"]) == batch.drop(["vector"])
    assert encoded.schema.field("vector").type == pa.list_(pa.float32(), 32)
    latents = encoded["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 32)
    np.testing.assert_allclose(latents, Codec.load(vae_path, dim=32).encode(sample.base[:100]), atol=1e-6)
    assert CodecActor(vae_path, dim=32)(batch[:0]).schema == encoded.schema


def test_the_actor_refuses_bad_rows(sample: Any, vae_path: Path) -> None:
    rows = sample.base[:3].copy()
    rows[2] = np.nan
    actor = CodecActor(vae_path)
    with pytest.raises(InvalidVectorsError, match="row 2 holds NaN"):
        actor(table(rows))
    with pytest.raises(MissingVectorError, match="row 1 is null"):
        actor(pa.table({"vector": pa.array([rows[0].tolist(), None], pa.list_(pa.float32()))}))


def test_frames_are_encoded_one_by_one(sample: Any, vae_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = sample.base[:10]
    taken: list[int] = []

    def frames() -> Iterator[Any]:
        for start in (0, 6):
            taken.append(start)
            part = rows[start : start + 6]
            yield pandas.DataFrame({"id": range(start, start + len(part)), "v": [row.tolist() for row in part]})
        yield pandas.DataFrame({"id": [], "v": []})

    encoded = encode_frames(frames(), codec=vae_path, column="v")
    first = next(encoded)
    assert taken == [0]
    whole = pandas.concat([first, *encoded])
    assert whole["id"].tolist() == list(range(10))
    np.testing.assert_allclose(np.stack(whole["v"]), Codec.load(vae_path).encode(rows), atol=1e-6)


def test_frames_with_a_missing_vector_are_refused(vae_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"v": [[0.5] * 384, None]})
    with pytest.raises(RaggedVectorsError) as raised:
        next(encode_frames(iter([frame]), codec=vae_path, column="v"))
    assert str(raised.value) == "column 'v': expected vectors of width 384 in every row, got widths [0, 384]"


def test_ray_loses_and_doubles_no_row_when_a_worker_is_killed(sample: Any, vae_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vaecodec[ray]'")
    source, output, marker = tmp_path / "docs", tmp_path / "docs_vae", tmp_path / "died"
    source.mkdir()
    rows = sample.base[:1000]
    for number in range(5):
        pq.write_table(table(rows)[number * 200 : number * 200 + 200], source / f"{number}.parquet")
    command = [sys.executable, "-c", PIPELINE, *map(str, (source, output, vae_path, marker))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert marker.exists()
    written = pq.read_table(output).sort_by("id")
    assert written["id"].to_pylist() == list(range(1000))
    latents = written["vector"].combine_chunks().flatten().to_numpy().reshape(1000, -1)
    np.testing.assert_allclose(latents, Codec.load(vae_path).encode(rows), atol=1e-5)
