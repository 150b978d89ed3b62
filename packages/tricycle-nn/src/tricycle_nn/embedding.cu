// Embedding on the GPU.  In Python
//
//     y[n] = table[ids[n]]                                                          gather
//     d_table[v] += sum of dy[n] over all n with ids[n] == v                        scatter
//
// For the second, the CPU sorts the places n by their ids beforehand (np.argsort, stable).  Where an
// id begins in that order, a warp begins, and adds up its rows until the id changes: one writer for
// each row of the table, one order of adding, no atomics.
//
// A row (C,) is shared out among PIECES warps.
#include "numbers.cuh"

constexpr int STEP = WARP * WIDTH;
constexpr int PIECES = (C + STEP - 1) / STEP;
constexpr int AHEAD = 8;  // rows on their way at once

#if FLOAT_TABLE
typedef float table_number;  // gradients are float32 where an optimiser keeps them
#else
typedef number table_number;
#endif

extern "C" __global__ void __launch_bounds__(128) gather(
    number* y,            // (N, C)  out
    const number* table,  // (V, C)
    const int* ids,       // (N,)
    int N
) {
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, n = warp / PIECES;
    int c = warp % PIECES * STEP + threadIdx.x % WARP * WIDTH;
    if (n >= N || c >= C) return;
    store(y + (long long)n * C + c, load(table + (long long)ids[n] * C + c, C - c), C - c);
}

HELPER void add_to_row(table_number* p, const Numbers& x, int left) {
#if FLOAT_TABLE
    add_to(p, x, left);
#else
    Numbers sum = load(p, left);
    #pragma unroll
    for (int i = 0; i < WIDTH; i++) sum.at[i] += x.at[i];
    store(p, sum, left);
#endif
}

extern "C" __global__ void __launch_bounds__(128) scatter(
    table_number* d_table,  // (V, C)  in and out
    const number* dy,       // (N, C)
    const int* ids,         // (N,)
    const int* order,       // (N,)  places, sorted by their ids
    int N
) {
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, i = warp / PIECES;
    int c = warp % PIECES * STEP + threadIdx.x % WARP * WIDTH;
    if (i >= N || c >= C) return;
    int id = ids[order[i]];
    if (i > 0 && ids[order[i - 1]] == id) return;  // not where an id begins
    Numbers sum = {};
    for (; i < N && ids[order[i]] == id; i += AHEAD) {
        Numbers row[AHEAD];
        #pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            bool mine = i + k < N && ids[order[i + k]] == id;
            row[k] = mine ? load(dy + (long long)order[i + k] * C + c, C - c) : Numbers{};
        }
        #pragma unroll
        for (int k = 0; k < AHEAD; k++)
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) sum.at[j] += row[k].at[j];
    }
    add_to_row(d_table + (long long)id * C + c, sum, C - c);
}
