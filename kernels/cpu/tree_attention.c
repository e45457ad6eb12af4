/*
 * tree_attention.c
 *     Decoder self-attention along a prefix tree, forward and backward.
 *
 * A query attends to itself and its ancestors (parent[row], -1 for a root). The formulas are those of attention.c and
 * attention_bwd.c, where the keys of a query are the rows on its path from the root, the index of a key is its depth
 * and that of the bias is depth_j - depth_i. Paths are short, so plain dot products are good enough.
 *
 * An item of work is one head of one sequence; a tree lies within one sequence. In the backward pass an item processes
 * its rows in order and adds to the gradients of the keys in its own scratch memory.
 */
#include "attention.h"

typedef struct tree_job {
    ia3_cpu *cpu;
    const ia3_attention *a;
    const ia3_attention_grad *g; /* backward only */
    ia3_mask mask;
    float *partial, *dbias; /* shares of the sequences, as in attention_bwd.c */
    char *scratch;
    size_t scratch_size;
} tree_job;

typedef struct tree_scratch {
    float *k, *v;          /* [n, dp]: k', v' */
    float *dk, *dv;        /* [n, dp]: backward */
    float *q, *dout, *acc; /* [dp] */
    float *p, *dp, *mask;  /* [ld] by depth */
    int32_t *path;         /* [ld] row in the sequence, by depth */
} tree_scratch;

/* Places the arrays, sized for the longest sequence, at `base`; returns their size in bytes. base may be NULL. */
static size_t
lay_out(tree_scratch *s, char *base, const ia3_attention *a, bool backward)
{
    size_t dp = ia3_round16((size_t) a->d_kv), rows = (size_t) a->max_q, ld = ia3_round64((size_t) a->max_k);
    size_t grad = backward ? rows * dp : 0;
    float **arrays[] = {&s->k, &s->v, &s->dk, &s->dv, &s->q, &s->dout, &s->acc, &s->p, &s->dp, &s->mask};
    size_t sizes[] = {rows * dp, rows * dp, grad, grad, dp, dp, dp, ld, ld, ld};
    size_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        *arrays[i] = base ? (float *) (void *) (base + at) : NULL;
        at += ia3_align_up(sizes[i] * sizeof(float));
    }
    s->path = base ? (int32_t *) (void *) (base + at) : NULL;
    return at + ia3_align_up(ld * sizeof(int32_t));
}

/* Fills path[0 .. depth] of a row, given by its index in the sequence; returns the number of nodes on the path. */
static size_t
find_path(const ia3_head *h, int32_t *path, size_t row)
{
    int32_t depth = h->a->depth[h->q0 + row];
    int32_t at = (int32_t) row;
    for (int32_t d = depth; d >= 0; d--) {
        path[d] = at;
        at = h->a->parent[h->q0 + (size_t) at] - (int32_t) h->q0;
    }
    return (size_t) depth + 1;
}

/* Computes the scores of the query in s->q for the n nodes of its path. */
static void
path_scores(const ia3_head *h, const tree_scratch *s, size_t n)
{
    const float *bias = ia3_head_bias(h, n - 1);
    for (size_t x = 0; x < n; x++)
        s->p[x] = ia3_dot(s->q, s->k + (size_t) s->path[x] * h->dp, h->dp) + (bias ? bias[x] : 0.0f);
}

static void
fill_mask(const tree_job *j, const ia3_head *h, const tree_scratch *s, size_t row, size_t n)
{
    const ia3_dropout *drop = &j->a->dropout;
    ia3_mask_row(s->mask, n, 0, drop->row_key[row], drop->site + (uint32_t) h->head, &j->mask);
}

/* y += c·x */
static inline void
add_scaled(float *restrict y, const float *restrict x, float c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += c * x[i];
}

static void
tree_row(const tree_job *j, const ia3_head *h, const tree_scratch *s, size_t x)
{
    const ia3_attention *a = j->a;
    size_t row = h->q0 + x, n = find_path(h, s->path, x);
    ia3_head_row(h, s->q, a->q, row, a->q_stride, NULL);
    path_scores(h, s, n);
    float max = ia3_max(s->p, n), sum = ia3_exp_row(s->p, n, max), scale = 1.0f / sum;
    if (j->mask.on)
        fill_mask(j, h, s, row, n);
    memset(s->acc, 0, h->dp * sizeof(float));
    for (size_t i = 0; i < n; i++)
        add_scaled(s->acc, s->v + (size_t) s->path[i] * h->dp,
                   s->p[i] * scale * (j->mask.on ? s->mask[i] : 1.0f), h->dp);
    ia3_store_act(a->out, ia3_head_at(h, row, (size_t) a->n_heads * h->d), s->acc, h->d, h->bf16);
    if (a->lse)
        a->lse[row * (size_t) a->n_heads + (size_t) h->head] = max + logf(sum);
}

static void
tree_work(void *arg, int slot, size_t begin, size_t end)
{
    const tree_job *j = arg;
    tree_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, j->a, false);
    for (size_t i = begin; i < end; i++) {
        ia3_head h = ia3_head_of(j->a, i, j->cpu->bf16);
        ia3_head_rows(&h, s.k, j->a->k, h.k0, h.n_k, j->a->kv_stride, h.lk);
        ia3_head_rows(&h, s.v, j->a->v, h.k0, h.n_k, j->a->kv_stride, h.lv);
        for (size_t x = 0; x < h.n_q; x++)
            tree_row(j, &h, &s, x);
    }
}

static void
tree_bwd_row(const tree_job *j, const ia3_head *h, const tree_scratch *s, size_t x)
{
    const ia3_attention *a = j->a;
    size_t row = h->q0 + x, n = find_path(h, s->path, x);
    float lse = a->lse[row * (size_t) a->n_heads + (size_t) h->head], sum = 0.0f;
    ia3_head_row(h, s->q, a->q, row, a->q_stride, NULL);
    ia3_head_row(h, s->dout, j->g->dout, row, (size_t) a->n_heads * h->d, NULL);
    path_scores(h, s, n);
    if (j->mask.on)
        fill_mask(j, h, s, row, n);
    for (size_t i = 0; i < n; i++) {
        float m = j->mask.on ? s->mask[i] : 1.0f;
        s->p[i] = ia3_expf(s->p[i] - lse);
        s->dp[i] = m * ia3_dot(s->dout, s->v + (size_t) s->path[i] * h->dp, h->dp);
        sum += s->p[i] * s->dp[i];
    }
    memset(s->acc, 0, h->dp * sizeof(float));
    float *dbias = ia3_head_dbias(h, j->dbias, n - 1);
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t) s->path[i] * h->dp;
        float ds = s->p[i] * (s->dp[i] - sum), m = j->mask.on ? s->mask[i] : 1.0f;
        add_scaled(s->dk + at, s->q, ds, h->dp);
        add_scaled(s->dv + at, s->dout, s->p[i] * m, h->dp);
        add_scaled(s->acc, s->k + at, ds, h->dp);
        if (dbias)
            dbias[i] += ds;
    }
    if (j->g->dq)
        ia3_store_act(j->g->dq, ia3_head_at(h, row, a->q_stride), s->acc, h->d, h->bf16);
}

/* Writes dk (or dv) of the head, and the sequence's share of dl. */
static void
tree_finish(const ia3_head *h, const tree_scratch *s, float *d_scaled, const void *unscaled, void *to,
            const float *l, float *partial)
{
    const ia3_attention *a = h->a;
    for (size_t x = 0; x < h->n_k; x++) {
        float *restrict d = d_scaled + x * h->dp;
        if (partial) {
            ia3_head_row(h, s->q, unscaled, h->k0 + x, a->kv_stride, NULL);
            for (size_t i = 0; i < h->d; i++)
                partial[i] += d[i] * s->q[i];
        }
        for (size_t i = 0; i < h->d && l; i++)
            d[i] *= l[i];
        ia3_store_act(to, ia3_head_at(h, h->k0 + x, a->kv_stride), d, h->d, h->bf16);
    }
}

static void
tree_bwd_work(void *arg, int slot, size_t begin, size_t end)
{
    const tree_job *j = arg;
    const ia3_attention *a = j->a;
    size_t inner = (size_t) a->n_heads * (size_t) a->d_kv;
    tree_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, a, true);
    for (size_t i = begin; i < end; i++) {
        ia3_head h = ia3_head_of(a, i, j->cpu->bf16);
        ia3_head_rows(&h, s.k, a->k, h.k0, h.n_k, a->kv_stride, h.lk);
        ia3_head_rows(&h, s.v, a->v, h.k0, h.n_k, a->kv_stride, h.lv);
        memset(s.dk, 0, h.n_k * h.dp * sizeof(float));
        memset(s.dv, 0, h.n_k * h.dp * sizeof(float));
        for (size_t x = 0; x < h.n_q; x++)
            tree_bwd_row(j, &h, &s, x);
        float *sum = j->partial ? j->partial + (size_t) h.seq * 2 * inner + (size_t) h.head * h.d : NULL;
        tree_finish(&h, &s, s.dk, a->k, j->g->dk, h.lk, sum);
        tree_finish(&h, &s, s.dv, a->v, j->g->dv, h.lv, sum ? sum + inner : NULL);
    }
}

static void
run_tree(tree_job *j, ia3_work_fn work)
{
    ia3_device *dev = &j->cpu->base;
    size_t mark = ia3_cpu_arena_mark(dev);
    tree_scratch s;
    j->mask = ia3_mask_of(&j->a->dropout);
    j->scratch_size = lay_out(&s, NULL, j->a, j->g != NULL);
    j->scratch = ia3_cpu_arena_alloc(dev, j->scratch_size * (size_t) j->cpu->threads);
    ia3_parallel_dynamic(j->cpu->pool, (size_t) j->a->n_seq * (size_t) j->a->n_heads, work, j);
    ia3_cpu_arena_release(dev, mark);
}

void
ia3_cpu_tree_attention(ia3_cpu *cpu, const ia3_attention *a)
{
    tree_job j = {.cpu = cpu, .a = a};
    run_tree(&j, tree_work);
}

void
ia3_cpu_tree_attention_bwd(ia3_cpu *cpu, const ia3_attention *a, const ia3_attention_grad *g, float *partial,
                           float *dbias)
{
    tree_job j = {.cpu = cpu, .a = a, .g = g, .partial = partial, .dbias = dbias};
    run_tree(&j, tree_bwd_work);
}
