// Attention of a single query, which is how a text is written: one new token, many old ones.
// Of one head, in Python,
//
//     scores = scale * k @ q;  p = exp(scores - scores.max())
//     out = p @ v / p.sum();  log_sum = log(p.sum()) + scores.max()
//
// Every key and value is read once, and the time is that of reading them.  A block takes CHUNK keys
// of one key head, and QUERIES of the query heads that read it; `join_chunks` adds the chunks up in
// their order.  (Dao et al., Flash-Decoding, 2023.)
//
// q and out are (B, H, 1, HEAD), k and v (B, G, S, HEAD).
#include "heads.cuh"
#include "numbers.cuh"

// Compiled in: HEAD, QUERIES and CHUNK.
constexpr int WARPS = 4;
constexpr int PARTS = HEAD / WIDTH;  // of a head, 16 bytes each, and a lane for each:
constexpr int LANES = PARTS <= 2 ? 2 : PARTS <= 4 ? 4 : PARTS <= 8 ? 8 : PARTS <= 16 ? 16 : 32;
constexpr int KEYS = WARPS * WARP / LANES;  // that a block takes at once
constexpr int AHEAD = 4;                    // times as many are on their way

// A weighted sum of values in the making.  Its weights are 2^(score - largest).
struct Look {
    float largest, total;
    Numbers sum;
};

// Two of them become one.
HELPER void join(Look& a, float largest, float total, const Numbers& sum) {
    float m = fmaxf(a.largest, largest);
    float mine = m == NEGATIVE_INFINITY ? 0.0f : power_of_two(a.largest - m);
    float theirs = m == NEGATIVE_INFINITY ? 0.0f : power_of_two(largest - m);
    a.largest = m;
    a.total = a.total * mine + total * theirs;
    #pragma unroll
    for (int i = 0; i < WIDTH; i++) a.sum.at[i] = a.sum.at[i] * mine + sum.at[i] * theirs;
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP) look_at_chunks(
    float* sums,    // (B, H, chunks, HEAD)  out: of values, weighted
    float* totals,  // (B, H, chunks, 2)     out: the largest score, in twos, and the weights' sum
    VIEW(const number, q), VIEW(const number, k), VIEW(const number, v),
    int S, int H, int G, float scale
) {
    int chunk = blockIdx.x, first_head = blockIdx.y * QUERIES, b = blockIdx.z;
    int c = threadIdx.x % LANES * WIDTH, mine = threadIdx.x / LANES;  // a head's numbers, which key
    int group = first_head / (H / G);
    bool here = c < HEAD;
    k = HEAD_OF(k, b, group) + c, v = HEAD_OF(v, b, group) + c;

    Numbers queries[QUERIES];
    Look looks[QUERIES];
    #pragma unroll
    for (int j = 0; j < QUERIES; j++) {
        queries[j] = here ? load(HEAD_OF(q, b, first_head + j) + c) : Numbers{};
        looks[j] = {NEGATIVE_INFINITY, 0.0f, {}};
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) queries[j].at[i] *= scale * LOG2_E;
    }

    int end = min(S, (chunk + 1) * CHUNK);
    for (int start = chunk * CHUNK; start < end; start += KEYS * AHEAD) {
        uint4 key[AHEAD] = {}, value[AHEAD] = {};
        #pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int s = start + a * KEYS + mine;
            if (!here || s >= end) continue;
            key[a] = *(const uint4*)(k + s * k_row);
            value[a] = *(const uint4*)(v + s * v_row);
        }
        #pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            Numbers x = unpack(key[a]), y = unpack(value[a]);
            bool there = start + a * KEYS + mine < end;
            #pragma unroll
            for (int j = 0; j < QUERIES; j++) {
                float score = 0;
                #pragma unroll
                for (int i = 0; i < WIDTH; i++) score += queries[j].at[i] * x.at[i];
                #pragma unroll
                for (int far = LANES / 2; far > 0; far /= 2)
                    score += __shfl_xor_sync(~0u, score, far);
                join(looks[j], there ? score : NEGATIVE_INFINITY, there ? 1.0f : 0.0f, y);
            }
        }
    }

    // The keys that a warp had at once, then the warps, in order.
    __shared__ float largest[WARPS], total[WARPS];
    __shared__ __align__(16) float sum[WARPS][LANES * WIDTH];
    int warp = threadIdx.x / WARP, chunks = gridDim.x;
    #pragma unroll
    for (int j = 0; j < QUERIES; j++) {
        Look look = looks[j];
        #pragma unroll
        for (int far = LANES; far < WARP; far *= 2) {
            Numbers other;
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) other.at[i] = __shfl_xor_sync(~0u, look.sum.at[i], far);
            float m = __shfl_xor_sync(~0u, look.largest, far);
            join(look, m, __shfl_xor_sync(~0u, look.total, far), other);
        }
        __syncthreads();  // of the query before, all has been read
        if (threadIdx.x % WARP < LANES)
            #pragma unroll
            for (int i = 0; i < WIDTH; i++)
                sum[warp][i * LANES + threadIdx.x % WARP] = look.sum.at[i];
        if (threadIdx.x % WARP == 0) largest[warp] = look.largest, total[warp] = look.total;
        __syncthreads();
        if (mine == 0) {
            #pragma unroll
            for (int w = 1; w < WARPS; w++) {
                Numbers other;
                #pragma unroll
                for (int i = 0; i < WIDTH; i++) other.at[i] = sum[w][i * LANES + threadIdx.x];
                join(look, largest[w], total[w], other);
            }
            long place = ((long)b * H + first_head + j) * chunks + chunk;
            if (here)
                #pragma unroll
                for (int i = 0; i < WIDTH; i += 4) {
                    const float* four = look.sum.at + i;
                    float4 packed = make_float4(four[0], four[1], four[2], four[3]);
                    *(float4*)(sums + place * HEAD + c + i) = packed;
                }
            if (c == 0) *(float2*)(totals + place * 2) = make_float2(look.largest, look.total);
        }
    }
}

// A warp takes one query; each lane some of its numbers.
extern "C" __global__ void __launch_bounds__(WARP) join_chunks(
    VIEW(number, out),
    float* log_sums,  // (B, H)  out
    const float* sums, const float* totals, int chunks
) {
    constexpr int EACH = (HEAD + WARP - 1) / WARP;
    long h = blockIdx.x, b = blockIdx.y, place = (b * gridDim.x + h) * chunks;
    float largest = NEGATIVE_INFINITY, total = 0, sum[EACH] = {};
    for (int i = threadIdx.x; i < chunks; i += WARP)
        largest = fmaxf(largest, totals[(place + i) * 2]);
    largest = warp_max(largest);
    for (int i = 0; i < chunks; i++) {
        float2 chunk = *(const float2*)(totals + (place + i) * 2);
        float weight = power_of_two(chunk.x - largest);
        total += weight * chunk.y;
        #pragma unroll
        for (int e = 0; e < EACH; e++) {
            int c = e * WARP + threadIdx.x;
            if (c < HEAD) sum[e] += weight * sums[(place + i) * HEAD + c];
        }
    }
    #pragma unroll
    for (int e = 0; e < EACH; e++) {
        int c = e * WARP + threadIdx.x;
        if (c < HEAD) to_number(HEAD_OF(out, b, h) + c, sum[e] / total);
    }
    if (threadIdx.x == 0) log_sums[b * gridDim.x + h] = (largest + log2f(total)) * LN_2;
}
