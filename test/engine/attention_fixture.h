/*
 * attention_fixture.h
 *     Random attention problems for tests, their solution in double precision, and their copy on a device.
 */
#ifndef IA3_TEST_ATTENTION_FIXTURE_H
#define IA3_TEST_ATTENTION_FIXTURE_H

#include "device_common.h"

enum { MAX_SEQ = 16, N_SLOTS = 2, OFFSET = 3 };

/* A problem. The arrays hold the values that the device has, in double precision. */
typedef struct problem {
    int n_heads, d, n_seq;
    int32_t q_off[MAX_SEQ + 1], k_off[MAX_SEQ + 1];
    bool tree, scaled, biased;
    float p; /* dropout */
    int inner, q_stride, kv_stride, span, max_q, max_k;
    double *q, *kv;         /* [rows, stride]; k at column 0, v at column inner */
    double *bias;           /* [n_heads, 2 span - 1] */
    double *slots[N_SLOTS]; /* [OFFSET + 2 inner]: l_k, l_v */
    int32_t slot_of[MAX_SEQ];
    int32_t *parent, *depth;
    uint64_t *keys;
} problem;

static inline size_t
n_q(const problem *p)
{
    return (size_t) p->q_off[p->n_seq];
}

static inline size_t
n_k(const problem *p)
{
    return (size_t) p->k_off[p->n_seq];
}

/* Makes random trees, which are mostly chains with some branches. */
static inline void
make_trees(problem *p)
{
    p->parent = calloc(n_q(p) + 1, sizeof *p->parent);
    p->depth = calloc(n_q(p) + 1, sizeof *p->depth);
    p->max_k = 0;
    for (int s = 0; s < p->n_seq; s++)
        for (int32_t r = p->q_off[s]; r < p->q_off[s + 1]; r++) {
            int32_t first = p->q_off[s];
            bool root = r == first;
            p->parent[r] = root ? -1 : random_below(2) ? r - 1 : first + random_below(r - first);
            p->depth[r] = root ? 0 : p->depth[p->parent[r]] + 1;
            if (p->depth[r] + 1 > p->max_k)
                p->max_k = p->depth[r] + 1;
        }
}

/* Makes a problem whose rows are q_stride (>= inner) and kv_stride (>= 2·inner) elements apart. */
static inline problem
make_problem_strided(int n_heads, int d, int n_seq, const int *q_len, const int *k_len, bool tree,
                     bool scaled, bool biased, float drop, int q_stride, int kv_stride)
{
    problem p = {.n_heads = n_heads,
                 .d = d,
                 .n_seq = n_seq,
                 .tree = tree,
                 .scaled = scaled,
                 .biased = biased,
                 .p = drop,
                 .inner = n_heads * d};
    for (int s = 0; s < n_seq; s++) {
        p.q_off[s + 1] = p.q_off[s] + q_len[s];
        p.k_off[s + 1] = p.k_off[s] + k_len[s];
        p.max_q = q_len[s] > p.max_q ? q_len[s] : p.max_q;
        p.max_k = k_len[s] > p.max_k ? k_len[s] : p.max_k;
        p.slot_of[s] = random_below(N_SLOTS);
    }
    p.span = (p.max_q > p.max_k ? p.max_q : p.max_k) + 2;
    p.q_stride = q_stride;
    p.kv_stride = kv_stride;
    p.q = random_values(n_q(&p) * (size_t) p.q_stride, 1.5);
    p.kv = random_values(n_k(&p) * (size_t) p.kv_stride, 1.0);
    p.bias = random_values((size_t) n_heads * (2 * (size_t) p.span - 1), 1.0);
    for (int i = 0; i < N_SLOTS; i++)
        p.slots[i] = random_values(OFFSET + 2 * (size_t) p.inner, 1.5);
    p.keys = calloc(n_q(&p) + 1, sizeof *p.keys);
    for (size_t i = 0; i < n_q(&p); i++)
        p.keys[i] = ia3_row_key(7, 1, 2, (uint32_t) i);
    if (tree)
        make_trees(&p);
    return p;
}

/* The same with strides that are not multiples of any vector length. */
static inline problem
make_problem(int n_heads, int d, int n_seq, const int *q_len, const int *k_len, bool tree, bool scaled,
             bool biased, float drop)
{
    int inner = n_heads * d;
    return make_problem_strided(n_heads, d, n_seq, q_len, k_len, tree, scaled, biased, drop, inner + 3,
                                2 * inner + 5);
}

static inline void
free_problem(problem *p)
{
    free(p->q);
    free(p->kv);
    free(p->bias);
    for (int i = 0; i < N_SLOTS; i++)
        free(p->slots[i]);
    free(p->parent);
    free(p->depth);
    free(p->keys);
}

enum { SITE = 100 };

/* Lists the rows that query `row` (over all sequences) attends to, in the order of keys; returns their number. */
static inline int
visible(const problem *p, int s, int32_t row, int32_t *keys)
{
    int n = 0;
    if (!p->tree) {
        for (int32_t k = p->k_off[s]; k < p->k_off[s + 1]; k++)
            keys[n++] = k;
        return n;
    }
    for (int32_t r = row; r >= 0; r = p->parent[r])
        keys[p->depth[r]] = r;
    return p->depth[row] + 1;
}

/* Computes out [n_q, inner] and lse [n_q, n_heads] by the definition. */
static inline void
reference(const problem *p, double *out, double *lse)
{
    int32_t *keys = calloc(n_k(p) + 1, sizeof *keys);
    double *w = calloc(n_k(p) + 1, sizeof *w);
    for (int s = 0; s < p->n_seq; s++)
        for (int32_t row = p->q_off[s]; row < p->q_off[s + 1]; row++)
            for (int h = 0; h < p->n_heads; h++) {
                const double *l = p->slots[p->slot_of[s]] + OFFSET;
                int n = visible(p, s, row, keys), base = h * p->d;
                int i = p->tree ? p->depth[row] : row - p->q_off[s];
                double max = -1e300, sum = 0;
                for (int x = 0; x < n; x++) {
                    const double *k = p->kv + (size_t) keys[x] * (size_t) p->kv_stride;
                    w[x] = p->biased ? p->bias[h * (2 * p->span - 1) + x - i + p->span - 1] : 0;
                    for (int c = base; c < base + p->d; c++)
                        w[x] += p->q[(size_t) row * (size_t) p->q_stride + (size_t) c] * k[c] *
                                (p->scaled ? l[c] : 1);
                    max = fmax(max, w[x]);
                }
                for (int x = 0; x < n; x++)
                    sum += exp(w[x] - max);
                lse[row * p->n_heads + h] = max + log(sum);
                for (int c = base; c < base + p->d; c++) {
                    double o = 0;
                    for (int x = 0; x < n; x++)
                        o += exp(w[x] - max) / sum *
                             drop_factor(p->p, (uint32_t) (SITE + h), p->keys[row], (uint32_t) x) *
                             p->kv[(size_t) keys[x] * (size_t) p->kv_stride + (size_t) (p->inner + c)] *
                             (p->scaled ? l[p->inner + c] : 1);
                    out[(size_t) row * (size_t) p->inner + (size_t) c] = o;
                }
            }
    free(keys);
    free(w);
}

/* The device's copy of a problem. */
typedef struct on_device {
    ia3_attention a;
    ia3_attention_grad g;
    void *q, *kv, *dq, *dkv, *dout;
    float *bias, *dbias, *slots[N_SLOTS], *grads[N_SLOTS];
    const float **slot_table;
    float **grad_table;
    int32_t *q_off, *k_off, *slot_of, *parent, *depth;
    uint64_t *keys;
} on_device;

static inline on_device
upload_problem(ia3_device *dev, problem *p)
{
    on_device o = {0};
    size_t size = ia3_dtype_size(dev->dtype), n_slot = OFFSET + 2 * (size_t) p->inner;
    o.q = put_act(dev, p->q, n_q(p) * (size_t) p->q_stride);
    o.kv = put_act(dev, p->kv, n_k(p) * (size_t) p->kv_stride);
    o.bias = put_f32(dev, p->bias, (size_t) p->n_heads * (2 * (size_t) p->span - 1));
    const float *slots[N_SLOTS];
    float *grads[N_SLOTS];
    for (int i = 0; i < N_SLOTS; i++) {
        double *zeros = calloc(n_slot, sizeof *zeros);
        slots[i] = o.slots[i] = put_f32(dev, p->slots[i], n_slot);
        grads[i] = o.grads[i] = put_f32(dev, zeros, n_slot);
        free(zeros);
    }
    o.slot_table = put_bytes(dev, slots, sizeof slots);
    o.grad_table = put_bytes(dev, grads, sizeof grads);
    o.q_off = put_bytes(dev, p->q_off, sizeof p->q_off);
    o.k_off = put_bytes(dev, p->k_off, sizeof p->k_off);
    o.slot_of = put_bytes(dev, p->slot_of, sizeof p->slot_of);
    o.keys = put_bytes(dev, p->keys, n_q(p) * sizeof *p->keys);
    if (p->tree) {
        o.parent = put_bytes(dev, p->parent, n_q(p) * sizeof(int32_t));
        o.depth = put_bytes(dev, p->depth, n_q(p) * sizeof(int32_t));
    }
    const float *const *table = p->scaled ? o.slot_table : NULL;
    o.a = (ia3_attention){.n_heads = p->n_heads,
                          .d_kv = p->d,
                          .n_seq = p->n_seq,
                          .q_offsets = o.q_off,
                          .k_offsets = p->tree ? o.q_off : o.k_off,
                          .max_q = p->max_q,
                          .max_k = p->max_k,
                          .q = o.q,
                          .k = o.kv,
                          .v = (char *) o.kv + (size_t) p->inner * size,
                          .q_stride = (size_t) p->q_stride,
                          .kv_stride = (size_t) p->kv_stride,
                          .bias = p->biased ? o.bias : NULL,
                          .bias_span = p->span,
                          .parent = o.parent,
                          .depth = o.depth,
                          .scale_k = {table, o.slot_of, OFFSET},
                          .scale_v = {table, o.slot_of, OFFSET + (size_t) p->inner},
                          .dropout = {p->p, SITE, o.keys}};
    o.a.out = dev->ops->alloc(dev, n_q(p) * (size_t) p->inner * size + 1);
    o.a.lse = dev->ops->alloc(dev, n_q(p) * (size_t) p->n_heads * sizeof(float) + 1);
    o.dq = dev->ops->alloc(dev, n_q(p) * (size_t) p->q_stride * size + 1);
    o.dkv = dev->ops->alloc(dev, n_k(p) * (size_t) p->kv_stride * size + 1);
    o.g.dq = o.dq;
    o.g.dk = o.dkv;
    o.g.dv = (char *) o.dkv + (size_t) p->inner * size;
    o.g.grad_k = (ia3_scale_grad){o.grad_table, o.slot_of, OFFSET, N_SLOTS};
    o.g.grad_v = (ia3_scale_grad){o.grad_table, o.slot_of, OFFSET + (size_t) p->inner, N_SLOTS};
    return o;
}

static inline void
free_on_device(ia3_device *dev, on_device *o)
{
    void *all[] = {o->q,        o->kv,       o->dq,       o->dkv,        o->dout,       o->bias,  o->slots[0],
                   o->slots[1], o->grads[0], o->grads[1], o->slot_table, o->grad_table, o->q_off, o->k_off,
                   o->slot_of,  o->parent,   o->depth,    o->keys,       o->a.out,      o->a.lse, o->dbias};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        dev->ops->free(dev, all[i]);
}

#endif
