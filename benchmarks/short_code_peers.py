"""Offer rivals of our shortest codes beside faiss: other packages, and published methods without a package.

All see the data's principal axes, as many as the size leaves room for. What a method keeps beside its bits is counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from short_code_systems import Data, DoesNotFitError, Fitted, K, System, by_decoding
from vaecodec.codes import CodeType
from vaecodec.codes.uniform import LEVELS
from vaecodec.vectors import normalised

# Alternations between rounding and the closest rotation (ASH), rounds of changes by one step (SAQ).
_ROTATIONS, _ROUNDS = 20, 4
_SEGMENT = 16
_HALF = 2


def fitting(data: Data, room: int, bits: float, multiple: int = 8) -> int:
    """Return the number of axes that fit into ``room`` bytes with some bits each; 0 if none does."""
    return min(int(8 * room / bits), data.width) // multiple * multiple


def _placeholder(rows: int, size: int) -> np.ndarray:
    """Stand in for codes that an engine keeps to itself."""
    return np.broadcast_to(np.uint8(0), (rows, size))


def turbovec_index(bits: int) -> System:
    """Search turbovec's TurboQuant, calibrated; four bytes for the norm and one for the rest of its file."""

    def fit(data: Data, size: int) -> Fitted:
        import turbovec

        narrow = data.linear.truncated(fitting(data, size - 4, bits))
        index = turbovec.TurboQuantIndex(narrow.code_dim, bits)
        index.calibrate(narrow.encode(data.some[:4096]))

        def encode() -> np.ndarray:
            index.add(narrow.encode(data.base))
            return _placeholder(len(data.base), bits * narrow.code_dim // 8 + 4)

        return encode, lambda _: index.search(narrow.encode_queries(data.queries), K)[1].astype(np.int64)

    return fit


def remex_codes(bits: int) -> System:
    """Search remex's quantiser around the mean of the training documents, with float32 norms."""

    def fit(data: Data, size: int) -> Fitted:
        import remex

        narrow = data.linear.truncated(fitting(data, size - 4, bits))
        quantiser = remex.Quantizer(narrow.code_dim, bits, mean=narrow.encode(data.train).mean(axis=0))
        kept: list[Any] = []

        def encode() -> np.ndarray:
            kept.append(quantiser.encode(narrow.encode(data.base)))
            return _placeholder(len(data.base), bits * narrow.code_dim // 8 + 4)

        find = by_decoding(lambda _: quantiser.decode(kept[0]), narrow.encode_queries(data.queries))
        return encode, find

    return fit


def rabitq_library(bits: int) -> System:
    """Search RaBitQ by its authors' library: one cluster, all of it searched."""

    def fit(data: Data, size: int) -> Fitted:
        import rabitqlib

        def made(rows: np.ndarray) -> Any:
            index = rabitqlib.IvfIndex(rows.shape[1], len(rows), 1, bits, metric="ip")
            centre = np.ascontiguousarray(rows.mean(axis=0, keepdims=True))
            index.build(rows, centre, np.zeros(len(rows), np.uint32))
            return index

        def bytes_of(rows: np.ndarray) -> int:
            with tempfile.TemporaryDirectory() as folder:
                files = [Path(folder) / name for name in "ab"]
                for file, part in zip(files, (rows, rows[::2].copy()), strict=True):
                    made(part).save(str(file))
                return round((files[0].stat().st_size - files[1].stat().st_size) / (len(rows) / 2))

        some = data.linear.encode(data.train[:2048])
        for dim in range(data.width // 64 * 64, 0, -64):
            taken = bytes_of(np.ascontiguousarray(some[:, :dim]))
            if taken <= size:
                break
        else:
            raise DoesNotFitError(f"no RaBitQ code of {size} bytes")
        narrow = data.linear.truncated(dim)
        kept: list[Any] = []

        def encode() -> np.ndarray:
            kept.append(made(narrow.encode(data.base)))
            return _placeholder(len(data.base), taken)

        def find(_: np.ndarray) -> np.ndarray:
            first, second = kept[0].search(narrow.encode_queries(data.queries), K, 1)
            return np.asarray(first if np.issubdtype(first.dtype, np.integer) else second).astype(np.int64)

        return encode, find

    return fit


def scann_hashes(data: Data, size: int) -> Fitted:
    """Search ScaNN's asymmetric hashing, anisotropic: 16 centroids for each block of principal axes, no re-ordering."""
    from scann import scann_ops_pybind

    axes = max(1, data.width // (2 * size))
    narrow = data.linear.truncated(min(data.width, 2 * size * axes))
    queries = narrow.encode_queries(data.queries)
    rows = narrow.encode(data.base)
    kept: list[Any] = []

    def encode() -> np.ndarray:
        builder = scann_ops_pybind.builder(rows, K, "dot_product")
        kept.append(builder.score_ah(axes, anisotropic_quantization_threshold=0.2).build())
        return _placeholder(len(rows), -(-narrow.code_dim // axes) // 2)

    return encode, lambda _: kept[0].search_batched(queries)[0].astype(np.int64)


def qdrant_turbo(name: str, bits: float) -> System:
    """Search Qdrant's TurboQuant in its engine: every code scored, none re-scored by the vectors; norms are not
    counted.
    """

    def fit(data: Data, size: int) -> Fitted:
        import qdrant_edge as edge

        from qdrant_engine import fill, params, shard

        narrow = data.linear.truncated(fitting(data, size, bits))
        folder = tempfile.TemporaryDirectory()
        turbo = getattr(edge.TurboQuantBitSize, name)
        filled = shard(Path(folder.name), {"": params(narrow.code_dim, m=0, turbo=turbo)})

        def encode() -> np.ndarray:
            fill(filled, [{"": normalised(narrow.encode(data.base))}])
            return _placeholder(len(data.base), int(bits * narrow.code_dim / 8))

        def find(_: np.ndarray) -> np.ndarray:
            only = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=False))
            asked = [edge.Query.Nearest(row) for row in narrow.encode_queries(data.queries).tolist()]
            requests = [edge.QueryRequest(limit=K, query=query, params=only) for query in asked]
            ids = np.array([[point.id for point in filled.query(request)] for request in requests])
            filled.close()
            folder.cleanup()
            return ids

        return encode, find

    return fit


def leanvec(bits: int) -> System:
    """Search LeanVec-OOD: axes of documents and queries together, then LVQ: uniform steps between each vector's
    extremes.
    """

    def fit(data: Data, size: int) -> Fitted:
        second = [rows.T @ rows / len(rows) for rows in (data.train, data.asked)]
        main = np.linalg.eigh(second[0] / np.trace(second[0]) + second[1] / np.trace(second[1]))[1][:, ::-1]
        axes = main[:, : fitting(data, size - 2 * _HALF, bits, 1)].astype(np.float32)
        mean = data.train.mean(axis=0) @ axes

        def encode() -> np.ndarray:
            turned = data.base @ axes - mean
            ends = np.stack([turned.min(axis=1), turned.max(axis=1)], axis=1).astype(np.float16)
            low, high = ends.astype(np.float32).T
            steps = np.maximum(high - low, 1e-9) / ((1 << bits) - 1)
            numbers = np.rint((turned - low[:, None]) / steps[:, None]).clip(0, (1 << bits) - 1).astype(np.uint8)
            return np.concatenate([_packed(numbers, bits), ends.view(np.uint8)], axis=1)

        def decode(codes: np.ndarray) -> np.ndarray:
            low, high = np.ascontiguousarray(codes[:, -2 * _HALF :]).view(np.float16).astype(np.float32).T
            numbers = _unpacked(codes[:, : -2 * _HALF], bits, axes.shape[1])
            return low[:, None] + numbers * ((high - low) / ((1 << bits) - 1))[:, None] + mean

        return encode, by_decoding(decode, data.queries @ axes)

    return fit


def learned_rotation(bits: int) -> System:
    """Search ASH: a learned orthonormal map (iterative quantisation), then some bits of each axis; float queries."""

    def fit(data: Data, size: int) -> Fitted:
        narrow = data.linear.truncated(fitting(data, size, bits))
        levels = LEVELS[CodeType.BINARY if bits == 1 else CodeType.INT2]
        edges = (levels[1:] + levels[:-1]) / 2
        some = narrow.encode(data.some)
        mean = some.mean(axis=0)
        some = some - mean
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((some.shape[1],) * 2))[0].astype(np.float32)
        for _ in range(_ROTATIONS):
            turned = some @ turn
            rounded = levels[np.digitize(turned / turned.std(axis=0), edges)] * turned.std(axis=0)
            left, _, right = np.linalg.svd(some.T @ rounded)
            turn = left @ right
        spread = (some @ turn).std(axis=0)

        def encode() -> np.ndarray:
            turned = ((narrow.encode(data.base) - mean) @ turn) / spread
            return _packed(np.digitize(turned, edges).astype(np.uint8), bits)

        def decode(codes: np.ndarray) -> np.ndarray:
            return (levels[_unpacked(codes, bits, len(spread))] * spread) @ turn.T + mean

        return encode, by_decoding(decode, narrow.encode_queries(data.queries))

    return fit


def segmented(data: Data, size: int) -> Fitted:
    """Search SAQ: bits by segments of rotated principal axes, each with a factor, codes adjusted for direction."""
    latents = data.linear.encode(data.train)
    mean = latents.mean(axis=0)
    bits = _segment_bits(latents.var(axis=0), size)
    random = np.random.default_rng(0)
    turns = [np.linalg.qr(random.standard_normal((_SEGMENT, _SEGMENT)))[0].astype(np.float32) for _ in bits]
    parts = [slice(_SEGMENT * i, _SEGMENT * (i + 1)) for i in range(len(bits))]

    def encode() -> np.ndarray:
        rows = data.linear.encode(data.base) - mean
        columns = []
        for part, turn, count in zip(parts, turns, bits, strict=True):
            numbers, factors = _adjusted(rows[:, part] @ turn, count)
            columns += [_packed(numbers, count), factors.astype(np.float16)[:, None].view(np.uint8)]
        return np.concatenate(columns, axis=1)

    def decode(codes: np.ndarray) -> np.ndarray:
        out = np.tile(mean, (len(codes), 1))
        at = 0
        for part, turn, count in zip(parts, turns, bits, strict=True):
            end = at + count * _SEGMENT // 8
            factors = np.ascontiguousarray(codes[:, end : end + _HALF]).view(np.float16).astype(np.float32)
            centred = _unpacked(codes[:, at:end], count, _SEGMENT) - ((1 << count) - 1) / np.float32(2)
            out[:, part] += (factors * centred) @ turn.T
            at = end + _HALF
        return out

    return encode, by_decoding(decode, data.linear.encode_queries(data.queries))


def _segment_bits(variances: np.ndarray, size: int) -> list[int]:
    """Return whole bits for each segment, most for the first; a bit costs two bytes, the first bit two more for the
    factor.
    """
    whole = variances[: len(variances) // _SEGMENT * _SEGMENT].reshape(-1, _SEGMENT).sum(axis=1)
    bits, left = np.zeros(len(whole), int), size
    while True:
        costs = np.where(bits == 0, _SEGMENT // 8 + _HALF, _SEGMENT // 8)
        gains = np.where((costs <= left) & (bits < 8), 0.75 * whole * 0.25**bits / costs, -1)
        best = int(np.argmax(gains))
        if gains[best] < 0:
            return [int(count) for count in bits if count]
        left -= costs[best]
        bits[best] += 1


def _adjusted(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Change numbers one by one as long as the angle to the row falls; return them with the factor that fits best."""
    top = (1 << bits) - 1
    steps = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-9) * 2 / (top + 1)
    values = (np.floor(rows / steps).clip(-(top + 1) / 2, (top - 1) / 2) + 0.5).astype(np.float32)
    dots, squares = (rows * values).sum(axis=1), (values**2).sum(axis=1)
    for _ in range(_ROUNDS):
        for axis in range(rows.shape[1]):
            for change in (-1, 1):
                changed = values[:, axis] + change
                dot = dots + change * rows[:, axis]
                square = squares + changed**2 - values[:, axis] ** 2
                better = (np.abs(changed) <= top / 2) & (dot > 0) & (dot**2 * squares > dots**2 * square)
                values[better, axis] = changed[better]
                dots, squares = np.where(better, dot, dots), np.where(better, square, squares)
    return np.rint(values + top / 2).astype(np.uint8), (rows * rows).sum(axis=1) / np.where(dots > 0, dots, 1)


def _packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    ones = (numbers[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(ones.reshape(len(numbers), -1).astype(np.uint8), axis=1)


def _unpacked(codes: np.ndarray, bits: int, count: int) -> np.ndarray:
    ones = np.unpackbits(np.ascontiguousarray(codes), axis=1, count=bits * count).reshape(len(codes), count, bits)
    return np.asarray(ones @ (1 << np.arange(bits - 1, -1, -1)))


def peers(data: Data, size: int) -> list[tuple[str, System]]:
    """Yield the systems that exist at a size, if their package is installed."""
    found: list[tuple[str, System]] = [("SAQ (ours of the paper)", segmented), ("ScaNN, 4-bit hashes", scann_hashes)]
    found += _of(data, size, "ASH (ours of the paper)", learned_rotation, (1, 2), 0)
    found += _of(data, size, "LeanVec-OOD (ours of the paper)", leanvec, (2, 4, 8), 4)
    found += _of(data, size, "turbovec", turbovec_index, (2, 3, 4), 4)
    found += _of(data, size, "remex", remex_codes, (1, 2, 3, 4), 4)
    if size >= 24:
        found += _of(data, size, "rabitqlib", rabitq_library, (1, 2, 4), 16)
    for name, bits in (("Bits1", 1), ("Bits1_5", 1.5), ("Bits2", 2), ("Bits4", 4)):
        if 8 * size / bits <= data.width:
            found.append((f"Qdrant TurboQuant, {bits:g} bits", qdrant_turbo(name, bits)))
    return found


def _of(
    data: Data, size: int, name: str, make: Callable[[int], System], widths: tuple[int, ...], factors: int
) -> list[tuple[str, System]]:
    """Return the numbers of bits that leave some axes and no unused bytes."""
    fits = [bits for bits in widths if 8 <= 8 * (size - factors) / bits <= data.width]
    return [(f"{name}, {bits} bit{'s' * (bits > 1)}", make(bits)) for bits in fits]
