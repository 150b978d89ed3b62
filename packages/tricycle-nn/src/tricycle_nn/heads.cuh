// How attention's kernels are given heads: (B, heads, positions, HEAD), lying in memory as they like,
// but for the numbers of a head, which are neighbours.  With the address comes how many numbers it is
// from one to the next batch, head and row.
#pragma once

#define VIEW(type, x) type *x, long x##_batch, long x##_head, long x##_row
#define HEAD_OF(x, b, h) (x + (b) * x##_batch + (h) * x##_head)

// exp(x) = 2 ^ (x · LOG2_E), and log(x) = log2(x) · LN_2
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
