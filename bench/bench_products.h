/*
 * bench_products.h
 *     Counts the matrix products with weights that scoring and training need, by shape.
 *
 * The count follows from the shapes of the backbone and the rows of a batch (docs/engine.md §4), without padding,
 * attention scores or anything computed twice. Whatever an implementation computes beyond this is overhead; if it
 * manages with less, its measured share of the limit can exceed one.
 */
#ifndef IA3_BENCH_PRODUCTS_H
#define IA3_BENCH_PRODUCTS_H

#include "engine/files/config.h"

/* y [rows, n] = a [rows, k] · weights */
typedef struct bench_product {
    int k, n;
    int64_t rows; /* over all layers and passes */
} bench_product;

enum { BENCH_MAX_PRODUCTS = 32 };

typedef struct bench_products {
    int n;
    bench_product v[BENCH_MAX_PRODUCTS];
} bench_products;

static inline void
bench_products_add(bench_products *p, int k, int n, int64_t rows)
{
    int i = 0;
    while (i < p->n && (p->v[i].k != k || p->v[i].n != n))
        i++;
    if (i == p->n)
        p->v[p->n++] = (bench_product){.k = k, .n = n};
    p->v[i].rows += rows;
}

static inline int
bench_wi_columns(const ia3_config *c)
{
    return c->gated ? 2 * c->d_ff : c->d_ff;
}

/*
 * Adds a forward pass over enc_rows input tokens and dec_rows decoder rows, each of which predicts something. kv_rows
 * is the number of rows multiplied by the weights of cross-attention's keys and values: one per input token or, with
 * state_attention, one per decoder row.
 */
static inline void
bench_products_forward(bench_products *p, const ia3_config *c, int64_t enc_rows, int64_t dec_rows,
                       int64_t kv_rows)
{
    int64_t all = c->n_enc * enc_rows + c->n_dec * dec_rows;
    bench_products_add(p, c->d_model, 3 * c->inner, all);
    bench_products_add(p, c->inner, c->d_model, all);
    bench_products_add(p, c->d_model, bench_wi_columns(c), all);
    bench_products_add(p, c->d_ff, c->d_model, all);
    bench_products_add(p, c->d_model, c->inner, c->n_dec * dec_rows);
    bench_products_add(p, c->inner, c->d_model, c->n_dec * dec_rows);
    bench_products_add(p, c->d_model, 2 * c->inner, c->n_dec * kv_rows);
    bench_products_add(p, c->d_model, c->vocab_size, dec_rows);
}

/*
 * Adds a backward pass, for the gradient of the vectors: the transposed product for each product of the forward pass,
 * except those for queries, keys and values in the first layer of either stack, because there are no vectors below.
 */
static inline void
bench_products_backward(bench_products *p, const ia3_config *c, int64_t enc_rows, int64_t dec_rows)
{
    int64_t all = c->n_enc * enc_rows + c->n_dec * dec_rows;
    bench_products_add(p, 3 * c->inner, c->d_model, all - enc_rows - dec_rows);
    bench_products_add(p, c->d_model, c->inner, all);
    bench_products_add(p, bench_wi_columns(c), c->d_model, all);
    bench_products_add(p, c->d_model, c->d_ff, all);
    bench_products_add(p, c->inner, c->d_model, c->n_dec * dec_rows);
    bench_products_add(p, c->d_model, c->inner, c->n_dec * dec_rows);
    bench_products_add(p, 2 * c->inner, c->d_model, c->n_dec * enc_rows);
    bench_products_add(p, c->vocab_size, c->d_model, dec_rows);
}

/* The number of multiplications and additions. */
static inline double
bench_products_flops(const bench_products *p)
{
    double flops = 0;
    for (int i = 0; i < p->n; i++)
        flops += 2.0 * p->v[i].k * p->v[i].n * (double) p->v[i].rows;
    return flops;
}

#endif
