"""Test a codec in other processes: forked, spawned, and seen from outside."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec


def test_a_pickled_codec_brings_its_file_along(svd_path: Path, tmp_path: Path, sample) -> None:
    path = tmp_path / "codec.onnx"
    path.write_bytes(svd_path.read_bytes())
    codec = Codec.load(path, dim=32, threads=1)
    codec.encode(sample.base[:5], dtype="int8")  # what it has read of its calibration goes along
    pickled = pickle.dumps(codec)
    path.unlink()
    same = pickle.loads(pickled)
    assert (same.codec_id, same.code_dim, same.providers) == (codec.codec_id, 32, codec.providers)
    assert np.array_equal(same.encode(sample.base[:300]), codec.encode(sample.base[:300]))
    assert np.array_equal(same.encode(sample.base[:5], dtype="int8"), codec.encode(sample.base[:5], dtype="int8"))


def test_a_codec_can_be_sent_to_a_spawned_process(svd_path: Path, sample) -> None:
    codec = Codec.load(svd_path, threads=1)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert np.array_equal(pool.submit(codec.encode, sample.base[:40]).result(60), codec.encode(sample.base[:40]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_starts_the_graph_anew(svd_path: Path, sample) -> None:
    codec = Codec.load(svd_path, threads=4)
    latents = codec.encode(sample.base[:1500])
    for _ in range(3):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that waits for ever
            same = np.array_equal(codec.encode(sample.base[:1500]), latents)
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(codec.encode(sample.base[:1500]), latents)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_loading_opens_no_socket_and_writes_no_file(svd_path: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import os, numpy, vaecodec\n"
        f"vaecodec.Codec.load({str(svd_path)!r}).encode(numpy.ones((2, 384), 'f4'))\n"
        "links = []\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try: links.append(os.readlink('/proc/self/fd/' + name))\n"
        "    except OSError: pass\n"
        "print([link for link in links if link.startswith('socket:')])\n"
    )
    kept = {name: value for name, value in os.environ.items() if "CACHE" not in name and name not in ("CI", "HOME")}
    kept.pop("ORT_DISABLE_TELEMETRY", None)
    kept.pop("GITHUB_ACTIONS", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
    )
    assert done.stdout == "[]\n"
    assert list(home.rglob("*")) == []
