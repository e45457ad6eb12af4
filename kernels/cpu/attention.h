/*
 * attention.h
 *     Common parts of the attention kernels: one head of one sequence, and its rows in fp32 scratch memory.
 */
#ifndef IA3_CPU_ATTENTION_H
#define IA3_CPU_ATTENTION_H

#include "cpu.h"
#include "engine/base/heartbeat.h"
#include "mask.h"
#include "simd.h"

/* Queries that the kernels with bfloat16 dot products process at a time. */
enum { IA3_Q_BLOCK = 64 };

static inline size_t
ia3_round16(size_t n)
{
    return (n + 15) / 16 * 16;
}

static inline size_t
ia3_round32(size_t n)
{
    return (n + 31) / 32 * 32;
}

/* Row stride of attention weights in scratch memory; ia3_mask_row may write this many. */
static inline size_t
ia3_round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

/* One head of one sequence. */
typedef struct ia3_head {
    const ia3_attention *a;
    int seq, head;
    size_t q0, n_q, k0, n_k; /* first row and number of rows */
    size_t d, dp;            /* d_kv, and rounded up to 16 */
    const float *lk, *lv;    /* (IA)³ vectors of this head, or NULL for ones */
    bool bf16;
} ia3_head;

static inline ia3_head
ia3_head_of(const ia3_attention *a, size_t item, bool bf16)
{
    ia3_head h = {
        .a = a, .seq = (int) (item / (size_t) a->n_heads), .head = (int) (item % (size_t) a->n_heads)};
    h.q0 = (size_t) a->q_offsets[h.seq];
    h.n_q = (size_t) a->q_offsets[h.seq + 1] - h.q0;
    h.k0 = (size_t) a->k_offsets[h.seq];
    h.n_k = (size_t) a->k_offsets[h.seq + 1] - h.k0;
    h.d = (size_t) a->d_kv;
    h.dp = ia3_round16(h.d);
    const float *lk = ia3_scale_of(&a->scale_k, h.seq), *lv = ia3_scale_of(&a->scale_v, h.seq);
    h.lk = lk ? lk + (size_t) h.head * h.d : NULL;
    h.lv = lv ? lv + (size_t) h.head * h.d : NULL;
    h.bf16 = bf16;
    return h;
}

/* Index of this head's first element in row `row` of an array with the given stride. */
static inline size_t
ia3_head_at(const ia3_head *h, size_t row, size_t stride)
{
    return row * stride + (size_t) h->head * h->d;
}

/* The head that the same thread will probably process after h, that of `item`; without rows if there is none. */
static inline ia3_head
ia3_head_after(const ia3_head *h, size_t item, int threads)
{
    const size_t n = (size_t) h->a->n_seq * (size_t) h->a->n_heads, next = item + (size_t) threads;
    return next < n ? ia3_head_of(h->a, next, h->bf16) : (ia3_head){0};
}

/* Copies one head of one row to to[dp] as fp32, times `scale` unless it is NULL, padded with zeros. */
static inline void
ia3_head_row(const ia3_head *h, float *restrict to, const void *from, size_t row, size_t stride,
             const float *restrict scale)
{
    const size_t at = ia3_head_at(h, row, stride);
    size_t i = 0;
    for (; i + IA3_VEC_LANES <= h->d; i += IA3_VEC_LANES) {
        ia3_vec x = ia3_vec_load_act(from, at + i, h->bf16);
        if (scale)
            x *= *(const ia3_vec *) (scale + i);
        *(ia3_vec *) (to + i) = x;
    }
    if (i < h->d)
        ia3_load_act(to + i, from, at + i, h->d - i, h->bf16);
    for (; i < h->d; i++)
        to[i] *= scale ? scale[i] : 1.0f;
    for (; i < h->dp; i++)
        to[i] = 0.0f;
}

/* Does the same for rows [row, row + n); to is [n, dp]. */
static inline void
ia3_head_rows(const ia3_head *h, float *to, const void *from, size_t row, size_t n, size_t stride,
              const float *scale)
{
    for (size_t i = 0; i < n; i++)
        ia3_head_row(h, to + i * h->dp, from, row + i, stride, scale);
}

/* The position bias of query i of the sequence for key 0, followed by that for the next keys; or NULL. */
static inline const float *
ia3_head_bias(const ia3_head *h, size_t i)
{
    const ia3_attention *a = h->a;
    if (!a->bias)
        return NULL;
    return a->bias + (size_t) h->head * (2 * (size_t) a->bias_span - 1) + (size_t) a->bias_span - 1 - i;
}

/* Likewise, what sequence h->seq adds to the gradient of the bias; `shares` is [n_seq, n_heads, 2·bias_span - 1] or NULL. */
static inline float *
ia3_head_dbias(const ia3_head *h, float *shares, size_t i)
{
    const ia3_attention *a = h->a;
    const size_t width = 2 * (size_t) a->bias_span - 1;
    if (!shares)
        return NULL;
    return shares + ((size_t) h->seq * (size_t) a->n_heads + (size_t) h->head) * width +
           (size_t) a->bias_span - 1 - i;
}

/* For a sequence without keys the output is zero. */
static inline void
ia3_attend_nothing(const ia3_head *h)
{
    const ia3_attention *a = h->a;
    size_t size = h->bf16 ? 2 : 4, inner = (size_t) a->n_heads * h->d;
    for (size_t row = h->q0; row < h->q0 + h->n_q; row++) {
        memset((char *) a->out + ia3_head_at(h, row, inner) * size, 0, h->d * size);
        if (a->lse)
            a->lse[row * (size_t) a->n_heads + (size_t) h->head] = -INFINITY;
    }
}

/* A block of queries of a long sequence takes long enough to be a sign of life; of a short one, a head is. */
static inline void
ia3_head_beat(size_t n_k)
{
    if (n_k >= 1024)
        ia3_heartbeat();
}

/* For a sequence without keys the gradients are zero, because the output is constant. */
static inline void
ia3_attend_nothing_bwd(const ia3_head *h, const ia3_attention_grad *g)
{
    size_t size = h->bf16 ? 2 : 4;
    for (size_t row = h->q0; row < h->q0 + h->n_q && g->dq; row++)
        memset((char *) g->dq + ia3_head_at(h, row, h->a->q_stride) * size, 0, h->d * size);
}

#endif
