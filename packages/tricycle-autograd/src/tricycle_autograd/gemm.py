"""The matrix product that CPU kernels call, one thread at a time.

    multiply(out, a, b, add)        out = a @ b, or out += a @ b if `add`

out (M, N), a (M, K) and b (K, N) are two-dimensional float32 arrays.  Any of them may be a
slice or a transposed view (`weight.T`); the rows of `out` must be contiguous.

Parallel kernels cut the rows or columns of the result into pieces by shape alone and call
`multiply` for each, never cutting the dimension that is summed, so that any number of threads
gives the same bits.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function


@cpu_function
def multiply(out, a, b, add):
    """out (M, N) = a (M, K) @ b (K, N), or += if `add`."""
    M, K = a.shape
    N = b.shape[1]
    for i in range(M):
        row = out[i]
        if not add:
            for j in range(N):
                row[j] = np.float32(0)
        for k in range(K):
            factor = a[i, k]
            for j in range(N):
                row[j] += factor * b[k, j]
