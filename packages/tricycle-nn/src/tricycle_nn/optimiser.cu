// Masters on the GPU: float32 numbers that bfloat16 parameters are rounded from (optimiser.py).  In
// Python
//
//     masters = where(masters.astype(bf16) == values, masters, values)
#include "numbers.cuh"

extern "C" __global__ void __launch_bounds__(256) follow(
    float* masters, const number* values, long long size
) {
    long long i = WIDTH * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= size) return;
    int left = size - i < WIDTH ? (int)(size - i) : WIDTH;
    Numbers exact = load_floats(masters + i, left), value = load(values + i, left);
    Numbers rough = rounded(exact);
    #pragma unroll
    for (int k = 0; k < WIDTH; k++) if (rough.at[k] != value.at[k]) exact.at[k] = value.at[k];
    store_floats(masters + i, exact, left);
}
