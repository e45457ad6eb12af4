/*
 * gated.c
 *     The feed-forward activation with (IA)³ scaling and dropout, forward and backward.
 *
 *   h   = m ⊙ act(g0) ⊙ g1 ⊙ l           m: dropout multipliers; g1 = 1 when not gated
 *   dg0 = dh ⊙ m ⊙ l ⊙ g1 ⊙ act'(g0)     dg1 = dh ⊙ m ⊙ l ⊙ act(g0)
 *   dl  = Σ_rows dh ⊙ m ⊙ act(g0) ⊙ g1
 *
 * Threads divide the rows of the forward pass and the columns of the backward pass, so that each element of dl is one
 * sum over the rows in their order.
 */
#include "activation.h"
#include "cpu.h"
#include "mask.h"

enum {
    CHUNK = 512, /* columns per pass; a multiple of the 64 that ia3_mask_row may write */
    SHARE = 128  /* columns that a thread takes at least in the backward pass */
};

typedef struct gated_job {
    const ia3_gated *p;
    void *h, *dg;
    const void *g, *dh;
    size_t rows, d_ff, width; /* width: columns of g */
    bool bf16, fetch;         /* fetch: rows ahead */
    ia3_mask mask;
    ia3_scale_grad grad;
    float *dl; /* [d_ff] of the rows so far with the same slot */
} gated_job;

/* One chunk of a row: places in the arrays (act), and factors, which are ones where there are none. */
typedef struct gated_chunk {
    const void *g0, *g1;
    const float *l, *mask;
    void *h;
    const void *dh;
    void *dg0, *dg1;
    float *dl;
    size_t n;
} gated_chunk;

IA3_INLINE float
load(const void *x, size_t i, bool bf16)
{
    return bf16 ? ia3_bf16_to_f32(((const uint16_t *) x)[i]) : ((const float *) x)[i];
}

IA3_INLINE void
store(void *y, size_t i, float value, bool bf16)
{
    if (bf16)
        ((uint16_t *) y)[i] = ia3_f32_to_bf16(value);
    else
        ((float *) y)[i] = value;
}

/* act, gated and bf16 are constants where this is inlined. */
IA3_INLINE void
forward(const gated_chunk *c, ia3_activation act, bool gated, bool bf16)
{
    const float *l = c->l, *mask = c->mask;
    void *h = c->h;
    const void *g0 = c->g0, *g1 = c->g1;
    const size_t n = c->n;
    IA3_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        float x = ia3_activated(act, load(g0, i, bf16));
        if (gated)
            x *= load(g1, i, bf16);
        store(h, i, x * l[i] * mask[i], bf16);
    }
}

/* Calls pass(c, act, gated, bf16) with constants: a loop that looks at a variable is not vectorised. */
#define WITH_TYPES(pass, c, act, p, bf16)                                                                    \
    do {                                                                                                     \
        if ((p)->gated && (bf16))                                                                            \
            pass(c, act, true, true);                                                                        \
        else if ((p)->gated)                                                                                 \
            pass(c, act, true, false);                                                                       \
        else if (bf16)                                                                                       \
            pass(c, act, false, true);                                                                       \
        else                                                                                                 \
            pass(c, act, false, false);                                                                      \
    } while (0)
#define WITH_CONSTANTS(pass, c, p, bf16)                                                                     \
    do {                                                                                                     \
        switch ((p)->act) {                                                                                  \
        case IA3_RELU:                                                                                       \
            WITH_TYPES(pass, c, IA3_RELU, p, bf16);                                                          \
            break;                                                                                           \
        case IA3_GELU:                                                                                       \
            WITH_TYPES(pass, c, IA3_GELU, p, bf16);                                                          \
            break;                                                                                           \
        case IA3_GELU_NEW:                                                                                   \
            WITH_TYPES(pass, c, IA3_GELU_NEW, p, bf16);                                                      \
            break;                                                                                           \
        case IA3_SILU:                                                                                       \
            WITH_TYPES(pass, c, IA3_SILU, p, bf16);                                                          \
            break;                                                                                           \
        }                                                                                                    \
    } while (0)

static void
forward_chunk(const gated_job *j, const gated_chunk *c)
{
    WITH_CONSTANTS(forward, c, j->p, j->bf16);
}

/* The chunk of row r from column `at` to `end` or before. `mask` [CHUNK] is filled if there is dropout; `ones` [CHUNK] are ones. */
static gated_chunk
chunk_of(const gated_job *j, size_t r, size_t at, size_t end, float *mask, const float *ones)
{
    const float *l = ia3_scale_of(&j->p->scale, (int) r);
    const size_t size = j->bf16 ? sizeof(uint16_t) : sizeof(float);
    const char *g = (const char *) j->g + (r * j->width + at) * size;
    gated_chunk c = {.g0 = g,
                     .g1 = g + (j->p->gated ? j->d_ff * size : 0),
                     .l = l ? l + at : ones,
                     .mask = ones,
                     .n = end - at < CHUNK ? end - at : CHUNK};
    if (j->mask.on) {
        ia3_mask_row(mask, c.n, (uint32_t) at, j->p->dropout.row_key[r], j->p->dropout.site, &j->mask);
        c.mask = mask;
    }
    return c;
}

/* Fetches the same columns of the next row. It is inlined because gcc leaves out calls of functions that do nothing else. */
IA3_INLINE void
fetch_below(const gated_job *j, const gated_chunk *c, size_t r)
{
    const size_t size = j->bf16 ? sizeof(uint16_t) : sizeof(float);
    const bool gated = j->p->gated; /* otherwise g1 and dg1 are g0 and dg0 */
    const void *const rows[] = {c->g0, gated ? c->g1 : NULL, c->h, c->dh, c->dg0, gated ? c->dg1 : NULL};
    const size_t strides[] = {j->width, j->width, j->d_ff, j->d_ff, j->width, j->width};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && r + 1 < j->rows; i++)
        for (size_t x = 0; x < c->n * size && rows[i]; x += 64)
            __builtin_prefetch((const char *) rows[i] + strides[i] * size + x, 0, 2);
}

/*
 * Whether the next row is fetched while a row is computed. This helps only if all rows together do not fit in the cache, as in
 * training, and a row is at most a page (4 kB). With longer rows, such as T5-base's, the operation took 1.5 times as long with
 * fetching as without.
 */
static bool
fetches(const ia3_cpu *cpu, const gated_job *j)
{
    const size_t row = j->width * cpu->act_size;
    return row <= 4096 && j->rows * row > 2 * cpu->base.cache;
}

static void
fill_ones(float *ones)
{
    for (int i = 0; i < CHUNK; i++)
        ones[i] = 1.0f;
}

static void
gated_work(void *arg, int slot, size_t begin, size_t end)
{
    const gated_job *j = arg;
    float mask[CHUNK], ones[CHUNK];
    fill_ones(ones);
    for (size_t r = begin; r < end; r++)
        for (size_t at = 0; at < j->d_ff; at += CHUNK) {
            gated_chunk c = chunk_of(j, r, at, j->d_ff, mask, ones);
            c.h = (char *) j->h + (r * j->d_ff + at) * (j->bf16 ? sizeof(uint16_t) : sizeof(float));
            if (j->fetch)
                fetch_below(j, &c, r);
            forward_chunk(j, &c);
        }
}

/* The same for several rows, with what the loop needs set up once. */
IA3_INLINE void
forward_rows(const ia3_gated_block *b, ia3_activation act, bool gated, bool bf16)
{
    static const float ones[CHUNK] = {[0 ... CHUNK - 1] = 1.0f};
    const size_t size = bf16 ? sizeof(uint16_t) : sizeof(float);
    for (size_t r = 0; r < b->rows; r++) {
        const float *l = ia3_scale_of(&b->p->scale, b->row + (int) r);
        gated_chunk c = {.g0 = (const char *) b->g0 + r * b->ldg * size,
                         .g1 = (const char *) b->g1 + r * b->ldg * size,
                         .l = l ? l + b->at : ones,
                         .mask = ones,
                         .h = (char *) b->h + r * b->ldh * size,
                         .n = b->n};
        forward(&c, act, gated, bf16);
    }
}

void
ia3_gated_rows(const ia3_gated_block *b, bool bf16)
{
    WITH_CONSTANTS(forward_rows, b, b->p, bf16);
}

void
ia3_cpu_gated_act(ia3_device *dev, void *h, const void *g, int rows, const ia3_gated *p)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    gated_job j = {
        .p = p, .h = h, .g = g, .rows = (size_t) rows, .d_ff = (size_t) p->d_ff, .bf16 = cpu->bf16};
    j.width = p->gated ? 2 * j.d_ff : j.d_ff;
    j.mask = ia3_mask_of(&p->dropout);
    j.fetch = fetches(cpu, &j);
    ia3_parallel(cpu->pool, j.rows, ia3_grain(2 * j.width), gated_work, &j);
}

/* act, gated and bf16 are constants where this is inlined. Adds to dl [n]. */
IA3_INLINE void
backward(const gated_chunk *c, ia3_activation act, bool gated, bool bf16)
{
    const float *l = c->l, *mask = c->mask;
    const void *g0 = c->g0, *g1 = c->g1, *dh = c->dh;
    void *dg0 = c->dg0, *dg1 = c->dg1;
    float *dl = c->dl;
    const size_t n = c->n;
    IA3_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        float value, derivative = ia3_activated_grad(act, load(g0, i, bf16), &value);
        float gate = gated ? load(g1, i, bf16) : 1.0f, d = load(dh, i, bf16) * mask[i];
        dl[i] += d * value * gate;
        d *= l[i];
        store(dg0, i, derivative * gate * d, bf16);
        if (gated)
            store(dg1, i, value * d, bf16);
    }
}

static void
backward_chunk(const gated_job *j, const gated_chunk *c)
{
    WITH_CONSTANTS(backward, c, j->p, j->bf16);
}

/* Adds the chunk's share of dl to the gradient of adapter `slot` and clears dl. */
static void
flush_grad(const gated_job *j, int slot, size_t at, size_t n, float *dl)
{
    float *restrict to = j->grad.slots[slot] + j->grad.offset + at;
    for (size_t i = 0; i < n; i++) {
        to[i] += dl[i];
        dl[i] = 0.0f;
    }
}

/* Items are shares of the columns. A thread goes through all rows with all of its own. */
static void
gated_bwd_work(void *arg, int slot, size_t begin, size_t end)
{
    const gated_job *j = arg;
    const size_t size = j->bf16 ? sizeof(uint16_t) : sizeof(float);
    const size_t columns_end = end * SHARE < j->d_ff ? end * SHARE : j->d_ff;
    float mask[CHUNK], ones[CHUNK];
    fill_ones(ones);
    for (size_t r = 0; r < j->rows; r++) {
        const int slot_here = j->grad.slots ? j->grad.slot_of[r] : 0;
        const bool last = j->grad.slots && (r + 1 == j->rows || j->grad.slot_of[r + 1] != slot_here);
        for (size_t at = begin * SHARE; at < columns_end; at += CHUNK) {
            gated_chunk c = chunk_of(j, r, at, columns_end, mask, ones);
            c.dh = (const char *) j->dh + (r * j->d_ff + at) * size;
            c.dg0 = (char *) j->dg + (r * j->width + at) * size;
            c.dg1 = (char *) c.dg0 + (j->p->gated ? j->d_ff * size : 0);
            c.dl = j->dl + at;
            if (j->fetch)
                fetch_below(j, &c, r);
            backward_chunk(j, &c);
            if (last)
                flush_grad(j, slot_here, at, c.n, c.dl);
        }
    }
}

void
ia3_cpu_gated_act_bwd(ia3_device *dev, void *dg, const void *dh, const void *g, int rows, const ia3_gated *p,
                      ia3_scale_grad grad)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    gated_job j = {.p = p,
                   .dg = dg,
                   .dh = dh,
                   .g = g,
                   .rows = (size_t) rows,
                   .d_ff = (size_t) p->d_ff,
                   .bf16 = cpu->bf16,
                   .grad = grad};
    j.width = p->gated ? 2 * j.d_ff : j.d_ff;
    j.mask = ia3_mask_of(&p->dropout);
    j.fetch = fetches(cpu, &j);
    size_t mark = ia3_cpu_arena_mark(dev);
    j.dl = ia3_cpu_arena_alloc(dev, j.d_ff * sizeof(float));
    memset(j.dl, 0, j.d_ff * sizeof(float));
    const size_t shares = (j.d_ff + SHARE - 1) / SHARE, threads = (size_t) cpu->threads;
    const size_t grain = ia3_grain(2 * SHARE * j.rows), share = (shares + threads - 1) / threads;
    ia3_parallel(cpu->pool, shares, grain > share ? grain : share, gated_bwd_work, &j);
    ia3_cpu_arena_release(dev, mark);
}
