/*
 * attention_dot_bwd.c
 *     Backward attention with bfloat16 dot products. As in attention_bwd.c, an item of work is one head of one sequence.
 *
 * dk' = dSᵀ·q and dv' = (m ⊙ P)ᵀ·dout need the columns of their left operands. So P and dS are stored with the
 * elements of two successive queries side by side, [queries / 2, keys, 2], which bgemm.h reads with a step of one row.
 */
#include "attention_dot.h"
#include "dot.h"

#if defined(__AVX512BF16__)

typedef struct dot_job {
    ia3_cpu *cpu;
    const ia3_attention *a;
    const ia3_attention_grad *g;
    ia3_mask mask;
    float *partial; /* [n_seq, 2, inner] or NULL */
    float *dbias;   /* [n_seq, n_heads, 2·bias_span - 1] or NULL */
    char *scratch;
    size_t scratch_size;
} dot_job;

typedef struct dot_scratch {
    uint16_t *kt, *vt, *k;        /* k, v packed by columns; k packed by rows */
    uint16_t *q, *dout, *parts;   /* a block of queries, packed; scaled rows */
    float *s, *dp;                /* [Q_BLOCK, ld] */
    uint16_t *ds;                 /* [Q_BLOCK, ld] */
    uint16_t *p_pairs, *ds_pairs; /* [Q_BLOCK / 2, ld, 2] */
    float *dk, *dv;               /* [keys, d] of k', v' */
    float *mask;                  /* [ld] */
    size_t ld, d;
} dot_scratch;

/* Places the arrays, sized for the longest sequence, at `base`; returns their size in bytes. base may be NULL. */
static size_t
lay_out(dot_scratch *s, char *base, const ia3_attention *a)
{
    const size_t d = ia3_round32((size_t) a->d_kv), ld = ia3_round64((size_t) a->max_k);
    const size_t keys = ld * d * sizeof(uint16_t), block = IA3_Q_BLOCK * d * sizeof(uint16_t),
                 weights = IA3_Q_BLOCK * ld * sizeof(uint16_t);
    const size_t sizes[] = {keys,        keys,    keys,    block,   block,    2 * block, 2 * weights,
                            2 * weights, weights, weights, weights, 2 * keys, 2 * keys,  ld * sizeof(float)};
    enum { N = sizeof sizes / sizeof sizes[0] };
    void *at[N];
    size_t bytes = 0;
    for (int i = 0; i < N; i++) {
        at[i] = base ? base + bytes : NULL;
        bytes += ia3_align_up(sizes[i]);
    }
    *s = (dot_scratch){at[0], at[1], at[2],  at[3],  at[4],  at[5],  at[6], at[7],
                       at[8], at[9], at[10], at[11], at[12], at[13], ld,    d};
    return bytes;
}

/* For one query, replaces the scores in s by m ⊙ P and dout·v'ᵀ in dp by dS. */
static void
softmax_bwd_row(const dot_job *j, const ia3_head *h, const dot_scratch *s, size_t x, size_t i)
{
    const size_t n = h->n_k, row = h->q0 + i + x;
    float *p = s->s + x * s->ld, *dp = s->dp + x * s->ld;
    const float *bias = ia3_head_bias(h, i + x);
    const __m512 lse = _mm512_set1_ps(j->a->lse[row * (size_t) j->a->n_heads + (size_t) h->head]);
    const __m512 one = _mm512_set1_ps(1.0f);
    if (j->mask.on) {
        const ia3_dropout *drop = &j->a->dropout;
        ia3_mask_row(s->mask, n, 0, drop->row_key[row], drop->site + (uint32_t) h->head, &j->mask);
    }
    __m512 total = _mm512_setzero_ps();
    for (size_t c = 0; c < n; c += 16) {
        __mmask16 m = ia3_lanes(n - c);
        __m512 e = _mm512_maskz_loadu_ps(m, p + c);
        if (bias)
            e = _mm512_add_ps(e, _mm512_maskz_loadu_ps(m, bias + c));
        e = _mm512_maskz_mov_ps(m, ia3_exp16(_mm512_sub_ps(e, lse)));
        __m512 keep = j->mask.on ? _mm512_loadu_ps(s->mask + c) : one;
        __m512 g = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, dp + c), keep);
        total = _mm512_fmadd_ps(e, g, total);
        _mm512_storeu_ps(p + c, e);
        _mm512_storeu_ps(dp + c, g);
    }
    const __m512 sum = _mm512_set1_ps(_mm512_reduce_add_ps(total));
    for (size_t c = 0; c < n; c += 16) {
        __m512 e = _mm512_loadu_ps(p + c);
        _mm512_storeu_ps(dp + c, _mm512_mul_ps(e, _mm512_sub_ps(_mm512_loadu_ps(dp + c), sum)));
        if (j->mask.on)
            _mm512_storeu_ps(p + c, _mm512_mul_ps(e, _mm512_loadu_ps(s->mask + c)));
    }
}

/* Rounds two queries' rows of x and stores them as pairs and, unless `rows` is NULL, also as rows. */
static void
store_pair(uint16_t *pairs, uint16_t *rows, size_t ld, const float *x, bool second, size_t n)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (size_t c = 0; c < n; c += 16) {
        __m512 low = _mm512_loadu_ps(x + c), high = _mm512_setzero_ps();
        if (second)
            high = _mm512_loadu_ps(x + ld + c);
        __m512i both = (__m512i) _mm512_cvtne2ps_pbh(high, low);
        _mm512_storeu_si512(pairs + 2 * c, _mm512_permutexvar_epi16(order, both));
        if (rows) {
            _mm256_storeu_si256((__m256i *) (rows + c), _mm512_castsi512_si256(both));
            _mm256_storeu_si256((__m256i *) (rows + ld + c), _mm512_extracti64x4_epi64(both, 1));
        }
    }
}

/* Processes queries [i, i + n): writes dq and adds to dk' and dv', which the first queries initialise. */
static void
backward_queries(const dot_job *j, const ia3_head *h, const dot_scratch *s, size_t i, size_t n)
{
    const ia3_attention *a = j->a;
    const size_t inner = (size_t) a->n_heads * h->d, ld = s->ld, row = h->q0 + i, even = n + n % 2;
    const ia3_out add = i == 0 ? IA3_OUT_F32 : IA3_OUT_ADD_F32;
    ia3_rows q = ia3_head_view(h, a->q, row, n, a->q_stride);
    ia3_rows dout = ia3_head_view(h, j->g->dout, row, n, inner);
    ia3_pack_rows(s->q, q);
    ia3_pack_rows(s->dout, dout);
    ia3_dot_scores(h, s->s, ld, q, s->kt, s->parts);
    if (h->lv)
        dout = ia3_scaled_rows(s->parts, NULL, dout, h->lv);
    ia3_dot_product(s->dp, ld, IA3_OUT_F32, NULL, dout.p, dout.stride, 2, n, s->vt, h->d, h->n_k);
    for (size_t x = 0; x < n; x++) {
        softmax_bwd_row(j, h, s, x, i);
        float *restrict dbias = ia3_head_dbias(h, j->dbias, i + x);
        for (size_t c = 0; dbias && c < h->n_k; c++)
            dbias[c] += s->dp[x * ld + c];
    }
    for (size_t x = 0; x < n; x += 2) {
        store_pair(s->p_pairs + x * ld, NULL, ld, s->s + x * ld, x + 1 < n, h->n_k);
        store_pair(s->ds_pairs + x * ld, s->ds + x * ld, ld, s->dp + x * ld, x + 1 < n, h->n_k);
    }
    ia3_dot_product(s->dv, s->d, add, NULL, s->p_pairs, 2, 2 * ld, h->n_k, s->dout, even, h->d);
    ia3_dot_product(s->dk, s->d, add, NULL, s->ds_pairs, 2, 2 * ld, h->n_k, s->q, even, h->d);
    if (j->g->dq)
        ia3_dot_product((uint16_t *) j->g->dq + ia3_head_at(h, row, a->q_stride), a->q_stride, IA3_OUT_ACT,
                        h->lk, s->ds, ld, 2, n, s->k, h->n_k + h->n_k % 2, h->d);
}

/* Writes dk (or dv) of the head, and the sequence's share of dl. */
static void
finish_keys(const ia3_head *h, const dot_scratch *s, const float *scaled, const void *unscaled, void *to,
            const float *l, float *partial)
{
    const size_t stride = h->a->kv_stride, at = ia3_head_at(h, h->k0, stride);
    for (size_t c = 0; c < h->d; c += 16) {
        const __mmask16 m = ia3_lanes(h->d - c);
        const __m512 by = l ? _mm512_maskz_loadu_ps(m, l + c) : _mm512_set1_ps(1.0f);
        const uint16_t *from = (const uint16_t *) unscaled + at + c;
        uint16_t *d = (uint16_t *) to + at + c;
        __m512 sum = _mm512_setzero_ps();
        for (size_t x = 0; x < h->n_k; x++) {
            __m512 g = _mm512_maskz_loadu_ps(m, scaled + x * s->d + c);
            if (partial)
                sum = _mm512_fmadd_ps(g, ia3_load16(from + x * stride, m), sum);
            ia3_store16(d + x * stride, m, _mm512_mul_ps(g, by));
        }
        if (partial)
            _mm512_mask_storeu_ps(partial + c, m, sum);
    }
}

static void
attend_bwd(const dot_job *j, const ia3_head *h, const dot_scratch *s)
{
    const ia3_attention *a = j->a;
    const size_t inner = (size_t) a->n_heads * h->d;
    ia3_rows k = ia3_head_view(h, a->k, h->k0, h->n_k, a->kv_stride);
    ia3_pack_columns(s->vt, ia3_head_view(h, a->v, h->k0, h->n_k, a->kv_stride));
    ia3_pack_columns(s->kt, k);
    if (j->g->dq)
        ia3_pack_rows(s->k, k);
    if (h->n_q == 0) {
        memset(s->dk, 0, h->n_k * s->d * sizeof(float));
        memset(s->dv, 0, h->n_k * s->d * sizeof(float));
    }
    for (size_t i = 0; i < h->n_q; i += IA3_Q_BLOCK) {
        ia3_head_beat(h->n_k);
        backward_queries(j, h, s, i, h->n_q - i < IA3_Q_BLOCK ? h->n_q - i : IA3_Q_BLOCK);
    }
    float *sum = j->partial ? j->partial + (size_t) h->seq * 2 * inner + (size_t) h->head * h->d : NULL;
    finish_keys(h, s, s->dk, a->k, j->g->dk, h->lk, sum);
    finish_keys(h, s, s->dv, a->v, j->g->dv, h->lv, sum ? sum + inner : NULL);
}

static void
dot_work(void *arg, int slot, size_t begin, size_t end)
{
    const dot_job *j = arg;
    dot_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, j->a);
    for (size_t i = begin; i < end; i++) {
        ia3_head h = ia3_head_of(j->a, i, true);
        if (h.n_k > 0)
            attend_bwd(j, &h, &s);
        else
            ia3_attend_nothing_bwd(&h, j->g);
    }
}

void
ia3_dot_attention_bwd(ia3_cpu *cpu, const ia3_attention *a, const ia3_attention_grad *g, float *partial,
                      float *dbias)
{
    size_t mark = ia3_cpu_arena_mark(&cpu->base);
    dot_job j = {
        .cpu = cpu, .a = a, .g = g, .mask = ia3_mask_of(&a->dropout), .partial = partial, .dbias = dbias};
    dot_scratch s;
    j.scratch_size = lay_out(&s, NULL, a);
    j.scratch = ia3_cpu_arena_alloc(&cpu->base, j.scratch_size * (size_t) cpu->threads);
    ia3_parallel_dynamic(cpu->pool, (size_t) a->n_seq * (size_t) a->n_heads, dot_work, &j);
    ia3_cpu_arena_release(&cpu->base, mark);
}

#endif
