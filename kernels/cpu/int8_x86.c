/*
 * int8_x86.c
 *     The forms of the eight-bit kernel for x86-64 processors: AVX-512 with and without VNNI, AVX-VNNI, AVX2.
 *
 * vpdpbusd (VNNI) multiplies unsigned bytes (four activations, broadcast) by signed ones (the packed weights) and adds
 * groups of four products to 32-bit sums without saturating. Without it three instructions do this: vpmaddubsw multiplies
 * bytes and adds the products in pairs to 16 bits, for which the weights are scaled (int8.h); vpmaddwd, with ones, adds
 * pairs of these to 32 bits; vpaddd adds the result to the sums. Products of 16-bit numbers (vpmaddwd, vpaddd) would need
 * no such scaling, but took 30% longer on an Intel processor (Emerald Rapids, bench_int8).
 *
 * A tile of rows by columns of a panel keeps its sums in registers for the whole of k, while the panel is read from
 * the first- or second-level cache. Meanwhile the next panel is fetched. With AVX-512 this is done in two steps: during all
 * tiles, a part with each, from the third-level cache to the second, because that takes longer than one tile; and during
 * the last tile from the second to the first.
 *
 * There are two reasons not to use oneDNN for this. Measured against its (version 2.6) prepacked s8·s8 product with
 * 32-bit result on one thread of a Zen 5, for the shapes of T5-base, this kernel does 1,110 to 1,150 GOP/s against
 * 1,030 to 1,120 and needs no second pass over the sums in memory. And without VNNI oneDNN's 16-bit intermediate
 * sums saturate.
 */
#if defined(__x86_64__)

#include "int8_forms.h"

#include <cpuid.h>
#include <immintrin.h>

#include "int8_body.h"

enum { GROUP_BYTES = IA3_INT8_COLUMNS * IA3_INT8_GROUP };

/* How far ahead of its use a panel is fetched from the second-level cache, in bytes. */
enum { FETCH_AHEAD = 8 * GROUP_BYTES };

/*
 * Pointers to a tile's rows. The loop over k advances every third pointer; the rows between are addressed relative
 * to these, which needs fewer registers than there are rows.
 */
typedef struct tile_rows {
    const char *third[4];
    size_t bytes; /* from row to row */
} tile_rows;

IA3_INLINE tile_rows
rows_of(const ia3_int8_product *p, int row, const int rows)
{
    tile_rows t = {.bytes = (size_t) p->groups * IA3_INT8_GROUP};
    for (int i = 0; i < 4; i++)
        t.third[i] = (const char *) p->q + (size_t) (row + (3 * i < rows ? 3 * i : 0)) * t.bytes;
    return t;
}

IA3_INLINE int32_t
four_bytes(const tile_rows *t, const int row)
{
    int32_t v;
    memcpy(&v, t->third[row / 3] + (size_t) (row % 3) * t->bytes, sizeof v);
    return v;
}

IA3_INLINE void
next_group(tile_rows *t, const int rows)
{
    IA3_UNROLL
    for (int i = 0; i < (rows + 2) / 3; i++) {
        t->third[i] += IA3_INT8_GROUP;
        __asm__("" : "+r"(t->third[i])); /* otherwise the compiler makes a pointer for each row */
    }
}

/* The panel that is fetched during a tile: the rest of this one or, with the last rows, the next one. */
IA3_INLINE const int8_t *
fetched_panel(const ia3_int8_product *p, int row, int rows)
{
    return row + rows < p->rows ? p->w + FETCH_AHEAD : p->next;
}

IA3_INLINE void
fetch_result(const ia3_int8_product *p, int row, int rows)
{
    size_t size = p->out == IA3_OUT_ACT && p->bf16 ? 2 : 4;
    for (int i = 0; i < rows; i++) {
        const char *y = (const char *) p->y + (size_t) (row + i) * p->ldy * size;
        __builtin_prefetch(y, 1);
        __builtin_prefetch(y + 32 * size - 1, 1);
    }
}

/* Calls tile(p, row, rows, vnni) with a constant number of rows for each of the blocks, of similar size, of at most `most`. */
#define CASE(tile, n, vnni)                                                                                  \
    case n:                                                                                                  \
        tile(p, r, n, vnni);                                                                                 \
        break;
#define SIX_CASES(tile, v)                                                                                   \
    CASE(tile, 1, v) CASE(tile, 2, v) CASE(tile, 3, v) CASE(tile, 4, v) CASE(tile, 5, v) CASE(tile, 6, v)
#define TWELVE_CASES(tile, v)                                                                                \
    SIX_CASES(tile, v)                                                                                       \
    CASE(tile, 7, v) CASE(tile, 8, v) CASE(tile, 9, v) CASE(tile, 10, v) CASE(tile, 11, v) CASE(tile, 12, v)
#define FOR_EACH_TILE(p, cases, tile, vnni, most)                                                            \
    do {                                                                                                     \
        int blocks = ((p)->rows + (most) -1) / (most);                                                       \
        for (int r = 0, n; blocks > 0; r += n, blocks--) {                                                   \
            n = ((p)->rows - r + blocks - 1) / blocks;                                                       \
            switch (n) {                                                                                     \
                cases(tile, vnni)                                                                            \
            }                                                                                                \
        }                                                                                                    \
    } while (0)

/*
 * The steps of the sums are assembler because gcc, given intrinsics, copies the sums to other registers at every step,
 * runs out of them, and keeps some on the stack.
 */
#define DOT(c, w, a)     __asm__("vpdpbusd %1, %2, %0" : "+v"(c) : "v"(w), "v"(a))
#define DOT_VEX(c, w, a) __asm__("%{vex%} vpdpbusd %1, %2, %0" : "+x"(c) : "x"(w), "x"(a))
/* w is in memory with AVX2, whose registers are all needed for the sums and the operands that come again */
#define DOT_PAIRS(type, c, w, where, a, ones)                                                                \
    do {                                                                                                     \
        type products_;                                                                                      \
        __asm__("vpmaddubsw %2, %3, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"                          \
                : "+v"(c), "=&v"(products_)                                                                  \
                : where(w), "v"(a), "v"(ones));                                                              \
    } while (0)

#define AVX2 __attribute__((target("avx2")))

typedef int32_t tile_sums[IA3_INT8_COLUMNS] __attribute__((aligned(64)));

/* Scales a tile's sums and writes them. It is no part of the tiles because it would be compiled for each of them. */
static AVX2 __attribute__((noinline)) void
finish(const ia3_int8_product *p, int row, int rows, const tile_sums *sums)
{
    ia3_int8_finish(p, row, rows, sums[0]);
}

/* --- AVX-512, with and without VNNI --- */

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

static bool
avx512_available(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool
vnni_available(void)
{
    return avx512_available() && __builtin_cpu_supports("avx512vnni");
}

/* Does what `finish` does, but from registers, for whole panels and a result in float32, which is what most tiles have. */
IA3_INLINE AVX512 void
finish_registers(const ia3_int8_product *p, int row, const int rows, __m512i c[12][2])
{
    const __m512 w0 = _mm512_loadu_ps(p->w_scale), w1 = _mm512_loadu_ps(p->w_scale + 16);
    const bool add = p->out == IA3_OUT_ADD_F32;
    float *y = (float *) p->y + (size_t) row * p->ldy;
    IA3_UNROLL
    for (int i = 0; i < rows; i++, y += p->ldy) {
        const __m512 scale = _mm512_set1_ps(p->scale[row + i]);
        __m512 v0 = _mm512_mul_ps(_mm512_cvtepi32_ps(c[i][0]), _mm512_mul_ps(scale, w0));
        __m512 v1 = _mm512_mul_ps(_mm512_cvtepi32_ps(c[i][1]), _mm512_mul_ps(scale, w1));
        if (add) {
            v0 = _mm512_add_ps(_mm512_loadu_ps(y), v0);
            v1 = _mm512_add_ps(_mm512_loadu_ps(y + 16), v1);
        }
        _mm512_storeu_ps(y, v0);
        _mm512_storeu_ps(y + 16, v1);
    }
}

/* Takes a whole panel at a time. `rows` and `vnni` are constants where this is inlined. */
IA3_INLINE AVX512 void
tile_512(const ia3_int8_product *p, int row, const int rows, const bool vnni)
{
    tile_rows t = rows_of(p, row, rows);
    const int8_t *w = p->w, *ahead = fetched_panel(p, row, rows);
    const int8_t *next = p->next + (size_t) p->groups * GROUP_BYTES * (size_t) row / (size_t) p->rows;
    const size_t step = (size_t) GROUP_BYTES * (size_t) rows / (size_t) p->rows;
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i c[12][2];
    IA3_UNROLL
    for (int i = 0; i < rows; i++) {
        c[i][0] = _mm512_loadu_si512(p->start);
        c[i][1] = _mm512_loadu_si512(p->start + 16);
    }
    fetch_result(p, row, rows);
    for (int g = p->groups; g > 0; g--, w += GROUP_BYTES, ahead += GROUP_BYTES) {
        __m512i b0 = _mm512_load_si512(w), b1 = _mm512_load_si512(w + 64);
        _mm_prefetch((const char *) ahead, _MM_HINT_T0);
        _mm_prefetch((const char *) ahead + 64, _MM_HINT_T0);
        _mm_prefetch((const char *) next, _MM_HINT_T1);
        next += step;
        IA3_UNROLL
        for (int i = 0; i < rows; i++) {
            __m512i a = _mm512_set1_epi32(four_bytes(&t, i));
            if (vnni) {
                DOT(c[i][0], b0, a);
                DOT(c[i][1], b1, a);
            } else {
                DOT_PAIRS(__m512i, c[i][0], b0, "v", a, ones);
                DOT_PAIRS(__m512i, c[i][1], b1, "v", a, ones);
            }
        }
        next_group(&t, rows);
    }
    if (p->n == IA3_INT8_COLUMNS && !(p->out == IA3_OUT_ACT && p->bf16)) {
        finish_registers(p, row, rows, c);
        return;
    }
    tile_sums sums[12];
    IA3_UNROLL
    for (int i = 0; i < rows; i++) {
        _mm512_store_si512(sums[i], c[i][0]);
        _mm512_store_si512(sums[i] + 16, c[i][1]);
    }
    finish(p, row, rows, sums);
}

static AVX512 void
vnni_product(const ia3_int8_product *p)
{
    FOR_EACH_TILE(p, TWELVE_CASES, tile_512, true, 12);
}

static AVX512 void
avx512_product(const ia3_int8_product *p)
{
    FOR_EACH_TILE(p, TWELVE_CASES, tile_512, false, 12);
}

static AVX512 void
avx512_quantize(uint8_t *q, float *scale, const void *x, int k, int k_padded, bool bf16, float *scratch)
{
    ia3_int8_quantize_row(q, 128, scale, x, k, k_padded, bf16, scratch);
}

const ia3_int8_form ia3_int8_avx512vnni = {"avx512vnni", 128, vnni_available, avx512_quantize, vnni_product};
const ia3_int8_form ia3_int8_avx512 = {"avx512", 128, avx512_available, avx512_quantize, avx512_product};

/* --- 256 bits: AVX-VNNI, and AVX2 alone --- */

static bool
avx2_available(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2");
}

static bool
avxvnni_available(void)
{
    unsigned a, b, c, d; /* gcc 12 has no name for AVX-VNNI: leaf 7, subleaf 1, eax bit 4 */
    return avx2_available() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

/*
 * Takes 16 columns at a time. Twelve sums, two weights and an activation fit in the sixteen registers; without VNNI twelve sums, the
 * ones, an activation and products do, and the weights are read from memory. `rows` and `vnni` are constants where this is inlined.
 */
IA3_INLINE AVX2 void
tile_256(const ia3_int8_product *p, int row, const int rows, const bool vnni)
{
    const int8_t *ahead = fetched_panel(p, row, rows);
    const __m256i ones = _mm256_set1_epi16(1);
    fetch_result(p, row, rows);
    tile_sums sums[6];
    for (int column = 0; column < IA3_INT8_COLUMNS; column += 16) {
        tile_rows t = rows_of(p, row, rows);
        const int8_t *w = p->w + column * IA3_INT8_GROUP;
        __m256i c[6][2];
        IA3_UNROLL
        for (int i = 0; i < rows; i++) {
            c[i][0] = _mm256_loadu_si256((const __m256i *) (p->start + column));
            c[i][1] = _mm256_loadu_si256((const __m256i *) (p->start + column + 8));
        }
        for (int g = p->groups; g > 0; g--, w += GROUP_BYTES, ahead += GROUP_BYTES / 2) {
            const __m256i *b = (const __m256i *) w;
            const __m256i b0 = _mm256_load_si256(b), b1 = _mm256_load_si256(b + 1);
            _mm_prefetch((const char *) ahead, _MM_HINT_T0);
            IA3_UNROLL
            for (int i = 0; i < rows; i++) {
                __m256i a = _mm256_set1_epi32(four_bytes(&t, i));
                if (vnni) {
                    DOT_VEX(c[i][0], b0, a);
                    DOT_VEX(c[i][1], b1, a);
                } else {
                    DOT_PAIRS(__m256i, c[i][0], b[0], "m", a, ones);
                    DOT_PAIRS(__m256i, c[i][1], b[1], "m", a, ones);
                }
            }
            next_group(&t, rows);
        }
        IA3_UNROLL
        for (int i = 0; i < rows; i++) {
            _mm256_store_si256((__m256i *) (sums[i] + column), c[i][0]);
            _mm256_store_si256((__m256i *) (sums[i] + column + 8), c[i][1]);
        }
    }
    finish(p, row, rows, sums);
}

static AVX2 void
avxvnni_product(const ia3_int8_product *p)
{
    FOR_EACH_TILE(p, SIX_CASES, tile_256, true, 6);
}

static AVX2 void
avx2_product(const ia3_int8_product *p)
{
    FOR_EACH_TILE(p, SIX_CASES, tile_256, false, 6);
}

static AVX2 void
avx2_quantize(uint8_t *q, float *scale, const void *x, int k, int k_padded, bool bf16, float *scratch)
{
    ia3_int8_quantize_row(q, 128, scale, x, k, k_padded, bf16, scratch);
}

const ia3_int8_form ia3_int8_avxvnni = {"avxvnni", 128, avxvnni_available, avx2_quantize, avxvnni_product};
const ia3_int8_form ia3_int8_avx2 = {"avx2", 128, avx2_available, avx2_quantize, avx2_product};

#endif
