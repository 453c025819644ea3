"""Test that a codec goes to the Hub, or a folder, with its card, and comes back as the same bytes or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, fit_linear
from vaecodec.errors import ArtifactNotFoundError, CodecMismatchError, InvalidArtifactError, OutputExistsError
from vaecodec_exporters.linear import export_linear

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    path = tmp_path_factory.mktemp("hub") / "small.onnx"
    export_linear(fit_linear(rows, 8, embedder="MiniLM"), path)
    return path


def test_a_folder_takes_the_file_with_its_card_and_gives_it_back(path: Path, tmp_path: Path) -> None:
    codec = Codec.load(path, dim=4)
    codec.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "codec.onnx").read_bytes() == path.read_bytes()
    assert 'Codec.load("codec.onnx")' in (tmp_path / "model" / "README.md").read_text()
    again = Codec.from_pretrained(tmp_path / "model", codec_id=codec.codec_id, dim=4, threads=1)
    rows = np.ones((2, 16), np.float32)
    assert again.encode(rows).tobytes() == codec.encode(rows).tobytes()
    # A card that people wrote stays; the same codec may be saved again, and one that was pickled is whole.
    (tmp_path / "model" / "README.md").write_text("ours")
    pickle.loads(pickle.dumps(codec)).save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "ours"


def test_another_codec_is_replaced_when_asked_only(path: Path, svd_path: Path, tmp_path: Path) -> None:
    Codec.load(svd_path).save_pretrained(tmp_path)
    with pytest.raises(OutputExistsError, match="exists already; choose another name, or replace it"):
        Codec.load(path).save_pretrained(tmp_path)
    Codec.load(path).save_pretrained(tmp_path, overwrite=True)
    assert (tmp_path / "codec.onnx").read_bytes() == path.read_bytes()
    (tmp_path / "codec.onnx").write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="exists already; delete it"):
        Codec.load(path).save_pretrained(tmp_path, overwrite=True)


def test_what_is_not_the_codec_asked_for_is_refused(path: Path, tmp_path: Path) -> None:
    codec = Codec.load(path)
    codec.save_pretrained(tmp_path)
    with pytest.raises(CodecMismatchError, match=f"expected the codec {'0' * 64}, got {codec.codec_id}"):
        Codec.from_pretrained(tmp_path, codec_id="0" * 64)
    with pytest.raises(ArtifactNotFoundError, match=r"other\.onnx: there is no such codec file; name it with file="):
        Codec.from_pretrained(tmp_path, file="other.onnx")
    (tmp_path / "other.onnx").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InvalidArtifactError, match="expected an ONNX model, but the bytes are not one"):
        Codec.from_pretrained(tmp_path, file="other.onnx")


class Hub(BaseHTTPRequestHandler):
    """Serve as much of the Hub's protocol as one small repository needs."""

    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self._json({"url": f"{self._address()}/me/{json.loads(body)['name']}"})
        elif "/preupload/" in self.path:
            kept = [{"uploadMode": "regular", "shouldIgnore": False, **file} for file in json.loads(body)["files"]]
            self._json({"files": kept})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{self._address()}/me/small/commit/{COMMIT}"}
            )

    def do_GET(self, body: bool = True) -> None:
        data = self.files.get(self.path.rpartition("/")[2])
        if self.path.startswith("/api/"):
            self._json({"sha": COMMIT, "id": "me/small"})
        elif data is None or not self.path.startswith("/me/small/resolve/main/"):
            wrong = "EntryNotFound" if self.path.startswith("/me/small/") else "RepoNotFound"
            self._answer(404, b"", {"X-Error-Code": wrong}, body)
        else:
            digest = hashlib.sha256(data).hexdigest()
            self._answer(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'}, body)

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def log_message(self, *args: object) -> None:
        """Write nothing."""

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data if body else b"")


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    handler = type("OneHub", (Hub,), {"files": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


USER = """
import sys
from vaecodec import Codec
from vaecodec.errors import ArtifactNotFoundError

codec = Codec.load(sys.argv[1])
print(codec.push_to_hub("me/small"))
print(Codec.from_pretrained("me/small", codec_id=codec.codec_id).codec_id)
for repository, file in ("me/small", "none.onnx"), ("me/none", "codec.onnx"), ("./none/at/all", "codec.onnx"):
    try:
        Codec.from_pretrained(repository, file=file)
    except ArtifactNotFoundError as error:
        print(error)
"""


def test_the_hub_gets_file_and_card_and_gives_the_file_back(
    hub: ThreadingHTTPServer, path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    # In a process of its own: huggingface_hub reads its settings when it is imported.
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x"}
    settings = {**os.environ, **own, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    finished = subprocess.run(
        [sys.executable, "-c", USER, path], env=settings, capture_output=True, text=True, timeout=100
    )
    assert finished.returncode == 0, finished.stderr
    address, identity, *errors = finished.stdout.splitlines()
    assert address == f"{own['HF_ENDPOINT']}/me/small/commit/{COMMIT}"
    assert identity == Codec.load(path).codec_id
    assert [error.partition(":")[0] for error in errors] == ["me/small", "me/none", "./none/at/all"]
    assert all("expected a folder or owner/name" in error for error in errors)
    files = hub.RequestHandlerClass.files  # type: ignore[attr-defined]
    assert files["codec.onnx"] == path.read_bytes()
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: vaecodec\n")
    assert f'Codec.from_pretrained(\n    "me/small", codec_id="{identity}"\n)' in card
