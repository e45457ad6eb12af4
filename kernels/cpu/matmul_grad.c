/*
 * matmul_grad.c
 *     The gradient of a weight: dW += dyᵀ·a, a sum over rows.
 *
 * Both operands are packed anew each time, since they are activations; that takes little beside the product, except for few rows.
 * For bfloat16 that the processor multiplies they become pairs of successive rows, for everything else fp32: `a` is packed like
 * weights, and dy is transposed.
 */
#include "bgemm.h"
#include "fgemm.h"
#include "pack.h"

enum { COLUMNS = 64 }; /* of dy that are transposed at a time */
enum { GROUP = 48 };   /* of dy: rows of the result that are packed together, four tiles of bgemm_x86.c */
enum {
    MOST_ROWS = 1024
}; /* longer sums are computed in pieces, whose packed columns fit in the first caches */
enum { PART_WORK = 500000 };

typedef struct grad_job {
    const void *dy, *a;
    float *dw;
    size_t rows, out, in;
    size_t ld; /* of the transposed dy */
    bool bf16;
    float *transposed;     /* [out, ld] */
    char *groups, *strips; /* packed columns of dy and of a */
    size_t group, strip;   /* their sizes in bytes */
    bool pairs;            /* the units of strips and groups */
    size_t strip_width;
} grad_job;

/* Items are strips of a. */
static void
strips_work(void *arg, int slot, size_t begin, size_t end)
{
    const grad_job *j = arg;
    for (size_t i = begin; i < end; i++) {
        const size_t at = i * j->strip_width, left = j->in - at;
        ia3_pack_columns_strip((uint32_t *) (void *) (j->strips + i * j->strip), j->strip_width, j->pairs,
                               j->a, j->bf16, j->in, at, j->rows,
                               left < j->strip_width ? left : j->strip_width);
    }
}

/* --- fp32 --- */

/* Transposes columns [at, at + n) of IA3_VEC_LANES rows of dy from row r on, or of as many as there are. */
static void
transpose_some(const grad_job *j, size_t r, size_t at, size_t n)
{
    float buffer[IA3_VEC_LANES][COLUMNS];
    const size_t rows = j->rows - r < IA3_VEC_LANES ? j->rows - r : IA3_VEC_LANES;
    for (size_t i = 0; i < rows; i++)
        ia3_load_act(buffer[i], j->dy, (r + i) * j->out + at, n, j->bf16);
    float *to = j->transposed + at * j->ld + r;
    size_t c = 0;
    for (; rows == IA3_VEC_LANES && c + IA3_VEC_LANES <= n; c += IA3_VEC_LANES)
        ia3_transpose((uint32_t *) (void *) (to + c * j->ld), j->ld, (uint32_t *) (void *) &buffer[0][c],
                      COLUMNS);
    for (; c < n; c++)
        for (size_t i = 0; i < rows; i++)
            to[c * j->ld + i] = buffer[i][c];
}

/* Items are blocks of columns of dy. */
static void
transpose_work(void *arg, int slot, size_t begin, size_t end)
{
    const grad_job *j = arg;
    for (size_t at = begin * COLUMNS; at < end * COLUMNS && at < j->out; at += COLUMNS)
        for (size_t r = 0; r < j->rows; r += IA3_VEC_LANES)
            transpose_some(j, r, at, j->out - at < COLUMNS ? j->out - at : COLUMNS);
}

static void
fp32_grad(ia3_cpu *cpu, grad_job *j)
{
    ia3_device *dev = &cpu->base;
    j->strip_width = IA3_FSTRIP;
    j->strip = ia3_fgemm_strip_bytes((int) j->rows, IA3_FSTRIP, false);
    j->strips = ia3_cpu_arena_alloc(dev, ia3_fgemm_bytes((int) j->rows, (int) j->in, false));
    j->ld = (j->rows + 15) / 16 * 16 + 16; /* rows a power of two apart would share sets of the cache */
    j->transposed = ia3_cpu_arena_alloc(dev, j->out * j->ld * sizeof(float));
    ia3_parallel(cpu->pool, (j->in + IA3_FSTRIP - 1) / IA3_FSTRIP, ia3_grain(IA3_FSTRIP * j->rows),
                 strips_work, j);
    ia3_parallel(cpu->pool, (j->out + COLUMNS - 1) / COLUMNS, ia3_grain(COLUMNS * j->rows), transpose_work,
                 j);
    ia3_fgemm_add(cpu, j->dw, j->transposed, j->ld, (int) j->out, (const float *) (void *) j->strips,
                  (int) j->rows, (int) j->in);
}

/* --- bfloat16 --- */

#if defined(__AVX512BF16__)

/* Items are groups of columns of dy. */
static void
groups_work(void *arg, int slot, size_t begin, size_t end)
{
    const grad_job *j = arg;
    for (size_t i = begin; i < end; i++) {
        const size_t at = i * GROUP, left = j->out - at;
        ia3_pack_columns_strip((uint32_t *) (void *) (j->groups + i * j->group), GROUP, true, j->dy, true,
                               j->out, at, j->rows, left < GROUP ? left : GROUP);
    }
}

/* Items are (group, strip), group by group. */
static void
bf16_work(void *arg, int slot, size_t begin, size_t end)
{
    const grad_job *j = arg;
    const size_t strips = (j->in + IA3_STRIP - 1) / IA3_STRIP, depth = j->rows + j->rows % 2;
    while (begin < end) {
        const size_t group = begin / strips, strip = begin % strips, left = j->out - group * GROUP;
        const size_t n = end - begin < strips - strip ? end - begin : strips - strip;
        ia3_bgemm g = {.lda = 2,
                       .step = 2 * GROUP,
                       .y = j->dw + group * GROUP * j->in,
                       .ldy = j->in,
                       .rows = (int) (left < GROUP ? left : GROUP),
                       .depth = (int) depth,
                       .n = (int) j->in,
                       .first = (int) strip,
                       .strips = (int) n,
                       .out = IA3_OUT_ADD_F32};
        for (size_t r = 0; r < depth; r += MOST_ROWS) {
            g.k = (int) (depth - r < MOST_ROWS ? depth - r : MOST_ROWS);
            g.a = (const uint16_t *) (void *) (j->groups + group * j->group) + r * GROUP;
            g.packed = (const uint16_t *) (void *) j->strips + r * IA3_STRIP;
            ia3_bgemm_run(&g);
        }
        begin += n;
    }
}

static void
bf16_grad(ia3_cpu *cpu, grad_job *j)
{
    ia3_device *dev = &cpu->base;
    const size_t depth = j->rows + j->rows % 2, strips = (j->in + IA3_STRIP - 1) / IA3_STRIP;
    const size_t groups = (j->out + GROUP - 1) / GROUP;
    j->pairs = true;
    j->strip_width = IA3_STRIP;
    j->strip = depth * IA3_STRIP * sizeof(uint16_t);
    j->group = depth * GROUP * sizeof(uint16_t);
    j->strips = ia3_cpu_arena_alloc(dev, strips * j->strip);
    j->groups = ia3_cpu_arena_alloc(dev, groups * j->group);
    ia3_parallel(cpu->pool, strips, ia3_grain(IA3_STRIP * depth), strips_work, j);
    ia3_parallel(cpu->pool, groups, ia3_grain(GROUP * depth), groups_work, j);
    ia3_parallel(cpu->pool, groups * strips, 1 + PART_WORK / (depth * GROUP * IA3_STRIP), bf16_work, j);
}

#endif

void
ia3_cpu_matmul_grad(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out, int in)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    const size_t mark = ia3_cpu_arena_mark(dev);
    grad_job j = {.dy = dy,
                  .a = a,
                  .dw = dw,
                  .rows = (size_t) rows,
                  .out = (size_t) out,
                  .in = (size_t) in,
                  .bf16 = cpu->bf16};
#if defined(__AVX512BF16__)
    if (cpu->bf16)
        bf16_grad(cpu, &j);
    else
#endif
        fp32_grad(cpu, &j);
    ia3_cpu_arena_release(dev, mark);
}
