/*
 * attention_tile.h
 *     Parts of attention in fp32: a block of queries of one head against a tile of its keys.
 *
 * Everything is transposed: a vector holds the numbers of neighbouring queries. So keys and values are used as they are,
 * the softmax needs no sums within a vector, and only the queries (and results) must be transposed. The scores of one tile
 * are all that is kept of them, [IA3_KEYS, IA3_QUERIES], whatever the number of keys.
 *
 * The tiles of a sequence begin at its first key, and what is computed for a query does not depend on the other queries.
 */
#ifndef IA3_CPU_ATTENTION_TILE_H
#define IA3_CPU_ATTENTION_TILE_H

#include "attention.h"
#include "tile.h"

enum { IA3_QUERIES = 48, IA3_KEYS = 128 };

/* Elements of the table that ia3_tile_bias fills. */
enum { IA3_TILE_BIASES = IA3_QUERIES + IA3_KEYS };

static inline size_t
ia3_round_rows(size_t n)
{
    return (n + IA3_TILE_ROWS - 1) / IA3_TILE_ROWS * IA3_TILE_ROWS;
}

static inline size_t
ia3_vectors(size_t n)
{
    return (n + IA3_VEC_LANES - 1) / IA3_VEC_LANES;
}

/*
 * Number of queries in the next block if `left` queries remain. Where a block is one tile wide, blocks are of similar size, because a
 * tile of one vector takes more than a third of the time of one of three.
 */
static inline size_t
ia3_block_queries(size_t left)
{
    size_t n = IA3_QUERIES;
    if (IA3_QUERIES == IA3_TILE_VECS * IA3_VEC_LANES) {
        const size_t blocks = (left + IA3_QUERIES - 1) / IA3_QUERIES;
        n = (ia3_vectors(left) + blocks - 1) / blocks * IA3_VEC_LANES;
    }
    return n < left ? n : left;
}

/*
 * e^x for x <= 88, as ia3_expf computes it, except that for x < -50 the result is e^-50 (10^-22), which added to one is nothing
 * either. Products with smaller numbers could be denormal, and each of those takes as long as a hundred others. Lanes beyond
 * the last query may have any x; what they give is not used.
 */
IA3_INLINE ia3_vec
ia3_vec_exp(ia3_vec x)
{
    const ia3_vec lowest = (ia3_vec){0} - 50.0f;
    x = ia3_vec_max(lowest, x); /* x last, so that NaN stays NaN */
    ia3_vec t = x * 1.44269504088896341f + 12582912.0f;
    ia3_vec n = t - 12582912.0f;
    ia3_vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    ia3_vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    ia3_vec y = p * (r * r) + r + 1.0f;
    return (ia3_vec) ((ia3_vec_words) y + ((ia3_vec_words) t << 23)); /* y·2^n: n is in the low bits of t */
}

/* --- transposition --- */

#if defined(__AVX512F__)

/* to[IA3_VEC_LANES, ldt] = from[IA3_VEC_LANES, ldf] transposed */
IA3_INLINE void
ia3_transpose_square(float *to, size_t ldt, const float *from, size_t ldf)
{
    __m512 r[16], t[16];
    for (size_t i = 0; i < 16; i++)
        r[i] = _mm512_loadu_ps(from + i * ldf);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (size_t i = 0; i < 4; i++) {
        _mm512_storeu_ps(to + i * ldt, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_ps(to + (i + 4) * ldt, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_ps(to + (i + 8) * ldt, _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
        _mm512_storeu_ps(to + (i + 12) * ldt, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

#elif defined(__AVX__)

IA3_INLINE void
ia3_transpose_square(float *to, size_t ldt, const float *from, size_t ldf)
{
    __m256 r[8], t[8];
    for (size_t i = 0; i < 4; i++) { /* rows i and i + 4, first their left halves, then their right ones */
        const float *low = from + i * ldf, *high = from + (i + 4) * ldf;
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
        r[i + 4] =
            _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    }
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (size_t i = 0; i < 8; i += 4) {
        _mm256_storeu_ps(to + i * ldt, _mm256_shuffle_ps(t[i], t[i + 2], 0x44));
        _mm256_storeu_ps(to + (i + 1) * ldt, _mm256_shuffle_ps(t[i], t[i + 2], 0xee));
        _mm256_storeu_ps(to + (i + 2) * ldt, _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44));
        _mm256_storeu_ps(to + (i + 3) * ldt, _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee));
    }
}

#else

IA3_INLINE void
ia3_transpose_square(float *restrict to, size_t ldt, const float *restrict from, size_t ldf)
{
    for (size_t i = 0; i < IA3_VEC_LANES; i++)
        for (size_t j = 0; j < IA3_VEC_LANES; j++)
            to[i * ldt + j] = from[j * ldf + i];
}

#endif

/* to[columns, ldt] = from[rows, ldf] transposed; rows and columns are multiples of IA3_VEC_LANES */
static inline void
ia3_transpose(float *to, size_t ldt, const float *from, size_t ldf, size_t rows, size_t columns)
{
    for (size_t i = 0; i < rows; i += IA3_VEC_LANES)
        for (size_t j = 0; j < columns; j += IA3_VEC_LANES)
            ia3_transpose_square(to + j * ldt + i, ldt, from + i * ldf + j, ldf);
}

/* --- a block of queries --- */

/*
 * Loads n rows of queries, times `scale` unless it is NULL, to to[dp, IA3_QUERIES] transposed, with zeros for the rest of the
 * last vector. rows: [IA3_QUERIES, dp], which gets them as rows.
 */
static inline void
ia3_block_load(const ia3_head *h, float *to, float *rows, const void *from, size_t row, size_t n,
               size_t stride, const float *scale)
{
    size_t lanes = ia3_vectors(n) * IA3_VEC_LANES;
    ia3_head_rows(h, rows, from, row, n, stride, scale);
    memset(rows + n * h->dp, 0, (lanes - n) * h->dp * sizeof(float));
    ia3_transpose(to, IA3_QUERIES, rows, h->dp, lanes, h->dp);
}

/*
 * Stores from[dp, IA3_QUERIES] as n rows of an act array. Row i is multiplied by share[i], and column c by scale[c]; both may
 * be NULL. rows: [IA3_QUERIES, dp] of scratch memory.
 */
static inline void
ia3_block_store(const ia3_head *h, void *to, size_t row, size_t n, size_t stride, const float *from,
                float *rows, const float *share, const float *scale)
{
    ia3_transpose(rows, h->dp, from, IA3_QUERIES, h->dp, ia3_vectors(n) * IA3_VEC_LANES);
    for (size_t i = 0; i < n; i++) {
        const float by = share ? share[i] : 1.0f;
        const size_t at = ia3_head_at(h, row + i, stride);
        float *x = rows + i * h->dp;
        float *y = h->bf16 ? x : (float *) to + at;
        size_t c = 0;
        for (; c + IA3_VEC_LANES <= h->d; c += IA3_VEC_LANES) {
            ia3_vec v = IA3_AT(x + c, 0) * by;
            if (scale)
                v *= *(const ia3_vec *) (scale + c);
            IA3_AT(y + c, 0) = v;
        }
        for (; c < h->d; c++)
            y[c] = x[c] * by * (scale ? scale[c] : 1.0f);
        if (h->bf16)
            ia3_store_act(to, at, y, h->d, true);
    }
}

/* --- a tile --- */

/* Loads the keys or values of a head to to[.., dp], with rows of zeros up to a multiple of IA3_TILE_ROWS. */
static inline void
ia3_tile_keys(const ia3_head *h, float *to, const void *from)
{
    ia3_head_rows(h, to, from, h->k0, h->n_k, h->a->kv_stride, NULL);
    memset(to + h->n_k * h->dp, 0, (ia3_round_rows(h->n_k) - h->n_k) * h->dp * sizeof(float));
}

/*
 * Fills the table of position biases for queries [i, i + n) and keys [k, k + n_k): that of query i + x and key k + j is
 * bias[x - j + IA3_KEYS - 1]. The elements that belong to no query or key are zero.
 */
static inline void
ia3_tile_bias(const ia3_head *h, float *restrict bias, size_t i, size_t n, size_t k, size_t n_k)
{
    memset(bias, 0, IA3_TILE_BIASES * sizeof(float));
    if (!h->a->bias)
        return;
    const float *restrict from = ia3_head_bias(h, i) + k + IA3_KEYS - 1; /* minus the index into bias */
    for (size_t x = IA3_KEYS - n_k; x < IA3_KEYS + n - 1; x++)
        bias[x] = *(from - x);
}

/*
 * Rows that are fetched to the second-level cache while scores are computed: `each` of them whenever the scores of another
 * IA3_TILE_ROWS keys are computed.
 */
typedef struct ia3_fetch {
    const char *first;
    size_t stride, bytes, rows, each;
} ia3_fetch;

/*
 * While head h is computed, the rows of the head after it, `next`, are fetched, a part with each block of h's queries. This is
 * the part for queries [i, i + n): if they are a third of h's queries, it is a third of rows [row, row + rows) of x. A head's
 * rows are short pieces of memory, kilobytes apart.
 */
static inline ia3_fetch
ia3_fetch_part(const ia3_head *h, size_t i, size_t n, const ia3_head *next, const void *x, size_t row,
               size_t rows, size_t stride)
{
    const size_t size = h->bf16 ? sizeof(uint16_t) : sizeof(float), first = rows * i / h->n_q;
    const size_t n_k = h->n_k < IA3_KEYS ? h->n_k : IA3_KEYS, part = rows * (i + n) / h->n_q - first;
    const size_t steps = (n_k + IA3_TILE_ROWS - 1) / IA3_TILE_ROWS;
    return (ia3_fetch){.first = (const char *) x + ia3_head_at(next, row + first, stride) * size,
                       .stride = stride * size,
                       .bytes = h->d * size,
                       .rows = part,
                       .each = (part + steps - 1) / steps};
}

/* Fetches what is to be fetched with keys [j, j + IA3_TILE_ROWS). */
static __attribute__((noinline)) void
ia3_fetch_rows(const ia3_fetch *f, size_t n, size_t j)
{
    __asm__ volatile(""); /* otherwise gcc finds that this function does nothing, and leaves out its calls */
    for (const ia3_fetch *end = f + n; f < end; f++) {
        const size_t from = j / IA3_TILE_ROWS * f->each, to = from + f->each;
        for (size_t r = from; r < to && r < f->rows; r++)
            for (size_t c = 0; c < f->bytes; c += 64)
                __builtin_prefetch(f->first + r * f->stride + c, 0, 2);
    }
}

/* A tile of keys, and what its scores are computed from. */
typedef struct ia3_scores {
    float *s;        /* [n_k, IA3_QUERIES]: the scores, k·qᵀ + bias */
    float *max;      /* [IA3_QUERIES]: the largest of each query */
    const float *k;  /* [n_k, dp], with rows of zeros up to a multiple of IA3_TILE_ROWS */
    const float *qt; /* [d, IA3_QUERIES] */
    const float *bias;
    size_t n_k, d, dp;
    const ia3_fetch *fetch; /* [n_fetch] */
    size_t n_fetch;
} ia3_scores;

/* Computes `vecs` vectors of columns (queries), as ia3_tile_columns does. */
IA3_INLINE void
ia3_scores_columns(const ia3_scores *t, size_t column, const size_t vecs)
{
    float *max = t->max + column;
    const ia3_vec lowest = (ia3_vec){0} - INFINITY;
    for (size_t j = 0; j < t->n_k; j += IA3_TILE_ROWS) {
        if (t->n_fetch > 0 && column == 0)
            ia3_fetch_rows(t->fetch, t->n_fetch, j);
        ia3_vec sum[IA3_TILE_ROWS][IA3_TILE_VECS];
        IA3_UNROLL
        for (size_t r = 0; r < IA3_TILE_ROWS; r++)
            IA3_UNROLL
        for (size_t v = 0; v < vecs; v++)
            sum[r][v] = (ia3_vec){0};
        ia3_tile_sums(sum, (ia3_tile_a){t->k + j * t->dp, t->dp, 1}, t->qt + column, IA3_QUERIES, t->d, vecs);
        const float *b = t->bias + IA3_KEYS - 1 - j + column;
        float *to = t->s + j * IA3_QUERIES + column;
        ia3_vec most[IA3_TILE_VECS];
        IA3_UNROLL
        for (size_t v = 0; v < vecs; v++)
            most[v] = j == 0 ? lowest : IA3_AT(max, v);
        IA3_UNROLL
        for (size_t r = 0; r < IA3_TILE_ROWS; r++, b--, to += IA3_QUERIES) {
            if (j + r >= t->n_k)
                break;
            IA3_UNROLL
            for (size_t v = 0; v < vecs; v++) {
                ia3_vec x = sum[r][v] + *(const ia3_vec *) (b + v * IA3_VEC_LANES);
                IA3_AT(to, v) = x;
                most[v] = ia3_vec_max(x, most[v]);
            }
        }
        IA3_UNROLL
        for (size_t v = 0; v < vecs; v++)
            IA3_AT(max, v) = most[v];
    }
}

#define IA3_SCORES_COLUMNS(vecs)                                                                             \
    static __attribute__((noinline)) void ia3_scores_columns_##vecs(const ia3_scores *t, size_t column)      \
    {                                                                                                        \
        ia3_scores_columns(t, column, vecs);                                                                 \
    }
IA3_SCORES_COLUMNS(1)
IA3_SCORES_COLUMNS(2)
IA3_SCORES_COLUMNS(3)

/* Computes the scores of a tile for `vecs` vectors of queries. */
static inline void
ia3_tile_scores(const ia3_scores *t, size_t vecs)
{
    static void (*const columns[])(const ia3_scores *, size_t) = {NULL, ia3_scores_columns_1,
                                                                  ia3_scores_columns_2, ia3_scores_columns_3};
    for (size_t at = 0, width; at < vecs; at += width) {
        width = ia3_tile_width(vecs - at);
        columns[width](t, at * IA3_VEC_LANES);
    }
}

/* --- dropout --- */

/* The row keys of a block of queries; those of even and of odd queries are apart, as ia3_tile_mask needs them. */
typedef struct ia3_block_keys {
    uint64_t even[IA3_QUERIES / 2], odd[IA3_QUERIES / 2];
} ia3_block_keys;

static inline void
ia3_block_keys_of(ia3_block_keys *keys, const uint64_t *row_key, size_t n)
{
    memset(keys, 0, sizeof *keys);
    for (size_t i = 0; i < n; i++)
        (i % 2 ? keys->odd : keys->even)[i / 2] = row_key[i];
}

/* The multipliers m[n_k, IA3_QUERIES] of keys [k, k + n_k), up to the next multiple of 4; k is a multiple of 4 too. */
static inline void
ia3_tile_mask(float *m, size_t k, size_t n_k, const ia3_block_keys *keys, size_t vecs, uint32_t site,
              const ia3_mask *mask)
{
    const ia3_u64_vec zero = {0}, low = zero + 0xffffffffu;
    uint32_t keep;
    memcpy(&keep, &mask->keep, sizeof keep);
    for (size_t v = 0; v < vecs; v++) {
        ia3_u64_vec even, odd;
        memcpy(&even, keys->even + v * IA3_U64_LANES, sizeof even);
        memcpy(&odd, keys->odd + v * IA3_U64_LANES, sizeof odd);
        for (size_t j = 0; j < n_k; j += 4) {
            ia3_u64_vec block = zero + ((k + j) >> 2);
            ia3_u64_vec a[4] = {block, zero + site, even, even >> 32};
            ia3_u64_vec b[4] = {block, a[1], odd, odd >> 32};
            ia3_philox_x2(a, b);
            IA3_UNROLL
            for (size_t r = 0; r < 4; r++) {
                ia3_u32_vec bits = (ia3_u32_vec) ((a[r] & low) | b[r] << 32);
                ia3_i32_vec x = (ia3_i32_vec) (bits >= mask->threshold) & (int32_t) keep;
                memcpy(m + (j + r) * IA3_QUERIES + v * IA3_VEC_LANES, &x, sizeof x);
            }
        }
    }
}

#endif
