/*
 * columns.cuh
 *     Element-wise kernels process groups of eight neighbouring columns of a row: loads and stores of 16 bytes,
 *     conversion of act to fp32, and dropout, which takes two blocks of random numbers per group.
 */
#ifndef IA3_CUDA_COLUMNS_CUH
#define IA3_CUDA_COLUMNS_CUH

#include "four.cuh"

enum { IA3_GROUP = 8 };

/* The number of groups in a row of n columns. */
static __host__ __device__ __forceinline__ unsigned
ia3_groups(int n)
{
    return (unsigned) (n + IA3_GROUP - 1) / IA3_GROUP;
}

/* Whether in rows of n columns that begin at p every group is whole and aligned to 16 bytes. */
static inline bool
ia3_whole_groups(const void *p, int n)
{
    return (uintptr_t) p % 16 == 0 && n % IA3_GROUP == 0;
}

/* x = p[0 .. n), followed by zeros. `whole` says that n is 8 and p is aligned. */
IA3_DEV void
ia3_load8(float x[IA3_GROUP], const float *p, int n, bool whole)
{
    if (whole) {
        const float4 a = ((const float4 *) (const void *) p)[0], b = ((const float4 *) (const void *) p)[1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++)
        x[i] = i < n ? p[i] : 0.0f;
}

IA3_DEV void
ia3_load8(float x[IA3_GROUP], const uint16_t *p, int n, bool whole)
{
    if (whole) {
        const uint4 a = *(const uint4 *) (const void *) p;
        x[0] = ia3_bf16_low(a.x), x[1] = ia3_bf16_high(a.x), x[2] = ia3_bf16_low(a.y), x[3] = ia3_bf16_high(a.y);
        x[4] = ia3_bf16_low(a.z), x[5] = ia3_bf16_high(a.z), x[6] = ia3_bf16_low(a.w), x[7] = ia3_bf16_high(a.w);
        return;
    }
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++)
        x[i] = i < n ? ia3_bf16_low(p[i]) : 0.0f;
}

IA3_DEV void
ia3_store8(float *p, const float x[IA3_GROUP], int n, bool whole)
{
    if (whole) {
        float4 a, b;
        a.x = x[0], a.y = x[1], a.z = x[2], a.w = x[3];
        b.x = x[4], b.y = x[5], b.z = x[6], b.w = x[7];
        ((float4 *) (void *) p)[0] = a;
        ((float4 *) (void *) p)[1] = b;
        return;
    }
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++)
        if (i < n)
            p[i] = x[i];
}

IA3_DEV void
ia3_store8(uint16_t *p, const float x[IA3_GROUP], int n, bool whole)
{
    if (whole) {
        uint4 a;
        a.x = ia3_pack_bf16(x[0], x[1]), a.y = ia3_pack_bf16(x[2], x[3]);
        a.z = ia3_pack_bf16(x[4], x[5]), a.w = ia3_pack_bf16(x[6], x[7]);
        *(uint4 *) (void *) p = a;
        return;
    }
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++)
        if (i < n)
            p[i] = (uint16_t) ia3_pack_bf16(x[i], 0.0f);
}

/* x ⊙= the dropout multipliers of columns col .. col + 7 of the row with this key; col is a multiple of 8. */
IA3_DEV void
ia3_drop8(float x[IA3_GROUP], const ia3_cuda_mask &mask, uint64_t key, uint32_t site, unsigned col)
{
    const uint32_t keep = ia3_mask_bits(&mask, key, site, col) | ia3_mask_bits(&mask, key, site, col + 4) << 4;
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++)
        x[i] *= keep >> i & 1 ? mask.keep : 0.0f;
}

#endif
