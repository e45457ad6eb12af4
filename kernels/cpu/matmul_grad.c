/*
 * matmul_grad.c
 *     The gradient of a weight: dW += dyᵀ·a, a sum over rows.
 *
 * Both operands are packed anew each time, since they are activations: columns of dy in groups, columns of `a` in strips. A group
 * times a strip is a part of dW. For bfloat16 that the processor multiplies, the numbers of two successive rows are side by side;
 * everything else becomes fp32.
 */
#include "bgemm.h"
#include "matrix.h"
#include "pack.h"
#include "tile.h"

enum { GROUP = 48 };
enum { FP32_STRIP = IA3_TILE_VECS * IA3_VEC_LANES, FP32_ROWS = 512 /* per pass over a part of dW */ };
enum { BF16_ROWS = 1024 }; /* likewise */
enum { PACKED_ROWS = 32 }; /* that are packed at a time; even */
/* Number of multiply-adds that makes a part worth waking a thread for. */
enum { PART_WORK = 500000 };

/* The packed columns of an operand. */
typedef struct packed {
    const void *from; /* act [rows, columns] */
    char *to;
    size_t columns, width; /* width: that of a piece (a group or a strip) */
    size_t n, size;        /* number of pieces; bytes of each */
} packed;

typedef struct grad_job {
    packed dy, a;
    float *dw;
    size_t rows;
    bool bf16;  /* of act */
    bool pairs; /* the packed numbers are bfloat16 */
} grad_job;

static void
pack_rows(const grad_job *j, const packed *p, size_t first, size_t rows)
{
    const size_t per_row = p->width * (j->pairs ? sizeof(uint16_t) : sizeof(float));
    for (size_t i = 0; i < p->n; i++) {
        const size_t at = i * p->width, left = p->columns - at;
        ia3_pack_columns((uint32_t *) (void *) (p->to + i * p->size + first * per_row), p->width, j->pairs,
                         p->from, j->bf16, p->columns, first, at, rows, left < p->width ? left : p->width);
    }
}

/* Items are blocks of rows. */
static void
pack_work(void *arg, int slot, size_t begin, size_t end)
{
    const grad_job *j = arg;
    for (size_t r = begin * PACKED_ROWS; r < end * PACKED_ROWS && r < j->rows; r += PACKED_ROWS) {
        const size_t rows = j->rows - r < PACKED_ROWS ? j->rows - r : PACKED_ROWS;
        pack_rows(j, &j->dy, r, rows);
        pack_rows(j, &j->a, r, rows);
    }
}

static packed
packed_of(ia3_cpu *cpu, const void *from, size_t rows, size_t columns, size_t width, bool pairs)
{
    packed p = {.from = from, .columns = columns, .width = width};
    p.n = (columns + width - 1) / width;
    p.size = width * (pairs ? (rows + rows % 2) * sizeof(uint16_t) : rows * sizeof(float));
    p.to = ia3_cpu_arena_alloc(&cpu->base, p.n * p.size);
    return p;
}

/* Packs both operands, and computes dW with `work`, whose items are (group, strip), group by group. */
static void
run(ia3_cpu *cpu, grad_job *j, size_t strip, ia3_work_fn work)
{
    j->dy = packed_of(cpu, j->dy.from, j->rows, j->dy.columns, GROUP, j->pairs);
    j->a = packed_of(cpu, j->a.from, j->rows, j->a.columns, strip, j->pairs);
    ia3_parallel(cpu->pool, (j->rows + PACKED_ROWS - 1) / PACKED_ROWS,
                 ia3_grain(PACKED_ROWS * (j->dy.columns + j->a.columns)), pack_work, j);
    ia3_parallel(cpu->pool, j->dy.n * j->a.n, 1 + PART_WORK / (j->rows * GROUP * strip), work, j);
}

/* --- fp32 --- */

/* c [rows, vecs vectors] += `n` rows of a group times those of a strip. */
static void
add_tiles(float *c, size_t ldc, const float *dy, const float *a, size_t n, size_t rows, size_t vecs)
{
    const ia3_tile t = {.c = c,
                        .ldc = ldc,
                        .a = {dy, 1, GROUP},
                        .b = a,
                        .ldb = FP32_STRIP,
                        .rows = rows,
                        .k = n,
                        .out = IA3_TILE_ADD};
    ia3_tile_run(&t, vecs);
}

/* The same for a part of dW at the edge, whose size is not that of whole tiles. */
static void
add_edge(float *c, size_t ldc, const float *dy, const float *a, size_t n, size_t rows, size_t columns)
{
    float part[GROUP * FP32_STRIP] = {0};
    const size_t whole = (rows + IA3_TILE_ROWS - 1) / IA3_TILE_ROWS * IA3_TILE_ROWS;
    add_tiles(part, FP32_STRIP, dy, a, n, whole, (columns + IA3_VEC_LANES - 1) / IA3_VEC_LANES);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < columns; i++)
            c[r * ldc + i] += part[r * FP32_STRIP + i];
}

/* Fetches a part of dW, which is no longer in cache. */
static void
fetch(const float *c, size_t ldc, size_t rows)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < FP32_STRIP; i += 16)
            __builtin_prefetch(c + r * ldc + i, 0, 2);
}

/* Adds the products of a group and strips [first, last), some rows at a time, so that those of the group stay in cache. */
static void
multiply_group(const grad_job *j, size_t group, size_t first, size_t last)
{
    const size_t rows_left = j->dy.columns - group * GROUP, rows = rows_left < GROUP ? rows_left : GROUP;
    const size_t ldc = j->a.columns;
    for (size_t r = 0; r < j->rows; r += FP32_ROWS) {
        const size_t n = j->rows - r < FP32_ROWS ? j->rows - r : FP32_ROWS;
        const float *dy = (const float *) (const void *) (j->dy.to + group * j->dy.size) + r * GROUP;
        for (size_t strip = first; strip < last; strip++) {
            const float *a = (const float *) (const void *) (j->a.to + strip * j->a.size) + r * FP32_STRIP;
            const size_t left = ldc - strip * FP32_STRIP, columns = left < FP32_STRIP ? left : FP32_STRIP;
            float *c = j->dw + group * GROUP * ldc + strip * FP32_STRIP;
            if (strip + 1 < last)
                fetch(c + FP32_STRIP, ldc, rows);
            if (rows % IA3_TILE_ROWS == 0 && columns % IA3_VEC_LANES == 0)
                add_tiles(c, ldc, dy, a, n, rows, columns / IA3_VEC_LANES);
            else
                add_edge(c, ldc, dy, a, n, rows, columns);
        }
    }
}

static void
fp32_work(void *arg, int slot, size_t begin, size_t end)
{
    const grad_job *j = arg;
    while (begin < end) {
        const size_t group = begin / j->a.n, strip = begin % j->a.n;
        const size_t n = end - begin < j->a.n - strip ? end - begin : j->a.n - strip;
        multiply_group(j, group, strip, strip + n);
        begin += n;
    }
}

/* --- bfloat16 --- */

#if defined(__AVX512BF16__)

static void
bf16_work(void *arg, int slot, size_t begin, size_t end)
{
    const grad_job *j = arg;
    const size_t depth = j->rows + j->rows % 2;
    while (begin < end) {
        const size_t group = begin / j->a.n, strip = begin % j->a.n, left = j->dy.columns - group * GROUP;
        const size_t n = end - begin < j->a.n - strip ? end - begin : j->a.n - strip;
        ia3_bgemm g = {.lda = 2,
                       .step = 2 * GROUP,
                       .y = j->dw + group * GROUP * j->a.columns,
                       .ldy = j->a.columns,
                       .rows = (int) (left < GROUP ? left : GROUP),
                       .depth = (int) depth,
                       .n = (int) j->a.columns,
                       .first = (int) strip,
                       .strips = (int) n,
                       .out = IA3_OUT_ADD_F32};
        for (size_t r = 0; r < depth; r += BF16_ROWS) {
            g.k = (int) (depth - r < BF16_ROWS ? depth - r : BF16_ROWS);
            g.a = (const uint16_t *) (void *) (j->dy.to + group * j->dy.size) + r * GROUP;
            g.packed = (const uint16_t *) (void *) j->a.to + r * IA3_STRIP;
            ia3_bgemm_run(&g);
        }
        begin += n;
    }
}

#endif

void
ia3_cpu_matmul_grad(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out, int in)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    const size_t mark = ia3_cpu_arena_mark(dev);
    grad_job j = {.dy = {.from = dy, .columns = (size_t) out},
                  .a = {.from = a, .columns = (size_t) in},
                  .dw = dw,
                  .rows = (size_t) rows,
                  .bf16 = cpu->bf16};
#if defined(__AVX512BF16__)
    j.pairs = cpu->bf16;
    if (j.pairs)
        run(cpu, &j, IA3_STRIP, bf16_work);
    else
#endif
        run(cpu, &j, FP32_STRIP, fp32_work);
    ia3_cpu_arena_release(dev, mark);
}
