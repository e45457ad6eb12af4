/*
 * fgemm.c
 *     Matrix products by fp32 multiply-adds: packing, tiles, and the division of the work among the threads.
 *
 * A tile of rows by one strip of columns keeps its sums in registers: with AVX-512 twelve rows by two vectors of
 * sixteen, with AVX2 six rows by two vectors of eight, on arm64 six rows by four vectors of four. Vectors are the
 * compilers' own extension, so one source serves all.
 *
 * A strip is multiplied in blocks of k that fit in the first-level cache, by all rows of a chunk that fits in the second
 * one; the sums of a block are the beginnings of the next one's. While a block is used, the next one is fetched from
 * beyond these caches. Weights in bfloat16 are widened to fp32 block by block: the first tile does it while it multiplies,
 * and leaves the block to the others. Activations are bfloat16 only where the processor multiplies it but neither oneDNN
 * nor bgemm.h has the shape; they are widened once per part of the job.
 */
#include "fgemm.h"

#include <string.h>

#if defined(__AVX512F__)
enum { TILE_ROWS = 12 };
#else
enum { TILE_ROWS = 6 };
#endif
enum { VECTORS = IA3_FSTRIP / IA3_VEC_LANES };

/* Terms of a block: even, 16 kB of weights in fp32 with AVX2, 32 kB with AVX-512. */
enum { BLOCK_K = 256 };
/* The activations of a chunk take at most so many bytes, provided that it has LEAST_ROWS. */
#if defined(__AVX512F__)
enum { CHUNK_BYTES = 768 << 10 }; /* these processors have a larger second-level cache */
#else
enum { CHUNK_BYTES = 384 << 10 };
#endif
enum { LEAST_ROWS = 48 };
/* Longer sums are computed in pieces if y can hold them in between. */
enum { MOST_K = 2048 };
/* Terms per pass of the innermost loop. */
enum { UNROLL = 8 };
/* Number of multiply-adds that makes a part worth waking a thread for. */
enum { PART_WORK = 500000 };

typedef uint32_t bits __attribute__((vector_size(4 * IA3_VEC_LANES), aligned(4), may_alias));

/* Some rows times a block of one strip: k terms, of which `a` and `b` point at the first. */
typedef struct block_job {
    const float *a;
    size_t lda;
    const float *b; /* [k][IA3_FSTRIP] */
    /* The block in bfloat16, or NULL if b is ready. The first tile widens it to `widened`, where the others read it (b). */
    const uint32_t *pairs;
    float *widened;
    bool only; /* there are no other tiles */
    int k;
    bool begin, end; /* whether the sums begin and end here; between blocks they are in `sums` */
    float *sums;     /* [rows][IA3_FSTRIP] */
    void *y;         /* row 0, the strip's column 0 */
    size_t ldy;
    int columns; /* columns without padding, at most IA3_FSTRIP */
    ia3_out out;
    bool wide; /* y is fp32, which can hold sums of parts of k; otherwise bfloat16 */
    /* the next block, of which each tile fetches a share */
    const char *ahead;
    size_t step; /* per term */
} block_job;

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

/* Writes the sums of a row if the strip has fewer columns than a tile, or the results are bfloat16. */
static void
store_line(const block_job *j, size_t row, const float *sum)
{
    size_t at = row * j->ldy;
    float *y = (float *) j->y + at;
    if (!j->wide) {
        if (j->columns == IA3_FSTRIP)
            ia3_store_act(j->y, at, sum, IA3_FSTRIP, true);
        else
            ia3_store_act(j->y, at, sum, (size_t) j->columns, true);
    } else if (j->out == IA3_OUT_ADD_F32) {
        for (int i = 0; i < j->columns; i++)
            y[i] += sum[i];
    } else {
        memcpy(y, sum, (size_t) j->columns * sizeof(float));
    }
}

/* Where the next terms of a block are: fp32, or pairs in bfloat16 that are to be written to `to` in fp32. */
typedef struct weights {
    const float *b;
    const uint32_t *pairs;
    float *to;
} weights;

/* Term i of some pairs, an even or an odd one. Of the 32 bits of a pair the low half is the even term. */
IA3_INLINE ia3_vec
half(const uint32_t *pairs, size_t i)
{
    bits pair = *(const bits *) (pairs + i / 2 * IA3_FSTRIP);
    return i % 2 ? (ia3_vec) (pair & 0xffff0000u) : (ia3_vec) (pair << 16);
}

/* Widens k terms, and one more if k is odd. */
static void
widen_block(float *to, const uint32_t *pairs, int k)
{
    for (size_t i = 0; i < (size_t) k; i += 2)
        for (size_t v = 0; v < IA3_FSTRIP; v += IA3_VEC_LANES) {
            *(ia3_vec *) (to + i * IA3_FSTRIP + v) = half(pairs + i / 2 * IA3_FSTRIP + v, 0);
            *(ia3_vec *) (to + (i + 1) * IA3_FSTRIP + v) = half(pairs + i / 2 * IA3_FSTRIP + v, 1);
        }
}

IA3_INLINE void
get_weights(ia3_vec *w, const weights *from, size_t i, const bool widen)
{
    IA3_UNROLL
    for (size_t v = 0; v < VECTORS; v++) {
        w[v] = widen ? half(from->pairs + v * IA3_VEC_LANES, i) : IA3_VEC(from->b, i * IA3_FSTRIP, v);
        IA3_KEEP(w[v]);
        if (widen)
            *(ia3_vec *) (from->to + i * IA3_FSTRIP + v * IA3_VEC_LANES) = w[v];
    }
}

/* Adds the term a(r, i)·b to each sum; a[x] is the address of row 4·x. */
IA3_INLINE void
add_term(ia3_vec (*sum)[VECTORS], const char *const *a, size_t lda, size_t i, const weights *from,
         const int rows, const bool widen)
{
    ia3_vec w[VECTORS];
    get_weights(w, from, i, widen);
    IA3_UNROLL
    for (int r = 0; r < rows; r++) {
        float x = *(const float *) (const void *) (a[r / 4] + (size_t) (r % 4) * lda + i * sizeof(float));
        IA3_UNROLL
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] += x * w[v];
    }
}

IA3_INLINE void
begin_sums(const block_job *j, ia3_vec (*sum)[VECTORS], size_t row, const int rows)
{
    const float *from = j->sums + row * IA3_FSTRIP;
    IA3_UNROLL
    for (int r = 0; r < rows; r++) {
        IA3_UNROLL
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = (ia3_vec){0};
        if (!j->begin) {
            IA3_UNROLL
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] = IA3_VEC(from, r * IA3_FSTRIP, v);
        }
    }
}

IA3_INLINE void
end_sums(const block_job *j, ia3_vec (*sum)[VECTORS], size_t row, const int rows)
{
    const bool lines = j->columns < IA3_FSTRIP || !j->wide;
    const bool add = j->end && !lines && j->out == IA3_OUT_ADD_F32;
    float *to = j->sums + row * IA3_FSTRIP;
    size_t ld = IA3_FSTRIP;
    if (j->end && !lines) {
        to = (float *) j->y + row * j->ldy;
        ld = j->ldy;
    }
    IA3_UNROLL
    for (int r = 0; r < rows; r++) {
        IA3_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            ia3_vec *at = (ia3_vec *) (to + (size_t) r * ld + v * IA3_VEC_LANES);
            ia3_vec x = sum[r][v];
            if (add)
                x += *at;
            *at = x;
        }
    }
    if (j->end && lines)
        for (size_t r = row; r < row + (size_t) rows; r++)
            store_line(j, r, j->sums + r * IA3_FSTRIP);
}

/* Fetches the places where the results will be, which are no longer in cache. */
IA3_INLINE void
fetch_results(const block_job *j, size_t row, const int rows)
{
    const size_t size = j->wide ? sizeof(float) : sizeof(uint16_t);
    const char *y = (const char *) j->y + row * j->ldy * size;
    IA3_UNROLL
    for (int r = 0; r < rows; r++) {
        __builtin_prefetch(y + (size_t) r * j->ldy * size, 1, 3);
        if (IA3_FSTRIP > 16)
            __builtin_prefetch(y + (size_t) r * j->ldy * size + 16 * size, 1, 3);
    }
}

/*
 * Rows [row, row + rows) of a block; `rows` and `widen` are constants where this is inlined. With `widen` the block has a
 * multiple of UNROLL terms.
 */
IA3_INLINE void
tile(const block_job *j, size_t row, const char *ahead, const int rows, const bool widen)
{
    ia3_vec sum[TILE_ROWS][VECTORS];
    if (j->end)
        fetch_results(j, row, rows);
    begin_sums(j, sum, row, rows);
    const size_t lda = j->lda * sizeof(float), step = j->step;
    weights w = {j->b, j->pairs, j->widened};
    const size_t kept = j->only ? 0 : UNROLL * IA3_FSTRIP; /* one tile: nobody reads it */
    const char *a[3]; /* every fourth row; address modes reach the others from there */
    for (size_t i = 0; i < 3; i++)
        a[i] = (const char *) (j->a + (row + 4 * i) * j->lda);
    int k = j->k;
    for (; k >= UNROLL; k -= UNROLL) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += UNROLL * step;
        IA3_UNROLL
        for (size_t i = 0; i < UNROLL; i++)
            add_term(sum, a, lda, i, &w, rows, widen);
        if (widen)
            w.pairs += UNROLL / 2 * IA3_FSTRIP, w.to += kept;
        else
            w.b += UNROLL * IA3_FSTRIP;
        a[0] += UNROLL * sizeof(float), a[1] += UNROLL * sizeof(float), a[2] += UNROLL * sizeof(float);
    }
    for (; !widen && k > 0; k--) {
        add_term(sum, a, lda, 0, &w, rows, false);
        w.b += IA3_FSTRIP;
        a[0] += sizeof(float), a[1] += sizeof(float), a[2] += sizeof(float);
    }
    end_sums(j, sum, row, rows);
}

/* A function per number of rows, so that the sums stay in registers. */
#define TILE(rows)                                                                                           \
    static void tile_##rows(const block_job *j, size_t row, const char *ahead)                               \
    {                                                                                                        \
        tile(j, row, ahead, rows, false);                                                                    \
    }                                                                                                        \
    static void widening_tile_##rows(const block_job *j, size_t row, const char *ahead)                      \
    {                                                                                                        \
        tile(j, row, ahead, rows, true);                                                                     \
    }
/* clang-format off */
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if defined(__AVX512F__)
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif

#if defined(__AVX512F__)
#define TILES(t) {NULL, t##1, t##2, t##3, t##4, t##5, t##6, t##7, t##8, t##9, t##10, t##11, t##12}
#else
#define TILES(t) {NULL, t##1, t##2, t##3, t##4, t##5, t##6}
#endif
typedef void (*tile_function)(const block_job *, size_t row, const char *ahead);
static const tile_function tiles[TILE_ROWS + 1] = TILES(tile_), widening_tiles[TILE_ROWS + 1] = TILES(widening_tile_);
/* clang-format on */

/*
 * Multiplies the rows by a block. They are divided evenly among tiles: a last tile of one row would leave the
 * multipliers idle. `size` is that of the next block in bytes, 0 if there is none.
 */
static void
run_block(block_job *j, int rows, size_t size)
{
    const int groups = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const char *ahead = j->ahead;
    j->step = size / (size_t) (groups * j->k);
    j->only = groups == 1;
    for (int t = 0, row = 0; t < groups; t++) {
        int take = rows / groups + (t < rows % groups);
        (t == 0 && j->pairs ? widening_tiles : tiles)[take](j, (size_t) row, ahead);
        ahead += j->step * (size_t) j->k;
        row += take;
    }
}

/* Scratch memory of one thread. */
typedef struct fgemm_scratch {
    float *a;    /* [rows, k] widened, if act is bfloat16 */
    float *b;    /* [BLOCK_K][IA3_FSTRIP], if the weights are */
    float *sums; /* [rows][IA3_FSTRIP] */
} fgemm_scratch;

/* Places the arrays at `base` and returns their size in bytes. */
static size_t
lay_out(fgemm_scratch *s, char *base, const ia3_cpu *cpu, int k, int rows)
{
    size_t a = cpu->bf16 ? ia3_align_up((size_t) rows * (size_t) k * sizeof(float)) : 0;
    size_t b = cpu->weights_bf16 ? ia3_align_up((size_t) BLOCK_K * IA3_FSTRIP * sizeof(float)) : 0;
    size_t sums = ia3_align_up((size_t) rows * IA3_FSTRIP * sizeof(float));
    *s = (fgemm_scratch){(float *) base, (float *) (base + a), (float *) (base + a + b)};
    return a + b + sums;
}

size_t
ia3_fgemm_scratch(const ia3_cpu *cpu, int k, int rows)
{
    fgemm_scratch unused;
    static char nowhere[1];
    return lay_out(&unused, nowhere, cpu, k, rows);
}

/* Multiplies the rows by a whole strip, whose packed weights are at `strip`; `last`: there is none behind it. */
static void
run_strip(block_job *j, const float *a, const char *strip, int k, int rows, bool last)
{
    const int piece = j->wide ? MOST_K : k;
    const size_t row_size = IA3_FSTRIP * (j->widened ? sizeof(uint16_t) : sizeof(float));
    for (int done = 0; done < k; done += j->k) {
        int in_piece = piece - done % piece, left = k - done < in_piece ? k - done : in_piece;
        j->k = left < BLOCK_K ? left : BLOCK_K;
        j->begin = done % piece == 0;
        j->end = j->k == left;
        j->a = a + done;
        const void *block = strip + (size_t) done * row_size;
        j->b = j->widened ? j->widened : block;
        j->pairs = j->widened ? block : NULL;
        if (j->widened && j->k % UNROLL != 0) {
            widen_block(j->widened, block, j->k);
            j->pairs = NULL;
        }
        j->ahead = (const char *) block + (size_t) j->k * row_size;
        run_block(j, rows, last && done + j->k == k ? 0 : (size_t) j->k * row_size);
        if (j->end)
            j->out = IA3_OUT_ADD_F32;
    }
}

/* Multiplies some rows by strips [first, first + n) of a panel; y is the address of row 0 and column 0. */
static void
multiply(const ia3_cpu *cpu, const ia3_panel *panel, size_t first, size_t n, void *y, size_t ldy,
         const void *a, int rows, ia3_out out, void *scratch)
{
    const int k = panel->shape->k;
    const size_t size = strip_size(k, cpu->weights_bf16) * cpu->weight_size;
    const size_t out_size = out == IA3_OUT_ACT ? cpu->act_size : sizeof(float);
    fgemm_scratch s;
    lay_out(&s, scratch, cpu, k, rows);
    if (cpu->bf16) {
        ia3_load_act(s.a, a, 0, (size_t) rows * (size_t) k, true);
        a = s.a;
    }
    for (size_t i = first; i < first + n; i++) {
        int column = (int) i * IA3_FSTRIP, left = panel->n - column;
        block_job j = {.lda = (size_t) k,
                       .sums = s.sums,
                       .y = (char *) y + (size_t) column * out_size,
                       .ldy = ldy,
                       .columns = left < IA3_FSTRIP ? left : IA3_FSTRIP,
                       .out = out,
                       .wide = out != IA3_OUT_ACT || !cpu->bf16,
                       .widened = cpu->weights_bf16 ? s.b : NULL};
        run_strip(&j, a, (const char *) panel->data + i * size, k, rows, i + 1 == first + n);
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
    int most = CHUNK_BYTES / ((pack->k < MOST_K ? pack->k : MOST_K) * (int) sizeof(float));
    most = most < LEAST_ROWS ? LEAST_ROWS : most;
    int chunks = (rows + most - 1) / most;
    j.chunk = (rows + chunks - 1) / chunks;
    chunks = (rows + j.chunk - 1) / j.chunk;
    j.scratch_size = ia3_fgemm_scratch(cpu, pack->k, j.chunk);
    j.scratch = ia3_cpu_arena_alloc(&cpu->base, j.scratch_size * (size_t) cpu->threads);
    size_t work = (size_t) j.chunk * (size_t) pack->k * IA3_FSTRIP;
    ia3_parallel(cpu->pool, (size_t) chunks * strips_of(pack->n), 1 + PART_WORK / (work + 1), fgemm_work, &j);
    ia3_cpu_arena_release(&cpu->base, mark);
}
