/*
 * attention_generic.cuh
 *     Common parts of the generic attention kernels: conversion of act to fp32, tiles of rows in shared memory.
 *
 * A block owns IA3_GENERIC_ROWS rows (queries or keys), two per warp. The rows of the other side are processed 32 at
 * a time: each lane computes the dot products with one of them, whereas in sums over these rows each lane has one
 * column. d_kv may be anything up to 512, strides are arbitrary, and the arithmetic is fp32 throughout, so that
 * results can be compared with the CPU in fp32. These kernels are not tuned, because models in bf16 do not use them.
 */
#ifndef IA3_CUDA_ATTENTION_GENERIC_CUH
#define IA3_CUDA_ATTENTION_GENERIC_CUH

#include "attention.cuh"

enum {
    IA3_GENERIC_WARPS = 4,
    IA3_GENERIC_THREADS = 32 * IA3_GENERIC_WARPS,
    IA3_GENERIC_PER_WARP = IA3_GENERIC_ROWS / IA3_GENERIC_WARPS
};

static __device__ __forceinline__ float
ia3_act_load(const float *p)
{
    return *p;
}

static __device__ __forceinline__ float
ia3_act_load(const uint16_t *p)
{
    return ia3_bf16_low(*p);
}

static __device__ __forceinline__ void
ia3_act_store(float *p, float x)
{
    *p = x;
}

static __device__ __forceinline__ void
ia3_act_store(uint16_t *p, float x)
{
    *p = (uint16_t) ia3_pack_bf16(x, 0.0f);
}

/* One head of row `row` (absolute) of an array of rows. */
template <typename T>
static __device__ __forceinline__ const T *
ia3_act_row(const void *base, size_t stride, int row, int head, int d)
{
    return (const T *) base + (size_t) row * stride + (size_t) head * (size_t) d;
}

/*
 * to[i·ld + c] = row row0 + first + i, for i < n, ⊙ l, as fp32; zeros beyond the `limit` rows of the sequence.
 */
template <typename T>
static __device__ __forceinline__ void
ia3_generic_load(float *to, int ld, int n, const void *base, size_t stride, int row0, int first, int limit,
                 int head, int d, const float *l)
{
    for (int i = (int) threadIdx.x; i < n * d; i += IA3_GENERIC_THREADS) {
        int x = i / d, c = i % d;
        float value = 0.0f;
        if (first + x < limit)
            value =
                ia3_act_load(ia3_act_row<T>(base, stride, row0 + first + x, head, d) + c) * (l ? l[c] : 1.0f);
        to[x * ld + c] = value;
    }
}

static __device__ __forceinline__ float
ia3_generic_dot(const float *x, const float *y, int d)
{
    float sum = 0.0f;
    for (int c = 0; c < d; c++)
        sum += x[c] * y[c];
    return sum;
}

/* acc[c] = acc[c]·shrink + Σ_j w[j]·tile[j, c] over 32 rows, for the lane's columns. */
static __device__ __forceinline__ void
ia3_generic_add(float *acc, float shrink, const float *w, const float *tile, int ld, int d)
{
    for (int c = (int) threadIdx.x & 31; c < d; c += 32) {
        float sum = acc[c] * shrink;
        for (int j = 0; j < IA3_GENERIC_WALK; j++)
            sum += w[j] * tile[j * ld + c];
        acc[c] = sum;
    }
}

/* The dropout multiplier of column j in the row with this key. */
static __device__ __forceinline__ float
ia3_generic_keep(const ia3_cuda_mask &mask, uint64_t key, uint32_t site, int j)
{
    if (!mask.on)
        return 1.0f;
    return ia3_mask_bits(&mask, key, site, (uint32_t) j & ~3u) >> (j & 3) & 1 ? mask.keep : 0.0f;
}

#endif
