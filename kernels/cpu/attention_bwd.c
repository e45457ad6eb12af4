/*
 * attention_bwd.c
 *     Backward attention. P is recomputed from the lse that the forward pass left; k' = k ⊙ l_k and v' = v ⊙ l_v.
 *
 *   P = exp(S - lse)             dP = m ⊙ (dout·v'ᵀ)         dS = P ⊙ (dP - dout·out)
 *   dq = dS·k'      dk' = dSᵀ·q      dv' = (m ⊙ P)ᵀ·dout
 *   dk = dk' ⊙ l_k  dv = dv' ⊙ l_v   dl_k += Σ_rows dk' ⊙ k   dl_v += Σ_rows dv' ⊙ v
 *
 * dout·out is Σ_j P ⊙ dP, so no sum over the keys is needed before dS, and a tile of S and dP is all that is kept of them.
 *
 * An item of work is one head of one sequence, as in the forward pass. Each sequence's shares of dl_k and dl_v ([n_seq, 2,
 * inner]) and of the gradient of the bias are stored separately; they are added up in the order of the sequences at the end,
 * so the result does not depend on the number of threads.
 */
#include "attention_dot.h"
#include "attention_tile.h"

typedef struct bwd_job {
    ia3_cpu *cpu;
    const ia3_attention *a;
    const ia3_attention_grad *g;
    ia3_mask mask;
    float *partial; /* [n_seq, 2, inner] or NULL */
    float *dbias;   /* [n_seq, n_heads, 2·bias_span - 1] or NULL */
    char *scratch;
    size_t scratch_size;
} bwd_job;

typedef struct bwd_scratch {
    float *k, *v;           /* [keys, dp] */
    float *dk, *dv;         /* [keys, dp]: of k', v' */
    float *q, *dout, *rows; /* [QUERIES, dp] */
    float *qt, *dt, *dq;    /* [dp, QUERIES]: q ⊙ l_k, dout ⊙ l_v; dq before l_k */
    float *p, *ds, *mask;   /* [KEYS, QUERIES]: m ⊙ P; dP, then dS */
    float *bias;            /* ia3_tile_bias */
    float *max;             /* [QUERIES] that are not used */
    float *lse, *mean;      /* [QUERIES]: mean is dout·out */
} bwd_scratch;

/* Places the arrays, sized for the longest sequence, at `base`; returns their size in bytes. base may be NULL. */
static size_t
lay_out(bwd_scratch *s, char *base, const ia3_attention *a)
{
    const size_t dp = ia3_round16((size_t) a->d_kv), keys = ia3_round_rows((size_t) a->max_k) * dp,
                 block = IA3_QUERIES * dp, tile = IA3_KEYS * IA3_QUERIES;
    float **arrays[] = {&s->k,  &s->v, &s->dk, &s->dv,   &s->q,    &s->dout, &s->rows, &s->qt,  &s->dt,
                        &s->dq, &s->p, &s->ds, &s->mask, &s->bias, &s->max,  &s->lse,  &s->mean};
    const size_t sizes[] = {keys,        keys,        keys,       keys, block, block, block,
                            block,       block,       block,      tile, tile,  tile,  IA3_TILE_BIASES,
                            IA3_QUERIES, IA3_QUERIES, IA3_QUERIES};
    size_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        *arrays[i] = base ? (float *) (void *) (base + at) : NULL;
        at += ia3_align_up(sizes[i] * sizeof(float));
    }
    return at;
}

/* Replaces the scores of a tile by m ⊙ P, and dout·v'ᵀ by dS; rows up to a multiple of IA3_TILE_ROWS become zero. */
static void
softmax_bwd_tile(const bwd_scratch *s, size_t n_k, size_t vecs, bool masked)
{
    for (size_t v = 0; v < vecs; v++) {
        const ia3_vec lse = IA3_AT(s->lse, v), mean = IA3_AT(s->mean, v);
        float *p = s->p + v * IA3_VEC_LANES, *ds = s->ds + v * IA3_VEC_LANES;
        const float *m = s->mask + v * IA3_VEC_LANES;
        for (size_t j = 0; j < n_k; j++, p += IA3_QUERIES, ds += IA3_QUERIES, m += IA3_QUERIES) {
            const ia3_vec e = ia3_vec_exp(IA3_AT(p, 0) - lse);
            if (masked) {
                const ia3_vec keep = *(const ia3_vec *) m;
                IA3_AT(ds, 0) = e * (IA3_AT(ds, 0) * keep - mean);
                IA3_AT(p, 0) = e * keep;
            } else {
                IA3_AT(ds, 0) = e * (IA3_AT(ds, 0) - mean);
                IA3_AT(p, 0) = e;
            }
        }
    }
    const size_t padding = (ia3_round_rows(n_k) - n_k) * IA3_QUERIES * sizeof(float);
    memset(s->p + n_k * IA3_QUERIES, 0, padding);
    memset(s->ds + n_k * IA3_QUERIES, 0, padding);
}

/* Adds the dS of queries [i, i + n) and keys [k, k + n_k) to the sequence's share of the gradient of the bias. */
static void
add_bias(const bwd_job *j, const ia3_head *h, const float *ds, size_t i, size_t n, size_t k, size_t n_k)
{
    float by_distance[IA3_TILE_BIASES] = {0}; /* as in ia3_tile_bias */
    for (size_t r = 0; r < n_k; r++) {
        float *restrict to = by_distance + IA3_KEYS - 1 - r;
        const float *restrict from = ds + r * IA3_QUERIES;
        for (size_t x = 0; x < n; x++)
            to[x] += from[x];
    }
    float *to = ia3_head_dbias(h, j->dbias, i) + k + IA3_KEYS - 1; /* minus the index into by_distance */
    for (size_t x = IA3_KEYS - n_k; x < IA3_KEYS + n - 1; x++)
        *(to - x) += by_distance[x];
}

/* d[n_k, dp] (+)= pᵀ·rows, with p [KEYS, QUERIES] transposed already, and n rows. */
static void
add_keys(const ia3_head *h, float *d, const float *p, const float *rows, size_t n_k, size_t n, bool first)
{
    ia3_tile t = {.c = d,
                  .ldc = h->dp,
                  .a = {p, IA3_QUERIES, 1},
                  .b = rows,
                  .ldb = h->dp,
                  .rows = ia3_round_rows(n_k),
                  .k = n,
                  .out = first ? IA3_TILE_SET : IA3_TILE_ADD};
    ia3_tile_run(&t, h->dp / IA3_VEC_LANES);
}

/* Processes keys [k, k + n_k) and queries [i, i + n): adds to dk', dv', dq and the gradient of the bias. */
static void
backward_tile(const bwd_job *j, const ia3_head *h, const bwd_scratch *s, const ia3_block_keys *keys, size_t k,
              size_t n_k, size_t i, size_t n, const ia3_fetch fetch[5])
{
    const bool first = i == 0;
    const size_t at = k * h->dp, vecs = ia3_vectors(n);
    ia3_scores scores = {.s = s->p,
                         .max = s->max,
                         .k = s->k + at,
                         .qt = s->qt,
                         .bias = s->bias,
                         .n_k = n_k,
                         .d = h->d,
                         .dp = h->dp,
                         .fetch = fetch,
                         .n_fetch = k == 0 ? 5 : 0};
    ia3_tile_scores(&scores, vecs);
    ia3_tile dp = {.c = s->ds,
                   .ldc = IA3_QUERIES,
                   .a = {s->v + at, h->dp, 1},
                   .b = s->dt,
                   .ldb = IA3_QUERIES,
                   .rows = ia3_round_rows(n_k),
                   .k = h->d};
    ia3_tile_run(&dp, vecs);
    if (j->mask.on)
        ia3_tile_mask(s->mask, k, n_k, keys, vecs, j->a->dropout.site + (uint32_t) h->head, &j->mask);
    softmax_bwd_tile(s, n_k, vecs, j->mask.on);
    if (j->dbias)
        add_bias(j, h, s->ds, i, n, k, n_k);
    add_keys(h, s->dv + at, s->p, s->dout, n_k, n, first);
    add_keys(h, s->dk + at, s->ds, s->q, n_k, n, first);
    if (!j->g->dq)
        return;
    ia3_tile dq = {.c = s->dq,
                   .ldc = IA3_QUERIES,
                   .a = {s->k + at, 1, h->dp},
                   .b = s->ds,
                   .ldb = IA3_QUERIES,
                   .rows = ia3_round_rows(h->d),
                   .k = n_k,
                   .out = k == 0 ? IA3_TILE_SET : IA3_TILE_ADD};
    ia3_tile_run(&dq, vecs);
}

/* Loads queries [i, i + n) and what belongs to them. */
static void
load_queries(const bwd_job *j, const ia3_head *h, const bwd_scratch *s, size_t i, size_t n)
{
    const ia3_attention *a = j->a;
    const size_t inner = (size_t) a->n_heads * h->d, row = h->q0 + i;
    ia3_block_load(h, s->qt, s->q, a->q, row, n, a->q_stride, h->lk);
    ia3_block_load(h, s->dt, s->dout, j->g->dout, row, n, inner, h->lv);
    if (h->lk)
        ia3_head_rows(h, s->q, a->q, row, n, a->q_stride, NULL);
    if (h->lv)
        ia3_head_rows(h, s->dout, j->g->dout, row, n, inner, NULL);
    ia3_head_rows(h, s->rows, a->out, row, n, inner, NULL);
    memset(s->lse, 0, IA3_QUERIES * sizeof(float));
    memset(s->mean, 0, IA3_QUERIES * sizeof(float));
    for (size_t x = 0; x < n; x++) {
        s->lse[x] = a->lse[(row + x) * (size_t) a->n_heads + (size_t) h->head];
        s->mean[x] = ia3_dot(s->dout + x * h->dp, s->rows + x * h->dp, h->dp);
    }
}

/* How many rows ahead finish_keys fetches the memory that it writes: short pieces, kilobytes apart. */
enum { AHEAD = 6 };

/* Writes dk (or dv) of the head, and the sequence's share of dl. */
static void
finish_keys(const ia3_head *h, const float *d_scaled, const void *unscaled, void *to, const float *l,
            float *partial, float *restrict row)
{
    const ia3_attention *a = h->a;
    const size_t size = h->bf16 ? sizeof(uint16_t) : sizeof(float);
    const char *ahead = (const char *) to + ia3_head_at(h, h->k0 + AHEAD, a->kv_stride) * size;
    for (size_t x = 0; x < h->n_k; x++, ahead += a->kv_stride * size) {
        if (x + AHEAD < h->n_k)
            for (size_t c = 0; c < h->d * size; c += 64)
                __builtin_prefetch(ahead + c, 1);
        const float *restrict d = d_scaled + x * h->dp;
        if (partial) {
            float *restrict sum = partial;
            ia3_head_row(h, row, unscaled, h->k0 + x, a->kv_stride, NULL);
            for (size_t i = 0; i < h->d; i++)
                sum[i] += d[i] * row[i];
        }
        const size_t at = ia3_head_at(h, h->k0 + x, a->kv_stride);
        float *restrict y = h->bf16 ? row : (float *) to + at;
        for (size_t i = 0; i < h->d; i++)
            y[i] = l ? d[i] * l[i] : d[i];
        if (h->bf16)
            ia3_store_act(to, at, y, h->d, true);
    }
}

static void
attend_bwd(const bwd_job *j, const ia3_head *h, const ia3_head *next, const bwd_scratch *s)
{
    const ia3_attention *a = j->a;
    const size_t inner = (size_t) a->n_heads * h->d;
    ia3_block_keys keys;
    ia3_tile_keys(h, s->k, a->k);
    ia3_tile_keys(h, s->v, a->v);
    if (h->n_q == 0) {
        memset(s->dk, 0, h->n_k * h->dp * sizeof(float));
        memset(s->dv, 0, h->n_k * h->dp * sizeof(float));
    }
    for (size_t i = 0, n; i < h->n_q; i += n) {
        n = ia3_block_queries(h->n_q - i);
        ia3_head_beat(h->n_k);
        load_queries(j, h, s, i, n);
        const ia3_fetch fetch[] = {ia3_fetch_part(h, i, n, next, a->k, next->k0, next->n_k, a->kv_stride),
                                   ia3_fetch_part(h, i, n, next, a->v, next->k0, next->n_k, a->kv_stride),
                                   ia3_fetch_part(h, i, n, next, a->q, next->q0, next->n_q, a->q_stride),
                                   ia3_fetch_part(h, i, n, next, j->g->dout, next->q0, next->n_q, inner),
                                   ia3_fetch_part(h, i, n, next, a->out, next->q0, next->n_q, inner)};
        if (j->mask.on)
            ia3_block_keys_of(&keys, a->dropout.row_key + h->q0 + i, n);
        for (size_t k = 0; k < h->n_k; k += IA3_KEYS) {
            const size_t n_k = h->n_k - k < IA3_KEYS ? h->n_k - k : IA3_KEYS;
            ia3_tile_bias(h, s->bias, i, n, k, n_k);
            backward_tile(j, h, s, &keys, k, n_k, i, n, fetch);
        }
        if (j->g->dq)
            ia3_block_store(h, j->g->dq, h->q0 + i, n, a->q_stride, s->dq, s->rows, NULL, h->lk);
    }
    float *sum = j->partial ? j->partial + (size_t) h->seq * 2 * inner + (size_t) h->head * h->d : NULL;
    finish_keys(h, s->dk, a->k, j->g->dk, h->lk, sum, s->rows);
    finish_keys(h, s->dv, a->v, j->g->dv, h->lv, sum ? sum + inner : NULL, s->rows);
}

static void
bwd_work(void *arg, int slot, size_t begin, size_t end)
{
    const bwd_job *j = arg;
    bwd_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, j->a);
    for (size_t i = begin; i < end; i++) {
        const ia3_head h = ia3_head_of(j->a, i, j->cpu->bf16), next = ia3_head_after(&h, i, j->cpu->threads);
        if (h.n_k > 0)
            attend_bwd(j, &h, &next, &s);
        else
            ia3_attend_nothing_bwd(&h, j->g);
    }
}

/* Adds the sequences' shares to dl_k and dl_v in the order of the sequences. An item is a column of both. */
static void
sum_work(void *arg, int slot, size_t begin, size_t end)
{
    const bwd_job *j = arg;
    const ia3_attention *a = j->a;
    size_t inner = (size_t) a->n_heads * (size_t) a->d_kv;
    for (int s = 0; s < a->n_seq; s++) {
        const float *part = j->partial + (size_t) s * 2 * inner;
        for (int which = 0; which < 2; which++) {
            const ia3_scale_grad *g = which ? &j->g->grad_v : &j->g->grad_k;
            if (!g->slots)
                continue;
            float *restrict to = g->slots[g->slot_of[s]] + g->offset;
            const float *restrict from = part + (size_t) which * inner;
            for (size_t i = begin; i < end; i++)
                to[i] += from[i];
        }
    }
}

/* Adds the sequences' shares to the gradient of the bias. An item is an element of it. */
static void
sum_bias_work(void *arg, int slot, size_t begin, size_t end)
{
    const bwd_job *j = arg;
    const size_t size = (size_t) j->a->n_heads * (2 * (size_t) j->a->bias_span - 1);
    float *restrict to = j->g->dbias;
    for (size_t s = 0; s < (size_t) j->a->n_seq; s++) {
        const float *restrict from = j->dbias + s * size;
        for (size_t i = begin; i < end; i++)
            to[i] += from[i];
    }
}

void
ia3_cpu_attention_bwd(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (a->n_seq <= 0)
        return;
    size_t mark = ia3_cpu_arena_mark(dev), inner = (size_t) a->n_heads * (size_t) a->d_kv;
    bwd_job j = {.cpu = cpu, .a = a, .g = g, .mask = ia3_mask_of(&a->dropout)};
    if (g->grad_k.slots || g->grad_v.slots) {
        size_t bytes = (size_t) a->n_seq * 2 * inner * sizeof(float);
        j.partial = ia3_cpu_arena_alloc(dev, bytes);
        memset(j.partial, 0, bytes);
    }
    const size_t biases = (size_t) a->n_heads * (2 * (size_t) a->bias_span - 1);
    if (g->dbias) {
        j.dbias = ia3_cpu_arena_alloc(dev, (size_t) a->n_seq * biases * sizeof(float));
        memset(j.dbias, 0, (size_t) a->n_seq * biases * sizeof(float));
    }
    if (a->parent) {
        ia3_cpu_tree_attention_bwd(cpu, a, g, j.partial, j.dbias);
    } else if (ia3_dot_usable(cpu, a)) {
        ia3_dot_attention_bwd(cpu, a, g, j.partial, j.dbias);
    } else {
        bwd_scratch s;
        j.scratch_size = lay_out(&s, NULL, a);
        j.scratch = ia3_cpu_arena_alloc(dev, j.scratch_size * (size_t) cpu->threads);
        ia3_parallel_dynamic(cpu->pool, (size_t) a->n_seq * (size_t) a->n_heads, bwd_work, &j);
    }
    if (j.partial)
        ia3_parallel(cpu->pool, inner, ia3_grain(2 * (size_t) a->n_seq), sum_work, &j);
    if (j.dbias)
        ia3_parallel(cpu->pool, biases, ia3_grain((size_t) a->n_seq), sum_bias_work, &j);
    ia3_cpu_arena_release(dev, mark);
}
