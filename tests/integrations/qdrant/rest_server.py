"""Answer REST requests on loopback out of Qdrant's local mode, as far as the tests need it.

Bodies are read by qdrant-client's own models, so that what is serialised wrongly is refused.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from qdrant_client import QdrantClient, models

SELECTOR: Any = models.PointsSelector


class RestServer:
    """Serve ``local`` at ``url``; keep (method, path) of each request in ``requests``.

    Attributes:
        version: what the server says of itself.
        keeps_metadata: servers before 1.16 do not.
    """

    def __init__(self) -> None:
        self.local = QdrantClient(":memory:")
        self.version, self.keeps_metadata = "1.19.0", True
        self.requests: list[tuple[str, str]] = []
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise each small answer waits for the acknowledgement of its head.
            wbufsize = -1

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with lock:
                    status, content = outer.handle(self.command, unquote(self.path.split("?")[0]), body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.local.close()

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.requests.append((method, path))
        if path == "/":
            return 200, json.dumps({"title": "qdrant", "version": self.version}).encode()
        try:
            result = self.route(method, path, body)
        except ValidationError as error:
            return 400, _failure(f"Format error in JSON body: {error}")
        except (ValueError, KeyError) as error:
            return (404 if "not found" in str(error) else 400), _failure(str(error))
        return 200, json.dumps({"result": _plain(result), "status": "ok", "time": 0.0}).encode()

    def route(self, method: str, path: str, body: bytes) -> Any:
        local = self.local
        if path == "/collections":
            return local.get_collections()
        if path == "/aliases":
            return local.get_aliases()
        if path == "/collections/aliases":
            return local.update_collection_aliases(_read(models.ChangeAliasesOperation, body).actions)
        matched = re.fullmatch(r"/collections/([^/]+)(?:/(.*))?", path)
        if matched is None:
            raise ValueError(f"unexpected {method} {path}")
        name, rest = matched[1], matched[2] or ""
        if rest.startswith("vectors/"):
            vector = rest.removeprefix("vectors/")
            if method == "DELETE":
                return local.delete_vector_name(name, vector)
            return local.create_vector_name(name, vector, _read(models.VectorNameConfig, body))
        return self.routes()[method, rest](name, body)

    def routes(self) -> dict[tuple[str, str], Callable[[str, bytes], Any]]:
        local = self.local
        return {
            ("GET", ""): lambda name, _: local.get_collection(name),
            ("GET", "exists"): lambda name, _: {"exists": local.collection_exists(name)},
            ("DELETE", ""): lambda name, _: local.delete_collection(name),
            ("PUT", ""): self.create,
            ("PATCH", ""): self.update,
            ("PUT", "points"): self.upsert,
            ("POST", "points"): self.retrieve,
            ("PUT", "points/vectors"): self.update_vectors,
            ("POST", "points/vectors/delete"): self.delete_vectors,
            ("POST", "points/batch"): lambda name, body: local.batch_update_points(
                name, _read(models.UpdateOperations, body).operations
            ),
            ("POST", "points/delete"): lambda name, body: local.delete(name, _read(SELECTOR, body)),
            ("POST", "points/payload"): self.set_payload,
            ("POST", "points/count"): lambda name, body: local.count(name),
            ("POST", "points/scroll"): self.scroll,
            ("POST", "points/query"): lambda name, body: self.search(name, [_read(models.QueryRequest, body)])[0],
            ("POST", "points/query/batch"): lambda name, body: self.search(
                name, _read(models.QueryRequestBatch, body).searches
            ),
            ("POST", "points/query/groups"): self.groups,
            ("POST", "points/search/matrix/pairs"): lambda name, body: local.search_matrix_pairs(
                name, **_sampled(body)
            ),
            ("POST", "points/search/matrix/offsets"): lambda name, body: local.search_matrix_offsets(
                name, **_sampled(body)
            ),
        }

    def create(self, name: str, body: bytes) -> bool:
        asked = _read(models.CreateCollection, body)
        metadata = asked.metadata if self.keeps_metadata else None
        return self.local.create_collection(
            name, asked.vectors, sparse_vectors_config=asked.sparse_vectors, metadata=metadata
        )

    def update(self, name: str, body: bytes) -> bool:
        asked = _read(models.UpdateCollection, body)
        self.local.update_collection(name, vectors_config=asked.vectors)
        return not self.keeps_metadata or self.local.update_collection(name, metadata=asked.metadata)

    def upsert(self, name: str, body: bytes) -> Any:
        asked = _read(models.PointInsertOperations, body)
        points = asked.batch if isinstance(asked, models.PointsBatch) else asked.points
        return self.local.upsert(name, points, update_filter=asked.update_filter, update_mode=asked.update_mode)

    def retrieve(self, name: str, body: bytes) -> Any:
        asked = _read(models.PointRequest, body)
        return self.local.retrieve(name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector)

    def update_vectors(self, name: str, body: bytes) -> Any:
        return self.local.update_vectors(name, _read(models.UpdateVectors, body).points)

    def delete_vectors(self, name: str, body: bytes) -> Any:
        asked = _read(models.DeleteVectors, body)
        return self.local.delete_vectors(name, asked.vector, asked.points or asked.filter)

    def set_payload(self, name: str, body: bytes) -> Any:
        asked = _read(models.SetPayload, body)
        return self.local.set_payload(name, asked.payload, asked.points or asked.filter)

    def scroll(self, name: str, body: bytes) -> Any:
        asked = _read(models.ScrollRequest, body)
        points, following = self.local.scroll(
            name,
            scroll_filter=asked.filter,
            limit=asked.limit or 10,
            offset=asked.offset,
            with_payload=asked.with_payload if asked.with_payload is not None else True,
            with_vectors=asked.with_vector or False,
        )
        return {"points": _plain(points), "next_page_offset": following}

    def search(self, name: str, requests: list[models.QueryRequest]) -> Any:
        return self.local.query_batch_points(name, requests)

    def groups(self, name: str, body: bytes) -> Any:
        asked = _read(models.QueryGroupsRequest, body)
        return self.local.query_points_groups(
            name,
            asked.group_by,
            query=asked.query,
            using=asked.using,
            prefetch=asked.prefetch,
            query_filter=asked.filter,
            score_threshold=asked.score_threshold,
            lookup_from=asked.lookup_from,
            limit=asked.limit or 10,
            group_size=asked.group_size or 3,
            with_payload=asked.with_payload if asked.with_payload is not None else True,
            with_vectors=asked.with_vector or False,
            with_lookup=asked.with_lookup,
        )


def _read(kind: Any, body: bytes) -> Any:
    return TypeAdapter(kind).validate_json(body)


def _sampled(body: bytes) -> dict[str, Any]:
    asked = _read(models.SearchMatrixRequest, body)
    return {"sample": asked.sample, "limit": asked.limit, "using": asked.using}


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(item) for item in result]
    return result.model_dump(mode="json") if isinstance(result, BaseModel) else to_jsonable_python(result)


def _failure(message: str) -> bytes:
    return json.dumps({"status": {"error": message}, "time": 0.0}).encode()
