/*
 * four.cuh
 *     Element-wise access to act or fp32 arrays, four neighbouring columns of a row at a time.
 *
 * T is float, or uint16_t for bf16. If the width of the rows is a multiple of four, four columns are one memory access.
 */
#ifndef IA3_CUDA_FOUR_CUH
#define IA3_CUDA_FOUR_CUH

#include "cuda.h"

typedef struct ia3_four {
    float v[4];
} ia3_four;

IA3_DEV float
ia3_value(const float *p)
{
    return *p;
}

IA3_DEV float
ia3_value(const uint16_t *p)
{
    return ia3_bf16_low(*p);
}

IA3_DEV void
ia3_set_value(float *p, float v)
{
    *p = v;
}

IA3_DEV void
ia3_set_value(uint16_t *p, float v)
{
    *p = (uint16_t) ia3_pack_bf16(v, 0.0f);
}

IA3_DEV ia3_four
ia3_load_whole(const float *p)
{
    float4 x = *(const float4 *) (const void *) p;
    ia3_four f = {{x.x, x.y, x.z, x.w}};
    return f;
}

IA3_DEV ia3_four
ia3_load_whole(const uint16_t *p)
{
    uint2 x = *(const uint2 *) (const void *) p;
    ia3_four f = {{ia3_bf16_low(x.x), ia3_bf16_high(x.x), ia3_bf16_low(x.y), ia3_bf16_high(x.y)}};
    return f;
}

IA3_DEV void
ia3_store_whole(float *p, const ia3_four &f)
{
    float4 x;
    x.x = f.v[0], x.y = f.v[1], x.z = f.v[2], x.w = f.v[3];
    *(float4 *) (void *) p = x;
}

IA3_DEV void
ia3_store_whole(uint16_t *p, const ia3_four &f)
{
    uint2 x;
    x.x = ia3_pack_bf16(f.v[0], f.v[1]), x.y = ia3_pack_bf16(f.v[2], f.v[3]);
    *(uint2 *) (void *) p = x;
}

/* Columns col .. col + 3 of the row p of d columns, with zeros beyond its end; col is a multiple of 4. */
template <typename T>
IA3_DEV ia3_four
ia3_load_four(const T *p, int col, int d)
{
    if (d % 4 == 0)
        return ia3_load_whole(p + col);
    ia3_four f;
    for (int i = 0; i < 4; i++)
        f.v[i] = col + i < d ? ia3_value(p + col + i) : 0.0f;
    return f;
}

template <typename T>
IA3_DEV void
ia3_store_four(T *p, const ia3_four &f, int col, int d)
{
    if (d % 4 == 0) {
        ia3_store_whole(p + col, f);
        return;
    }
    for (int i = 0; i < 4 && col + i < d; i++)
        ia3_set_value(p + col + i, f.v[i]);
}

/* f ⊙ dropout multipliers */
IA3_DEV void
ia3_drop_four(ia3_four *f, const ia3_cuda_mask &mask, uint64_t key, uint32_t site, int col)
{
    const uint32_t bits = ia3_mask_bits(&mask, key, site, (uint32_t) col);
    for (int i = 0; i < 4; i++)
        f->v[i] *= bits >> i & 1 ? mask.keep : 0.0f;
}

/* The sum over the block's WARPS warps, for all threads. `shared` has WARPS elements, which may be reused at once. */
template <int WARPS, typename F>
IA3_DEV F
ia3_block_sum(F v, F *shared)
{
    v = ia3_warp_sum(v);
    if (((int) threadIdx.x & 31) == 0)
        shared[(int) threadIdx.x >> 5] = v;
    __syncthreads();
    F sum = shared[0];
    for (int w = 1; w < WARPS; w++)
        sum += shared[w];
    __syncthreads();
    return sum;
}

/* The number of blocks for this many items, but no more than fill any GPU several times over. */
static inline unsigned
ia3_blocks(size_t items, size_t threads)
{
    size_t n = (items + threads - 1) / threads;
    return (unsigned) (n < 16384 ? n : 16384);
}

#endif
