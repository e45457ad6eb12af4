/*
 * vocab.c
 *     Log-probabilities of chosen tokens over the whole vocabulary, and their gradient.
 *
 *   logits = scale·h·Wᵀ     lse = log Σ_v exp logits_v     lp = logits[token] - lse
 *   dlogits_v = Σ_pairs dlp·(δ(v, token) - exp(logits_v - lse))     dh = scale·dlogits·W
 *
 * Forward: for each panel of the vocabulary the kernel stores the maximum and the sum of exponentials of every row;
 * these are merged in the order of the panels, so the number of threads does not change the result. Logits exist only
 * in one tile per thread. Backward: dlogits of a limited number of rows at a time are stored as act and multiplied by
 * W.
 */
#include "matrix.h"
#include "simd.h"

enum { TILE_ROWS = 64 };

typedef struct vocab_job {
    ia3_cpu *cpu;
    const ia3_pack *pack;
    const ia3_int8_weight *int8; /* the weights, if in eight bits (then pack has only sizes); or NULL */
    ia3_int8_rows int8_rows;     /* h in eight bits */
    const char *h;
    int rows; /* number of rows of this block */
    float scale;
    const int32_t *pair_offsets, *tokens;
    /* forward */
    float *lp, *max, *sum; /* max, sum: [panels, rows] */
    /* backward */
    const float *dlp, *lse;
    void *dlogits; /* act [rows, vocabulary] */
    char *scratch;
    size_t scratch_size, tile_size;
} vocab_job;

/* scale·logits of rows [first, first + rows) and one panel. */
static float *
logits_tile(const vocab_job *j, const ia3_panel *panel, int slot, int first, int rows)
{
    char *scratch = j->scratch + (size_t) slot * j->scratch_size;
    float *tile = (float *) scratch;
    const char *h = j->h + (size_t) first * (size_t) j->pack->k * j->cpu->act_size;
    if (j->int8) {
        const int at = panel->n0 / IA3_INT8_COLUMNS, n = (panel->n + IA3_INT8_COLUMNS - 1) / IA3_INT8_COLUMNS;
        ia3_int8_panels(j->cpu, j->int8, at, n, (at + n) % j->int8->n_panels, &j->int8_rows, first, rows,
                        tile, (size_t) panel->n, IA3_OUT_F32);
    } else
        ia3_gemm_panel(j->cpu, panel, slot, tile, (size_t) panel->n, h, rows, IA3_OUT_F32,
                       scratch + j->tile_size);
    if (j->scale != 1.0f)
        for (size_t i = 0; i < (size_t) rows * (size_t) panel->n; i++)
            tile[i] *= j->scale;
    return tile;
}

static void
forward_tile(const vocab_job *j, const ia3_panel *panel, int slot, size_t panel_no, int first, int rows)
{
    float *tile = logits_tile(j, panel, slot, first, rows);
    for (int r = 0; r < rows; r++) {
        float *logits = tile + (size_t) r * (size_t) panel->n;
        for (int32_t i = j->pair_offsets[first + r]; i < j->pair_offsets[first + r + 1]; i++) {
            int32_t v = j->tokens[i] - panel->n0;
            if (v >= 0 && v < panel->n)
                j->lp[i] = logits[v];
        }
        float max = ia3_max(logits, (size_t) panel->n);
        size_t at = panel_no * (size_t) j->rows + (size_t) (first + r);
        j->max[at] = max;
        j->sum[at] = ia3_exp_row(logits, (size_t) panel->n, max);
    }
}

/* Items are (panel, tile of rows), panel by panel. */
static void
forward_work(void *arg, int slot, size_t begin, size_t end)
{
    const vocab_job *j = arg;
    size_t tiles = ((size_t) j->rows + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t i = begin; i < end; i++) {
        int first = (int) (i % tiles) * TILE_ROWS;
        int rows = j->rows - first < TILE_ROWS ? j->rows - first : TILE_ROWS;
        forward_tile(j, &j->pack->panels[i / tiles], slot, i / tiles, first, rows);
    }
}

/* Merges the panels' maxima and sums to lse[r] and subtracts it from the logits in lp. */
static void
merge_rows(const vocab_job *j, float *lse)
{
    for (size_t r = 0; r < (size_t) j->rows; r++) {
        float max = j->max[r];
        double sum = 0.0;
        for (size_t p = 1; p < (size_t) j->pack->n_panels; p++) {
            float m = j->max[p * (size_t) j->rows + r];
            max = m > max ? m : max;
        }
        for (size_t p = 0; p < (size_t) j->pack->n_panels; p++) {
            size_t at = p * (size_t) j->rows + r;
            sum += (double) j->sum[at] * exp((double) j->max[at] - (double) max);
        }
        lse[r] = (float) ((double) max + log(sum));
        for (int32_t i = j->pair_offsets[r]; i < j->pair_offsets[r + 1]; i++)
            j->lp[i] -= lse[r];
    }
}

static vocab_job
vocab_begin(ia3_cpu *cpu, const ia3_cpu_matrix *m, float scale, const int32_t *tokens)
{
    const ia3_pack *pack = &m->fwd;
    vocab_job j = {.cpu = cpu, .pack = pack, .int8 = m->int8, .scale = scale, .tokens = tokens};
    j.tile_size = ia3_align_up((size_t) TILE_ROWS * (size_t) pack->panels[0].n * sizeof(float));
    j.scratch_size = j.tile_size + (m->int8 ? 0 : ia3_gemm_scratch(cpu, pack, IA3_OUT_F32, TILE_ROWS));
    j.scratch = ia3_cpu_arena_alloc(&cpu->base, j.scratch_size * (size_t) cpu->threads);
    return j;
}

void
ia3_cpu_vocab_logprobs(ia3_device *dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head,
                       float scale, const int32_t *pair_offsets, const int32_t *tokens)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    const ia3_cpu_matrix *m = (ia3_cpu_matrix *) head;
    size_t mark = ia3_cpu_arena_mark(dev), parts = (size_t) m->fwd.n_panels * (size_t) rows;
    vocab_job j = vocab_begin(cpu, m, scale, tokens);
    j.h = h;
    j.rows = rows;
    j.pair_offsets = pair_offsets;
    j.lp = lp;
    j.max = ia3_cpu_arena_alloc(dev, parts * sizeof(float));
    j.sum = ia3_cpu_arena_alloc(dev, parts * sizeof(float));
    if (m->int8)
        j.int8_rows = ia3_int8_quantize(cpu, m->int8, h, rows, NULL);
    size_t tiles = ((size_t) rows + TILE_ROWS - 1) / TILE_ROWS;
    ia3_parallel(cpu->pool, tiles * (size_t) m->fwd.n_panels, 1, forward_work, &j);
    merge_rows(&j, lse);
    ia3_cpu_arena_release(dev, mark);
}

/* Computes dlogits, times scale, of one tile. */
static void
backward_tile(const vocab_job *j, const ia3_panel *panel, int slot, int first, int rows)
{
    float *tile = logits_tile(j, panel, slot, first, rows);
    for (int r = 0; r < rows; r++) {
        float *restrict x = tile + (size_t) r * (size_t) panel->n;
        int32_t begin = j->pair_offsets[first + r], end = j->pair_offsets[first + r + 1];
        float total = 0.0f, lse = j->lse[first + r];
        for (int32_t i = begin; i < end; i++)
            total += j->dlp[i];
        float c = -total * j->scale;
        for (int i = 0; i < panel->n; i++)
            x[i] = c * ia3_expf(x[i] - lse);
        for (int32_t i = begin; i < end; i++) {
            int32_t v = j->tokens[i] - panel->n0;
            if (v >= 0 && v < panel->n)
                x[v] += j->dlp[i] * j->scale;
        }
        ia3_store_act(j->dlogits, (size_t) (first + r) * (size_t) j->pack->n + (size_t) panel->n0, x,
                      (size_t) panel->n, j->cpu->bf16);
    }
}

static void
backward_work(void *arg, int slot, size_t begin, size_t end)
{
    const vocab_job *j = arg;
    size_t tiles = ((size_t) j->rows + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t i = begin; i < end; i++) {
        int first = (int) (i % tiles) * TILE_ROWS;
        int rows = j->rows - first < TILE_ROWS ? j->rows - first : TILE_ROWS;
        backward_tile(j, &j->pack->panels[i / tiles], slot, first, rows);
    }
}

void
ia3_cpu_vocab_logprobs_bwd(ia3_device *dev, float *dh, float *dhead, const float *dlp, const float *lse,
                           const void *h, int rows, ia3_matrix *head, float scale,
                           const int32_t *pair_offsets, const int32_t *tokens)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    const ia3_cpu_matrix *m = (ia3_cpu_matrix *) head;
    const size_t k = (size_t) m->fwd.k, vocabulary = (size_t) m->fwd.n;
    size_t mark = ia3_cpu_arena_mark(dev);
    vocab_job j = vocab_begin(cpu, m, scale, tokens);
    /* as many rows as fit in 32 MB of dlogits, but at least one tile */
    size_t block = ((size_t) 32 << 20) / (vocabulary * cpu->act_size) / TILE_ROWS * TILE_ROWS;
    block = block < TILE_ROWS ? TILE_ROWS : block;
    block = block > (size_t) rows ? (size_t) rows : block;
    j.dlogits = ia3_cpu_arena_alloc(dev, block * vocabulary * cpu->act_size);
    j.dlp = dlp;
    for (size_t first = 0; first < (size_t) rows; first += block) {
        j.rows = (int) ((size_t) rows - first < block ? (size_t) rows - first : block);
        j.h = (const char *) h + first * k * cpu->act_size;
        j.lse = lse + first;
        j.pair_offsets = pair_offsets + first;
        size_t tiles = ((size_t) j.rows + TILE_ROWS - 1) / TILE_ROWS;
        ia3_parallel(cpu->pool, tiles * (size_t) m->fwd.n_panels, 1, backward_work, &j);
        ia3_gemm(cpu, &m->bwd, dh + first * k, j.dlogits, j.rows, IA3_OUT_F32);
        if (dhead)
            ia3_cpu_matmul_grad(dev, dhead, j.dlogits, j.h, j.rows, (int) vocabulary, (int) k);
    }
    ia3_cpu_arena_release(dev, mark);
}
