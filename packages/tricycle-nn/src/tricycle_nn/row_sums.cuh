// Sums over rows, to which every row adds: gradients of what all rows share.
//
// Each warp sums its own rows in registers, `sum_of_warps` a block's warps in their order, and
// `add_up` the blocks in theirs: no atomics, and the same bits every time.
//
// A row (C,) lies across a warp in steps of STEP numbers: WIDTH in each lane.
#pragma once
#include "numbers.cuh"

constexpr int STEP = WARP * WIDTH;
constexpr int STEPS = (C + STEP - 1) / STEP;

// sums (C,) = of every warp of the block, what its lanes hold.
template <int WARPS>
HELPER void sum_of_warps(float* sums, const Numbers (&mine)[STEPS]) {
    // Lanes lie side by side when they write, WIDTH rows below each other when they are read: with
    // these gaps no two are in one bank either way.
    __shared__ float total[STEPS * WIDTH][WARP + WARP / WIDTH];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (int turn = 0; turn < WARPS; turn++) {
        if (warp == turn)
            #pragma unroll
            for (int k = 0; k < STEPS; k++)
                #pragma unroll
                for (int i = 0; i < WIDTH; i++) {
                    float* place = &total[k * WIDTH + i][lane];
                    *place = mine[k].at[i] + (turn ? *place : 0.0f);
                }
        __syncthreads();
    }
    for (int c = threadIdx.x; c < C; c += WARPS * WARP)
        sums[c] = total[c / STEP * WIDTH + c % WIDTH][c % STEP / WIDTH];
    __syncthreads();  // total may be used again
}

// sums (columns,) = the rows of partial (blocks, columns), added in order.  A thread a column.
extern "C" __global__ void add_up(float* sums, const float* partial, int blocks, int columns) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= columns) return;
    float sum = 0;
    for (int k = 0; k < blocks; k++) sum += partial[(long)k * columns + c];
    sums[c] = sum;
}
