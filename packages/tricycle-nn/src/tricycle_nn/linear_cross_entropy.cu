// The end of a language model on the GPU: scores become their gradient, in place.  The maths is told
// in scores.cuh.  A block for each row.
//
// Rows are `step` numbers apart; what lies between V and `step` becomes zeros, so that a product over
// all `step` columns is right.  A target below 0 leaves its row out: loss 0, gradient 0.
#include "flat.cuh"
#include "scores.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) scores_to_gradient(
    number* scores,            // (N, step)  in, and out if `keep`
    float* losses,             // (N,)       out
    const long long* targets,  // (N,)
    float smoothing, float share, int keep, int step
) {
    int n = blockIdx.x, target = (int)targets[n];
    number* z = scores + (long long)n * step;
    if (target < 0) {
        if (threadIdx.x == 0) losses[n] = 0;
        if (keep) Row::zeros(z, 0, step);
        return;
    }
    Row row(z);
    float m = row.largest(), total = row.sum_of_exps(m);
    float loss = row.surprise(target, smoothing, m, total);
    if (threadIdx.x == 0) losses[n] = loss;
    __syncthreads();  // the target's score has been read, and may be written over
    if (keep) row.gradient(z, target, smoothing, m, total, share, step);
}

// y = factor[0] * x, flat; y may be x
ELEMENTWISE scaled(number* y, const number* x, const float* factor, long long size) {
    float by = *factor;
    each(size, y, [=](float x) { return by * x; }, x);
}
