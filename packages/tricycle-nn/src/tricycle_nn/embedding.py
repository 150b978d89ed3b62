"""Embedding: a vector to learn for every id.

    y[n] = weight[ids[n]]

It is a linear layer whose input is one-hot, without the multiplications by zero: the row of
the table is simply copied.  Backwards, each row of the table receives the sum of the gradients
at all the places where its id stood:

    d_weight[v] = Σ dy[n], over all n with ids[n] = v

Only the ids are kept.  Two places may hold one id, so cutting that sum over places would let
two threads write to one row; it is cut over channels instead, and every thread sees all ids.

This file: the definition, the operation, its CPU kernels, how the GPU's (embedding.cu) are
launched, the layer.
"""

from typing import Any, NamedTuple

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous, empty, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cuda import WARP, CudaFile, blocks_for
from tricycle_autograd.devices import array_module
from tricycle_autograd.fused import fused
from tricycle_autograd.tape import gradient_destination
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.initialisers import normal
from tricycle_nn.module import Module
from tricycle_nn.parameter import Parameter
from tricycle_nn.pieces import numbers_at_once


@fused
def embedding(ids: Any, weight: Tensor) -> Tensor:
    """Look up a row of the table for every id.

    ids     (...) integers from 0 to V - 1: an array, a tensor or nested lists
    weight  (V, C), the table
    returns (..., C)

    Raises TypeError for ids that are not integers; IndexError for one outside the table,
    naming it and its place.
    """
    return weight[checked_ids(ids, weight)]


@embedding.operation
def embedding_fast(run, ids, weight):
    table = kernel_inputs("embedding", weight)
    weight_node = weight.node
    if not isinstance(ids, PlacedIds):
        ids = checked_ids(ids, weight)
        ids = PlacedIds(ids.shape, run.places(ids.reshape(-1), table))
    places = ids.places

    def backward(dy):
        destination, add, d_weight = gradient_destination(weight_node, table)
        run.scatter(destination, add, places, as_rows(contiguous(dy)))
        return (d_weight,)

    y = run.gather(places, table)
    return record(y.reshape(*ids.shape, table.shape[1]), (weight,), backward)


class PlacedIds(NamedTuple):
    """Ids that lie on the GPU already: for a step that is captured, which copies nothing there.

    shape   of the ids
    places  what `places_of` gives for them, on the GPU
    """

    shape: tuple[int, ...]
    places: Any


def places_of(ids: np.ndarray, n_rows: int) -> np.ndarray:
    """Checked ids in a row, and which of their places come first where they are sorted: (2, N).

    n_rows   of the table: up to 65,536 the ids are sorted as numbers of 16 bits, which is faster
    """
    ids = ids.reshape(-1)
    short = ids.astype(np.uint16) if n_rows <= 1 << 16 else ids
    return np.stack([ids, np.argsort(short, kind="stable")]).astype(np.int32)


def checked_ids(ids: Any, weight: Tensor) -> np.ndarray:
    """The ids as an int64 array of its own, every one of them a row of the table.

    It is the copy that is checked: another thread may fill the caller's array anew meanwhile, and
    the backward pass reads the ids again.
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding expected a table of shape (V, C), got {weight.shape}")
    ids = np.array(ids.numpy() if isinstance(ids, Tensor) else ids, order="C")
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(f"embedding expected integer ids, got {ids.dtype}")
    rows = weight.shape[0]
    outside = (ids < 0) | (ids >= rows)
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        raise IndexError(
            f"embedding got id {ids[place]} at position {place}, "
            f"but its table has {rows} rows (ids 0 to {rows - 1})"
        )
    return ids.astype(np.int64, copy=False)


@embedding.kernels("cpu")
class CPU:
    def places(ids: Any, table):
        """The ids, as gather and scatter want them."""
        return ids

    @cpu_kernel
    def gather(ids: Any, table):
        """The rows of the table (V, C) that ids (N,) name: (N, C)."""
        N = len(ids)
        y = np.empty((N, table.shape[1]), np.float32)
        for n in prange(N):
            copy_row(y[n], table[ids[n]])
        return y

    @cpu_kernel
    def scatter(d_table: Any, add, ids, dy):
        """d_table (V, C) = (or += if `add`) the sum of the rows of dy (N, C) for each id."""
        C = d_table.shape[1]
        pieces = (C + CHANNELS - 1) // CHANNELS
        for k in prange(pieces):
            columns = slice(k * CHANNELS, min(C, (k + 1) * CHANNELS))
            scatter_columns(d_table[:, columns], ids, dy[:, columns], add)


@embedding.kernels("cuda")
class GPU:
    """Sums without atomics, by the order that sorts the ids: embedding.cu."""

    FILE = CudaFile(__file__)
    WARPS = 4  # in a block

    def places(ids: Any, table):
        """`places_of` them, on the GPU."""
        return array_module(table).asarray(places_of(ids, len(table)))

    def gather(places: Any, table):
        """As on the CPU."""
        N = places.shape[1]
        y = empty((N, table.shape[1]), table.dtype, like=table)
        GPU._launch("gather", y, table, y, table, places[0], np.int32(N))
        return y

    def scatter(d_table: Any, add, places, dy):
        """As on the CPU; d_table may be float32 where dy is bfloat16."""
        if not add:
            d_table[...] = 0
        GPU._launch("scatter", dy, d_table, d_table, dy, *places, np.int32(places.shape[1]))

    def _launch(name: Any, rows, table, *arguments):
        """A warp for every stretch of 512 bytes of each of the rows (N, C)."""
        N, C = rows.shape
        kernel = GPU.FILE.get(name, rows.dtype, C=C, FLOAT_TABLE=int(table.dtype == np.float32))
        warps = N * blocks_for(C, WARP * numbers_at_once(rows.dtype))
        kernel((blocks_for(warps, GPU.WARPS),), (GPU.WARPS * WARP,), *arguments)


@cpu_function
def copy_row(y, x):
    for c in range(len(x)):  # y[:] = x takes three times as long
        y[c] = x[c]


CHANNELS = 64  # that a thread takes at a time: four cache lines of each row


@cpu_function
def scatter_columns(d_table, ids, dy, add):
    if not add:
        for v in range(len(d_table)):
            row = d_table[v]
            for c in range(len(row)):
                row[c] = np.float32(0)
    for n in range(len(ids)):
        row, d_row = d_table[ids[n]], dy[n]
        for c in range(len(row)):
            row[c] += d_row[c]


class Embedding(Module):
    """`embedding` with a learned table.

    n_embeddings  V, how many ids there are
    width         C, how many numbers stand for each
    rng           where the initial table is drawn from: normal, with standard deviation
                  1/√width, which gives vectors of length 1, about

    Raises ValueError for sizes below 1.
    """

    def __init__(self, n_embeddings: int, width: int, *, rng: np.random.Generator):
        if min(n_embeddings, width) < 1:
            raise ValueError(f"Embedding needs sizes from 1 up, got {n_embeddings}, {width}")
        self.weight = Parameter(normal(rng, (n_embeddings, width), width**-0.5))

    def forward(self, ids: Any) -> Tensor:
        return embedding(ids, self.weight)
