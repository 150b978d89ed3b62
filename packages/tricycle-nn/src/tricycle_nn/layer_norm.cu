// Layer normalisation on the GPU, with the addition before it.  The maths is told in layer_norm.py:
//
//     h = x + branch                                                                forward
//     r = (variance(h) + eps) ** -0.5;  n = (h - mean(h)) * r;  y = n * weight + bias
//
//     g = dy * weight;  dh = waiting + r * (g - mean(g) - n * mean(g * n))          backward
//     d_weight = sum(dy * n);  d_bias = sum(dy), over rows
//
// A warp takes a row (C,) at a time, as in rms_norm.cu; it is read once, also for the variance.
#include "row_sums.cuh"

constexpr int WARPS = 4;  // in a block
constexpr float SHARE = 1.0f / C;
constexpr bool KEPT = STEPS <= 6;  // whether backward has registers for whole rows, beside its sums
constexpr float NEARLY_CONSTANT = 1e-6f;  // variance beside the square of the mean

// Of a row that lies across the warp, beginning at `first` in this lane: the mean of its distances
// from a number, and of their squares.
struct Distances { float mean, variance; };
HELPER Distances distances(const Numbers (&of_row)[STEPS], float from, int first) {
    float sum = 0, squares = 0;
    #pragma unroll
    for (int k = 0; k < STEPS; k++)
        #pragma unroll
        for (int i = 0; i < WIDTH; i++)
            if (first + k * STEP + i < C) {
                float far = of_row[k].at[i] - from;
                sum += far, squares += far * far;
            }
    return {warp_sum(sum) * SHARE, warp_sum(squares) * SHARE};
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP) forward(
    number* h,              // (N, C)  out: x + branch, where there is a branch
    number* y,              // (N, C)  out
    float* mean, float* r,  // (N,)    out, kept for backward
    const number* x,        // (N, C)
    const number* branch,   // (N, C)  or null
    const number* weight,   // (C,)
    const number* bias,     // (C,)    or null
    float eps, int N
) {
    int n = blockIdx.x * WARPS + threadIdx.x / WARP, first = threadIdx.x % WARP * WIDTH;
    if (n >= N) return;
    long row = (long)n * C;

    Numbers of_row[STEPS];
    float sum = 0;
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
        for (int i = 0; i < WIDTH; i++) sum += of_row[k].at[i];
    }
    float mean_n = warp_sum(sum) * SHARE;
    // Once more over the row: mean(h * h) - mean(h) ** 2 would lose its digits where the mean is
    // large.  And a mean in float32 is off by its last digit, which is all there is to see of a
    // constant row: there the mean of what is left is taken once more.
    Distances far = distances(of_row, mean_n, first);
    if (far.variance < NEARLY_CONSTANT * mean_n * mean_n) {
        mean_n += far.mean;
        far = distances(of_row, mean_n, first);
    }
    float r_n = rsqrtf(far.variance + eps);

    #pragma unroll
    for (int k = 0; k < STEPS; k++) {
        int c = first + k * STEP;
        Numbers w = load(weight + c, C - c), b = {};
        if (bias) b = load(bias + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++)
            b.at[i] += (of_row[k].at[i] - mean_n) * r_n * w.at[i];
        store(y + row + c, b, C - c);
    }
    if (first == 0) mean[n] = mean_n, r[n] = r_n;
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP) backward(
    number* dh,             // (N, C)  out
    float* partial,         // (blocks, 2, C)  out: each block's share of d_weight and d_bias
    const number* dy,       // (N, C)
    const number* h,        // (N, C)
    const number* waiting,  // (N, C)  or null: the gradient that has come to h by other ways
    const number* weight,   // (C,)
    const float* mean, const float* r,  // (N,)
    int N
) {
    int warp = threadIdx.x / WARP, first = threadIdx.x % WARP * WIDTH;
    Numbers d_weight[STEPS] = {}, d_bias[STEPS] = {};

    for (int n = blockIdx.x * WARPS + warp; n < N; n += gridDim.x * WARPS) {
        long row = (long)n * C;
        float mean_n = mean[n], r_n = r[n], sum_g = 0, sum_gn = 0;
        auto at = [&](const number* rows, int k) {
            int c = first + k * STEP;
            return load_raw(rows + row + c, C - c);
        };
        // As they lie in memory: half the registers of floats.
        uint4 row_h[KEPT ? STEPS : 1], row_dy[KEPT ? STEPS : 1];
        if (KEPT)
            #pragma unroll
            for (int k = 0; k < STEPS; k++) row_h[KEPT * k] = at(h, k), row_dy[KEPT * k] = at(dy, k);
        #pragma unroll
        for (int k = 0; k < STEPS; k++) {
            int c = first + k * STEP;
            Numbers x = unpack(KEPT ? row_h[KEPT * k] : at(h, k));
            Numbers d = unpack(KEPT ? row_dy[KEPT * k] : at(dy, k)), w = load(weight + c, C - c);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                float norm = (x.at[i] - mean_n) * r_n, g = d.at[i] * w.at[i];
                sum_g += g, sum_gn += g * norm;
                d_weight[k].at[i] += d.at[i] * norm, d_bias[k].at[i] += d.at[i];
            }
        }
        float mean_g = warp_sum(sum_g) * SHARE, mean_gn = warp_sum(sum_gn) * SHARE;
        #pragma unroll
        for (int k = 0; k < STEPS; k++) {
            int c = first + k * STEP;
            Numbers x = unpack(KEPT ? row_h[KEPT * k] : at(h, k));
            Numbers d = unpack(KEPT ? row_dy[KEPT * k] : at(dy, k)), w = load(weight + c, C - c);
            Numbers out = {};
            if (waiting) out = load(waiting + row + c, C - c);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                float norm = (x.at[i] - mean_n) * r_n;
                out.at[i] += r_n * (d.at[i] * w.at[i] - mean_g - norm * mean_gn);
            }
            store(dh + row + c, out, C - c);
        }
    }
    float* mine = partial + (long)blockIdx.x * 2 * C;
    sum_of_warps<WARPS>(mine, d_weight);
    sum_of_warps<WARPS>(mine + C, d_bias);
}
