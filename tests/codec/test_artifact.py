"""Test the file format: what it holds, that it holds still, and what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from vaecodec import Codec, Kind, Metadata, Metric
from vaecodec.artifact import read_artifact, sign
from vaecodec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    InvalidArtifactError,
    UnsupportedFormatError,
)

GOLDEN = Path(__file__).parent / "golden"
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.builds(
        Metadata,
        kind=st.sampled_from(Kind),
        dim=st.integers(1, 10_000),
        code_dim=st.integers(1, 10_000),
        metric=st.sampled_from(Metric),
        latent_metric=st.sampled_from(Metric),
        nested_dims=st.lists(st.integers(1, 10_000), max_size=4).map(tuple),
        embedder=names,
        calibration=st.dictionaries(names, json_values, max_size=3),
        provenance=st.dictionaries(names, json_values, max_size=3),
    )
)
def test_metadata_survives_being_strings(metadata: Metadata) -> None:
    assert Metadata.from_properties(metadata.to_properties()) == metadata


def test_the_golden_file_reads_as_it_always_did() -> None:
    """Read golden/linear4.onnx, written by format 1: whatever reads format 1 must give these values for ever."""
    codec = Codec.load(GOLDEN / "linear4.onnx")
    values = np.load(GOLDEN / "linear4.npz", allow_pickle=False)
    assert codec.codec_id == str(values["codec_id"])
    assert codec.metadata.kind is Kind.LINEAR
    assert codec.embedder == "all-MiniLM-L6-v2"
    assert codec.metadata.nested_dims == (1, 2, 3, 4)
    assert np.allclose(codec.encode(values["embedding"]), values["latent"], atol=1e-6)
    assert np.allclose(codec.encode_queries(values["embedding"]), values["query_latent"], atol=1e-6)
    assert np.allclose(codec.decode(values["latent"]), values["reconstruction"], atol=1e-6)


def test_the_specification_can_be_followed_without_this_library(vae_path: Path, vae_codec: Codec, sample) -> None:
    """Run the Python example of docs/format.md in an interpreter that has no vaecodec."""
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    example = re.search(r"```python\n(import hashlib\n.*?)```", page, re.DOTALL)
    assert example is not None
    folder = vae_path.parent / "specification"
    folder.mkdir(exist_ok=True)
    shutil.copy(vae_path, folder / "codec.onnx")
    np.save(folder / "embeddings.npy", sample.base[:20])
    script = "import sys; sys.modules['vaecodec'] = None\n" + example[1] + "numpy.save('latents.npy', latents)\n"
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, timeout=600)
    assert np.allclose(np.load(folder / "latents.npy"), vae_codec.encode(sample.base[:20]), atol=1e-6)


def refused(path: Path, error: type[ArtifactError]) -> str:
    with pytest.raises(error) as caught:
        Codec.load(path)
    assert type(caught.value) is error
    return str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert refused(path, ArtifactNotFoundError) == f"{path}: there is no such codec file"
    assert refused(tmp_path, ArtifactNotFoundError) == f"{tmp_path}: there is no such codec file"


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04zip", bytes(64)])
def test_a_file_that_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    assert refused(path, InvalidArtifactError) == f"{path}: expected an ONNX model, but the bytes are not one"


def test_an_onnx_file_that_is_not_a_codec(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])), path)
    assert refused(path, InvalidArtifactError) == (
        f"{path}: an ONNX model, but not a vaecodec codec (no 'vaecodec.' metadata); make one with: vaecodec export"
    )


def edited(source: Path, target: Path, **properties: str) -> None:
    """Return the same model with some metadata changed, signed anew."""
    model = onnx.load(source)
    for entry in model.metadata_props:
        entry.value = properties.get(entry.key.removeprefix("vaecodec."), entry.value)
    target.write_bytes(sign(model.SerializeToString()))


def test_a_newer_format(tmp_path: Path, svd_path: Path) -> None:
    path = tmp_path / "newer.onnx"
    edited(svd_path, path, format_version="2")
    assert refused(path, UnsupportedFormatError) == (
        f"{path}: format version 2 is newer than the 1 that this vaecodec reads; "
        "upgrade with: pip install --upgrade vaecodec"
    )


def test_metadata_that_makes_no_sense(tmp_path: Path, svd_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    edited(svd_path, path, metric="manhattan")
    assert refused(path, InvalidArtifactError) == (
        f"{path}: the codec metadata is incomplete or malformed: 'manhattan' is not a valid Metric"
    )


def test_a_flipped_bit(tmp_path: Path, svd_path: Path) -> None:
    data = bytearray(svd_path.read_bytes())
    stated = read_artifact(svd_path)[1].codec_id
    data[len(data) // 2] ^= 16
    path = tmp_path / "flipped.onnx"
    path.write_bytes(data)
    assert re.fullmatch(
        rf"{re.escape(str(path))}: the content has checksum [0-9a-f]{{12}}…, but the file says {stated[:12]}…; "
        "it was damaged or changed: copy or export it again",
        refused(path, InvalidArtifactError),
    )


def test_weights_outside_the_file(tmp_path: Path, svd_path: Path) -> None:
    model = onnx.load(svd_path)
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=1000)
    path = tmp_path / "external.onnx"
    path.write_bytes(sign((tmp_path / "split.onnx").read_bytes()))
    assert refused(path, InvalidArtifactError) == (
        f"{path}: keeps weights outside the file, which a codec must not; export it again"
    )


@given(st.data())
def test_no_damaged_file_is_ever_accepted(golden_bytes: bytes, damaged_path: Path, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(golden_bytes) - 1))
    if data.draw(st.booleans()):
        damaged = bytearray(golden_bytes)
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        damaged = bytearray(golden_bytes[:position])
    damaged_path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=rf"^{re.escape(str(damaged_path))}: "):
        read_artifact(damaged_path)


@pytest.fixture(scope="module")
def golden_bytes() -> bytes:
    return (GOLDEN / "linear4.onnx").read_bytes()


@pytest.fixture(scope="module")
def damaged_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "codec.onnx"
