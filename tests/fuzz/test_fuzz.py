"""Test damaged and hostile bytes: they are refused by an error of ours, or read."""

from __future__ import annotations

import pytest
from fuzz_targets import targets
from hypothesis import given, settings
from hypothesis import strategies as st

TARGETS = targets()


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Return any bytes, or a valid file with a few of its bytes changed, inserted or removed, most often near its
    start.
    """
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

    @settings(max_examples=60)
    @given(damaged(tuple(target.seeds)))
    def read(data: bytes) -> None:
        target.read(data)

    read()
