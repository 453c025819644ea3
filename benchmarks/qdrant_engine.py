"""Measure what Qdrant's engine does with latents: recall after re-ranking, and bytes on disk, in memory and on the
wire.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import qdrant_edge as edge
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import RestToGrpc

from qdrant_data import Data, table
from vaecodec import Codec, evaluation, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.qdrant import OriginalsFile, PackedRows
from vaecodec_integrations.qdrant.rescoring import exact_scores

MAIN = Path(__file__).with_name("qdrant.py")


def shard(folder: Path, vectors: dict[str, Any]) -> Any:
    """Make an empty shard that builds its graph however small it is, without a log of fixed size."""
    optimizers = edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1)
    config = edge.EdgeConfig(vectors=vectors, optimizers=optimizers, wal_enabled=False)
    return edge.EdgeShard.create(str(folder), config)


def params(size: int, *, m: int = 16, turbo: Any = None, on_disk: bool = False, datatype: Any = None) -> Any:
    return edge.EdgeVectorParams(
        size=size,
        distance=edge.Distance.Cosine,
        on_disk=on_disk,
        datatype=datatype,
        quantization_config=None if turbo is None else edge.TurboQuantQuantizationConfig(bits=turbo, always_ram=True),
        hnsw_config=edge.HnswIndexConfig(m=m, ef_construct=100, full_scan_threshold=1),
    )


def fill(filled: Any, blocks: Iterable[dict[str, FloatArray]]) -> None:
    """Fill a shard with points numbered from 0 on, each block with its vectors by name; then build the graph."""
    count = 0
    for vectors in blocks:
        for start in range(0, len(next(iter(vectors.values()))), 1000):
            columns = [values[start : start + 1000].tolist() for values in vectors.values()]
            rows = list(zip(*columns, strict=True))
            points = [edge.Point(count + i, dict(zip(vectors, row, strict=True)), {}) for i, row in enumerate(rows)]
            filled.update(edge.UpdateOperation.upsert_points(points))
            count += len(points)
    filled.optimize()
    filled.flush()


def disk_bytes(folder: Path) -> int:
    """Return the bytes that files take on disk, sparse ones at their allocated size."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _files_of_originals(data: Data, codec: VectorCodec, folder: Path) -> tuple[OriginalsFile, OriginalsFile]:
    """Write the base in half precision, and as codes of a linear codec."""
    wide = fit_linear(data.train, 320 * codec.dim // 384)
    calibration = Calibration.fit(wide.encode(data.train), Metric.COSINE)
    export_linear(wide, folder / "wide.onnx", calibration=CodecCalibration(codes=calibration))
    packed = PackedRows(Codec.load(folder / "wide.onnx"), bytes=codec.dim // 4)
    files = OriginalsFile(folder / "f16", codec.dim), OriginalsFile(folder / "packed", codec.dim, encoding=packed)
    for file in files:
        file.append(range(len(data.base)), data.base)
    return files


def rerank(data: Data, codec: VectorCodec) -> None:
    """Measure recall@10 against exact search on the originals, and latency, one query at a time."""
    truth, _ = evaluation.exact_search(data.base, data.queries, 10, Metric.COSINE)
    latents = codec.encode_queries(data.queries)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = shard(
            folder, {"": params(codec.code_dim), "original": params(codec.dim, m=0, on_disk=True, datatype=HALF)}
        )
        fill(kept, [{"": codec.encode(data.base), "original": data.base}])
        files = _files_of_originals(data, codec, folder)
        search = edge.SearchParams(hnsw_ef=128)

        def nearest(latent: FloatArray, limit: int) -> list[int]:
            query = edge.Query.Nearest(latent.tolist())
            return [p.id for p in kept.query(edge.QueryRequest(limit=limit, query=query, params=search))]

        def none(row: int, times: int) -> list[int]:
            return nearest(latents[row], 10 * times)

        def on_disk(row: int, times: int) -> list[int]:
            first = edge.Query.Nearest(latents[row].tolist())
            prefetch = edge.Prefetch(limit=10 * times, query=first, params=search)
            exact = edge.Query.Nearest(data.queries[row].tolist(), using="original")
            return [p.id for p in kept.query(edge.QueryRequest(limit=10, query=exact, prefetches=[prefetch]))]

        def in_file(file: OriginalsFile, row: int, times: int) -> list[int]:
            ids = nearest(latents[row], 10 * times)
            scores = exact_scores(data.queries[row : row + 1], file.get(ids), Metric.COSINE)
            return [ids[i] for i in np.argsort(-scores, kind="stable")[:10]]

        places: dict[str, Callable[[int, int], list[int]]] = {
            "none": none,
            "disk, float16": on_disk,
            "file, float16": partial(in_file, files[0]),
            f"file, {codec.dim // 4} bytes": partial(in_file, files[1]),
        }
        for place, work in places.items():
            for row in range(len(data.queries)):
                work(row, 1)  # read the files once, so that the order of the rows of the table does not matter
            for times in (1,) if place == "none" else (1, 2, 4, 8):
                found, seconds = [], []
                for row in range(len(data.queries)):
                    start = time.perf_counter()
                    found.append(work(row, times))
                    seconds.append(time.perf_counter() - start)
                recall = evaluation.bootstrap(evaluation.recall(np.array(found), truth, 10))
                rows.append(
                    {
                        "originals": place,
                        "rerank": f"{times}x",
                        "recall@10": recall.mean,
                        "95 %": f"{recall.low:.3f} to {recall.high:.3f}",
                        "median (ms)": float(np.median(seconds)) * 1e3,
                        "p95 (ms)": float(np.percentile(seconds, 95)) * 1e3,
                    }
                )
        for file in files:
            file.close()
        kept.close()
    table(rows)


HALF = edge.VectorStorageDatatype.Float16
SETTINGS: dict[str, dict[str, Any]] = {
    "original float32": {"dim": "dim"},
    "latents float32": {"dim": "code_dim"},
    "latents float16": {"dim": "code_dim", "datatype": HALF},
    "latents turbo8": {"dim": "code_dim", "datatype": edge.VectorStorageDatatype.Turbo8},
    "latents turbo4": {"dim": "code_dim", "datatype": edge.VectorStorageDatatype.Turbo4},  # type: ignore[attr-defined]
    "latents, 4 bit codes in RAM": {"dim": "code_dim", "turbo": edge.TurboQuantBitSize.Bits4, "on_disk": True},
    "latents, 2 bit codes in RAM": {"dim": "code_dim", "turbo": edge.TurboQuantBitSize.Bits2, "on_disk": True},
    "latents float32 + originals on disk": {"dim": "code_dim", "originals": True},
}


def sizes(data: Data, codec: VectorCodec, points: int) -> None:
    """Measure disk, RAM and network of each setting on so many rows; state them per million.

    RAM is what a fresh process gains in private and mapped pages when it opens the shard and answers the queries.
    Recall@10 is that of the engine's search with the graph among the base's own rows, codes re-scored as
    recommended_search_params says. Network: the bodies that qdrant-client sends when rows are upserted without payload,
    by REST to a server on loopback that counts them, by gRPC the size of its messages.
    """
    truth, _ = evaluation.exact_search(data.base, data.queries, 10, Metric.COSINE)
    rows = []
    for name, setting in SETTINGS.items():
        compressed = setting["dim"] == "code_dim"
        with tempfile.TemporaryDirectory() as folder:
            one = filled_shard(Path(folder), data, codec, setting, len(data.base))
            queries = codec.encode_queries(data.queries) if compressed else data.queries
            again = edge.QuantizationSearchParams(rescore=True, oversampling=3.0) if "turbo" in setting else None
            search = edge.SearchParams(hnsw_ef=128, quantization=again)
            found = [
                [p.id for p in one.query(edge.QueryRequest(limit=10, query=edge.Query.Nearest(query), params=search))]
                for query in queries.tolist()
            ]
            one.close()
        with tempfile.TemporaryDirectory() as folder:
            filled_shard(Path(folder), data, codec, setting, points).close()
            disk = disk_bytes(Path(folder))
            np.save(Path(folder) / "queries.npy", queries)
            program = [sys.executable, str(MAIN), "--resident", folder]
            resident = int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
        thousand = stored_vectors(data.base[:1000], codec, setting)
        rest, by_grpc = sent_bytes({key: values.tolist() for key, values in thousand.items()})
        rows.append(
            {
                "stored": name,
                "dims": queries.shape[1],
                "recall@10": float(evaluation.recall(np.array(found), truth, 10).mean()),
                "disk (MB)": round(disk / points),
                "RAM (MB)": round(resident / points),
                "upsert by REST (MB)": round(rest / 1000),
                "upsert by gRPC (MB)": round(by_grpc / 1000),
            }
        )
    print(f"Per million vectors, from {points:,}:\n")
    table(rows)


def stored_vectors(rows: FloatArray, codec: VectorCodec, setting: dict[str, Any]) -> dict[str, FloatArray]:
    vectors = {"": codec.encode(rows) if setting["dim"] == "code_dim" else rows}
    return {**vectors, "original": rows} if setting.get("originals") else vectors


def filled_shard(folder: Path, data: Data, codec: VectorCodec, setting: dict[str, Any], points: int) -> Any:
    made = {k: v for k, v in setting.items() if k in ("datatype", "turbo", "on_disk")}
    config = {"": params(getattr(codec, setting["dim"]), **made)}
    if setting.get("originals"):
        config["original"] = params(codec.dim, m=0, on_disk=True, datatype=HALF)
    filled = shard(folder, config)
    fill(filled, (stored_vectors(rows, codec, setting) for _, rows in data.repeated(points)))
    return filled


def sent_bytes(columns: dict[str, list[list[float]]]) -> tuple[int, int]:
    """Return the bytes that an upsert of points with these vectors sends by REST and by gRPC."""
    received: list[int] = []

    class Counter(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            received.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
            content = b'{"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    points = [
        models.PointStruct(id=i, vector=row[0] if len(row) == 1 else dict(zip(columns, row, strict=True)))
        for i, row in enumerate(zip(*columns.values(), strict=True))
    ]
    server = HTTPServer(("127.0.0.1", 0), Counter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = QdrantClient(url=f"http://127.0.0.1:{server.server_port}", check_compatibility=False)
    client.upsert("docs", points)
    client.close()
    server.shutdown()
    server.server_close()
    request = grpc.UpsertPoints(collection_name="docs", points=[RestToGrpc.convert_point_struct(p) for p in points])
    return received[0], request.ByteSize()


def resident(folder: Path) -> None:
    """Print, in a process of its own, the bytes gained by opening a shard and searching it.

    A shard of two points is opened first, so that the engine's threads and buffers are not counted.
    """
    queries = np.load(folder / "queries.npy").tolist()
    codes_only = edge.QuantizationSearchParams(rescore=False)
    search = edge.SearchParams(hnsw_ef=128, quantization=codes_only)

    def answer(opened: Any) -> None:
        for query in queries:
            opened.query(edge.QueryRequest(limit=10, query=edge.Query.Nearest(query), params=search))

    with tempfile.TemporaryDirectory() as name:
        small = shard(Path(name), {"": params(len(queries[0]))})
        fill(small, [{"": np.array(queries[:2], np.float32)}])
        answer(small)
        before = psutil.Process().memory_info().rss
        opened = edge.EdgeShard.load(str(folder))
        answer(opened)
        print(psutil.Process().memory_info().rss - before)
        opened.close()
        small.close()
