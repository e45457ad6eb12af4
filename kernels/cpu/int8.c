/*
 * int8.c
 *     Matrix products with weights in eight bits: packs the weights and divides a product among the threads.
 */
#include "int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "act.h"
#include "engine/base/alloc.h"
#include "int8_body.h"
#include "matrix.h"
#include "pack.h"

/* Rows per item of work: they and their results stay in the second-level cache while the panels are read. */
enum { CHUNK_ROWS = 96 };

/* --- weights --- */

/* Rows that are converted together; of a matrix that is stored column by column, single ones would be read slowly. */
enum { ROWS_AT_ONCE = 8 };

typedef struct pack_job {
    ia3_cpu *cpu;
    ia3_int8_weight *w;
    const ia3_host_tensor *parts;
    char *scratch; /* per thread: a panel's rows in eight bits, some rows as they are, and one rotated */
    size_t scratch_size;
} pack_job;

static size_t
padded_k(const ia3_int8_weight *w)
{
    return (size_t) w->groups * IA3_INT8_GROUP;
}

/*
 * The bits of the largest |x[2i] + x[2i + 1]|, or `largest` if that is larger. The sum of two values of different signs
 * is never larger than both of them.
 */
static uint32_t
largest_pair(const float *restrict x, int k, uint32_t largest)
{
    for (int i = 0; i < k / 2; i++) {
        uint32_t bits = ia3_float_bits(x[2 * i] + x[2 * i + 1]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* Quantises the weights of output `row` to q [padded_k]; `rotated` is scratch memory. */
static void
quantize_output(const ia3_int8_weight *w, int8_t *q, int64_t row, const float *x, float *rotated)
{
    uint32_t bits = largest_pair(rotated, w->k, ia3_int8_rotate_act(rotated, x, w->k, false));
    float largest = ia3_bits_float(bits);
    bool finite = bits <= 0x7f7fffffu;
    int32_t sum = 0;
    w->scale[row] = finite ? largest / (127.0f * (float) ia3_int8_block(w->k)) : NAN;
    memset(q, 0, padded_k(w));
    if (finite && largest >= 0x1p-100f)
        ia3_int8_round_row((uint8_t *) q, 0, rotated, 127.0f / largest, w->k);
    for (int i = 0; i < w->k; i++)
        sum += q[i];
    w->start[row] = -128 * sum;
}

static size_t
panel_bytes(const ia3_int8_weight *w)
{
    return padded_k(w) * IA3_INT8_COLUMNS;
}

static void
pack_work(void *arg, int slot, size_t begin, size_t end)
{
    const pack_job *j = arg;
    const ia3_int8_weight *w = j->w;
    int8_t *q = (int8_t *) j->scratch + (size_t) slot * j->scratch_size;
    float *x = (float *) (void *) (q + panel_bytes(w)), *rotated = x + (size_t) w->k * ROWS_AT_ONCE;
    for (size_t panel = begin; panel < end; panel++) {
        int64_t row = (int64_t) panel * IA3_INT8_COLUMNS;
        memset(q, 0, panel_bytes(w)); /* for the columns that there are not */
        memset(w->scale + row, 0, IA3_INT8_COLUMNS * sizeof *w->scale);
        memset(w->start + row, 0, IA3_INT8_COLUMNS * sizeof *w->start);
        for (int column = 0; column < IA3_INT8_COLUMNS && row < w->n; column++, row++) {
            int64_t left = w->n - row;
            if (column % ROWS_AT_ONCE == 0)
                ia3_convert_rows(x, j->parts, row, left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE, false);
            quantize_output(w, q + (size_t) column * padded_k(w), row,
                            x + (size_t) (column % ROWS_AT_ONCE) * (size_t) w->k, rotated);
        }
        ia3_pack_units((uint32_t *) (void *) (w->data + panel * panel_bytes(w)), IA3_INT8_COLUMNS,
                       (const uint32_t *) (const void *) q, (size_t) w->groups, (size_t) w->groups);
    }
}

ia3_int8_weight *
ia3_int8_weight_create(ia3_cpu *cpu, const ia3_host_tensor *parts, int n_parts, ia3_error *err)
{
    int64_t n = 0, k = parts[0].cols;
    for (int i = 0; i < n_parts; i++)
        n += parts[i].rows;
    if (k <= 0 || n <= 0 || k > IA3_INT8_MAX_K || n > INT32_MAX - IA3_INT8_COLUMNS) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "weight matrix of %lld by %lld is not supported", (long long) n,
                 (long long) k);
        return NULL;
    }
    ia3_int8_weight *w = ia3_alloc(sizeof *w);
    w->k = (int) k;
    w->n = (int) n;
    w->groups = (w->k + IA3_INT8_GROUP - 1) / IA3_INT8_GROUP;
    w->n_panels = (w->n + IA3_INT8_COLUMNS - 1) / IA3_INT8_COLUMNS;
    size_t data = panel_bytes(w) * (size_t) w->n_panels;
    size_t columns = (size_t) w->n_panels * IA3_INT8_COLUMNS;
    w->bytes = data + columns * (sizeof *w->scale + sizeof *w->start);
    w->data = ia3_cpu_alloc(&cpu->base, data);
    w->scale = ia3_cpu_alloc(&cpu->base, columns * sizeof *w->scale);
    w->start = ia3_cpu_alloc(&cpu->base, columns * sizeof *w->start);
    size_t scratch_size = ia3_align_up(panel_bytes(w) + (ROWS_AT_ONCE + 1) * (size_t) k * sizeof(float));
    char *scratch = ia3_cpu_alloc(&cpu->base, (size_t) cpu->threads * scratch_size);
    bool ok = w->data && w->scale && w->start && scratch;
    if (ok) {
        pack_job j = {.cpu = cpu, .w = w, .parts = parts, .scratch = scratch, .scratch_size = scratch_size};
        ia3_parallel(cpu->pool, (size_t) w->n_panels, 1, pack_work, &j);
    } else {
        ia3_fail(err, IA3_E_MEMORY, "out of memory for the backbone's weights: could not allocate %zu bytes",
                 w->bytes);
    }
    ia3_cpu_free(&cpu->base, scratch);
    if (!ok) {
        ia3_int8_weight_free(cpu, w);
        return NULL;
    }
    return w;
}

void
ia3_int8_weight_free(ia3_cpu *cpu, ia3_int8_weight *w)
{
    if (!w)
        return;
    ia3_cpu_free(&cpu->base, w->data);
    ia3_cpu_free(&cpu->base, w->scale);
    ia3_cpu_free(&cpu->base, w->start);
    free(w);
}

/* --- products --- */

typedef struct quantize_job {
    const ia3_cpu *cpu;
    const ia3_int8_weight *w;
    const char *a;
    const ia3_int8_norm *norm; /* if not NULL, a is fp32 */
    float *scratch;            /* [threads][2][k] */
    ia3_int8_rows to;
} quantize_job;

static void
quantize_work(void *arg, int slot, size_t begin, size_t end)
{
    const quantize_job *j = arg;
    const size_t k = (size_t) j->w->k, padded = (size_t) j->w->groups * IA3_INT8_GROUP;
    float *scratch = j->scratch + (size_t) slot * 2 * k, *normed = scratch + k;
    for (size_t r = begin; r < end; r++) {
        const void *a = j->a + r * k * j->cpu->act_size;
        if (j->norm) {
            ia3_norm_row(normed, (const float *) (const void *) j->a + r * k, j->norm->w, k, j->norm->eps,
                         j->cpu->bf16);
            a = normed;
        }
        j->cpu->int8->quantize(j->to.q + r * padded, &j->to.scale[r], a, (int) k, (int) padded, j->cpu->bf16,
                               scratch);
    }
}

ia3_int8_rows
ia3_int8_quantize(ia3_cpu *cpu, const ia3_int8_weight *w, const void *a, int rows, const ia3_int8_norm *norm)
{
    quantize_job j = {.cpu = cpu, .w = w, .a = a, .norm = norm};
    j.scratch = ia3_cpu_arena_alloc(&cpu->base, (size_t) cpu->threads * 2 * (size_t) w->k * sizeof(float));
    j.to.q = ia3_cpu_arena_alloc(&cpu->base, (size_t) rows * padded_k(w));
    j.to.scale = ia3_cpu_arena_alloc(&cpu->base, (size_t) rows * sizeof(float));
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain((size_t) w->k), quantize_work, &j);
    return j.to;
}

void
ia3_int8_panels(const ia3_cpu *cpu, const ia3_int8_weight *w, int first, int panels, int next,
                const ia3_int8_rows *a, int row, int rows, void *y, size_t ldy, ia3_out out)
{
    size_t size = out == IA3_OUT_ACT ? cpu->act_size : sizeof(float);
    ia3_int8_product p = {.groups = w->groups,
                          .q = a->q + (size_t) row * padded_k(w),
                          .scale = a->scale + row,
                          .rows = rows,
                          .ldy = ldy,
                          .out = out,
                          .bf16 = cpu->bf16};
    for (int i = 0; i < panels; i++) {
        int column = (first + i) * IA3_INT8_COLUMNS;
        p.w = w->data + (size_t) (first + i) * panel_bytes(w);
        p.next = i + 1 < panels ? p.w + panel_bytes(w) : w->data + (size_t) next * panel_bytes(w);
        p.w_scale = w->scale + column;
        p.start = w->start + column;
        p.n = w->n - column < IA3_INT8_COLUMNS ? w->n - column : IA3_INT8_COLUMNS;
        p.y = (char *) y + (size_t) i * IA3_INT8_COLUMNS * size;
        cpu->int8->product(&p);
    }
}

typedef struct product_job {
    const ia3_cpu *cpu;
    const ia3_int8_weight *w;
    ia3_int8_rows a;
    char *y;
    int rows, chunk;
    ia3_out out;
} product_job;

/* Items are (chunk of rows, panel), chunk by chunk. */
static void
product_work(void *arg, int slot, size_t begin, size_t end)
{
    const product_job *j = arg;
    size_t size = j->out == IA3_OUT_ACT ? j->cpu->act_size : sizeof(float);
    for (size_t i = begin; i < end; i++) {
        int panel = (int) (i % (size_t) j->w->n_panels), row = (int) (i / (size_t) j->w->n_panels) * j->chunk;
        int rows = j->rows - row < j->chunk ? j->rows - row : j->chunk;
        size_t at = (size_t) row * (size_t) j->w->n + (size_t) panel * IA3_INT8_COLUMNS;
        ia3_int8_panels(j->cpu, j->w, panel, 1, (panel + 1) % j->w->n_panels, &j->a, row, rows,
                        j->y + at * size, (size_t) j->w->n, j->out);
    }
}

/* Divides the rows into chunks of similar size, of whole tiles of any form; returns their number. */
static size_t
chunk_rows(product_job *j)
{
    enum { TILE_ROWS = 12 };
    const int chunks = (j->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    const int tiles = (j->rows + chunks * TILE_ROWS - 1) / (chunks * TILE_ROWS);
    j->chunk = tiles * TILE_ROWS;
    return ((size_t) j->rows + (size_t) j->chunk - 1) / (size_t) j->chunk;
}

static void
run_product(product_job *j)
{
    const size_t chunks = chunk_rows(j);
    /* a part needs about a million multiply-adds to be worth waking a thread for */
    size_t work = (size_t) j->chunk * (size_t) j->w->k * IA3_INT8_COLUMNS;
    ia3_parallel(j->cpu->pool, chunks * (size_t) j->w->n_panels, 1 + 1000000 / (work + 1), product_work, j);
}

void
ia3_int8_matmul(ia3_cpu *cpu, const ia3_int8_weight *w, void *y, const void *a, int rows, ia3_out out)
{
    if (rows <= 0)
        return;
    size_t mark = ia3_cpu_arena_mark(&cpu->base);
    product_job j = {.cpu = cpu, .w = w, .y = y, .rows = rows, .out = out};
    j.a = ia3_int8_quantize(cpu, w, a, rows, NULL);
    run_product(&j);
    ia3_cpu_arena_release(&cpu->base, mark);
}

/* --- products with a norm before and an activation after them --- */

/* Panels whose columns are activated together. */
enum { GATED_PANELS = 2, GATED_COLUMNS = GATED_PANELS * IA3_INT8_COLUMNS };

typedef struct gated_job {
    product_job product; /* y is act [rows, d_ff] */
    const ia3_gated *p;
    char *scratch; /* [threads][CHUNK_ROWS, 2·GATED_COLUMNS] */
    size_t scratch_size;
} gated_job;

/* Items are (chunk of rows, GATED_PANELS panels of wi_0 with those of wi_1), chunk by chunk. */
static void
gated_work(void *arg, int slot, size_t begin, size_t end)
{
    const gated_job *j = arg;
    const product_job *p = &j->product;
    const size_t size = p->cpu->act_size, d_ff = (size_t) j->p->d_ff, groups = d_ff / GATED_COLUMNS;
    const int second = j->p->d_ff / IA3_INT8_COLUMNS, ldg = 2 * GATED_COLUMNS;
    char *g0 = j->scratch + (size_t) slot * j->scratch_size, *g1 = g0 + GATED_COLUMNS * size;
    for (size_t i = begin; i < end; i++) {
        const int panel = (int) (i % groups) * GATED_PANELS, row = (int) (i / groups) * p->chunk;
        const int rows = p->rows - row < p->chunk ? p->rows - row : p->chunk;
        const int after = (panel + GATED_PANELS) % second, then = j->p->gated ? second + panel : after;
        ia3_int8_panels(p->cpu, p->w, panel, GATED_PANELS, then, &p->a, row, rows, g0, (size_t) ldg,
                        IA3_OUT_ACT);
        if (j->p->gated)
            ia3_int8_panels(p->cpu, p->w, second + panel, GATED_PANELS, after, &p->a, row, rows, g1,
                            (size_t) ldg, IA3_OUT_ACT);
        const size_t at = (size_t) panel * IA3_INT8_COLUMNS;
        ia3_gated_block b = {.p = j->p,
                             .h = p->y + ((size_t) row * d_ff + at) * size,
                             .g0 = g0,
                             .g1 = g1,
                             .ldh = d_ff,
                             .ldg = (size_t) ldg,
                             .row = row,
                             .rows = (size_t) rows,
                             .at = at,
                             .n = GATED_COLUMNS};
        ia3_gated_rows(&b, p->cpu->bf16);
    }
}

bool
ia3_int8_gates(const ia3_int8_weight *w, const ia3_gated *gated)
{
    return gated->d_ff % GATED_COLUMNS == 0 && w->n == (gated->gated ? 2 : 1) * gated->d_ff &&
           (gated->dropout.p <= 0 || !gated->dropout.row_key);
}

void
ia3_int8_norm_matmul(ia3_cpu *cpu, const ia3_int8_weight *w, void *y, const float *x,
                     const ia3_int8_norm *norm, int rows, const ia3_gated *gated)
{
    if (rows <= 0)
        return;
    size_t mark = ia3_cpu_arena_mark(&cpu->base);
    gated_job j = {.product = {.cpu = cpu, .w = w, .y = y, .rows = rows, .out = IA3_OUT_ACT}, .p = gated};
    j.product.a = ia3_int8_quantize(cpu, w, x, rows, norm);
    if (!gated) {
        run_product(&j.product);
    } else {
        j.scratch_size = CHUNK_ROWS * 2 * GATED_COLUMNS * cpu->act_size;
        j.scratch = ia3_cpu_arena_alloc(&cpu->base, (size_t) cpu->threads * j.scratch_size);
        ia3_parallel(cpu->pool, chunk_rows(&j.product) * (size_t) gated->d_ff / GATED_COLUMNS, 1, gated_work,
                     &j);
    }
    ia3_cpu_arena_release(&cpu->base, mark);
}
