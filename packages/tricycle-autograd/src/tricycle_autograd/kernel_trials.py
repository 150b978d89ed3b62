"""What the kernels of the matrix product are tried on when they are first used: first_use.py.

Operands that lie in memory by rows, by columns and in neither way, for each is packed differently;
every height and width of a tile, whole and cut off; and pieces for several threads.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tricycle_autograd.first_use import Cases


def by_rows(array: np.ndarray) -> np.ndarray:
    """The numbers of a row side by side."""
    return np.ascontiguousarray(array)


def by_columns(array: np.ndarray) -> np.ndarray:
    """The numbers of a column side by side."""
    return np.asfortranarray(array)


def apart(array: np.ndarray) -> np.ndarray:
    """No two numbers side by side."""
    return np.repeat(np.repeat(array, 2, axis=0), 2, axis=1)[::2, ::2]


LAYOUTS: tuple[Callable, ...] = (by_rows, by_columns, apart)


def shapes() -> Iterator[tuple[int, int, int]]:
    """(M, K, N) of products that have tiles of every height and width, and ends of packed panels.

    Imports numba: the size of a tile depends on the processor.
    """
    from tricycle_autograd.gemm_tile import LANES, TILE_COLUMNS, TILE_ROWS

    for M in range(1, TILE_ROWS + 2):
        yield M, 9, TILE_COLUMNS + 3
    for N in range(1, TILE_COLUMNS + 2):
        yield TILE_ROWS + 1, 9, N
    for K in range(1, LANES + 2):
        yield TILE_ROWS + 1, K, TILE_COLUMNS


def products(rng: np.random.Generator) -> Iterator[tuple]:
    """Arguments of multiply_in_pieces."""
    sizes = [(*shape, 1) for shape in shapes()] + [(100, 40, 70, 2), (70, 40, 100, 3)]
    for M, K, N, n_pieces in sizes:
        a, b = _numbers(rng, M, K), _numbers(rng, K, N)
        add = bool(K % 2)
        for of_a in LAYOUTS:
            for of_b in LAYOUTS:
                yield np.ones((M, N), np.float32), of_a(a), of_b(b), add, M > N, n_pieces


def product_in_python(out, a, b, add, cut_rows, n_pieces) -> None:
    """multiply_in_pieces, by numpy."""
    out[...] = a @ b + out if add else a @ b


def rows(rng: np.random.Generator) -> Iterator[tuple]:
    """Arguments of sum_rows."""
    for K, N, n_pieces in ((1, 1, 1), (7, 17, 1), (37, 35, 3)):
        yield np.ones(N, np.float32), _numbers(rng, K), _numbers(rng, K, N), K == 7, n_pieces


def columns(rng: np.random.Generator) -> Iterator[tuple]:
    """Arguments of sum_columns."""
    for K, N, n_pieces in ((1, 1, 1), (7, 5, 1), (37, 9, 3)):
        yield np.ones(N, np.float32), _numbers(rng, K), _numbers(rng, N, K), K == 7, n_pieces


def _numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


TRIALS = {
    "gemm.multiply_in_pieces": Cases(products, product_in_python),
    "gemm_one_row.sum_rows": Cases(rows),
    "gemm_one_row.sum_columns": Cases(columns),
}
