// RMS normalisation on the GPU, with the addition before it.  The maths is told in rms_norm.py:
//
//     h = x + branch                                                    forward
//     r = (mean(h * h) + eps) ** -0.5;  y = h * r * weight
//
//     g = dy * weight;  dh = waiting + r * (g - h * r * r * mean(g * h))    backward
//     d_weight = sum(dy * h * r), over rows
//
// A warp takes a row (C,) at a time, in STEPS steps; C is a constant here, so that the steps are
// unrolled and the row stays in registers: it is read once.
#include "row_sums.cuh"

constexpr int WARPS = 4;  // in a block
constexpr float SHARE = 1.0f / C;

extern "C" __global__ void __launch_bounds__(WARPS * WARP) forward(
    number* h,             // (N, C)  out: x + branch, where there is a branch
    number* y,             // (N, C)  out
    float* r,              // (N,)    out, kept for backward
    const number* x,       // (N, C)
    const number* branch,  // (N, C)  or null
    const number* weight,  // (C,)
    float eps, int N
) {
    int n = blockIdx.x * WARPS + threadIdx.x / WARP, first = threadIdx.x % WARP * WIDTH;
    if (n >= N) return;
    long row = (long)n * C;

    Numbers of_row[STEPS];
    float squares = 0;
    #pragma unroll
    for (int k = 0; k < STEPS; k++) {
        int c = first + k * STEP;
        of_row[k] = load(x + row + c, C - c);
        if (branch) {
            Numbers more = load(branch + row + c, C - c);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) of_row[k].at[i] += more.at[i];
            of_row[k] = rounded(of_row[k]);  // what is normalised is what others read
            store(h + row + c, of_row[k], C - c);
        }
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) squares += of_row[k].at[i] * of_row[k].at[i];
    }
    float r_n = rsqrtf(warp_sum(squares) * SHARE + eps);

    #pragma unroll
    for (int k = 0; k < STEPS; k++) {
        int c = first + k * STEP;
        Numbers w = load(weight + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) w.at[i] *= of_row[k].at[i] * r_n;
        store(y + row + c, w, C - c);
    }
    if (first == 0) r[n] = r_n;
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP) backward(
    number* dh,             // (N, C)  out
    float* partial,         // (blocks, C)  out: each block's share of d_weight
    const number* dy,       // (N, C)
    const number* h,        // (N, C)
    const number* waiting,  // (N, C)  or null: the gradient that has come to h by other ways
    const number* weight,   // (C,)
    const float* r,         // (N,)
    int N
) {
    int warp = threadIdx.x / WARP, first = threadIdx.x % WARP * WIDTH;
    Numbers d_weight[STEPS] = {};

    for (int n = blockIdx.x * WARPS + warp; n < N; n += gridDim.x * WARPS) {
        long row = (long)n * C;
        float r_n = r[n], sum_gh = 0;
        Numbers of_row[STEPS], g[STEPS];
        #pragma unroll
        for (int k = 0; k < STEPS; k++) {
            int c = first + k * STEP;
            of_row[k] = load(h + row + c, C - c);
            g[k] = load(dy + row + c, C - c);
            Numbers w = load(weight + c, C - c);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                d_weight[k].at[i] += g[k].at[i] * of_row[k].at[i] * r_n;
                g[k].at[i] *= w.at[i];
                sum_gh += g[k].at[i] * of_row[k].at[i];
            }
        }
        // Two factors of r on each side: r * r * r could overflow where x is tiny and eps zero.
        float back = r_n * (r_n * (warp_sum(sum_gh) * SHARE));
        #pragma unroll
        for (int k = 0; k < STEPS; k++) {
            int c = first + k * STEP;
            Numbers out = {};
            if (waiting) out = load(waiting + row + c, C - c);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++)
                out.at[i] += r_n * (g[k].at[i] - of_row[k].at[i] * back);
            store(dh + row + c, out, C - c);
        }
    }
    sum_of_warps<WARPS>(partial + (long)blockIdx.x * C, d_weight);
}
