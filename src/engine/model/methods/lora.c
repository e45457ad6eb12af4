/*
 * lora.c
 *     LoRA: a low-rank addition to each linear layer, y += (x·Aᵀ)·Bᵀ / RANK, A [RANK, in], B [out, RANK], stored as in
 *     peft, "base_model.model.<module>.lora_A.weight". The configuration is T-Few's, except that T-Few also trains the
 *     norms.
 */
#include "methods.h"

#include <math.h>

#include "engine/base/rng.h"

#define RANK      4
#define TEXT(x)   #x
#define NUMBER(x) TEXT(x)

_Static_assert(RANK <= IA3_MAX_RANK, "what devices compute");

static void
add_module(ia3_layout *l, const ia3_module *m)
{
    if (m->norm)
        return;
    ia3_layout_add_matrix(l, RANK, m->in, 0.0f, "%s.lora_A.weight", m->name);
    ia3_layout_add_matrix(l, m->out, RANK, 0.0f, "%s.lora_B.weight", m->name);
}

/* Returns a random number from the standard normal distribution (Box-Muller). */
static float
draw_normal(uint64_t seed, uint64_t counter)
{
    double u = (ia3_draw(seed, IA3_STREAM_INIT, 2 * counter, 1u << 31) + 1) * 0x1p-31;
    double v = ia3_draw(seed, IA3_STREAM_INIT, 2 * counter + 1, 1u << 31) * 0x1p-31;

    return (float) (sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

/* B is zero, so a new adapter changes nothing; A is random with a standard deviation of 0.01, as in T-Few. */
static bool
start(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err)
{
    for (int i = 0; i < l->n; i += 2) {
        const ia3_layout_entry *a = &l->entries[i];

        for (size_t k = a->offset; k < a->offset + (size_t) a->len; k++)
            values[k] = 0.01f * draw_normal(s->seed, k);
    }
    return true;
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->low_rank != NULL;
}

/* The i-th linear layer of a fused product: its columns in the result, and its factors in the values of this place. */
static ia3_low_rank
factors(const ia3_method_rows *r, const ia3_matrix *w, int i)
{
    ia3_low_rank l = {.rank = RANK,
                      .in = w->in,
                      .out = w->out / r->linears,
                      .stride = (size_t) w->out,
                      .scale = 1.0f / RANK};

    l.a = r->values + (size_t) i * RANK * (size_t) (l.in + l.out);
    l.b = l.a + (size_t) RANK * (size_t) l.in;
    return l;
}

static void
product(const ia3_method_rows *r, void *y, const void *x, const ia3_matrix *w, ia3_out out)
{
    size_t size = out == IA3_OUT_ACT ? ia3_dtype_size(r->dev->dtype) : sizeof(float);

    for (int i = 0; i < r->linears; i++) {
        ia3_low_rank l = factors(r, w, i);

        r->dev->ops->low_rank(r->dev, (char *) y + (size_t) i * (size_t) l.out * size, x, r->rows, &l, out);
    }
}

static void
product_bwd(const ia3_method_rows *r, void *dx, const void *dy, const void *x, const ia3_matrix *w,
            ia3_out out)
{
    size_t size = ia3_dtype_size(r->dev->dtype);

    for (int i = 0; i < r->linears; i++) {
        ia3_low_rank l = factors(r, w, i);

        r->dev->ops->low_rank_bwd(r->dev, dx, r->grads + (l.a - r->values), r->grads + (l.b - r->values),
                                  (const char *) dy + (size_t) i * (size_t) l.out * size, x, r->rows, &l,
                                  out);
    }
}

const ia3_method ia3_method_lora = {
    .name = "lora",
    .constants = (const ia3_method_constant[]){{"rank", RANK}, {NULL, 0}},
    .module = add_module,
    .paired = true,
    .marks = (const char *const[]){".lora_A.weight", ".lora_B.weight", NULL},
    .peft_config =
        "\"bias\": \"none\", \"exclude_modules\": null, \"fan_in_fan_out\": false,"
        " \"init_lora_weights\": true, \"lora_alpha\": 1, \"lora_dropout\": 0.0,"
        " \"modules_to_save\": null, \"peft_type\": \"LORA\", \"r\": " NUMBER(
            RANK) ","
                  " \"target_modules\": [\"q\", \"k\", \"v\", \"o\", \"wi\", \"wi_0\", \"wi_1\", \"wo\"]",
    .learning_rate = 3e-3,
    .start = start,
    .runs_on = runs_on,
    .product = product,
    .product_bwd = product_bwd,
};
