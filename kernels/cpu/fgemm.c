/*
 * fgemm.c
 *     Matrix products by fp32 multiply-adds: packing, tiles, and the division of the work among the threads.
 *
 * A tile of rows by columns keeps its sums in registers for the whole of k: with AVX-512 twelve rows by two vectors
 * of sixteen, with AVX2 six rows by two vectors of eight, on arm64 six rows by four vectors of four. Vectors are the
 * compilers' own extension, so one source serves all. bfloat16 is widened to fp32: activations once per part of the
 * job, weights in registers, by a shift (even k) or a mask (odd k).
 */
#include "fgemm.h"

#include <string.h>

#include "simd.h"

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 2, TILE_ROWS = 12 };
#elif defined(__AVX__)
enum { LANES = 8, VECTORS = 2, TILE_ROWS = 6 };
#elif defined(__aarch64__)
enum { LANES = 4, VECTORS = 4, TILE_ROWS = 6 };
#else
enum { LANES = 4, VECTORS = 2, TILE_ROWS = 6 };
#endif
enum { COLUMNS = LANES * VECTORS /* of a tile; divides IA3_FSTRIP */ };

/* Rows per part of a job: their activations stay in the second-level cache while the strips are read. */
enum { CHUNK = 48 };
/* Longer sums are computed in pieces if y can hold them in between; a strip of this length stays in that cache too. */
enum { MOST_K = 2048 };
/* Number of multiply-adds that makes a part worth waking a thread for. */
enum { PART_WORK = 500000 };

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Keeps a vector in a register; otherwise gcc reads it from memory again for each multiplication. */
#if defined(__AVX512F__)
#define KEEP(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__)
#define KEEP(v) __asm__("" : "+x"(v))
#else
#define KEEP(v) (void) 0
#endif

/* Some rows times one strip: k terms, of which `a` and `strip` point at the first. */
typedef struct strip_job {
    const float *a;
    size_t lda;
    const void *strip;
    void *y; /* row 0, the strip's column 0 */
    size_t ldy;
    int k, columns; /* columns without padding, at most IA3_FSTRIP */
    ia3_out out;
    bool bf16;
} strip_job;

static size_t
strips_of(int n)
{
    return ((size_t) n + IA3_FSTRIP - 1) / IA3_FSTRIP;
}

/* Number of elements in a strip of packed weights. */
static size_t
strip_size(int k, bool bf16)
{
    return (size_t) (bf16 ? k + (k & 1) : k) * IA3_FSTRIP;
}

size_t
ia3_fgemm_bytes(int k, int n, bool bf16)
{
    return strips_of(n) * strip_size(k, bf16) * (bf16 ? 2 : 4);
}

/* The index of B(i, j) in the packed weights. */
static size_t
position(int i, int j, int k, bool bf16)
{
    size_t strip = (size_t) (j / IA3_FSTRIP) * strip_size(k, bf16), column = (size_t) (j % IA3_FSTRIP);
    if (bf16)
        return strip + ((size_t) (i / 2) * IA3_FSTRIP + column) * 2 + (size_t) (i & 1);
    return strip + (size_t) i * IA3_FSTRIP + column;
}

void
ia3_fgemm_pack(void *packed, const void *plain, int k, int n, int64_t row, int64_t col, bool bf16)
{
    memset(packed, 0, ia3_fgemm_bytes(k, n, bf16));
    for (int j = 0; j < n; j++)
        for (int i = 0; i < k; i++) {
            size_t to = position(i, j, k, bf16);
            int64_t from = i * row + j * col;
            if (bf16)
                ((uint16_t *) packed)[to] = ((const uint16_t *) plain)[from];
            else
                ((float *) packed)[to] = ((const float *) plain)[from];
        }
}

void
ia3_fgemm_unpack(void *plain, const void *packed, int k, int n, int64_t row, int64_t col, bool bf16)
{
    for (int j = 0; j < n; j++)
        for (int i = 0; i < k; i++) {
            size_t from = position(i, j, k, bf16);
            int64_t to = i * row + j * col;
            if (bf16)
                ((uint16_t *) plain)[to] = ((const uint16_t *) packed)[from];
            else
                ((float *) plain)[to] = ((const float *) packed)[from];
        }
}

static void
store_row(const strip_job *s, size_t row, int column, const float *sum)
{
    int n = s->columns - column < COLUMNS ? s->columns - column : COLUMNS;
    size_t at = row * s->ldy + (size_t) column;
    float *y = (float *) s->y + at;
    if (s->bf16 && s->out == IA3_OUT_ACT) {
        ia3_store_act(s->y, at, sum, (size_t) n, true);
    } else if (s->out == IA3_OUT_ADD_F32) {
        for (int i = 0; i < n; i++)
            y[i] += sum[i];
    } else {
        memcpy(y, sum, (size_t) n * sizeof(float));
    }
}

/* Adds one term, a[r·lda]·b, to each sum. */
IA3_INLINE void
add_terms(vec (*sum)[VECTORS], const float *a, size_t lda, vec *b, const int rows)
{
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++)
        KEEP(b[v]);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] += a[(size_t) r * lda] * b[v];
}

IA3_INLINE void
sum_f32(const strip_job *s, vec (*sum)[VECTORS], const float *a, int column, const int rows)
{
    const float *b = (const float *) s->strip + column;
    for (int i = 0; i < s->k; i++, b += IA3_FSTRIP) {
        vec w[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            w[v] = *(const vec *) (b + v * LANES);
        add_terms(sum, a + i, s->lda, w, rows);
    }
}

/* Reads a pair of bfloat16 numbers as one of 32 bits: the low half is the even element, the high half the odd one. */
IA3_INLINE void
sum_bf16(const strip_job *s, vec (*sum)[VECTORS], const float *a, int column, const int rows)
{
    const uint32_t *b = (const uint32_t *) s->strip + column;
    for (int i = 0; i < s->k; i += 2, b += IA3_FSTRIP) {
        vec w[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            w[v] = (vec) (*(const bits *) (b + v * LANES) << 16);
        add_terms(sum, a + i, s->lda, w, rows);
        if (i + 1 == s->k)
            break;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            w[v] = (vec) (*(const bits *) (b + v * LANES) & 0xffff0000u);
        add_terms(sum, a + i + 1, s->lda, w, rows);
    }
}

/* Rows [row, row + rows), COLUMNS columns; `rows` is a constant where this is inlined. */
IA3_INLINE void
tile(const strip_job *s, size_t row, int column, const int rows)
{
    vec sum[TILE_ROWS][VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = (vec){0};
    const float *a = s->a + row * s->lda;
    if (s->bf16)
        sum_bf16(s, sum, a, column, rows);
    else
        sum_f32(s, sum, a, column, rows);
    float line[COLUMNS];
    for (int r = 0; r < rows; r++) {
        memcpy(line, sum[r], sizeof line);
        store_row(s, row + (size_t) r, column, line);
    }
}

/* A function per number of rows, so that the sums stay in registers. */
#define TILE(rows)                                                                                           \
    static void tile_##rows(const strip_job *s, size_t row, int column)                                      \
    {                                                                                                        \
        tile(s, row, column, rows);                                                                          \
    }
/* clang-format off */
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if defined(__AVX512F__)
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif

static void (*const tiles[TILE_ROWS + 1])(const strip_job *, size_t, int) = {
    NULL, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6,
#if defined(__AVX512F__)
    tile_7, tile_8, tile_9, tile_10, tile_11, tile_12,
#endif
};
/* clang-format on */

/* Divides the rows evenly among tiles: a last tile of one row would leave the multipliers idle. */
static void
run_strip(const strip_job *s, int rows)
{
    int groups = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int column = 0; column < s->columns; column += COLUMNS)
        for (int t = 0, row = 0; t < groups; t++) {
            int take = rows / groups + (t < rows % groups);
            tiles[take](s, (size_t) row, column);
            row += take;
        }
}

size_t
ia3_fgemm_scratch(const ia3_cpu *cpu, int k, int rows)
{
    return cpu->bf16 ? ia3_align_up((size_t) rows * (size_t) k * sizeof(float)) : IA3_ALIGN;
}

/* Multiplies at most CHUNK rows by strips [first, first + n) of a panel; y is the address of row 0 and column 0. */
static void
multiply(const ia3_cpu *cpu, const ia3_panel *panel, size_t first, size_t n, void *y, size_t ldy,
         const void *a, int rows, ia3_out out, void *scratch)
{
    const int k = panel->shape->k, whole = out == IA3_OUT_ACT && cpu->bf16;
    const size_t size = strip_size(k, cpu->bf16) * cpu->act_size;
    const size_t out_size = out == IA3_OUT_ACT ? cpu->act_size : sizeof(float);
    if (cpu->bf16) {
        ia3_load_act(scratch, a, 0, (size_t) rows * (size_t) k, true);
        a = scratch;
    }
    for (size_t i = first; i < first + n; i++) {
        int column = (int) i * IA3_FSTRIP, left = panel->n - column;
        strip_job s = {.lda = (size_t) k,
                       .y = (char *) y + (size_t) column * out_size,
                       .ldy = ldy,
                       .columns = left < IA3_FSTRIP ? left : IA3_FSTRIP,
                       .out = out,
                       .bf16 = cpu->bf16};
        for (int done = 0; done < k; done += s.k) {
            s.k = whole || k - done < MOST_K ? k - done : MOST_K;
            s.a = (const float *) a + done;
            s.strip = (const char *) panel->data + i * size + (size_t) done * IA3_FSTRIP * cpu->act_size;
            run_strip(&s, rows);
            s.out = IA3_OUT_ADD_F32;
        }
    }
}

void
ia3_fgemm_panel(const ia3_cpu *cpu, const ia3_panel *panel, void *y, size_t ldy, const void *a, int rows,
                ia3_out out, void *scratch)
{
    multiply(cpu, panel, 0, strips_of(panel->n), y, ldy, a, rows, out, scratch);
}

typedef struct fgemm_job {
    const ia3_cpu *cpu;
    const ia3_pack *pack;
    char *y;
    const char *a;
    int rows, chunk;
    ia3_out out;
    char *scratch;
    size_t scratch_size;
} fgemm_job;

/* Items are (chunk, strip of a panel), chunk by chunk: the rows stay in cache while the strips are read. */
static void
fgemm_work(void *arg, int slot, size_t begin, size_t end)
{
    const fgemm_job *j = arg;
    const ia3_pack *pack = j->pack;
    const size_t strips = strips_of(pack->n), in_panel = strips_of(pack->panels[0].n);
    const size_t out_size = j->out == IA3_OUT_ACT ? j->cpu->act_size : sizeof(float);
    while (begin < end) {
        const ia3_panel *panel = &pack->panels[begin % strips / in_panel];
        size_t at = begin % strips % in_panel, left = strips_of(panel->n) - at;
        size_t n = end - begin < left ? end - begin : left;
        size_t row = begin / strips * (size_t) j->chunk;
        int rows = j->rows - (int) row < j->chunk ? j->rows - (int) row : j->chunk;
        multiply(j->cpu, panel, at, n, j->y + (row * (size_t) pack->n + (size_t) panel->n0) * out_size,
                 (size_t) pack->n, j->a + row * (size_t) pack->k * j->cpu->act_size, rows, j->out,
                 j->scratch + (size_t) slot * j->scratch_size);
        begin += n;
    }
}

void
ia3_fgemm(ia3_cpu *cpu, const ia3_pack *pack, void *y, const void *a, int rows, ia3_out out)
{
    if (rows <= 0)
        return;
    size_t mark = ia3_cpu_arena_mark(&cpu->base);
    fgemm_job j = {.cpu = cpu, .pack = pack, .y = y, .a = a, .rows = rows, .out = out};
    int chunks = (rows + CHUNK - 1) / CHUNK;
    j.chunk = (rows + chunks - 1) / chunks;
    chunks = (rows + j.chunk - 1) / j.chunk;
    j.scratch_size = ia3_fgemm_scratch(cpu, pack->k, j.chunk);
    j.scratch = ia3_cpu_arena_alloc(&cpu->base, j.scratch_size * (size_t) cpu->threads);
    size_t work = (size_t) j.chunk * (size_t) pack->k * IA3_FSTRIP;
    ia3_parallel(cpu->pool, (size_t) chunks * strips_of(pack->n), 1 + PART_WORK / (work + 1), fgemm_work, &j);
    ia3_cpu_arena_release(&cpu->base, mark);
}
