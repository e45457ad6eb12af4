/*
 * attention_bwd.c
 *     Backward attention. P is recomputed from the lse that the forward pass left; k' = k ⊙ l_k and v' = v ⊙ l_v.
 *
 *   P = exp(S - lse)             dP = m ⊙ (dout·v'ᵀ)         dS = P ⊙ (dP - Σ_j P ⊙ dP)
 *   dq = dS·k'      dk' = dSᵀ·q      dv' = (m ⊙ P)ᵀ·dout
 *   dk = dk' ⊙ l_k  dv = dv' ⊙ l_v   dl_k += Σ_rows dk' ⊙ k   dl_v += Σ_rows dv' ⊙ v
 *
 * An item of work is one head of one sequence, as in the forward pass. Each sequence's share of dl_k and dl_v is
 * stored separately ([n_seq, 2, inner]); the shares are added up in the order of the sequences at the end, so the
 * result does not depend on the number of threads.
 */
#include "attention.h"
#include "attention_dot.h"

typedef struct bwd_job {
    ia3_cpu *cpu;
    const ia3_attention *a;
    const ia3_attention_grad *g;
    ia3_mask mask;
    float *partial; /* [n_seq, 2, inner] or NULL */
    char *scratch;
    size_t scratch_size;
} bwd_job;

typedef struct bwd_scratch {
    float *kt, *vt;       /* [d, kp]: k', v' transposed */
    float *k;             /* [n_k, dp]: k' */
    float *dk, *dv;       /* [n_k, dp]: of k', v' */
    float *q, *dout, *dq; /* [Q_BLOCK, dp] */
    float *p, *dp;        /* [Q_BLOCK, ld] */
    float *mask;          /* [ld] */
    float *row;           /* [dp] */
    size_t ld;
} bwd_scratch;

/* Places the arrays, sized for the longest sequence, at `base`; returns their size in bytes. base may be NULL. */
static size_t
lay_out(bwd_scratch *s, char *base, const ia3_attention *a)
{
    size_t d = (size_t) a->d_kv, dp = ia3_round16(d), k = (size_t) a->max_k, kp = ia3_round16(k);
    s->ld = ia3_round64(k);
    float **arrays[] = {&s->kt,   &s->vt, &s->k, &s->dk, &s->dv,   &s->q,
                        &s->dout, &s->dq, &s->p, &s->dp, &s->mask, &s->row};
    size_t q = IA3_Q_BLOCK;
    size_t sizes[] = {d * kp, d * kp, kp * dp,   kp * dp,   kp * dp, q * dp,
                      q * dp, q * dp, q * s->ld, q * s->ld, s->ld,   dp};
    size_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        *arrays[i] = base ? (float *) (void *) (base + at) : NULL;
        at += ia3_align_up(sizes[i] * sizeof(float));
    }
    return at;
}

/*
 * For one query, replaces the scores in p by P with dropout applied (for dv') and dout·v'ᵀ in dp by dS.
 */
static void
softmax_bwd_row(const bwd_job *j, const ia3_head *h, const bwd_scratch *s, float *restrict p,
                float *restrict dp, size_t row)
{
    const size_t n = h->n_k;
    float lse = j->a->lse[row * (size_t) j->a->n_heads + (size_t) h->head];
    for (size_t x = 0; x < n; x++)
        p[x] = ia3_expf(p[x] - lse);
    const float *restrict m = s->mask;
    if (j->mask.on) {
        const ia3_dropout *drop = &j->a->dropout;
        ia3_mask_row(s->mask, n, 0, drop->row_key[row], drop->site + (uint32_t) h->head, &j->mask);
        for (size_t x = 0; x < n; x++)
            dp[x] *= m[x];
    }
    float sum = ia3_dot(p, dp, n);
    for (size_t x = 0; x < n; x++)
        dp[x] = p[x] * (dp[x] - sum);
    if (j->mask.on)
        for (size_t x = 0; x < n; x++)
            p[x] *= m[x];
}

/* Processes queries [i, i + n): adds to dk' and dv' and writes dq. */
static void
backward_queries(const bwd_job *j, const ia3_head *h, const bwd_scratch *s, size_t i, size_t n)
{
    const ia3_attention *a = j->a;
    size_t inner = (size_t) a->n_heads * h->d, ld = s->ld, dp = h->dp, row = h->q0 + i;
    ia3_head_rows(h, s->q, a->q, row, n, a->q_stride, NULL);
    ia3_head_rows(h, s->dout, j->g->dout, row, n, inner, NULL);
    ia3_head_scores(h, s->p, ld, s->q, s->kt, i, n);
    ia3_sgemm(s->dp, ld, (ia3_sgemm_a){s->dout, dp, 1}, s->vt, h->kp, n, h->kp, h->d, false);
    for (size_t x = 0; x < n; x++)
        softmax_bwd_row(j, h, s, s->p + x * ld, s->dp + x * ld, row + x);
    ia3_sgemm(s->dv, dp, (ia3_sgemm_a){s->p, 1, ld}, s->dout, dp, h->n_k, dp, n, true);
    ia3_sgemm(s->dk, dp, (ia3_sgemm_a){s->dp, 1, ld}, s->q, dp, h->n_k, dp, n, true);
    if (!j->g->dq)
        return;
    ia3_sgemm(s->dq, dp, (ia3_sgemm_a){s->dp, ld, 1}, s->k, dp, n, dp, h->n_k, false);
    for (size_t x = 0; x < n; x++)
        ia3_store_act(j->g->dq, ia3_head_at(h, row + x, a->q_stride), s->dq + x * dp, h->d, h->bf16);
}

/* Writes dk (or dv) of the head, and the sequence's share of dl. */
static void
finish_keys(const ia3_head *h, float *d_scaled, const void *unscaled, void *to, const float *l,
            float *partial, float *restrict row)
{
    const ia3_attention *a = h->a;
    for (size_t x = 0; x < h->n_k; x++) {
        float *restrict d = d_scaled + x * h->dp;
        if (partial) {
            float *restrict sum = partial;
            ia3_head_row(h, row, unscaled, h->k0 + x, a->kv_stride, NULL);
            for (size_t i = 0; i < h->d; i++)
                sum[i] += d[i] * row[i];
        }
        for (size_t i = 0; i < h->d && l; i++)
            d[i] *= l[i];
        ia3_store_act(to, ia3_head_at(h, h->k0 + x, a->kv_stride), d, h->d, h->bf16);
    }
}

static void
attend_bwd(const bwd_job *j, const ia3_head *h, const bwd_scratch *s)
{
    const ia3_attention *a = j->a;
    size_t inner = (size_t) a->n_heads * h->d;
    ia3_head_rows(h, s->k, a->v, h->k0, h->n_k, a->kv_stride, h->lv);
    ia3_head_transpose(h, s->vt, s->k);
    ia3_head_rows(h, s->k, a->k, h->k0, h->n_k, a->kv_stride, h->lk);
    ia3_head_transpose(h, s->kt, s->k);
    memset(s->dk, 0, h->n_k * h->dp * sizeof(float));
    memset(s->dv, 0, h->n_k * h->dp * sizeof(float));
    for (size_t i = 0; i < h->n_q; i += IA3_Q_BLOCK) {
        ia3_head_beat(h->n_k);
        backward_queries(j, h, s, i, h->n_q - i < IA3_Q_BLOCK ? h->n_q - i : IA3_Q_BLOCK);
    }
    float *sum = j->partial ? j->partial + (size_t) h->seq * 2 * inner + (size_t) h->head * h->d : NULL;
    finish_keys(h, s->dk, a->k, j->g->dk, h->lk, sum, s->row);
    finish_keys(h, s->dv, a->v, j->g->dv, h->lv, sum ? sum + inner : NULL, s->row);
}

static void
bwd_work(void *arg, int slot, size_t begin, size_t end)
{
    const bwd_job *j = arg;
    bwd_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, j->a);
    for (size_t i = begin; i < end; i++) {
        ia3_head h = ia3_head_of(j->a, i, j->cpu->bf16);
        if (h.n_k > 0)
            attend_bwd(j, &h, &s);
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
    if (a->parent) {
        ia3_cpu_tree_attention_bwd(cpu, a, g, j.partial);
    } else if (ia3_dot_usable(cpu, a)) {
        ia3_dot_attention_bwd(cpu, a, g, j.partial);
    } else {
        bwd_scratch s;
        j.scratch_size = lay_out(&s, NULL, a);
        j.scratch = ia3_cpu_arena_alloc(dev, j.scratch_size * (size_t) cpu->threads);
        ia3_parallel_dynamic(cpu->pool, (size_t) a->n_seq * (size_t) a->n_heads, bwd_work, &j);
    }
    if (j.partial)
        ia3_parallel(cpu->pool, inner, ia3_grain(2 * (size_t) a->n_seq), sum_work, &j);
    ia3_cpu_arena_release(dev, mark);
}
