/*
 * attention_dot.c
 *     Forward attention with bfloat16 dot products. As in attention.c, an item of work is one head of one sequence.
 */
#include "attention_dot.h"

#include "dot.h"

#if defined(__AVX512BF16__)

typedef struct dot_job {
    ia3_cpu *cpu;
    const ia3_attention *a;
    ia3_mask mask;
    char *scratch;
    size_t scratch_size;
} dot_job;

typedef struct dot_scratch {
    uint16_t *k, *v; /* packed by columns, by rows */
    uint16_t *q;     /* ia3_dot_scores */
    float *s;        /* [Q_BLOCK, ld] */
    uint16_t *p;     /* [Q_BLOCK, ld] */
    float *mask;     /* [ld] */
    float *share;    /* [Q_BLOCK] */
    size_t ld;
} dot_scratch;

/* Places the arrays, sized for the longest sequence, at `base`; returns their size in bytes. base may be NULL. */
static size_t
lay_out(dot_scratch *s, char *base, const ia3_attention *a)
{
    const size_t d = ia3_round32((size_t) a->d_kv), ld = ia3_round64((size_t) a->max_k),
                 act = sizeof(uint16_t);
    const size_t sizes[] = {ld * d * act,
                            ld * d * act,
                            2 * IA3_Q_BLOCK * d * act,
                            IA3_Q_BLOCK * ld * sizeof(float),
                            IA3_Q_BLOCK * ld * act,
                            ld * sizeof(float),
                            IA3_Q_BLOCK * sizeof(float)};
    void *at[7];
    size_t bytes = 0;
    for (int i = 0; i < 7; i++) {
        at[i] = base ? base + bytes : NULL;
        bytes += ia3_align_up(sizes[i]);
    }
    *s = (dot_scratch){at[0], at[1], at[2], at[3], at[4], at[5], at[6], ld};
    return bytes;
}

/*
 * Computes the attention weights of one query before normalisation, followed by zeros; the largest is one, which
 * bfloat16 represents exactly. Writes the factor that normalises them to s->share. Returns log Σ exp S.
 */
static float
softmax_row(const dot_job *j, const ia3_head *h, const dot_scratch *s, size_t x, size_t i)
{
    const size_t n = h->n_k, row = h->q0 + i + x;
    float *scores = s->s + x * s->ld;
    float max = ia3_add_bias(scores, ia3_head_bias(h, i + x), n), sum = ia3_exponentials(scores, max, n);
    s->share[x] = (j->mask.on ? j->mask.keep : 1.0f) / sum;
    uint16_t *p = s->p + x * s->ld;
    if (j->mask.on) {
        const ia3_dropout *drop = &j->a->dropout;
        ia3_mask_row(s->mask, n, 0, drop->row_key[row], drop->site + (uint32_t) h->head, &j->mask);
    }
    for (size_t c = 0; c < n; c += 16) {
        __mmask16 m = ia3_lanes(n - c);
        if (j->mask.on)
            m &= _mm512_cmp_ps_mask(_mm512_loadu_ps(s->mask + c), _mm512_setzero_ps(), _CMP_NEQ_UQ);
        ia3_store16(p + c, 0xffff, _mm512_maskz_loadu_ps(m, scores + c));
    }
    return max + logf(sum);
}

static void
attend(const dot_job *j, const ia3_head *h, const dot_scratch *s)
{
    const ia3_attention *a = j->a;
    const size_t inner = (size_t) a->n_heads * h->d;
    uint16_t *out = (uint16_t *) a->out + ia3_head_at(h, h->q0, inner);
    ia3_pack_columns(s->k, ia3_head_view(h, a->k, h->k0, h->n_k, a->kv_stride));
    ia3_pack_rows(s->v, ia3_head_view(h, a->v, h->k0, h->n_k, a->kv_stride));
    for (size_t i = 0; i < h->n_q; i += IA3_Q_BLOCK) {
        size_t n = h->n_q - i < IA3_Q_BLOCK ? h->n_q - i : IA3_Q_BLOCK;
        ia3_head_beat(h->n_k);
        ia3_dot_scores(h, s->s, s->ld, ia3_head_view(h, a->q, h->q0 + i, n, a->q_stride), s->k, s->q);
        for (size_t x = 0; x < n; x++) {
            float lse = softmax_row(j, h, s, x, i);
            if (a->lse)
                a->lse[(h->q0 + i + x) * (size_t) a->n_heads + (size_t) h->head] = lse;
        }
        ia3_bgemm g = {.a = s->p,
                       .packed = s->v,
                       .lda = s->ld,
                       .step = 2,
                       .y = out + i * inner,
                       .ldy = inner,
                       .column_scale = h->lv,
                       .row_scale = s->share,
                       .rows = (int) n,
                       .k = (int) (h->n_k + h->n_k % 2),
                       .depth = (int) (h->n_k + h->n_k % 2),
                       .n = (int) h->d,
                       .strips = (int) ((h->d + IA3_STRIP - 1) / IA3_STRIP),
                       .out = IA3_OUT_ACT};
        ia3_bgemm_run(&g);
    }
}

static void
dot_work(void *arg, int slot, size_t begin, size_t end)
{
    const dot_job *j = arg;
    dot_scratch s;
    lay_out(&s, j->scratch + (size_t) slot * j->scratch_size, j->a);
    for (size_t i = begin; i < end; i++) {
        ia3_head h = ia3_head_of(j->a, i, true);
        if (h.n_k == 0)
            ia3_attend_nothing(&h);
        else if (h.n_q > 0)
            attend(j, &h, &s);
    }
}

void
ia3_dot_attention(ia3_cpu *cpu, const ia3_attention *a)
{
    size_t mark = ia3_cpu_arena_mark(&cpu->base);
    dot_job j = {.cpu = cpu, .a = a, .mask = ia3_mask_of(&a->dropout)};
    dot_scratch s;
    j.scratch_size = lay_out(&s, NULL, a);
    j.scratch = ia3_cpu_arena_alloc(&cpu->base, j.scratch_size * (size_t) cpu->threads);
    ia3_parallel_dynamic(cpu->pool, (size_t) a->n_seq * (size_t) a->n_heads, dot_work, &j);
    ia3_cpu_arena_release(&cpu->base, mark);
}

bool
ia3_dot_usable(const ia3_cpu *cpu, const ia3_attention *a)
{
    return cpu->bf16 && a->d_kv % 2 == 0;
}

#else

bool
ia3_dot_usable(const ia3_cpu *cpu, const ia3_attention *a)
{
    return false;
}

void
ia3_dot_attention(ia3_cpu *cpu, const ia3_attention *a)
{
}

void
ia3_dot_attention_bwd(ia3_cpu *cpu, const ia3_attention *a, const ia3_attention_grad *g, float *partial,
                      float *dbias)
{
}

#endif
