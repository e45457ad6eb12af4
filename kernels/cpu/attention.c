/*
 * attention.c
 *     Multi-head attention over packed sequences, as in T5 (without 1/√d), with (IA)³ vectors and dropout.
 *
 *   S = q·(k ⊙ l_k)ᵀ + bias     P = softmax(S)     out = (m ⊙ P)·(v ⊙ l_v)     lse = log Σ exp S
 *
 * One item of work is one head of one sequence; its keys and values are converted to fp32 once. Items write disjoint
 * parts of out and lse, so threads may take them in any order.
 *
 * The softmax is computed in fp32 and tile by tile (online): of the tiles so far, the largest score, the sum of the
 * exponentials and the unnormalised result are kept, and the latter two are scaled down when a larger score is found.
 */
#include "attention_dot.h"
#include "attention_tile.h"

typedef struct attention_job {
    ia3_cpu *cpu;
    const ia3_attention *a;
    ia3_mask mask;
    char *scratch;
    size_t scratch_size;
} attention_job;

typedef struct attention_scratch {
    float *k, *v;             /* [keys, dp] */
    float *qt, *out, *rows;   /* [dp, QUERIES], [dp, QUERIES], [QUERIES, dp] */
    float *p, *mask;          /* [KEYS, QUERIES] */
    float *bias;              /* ia3_tile_bias */
    float *max, *sum;         /* [QUERIES]: of the tiles so far */
    float *tile_max, *factor; /* [QUERIES]: of one tile; by which the results of those before it are scaled */
} attention_scratch;

/* Places the arrays, sized for the longest sequence, at `base`; returns their size in bytes. base may be NULL. */
static size_t
lay_out(attention_scratch *s, char *base, const ia3_attention *a)
{
    const size_t dp = ia3_round16((size_t) a->d_kv), keys = ia3_round_rows((size_t) a->max_k) * dp,
                 block = IA3_QUERIES * dp, tile = IA3_KEYS * IA3_QUERIES;
    float **arrays[] = {&s->k,    &s->v,   &s->qt,  &s->out,      &s->rows,   &s->p,
                        &s->mask, &s->max, &s->sum, &s->tile_max, &s->factor, &s->bias};
    const size_t sizes[] = {keys, keys,        block,       block,       block,       tile,
                            tile, IA3_QUERIES, IA3_QUERIES, IA3_QUERIES, IA3_QUERIES, IA3_TILE_BIASES};
    size_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        *arrays[i] = base ? (float *) (void *) (base + at) : NULL;
        at += ia3_align_up(sizes[i] * sizeof(float));
    }
    return at;
}

/* Replaces the scores of a tile by their exponentials, with dropout applied, and updates max, sum and factor. */
static void
softmax_tile(const attention_scratch *s, size_t n_k, size_t vecs, bool first, bool masked)
{
    for (size_t v = 0; v < vecs; v++) {
        ia3_vec most = IA3_AT(s->tile_max, v), sum = {0}, all = {0};
        if (!first) {
            const ia3_vec old = IA3_AT(s->max, v);
            most = ia3_vec_max(most, old);
            const ia3_vec factor = ia3_vec_exp(old - most);
            IA3_AT(s->factor, v) = factor;
            all = IA3_AT(s->sum, v) * factor;
        }
        float *p = s->p + v * IA3_VEC_LANES;
        const float *m = s->mask + v * IA3_VEC_LANES;
        for (size_t j = 0; j < n_k; j++, p += IA3_QUERIES, m += IA3_QUERIES) {
            ia3_vec e = ia3_vec_exp(IA3_AT(p, 0) - most);
            sum += e;
            if (masked)
                e *= *(const ia3_vec *) m;
            IA3_AT(p, 0) = e;
        }
        IA3_AT(s->max, v) = most;
        IA3_AT(s->sum, v) = all + sum;
    }
}

/* Fetches the places of the results of n queries from i on. */
IA3_INLINE void
fetch_results(const ia3_head *h, size_t i, size_t n)
{
    const size_t size = h->bf16 ? sizeof(uint16_t) : sizeof(float), inner = (size_t) h->a->n_heads * h->d;
    for (size_t row = h->q0 + i; row < h->q0 + i + n; row++)
        for (size_t c = 0; c < h->d * size; c += 64)
            __builtin_prefetch((const char *) h->a->out + ia3_head_at(h, row, inner) * size + c, 1);
}

/* Attends to keys [k, k + n_k) with the queries in s->qt. */
static void
attend_tile(const attention_job *j, const ia3_head *h, const attention_scratch *s, const ia3_block_keys *keys,
            size_t k, size_t n_k, size_t vecs)
{
    const bool first = k == 0;
    ia3_scores scores = {.s = s->p,
                         .max = s->tile_max,
                         .k = s->k + k * h->dp,
                         .qt = s->qt,
                         .bias = s->bias,
                         .n_k = n_k,
                         .d = h->d,
                         .dp = h->dp};
    ia3_tile_scores(&scores, vecs);
    if (j->mask.on)
        ia3_tile_mask(s->mask, k, n_k, keys, vecs, j->a->dropout.site + (uint32_t) h->head, &j->mask);
    softmax_tile(s, n_k, vecs, first, j->mask.on);
    ia3_tile t = {.c = s->out,
                  .ldc = IA3_QUERIES,
                  .a = {s->v + k * h->dp, 1, h->dp},
                  .b = s->p,
                  .ldb = IA3_QUERIES,
                  .rows = ia3_round_rows(h->d),
                  .k = n_k,
                  .out = first ? IA3_TILE_SET : IA3_TILE_SCALE,
                  .scale = s->factor};
    ia3_tile_run(&t, vecs);
}

/* Normalises the results of queries [i, i + n) and stores them. */
static void
finish_queries(const ia3_head *h, const attention_scratch *s, size_t i, size_t n, size_t vecs)
{
    const ia3_attention *a = h->a;
    const size_t row = h->q0 + i, inner = (size_t) a->n_heads * h->d;
    for (size_t v = 0; v < vecs; v++)
        IA3_AT(s->factor, v) = 1.0f / IA3_AT(s->sum, v);
    ia3_block_store(h, a->out, row, n, inner, s->out, s->rows, s->factor, h->lv);
    for (size_t x = 0; x < n && a->lse; x++)
        a->lse[(row + x) * (size_t) a->n_heads + (size_t) h->head] = s->max[x] + logf(s->sum[x]);
}

static void
attend(const attention_job *j, const ia3_head *h, const attention_scratch *s)
{
    const ia3_attention *a = j->a;
    ia3_block_keys keys;
    ia3_tile_keys(h, s->k, a->k);
    ia3_tile_keys(h, s->v, a->v);
    for (size_t i = 0, n; i < h->n_q; i += n) {
        n = ia3_block_queries(h->n_q - i);
        const size_t vecs = ia3_vectors(n);
        ia3_head_beat(h->n_k);
        fetch_results(h, i, n);
        ia3_block_load(h, s->qt, s->rows, a->q, h->q0 + i, n, a->q_stride, h->lk);
        if (j->mask.on)
            ia3_block_keys_of(&keys, a->dropout.row_key + h->q0 + i, n);
        for (size_t k = 0; k < h->n_k; k += IA3_KEYS) {
            const size_t n_k = h->n_k - k < IA3_KEYS ? h->n_k - k : IA3_KEYS;
            ia3_tile_bias(h, s->bias, i, n, k, n_k);
            attend_tile(j, h, s, &keys, k, n_k, vecs);
        }
        finish_queries(h, s, i, n, vecs);
    }
}

static void
attention_work(void *arg, int slot, size_t begin, size_t end)
{
    const attention_job *j = arg;
    attention_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, j->a);
    for (size_t i = begin; i < end; i++) {
        const ia3_head h = ia3_head_of(j->a, i, j->cpu->bf16);
        if (h.n_k == 0)
            ia3_attend_nothing(&h);
        else if (h.n_q > 0)
            attend(j, &h, &s);
    }
}

void
ia3_cpu_attention(ia3_device *dev, const ia3_attention *a)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (a->n_seq <= 0)
        return;
    if (a->parent) {
        ia3_cpu_tree_attention(cpu, a);
        return;
    }
    if (ia3_dot_usable(cpu, a)) {
        ia3_dot_attention(cpu, a);
        return;
    }
    size_t mark = ia3_cpu_arena_mark(dev);
    attention_job j = {.cpu = cpu, .a = a, .mask = ia3_mask_of(&a->dropout)};
    attention_scratch s;
    j.scratch_size = lay_out(&s, NULL, a);
    j.scratch = ia3_cpu_arena_alloc(dev, j.scratch_size * (size_t) cpu->threads);
    ia3_parallel_dynamic(cpu->pool, (size_t) a->n_seq * (size_t) a->n_heads, attention_work, &j);
    ia3_cpu_arena_release(dev, mark);
}
