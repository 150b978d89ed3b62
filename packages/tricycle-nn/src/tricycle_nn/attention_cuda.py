"""How attention's GPU kernels (attention.cu, attention_one_query.cu) are launched.

The functions take and return what those of attention_cpu.py do: (batch, head, position, number), in
memory as they like, but for the numbers of a head, which are neighbours.

Tensor cores take 16 numbers at a time, so kernels are for heads of a multiple of 16, up to 128.
Others are padded with zeros, which change no score, at the price of a copy.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tricycle_autograd.arrays import empty
from tricycle_autograd.cuda import WARP, CudaFile, blocks_for
from tricycle_autograd.devices import array_module

FILE = CudaFile(str(Path(__file__).with_name("attention.cu")))
ONE_QUERY = CudaFile(str(Path(__file__).with_name("attention_one_query.cu")))
STRIP = 16  # rows that a warp takes
LARGEST = 128  # numbers in a head
PART = 16  # bytes that are copied at once


def forward(q: Any, k: Any, v: Any, causal: bool, scale: float) -> tuple[Any, Any]:
    """out (B, H, T, D) and log_sums (B, H, T), from q (B, H, T, D) and k, v (B, G, S, D)."""
    B, H, T, D = q.shape
    q, k, v = padded(q), padded(k), padded(v)
    out, log_sums = empty_heads(q.shape, q), empty((B, H, T), np.float32, like=q)
    if T == 1:  # it sees every key, causal or not
        _look_once(out, log_sums, q, k, v, scale)
    else:
        Launch(q, k, causal, scale)("forward", T, H, out, log_sums, q, k, v)
    return out[..., :D], log_sums


def backward(dy: Any, q: Any, k: Any, v: Any, out, log_sums, causal, scale) -> tuple:
    """dq, dk and dv from dy (B, H, T, D), and what `forward` was given and made."""
    D = q.shape[-1]
    dy, q, k, v, out = map(padded, (dy, q, k, v, out))
    dq, dk, dv = (empty_heads(array.shape, q) for array in (q, k, v))
    _send_back(dq, dk, dv, dy, q, k, v, out, log_sums, causal, scale)
    return dq[..., :D], dk[..., :D], dv[..., :D]


def packed_backward(dy: Any, q: Any, k: Any, v: Any, out, log_sums, causal, scale) -> Any:
    """dq, dk and dv side by side, as packed_attention is given q, k and v: (B, T, (H + 2G)·D)."""
    B, H, T, D = q.shape
    G = k.shape[1]
    dy, q, k, v, out = map(padded, (dy, q, k, v, out))
    heads = empty_heads((B, H + 2 * G, T, q.shape[-1]), q)
    dq, dk, dv = heads[:, :H], heads[:, H : H + G], heads[:, H + G :]
    _send_back(dq, dk, dv, dy, q, k, v, out, log_sums, causal, scale)
    return heads[..., :D].transpose(0, 2, 1, 3).reshape(B, T, (H + 2 * G) * D)


def _send_back(dq, dk, dv, dy, q, k, v, out, log_sums, causal, scale):
    """Write dq, dk and dv."""
    B, H, T, _ = q.shape
    G, S = k.shape[1:3]
    if T == 0:  # nobody asked
        dk[...] = 0
        dv[...] = 0
        return
    dots = empty((B, H, T), np.float32, like=q)
    launch = Launch(q, k, causal, scale)
    launch.dot(dots, dy, out)
    launch("backward_queries", T, H, dq, dy, q, k, v, log_sums, dots)
    launch("backward_keys", S, G, dk, dv, dy, q, k, v, log_sums, dots)


class Launch:
    """Starts the kernels of attention.cu for arrays of these shapes."""

    def __init__(self, q: Any, k: Any, causal: bool, scale: float):
        B, H, T, head = q.shape
        G, S = k.shape[1:3]
        self.dtype, self.batch = q.dtype, B
        self.rows, self.tile = tiles_for(head, q.dtype)
        self.threads = self.rows // STRIP * WARP
        self.pitch = head * q.itemsize + PART  # bytes of a row in shared memory
        tiles = {"ROWS": self.rows, "TILE": self.tile}
        self.constants = {"HEAD": head, "CAUSAL": int(causal), **tiles}
        self.sizes = (*map(np.int32, (T, S, H, G)), np.float32(scale))

    def __call__(self, name: str, positions: int, heads: int, *arrays: Any) -> None:
        """A block takes `rows` positions of one head."""
        own = 1 if name == "forward" else 2  # arrays whose rows it has in shared memory
        shared = (own * self.rows + 4 * self.tile) * self.pitch
        if name == "backward_keys":
            shared += 4 * self.tile * 4  # floats, of two numbers for each query
        grid = (blocks_for(positions, self.rows), heads, self.batch)
        arguments = (*with_steps(arrays), *self.sizes)
        self._kernel(name)(grid, (self.threads,), *arguments, shared=shared)

    def dot(self, dots: Any, dy: Any, out: Any) -> None:
        """Eight threads take one position of one head."""
        B, H, T, _ = dy.shape
        grid = (blocks_for(8 * B * H * T, self.threads),)
        sizes = map(np.int32, (T, H, B * H * T))
        self._kernel("dot")(grid, (self.threads,), *with_steps((dots, dy, out)), *sizes)

    def _kernel(self, name):
        return FILE.get(name, self.dtype, **self.constants)


def tiles_for(head: int, dtype: Any) -> tuple[int, int]:
    """Rows for a block, and rows of a tile: what registers and shared memory have room for."""
    if dtype == np.float32:
        return (64 if head <= 64 else 32), 16
    return 64, (64 if head <= 64 else 32)


CHUNK = 128  # keys for a block; not a GPU's choice, so that all have the same bits
LOOKING = 128  # threads


def _look_once(out, log_sums, q, k, v, scale):
    """Write out (B, H, 1, D) and log_sums (B, H, 1), from sums over chunks of the keys."""
    B, H, _, head = q.shape
    G, S = k.shape[1:3]
    chunks, together = blocks_for(S, CHUNK), queries_together(H // G)
    sums = empty((B, H, chunks, head), np.float32, like=q)
    totals = empty((B, H, chunks, 2), np.float32, like=q)
    constants = {"HEAD": head, "QUERIES": together, "CHUNK": CHUNK}

    look = ONE_QUERY.get("look_at_chunks", q.dtype, **constants)
    sizes = (*map(np.int32, (S, H, G)), np.float32(scale))
    looking = with_steps((sums.reshape(-1), totals.reshape(-1), q, k, v))
    look((chunks, H // together, B), (LOOKING,), *looking, *sizes)

    join = ONE_QUERY.get("join_chunks", q.dtype, **constants)
    joining = with_steps((out, log_sums, sums.reshape(-1), totals.reshape(-1)))
    join((H, B), (WARP,), *joining, np.int32(chunks))


def queries_together(n: int) -> int:
    """How many of n queries share what is read: the largest divisor that fits into registers."""
    return max(d for d in (1, 2, 3, 4) if n % d == 0)


def with_steps(arrays: tuple) -> list:
    """Arrays as kernels take them: those with four axes followed by three steps (heads.cuh)."""
    arguments: list[Any] = []
    for array in arrays:
        arguments.append(array)
        if array.ndim == 4:
            arguments += [np.int64(stride // array.itemsize) for stride in array.strides[:3]]
    return arguments


def empty_heads(shape: tuple[int, int, int, int], like: Any) -> Any:
    """Room for (B, H, T, D) that lies in memory as (B, T, H, D)."""
    B, H, T, D = shape
    return empty((B, T, H, D), like.dtype, like=like).transpose(0, 2, 1, 3)


def padded(x: Any) -> Any:
    """x (B, H, T, D) as kernels read it: itself, or a copy with zeros behind each head's numbers.

    Raises ValueError for heads of too many numbers.
    """
    D = x.shape[-1]
    head = blocks_for(D, STRIP) * STRIP
    if head > LARGEST:
        raise ValueError(
            f"attention on cuda has kernels for heads of up to {LARGEST} numbers, got {D}; take "
            "more heads, or run the readable definition: with definitions_only(): ..."
        )
    steps = (address_of(x), *x.strides[:3])
    if head == D and x.strides[-1] == x.itemsize and all(step % PART == 0 for step in steps):
        return x
    copy = array_module(x).zeros((*x.shape[:3], head), x.dtype)
    copy[..., :D] = x
    return copy


def address_of(array: Any) -> int:
    """Where an array begins in the memory of its device."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
