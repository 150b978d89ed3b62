// Sums of two arrays on the GPU.  In Python, for flat arrays,
//
//     y[i] = a[i] + b[i % repeats]
//
// b is as large as a, or as the last axes of a: positions, say, that are added to every text.
#include "numbers.cuh"

extern "C" __global__ void __launch_bounds__(256) add(
    number* y,        // (size,)  out; may be a
    const number* a,  // (size,)
    const number* b,  // (repeats,), which divides size
    long long size, long long repeats
) {
    long long i = WIDTH * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= size) return;
    int left = size - i < WIDTH ? (int)(size - i) : WIDTH;
    long long j = i % repeats;
    Numbers x = load(a + i, left), more;
    if (repeats % WIDTH == 0 || repeats == size) more = load(b + j, left);
    else
        #pragma unroll
        for (int k = 0; k < WIDTH; k++) more.at[k] = k < left ? to_float(b[(j + k) % repeats]) : 0;
    #pragma unroll
    for (int k = 0; k < WIDTH; k++) x.at[k] += more.at[k];
    store(y + i, x, left);
}
