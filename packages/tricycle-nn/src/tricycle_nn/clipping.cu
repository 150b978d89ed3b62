// Sums of squares on the GPU.  In Python, for each chunk of a flat array of float32,
//
//     sums[k] = (x[k * CHUNK : (k + 1) * CHUNK] ** 2).sum()
//
// A block takes a chunk, in float64: a square may be larger than float32 goes.  The CPU adds up the
// chunks, in their order.
#include "numbers.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) sums_of_chunks(
    double* sums,     // (chunks,)  out
    const number* x,  // (size,)
    long long size
) {
    long long start = (long long)blockIdx.x * CHUNK;
    int n = (int)min((long long)CHUNK, size - start), me = threadIdx.x;
    double sum = 0;
    for (int i = me * WIDTH; i < n; i += THREADS * WIDTH) {
        Numbers a = load(x + start + i, n - i);
        #pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += (double)a.at[k] * a.at[k];
    }
    sum = block_sum<THREADS>(sum);
    if (me == 0) sums[blockIdx.x] = sum;
}
