"""Open a Qdrant server or folder, and explain its refusals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from pydantic import ValidationError
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from vaecodec.errors import CollectionNotFoundError, StoreError, UnsupportedRequestError

# The HTTP status that matches each gRPC status.
_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
}
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def check_address(url: str) -> None:
    """Raise ``UnsupportedRequestError`` unless this is the address of a server of Qdrant."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - which raises for one that is no number
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnsupportedRequestError(f"expected an address such as http://localhost:6333, got {url!r}")


def open_client(*, url: str | None = None, path: str | os.PathLike[str] | None = None) -> QdrantClient:
    """Open a server, or a folder of Qdrant's local mode. The server's key is read from ``QDRANT_API_KEY``.

    Args:
        url: the server's address.
        path: the folder, which must be there; give exactly one of ``url`` and ``path``.

    Raises:
        UnsupportedRequestError: this is no address.
        StoreError: the folder is not there, or another process has it open.
    """
    if path is None:
        check_address(url or "")
        return QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY") or None)
    if not Path(path).is_dir():  # otherwise the client would create it
        raise StoreError(f"{path}: expected a folder of Qdrant's local mode, got none; check the path")
    try:
        return QdrantClient(path=str(path))
    except RuntimeError as error:
        raise StoreError(f"{path}: {error}") from error


def collection_info(client: QdrantClient, collection: str) -> models.CollectionInfo:
    """Return the server's description of a collection; raise ``CollectionNotFoundError`` when there is none."""
    try:
        return client.get_collection(collection)
    except ValueError as error:  # local mode raises this
        raise _not_found(client, collection) from error
    except UnexpectedResponse as error:
        if error.status_code != 404:
            raise
        raise _not_found(client, collection) from error
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        raise _not_found(client, collection) from error


@contextmanager
def refusals(client: QdrantClient) -> Iterator[None]:
    """Turn what the client raises inside this context into errors of ours.

    Raises:
        CollectionNotFoundError: there is no such collection.
        StoreError: the server does not answer, or refuses the key or the request.
    """
    try:
        yield
    except UnexpectedResponse as error:
        raise _refused(client, error.status_code or 0, f"{error.reason_phrase}: {_said(error)}") from error
    except ApiException as error:
        source = getattr(error, "source", error)
        if isinstance(source, ValidationError):
            raise StoreError(
                f"{place(client)}: the server answers in a form that this client does not read; install the version of "
                f"qdrant-client that fits the server ({source})"
            ) from error
        raise _silent(client, source) from error
    except grpc.RpcError as error:
        code, details = error.code(), error.details()
        if code in _SILENT:
            raise _silent(client, details) from error
        raise _refused(client, _STATUS.get(code, 0), f"{code.name}: {details}") from error


def _refused(client: QdrantClient, status: int, said: str) -> StoreError:
    where, said = place(client), f"{status or ''} {said}".strip()
    if status in (401, 403):
        return StoreError(f"{where}: the server refuses the key ({said}); set QDRANT_API_KEY to one that may do this")
    if status == 404:
        return CollectionNotFoundError(f"{where}: the server does not find it ({said}); {_listed(client)}")
    return StoreError(f"{where}: the server refuses the request ({said})")


def _silent(client: QdrantClient, reason: object) -> StoreError:
    return StoreError(
        f"{place(client)}: the server does not answer ({reason}); check the address, and that the server runs"
    )


def _not_found(client: QdrantClient, collection: str) -> CollectionNotFoundError:
    return CollectionNotFoundError(f"{place(client)}: there is no collection {collection!r}; {_listed(client)}")


def _listed(client: QdrantClient) -> str:
    try:
        names = sorted(item.name for item in client.get_collections().collections)
    except (ApiException, grpc.RpcError):
        return "name one that is there"
    return f"there are: {', '.join(names) or 'none'}"


def place(client: QdrantClient) -> str:
    """Return the address of a client's server, or its folder."""
    options = client.init_options
    return str(options["path"] or options["url"] or options["location"] or options["host"] or "localhost")


def _said(error: UnexpectedResponse) -> str:
    """Return what the server gives as its reason, without the rest of its answer."""
    try:
        status = error.structured()["status"]
        return str(status["error"])
    except (ValueError, LookupError, TypeError):
        return error.content.decode("utf-8", "replace")[:200]
