/*
 * said.c
 *     Intrinsic SAID as T-Few has it (src/models/intrinsic.py): all changes are projections of one short vector x to each module.
 *
 * Module i has the projection r of x (said_projection.h) and a factor s of its own. Of a linear layer [out, in], r has out + in numbers:
 * W becomes W + s·r[:out]·r[out:]ᵀ, a matrix of rank one, so that rows of different adapters can share batches. (In the paper of SAID, a matrix
 * is projected number by number.) A norm's weights w become w·(1 + s·r), like those of other methods here; in T-Few w + s·r.
 *
 * Stored and trained are x, "intrinsic_parameter", and the factors, "intrinsic_parameter_said"; they are few, and the projections can be computed
 * at any time. Passes use the vectors r, computed once for an adapter. `intrinsic_dim` counts as in T-Few: with m modules, x has
 * intrinsic_dim - m - 1 numbers, so that there are intrinsic_dim - 1 in all. Other than in T-Few the embedding, the head and the biases of
 * positions have no projection, and the gradient is that of the loss: T-Few's Hadamard transform divides only its gradient by √size.
 *
 * A new x is zero, so it changes nothing. Then both vectors of a product are zero and so is the product's gradient; but norms have one.
 */
#include "methods.h"
#include "norm_scale.h"
#include "said_projection.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

#define X_NAME      "intrinsic_parameter"
#define FACTOR_NAME "intrinsic_parameter_said"

enum { INTRINSIC_DIM };
static const ia3_method_option options[] = {
    [INTRINSIC_DIM] = {.name = "intrinsic_dim",
                       .kind = IA3_OPTION_WHOLE,
                       .min = 3,
                       .max = 16777216,
                       .standard = 20000,
                       .before = 20000},
    {.name = NULL},
};

/* --- tensors --- */

/* In passes, a product is that of LoRA with rank one: A = r[out:], B = s·r[:out]; a norm has 1 + s·r. */
static void
add_module(ia3_layout *l, const ia3_module *m)
{
    if (m->norm) {
        ia3_norm_scale_tensor(l, m);
        return;
    }
    ia3_layout_add_matrix(l, 1, m->in, 0.0f, "%s.a", m->name)->partner = 1;
    ia3_layout_add_matrix(l, m->out, 1, 0.0f, "%s.b", m->name)->partner = -1;
}

static int
count_modules(const ia3_layout *l)
{
    int n = 0;

    for (int i = 0; i < l->expanded->n; i++)
        n += l->expanded->entries[i].partner >= 0;
    return n;
}

/* Numbers of x; less than one if the dimension is too small for the backbone. */
static int
length(const ia3_layout *l)
{
    return (int) ia3_option(l, INTRINSIC_DIM) - count_modules(l) - 1;
}

static void
add_tensors(ia3_layout *l, const ia3_config *config)
{
    (void) config;
    ia3_layout_add_vector(l, length(l) > 0 ? length(l) : 1, 0.0f, X_NAME)->partner = 1;
    ia3_layout_add_vector(l, count_modules(l), 1.0f, FACTOR_NAME)->partner = -1;
}

static bool
suits(const ia3_layout *l, ia3_error *err)
{
    if (length(l) > 0)
        return true;
    ia3_fail(err, IA3_E_INVALID, "intrinsic_dim must be at least %d for this backbone", count_modules(l) + 2);
    return ia3_fail_detail(err, "It includes a factor for each of %d modules, and one more.",
                           count_modules(l));
}

static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    const ia3_st_tensor *x = ia3_safetensors_find(st, X_NAME),
                        *factors = ia3_safetensors_find(st, FACTOR_NAME);

    if (x && x->ndim == 1 && factors && factors->ndim == 1)
        v->options[INTRINSIC_DIM] = (double) x->shape[0] + (double) factors->shape[0] + 1;
}

/* --- from the vector to the modules --- */

typedef struct projections {
    int n;
    ia3_projection *modules; /* [n] */
    size_t *at;              /* [n] where the module's values begin in the expanded ones */
    int *out;                /* [n] of a linear layer; 0: a norm */
    float *work, *work2, *gradient;
} projections;

static void *
prepare(const ia3_layout *l)
{
    const ia3_layout *expanded = l->expanded;
    projections *p = ia3_alloc(sizeof *p);
    const int n = count_modules(l);
    int longest = 1;

    p->modules = ia3_alloc_array(n, sizeof *p->modules);
    p->at = ia3_alloc_array(n, sizeof *p->at);
    p->out = ia3_alloc_array(n, sizeof *p->out);
    for (int i = 0; i < expanded->n; i++) {
        const ia3_layout_entry *e = &expanded->entries[i];

        if (e->partner < 0)
            continue;
        p->at[p->n] = e->offset;
        p->out[p->n] = e->partner > 0 ? e[1].len : 0;
        p->modules[p->n] = ia3_projection_create(p->n, e->len + p->out[p->n]);
        if (p->modules[p->n].size > longest)
            longest = p->modules[p->n].size;
        p->n++;
    }
    p->work = ia3_alloc_array(longest, sizeof *p->work);
    p->work2 = ia3_alloc_array(longest, sizeof *p->work2);
    p->gradient = ia3_alloc_array(longest, sizeof *p->gradient);
    return p;
}

static void
release(void *prepared)
{
    projections *p = prepared;

    for (int i = 0; i < p->n; i++)
        ia3_projection_free(&p->modules[i]);
    free(p->modules);
    free(p->at);
    free(p->out);
    free(p->work);
    free(p->work2);
    free(p->gradient);
    free(p);
}

static void
expand(const ia3_layout *l, void *prepared, const float *values, float *expanded)
{
    const projections *p = prepared;
    const size_t n = (size_t) l->entries[0].len;
    const float *factors = values + n;

    for (int i = 0; i < p->n; i++) {
        const ia3_projection *m = &p->modules[i];
        const int out = p->out[i];
        float *to = expanded + p->at[i];

        ia3_project(m, values, n, p->work, p->work2);
        for (int k = out; k < m->len; k++)
            to[k - out] = out > 0 ? m->result[k] : 1 + factors[i] * m->result[k];
        for (int k = 0; k < out; k++)
            to[m->len - out + k] = factors[i] * m->result[k];
    }
}

static void
expand_bwd(const ia3_layout *l, void *prepared, const float *values, const float *expanded_grads,
           float *grads)
{
    const projections *p = prepared;
    const size_t n = (size_t) l->entries[0].len;
    const float *factors = values + n;

    for (int i = 0; i < p->n; i++) {
        const ia3_projection *m = &p->modules[i];
        const int out = p->out[i], scaled = out > 0 ? out : m->len; /* results that s multiplies */
        const float *from = expanded_grads + p->at[i], *of_scaled = out > 0 ? from + (m->len - out) : from;
        double sum = 0;

        for (int k = 0; k < scaled; k++) {
            sum += (double) of_scaled[k] * m->result[k];
            p->gradient[k] = factors[i] * of_scaled[k];
        }
        for (int k = scaled; k < m->len; k++)
            p->gradient[k] = from[k - out];
        ia3_project_bwd(m, grads, n, p->gradient, p->work, p->work2);
        grads[n + (size_t) i] += (float) sum;
    }
}

static const ia3_expansion expansion = {
    .prepare = prepare,
    .release = release,
    .expand = expand,
    .expand_bwd = expand_bwd,
};

/* --- the graph --- */

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->low_rank != NULL && ops->scale_row != NULL;
}

/* The i-th linear layer of a fused product. */
static ia3_low_rank
factors_of(const ia3_method_rows *r, const ia3_matrix *w, int i)
{
    const int out = w->out / r->linears;
    const float *a = r->values + (size_t) i * (size_t) (w->in + out);

    return (ia3_low_rank){
        .rank = 1, .in = w->in, .out = out, .stride = (size_t) w->out, .scale = 1, .a = a, .b = a + w->in};
}

static void
product(const ia3_method_rows *r, void *y, const void *x, const ia3_matrix *w, ia3_out out)
{
    const size_t size = out == IA3_OUT_ACT ? ia3_dtype_size(r->dev->dtype) : sizeof(float);

    for (int i = 0; i < r->linears; i++) {
        const ia3_low_rank l = factors_of(r, w, i);

        r->dev->ops->low_rank(r->dev, (char *) y + (size_t) i * (size_t) l.out * size, x, r->rows, &l, out);
    }
}

static void
product_bwd(const ia3_method_rows *r, void *dx, const void *dy, const void *x, const ia3_matrix *w,
            ia3_out out)
{
    const size_t size = ia3_dtype_size(r->dev->dtype);

    for (int i = 0; i < r->linears; i++) {
        const ia3_low_rank l = factors_of(r, w, i);

        r->dev->ops->low_rank_bwd(r->dev, dx, r->grads + (l.a - r->values), r->grads + (l.b - r->values),
                                  (const char *) dy + (size_t) i * (size_t) l.out * size, x, r->rows, &l,
                                  out);
    }
}

const ia3_method ia3_method_said = {
    .name = "said",
    .options = options,
    .suits = suits,
    .module = add_module,
    .tensors = add_tensors,
    .guess = guess,
    .marks = (const char *const[]){FACTOR_NAME, X_NAME, NULL},
    .learning_rate = 3e-2,
    .steps = 3000,
    .expansion = &expansion,
    .runs_on = runs_on,
    .product = product,
    .product_bwd = product_bwd,
    .norm = ia3_norm_scale,
    .norm_bwd = ia3_norm_scale_bwd,
};
