"""Test the examples of docs/serving.md: what can run here runs unchanged."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from vaecodec import Codec
from vaecodec.errors import InvalidArtifactError
from vaecodec_cli.main import main
from vaecodec_exporters.parts import write_parts

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "serving.md").read_text()
# Where .ci/run installs onnxruntime-node.
NODE_MODULES = ROOT / "build" / "node" / "node_modules"


def example(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)[number]


@pytest.fixture
def parts(vae_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder that the guide's command writes; a codec lies beside it."""
    shutil.copy(vae_path, tmp_path / "vae128.onnx")
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(example("sh"))
    assert program == "vaecodec"
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return tmp_path / "serving"


def test_the_parts_of_a_codec_compute_what_it_computes(parts: Path, vae_path: Path, sample: Any) -> None:
    codec, rows = Codec.load(vae_path), sample.base[:9]
    latents = codec.encode(rows)
    expected = {
        "encode": (rows, latents),
        "encode_queries": (rows, codec.encode_queries(rows)),
        "decode": (latents, codec.decode(latents)),
    }
    for name, (fed, computed) in expected.items():
        session = onnxruntime.InferenceSession(parts / f"{name}.onnx")
        (feed,) = session.get_inputs()
        assert session.get_overridable_initializers() == []
        np.testing.assert_allclose(session.run(None, {feed.name: fed})[0], computed, atol=1e-6)
        assert session.get_modelmeta().custom_metadata_map["vaecodec.codec_id"] == codec.codec_id
        with pytest.raises(InvalidArtifactError) as raised:
            Codec.load(parts / f"{name}.onnx")
        assert str(raised.value) == (
            f"{parts}/{name}.onnx: one entry point of a codec, '{feed.name}', for other runtimes; "
            "load the codec file that vaecodec split made it from"
        )


def test_a_damaged_codec_is_not_split(vae_path: Path, tmp_path: Path) -> None:
    data = bytearray(vae_path.read_bytes())
    data[5_000] ^= 1
    (tmp_path / "vae.onnx").write_bytes(data)
    with pytest.raises(InvalidArtifactError, match=r"vae\.onnx: "):
        write_parts(tmp_path / "vae.onnx", tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_split_names_its_files_as_json(svd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["split", str(svd_path), "--out", str(tmp_path), "--json"])
    files = json.loads(capsys.readouterr().out)
    assert files == {name: f"{tmp_path}/{name}.onnx" for name in ("encode", "encode_queries", "decode")}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.onnx" for name in files}


@pytest.mark.parametrize(("number", "file", "required"), [(0, "encode.onnx", 1), (1, "../vae128.onnx", 0)])
def test_triton_finds_in_the_graph_what_the_configuration_says(
    number: int, file: str, required: int, parts: Path
) -> None:
    """Check what the backend's ``ValidateInputs`` and ``ValidateOutputs`` ask for, but not the backend itself."""
    config = example("protobuf", number)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(parts / file, options)
    inputs = session.get_inputs()
    assert len(inputs) == required == 1 - config.count("optional: true")
    batched = "max_batch_size: 0" not in config
    assert batched == (required == 1)
    known = [*inputs, *session.get_overridable_initializers(), *session.get_outputs()]
    graph = {value.name: (value.type, value.shape[1]) for value in known}
    width = {"embedding": 384, "latent": 64}  # the codec of the tests has 64 latents, the guide's 128
    for name, dims in re.findall(r'name: "(\w+)" data_type: TYPE_FP32 dims: \[ (.*?) \]', config):
        assert graph[name] == ("tensor(float)", width[name])
        said = str(384 if name == "embedding" else 128)
        assert dims == (said if batched else f"-1, {said}")


def node(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    if not (NODE_MODULES / "onnxruntime-node").exists():
        pytest.skip(f"onnxruntime-node is not in {NODE_MODULES}; .ci/run installs it")
    (folder / "encode.js").write_text(script)
    environment = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    return subprocess.run(
        ["node", "encode.js"], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def test_the_javascript_encodes(parts: Path, vae_path: Path, sample: Any) -> None:
    sample.base[:9].tofile(parts / "embeddings.f32")
    done = node(parts, example("javascript"))
    assert done.stdout == "9 rows of 64\n", done.stderr
    latents = np.fromfile(parts / "latents.f32", np.float32).reshape(9, 64)
    np.testing.assert_allclose(latents, Codec.load(vae_path).encode(sample.base[:9]), atol=1e-5)


def test_the_javascript_refuses_a_row_without_direction(parts: Path, sample: Any) -> None:
    rows = sample.base[:9].copy()
    rows[4] = np.nan
    rows.tofile(parts / "embeddings.f32")
    done = node(parts, example("javascript"))
    assert done.returncode == 1
    assert "row 4 holds NaN or infinity, or is zero" in done.stderr


def test_javascript_ignores_the_optional_inputs_of_the_whole_file(parts: Path, sample: Any) -> None:
    """When this fails, onnxruntime-node has learnt to feed them, and the guide's warning can go."""
    sample.base[:9].tofile(parts / "embeddings.f32")
    done = node(parts, example("javascript").replace('"encode.onnx"', '"../vae128.onnx"'))
    assert done.stdout == "0 rows of 64\n", done.stderr


@pytest.mark.parametrize("fixed", [True, False])
def test_the_pure_rust_runtime_encodes(
    fixed: bool, parts: Path, vae_path: Path, sample: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tract", reason="the package tract is not installed")
    script = example("python").replace('"encode.onnx"', f'"{parts}/encode.onnx"')
    if not fixed:
        script = "".join(line for line in script.splitlines(True) if "set_input_fact" not in line)
    np.save("embeddings.npy", sample.base[:9])
    known: dict[str, Any] = {}
    exec(script, known)
    assert capsys.readouterr().out == "(2, 64)\n"
    np.testing.assert_allclose(known["latents"].to_numpy(), Codec.load(vae_path).encode(sample.base[:2]), atol=1e-6)
