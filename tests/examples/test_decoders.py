"""Test that the decoders in JavaScript and C give the bits that Python gives, and refuse other files."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from vaecodec import Codec
from vaecodec.codes import Calibration
from vaecodec.evaluation import exact_search

ROOT = Path(__file__).parent.parent.parent
DECODERS = ROOT / "examples" / "decoders"
GOLDEN = ROOT / "tests" / "codec" / "golden"
# Every calibration that docs/codes.md knows, the sizes of whose codes were published: (file, name, sizes).
PUBLISHED = [
    *(("codes.npz", name, (8, 11, 12)) for name in ("cosine 8", "cosine 10", "cosine 12", "dot 8")),
    ("codes-residual.npz", "cosine", (4, 6, 8, 9, 11, 14)),
    ("codes-residual.npz", "dot", (4, 7, 8, 10, 12)),
]


def published(file: str, name: str, sizes: tuple[int, ...]) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """Return a calibration, and the codes of each size."""
    with np.load(GOLDEN / file, allow_pickle=False) as golden:
        stored = json.loads(str(golden[name if f"{name} calibration" not in golden else f"{name} calibration"]))
        return stored, {size: golden[f"{name} {size}"] for size in sizes}


class Decoder(NamedTuple):
    command: list[str]

    def __call__(self, file: Path, size: int, codes: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self.command, str(file), str(size)], input=codes, capture_output=True, timeout=600)


@pytest.fixture(scope="module", params=["JavaScript", "C"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    if request.param == "JavaScript":
        node = shutil.which("node")
        if node is None:
            pytest.skip("Node.js is not installed")
        return Decoder([node, str(DECODERS / "decode.mjs")])
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    program = tmp_path_factory.mktemp("decoder") / "decode"
    options = ["-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, str(DECODERS / "decode.c"), "-lm", "-o", str(program)], check=True, timeout=600)
    return Decoder([str(program)])


@pytest.mark.parametrize(("file", "name", "sizes"), PUBLISHED)
def test_published_codes_are_decoded_to_the_same_bits(
    decoder: Decoder, file: str, name: str, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    stored, codes = published(file, name, sizes)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"codes": stored}))
    calibration = Calibration.from_json(stored)
    for size in sizes:
        decoded = decoder(path, size, codes[size].tobytes())
        assert decoded.returncode == 0, decoded.stderr
        assert decoded.stdout == calibration.code(bytes=size).decode(codes[size]).astype("<f4").tobytes(), size


def test_a_codec_file_is_read_as_it_is(decoder: Decoder, svd_path: Path, sample) -> None:
    codec = Codec.load(svd_path)
    codes = codec.encode(sample.base[:200], bytes=40)
    decoded = decoder(svd_path, 40, codes.tobytes())
    assert decoded.stdout == codec.code(bytes=40).decode(codes).astype("<f4").tobytes()


@pytest.mark.parametrize("content", [b"", b"{", b'{"codes": {}}', b"\x72\xff\xff\xff", b"\x80" * 20, b"PK\x03\x04" * 9])
def test_what_is_no_codec_file_is_refused(decoder: Decoder, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    refused = decoder(path, 16, b"")
    assert refused.returncode == 1
    assert b"rror" in refused.stderr or b"expected" in refused.stderr or b"damaged" in refused.stderr


def test_sizes_that_there_are_no_codes_of_are_refused(decoder: Decoder, svd_path: Path) -> None:
    for size in (0, 4_000):
        assert decoder(svd_path, size, b"").returncode == 1


def test_the_module_is_small_and_depends_on_nothing() -> None:
    module = (DECODERS / "vaecodec.mjs").read_text()
    assert len(module.encode()) <= 20_000
    assert "import " not in module.split("openCode(new")[1]
    header = (DECODERS / "vaecodec.h").read_text()
    included = {line.split("<")[1].rstrip(">") for line in header.splitlines() if line.startswith("#include")}
    assert included == {"math.h", "stddef.h", "stdint.h", "stdlib.h", "string.h"}


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def shown(folder: Path, page: str, profile: Path) -> str:
    """Serve a folder, and return what a page of it holds after its scripts ran in a browser."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={profile}", "--virtual-time-budget=60000"]
        address = f"http://127.0.0.1:{server.server_port}/{page}"
        content = subprocess.run([*command, address], capture_output=True, text=True, timeout=600, check=True).stdout
        server.shutdown()
    return content


PAGE = """<!doctype html><body><script type="module">
import {openCode} from "./vaecodec.mjs";
const read = async (file) => new Uint8Array(await (await fetch(file)).arrayBuffer());
for (const [calibration, codes, size] of await (await fetch("cases.json")).json()) {
  const latents = openCode(await read(calibration), size).decode(await read(codes));
  const bytes = new Uint8Array(latents.buffer, latents.byteOffset, latents.byteLength);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  document.body.append(Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join(""), " ");
}
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")
def test_a_browser_decodes_published_codes_to_the_same_bits(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(DECODERS / "vaecodec.mjs", folder)
    (folder / "page.html").write_text(PAGE)
    cases, expected = [], []
    for number, one in enumerate(PUBLISHED):
        stored, codes = published(*one)
        (folder / f"{number}.json").write_text(json.dumps({"codes": stored}))
        for size, rows in codes.items():
            (folder / f"{number}-{size}.bin").write_bytes(rows.tobytes())
            cases.append((f"{number}.json", f"{number}-{size}.bin", size))
            latents = Calibration.from_json(stored).code(bytes=size).decode(rows)
            expected.append(hashlib.sha256(latents.astype("<f4").tobytes()).hexdigest())
    (folder / "cases.json").write_text(json.dumps(cases))
    assert re.findall(r"\b[0-9a-f]{64}\b", shown(folder, "page.html", tmp_path / "profile")) == expected


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")
def test_the_page_finds_in_a_browser_what_python_finds(tmp_path: Path) -> None:
    folder = tmp_path / "page"
    build = [sys.executable, str(ROOT / "examples" / "browser" / "build.py"), "--out", str(folder), "--rows", "1500"]
    subprocess.run(build, check=True, capture_output=True)
    page = shown(folder, "", tmp_path / "profile")

    codec = Codec.load(folder / "codec.onnx")
    latents = codec.code(bytes=32).decode(np.fromfile(folder / "codes.bin", np.uint8).reshape(-1, 32))
    query = np.fromfile(folder / "queries.bin", "<f4").reshape(-1, codec.code_dim)[:1]
    found, _ = exact_search(latents, query, 10, codec.latent_metric)
    assert f'data-found="{" ".join(map(str, found[0]))}"' in page
    assert "1,500 vectors in 0.0 MB (32 bytes each; the originals take 1,536)" in page


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print no requests among the tests."""
