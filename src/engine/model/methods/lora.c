/*
 * lora.c
 *     LoRA: a low-rank addition to linear layers, y += (alpha / rank) · (x·Aᵀ)·Bᵀ, A [rank, in], B [out, rank], stored as
 *     in peft, "base_model.model.<module>.lora_A.weight"; if `norms` is on, as in T-Few, a scale for the output of
 *     each norm; and if `vectors` is on, the vectors of (IA)³ as well, which multiply what both weights together result in. The
 *     standard configuration is T-Few's.
 */
#include "methods.h"
#include "norm_scale.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/files/peft_config.h"

#define A_SUFFIX ".lora_A.weight"
#define B_SUFFIX ".lora_B.weight"
#define VECTOR   ".ia3_l"

enum { RANK, ALPHA, TARGETS, NORMS, VECTORS };
static const ia3_method_option options[] = {
    [RANK] =
        {.name = "rank", .kind = IA3_OPTION_WHOLE, .min = 1, .max = IA3_MAX_RANK, .standard = 4, .before = 4},
    [ALPHA] = {.name = "alpha",
               .kind = IA3_OPTION_NUMBER,
               .hidden = true,
               .min = 1e-6,
               .max = 1e6,
               .standard = 1,
               .before = 1},
    [TARGETS] = {.name = "targets",
                 .kind = IA3_OPTION_KINDS,
                 .standard = IA3_ALL_KINDS,
                 .before = IA3_ALL_KINDS},
    [NORMS] = {.name = "norms", .kind = IA3_OPTION_FLAG, .standard = 1, .before = 0},
    [VECTORS] = {.name = "vectors", .kind = IA3_OPTION_FLAG, .unrecorded = true, .standard = 0, .before = 0},
    {.name = NULL},
};

static bool
is_target(const ia3_layout *l, ia3_kind kind)
{
    return (int) ia3_option(l, TARGETS) >> kind & 1;
}

static bool
has_norms(const ia3_layout *l)
{
    return ia3_option(l, NORMS) != 0;
}

static void
add_module(ia3_layout *l, const ia3_module *m)
{
    int rank = (int) ia3_option(l, RANK);

    if (m->norm) {
        if (has_norms(l))
            ia3_norm_scale_tensor(l, m);
        return;
    }
    if (!is_target(l, m->kind))
        return;
    ia3_layout_add_matrix(l, rank, m->in, 0.0f, "%s" A_SUFFIX, m->name)->partner = 1;
    ia3_layout_add_matrix(l, m->out, rank, 0.0f, "%s" B_SUFFIX, m->name)->partner = -1;
}

/* The vectors have the names and shapes that they have in adapters of (IA)³. */
static void
add_vectors(ia3_layout *l, const ia3_config *config)
{
    if (ia3_option(l, VECTORS) == 0)
        return;

    ia3_layout *ia3 = ia3_layout_create(config, ia3_variant_standard(&ia3_method_ia3));

    for (int i = 0; i < ia3->n; i++) {
        const ia3_layout_entry *e = &ia3->entries[i];

        ia3_layout_add_matrix(l, e->rows, e->cols, e->start, "%s", e->name)->feedforward = e->feedforward;
    }
    ia3_layout_free(ia3);
    l->vectors = true;
}

/* The rank is that of any matrix A; the targets, and whether there are norms and vectors, are what there are tensors for. */
static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    int targets = 0;

    v->options[NORMS] = v->options[VECTORS] = 0;
    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];

        targets |= 1 << ia3_kind_of_tensor(t->name, A_SUFFIX) & IA3_ALL_KINDS;
        targets |= 1 << ia3_kind_of_tensor(t->name, B_SUFFIX) & IA3_ALL_KINDS;
        if (ia3_name_ends_with(t->name, strlen(t->name), IA3_NORM_SCALE_SUFFIX))
            v->options[NORMS] = 1;
        if (ia3_name_ends_with(t->name, strlen(t->name), VECTOR))
            v->options[VECTORS] = 1;
        if (t->ndim == 2 && ia3_name_ends_with(t->name, strlen(t->name), A_SUFFIX))
            v->options[RANK] = (double) t->shape[0];
    }
    if (targets != 0)
        v->options[TARGETS] = targets;
}

static json_t *
peft(const ia3_variant *v)
{
    const double alpha = v->options[ALPHA];

    if (v->options[NORMS] != 0 || v->options[VECTORS] != 0)
        return NULL;
    return json_pack("{s:s, s:s, s:n, s:b, s:b, s:o, s:f, s:n, s:i, s:o}", "peft_type", "LORA", "bias",
                     "none", "exclude_modules", "fan_in_fan_out", 0, "init_lora_weights", 1, "lora_alpha",
                     alpha == floor(alpha) ? json_integer((json_int_t) alpha) : json_real(alpha),
                     "lora_dropout", 0.0, "modules_to_save", "r", (int) v->options[RANK], "target_modules",
                     ia3_kinds_to_json(v->options[TARGETS]));
}

static bool
begins_with(const char *s, const char *start)
{
    return strncmp(s, start, strlen(start)) == 0;
}

/* Some ways to begin change the backbone's weights as well, so the adapter is of no use with the original ones. */
static bool
check_start(const json_t *config, ia3_error *err)
{
    static const char *const changing[] = {"pissa", "olora", "loftq", "corda", "lora_ga"};
    const char *how = ia3_peft_string(config, "init_lora_weights", "");

    for (size_t i = 0; i < sizeof changing / sizeof *changing; i++)
        if (begins_with(how, changing[i]))
            return ia3_peft_fail(
                err, "\"init_lora_weights\" is \"%.64s\", which changes the backbone's weights.", how);
    return true;
}

static bool
read_peft(const json_t *config, ia3_variant *v, ia3_error *err)
{
    static const char *const refused[] = {"use_dora",
                                          "use_qalora",
                                          "use_bdlora",
                                          "lora_bias",
                                          "modules_to_save",
                                          "rank_pattern",
                                          "alpha_pattern",
                                          "layers_to_transform",
                                          "layer_replication",
                                          "exclude_modules",
                                          "target_parameters",
                                          "trainable_token_indices",
                                          "alora_invocation_tokens",
                                          "arrow_config",
                                          NULL};
    const json_t *targets = json_object_get(config, "target_modules");
    const char *bias = ia3_peft_string(config, "bias", "none");
    double rank, alpha, kinds;

    if (!ia3_peft_refuse(config, refused, err) || !check_start(config, err) ||
        !ia3_peft_number(config, "r", &rank, err) || !ia3_peft_number(config, "lora_alpha", &alpha, err))
        return false;
    if (strcmp(bias, "none") != 0)
        return ia3_peft_fail(err, "\"bias\" is \"%.64s\", not \"none\".", bias);
    if (v->options[NORMS] != 0)
        return ia3_peft_fail(err, "The adapter has scales of norms, which PEFT does not have.");
    if (v->options[VECTORS] != 0)
        return ia3_peft_fail(err, "The adapter has vectors of (IA)³, which PEFT's LoRA does not have.");
    if (rank != v->options[RANK])
        return ia3_peft_fail(err, "\"r\" is %.15g, but the rank of the adapter is %.15g.", rank,
                             v->options[RANK]);
    if (!json_is_array(targets))
        return ia3_peft_fail(err, "\"target_modules\" is not a list.");
    if (!ia3_kinds_from_json("\"target_modules\"", targets, IA3_ALL_KINDS, &kinds, err))
        return false;
    if (((int) v->options[TARGETS] & ~(int) kinds) != 0)
        return ia3_peft_fail(
            err, "The adapter has factors for modules that are not among the \"target_modules\".");
    v->options[TARGETS] = kinds;
    v->options[ALPHA] = json_is_true(json_object_get(config, "use_rslora")) ? alpha * sqrt(rank) : alpha;
    return true;
}

/* B is zero, so a new adapter changes nothing; A is random with a standard deviation of 0.01, as in T-Few. */
static bool
start(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err)
{
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *a = &l->entries[i];

        for (size_t k = a->offset; a->partner > 0 && k < a->offset + (size_t) a->len; k++)
            values[k] = 0.01f * ia3_draw_normal(s->seed, IA3_STREAM_INIT, k);
    }
    return true;
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->low_rank != NULL && ops->scale_row != NULL;
}

/*
 * The i-th linear layer of a fused product: its columns in the result, and its factors, which follow those of the
 * targets before it at *values. False if it is no target.
 */
static bool
factors(const ia3_method_rows *r, const ia3_matrix *w, int i, const float **values, ia3_low_rank *l)
{
    const int rank = (int) ia3_option(r->layout, RANK);

    if (!is_target(r->layout, r->kinds[i]))
        return false;
    *l = (ia3_low_rank){.rank = rank,
                        .in = w->in,
                        .out = w->out / r->linears,
                        .stride = (size_t) w->out,
                        .scale = (float) (ia3_option(r->layout, ALPHA) / rank)};
    l->a = *values;
    l->b = l->a + (size_t) rank * (size_t) l->in;
    *values = l->b + (size_t) rank * (size_t) l->out;
    return true;
}

static void
product(const ia3_method_rows *r, void *y, const void *x, const ia3_matrix *w, ia3_out out)
{
    size_t size = out == IA3_OUT_ACT ? ia3_dtype_size(r->dev->dtype) : sizeof(float);

    const float *values = r->values;
    ia3_low_rank l;

    for (int i = 0; i < r->linears; i++)
        if (factors(r, w, i, &values, &l))
            r->dev->ops->low_rank(r->dev, (char *) y + (size_t) i * (size_t) l.out * size, x, r->rows, &l,
                                  out);
}

static void
product_bwd(const ia3_method_rows *r, void *dx, const void *dy, const void *x, const ia3_matrix *w,
            ia3_out out)
{
    size_t size = ia3_dtype_size(r->dev->dtype);

    const float *values = r->values;
    ia3_low_rank l;

    for (int i = 0; i < r->linears; i++)
        if (factors(r, w, i, &values, &l))
            r->dev->ops->low_rank_bwd(r->dev, dx, r->grads + (l.a - r->values), r->grads + (l.b - r->values),
                                      (const char *) dy + (size_t) i * (size_t) l.out * size, x, r->rows, &l,
                                      out);
}

static void
norm(const ia3_method_rows *r, void *y)
{
    if (has_norms(r->layout))
        ia3_norm_scale(r, y);
}

static void
norm_bwd(const ia3_method_rows *r, void *dy, const void *x)
{
    if (has_norms(r->layout))
        ia3_norm_scale_bwd(r, dy, x);
}

const ia3_method ia3_method_lora = {
    .name = "lora",
    .options = options,
    .module = add_module,
    .tensors = add_vectors,
    .guess = guess,
    .marks = (const char *const[]){A_SUFFIX, B_SUFFIX, NULL},
    .peft = peft,
    .peft_type = "LORA",
    .read_peft = read_peft,
    .learning_rate = 3e-3,
    .steps = 1000,
    .start = start,
    .runs_on = runs_on,
    .product = product,
    .product_bwd = product_bwd,
    .norm = norm,
    .norm_bwd = norm_bwd,
};
