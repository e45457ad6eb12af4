/*
 * weights.c
 *     Converts the backbone's frozen weights to the dtype they are stored in and packs them, for both passes.
 *
 * While loading, each thread converts a few rows at a time from the mapped file and packs them. Only oneDNN needs a whole
 * plain panel per thread.
 */
#include <stdlib.h>
#include <string.h>

#include "act.h"
#include "engine/base/alloc.h"
#include "bgemm.h"
#include "fgemm.h"
#include "matrix.h"
#include "pack.h"

/* Tensors in a mapped file may have any alignment. */
typedef uint16_t u16_unaligned __attribute__((aligned(1), may_alias));
typedef float float_unaligned __attribute__((aligned(1), may_alias));
typedef double double_unaligned __attribute__((aligned(1), may_alias));

/* Converts elements [at, at + n) of a host tensor to bfloat16 or fp32 in dst. */
static void
convert(void *dst, const ia3_host_tensor *t, size_t at, size_t n, bool bf16)
{
    const u16_unaligned *half = (const u16_unaligned *) t->data + at;
    const float_unaligned *full = (const float_unaligned *) t->data + at;
    if (t->dtype == IA3_BF16 && bf16) {
        memcpy(dst, half, n * sizeof *half);
    } else if (t->dtype == IA3_F32 && !bf16) {
        memcpy(dst, full, n * sizeof *full);
    } else if (t->dtype == IA3_F32) {
        for (size_t i = 0; i < n; i++)
            ((uint16_t *) dst)[i] = ia3_f32_to_bf16(full[i]);
    } else if (t->dtype == IA3_BF16) {
        for (size_t i = 0; i < n; i++)
            ((float *) dst)[i] = ia3_bf16_to_f32(half[i]);
    } else if (t->dtype == IA3_F64) {
        const double_unaligned *wide = (const double_unaligned *) t->data + at;
        for (size_t i = 0; i < n; i++)
            if (bf16)
                ((uint16_t *) dst)[i] = ia3_f32_to_bf16((float) wide[i]);
            else
                ((float *) dst)[i] = (float) wide[i];
    } else {
        for (size_t i = 0; i < n; i++) {
            float v = ia3_f16_to_f32(half[i]);
            if (bf16)
                ((uint16_t *) dst)[i] = ia3_f32_to_bf16(v);
            else
                ((float *) dst)[i] = v;
        }
    }
}

static bool
no_memory(ia3_error *err, size_t bytes)
{
    return ia3_fail(err, IA3_E_MEMORY,
                    "out of memory for the backbone's weights: could not allocate %zu bytes", bytes);
}

/* Divides a [k, n] pack into panels, which have no data yet. */
static bool
pack_layout(ia3_cpu *cpu, ia3_pack *pack, int64_t k, int64_t n, ia3_error *err)
{
    if (k <= 0 || n <= 0 || k > INT32_MAX || n > INT32_MAX)
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT, "weight matrix of %lld by %lld is not supported",
                        (long long) n, (long long) k);
    int width = n <= IA3_ONE_PANEL ? (int) n : IA3_PANEL;
    pack->k = (int) k;
    pack->n = (int) n;
    pack->n_panels = (int) ((n + width - 1) / width);
    pack->panels = ia3_alloc_array((size_t) pack->n_panels, sizeof *pack->panels);
    for (int i = 0; i < pack->n_panels; i++) {
        ia3_panel *p = &pack->panels[i];
        p->n0 = i * width;
        p->n = (int) n - p->n0 < width ? (int) n - p->n0 : width;
        p->shape = cpu->int8 ? NULL : ia3_shape_get(cpu, (int) k, p->n);
    }
    return true;
}

static void
pack_free(ia3_cpu *cpu, ia3_pack *pack)
{
    for (int i = 0; pack->panels && i < pack->n_panels; i++)
        ia3_panel_free(cpu, &pack->panels[i]);
    free(pack->panels);
    *pack = (ia3_pack){0};
}

typedef struct pack_job {
    ia3_cpu *cpu;
    ia3_pack *pack;
    const ia3_host_tensor *parts; /* the source is either these host tensors */
    void *plain;                  /* or this plain array [out, in] in the dtype for weights */
    char *scratch;                /* one panel per thread */
    size_t scratch_size;
    atomic_bool failed;
} pack_job;

/* Units of 32 bits of a row that are converted before they are packed: those of a strip fit in the first-level cache. */
enum { BLOCK_UNITS = 256, MOST_WIDTH = 32 };

/* Converts at most MOST_WIDTH rows of a matrix that is stored column by column. */
static __attribute__((noinline)) void
convert_transposed(char *dst, size_t ld, const ia3_host_tensor *t, int64_t row, int64_t n, int64_t at,
                   int64_t len, bool bf16)
{
    char tile[MOST_WIDTH * BLOCK_UNITS * 8];
    for (int64_t done = 0; done < len; done += BLOCK_UNITS) {
        int64_t some = len - done < BLOCK_UNITS ? len - done : BLOCK_UNITS;
        const ia3_host_tensor plain = {tile, t->dtype, n, some, false};
        ia3_tensor_tile(t, row, n, at + done, some, tile);
        for (int64_t r = 0; r < n; r++)
            convert(dst + (size_t) r * ld + (size_t) done * (bf16 ? 2 : 4), &plain, (size_t) (r * some),
                    (size_t) some, bf16);
    }
}

/*
 * Converts elements [at, at + len) of rows [first, first + n) of the stacked parts; rows of the result are ld bytes apart.
 */
static void
convert_block(void *dst, size_t ld, const ia3_host_tensor *parts, int64_t first, int64_t n, int64_t at,
              int64_t len, bool bf16)
{
    char *to = dst;
    for (; first >= parts->rows; parts++)
        first -= parts->rows;
    for (const ia3_host_tensor *t = parts; n > 0; t++, first = 0) {
        int64_t take = t->rows - first < n ? t->rows - first : n;
        for (int64_t done = 0, some; done < take; done += some, to += (size_t) some * ld) {
            some = t->transposed ? (take - done < MOST_WIDTH ? take - done : MOST_WIDTH) : 1;
            if (t->transposed)
                convert_transposed(to, ld, t, first + done, some, at, len, bf16);
            else
                convert(to, t, (size_t) ((first + done) * t->cols + at), (size_t) len, bf16);
        }
        n -= take;
    }
}

void
ia3_convert_rows(void *dst, const ia3_host_tensor *parts, int64_t first, int64_t n, bool bf16)
{
    convert_block(dst, (size_t) parts->cols * (bf16 ? 2 : 4), parts, first, n, 0, parts->cols, bf16);
}

/* Converts and packs a strip: rows [first, first + n) of the stacked parts, padded with zeros to `width` rows. */
static void
pack_strip(void *strip, int width, const pack_job *j, int64_t first, int n)
{
    const bool bf16 = j->cpu->weights_bf16;
    const int k = j->pack->k, per_unit = bf16 ? 2 : 1;
    uint32_t rows[MOST_WIDTH]
                 [BLOCK_UNITS + IA3_VEC_LANES]; /* not a power of two, which would share sets of the cache */
    memset(rows, 0, sizeof rows);
    for (int at = 0; at < k; at += BLOCK_UNITS * per_unit) {
        int left = k - at < BLOCK_UNITS * per_unit ? k - at : BLOCK_UNITS * per_unit;
        size_t units = (size_t) (left + per_unit - 1) / (size_t) per_unit;
        for (int r = 0; r < n; r++)
            rows[r][units - 1] = 0; /* for the padding if k is odd */
        convert_block(rows, sizeof rows[0], j->parts, first, n, at, left, bf16);
        ia3_pack_units((uint32_t *) strip + (size_t) (at / per_unit) * (size_t) width, (size_t) width,
                       rows[0], BLOCK_UNITS + IA3_VEC_LANES, units);
    }
}

/* Packs strips from host tensors; they are numbered across the panels. */
static void
pack_strip_work(void *arg, int slot, size_t begin, size_t end)
{
    const pack_job *j = arg;
    const ia3_panel *panels = j->pack->panels;
    const int width = panels->shape->own ? IA3_STRIP : IA3_FSTRIP;
    const size_t in_panel = (size_t) (panels->n + width - 1) / (size_t) width;
    const size_t size = ia3_fgemm_strip_bytes(j->pack->k, width, j->cpu->weights_bf16);
    for (size_t i = begin; i < end; i++) {
        const ia3_panel *p = &panels[i / in_panel];
        int column = (int) (i % in_panel) * width, left = p->n - column;
        pack_strip((char *) p->data + i % in_panel * size, width, j, p->n0 + column,
                   left < width ? left : width);
    }
}

/* Packs panels from host tensors; columns of the pack are rows of the weight. */
static void
pack_host_work(void *arg, int slot, size_t begin, size_t end)
{
    pack_job *j = arg;
    for (size_t i = begin; i < end; i++) {
        ia3_panel *p = &j->pack->panels[i];
        char *plain = j->scratch + (size_t) slot * j->scratch_size;
        ia3_convert_rows(plain, j->parts, p->n0, p->n, j->cpu->weights_bf16);
        if (!ia3_panel_pack(j->cpu, p, slot, plain, 1, j->pack->k))
            atomic_store(&j->failed, true);
    }
}

/* Packs panels of the backward pack from the plain weight [k = out, n = in]. */
static void
pack_plain_work(void *arg, int slot, size_t begin, size_t end)
{
    pack_job *j = arg;
    for (size_t i = begin; i < end; i++) {
        ia3_panel *p = &j->pack->panels[i];
        char *plain = (char *) j->plain + (size_t) p->n0 * j->cpu->weight_size;
        p->backward = true;
        if (!ia3_panel_pack(j->cpu, p, slot, plain, j->pack->n, 1))
            atomic_store(&j->failed, true);
    }
}

/* Unpacks the plain weight [out, in] from the forward pack. */
static void
unpack_work(void *arg, int slot, size_t begin, size_t end)
{
    pack_job *j = arg;
    for (size_t i = begin; i < end; i++) {
        const ia3_panel *p = &j->pack->panels[i];
        char *plain = (char *) j->plain + (size_t) p->n0 * (size_t) j->pack->k * j->cpu->weight_size;
        if (!ia3_panel_unpack(j->cpu, p, slot, plain, 1, j->pack->k))
            atomic_store(&j->failed, true);
    }
}

static size_t
pack_bytes(const ia3_pack *pack)
{
    size_t bytes = 0;
    for (int i = 0; i < pack->n_panels; i++)
        bytes += ia3_panel_bytes(&pack->panels[i]);
    return bytes;
}

/* Whether the products of our own multiply by the pack, which then consists of strips. */
static bool
has_strips(const ia3_pack *pack)
{
    return pack->panels[0].shape->own || pack->panels[0].shape->portable;
}

/* Calls `work` for the pack's strips, numbered across the panels. */
static void
for_strips(pack_job *j, ia3_work_fn work)
{
    const int width = j->pack->panels->shape->own ? IA3_STRIP : IA3_FSTRIP;
    ia3_parallel(j->cpu->pool, ((size_t) j->pack->n + (size_t) width - 1) / (size_t) width, 1, work, j);
}

static bool
pack_host_strips(pack_job *j, ia3_error *err)
{
    ia3_pack *pack = j->pack;
    for (int i = 0; i < pack->n_panels; i++)
        if (!ia3_panel_alloc(j->cpu, &pack->panels[i]))
            return no_memory(err, pack_bytes(pack));
    for_strips(j, pack_strip_work);
    pack->bytes = pack_bytes(pack);
    return true;
}

static bool
pack_host(ia3_cpu *cpu, ia3_pack *pack, const ia3_host_tensor *parts, ia3_error *err)
{
    pack_job j = {.cpu = cpu, .pack = pack, .parts = parts};
    if (has_strips(pack))
        return pack_host_strips(&j, err);
    j.scratch_size = ia3_align_up((size_t) pack->k * (size_t) pack->panels[0].n * cpu->weight_size);
    size_t slots = pack->n_panels < cpu->threads ? (size_t) pack->n_panels : (size_t) cpu->threads;
    j.scratch = ia3_cpu_alloc(&cpu->base, j.scratch_size * slots);
    if (!j.scratch)
        return no_memory(err, j.scratch_size * slots);
    ia3_parallel(cpu->pool, (size_t) pack->n_panels, 1, pack_host_work, &j);
    ia3_cpu_free(&cpu->base, j.scratch);
    if (atomic_load(&j.failed))
        return no_memory(err, pack_bytes(pack));
    pack->bytes = pack_bytes(pack);
    return true;
}

ia3_matrix *
ia3_cpu_matrix_create(ia3_device *dev, const ia3_host_tensor *parts, int n_parts, ia3_error *err)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    int64_t out = 0;
    for (int i = 0; i < n_parts; i++) {
        out += parts[i].rows;
        if (parts[i].cols != parts[0].cols) {
            ia3_fail(err, IA3_E_INTERNAL, "stacked weights have different widths");
            return NULL;
        }
    }
    ia3_cpu_matrix *m = ia3_alloc(sizeof *m);
    m->base.out = (int) out;
    m->base.in = (int) parts[0].cols;
    bool ok = pack_layout(cpu, &m->fwd, parts[0].cols, out, err);
    if (ok && cpu->int8)
        ok = (m->int8 = ia3_int8_weight_create(cpu, parts, n_parts, err)) != NULL;
    else if (ok)
        ok = pack_host(cpu, &m->fwd, parts, err);
    if (!ok) {
        ia3_cpu_matrix_free(dev, &m->base);
        return NULL;
    }
    m->base.bytes = m->int8 ? m->int8->bytes : m->fwd.bytes;
    return &m->base;
}

void
ia3_cpu_matrix_free(ia3_device *dev, ia3_matrix *matrix)
{
    ia3_cpu_matrix *m = (ia3_cpu_matrix *) matrix;
    if (!m)
        return;
    pack_free((ia3_cpu *) dev, &m->fwd);
    pack_free((ia3_cpu *) dev, &m->bwd);
    ia3_int8_weight_free((ia3_cpu *) dev, m->int8);
    free(m);
}

bool
ia3_cpu_matrix_prepare_backward(ia3_device *dev, ia3_matrix *matrix, ia3_error *err)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    ia3_cpu_matrix *m = (ia3_cpu_matrix *) matrix;
    if (m->bwd.panels)
        return true;
    if (m->int8)
        return ia3_fail(err, IA3_E_UNSUPPORTED, "cannot train with weights in int8");
    size_t plain_size = (size_t) m->base.out * (size_t) m->base.in * cpu->weight_size;
    void *plain = ia3_cpu_alloc(dev, plain_size);
    if (!plain)
        return no_memory(err, plain_size);
    pack_job j = {.cpu = cpu, .pack = &m->fwd, .plain = plain};
    ia3_parallel(cpu->pool, (size_t) m->fwd.n_panels, 1, unpack_work, &j);
    bool ok = pack_layout(cpu, &m->bwd, m->base.out, m->base.in, err);
    if (ok) {
        j.pack = &m->bwd;
        ia3_parallel(cpu->pool, (size_t) m->bwd.n_panels, 1, pack_plain_work, &j);
        ok = !atomic_load(&j.failed) || no_memory(err, pack_bytes(&m->bwd));
    }
    ia3_cpu_free(dev, plain);
    if (!ok) {
        pack_free(cpu, &m->bwd);
        return false;
    }
    m->bwd.bytes = pack_bytes(&m->bwd);
    m->base.bytes = m->fwd.bytes + m->bwd.bytes;
    return true;
}

void
ia3_cpu_matrix_release_backward(ia3_device *dev, ia3_matrix *matrix)
{
    ia3_cpu_matrix *m = (ia3_cpu_matrix *) matrix;
    pack_free((ia3_cpu *) dev, &m->bwd);
    m->base.bytes = m->int8 ? m->int8->bytes : m->fwd.bytes;
}

void *
ia3_cpu_table_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    size_t n = (size_t) t->rows * (size_t) t->cols;
    void *table = ia3_cpu_alloc(dev, n * cpu->weight_size);
    if (!table) {
        no_memory(err, n * cpu->weight_size);
        return NULL;
    }
    ia3_convert_rows(table, t, 0, t->rows, cpu->weights_bf16);
    return table;
}

float *
ia3_cpu_vector_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err)
{
    size_t n = (size_t) t->rows * (size_t) t->cols;
    float *v = ia3_cpu_alloc(dev, n * sizeof *v);
    if (!v) {
        no_memory(err, n * sizeof *v);
        return NULL;
    }
    convert(v, t, 0, n, false);
    return v;
}

/* --- weights that are trained --- */

static ia3_host_tensor
tensor_of(const float *values, int rows, int cols)
{
    return (ia3_host_tensor){.data = values, .dtype = IA3_F32, .rows = rows, .cols = cols};
}

ia3_matrix *
ia3_cpu_matrix_from_values(ia3_device *dev, const float *values, int out, int in, ia3_error *err)
{
    const ia3_host_tensor t = tensor_of(values, out, in);
    if (((ia3_cpu *) dev)->int8) {
        ia3_fail(err, IA3_E_UNSUPPORTED, "cannot train with weights in int8");
        return NULL;
    }
    return ia3_cpu_matrix_create(dev, &t, 1, err);
}

void *
ia3_cpu_table_from_values(ia3_device *dev, const float *values, int rows, int cols, ia3_error *err)
{
    const ia3_host_tensor t = tensor_of(values, rows, cols);
    return ia3_cpu_table_create(dev, &t, err);
}

enum { REPACKED_ROWS = 32 }; /* at a time; even */

/*
 * Packs rows of the values [out, in], which are the rows of the backward pack, in blocks of them: the columns of a strip are short
 * pieces of memory far apart.
 */
static void
repack_backward_work(void *arg, int slot, size_t begin, size_t end)
{
    const pack_job *j = arg;
    const ia3_panel *panels = j->pack->panels;
    const bool bf16 = j->cpu->weights_bf16;
    const size_t k = (size_t) j->pack->k, n = (size_t) j->pack->n;
    const size_t width = panels->shape->own ? IA3_STRIP : IA3_FSTRIP;
    const size_t in_panel = ((size_t) panels->n + width - 1) / width, strips = (n + width - 1) / width;
    const size_t size = ia3_fgemm_strip_bytes(j->pack->k, (int) width, bf16);
    for (size_t r = begin * REPACKED_ROWS; r < end * REPACKED_ROWS && r < k; r += REPACKED_ROWS)
        for (size_t i = 0; i < strips; i++) {
            char *strip = (char *) panels[i / in_panel].data + i % in_panel * size;
            strip += r * width * j->cpu->weight_size;
            ia3_pack_columns((uint32_t *) (void *) strip, width, bf16, j->parts->data, false, n, r, i * width,
                             k - r < REPACKED_ROWS ? k - r : REPACKED_ROWS,
                             n - i * width < width ? n - i * width : width);
        }
}

/* Packs panels that oneDNN multiplies from the plain weight [out, in]. */
static void
repack_work(void *arg, int slot, size_t begin, size_t end)
{
    const pack_job *j = arg;
    const size_t size = j->cpu->weight_size;
    for (size_t i = begin; i < end; i++) {
        const ia3_panel *p = &j->pack->panels[i];
        const char *plain = j->plain;
        if (p->backward)
            ia3_panel_repack(j->cpu, p, slot, plain + (size_t) p->n0 * size, j->pack->n, 1);
        else
            ia3_panel_repack(j->cpu, p, slot, plain + (size_t) p->n0 * (size_t) j->pack->k * size, 1,
                             j->pack->k);
    }
}

static void
repack(pack_job *j, ia3_pack *pack, bool backward)
{
    j->pack = pack;
    if (!has_strips(pack))
        ia3_parallel(j->cpu->pool, (size_t) pack->n_panels, 1, repack_work, j);
    else if (backward)
        ia3_parallel(j->cpu->pool, ((size_t) pack->k + REPACKED_ROWS - 1) / REPACKED_ROWS,
                     ia3_grain(REPACKED_ROWS * (size_t) pack->n), repack_backward_work, j);
    else
        for_strips(j, pack_strip_work);
}

void
ia3_cpu_matrix_update(ia3_device *dev, ia3_matrix *matrix, const float *values)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    ia3_cpu_matrix *m = (ia3_cpu_matrix *) matrix;
    const size_t mark = ia3_cpu_arena_mark(dev), n = (size_t) m->base.out * (size_t) m->base.in;
    const ia3_host_tensor t = tensor_of(values, m->base.out, m->base.in);
    pack_job j = {.cpu = cpu, .parts = &t};
    if (!has_strips(&m->fwd) || (m->bwd.panels && !has_strips(&m->bwd))) {
        j.plain = ia3_cpu_arena_alloc(dev, n * cpu->weight_size);
        ia3_cpu_table_update(dev, j.plain, values, n);
    }
    repack(&j, &m->fwd, false);
    if (m->bwd.panels)
        repack(&j, &m->bwd, true);
    ia3_cpu_arena_release(dev, mark);
}

typedef struct table_job {
    void *table;
    const float *values;
    bool bf16;
} table_job;

static void
table_work(void *arg, int slot, size_t begin, size_t end)
{
    const table_job *j = arg;
    ia3_store_act(j->table, begin, j->values + begin, end - begin, j->bf16);
}

void
ia3_cpu_table_update(ia3_device *dev, void *table, const float *values, size_t n)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    table_job j = {table, values, cpu->weights_bf16};
    ia3_parallel(cpu->pool, n, ia3_grain(1), table_work, &j);
}
