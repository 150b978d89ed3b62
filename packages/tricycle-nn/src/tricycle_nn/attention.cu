// Attention on the GPU.  The maths is told in attention.py; of one head, in Python it is
//
//     scores = scale * q @ k.T;  scores[key > query + S - T] = -inf              forward
//     log_sums = log(exp(scores).sum(keys));  p = exp(scores - log_sums);  out = p @ v
//
//     dv = p.T @ dy;  dp = dy @ v.T                                              backward
//     ds = p * (dp - (dy * out).sum(numbers of the head))
//     dq = scale * ds @ k;  dk = scale * ds.T @ q
//
// The table p (T, S) exists only in pieces.  A block takes ROWS rows, a strip of 16 for each of its
// warps, and walks over the other side in tiles, of which the next is on its way while one is
// worked on (Dao, FlashAttention-2, 2023).  Rows are queries in `forward` and `backward_queries`,
// and keys in `backward_keys`: so each gradient is summed by one warp, in one order, without
// atomics, at the price of computing scores and dp twice.
//
// q, out, dy and dq are (B, H, T, HEAD); k, v, dk and dv (B, G, S, HEAD).  Query head h reads key
// head h / (H/G).
#include "float_tiles.cuh"
#include "heads.cuh"

// Compiled in: HEAD, CAUSAL, ROWS (16 for each warp) and TILE (rows of the other side).
constexpr int THREADS = ROWS / STRIP * WARP;
constexpr int OWN = ROWS * PITCH, TILES = TILE * PITCH;  // numbers in shared memory

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

KERNEL forward(
    VIEW(number, out),
    float* log_sums,  // (B, H, T)  out
    VIEW(const number, q), VIEW(const number, k), VIEW(const number, v),
    int T, int S, int H, int G, float scale
) {
    extern __shared__ __align__(16) number memory[];
    number *own = memory, *tiles = own + OWN;  // 2 stages of a tile of k and one of v
    int first = (gridDim.x - 1 - blockIdx.x) * ROWS;  // the longest begin
    int h = blockIdx.y, b = blockIdx.z, group = h / (H / G), past = S - T;
    int strip = threadIdx.x / WARP * STRIP;
    k = HEAD_OF(k, b, group), v = HEAD_OF(v, b, group);
    int end = CAUSAL ? min(S, first + ROWS + past) : S;  // keys that some query here sees

    auto load_stage = [&](int start, int stage) {
        number* tile = tiles + stage * 2 * TILES;
        load_tile<TILE>(tile, k, k_row, start, S);
        load_tile<TILE>(tile + TILES, v, v_row, start, S);
    };
    load_tile<ROWS>(own, HEAD_OF(q, b, h), q_row, first, T);
    load_stage(0, 0);
    end_of_copies();

    Strip<number> queries;
    Result sums[HEAD / 8] = {};
    float largest[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, total[2] = {0, 0};
    float in_twos = scale * LOG2_E;  // exp(scale · s) = 2 ^ (in_twos · s)

    for (int start = 0, stage = 0; start < end; start += TILE, stage ^= 1) {
        if (start + TILE < end) load_stage(start + TILE, stage ^ 1);
        end_of_copies();  // an empty group, at the end
        wait_for_copies<1>();
        __syncthreads();
        const number *keys = tiles + stage * 2 * TILES, *values = keys + TILES;
        if (start == 0) load_strip(queries, own + strip * PITCH);

        Result p[TILE / 8] = {};
        multiply_by_rows<TILE>(p, queries, keys);
        bool all_seen = start + TILE <= S && !(CAUSAL && start + TILE > first + past + 1);
        #pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = start + column_of(n, i), query = first + strip + row_of(i);
                bool seen = all_seen || (key < S && !(CAUSAL && key > query + past));
                p[n][i] = seen ? p[n][i] * in_twos : NEGATIVE_INFINITY;
            }
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            float m = largest[half], sum = 0;
            #pragma unroll
            for (int n = 0; n < TILE / 8; n++)
                m = fmaxf(m, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            float shrink = power_of_two(largest[half] - m);
            largest[half] = m;
            #pragma unroll
            for (int n = 0; n < TILE / 8; n++)
                #pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++)
                    sum += p[n][i] = power_of_two(p[n][i] - m);
            total[half] = total[half] * shrink + sum;
            #pragma unroll
            for (int n = 0; n < HEAD / 8; n++)
                #pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) sums[n][i] *= shrink;
        }
        multiply_by_columns<TILE>(sums, p, values);
        __syncthreads();  // everyone is done with this stage before it is loaded again
    }

    float factor[2];
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = total[half];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        factor[half] = 1 / sum;
        int t = first + strip + row_of(2 * half);
        if (threadIdx.x % 4 == 0 && t < T)
            log_sums[((long)b * H + h) * T + t] = (largest[half] + log2f(sum)) * LN_2;
    }
    number* scratch = own + strip * PITCH;
    store_strip(HEAD_OF(out, b, h), out_row, first + strip, T, sums, factor, scratch);
}

// dots (B, H, T) = the sum of dy * out over a head's numbers.  Eight lanes take one row.
KERNEL dot(float* dots, VIEW(const number, dy), VIEW(const number, out), int T, int H, int rows) {
    int i = (blockIdx.x * THREADS + threadIdx.x) / 8, part = threadIdx.x % 8;  // i counts (b, t, h)
    int h = i % H, t = i / H % T, b = i / H / T;
    float sum = 0;
    if (i < rows)
        for (int c = part * WIDTH; c < HEAD; c += 8 * WIDTH) {
            Numbers a = load(HEAD_OF(dy, b, h) + t * dy_row + c);
            Numbers x = load(HEAD_OF(out, b, h) + t * out_row + c);
            #pragma unroll
            for (int j = 0; j < WIDTH; j++) sum += a.at[j] * x.at[j];
        }
    for (int far = 4; far > 0; far /= 2) sum += __shfl_xor_sync(~0u, sum, far);
    if (i < rows && part == 0) dots[((long)b * H + h) * T + t] = sum;
}

// A product q·k becomes p = exp(scale · q·k - log_sum), and dp becomes ds.
HELPER void to_weights(
    float& s, float& dp, float log_sum, float dot, bool seen, float in_twos
) {
    s = seen ? power_of_two(s * in_twos - log_sum * LOG2_E) : 0.0f;
    dp = s * (dp - dot);
}

KERNEL backward_queries(
    VIEW(number, dq),
    VIEW(const number, dy), VIEW(const number, q), VIEW(const number, k), VIEW(const number, v),
    const float* log_sums, const float* dots,
    int T, int S, int H, int G, float scale
) {
    extern __shared__ __align__(16) number memory[];
    number *own_q = memory, *own_dy = own_q + OWN, *tiles = own_dy + OWN;
    int first = (gridDim.x - 1 - blockIdx.x) * ROWS;
    int h = blockIdx.y, b = blockIdx.z, group = h / (H / G), past = S - T;
    int strip = threadIdx.x / WARP * STRIP;
    k = HEAD_OF(k, b, group), v = HEAD_OF(v, b, group);
    int end = CAUSAL ? min(S, first + ROWS + past) : S;

    auto load_stage = [&](int start, int stage) {
        number* tile = tiles + stage * 2 * TILES;
        load_tile<TILE>(tile, k, k_row, start, S);
        load_tile<TILE>(tile + TILES, v, v_row, start, S);
    };
    load_tile<ROWS>(own_q, HEAD_OF(q, b, h), q_row, first, T);
    load_tile<ROWS>(own_dy, HEAD_OF(dy, b, h), dy_row, first, T);
    load_stage(0, 0);
    end_of_copies();

    Strip<number> queries, d_out;
    Result sums[HEAD / 8] = {};
    float log_sum[2], dot[2], in_twos = scale * LOG2_E;
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int t = first + strip + row_of(2 * half);
        log_sum[half] = t < T ? log_sums[((long)b * H + h) * T + t] : 0.0f;
        dot[half] = t < T ? dots[((long)b * H + h) * T + t] : 0.0f;
    }

    for (int start = 0, stage = 0; start < end; start += TILE, stage ^= 1) {
        if (start + TILE < end) load_stage(start + TILE, stage ^ 1);
        end_of_copies();
        wait_for_copies<1>();
        __syncthreads();
        const number *keys = tiles + stage * 2 * TILES, *values = keys + TILES;
        if (start == 0) {
            load_strip(queries, own_q + strip * PITCH);
            load_strip(d_out, own_dy + strip * PITCH);
        }
        Result p[TILE / 8] = {}, ds[TILE / 8] = {};
        multiply_by_rows<TILE>(p, queries, keys);
        multiply_by_rows<TILE>(ds, d_out, values);
        bool all_seen = start + TILE <= S && !(CAUSAL && start + TILE > first + past + 1);
        #pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = start + column_of(n, i), query = first + strip + row_of(i);
                bool seen = all_seen || (key < S && !(CAUSAL && key > query + past));
                to_weights(p[n][i], ds[n][i], log_sum[i / 2], dot[i / 2], seen, in_twos);
            }
        multiply_by_columns<TILE>(sums, ds, keys);
        __syncthreads();
    }
    float factor[2] = {scale, scale};
    number* scratch = own_q + strip * PITCH;
    store_strip(HEAD_OF(dq, b, h), dq_row, first + strip, T, sums, factor, scratch);
}

KERNEL backward_keys(
    VIEW(number, dk), VIEW(number, dv),
    VIEW(const number, dy), VIEW(const number, q), VIEW(const number, k), VIEW(const number, v),
    const float* log_sums, const float* dots,
    int T, int S, int H, int G, float scale
) {
    extern __shared__ __align__(16) number memory[];
    number *own_k = memory, *own_v = own_k + OWN, *tiles = own_v + OWN;
    float* rows = (float*)(tiles + 4 * TILES);  // 2 stages of TILE log_sums, and TILE dots
    int first = blockIdx.x * ROWS, group = blockIdx.y, b = blockIdx.z;
    int past = S - T, heads = H / G, strip = threadIdx.x / WARP * STRIP;

    // The queries that see some key here, tile by tile, of every head of the group.
    int begin = CAUSAL ? max(0, first - past) / TILE * TILE : 0;
    int per_head = (T - begin + TILE - 1) / TILE, turns = heads * per_head;
    auto load_stage = [&](int turn, int stage) {
        int h = group * heads + turn / per_head, start = begin + turn % per_head * TILE;
        number* tile = tiles + stage * 2 * TILES;
        float* row = rows + stage * 2 * TILE;
        load_tile<TILE>(tile, HEAD_OF(q, b, h), q_row, start, T);
        load_tile<TILE>(tile + TILES, HEAD_OF(dy, b, h), dy_row, start, T);
        load_row<TILE>(row, log_sums + ((long)b * H + h) * T, start, T);
        load_row<TILE>(row + TILE, dots + ((long)b * H + h) * T, start, T);
    };
    load_tile<ROWS>(own_k, HEAD_OF(k, b, group), k_row, first, S);
    load_tile<ROWS>(own_v, HEAD_OF(v, b, group), v_row, first, S);
    load_stage(0, 0);
    end_of_copies();

    Strip<number> keys, values;
    Result sum_k[HEAD / 8] = {}, sum_v[HEAD / 8] = {};
    float in_twos = scale * LOG2_E;

    for (int turn = 0, stage = 0; turn < turns; turn++, stage ^= 1) {
        if (turn + 1 < turns) load_stage(turn + 1, stage ^ 1);
        end_of_copies();
        wait_for_copies<1>();
        __syncthreads();
        const number *queries = tiles + stage * 2 * TILES, *d_out = queries + TILES;
        const float *log_sum = rows + stage * 2 * TILE, *dot = log_sum + TILE;
        if (turn == 0) {
            load_strip(keys, own_k + strip * PITCH);
            load_strip(values, own_v + strip * PITCH);
        }
        int start = begin + turn % per_head * TILE;
        Result p[TILE / 8] = {}, ds[TILE / 8] = {};  // transposed: rows are keys
        multiply_by_rows<TILE>(p, keys, queries);
        multiply_by_rows<TILE>(ds, values, d_out);
        bool all_seen = !CAUSAL || first + ROWS <= start + past + 1;
        #pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
            float2 sums = *(const float2*)(log_sum + column_of(n, 0));
            float2 two_dots = *(const float2*)(dot + column_of(n, 0));
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = first + strip + row_of(i), query = start + column_of(n, i);
                float mine = i % 2 ? sums.y : sums.x, my_dot = i % 2 ? two_dots.y : two_dots.x;
                bool seen = all_seen || key <= query + past;
                to_weights(p[n][i], ds[n][i], mine, my_dot, seen, in_twos);
            }
        }
        multiply_by_columns<TILE>(sum_v, p, d_out);
        multiply_by_columns<TILE>(sum_k, ds, queries);
        __syncthreads();
    }
    float factor[2] = {scale, scale}, one[2] = {1, 1};
    number* scratch = own_k + strip * PITCH;
    store_strip(HEAD_OF(dk, b, group), dk_row, first + strip, S, sum_k, factor, scratch);
    store_strip(HEAD_OF(dv, b, group), dv_row, first + strip, S, sum_v, one, scratch);
}
