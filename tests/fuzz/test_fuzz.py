"""Damaged and hostile bytes: refused by an error of ours, or read; and no damaged codec file is ever loaded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz_targets import codec_file, targets
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec import Codec
from vaecodec.errors import ArtifactError

TARGETS = targets()


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Any bytes, or a valid file with a few of its bytes changed, inserted or removed, most often near its start."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 256)) | st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors_escapes(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=150)
    @given(damaged(tuple(target.seeds)))
    def read(data: bytes) -> None:
        target.read(data)

    read()


def test_of_ten_thousand_damaged_codec_files_none_is_loaded(tmp_path: Path, monkeypatch) -> None:
    """Nor shown to onnxruntime: what does not have its checksum is refused before."""
    whole = codec_file()
    path = tmp_path / "codec.onnx"
    path.write_bytes(whole)
    assert Codec.load(path).dim == 32

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("onnxruntime was given a damaged file")

    monkeypatch.setattr("onnxruntime.InferenceSession", reached)
    chosen = random.Random(0)
    bits = chosen.sample(range(8 * len(whole)), 5_000)
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            Codec.load(path)
    for length in chosen.sample(range(len(whole)), 5_000):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError):
            Codec.load(path)
