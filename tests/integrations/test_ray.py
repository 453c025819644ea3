"""Test that latents replace vectors in other people's pipelines, and that a dying worker loses and doubles nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaecodec import Codec, bulk
from vaecodec.errors import (
    BadRowsError,
    CodecMismatchError,
    InvalidVectorsError,
    MalformedSourceError,
    MissingColumnError,
    UnknownSourceError,
)
from vaecodec_integrations.ray import CodecActor, RayWorkers, encode_frames

# One Ray cluster does everything, with few workers: to start one takes longer than all that it does.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster
from vaecodec import Codec
from vaecodec_cli.main import main
from vaecodec.bulk import BulkOptions, encode
from vaecodec.errors import BulkStoppedError
from vaecodec_integrations import ray as ours

folder, codec_path = Path(sys.argv[1]), sys.argv[2]
docs, said = folder / "docs", {}


def die_once(marker):
    if not (folder / marker).exists():
        (folder / marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class DyingStep(ours.CodecActor):
    def __call__(self, batch):
        encoded = super().__call__(batch)
        if 450 in batch["id"].to_pylist():
            die_once("step died")
        return encoded


class DyingWorker(ours.ShardActor):
    def convert(self, number):
        if number == 4:
            die_once("worker died before")
        outcome = super().convert(number)
        if number == 2:  # its part is there, and nobody knows
            die_once("worker died after")
        return outcome


class Lost(ours.ShardActor):
    def convert(self, number):
        os.kill(os.getpid(), signal.SIGKILL)


class HalfOfGpu(ours.ShardActor):
    def __init__(self, *arguments):
        *others, on_gpu = arguments
        assert on_gpu
        super().__init__(*others, False)  # there is none, whatever Ray was told
        (folder / f"worker {os.getpid()} on GPU {ray.get_gpu_ids()}").touch()

    def convert(self, number):
        while len(list(folder.glob("worker * on GPU *"))) < 2:  # both at work at once
            time.sleep(0.05)
        return super().convert(number)


def run(name, source, actor, workers=1, **arguments):
    engine = ours.RayWorkers(codec_path, workers=workers, **arguments)
    engine.actor = actor
    try:
        encode(source, folder / name, Codec.load(codec_path), options=BulkOptions(shard_rows=50), workers=engine)
    except BulkStoppedError as error:
        said[name] = [type(error.__cause__).__name__, str(error)]


# A cluster that others have started, as far as the command knows.
node = {"num_cpus": 3, "num_gpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args=node)
usual, ours.ShardActor = ours.ShardActor, DyingWorker  # what the command's engine starts
try:
    command = ["encode", str(docs), "--codec", codec_path, "--out", str(folder / "killed")]
    main([*command, "--engine", "ray", "--ray-address", cluster.address, "--workers", "2"])
except SystemExit as ended:
    said["command"] = ended.code
ray.init(address=cluster.address, log_to_driver=False)
run("bad_vae", folder / "bad", usual)
run("lost", folder / "one", Lost, retries=0)
run("halves", folder / "one", HalfOfGpu, workers=2, gpus_per_worker=0.5)
# From memory to memory: reading and writing would be other workers, which take their time to start.
tables = [pq.read_table(file) for file in sorted(docs.iterdir())]
encoded = ray.data.from_arrow(tables).map_batches(
    DyingStep,
    fn_constructor_args=(codec_path,),
    fn_constructor_kwargs={"column": "vector"},
    batch_format="pyarrow",
    batch_size=50,
    compute=ray.data.ActorPoolStrategy(size=2),
    num_cpus=1,
)
batches = [*encoded.iter_batches(batch_format="pyarrow", batch_size=None)]
pq.write_table(pa.concat_tables(batches), folder / "pipeline.parquet")
(folder / "said.json").write_text(json.dumps(said))
ray.shutdown()  # before the cluster ends, which this process would take for a failure
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
    with pytest.raises(BadRowsError, match="row 1 is null"):
        actor(pa.table({"vector": pa.array([rows[0].tolist(), None], pa.list_(pa.float32()))}))


def test_the_actor_takes_every_batch_format_of_ray(sample: Any, vae_path: Path) -> None:
    rows = sample.base[:5]
    actor = CodecActor(vae_path, column="vector", dim=32)
    latents = Codec.load(vae_path, dim=32).encode(rows)
    plain = actor({"vector": rows, "id": np.arange(5)})
    np.testing.assert_allclose(plain["vector"], latents, atol=1e-6)
    assert plain["id"].tolist() == [0, 1, 2, 3, 4]
    frame = actor(table(rows).to_pandas())
    np.testing.assert_allclose(np.stack(list(frame["vector"])), latents, atol=1e-6)
    with pytest.raises(
        MissingColumnError, match=r"expected the column of vectors None; it has: vector, id; give CodecA"
    ):
        CodecActor(vae_path)({"vector": rows, "id": np.arange(5)})


def test_frames_are_encoded_one_by_one(sample: Any, vae_path: Path) -> None:
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
    frame = pandas.DataFrame({"v": [[0.5] * 384, None]})
    with pytest.raises(MalformedSourceError) as raised:
        next(encode_frames(iter([frame]), codec=vae_path, column="v"))
    assert str(raised.value) == "column 'v': expected vectors of width 384 in every row, row 1 has 0"


@pytest.fixture(scope="module")
def on_ray(sample: Any, vae_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the script has run."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vaecodec[ray]'")
    folder = tmp_path_factory.mktemp("ray")
    for name, first, last in (("docs", 0, 5), ("bad", 0, 2), ("one", 0, 1)):
        (folder / name).mkdir()
        for number in range(first, last):
            rows = table(sample.base[:1000])[number * 200 : number * 200 + 200]
            pq.write_table(rows, folder / name / f"{number}.parquet", row_group_size=50)
    rows = sample.base[200:400].copy()
    rows[120] = np.nan
    pq.write_table(table(rows), folder / "bad" / "1.parquet", row_group_size=50)
    command = [sys.executable, "-c", SCRIPT, str(folder), str(vae_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def latents(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)


def said(folder: Path, name: str) -> Any:
    return json.loads((folder / "said.json").read_text())[name]


def test_killed_workers_of_the_command_leave_the_same_bytes_as_one_machine(on_ray: Path, vae_path: Path) -> None:
    assert (on_ray / "worker died before").exists()
    assert (on_ray / "worker died after").exists()
    assert said(on_ray, "command") == 0
    bulk.encode(on_ray / "docs", on_ray / "threads", Codec.load(vae_path, threads=1))
    files = sorted(path.name for path in (on_ray / "killed").iterdir())
    assert files == [f"part-{number:05d}.parquet" for number in range(5)]
    for name in files:
        assert (on_ray / "killed" / name).read_bytes() == (on_ray / "threads" / name).read_bytes()
    assert pq.read_table(on_ray / "killed")["id"].to_pylist() == list(range(1000))
    assert not (on_ray / "killed.partial").exists()


def test_a_bad_row_on_ray_is_named_and_what_is_finished_is_resumed(on_ray: Path, vae_path: Path) -> None:
    kind, message = said(on_ray, "bad_vae")
    assert kind == "BadRowsError"
    assert message.startswith(f"row 120 of {on_ray}/bad/1.parquet: NaN or infinity, or a norm beyond float32; stopped ")
    assert not (on_ray / "bad_vae").exists()
    finished = int(message.split("stopped with ")[1].split()[0])
    options = bulk.BulkOptions(shard_rows=50, resume=True, on_bad_rows=bulk.OnBadRows.SKIP)
    result = bulk.encode(on_ray / "bad", on_ray / "bad_vae", Codec.load(vae_path, threads=1), options=options)
    assert (result.rows, result.bad_rows, result.resumed, result.shards) == (399, 1, finished, 8)


def test_a_shard_that_kills_its_workers_stops_the_job(on_ray: Path) -> None:
    kind, message = said(on_ray, "lost")
    assert kind == "BulkStoppedError"
    assert message.startswith("Ray gave up: ")
    assert f"stopped with 0 of 4 shards finished and kept in {on_ray}/lost.partial" in message


def test_two_workers_share_a_gpu(on_ray: Path, vae_path: Path) -> None:
    workers = [path.name.split(" on ")[1] for path in on_ray.glob("worker * on GPU *")]
    assert workers == ["GPU [0]", "GPU [0]"]
    options = bulk.BulkOptions(shard_rows=50)
    bulk.encode(on_ray / "one", on_ray / "alone", Codec.load(vae_path, threads=1), options=options)
    assert pq.read_table(on_ray / "halves") == pq.read_table(on_ray / "alone")


def test_a_pipeline_loses_and_doubles_no_row_when_a_worker_is_killed(on_ray: Path, sample: Any, vae_path: Path) -> None:
    assert (on_ray / "step died").exists()
    written = pq.read_table(on_ray / "pipeline.parquet").sort_by("id")
    assert written["id"].to_pylist() == list(range(1000))
    np.testing.assert_allclose(latents(written["vector"]), Codec.load(vae_path).encode(sample.base[:1000]), atol=1e-5)


def test_ray_refuses_other_formats_and_other_codecs(
    svd_path: Path, vae_path: Path, sample: Any, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vaecodec[ray]'")
    np.save(tmp_path / "x.npy", sample.base[:9])
    pq.write_table(table(sample.base[:9]), tmp_path / "x.parquet")
    codec, output = Codec.load(vae_path), tmp_path / "y"
    with pytest.raises(UnknownSourceError) as raised:
        bulk.encode(tmp_path / "x.npy", output, codec, workers=RayWorkers(vae_path))
    assert str(raised.value) == (
        f"{tmp_path}/x.npy: Ray works on Parquet files; leave out --engine ray for other formats"
    )
    with pytest.raises(CodecMismatchError, match=f"{svd_path}: expected codec {codec.codec_id[:16]}, found "):
        bulk.encode(tmp_path / "x.parquet", output, codec, workers=RayWorkers(svd_path))
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "x.parquet"}
