// Random numbers by counting: the maths is told in philox.py, and the words are the same.
#pragma once

struct Words { unsigned at[4]; };

// Four random words for four words of counter and two of key.
__device__ __forceinline__ Words philox(Words c, unsigned k0, unsigned k1) {
    #pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned high0 = __umulhi(0xD2511F53u, c.at[0]), low0 = 0xD2511F53u * c.at[0];
        unsigned high1 = __umulhi(0xCD9E8D57u, c.at[2]), low1 = 0xCD9E8D57u * c.at[2];
        c = {{high1 ^ c.at[1] ^ k0, low1, high0 ^ c.at[3] ^ k1, low0}};
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return c;
}
