"""Compile the inner loops of the trellis with numba. Import only after ``vaecodec.extras.require("numba",
extra="packed")``.

Every entry point works on some rows without the interpreter's lock, so that a plain thread pool spreads a batch over
the cores and several callers may encode at once. No fast-math flag is set: each addition, product and comparison is
one IEEE float32 operation in a fixed order, which is what makes the codes equal on every machine.

A state is the last ``memory`` bits of the code stream, the newest bit lowest. Step t appends ``rates[t]`` bits, so the
states that can precede state s at that step are those whose lowest ``memory - rates[t]`` bits are s's highest ones:
they only differ in their oldest ``rates[t]`` bits. Those common bits are called a group below.

The functions take many arrays each, since compiled code takes no dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pickle import PickleError
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float32]
Int = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` for loops without the interpreter's lock.

    The machine code is kept for the next process where numba finds a folder to write to. Where it finds none, as in
    a container with a read-only file system and no home, each process compiles anew.
    """
    try:
        dispatcher: Any = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # the message is "cannot cache function ...: no locator available for file ..."
        return njit(nogil=True)(function)
    # On a full disk, or with a cache file that a power cut left empty, go on without the cache.
    kept = dispatcher._cache
    kept.load_overload = _or_none(kept.load_overload)
    kept.save_overload = _or_none(kept.save_overload)
    return dispatcher


def _or_none(access: Callable[..., Any]) -> Callable[..., Any]:
    def attempt(*arguments: Any) -> Any:
        with suppress(OSError, EOFError, PickleError):
            return access(*arguments)
        return None

    return attempt


# Clip coordinates to this many spreads from the mean, so that costs stay finite: beyond, all code words are as wrong.
CLIP = np.float32(16)


@compiled
def _halve(pairs: Float, least: Float) -> None:
    for newest in range(least.shape[0]):
        for i in range(least.shape[1]):
            a = pairs[newest, 0, i]
            b = pairs[newest, 1, i]
            least[newest, i] = a if a < b else b


@compiled
def _charge_and_halve(arrived: Float, levels: Float, value: float, weight: float, least: Float) -> None:
    """Work as ``_halve``, after adding to each state the weighted squared error of its level."""
    for newest in range(least.shape[0]):
        for i in range(least.shape[1]):
            low_error = value - levels[newest, 0, i]
            high_error = value - levels[newest, 1, i]
            a = arrived[0, i] + weight * (low_error * low_error)
            b = arrived[1, i] + weight * (high_error * high_error)
            least[newest, i] = a if a < b else b


@compiled
def _shuffle(low: Float, high: Float, shuffled: Float) -> None:
    for i in range(len(low)):
        shuffled[2 * i] = low[i]
        shuffled[2 * i + 1] = high[i]


@compiled
def _forward(
    values: Float,
    weights: Float,
    rates: Int,
    columns: Float,
    memory: int,
    first: int,
    count: int,
    minima: Float,
    scratch: Float,
) -> None:
    """Run Viterbi's forward pass over ``count`` circular steps from ``first``.

    ``minima[i]`` is the least cost, per group of the i-th step taken, of the states that precede it: ``minima[0]`` is
    given, the others are filled in, the last one for the step after the end. The cost of any single state follows
    from the group that precedes it, so neither costs nor back pointers are stored.

    ``columns`` holds the levels with the newest bits of the state first: the states that follow the groups in order,
    for one value of the newest bits, are then contiguous. The minima come out in that order too, and as many perfect
    shuffles as there are newest bits put them right.
    """
    for i in range(count):
        t = (first + i) % len(rates)
        rate = rates[t]
        following = rates[(t + 1) % len(rates)]
        branches = 1 << rate
        width = 1 << (memory - rate - 1)
        size = branches * width
        least = scratch[0]
        spare = scratch[1]
        _charge_and_halve(
            minima[i, : 2 * width].reshape(2, width),
            columns[rate].reshape(branches, 2, width),
            values[t],
            weights[t],
            least.reshape(branches, width),
        )
        for _ in range(following - 1):
            width >>= 1
            _halve(least[:size].reshape(branches, 2, width), spare[: size >> 1].reshape(branches, width))
            size >>= 1
            least, spare = spare, least
        for _ in range(rate):
            _shuffle(least[: size >> 1], least[size >> 1 : size], spare[:size])
            least, spare = spare, least
        minima[i + 1, :size] = least[:size]


@compiled
def _best_before(
    group: int, bits: int, value: float, weight: float, rate: int, levels: Float, memory: int, arrived: Float
) -> int:
    """Return the cheapest state with given ``bits`` oldest bits, after a step of ``rate`` bits; the lowest at ties."""
    least = np.float32(np.inf)
    chosen = 0
    for oldest in range(1 << bits):
        state = (oldest << (memory - bits)) | group
        error = value - levels[state]
        cost = arrived[state >> rate] + weight * (error * error)
        if cost < least:
            least = cost
            chosen = state
    return chosen


@compiled
def encode_rows(
    latents: Float,
    order: Int,
    mean: Float,
    inverse_spread: Float,
    weights: Float,
    rates: Int,
    levels: Float,
    columns: Float,
    memory: int,
    head: int,
    tail: int,
    codes: Bytes,
) -> None:
    """Search the tail-biting code (Viterbi) of each row of ``latents``, float32 (n, k), into ``codes``, zeros (n, B).

    The code is a circle of bits: the state before step 0 must be the state after the last step. A first search over
    the last ``tail`` and the first ``head`` steps finds that state; a second one, which starts and ends in it, finds
    the code.
    """
    steps = len(rates)
    minima = np.empty((steps + 1, 1 << (memory - 1)), np.float32)
    scratch = np.empty((2, 1 << (memory - 1)), np.float32)
    values = np.empty(steps, np.float32)
    for row in range(len(latents)):
        for t in range(steps):
            value = (latents[row, order[t]] - mean[t]) * inverse_spread[t]
            values[t] = min(max(value, -CLIP), CLIP)

        first = steps - tail
        minima[0, :] = 0
        _forward(values, weights, rates, columns, memory, first, tail + head, minima, scratch)
        bits = rates[(first + tail + head) % steps]
        state = int(np.argmin(minima[tail + head, : 1 << (memory - bits)]))
        for i in range(tail + head - 1, tail - 2, -1):
            t = (first + i) % steps
            state = _best_before(state, bits, values[t], weights[t], rates[t], levels[rates[t]], memory, minima[i])
            bits = rates[t]
            if i >= tail:
                state >>= bits

        junction = state
        minima[0, :] = np.inf
        minima[0, junction & ((1 << (memory - rates[0])) - 1)] = 0
        _forward(values, weights, rates, columns, memory, 0, steps - 1, minima, scratch)
        end = 8 * codes.shape[1]
        for t in range(steps - 1, -1, -1):
            if t < steps - 1:
                state = _best_before(state, bits, values[t], weights[t], rates[t], levels[rates[t]], memory, minima[t])
            bits = rates[t]
            for b in range(bits):
                position = end - 1 - b
                codes[row, position >> 3] |= np.uint8(((state >> b) & 1) << (7 - (position & 7)))
            end -= bits
            state >>= bits


@compiled
def decode_rows(
    codes: Bytes, windows: Int, shifts: Int, memory: int, rates: Int, levels: Float, mean: Float, spread: Float,
    order: Int, latents: Float,
) -> None:  # fmt: skip
    """Write the latents of each code, ``mean + spread * level``, into the columns ``order`` of ``latents``.

    The state after step t is in the three bytes of the code from number ``windows[t]`` on, circularly, followed by
    ``shifts[t]`` later bits.
    """
    mask = np.uint32((1 << memory) - 1)
    size = codes.shape[1]
    words = np.empty(size, np.uint32)
    table = levels.ravel()
    starts = (rates << memory).astype(np.uint32)
    drops = shifts.astype(np.uint32)
    for row in range(len(codes)):
        code = codes[row]
        word = (np.uint32(code[0]) << np.uint32(8)) | np.uint32(code[1])
        for byte in range(size):
            following = byte + 2
            if following >= size:
                following -= size
            word = ((word << np.uint32(8)) | np.uint32(code[following])) & np.uint32(0xFFFFFF)
            words[byte] = word
        out = latents[row]
        for t in range(len(rates)):
            state = (words[windows[t]] >> drops[t]) & mask
            out[order[t]] = mean[t] + spread[t] * table[starts[t] + state]
