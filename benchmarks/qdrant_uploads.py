"""Measure what uploads through the adapter cost the client: CPU time against encoding by hand and the plain client."""

from __future__ import annotations

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import grpc as transport
import numpy as np
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import RestToGrpc

from qdrant_data import Data, cpu_seconds, table
from vaecodec.interface import FloatArray, VectorCodec
from vaecodec_integrations.qdrant import CompressedQdrantClient

REPEATS = 7
# Points that the client sends at a time, unless told otherwise.
BATCH = 64


class Sink:
    """Run a server on loopback, in a process of its own, that takes points and keeps nothing.

    Args:
        info: what it says of its only collection.
    """

    def __init__(self, info: models.CollectionInfo) -> None:
        self._info = info

    def run(self, pipe: Connection) -> None:
        """Serve until the pipe is closed."""
        rest = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        rpc = transport.server(futures.ThreadPoolExecutor(2))
        answers: dict[str, Any] = {
            "/qdrant.Collections/Get": grpc.GetCollectionInfoResponse(
                result=RestToGrpc.convert_collection_info(self._info)
            ),
            "/qdrant.Points/Upsert": grpc.PointsOperationResponse(
                result=grpc.UpdateResult(operation_id=1, status=grpc.UpdateStatus.Acknowledged)
            ),
        }
        rpc.add_generic_rpc_handlers([_Answers({name: made.SerializeToString() for name, made in answers.items()})])
        port = rpc.add_insecure_port("127.0.0.1:0")
        rpc.start()
        pipe.send((rest.server_port, port))
        rest.serve_forever()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        described = self._info.model_dump(mode="json")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                result = described if self.command == "GET" else {"operation_id": 1, "status": "acknowledged"}
                body = json.dumps({"time": 0, "status": "ok", "result": result}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = answer  # noqa: N815

        return Handler


class _Answers(transport.GenericRpcHandler):
    """Give each method one answer, ready as bytes."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self._answers = answers

    def service(self, details: Any) -> Any:
        answer = self._answers[details.method]
        return transport.unary_unary_rpc_method_handler(lambda _body, _context: answer)


@contextmanager
def sink(info: models.CollectionInfo) -> Iterator[dict[str, dict[str, Any]]]:
    """Return how clients reach a sink, by the name of the transport."""
    processes = multiprocessing.get_context("spawn")
    mine, its = processes.Pipe()
    process = processes.Process(target=Sink(info).run, args=(its,), daemon=True)
    process.start()
    rest, rpc = mine.recv()
    options = {"url": f"http://127.0.0.1:{rest}", "grpc_port": rpc, "check_compatibility": False}
    try:
        yield {"REST": options, "gRPC": {**options, "prefer_grpc": True}}
    finally:
        process.terminate()
        process.join()


# How callers hand vectors over.
WAYS = ("array", "lists", "generator", "upload_points")


def upload(client: QdrantClient, way: str, given: Any) -> None:
    """Upload vectors or points once, in the given way."""
    if way == "upload_points":
        client.upload_points("docs", given)
    else:
        vectors = (row for row in given) if way == "generator" else given
        client.upload_collection("docs", vectors, ids=range(len(given)))


def prepared(way: str, rows: FloatArray) -> Any:
    """Return what the caller holds: an array, lists of floats, or points with such lists."""
    if way == "upload_points":
        return [models.PointStruct(id=i, vector=vector) for i, vector in enumerate(rows.tolist())]
    return rows.tolist() if way == "lists" else rows


def encoded(codec: VectorCodec, way: str, given: Any) -> Iterator[FloatArray]:
    """Yield latents as a caller makes them without the adapter: of a generator batch by batch, of the rest at once."""
    if way == "generator":
        rows = (row for row in given)
        while batch := list(islice(rows, BATCH)):
            yield codec.encode(np.asarray(batch, np.float32))
        return
    vectors = [point.vector for point in given] if way == "upload_points" else given
    yield codec.encode(np.asarray(vectors, np.float32))


def by_hand(client: QdrantClient, codec: VectorCodec, way: str, given: Any, sent: Any) -> None:
    """Encode, and upload latents in the form of what was given: a generator yields them as they are made."""
    if way == "generator":
        rows = (row for batch in encoded(codec, way, given) for row in batch)
        client.upload_collection("docs", rows, ids=range(len(given)))
        return
    deque(encoded(codec, way, given), maxlen=0)
    upload(client, way, sent)


def uploads(data: Data, codec: VectorCodec) -> None:
    """Measure the CPU time of an upload of the base by this process: encoding, the plain client with latents, both by
    hand, and the adapter.
    """
    here = QdrantClient(":memory:")
    CompressedQdrantClient(here, codec).create_collection("docs")
    rows = []
    with sink(here.get_collection("docs")) as reached:
        for way in WAYS:
            for name, options in reached.items():
                client = QdrantClient(**options)
                seconds = measured(client, codec, way, data.base)
                both = seconds["encoding (s)"] + seconds["latents, plain client (s)"]
                ratios = {
                    "adapter / sum of both": seconds["adapter (s)"] / both,
                    "adapter / both by hand": seconds["adapter (s)"] / seconds["both by hand (s)"],
                }
                rows.append({"": f"{way}, {name}", **seconds, **ratios})
                client.close()
    here.close()
    table(rows)


def measured(client: QdrantClient, codec: VectorCodec, way: str, vectors: FloatArray) -> dict[str, float]:
    """Return the CPU seconds of each upload, and of encoding."""
    given, sent = prepared(way, vectors), prepared(way, codec.encode(vectors))
    adapter = CompressedQdrantClient(client, codec)
    return best(
        {
            "encoding (s)": lambda: deque(encoded(codec, way, given), maxlen=0),
            "latents, plain client (s)": lambda: upload(client, way, sent),
            "both by hand (s)": lambda: by_hand(client, codec, way, given, sent),
            "adapter (s)": lambda: upload(adapter, way, given),
            "originals, plain client (s)": lambda: upload(client, way, given),
        }
    )


def best(works: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the least CPU time of several runs of each. They take turns, so that all meet the same other work."""
    runs = [{name: cpu_seconds(work) for name, work in works.items()} for _ in range(REPEATS)]
    return {name: min(run[name] for run in runs) for name in works}
