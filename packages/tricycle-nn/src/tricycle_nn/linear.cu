// Sums over rows on the GPU, for the gradient of linear's bias.  In Python
//
//     sums = dy.sum(axis=0)
//
// A block takes 32 · WIDTH columns; its warps take rows in turns, and are added in their order.
#include "row_sums.cuh"

constexpr int WARPS = 8;

// partial (blocks in y, C) = the sum of the rows n, n + WARPS · blocks … of dy (N, C), of every warp.
extern "C" __global__ void __launch_bounds__(WARPS * WARP) sum_rows(
    float* partial, const number* dy, int N
) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int first = blockIdx.x * STEP, c = first + lane * WIDTH;
    Numbers sum = {};
    if (c < C)
        for (int n = blockIdx.y * WARPS + warp; n < N; n += gridDim.y * WARPS) {
            Numbers x = load(dy + (long long)n * C + c, C - c);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) sum.at[i] += x.at[i];
        }
    __shared__ float of_warp[WARPS][WIDTH][WARP];
    #pragma unroll
    for (int i = 0; i < WIDTH; i++) of_warp[warp][i][lane] = sum.at[i];
    __syncthreads();
    for (int column = threadIdx.x; column < STEP && first + column < C; column += WARPS * WARP) {
        float total = 0;
        for (int w = 0; w < WARPS; w++) total += of_warp[w][column % WIDTH][column / WIDTH];
        partial[(long long)blockIdx.y * C + first + column] = total;
    }
}
