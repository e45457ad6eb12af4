/*
 * attention.c
 *     Multi-head attention over packed sequences, as in T5 (without 1/√d), with (IA)³ vectors and dropout.
 *
 *   S = q·(k ⊙ l_k)ᵀ + bias     P = softmax(S)     out = (m ⊙ P)·(v ⊙ l_v)     lse = log Σ exp S
 *
 * One item of work is one head of one sequence; its keys and values are converted to fp32 once. Items write disjoint
 * parts of out and lse, so threads may take them in any order. The softmax is computed in fp32.
 */
#include "attention.h"
#include "attention_dot.h"

typedef struct attention_job {
    ia3_cpu *cpu;
    const ia3_attention *a;
    ia3_mask mask;
    char *scratch;
    size_t scratch_size;
} attention_job;

typedef struct attention_scratch {
    float *kt, *v;  /* [d, kp], [n_k, dp] */
    float *q, *out; /* [Q_BLOCK, dp] */
    float *p;       /* [Q_BLOCK, ld] */
    float *mask;    /* [ld] */
    size_t ld;
} attention_scratch;

/* Places the arrays, sized for the longest sequence, at `base`; returns their size in bytes. base may be NULL. */
static size_t
lay_out(attention_scratch *s, char *base, const ia3_attention *a)
{
    size_t d = (size_t) a->d_kv, dp = ia3_round16(d), k = (size_t) a->max_k, kp = ia3_round16(k);
    float **arrays[] = {&s->kt, &s->v, &s->q, &s->out, &s->p, &s->mask};
    s->ld = ia3_round64(k);
    /* v's memory also holds k until that has been transposed */
    size_t sizes[] = {d * kp, kp * dp, IA3_Q_BLOCK * dp, IA3_Q_BLOCK * dp, IA3_Q_BLOCK * s->ld, s->ld};
    size_t at = 0;
    for (int i = 0; i < 6; i++) {
        *arrays[i] = base ? (float *) (void *) (base + at) : NULL;
        at += ia3_align_up(sizes[i] * sizeof(float));
    }
    return at;
}

/* Replaces the scores of one query by P, with dropout applied; returns log Σ exp S. */
static float
softmax_row(const attention_job *j, const ia3_head *h, const attention_scratch *s, float *restrict p,
            size_t row)
{
    float max = ia3_max(p, h->n_k);
    float sum = ia3_exp_row(p, h->n_k, max);
    float scale = 1.0f / sum;
    if (j->mask.on) {
        const ia3_dropout *drop = &j->a->dropout;
        ia3_mask_row(s->mask, h->n_k, 0, drop->row_key[row], drop->site + (uint32_t) h->head, &j->mask);
        const float *restrict m = s->mask;
        for (size_t x = 0; x < h->n_k; x++)
            p[x] *= scale * m[x];
    } else {
        for (size_t x = 0; x < h->n_k; x++)
            p[x] *= scale;
    }
    return max + logf(sum);
}

static void
attend(const attention_job *j, const ia3_head *h, const attention_scratch *s)
{
    const ia3_attention *a = j->a;
    size_t inner = (size_t) a->n_heads * h->d;
    ia3_head_rows(h, s->v, a->k, h->k0, h->n_k, a->kv_stride, h->lk);
    ia3_head_transpose(h, s->kt, s->v);
    ia3_head_rows(h, s->v, a->v, h->k0, h->n_k, a->kv_stride, h->lv);
    for (size_t i = 0; i < h->n_q; i += IA3_Q_BLOCK) {
        size_t n = h->n_q - i < IA3_Q_BLOCK ? h->n_q - i : IA3_Q_BLOCK;
        ia3_head_beat(h->n_k);
        ia3_head_rows(h, s->q, a->q, h->q0 + i, n, a->q_stride, NULL);
        ia3_head_scores(h, s->p, s->ld, s->q, s->kt, i, n);
        for (size_t x = 0; x < n; x++) {
            size_t row = h->q0 + i + x;
            float lse = softmax_row(j, h, s, s->p + x * s->ld, row);
            if (a->lse)
                a->lse[row * (size_t) a->n_heads + (size_t) h->head] = lse;
        }
        ia3_sgemm(s->out, h->dp, (ia3_sgemm_a){s->p, s->ld, 1}, s->v, h->dp, n, h->dp, h->n_k, false);
        for (size_t x = 0; x < n; x++)
            ia3_store_act(a->out, ia3_head_at(h, h->q0 + i + x, inner), s->out + x * h->dp, h->d, h->bf16);
    }
}

static void
attention_work(void *arg, int slot, size_t begin, size_t end)
{
    const attention_job *j = arg;
    attention_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, j->a);
    for (size_t i = begin; i < end; i++) {
        ia3_head h = ia3_head_of(j->a, i, j->cpu->bf16);
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
