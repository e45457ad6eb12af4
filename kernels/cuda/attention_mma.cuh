/*
 * attention_mma.cuh
 *     Attention on tensor cores: tiles in shared memory, fragments of mma.m16n8k16, dropout in fragment layout.
 *
 * A warp owns 16 rows (of queries or of keys). Let g = lane / 4 and t = lane % 4. Of a 16 by 8 result a thread holds
 * c[0] and c[1], in row g, columns 2t and 2t + 1, and c[2] and c[3], in row g + 8 of the same columns. Two
 * neighbouring results, rounded to bf16, are an operand of the next matrix product, so nothing has to go through
 * memory in between.
 *
 * Tiles are [64 rows, D] in bf16, with rows padded by 16 bytes: (D·2 + 16) / 16 is odd, so the eight 16-byte rows
 * that ldmatrix reads at a time are in different banks. Columns d_kv .. D and rows beyond the sequence are zeros.
 *
 * S is the product of a bf16 operand and one that is bf16 times an fp32 vector. The latter is split into two bf16
 * numbers, high and low, and multiplied twice, which keeps S within 2^-16 of the exact value. This matters because
 * T5's scores, without 1/√d, are large: rounded to bf16 they would be off by tenths. Attention is about 1% of a
 * model's multiplications, so the second one costs very little.
 */
#ifndef IA3_CUDA_ATTENTION_MMA_CUH
#define IA3_CUDA_ATTENTION_MMA_CUH

#include "attention.cuh"

enum { IA3_MMA_ROWS = 64, IA3_MMA_THREADS = 128 };

/* log2 e, because exponentials are computed to base 2 */
#define IA3_LOG2E 1.4426950408889634f

/* 2^x by the hardware's approximation (2 ulp); results below 2^-126 become zero. */
static __device__ __forceinline__ float
ia3_exp2(float x)
{
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

template <int D> struct ia3_tile {
    enum { LD = D + 8, SIZE = IA3_MMA_ROWS * LD };
};

/* One head of the rows of a packed bf16 array. */
typedef struct ia3_rows {
    const uint16_t *p; /* column 0 of this head in row 0 of the sequence */
    int stride;
    int n, d; /* rows of the sequence; d_kv */
} ia3_rows;

static __device__ __forceinline__ ia3_rows
ia3_rows_of(const void *base, size_t stride, int row0, int n, int head, int d)
{
    ia3_rows r;
    r.p = (const uint16_t *) base + (size_t) row0 * stride + (size_t) head * (size_t) d;
    r.stride = (int) stride;
    r.n = n;
    r.d = d;
    return r;
}

/* Starts copying ROWS rows, the first of which is `first`, to a tile; a thread copies eight columns at a time. */
template <int D, int ROWS>
static __device__ __forceinline__ void
ia3_tile_load(uint16_t *tile, const ia3_rows &r, int first)
{
    for (int i = (int) threadIdx.x; i < ROWS * (D / 8); i += IA3_MMA_THREADS) {
        int row = i / (D / 8), col = i % (D / 8) * 8;
        bool there = first + row < r.n && col < r.d;
        const uint16_t *from = there ? r.p + (int64_t) (first + row) * r.stride + col : r.p;
        ia3_cp_async16(tile + row * ia3_tile<D>::LD + col, from, there);
    }
}

/* Operand B for 16 rows of the tile as columns n and 16 columns as k: b[0..1] rows 0-7, b[2..3] rows 8-15. */
template <int D>
static __device__ __forceinline__ void
ia3_tile_b(uint32_t b[4], const uint16_t *tile, int row, int col)
{
    int lane = (int) threadIdx.x & 31;
    ia3_ldmatrix_x4(b, tile + (row + (lane & 7) + (lane >> 4) * 8) * ia3_tile<D>::LD + col +
                           (lane >> 3 & 1) * 8);
}

/* Operand B for 16 rows of the tile as k and 16 columns as n: b[0..1] columns 0-7, b[2..3] columns 8-15. */
template <int D>
static __device__ __forceinline__ void
ia3_tile_b_trans(uint32_t b[4], const uint16_t *tile, int row, int col)
{
    int lane = (int) threadIdx.x & 31;
    ia3_ldmatrix_x4_trans(b, tile + (row + (lane & 7) + (lane >> 3 & 1) * 8) * ia3_tile<D>::LD + col +
                                 (lane >> 4) * 8);
}

/* Operand A: 16 rows by 16 columns of the tile. */
template <int D>
static __device__ __forceinline__ void
ia3_tile_a(uint32_t a[4], const uint16_t *tile, int row, int col)
{
    int lane = (int) threadIdx.x & 31;
    ia3_ldmatrix_x4(a, tile + (row + (lane & 7) + (lane >> 3 & 1) * 8) * ia3_tile<D>::LD + col +
                           (lane >> 4) * 8);
}

/* Two neighbouring columns of one row; zeros outside the array. */
static __device__ __forceinline__ uint32_t
ia3_rows_pair(const ia3_rows &r, int row, int col)
{
    bool there = row < r.n && col < r.d;
    return there ? *(const uint32_t *) (const void *) (r.p + (int64_t) row * r.stride + col) : 0u;
}

/* Rounds x0 and x1 to the bf16 pair *high, and the errors of this rounding to the pair *low. */
static __device__ __forceinline__ void
ia3_split_pair(uint32_t *high, uint32_t *low, float x0, float x1)
{
    uint32_t h = ia3_pack_bf16(x0, x1);
    *high = h;
    *low = ia3_pack_bf16(x0 - ia3_bf16_low(h), x1 - ia3_bf16_high(h));
}

/* Multiplies a pair of row elements by l and splits the result as above. */
static __device__ __forceinline__ void
ia3_scaled_pair(uint32_t *high, uint32_t *low, uint32_t pair, const float *l, int col)
{
    ia3_split_pair(high, low, ia3_bf16_low(pair) * l[col], ia3_bf16_high(pair) * l[col + 1]);
}

/*
 * Starts copying the bias of `count` distances j - i, beginning with `first`. Distances that do not occur in the
 * sequence get zeros, because the table may not have them.
 */
static __device__ __forceinline__ void
ia3_bias_load(float *to, const ia3_attention &a, const ia3_attention_item &it, int first, int count)
{
    const float *bias = ia3_bias_of(a, it.head);
    for (int x = (int) threadIdx.x; x < count; x += IA3_MMA_THREADS) {
        int distance = first + x;
        to[x] = distance > -it.n_q && distance < it.n_k ? bias[distance] : 0.0f;
    }
}

/*
 * Adds the bias to TILES neighbouring results. here[0] is the bias of c[0] of the first one. From column to column the
 * distance increases (step = 1: columns are keys) or decreases (step = -1: columns are queries). Each distance occurs
 * in two neighbouring results, eight columns apart, and is read once.
 */
template <int TILES>
static __device__ __forceinline__ void
ia3_add_bias(float s[TILES][4], const float *here, int step)
{
    float before0 = here[-8 * step], before1 = here[-7 * step];
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        float now0 = here[n * 8 * step], now1 = here[(n * 8 + 1) * step];
        s[n][0] += now0;
        s[n][1] += now1;
        s[n][2] += before0;
        s[n][3] += before1;
        before0 = now0;
        before1 = now1;
    }
}

/* Adds the product of operand a (16 by 16) and 16 rows of the tile, transposed, to two results. */
static __device__ __forceinline__ void
ia3_mma_pair(float c0[4], float c1[4], const uint32_t a[4], const uint32_t b[4])
{
    ia3_mma_bf16_16x8x16(c0, a, b);
    ia3_mma_bf16_16x8x16(c1, a, b + 2);
}

/* Converts two neighbouring results to an operand A. */
static __device__ __forceinline__ void
ia3_fragment_of(uint32_t a[4], const float c0[4], const float c1[4])
{
    a[0] = ia3_pack_bf16(c0[0], c0[1]);
    a[1] = ia3_pack_bf16(c0[2], c0[3]);
    a[2] = ia3_pack_bf16(c1[0], c1[1]);
    a[3] = ia3_pack_bf16(c1[2], c1[3]);
}

/*
 * Says which elements of TILES neighbouring results survive dropout: bit 4·tile + e is for c[e]. Rows are queries,
 * with the dropout keys key[0] (row g) and key[1] (row g + 8); columns are keys of the sequence, beginning with `col`,
 * a multiple of 8.
 *
 * One block of random numbers serves four columns, which belong to two threads; each of these computes the block for
 * one of its two rows.
 */
template <int TILES>
static __device__ __forceinline__ uint32_t
ia3_keep_by_query(const ia3_cuda_mask &mask, uint32_t site, const uint64_t key[2], int col)
{
    int t = (int) threadIdx.x & 3;
    bool odd = t & 1;
    uint32_t word = 0;
    for (int tile = 0; tile < TILES; tile++)
        word |= ia3_mask_bits(&mask, odd ? key[1] : key[0], site, (uint32_t) (col + 8 * tile + (t >> 1) * 4))
                << 4 * tile;
    uint32_t other = ia3_shfl_xor(word, 1);
    return odd ? (other >> 2 & 0x33333333u) | (word & 0xccccccccu)
               : (word & 0x33333333u) | (other & 0x33333333u) << 2;
}

/*
 * The same where rows are keys of the sequence, beginning with `row`, a multiple of 16, and columns are queries with
 * the dropout keys query_key[8·tile + column]. One block of random numbers serves four rows, which belong to four
 * threads; thread i of these computes the block for their elements c[i].
 */
template <int TILES>
static __device__ __forceinline__ uint32_t
ia3_keep_by_key(const ia3_cuda_mask &mask, uint32_t site, const uint64_t *query_key, int row)
{
    int lane = (int) threadIdx.x & 31, t = lane & 3, g = lane >> 2, i = g & 3;
    uint32_t word = 0, result = 0;
    for (int tile = 0; tile < TILES; tile++)
        word |= ia3_mask_bits(&mask, query_key[8 * tile + 2 * t + (i & 1)], site,
                              (uint32_t) (row + (i >> 1) * 8 + (g >> 2) * 4))
                << 4 * tile;
    for (int x = 0; x < 4; x++) {
        uint32_t from = x ? ia3_shfl_xor(word, 4 * x) : word;
        result |= (from >> i & 0x11111111u) << (i ^ x);
    }
    return result;
}

#endif
