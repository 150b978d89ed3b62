// Dropout on the GPU: the same numbers are dropped as on the CPU.  In Python
//
//     y = where(words >= threshold, x * scale, 0)
//
// How 64 neighbours share 16 blocks of random words is told in dropout.py: the numbers of a group
// that take the same word of their blocks lie 16 apart, word after word.  A thread makes WIDTH blocks,
// and uses all of their four words: WIDTH numbers at four places of the group.  Where launches are
// captured, the step is a number in memory: arguments stay what they were.
#include "flat.cuh"
#include "philox.cuh"

constexpr int GROUP = 64, LANES = 16, WORDS = GROUP / LANES;

ELEMENTWISE drop(
    number* y, const number* x, unsigned long long seed, unsigned step, const unsigned* step_there,
    unsigned stream, unsigned threshold, float scale, long long size
) {
    long long first = WIDTH * ((long long)blockIdx.x * blockDim.x + threadIdx.x);  // of its blocks
    long long start = first / LANES * GROUP + first % LANES;
    if (start >= size) return;
    if (step_there) step = *step_there;
    Words words[WIDTH];
    #pragma unroll
    for (int k = 0; k < WIDTH; k++) {
        unsigned long long block = first + k;
        words[k] = {{(unsigned)block, (unsigned)(block >> 32), step, stream}};
        words[k] = philox(words[k], (unsigned)seed, (unsigned)(seed >> 32));
    }
    #pragma unroll
    for (int word = 0; word < WORDS; word++) {
        long long i = start + word * LANES;
        if (i >= size) return;
        int left = size - i < WIDTH ? (int)(size - i) : WIDTH;
        Numbers a = load(x + i, left);
        #pragma unroll
        for (int k = 0; k < WIDTH; k++)
            a.at[k] = words[k].at[word] >= threshold ? a.at[k] * scale : 0.0f;
        store(y + i, a, left);
    }
}
