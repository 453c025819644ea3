"""Test a codec file as ingestion code uses it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from vaecodec import Codec, LinearKind, Metric, VectorCodec, fit_linear
from vaecodec.artifact import read_artifact
from vaecodec.errors import (
    BadRowsError,
    DeviceError,
    InvalidArtifactError,
    InvalidDimensionError,
    WrongWidthError,
)
from vaecodec.runtime import Runtime
from vaecodec.runtime import start as start_graph
from vaecodec_exporters.linear import export_linear


def test_says_what_it_is(vae_codec: Codec, vae_path: Path) -> None:
    assert isinstance(vae_codec, VectorCodec)
    assert (vae_codec.dim, vae_codec.code_dim) == (384, vae_codec.metadata.code_dim)
    assert (vae_codec.metric, vae_codec.latent_metric) == (Metric.COSINE, Metric.COSINE)
    assert vae_codec.providers == ["CPUExecutionProvider"]
    assert len(vae_codec.codec_id) == 64
    assert Codec.load(vae_path).codec_id == vae_codec.codec_id


@pytest.mark.parametrize("kind", LinearKind)
@pytest.mark.parametrize("metric", Metric)
def test_a_linear_codec_computes_in_onnx_what_it_computes_in_numpy(
    sample, tmp_path: Path, kind: LinearKind, metric: Metric
) -> None:
    linear = fit_linear(sample.train[:1000], 48, kind=kind, metric=metric)
    export_linear(linear, tmp_path / "linear.onnx")
    codec = Codec.load(tmp_path / "linear.onnx")
    latents = linear.encode(sample.base[:200])
    assert np.allclose(codec.encode(sample.base[:200]), latents, atol=1e-5)
    assert np.allclose(codec.encode_queries(sample.queries[:50]), linear.encode_queries(sample.queries[:50]), atol=1e-5)
    assert np.allclose(codec.decode(latents), linear.decode(latents), atol=1e-5)
    assert codec.latent_metric is linear.latent_metric

    narrow = Codec.load(tmp_path / "linear.onnx", dim=16)
    assert narrow.code_dim == 16
    assert np.allclose(narrow.encode(sample.base[:200]), linear.truncated(16).encode(sample.base[:200]), atol=1e-5)
    assert np.allclose(narrow.decode(latents[:, :16]), linear.truncated(16).decode(latents[:, :16]), atol=1e-5)


def test_latents_and_reconstructions_are_unit_float32_rows(sample, vae_codec: Codec) -> None:
    latents = vae_codec.encode(sample.base[:300])
    for rows, width in ((latents, vae_codec.code_dim), (vae_codec.decode(latents), 384)):
        assert rows.shape == (300, width)
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_reconstruction_is_near_the_original(sample, vae_codec: Codec) -> None:
    restored = vae_codec.decode(vae_codec.encode(sample.base))
    assert np.einsum("ij,ij->i", restored, sample.base).mean() > 0.75


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f8")])
def test_any_float_dtype_and_layout_gives_the_same_latents(sample, vae_codec: Codec, dtype: np.dtype) -> None:
    rows = sample.base[:50].astype(np.float16)  # what every dtype here holds exactly
    expected = vae_codec.encode(rows)
    wide = np.zeros((50, 768), dtype)
    wide[:, ::2] = rows
    for array in (rows.astype(dtype), np.asfortranarray(rows.astype(dtype)), wide[:, ::2]):
        assert np.array_equal(vae_codec.encode(array), expected)


def test_a_memory_map_is_encoded_block_by_block_like_an_array(
    sample, vae_codec: Codec, vae_path: Path, tmp_path: Path, monkeypatch
) -> None:
    np.save(tmp_path / "base.npy", sample.base)
    mapped = np.load(tmp_path / "base.npy", mmap_mode="r")
    whole = vae_codec.encode(sample.base)
    monkeypatch.setattr("vaecodec.runtime.ENCODED_BYTES", 1000 * 384 * 4)
    in_other_blocks = Codec.load(vae_path)
    latents = in_other_blocks.encode(mapped)
    assert np.allclose(latents, whole, atol=1e-6)
    assert np.allclose(in_other_blocks.decode(latents), vae_codec.decode(whole), atol=1e-5)


def test_an_empty_batch_gives_an_empty_batch(vae_codec: Codec) -> None:
    assert vae_codec.encode(np.empty((0, 384))).shape == (0, vae_codec.code_dim)
    assert vae_codec.encode_queries(np.empty((0, 384))).shape == (0, vae_codec.code_dim)
    assert vae_codec.decode(np.empty((0, vae_codec.code_dim))).shape == (0, 384)


def test_many_threads_get_the_bits_that_one_gets(sample, vae_codec: Codec) -> None:
    batches = [sample.base[start : start + 1 + 37 * start % 200] for start in range(0, 2000, 50)]
    alone = [vae_codec.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(vae_codec.encode, batches))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_the_callers_array_is_not_written_to(sample, vae_codec: Codec) -> None:
    mine = 3 * sample.base[:10]
    before = mine.copy()
    vae_codec.decode(vae_codec.encode(mine))
    assert np.array_equal(mine, before)


def test_bad_input_is_refused_by_every_method(vae_codec: Codec) -> None:
    with pytest.raises(WrongWidthError, match=r"^vectors: expected rows of width 384, got 383;"):
        vae_codec.encode(np.ones((2, 383)))
    with pytest.raises(WrongWidthError, match=r"^queries: expected rows of width 384, got 383;"):
        vae_codec.encode_queries(np.ones((2, 383)))
    with pytest.raises(WrongWidthError, match=rf"^codes: expected rows of width {vae_codec.code_dim}, got 384;"):
        vae_codec.decode(np.ones((2, 384)))
    rows = np.ones((9000, 384), np.float32)
    rows[8123] = 0
    with pytest.raises(BadRowsError, match="row 8123 "):
        vae_codec.encode(rows)


def test_a_width_that_the_file_lacks_is_refused(vae_path: Path, vae_codec: Codec) -> None:
    width = vae_codec.code_dim + 1
    with pytest.raises(InvalidDimensionError, match=f"expected dim to be one of .*{vae_codec.code_dim}, got {width};"):
        Codec.load(vae_path, dim=width)


def test_a_provider_that_is_not_there_is_an_error_unless_told_otherwise(vae_path: Path, sample) -> None:
    available = ", ".join(onnxruntime.get_available_providers())
    with pytest.raises(DeviceError) as caught:
        Codec.load(vae_path, providers=["NoSuchExecutionProvider", "CPUExecutionProvider"])
    assert str(caught.value) == (
        f"onnxruntime has no NoSuchExecutionProvider; available: {available}; "
        "install a build that has it (GPU: pip install 'vaecodec[gpu]') or pass strict=False"
    )
    fallen_back = Codec.load(vae_path, providers=["NoSuchExecutionProvider"], strict=False)
    assert fallen_back.providers == ["CPUExecutionProvider"]
    assert fallen_back.encode(sample.base[:3]).shape == (3, fallen_back.code_dim)


def test_a_device_is_a_gpu_an_explicit_choice_or_an_error(vae_path: Path, sample) -> None:
    expected = Codec.load(vae_path).encode(sample.base[:50])
    for device in ("cpu", "auto"):
        assert np.allclose(Codec.load(vae_path, device=device).encode(sample.base[:50]), expected, atol=1e-5)
    assert Codec.load(vae_path, device="cpu").providers == ["CPUExecutionProvider"]
    with_options = Codec.load(vae_path, providers=[("CPUExecutionProvider", {"use_arena": "0"})])
    assert np.array_equal(with_options.encode(sample.base[:50]), expected)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        assert Codec.load(vae_path, device="cuda").providers[0] == "CUDAExecutionProvider"
    else:
        with pytest.raises(DeviceError, match=r"^onnxruntime has no CUDAExecutionProvider; available: "):
            Codec.load(vae_path, device="cuda")
        assert Codec.load(vae_path, device="cuda", strict=False).providers == ["CPUExecutionProvider"]
    with pytest.raises(DeviceError, match=r"^expected device to be one of auto, cpu, cuda, got 'gpu';"):
        Codec.load(vae_path, device="gpu")
    with pytest.raises(DeviceError, match=r"^expected either device or providers, got device 'cpu' and "):
        Codec.load(vae_path, device="cpu", providers=["CPUExecutionProvider"])


def test_batches_staged_for_a_device_get_the_same_latents(
    sample, vae_path: Path, vae_codec: Codec, monkeypatch
) -> None:
    data, metadata = read_artifact(vae_path)
    monkeypatch.setattr("vaecodec.runtime._DEVICE_BLOCK_BYTES", 1000 * 384 * 4)
    session = partial(onnxruntime.InferenceSession, data, providers=["CPUExecutionProvider"])
    staged = Codec(Runtime(session, staged=True), metadata, metadata.code_dim)
    latents, restored = vae_codec.encode(sample.base), vae_codec.decode(vae_codec.encode(sample.base))
    with ThreadPoolExecutor(3) as pool:
        for several in pool.map(staged.encode, [sample.base] * 3):
            assert np.allclose(several, latents, atol=1e-6)
    assert np.allclose(staged.decode(latents), restored, atol=1e-6)
    bad = sample.base.copy()
    bad[2500] = np.nan
    with pytest.raises(BadRowsError, match="row 2500"):
        staged.encode(bad)
    assert np.allclose(staged.encode(sample.base), latents, atol=1e-6)


def test_a_provider_that_raises_is_not_blamed_on_the_file(vae_path: Path, monkeypatch) -> None:
    start = onnxruntime.InferenceSession

    def broken(data: bytes, options: onnxruntime.SessionOptions, providers: list) -> onnxruntime.InferenceSession:
        if providers != ["CPUExecutionProvider"]:
            raise RuntimeError("libcudnn.so.9: cannot open shared object file")
        return start(data, options, providers=providers)

    monkeypatch.setattr("onnxruntime.InferenceSession", broken)
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    with pytest.raises(DeviceError) as caught:
        Codec.load(vae_path, providers=["CUDAExecutionProvider"])
    assert str(caught.value) == (
        "onnxruntime could not start CUDAExecutionProvider and uses CPUExecutionProvider (libcudnn.so.9: cannot open "
        "shared object file); "
        "check the driver and libraries, or pass strict=False"
    )
    assert Codec.load(vae_path, providers=["CUDAExecutionProvider"], strict=False).providers == ["CPUExecutionProvider"]
    model = onnx.load(vae_path)
    model.graph.node[0].op_type = "NoSuchOperator"
    data = model.SerializeToString()
    with pytest.raises(InvalidArtifactError, match=r"^odd\.onnx: onnxruntime cannot load the graph"):
        start_graph("odd.onnx", data, providers=["CUDAExecutionProvider"], device=None, threads=None, strict=True)


def test_the_number_of_threads_does_not_change_the_latents(vae_path: Path, sample) -> None:
    one, two = (Codec.load(vae_path, threads=threads).encode(sample.base[:500]) for threads in (1, 2))
    assert np.allclose(one, two, atol=1e-6)
