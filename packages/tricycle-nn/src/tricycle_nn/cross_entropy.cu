// Cross entropy on the GPU: the maths is told in scores.cuh.  A block for each row.
//
// A target below 0 leaves its row out: loss 0, gradient 0.
#include "scores.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) forward(
    float* losses, float* largest, float* totals,  // (N,)  out
    const number* logits,                          // (N, V)
    const long long* targets,                      // (N,)
    float smoothing
) {
    int n = blockIdx.x, target = (int)targets[n];
    float loss = 0, m = 0, total = 0;
    if (target >= 0) {
        Row row(logits + (long long)n * V);
        m = row.largest();
        total = row.sum_of_exps(m);
        loss = row.surprise(target, smoothing, m, total);
    }
    if (threadIdx.x == 0) losses[n] = loss, largest[n] = m, totals[n] = total;
}

extern "C" __global__ void __launch_bounds__(THREADS) backward(
    number* d_logits,       // (N, V)  out
    const float* d_losses,  // (N,), or (1,) that of their average
    const number* logits,   // (N, V)
    const long long* targets, const float* largest, const float* totals,  // (N,)
    float smoothing, float share, int of_average
) {
    int n = blockIdx.x, target = (int)targets[n];
    number* dz = d_logits + (long long)n * V;
    if (target < 0) return Row::zeros(dz, 0, V);
    float factor = share * d_losses[of_average ? 0 : n];
    Row(logits + (long long)n * V).gradient(dz, target, smoothing, largest[n], totals[n], factor, V);
}
