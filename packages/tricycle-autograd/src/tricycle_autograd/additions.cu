// Sums of arrays, and copies that change the dtype, on the GPU.  In Python, for flat arrays,
//
//     y[i] = a[i] + b[i % repeats]        add
//     y[i] = x[:, i].sum()                add_rows
//     y[i] = x[i], or y[i] += x[i]        widen: float32 from bfloat16
//     y[i] = x[i]                         narrow: rounded
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

extern "C" __global__ void __launch_bounds__(256) add_rows(
    number* y,        // (size,)  out
    const number* x,  // (rows, size), added in their order in float32
    int rows, long long size
) {
    long long i = WIDTH * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= size) return;
    int left = size - i < WIDTH ? (int)(size - i) : WIDTH;
    Numbers sum = {};
    for (int n = 0; n < rows; n++) {
        Numbers more = load(x + n * size + i, left);
        #pragma unroll
        for (int k = 0; k < WIDTH; k++) sum.at[k] += more.at[k];
    }
    store(y + i, sum, left);
}

extern "C" __global__ void __launch_bounds__(256) widen(
    float* y, const number* x, int add, long long size
) {
    long long i = WIDTH * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= size) return;
    int left = size - i < WIDTH ? (int)(size - i) : WIDTH;
    Numbers a = load(x + i, left);
    if (add) add_to(y + i, a, left);
    else store_floats(y + i, a, left);
}

extern "C" __global__ void __launch_bounds__(256) narrow(
    number* y, const float* x, long long size
) {
    long long i = WIDTH * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= size) return;
    int left = size - i < WIDTH ? (int)(size - i) : WIDTH;
    store(y + i, load_floats(x + i, left), left);
}
