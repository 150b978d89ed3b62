// What every kernel shares: numbers, and sums over a warp or a block.
//
// A kernel is compiled for one type of number at a time: `number` is bf16 in training, and float
// where one wants to look closer.  Sums are floats either way.  Memory is read and written 16 bytes
// at a time, WIDTH numbers, where it can be.
// No header of CUDA's is included: NVRTC needs nothing but this text.
#pragma once

struct bf16 { unsigned short bits; };  // the upper half of a float

#ifndef number
#define number bf16
#endif
constexpr int WIDTH = 16 / sizeof(number);
constexpr int WARP = 32;
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
#define HELPER __device__ __forceinline__

HELPER float to_float(float x) { return x; }
HELPER float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

// Two floats, rounded to the nearest bf16 (ties to even), in one register: `low` in its lower half.
HELPER unsigned two_bf16(float low, float high) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
HELPER void to_number(float* y, float x) { *y = x; }
HELPER void to_number(bf16* y, float x) { y->bits = (unsigned short)two_bf16(x, 0); }

// 2 to the power of x, as the hardware has it: good to 2 units in the last place, and 0 where the
// result would be tiny.
HELPER float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// WIDTH numbers side by side: 16 bytes as they lie in memory (uint4), or as floats.
struct Numbers { float at[WIDTH]; };

HELPER Numbers unpack(uint4 raw) {
    unsigned word[4] = {raw.x, raw.y, raw.z, raw.w};
    Numbers x;
    #pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (WIDTH == 4) x.at[i] = __uint_as_float(word[i % 4]);
        else x.at[i] = __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
    return x;
}
HELPER uint4 pack(const Numbers& x) {
    unsigned word[4];
    #pragma unroll
    for (int i = 0; i < 4; i++)
        if (WIDTH == 4) word[i] = __float_as_uint(x.at[i]);
        else word[i] = two_bf16(x.at[2 * i % WIDTH], x.at[(2 * i + 1) % WIDTH]);
    return make_uint4(word[0], word[1], word[2], word[3]);
}
// As if they had been written to memory and read again.
HELPER Numbers rounded(const Numbers& x) { return unpack(pack(x)); }

HELPER Numbers load(const number* p) { return unpack(*(const uint4*)p); }
HELPER void store(number* p, const Numbers& x) { *(uint4*)p = pack(x); }

// The same where a row may end, or not start at a multiple of 16 bytes: `left` numbers are there,
// the rest reads as zero and is not written.
HELPER Numbers load(const number* p, int left) {
    if (left >= WIDTH && (size_t)p % 16 == 0) return load(p);
    Numbers x;
    #pragma unroll
    for (int i = 0; i < WIDTH; i++) x.at[i] = i < left ? to_float(p[i]) : 0.0f;
    return x;
}
HELPER uint4 load_raw(const number* p, int left) {
    return left >= WIDTH && (size_t)p % 16 == 0 ? *(const uint4*)p : pack(load(p, left));
}
HELPER void store(number* p, const Numbers& x, int left) {
    if (left >= WIDTH && (size_t)p % 16 == 0) return store(p, x);
    #pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (i < left) to_number(p + i, x.at[i]);
}

// WIDTH float32 numbers side by side, 16 bytes at a time where it can be.
HELPER Numbers load_floats(const float* p, int left) {
    Numbers x;
    if (left >= WIDTH && (size_t)p % 16 == 0) {
        #pragma unroll
        for (int i = 0; i < WIDTH; i += 4) {
            float4 four = *(const float4*)(p + i);
            x.at[i] = four.x, x.at[i + 1] = four.y, x.at[i + 2] = four.z, x.at[i + 3] = four.w;
        }
        return x;
    }
    #pragma unroll
    for (int i = 0; i < WIDTH; i++) x.at[i] = i < left ? p[i] : 0.0f;
    return x;
}
HELPER void store_floats(float* p, const Numbers& x, int left) {
    if (left >= WIDTH && (size_t)p % 16 == 0) {
        #pragma unroll
        for (int i = 0; i < WIDTH; i += 4)
            *(float4*)(p + i) = make_float4(x.at[i], x.at[i + 1], x.at[i + 2], x.at[i + 3]);
        return;
    }
    #pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (i < left) p[i] = x.at[i];
}

// Add to float32 sums in memory, 16 bytes at a time where it can be.
HELPER void add_to(float* p, const Numbers& x, int left) {
    if (left >= WIDTH && (size_t)p % 16 == 0) {
        #pragma unroll
        for (int i = 0; i < WIDTH; i += 4) {
            float4 sum = *(const float4*)(p + i);
            sum.x += x.at[i], sum.y += x.at[i + 1], sum.z += x.at[i + 2], sum.w += x.at[i + 3];
            *(float4*)(p + i) = sum;
        }
        return;
    }
    #pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (i < left) p[i] += x.at[i];
}

// The sum of a value over the lanes of a warp: every lane gets it, with the same bits.
HELPER float warp_sum(float x) {
    #pragma unroll
    for (int far = WARP / 2; far > 0; far /= 2) x += __shfl_xor_sync(~0u, x, far);
    return x;
}
HELPER float warp_max(float x) {
    #pragma unroll
    for (int far = WARP / 2; far > 0; far /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, far));
    return x;
}

// The same over a block of up to 1024 threads.  Warps meet in shared memory.
HELPER float block_sum(float x) {
    __shared__ float of_warp[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    __syncthreads();  // of_warp may still be read from the sum before
    if (lane == 0) of_warp[warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / WARP ? of_warp[lane] : 0.0f);
}
HELPER float block_max(float x) {
    __shared__ float of_warp[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) of_warp[warp] = x;
    __syncthreads();
    return warp_max(lane < blockDim.x / WARP ? of_warp[lane] : NEGATIVE_INFINITY);
}

// The sum in float64, of a block of SIZE threads, a power of two.
template <int SIZE> HELPER double block_sum(double x) {
    __shared__ double of_thread[SIZE];
    of_thread[threadIdx.x] = x;
    for (int half = SIZE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
    }
    __syncthreads();
    return of_thread[0];
}
