"""Numbers in GGUF files: floats, and blocks of small whole numbers with a scale.

A quantised type cuts each row into blocks of 32 numbers (256 in the "K" types), and writes a block
as a few floats of two bytes and whole numbers q of 4 to 8 bits:

    Q8_0 Q4_0 Q5_0    d · q           q around zero: from -127, -8, -16
    Q4_1 Q5_1         d · q + m       q from zero
    Q6_K              (d · s) · q     16 whole scales s, each for 16 numbers
    Q4_K Q5_K         (d · s) · q - (m · t)     8 scales s and minima t of 6 bits, for 32 each

Four-bit numbers lie in pairs, not neighbours: the low halves of a run of bytes are the first
numbers of the block, the high halves those after them.  A fifth or sixth bit is stored apart.

`decode` gives the float32 numbers that llama.cpp's own reference gives, bit for bit; `encode`
writes the types that need no search for the best scale.  The formats: ggml's ggml-quants, as the
GGUF specification names them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

CHUNK = 2**15  # blocks decoded together: what is made on the way stays small beside the result


@dataclass(frozen=True)
class Kind:
    """How one type of numbers is stored.

    code      the type's number in a file
    numbers   in a block; a row holds whole blocks
    bytes     of a block
    decode    (N, bytes) uint8 -> (N, numbers) float32
    encode    (N, numbers) float32 -> (N, bytes) uint8, or None
    """

    code: int
    numbers: int
    bytes: int
    decode: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray] | None = None


def decode(raw: np.ndarray, kind: Kind) -> np.ndarray:
    """The float32 numbers of whole blocks, one after the other; raw is (bytes,) uint8."""
    blocks = raw.reshape(-1, kind.bytes)
    numbers = np.empty((len(blocks), kind.numbers), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a scale may be anything in a strange file
        for start in range(0, len(blocks), CHUNK):
            numbers[start : start + CHUNK] = kind.decode(blocks[start : start + CHUNK])
    return numbers.reshape(-1)


def encode(numbers: np.ndarray, kind: Kind) -> np.ndarray:
    """float32 numbers as bytes (uint8); their count is a multiple of a block's."""
    if kind.encode is None:
        raise ValueError("numbers are not written in this type, only read")
    blocks = numbers.reshape(-1, kind.numbers)
    raw = np.empty((len(blocks), kind.bytes), np.uint8)
    for start in range(0, len(blocks), CHUNK):
        raw[start : start + CHUNK] = kind.encode(blocks[start : start + CHUNK])
    return raw.reshape(-1)


# ---- Reading ----


def _half(blocks):
    """Floats of two bytes, (N, 2n) uint8 -> (N, n)."""
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def _fours(blocks):
    """Half bytes, (…, n) -> (…, 2n): all low halves, then all high ones."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=-1)


def _fifth_bits(blocks):
    """Four bytes of one bit for each of 32 numbers: (N, 4) -> (N, 32), 0 or 16."""
    return np.unpackbits(blocks, axis=1, bitorder="little") << 4


def _signed(blocks):
    return np.ascontiguousarray(blocks).view(np.int8)


def _from_q8_0(blocks):
    return _half(blocks[:, :2]) * _signed(blocks[:, 2:])


def _from_q4_0(blocks):
    return _half(blocks[:, :2]) * (_signed(_fours(blocks[:, 2:])) - np.int8(8))


def _from_q4_1(blocks):
    return _half(blocks[:, :2]) * _fours(blocks[:, 4:]) + _half(blocks[:, 2:4])


def _from_q5_0(blocks):
    q = _fours(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks[:, :2]) * (_signed(q) - np.int8(16))


def _from_q5_1(blocks):
    q = _fours(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks[:, :2]) * q + _half(blocks[:, 2:4])


def _scales_and_minima(packed):
    """Eight scales and eight minima of 6 bits, (N, 12) -> two of (N, 8).

    The first four of each are the low six bits of a byte of their own; the last four lie in the
    third four bytes, with their two highest bits on top of the first.
    """
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=1)
    return scales, np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=1)


def _from_k_blocks(blocks, q):
    """(d · s) · q - (m · t), for q (N, 8, 32), with d, m, s and t in front of each block."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    d, m = _half(blocks[:, :2]), _half(blocks[:, 2:4])
    return ((d * scales)[..., None] * q - (m * minima)[..., None]).reshape(len(q), 256)


def _from_q4_k(blocks):
    return _from_k_blocks(blocks, _fours(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _from_q5_k(blocks):
    low = _fours(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    places = np.arange(8, dtype=np.uint8)[:, None]  # run g of 32 numbers has bit g of 32 bytes
    high = blocks[:, None, 16:48] >> places & 1
    return _from_k_blocks(blocks, low | high << 4)


def _from_q6_k(blocks):
    low = _fours(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    places = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> places & 3
    q = _signed(low | high << 4).reshape(-1, 16, 16) - np.int8(32)
    scales = _half(blocks[:, 208:]) * _signed(blocks[:, 192:208])
    return (scales[..., None] * q).reshape(-1, 256)


def _from_bfloat16(blocks):
    return blocks.view(ml_dtypes.bfloat16).astype(np.float32)


# ---- Writing ----


def _bytes_of(array):
    return np.ascontiguousarray(array).view(np.uint8)


def _to_q8_0(blocks):
    """d = max |x| / 127; halves are rounded away from zero."""
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(d)
    size = np.abs(scaled)
    whole = np.floor(size) + np.floor(2 * (size - np.floor(size)))
    q = (np.sign(scaled) * whole).astype(np.int8)
    return np.concatenate([_bytes_of(d.astype("<f2")), _bytes_of(q)], axis=1)


def _to_q4_0(blocks):
    """d = x / -8 for the x that is farthest from zero, so that it is met exactly."""
    farthest = np.abs(blocks).argmax(axis=1, keepdims=True)
    d = np.take_along_axis(blocks, farthest, axis=1) / np.float32(-8)
    # In float64, because the reference adds with one rounding.
    q = np.trunc(blocks.astype(np.float64) * _inverse(d) + 8.5).clip(0, 15).astype(np.uint8)
    return np.concatenate([_bytes_of(d.astype("<f2")), q[:, :16] | q[:, 16:] << 4], axis=1)


def _inverse(d):
    """1 / d, or 0 for a block of zeros."""
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


KINDS: dict[str, Kind] = {
    "F32": Kind(0, 1, 4, lambda raw: raw.view("<f4"), lambda x: _bytes_of(x.astype("<f4"))),
    "F16": Kind(1, 1, 2, _half, lambda x: _bytes_of(x.astype("<f2"))),
    "BF16": Kind(30, 1, 2, _from_bfloat16, lambda x: _bytes_of(x.astype(ml_dtypes.bfloat16))),
    "Q8_0": Kind(8, 32, 34, _from_q8_0, _to_q8_0),
    "Q4_0": Kind(2, 32, 18, _from_q4_0, _to_q4_0),
    "Q4_1": Kind(3, 32, 20, _from_q4_1),
    "Q5_0": Kind(6, 32, 22, _from_q5_0),
    "Q5_1": Kind(7, 32, 24, _from_q5_1),
    "Q4_K": Kind(12, 256, 144, _from_q4_k),
    "Q5_K": Kind(13, 256, 176, _from_q5_k),
    "Q6_K": Kind(14, 256, 210, _from_q6_k),
}
BY_CODE = {kind.code: name for name, kind in KINDS.items()}
# Types that there are, to call what cannot be read by its name.
OTHERS = {
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}
