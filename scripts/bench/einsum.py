"""Is einsum as fast as numpy's?  Both on the same arrays, taking turns; results must be equal.

    hatch run bench einsum.py [--rounds 9]

Where other programs use the machine too, OPENBLAS_NUM_THREADS=1 in front compares one thread with
one thread.

Prints the median time of each and their ratio (above 1: ours is faster), and the time of our
forward and backward pass together, for which numpy has no counterpart.
"""

import argparse
import time
from statistics import median

import numpy as np

from tricycle_autograd import Tensor, einsum

CASES = {
    "matrix product": ("ij,jk->ik", (256, 512), (512, 256)),
    "activations times weight": ("btc,cd->btd", (8, 128, 256), (256, 768)),
    "attention scores": ("bthd,bshd->bhts", (4, 128, 6, 64), (4, 128, 6, 64)),
    "attention sums": ("bhts,bshd->bthd", (4, 6, 128, 128), (4, 128, 6, 64)),
    "batched products": ("bij,bjk->bik", (64, 64, 64), (64, 64, 64)),
    "chain of three": ("ij,jk,kl->il", (300, 300), (300, 300), (300, 300)),
    "chain that ends in a vector": ("ij,jk,kl,l->i", *[(400, 400)] * 3, (400,)),
    "bilinear form": ("bi,ijk,bk->bj", (64, 48), (48, 48, 48), (64, 48)),
    "everything times everything": ("ij,ij->", (1000, 1000), (1000, 1000)),
    "sum of rows": ("ij->i", (1000, 1000)),
    "trace": ("ii->", (2000, 2000)),
    "small": ("ij,jk->ik", (4, 4), (4, 4)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed")
    rounds = parser.parse_args().rounds

    print(f"{'':29}{'subscripts':18}{'numpy ms':>10}{'ours ms':>10}{'ratio':>8}{'+backward':>11}")
    for name, (subscripts, *shapes) in CASES.items():
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
        tensors = [Tensor(array) for array in arrays]

        expected = np.einsum(subscripts, *arrays, optimize=True)
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(
            einsum(subscripts, *tensors).array, expected, rtol=1e-4, atol=1e-5 * scale
        )

        def numpys(subscripts=subscripts, arrays=arrays):
            np.einsum(subscripts, *arrays, optimize=True)

        def ours(subscripts=subscripts, tensors=tensors):
            einsum(subscripts, *tensors)

        def both_ways(subscripts=subscripts, arrays=arrays, expected=expected):
            out = einsum(subscripts, *[Tensor(array, requires_grad=True) for array in arrays])
            out.backward(np.ones_like(expected))

        times = medians([numpys, ours, both_ways], rounds)
        print(
            f"{name:29}{subscripts:18}{times[0]:10.3f}{times[1]:10.3f}"
            f"{times[0] / times[1]:8.2f}{times[2]:11.3f}"
        )


def medians(functions, rounds) -> list[float]:
    """Milliseconds each function takes: the median of rounds in which they take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, so_far in zip(functions, times):
            start = time.perf_counter()
            function()
            so_far.append((time.perf_counter() - start) * 1000)
    return [median(so_far) for so_far in times]


if __name__ == "__main__":
    main()
