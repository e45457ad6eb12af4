/*
 * ia3.c
 *     (IA)³, the method that the engine is made for: each layer of the encoder has vectors l_k [inner], l_v [inner] and
 *     l_ff [d_ff]; each layer of the decoder has l_k and l_v for self-attention and for cross-attention, [inner] each,
 *     and l_ff [d_ff]. The kernels multiply by them. That is T-Few's configuration. Others leave out some of these, or have
 *     vectors l_q [inner] and l_o [d_model] for the outputs of q and o (vectors.c has what is computed with them).
 *
 * l_ff multiplies the input of wo. For gated feed-forward layers this is the same as scaling the output of wi_1, as
 * T-Few does; for T5 v1.0 it is the only correct place.
 *
 * Adapters are read in three formats: peft with the feed-forward vector at wo (a scaled input, [1, d_ff]) or at wi_1 (a
 * scaled output, [d_ff, 1], only gated models), and T-Few's multi_lora_b (always scaled outputs). The shape is
 * meaningful: peft writes [1, n] if the module's input is scaled. A wo with a scaled output, or a k with a scaled
 * input, would be a different model even if the lengths agree, so the shape is checked.
 */
#include "methods.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/tensor.h"

#define PEFT_PREFIX "base_model.model."
#define SUFFIX      ".ia3_l"
#define T_FEW       ".multi_lora_b"

enum {
    K_V_WO =
        1 << IA3_KIND_K | 1 << IA3_KIND_V | 1 << IA3_KIND_CROSS_K | 1 << IA3_KIND_CROSS_V | 1 << IA3_KIND_WO,
    ALLOWED = K_V_WO | 1 << IA3_KIND_Q | 1 << IA3_KIND_O | 1 << IA3_KIND_CROSS_Q | 1 << IA3_KIND_CROSS_O
};

enum { TARGETS };
static const ia3_method_option options[] = {
    [TARGETS] = {.name = "targets",
                 .kind = IA3_OPTION_KINDS,
                 .unrecorded = true,
                 .kinds = ALLOWED,
                 .standard = K_V_WO,
                 .before = K_V_WO},
    {.name = NULL},
};

/*
 * In the standard configuration n_values = n_enc·(2·inner + d_ff) + n_dec·(4·inner + d_ff); ia3_enc_offset and
 * ia3_dec_offset rely on the order of the places. The vector of wo scales its input, all others scale outputs.
 */
static void
add_module(ia3_layout *l, const ia3_module *m)
{
    const bool input = m->kind == IA3_KIND_WO;

    if (!m->norm && (int) ia3_option(l, TARGETS) >> m->kind & 1)
        ia3_layout_add_matrix(l, input ? 1 : m->out, input ? m->in : 1, 1.0f, "%s" SUFFIX, m->name)
            ->feedforward = input;
}

/* The parts of a stored name. */
typedef struct parsed_name {
    char canonical[96]; /* the name in the layout */
    bool from_wi;       /* stored as the output of wi_1 */
    bool t_few;
} parsed_name;

/* The module in a tensor's name, without the prefix, of *len bytes; NULL if the name is not that of an (IA)³ vector. */
static const char *
module_of(const char *name, size_t *len, bool *t_few)
{
    if (strncmp(name, PEFT_PREFIX, strlen(PEFT_PREFIX)) == 0)
        name += strlen(PEFT_PREFIX);
    *len = strlen(name);
    *t_few = ia3_name_ends_with(name, *len, T_FEW);
    if (!*t_few && !ia3_name_ends_with(name, *len, SUFFIX))
        return NULL;
    *len -= strlen(*t_few ? T_FEW : SUFFIX);
    return name;
}

static bool
take_apart(const char *tensor, parsed_name *p)
{
    size_t len;
    const char *name = module_of(tensor, &len, &p->t_few);

    if (name == NULL)
        return false;
    p->from_wi = ia3_name_ends_with(name, len, ".DenseReluDense.wi_1");
    if (len + sizeof PEFT_PREFIX + sizeof SUFFIX > sizeof p->canonical)
        return false;
    if (p->from_wi)
        len -= strlen("wi_1");
    snprintf(p->canonical, sizeof p->canonical, PEFT_PREFIX "%.*s%s" SUFFIX, (int) len, name,
             p->from_wi ? "wo" : "");
    return true;
}

/* The targets are what there are tensors for; without a decoder nothing tells about cross-attention. */
static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    int targets = 0;
    bool decoder = false;

    for (int i = 0; i < st->n; i++) {
        parsed_name p;

        if (!take_apart(st->tensors[i].name, &p))
            continue;
        targets |= 1 << ia3_kind_of_tensor(p.canonical, SUFFIX) & ALLOWED;
        decoder =
            decoder || strncmp(p.canonical, PEFT_PREFIX "decoder.", strlen(PEFT_PREFIX "decoder.")) == 0;
    }
    for (int k = 0; k < 4 && !decoder; k++)
        targets |= (targets >> (IA3_KIND_Q + k) & 1) << (IA3_KIND_CROSS_Q + k);
    if (targets != 0)
        v->options[TARGETS] = targets;
}

static json_t *
peft(const ia3_variant *v)
{
    const int targets = (int) v->options[TARGETS];

    return json_pack("{s:s, s:n, s:b, s:o, s:b, s:n, s:o}", "peft_type", "IA3", "exclude_modules",
                     "fan_in_fan_out", 0, "feedforward_modules",
                     ia3_kinds_to_json(targets & 1 << IA3_KIND_WO), "init_ia3_weights", 1, "modules_to_save",
                     "target_modules", ia3_kinds_to_json(targets));
}

#define FAIL(err, format, ...) ia3_fail(err, IA3_E_BAD_ADAPTER, "adapter: " format, __VA_ARGS__)

static const ia3_layout_entry *
find(const ia3_layout *l, const ia3_st_tensor *t, ia3_error *err)
{
    parsed_name p = {.canonical = ""};
    bool known = take_apart(t->name, &p);
    const ia3_layout_entry *e = known ? ia3_layout_find(l, p.canonical) : NULL;

    if (e != NULL && p.from_wi && !l->gated) {
        FAIL(err, "tensor \"%.120s\" does not belong to this backbone", t->name);
        ia3_fail_detail(err, "The backbone's feed-forward layers are not gated and have no wi_1.");
        return NULL;
    }
    if (e != NULL && !(e->feedforward && p.t_few && !p.from_wi))
        return e;
    FAIL(err, "tensor \"%.200s\" does not belong to this backbone", t->name);
    if (!known)
        ia3_fail_detail(err, "Names end in " SUFFIX " (peft) or " T_FEW " (T-Few).");
    else if (strstr(p.canonical, ".DenseReluDense.wi.") != NULL)
        ia3_fail_detail(err, "Scaling the output of wi is not the same as scaling the input of wo.");
    return NULL;
}

/* Checks the shape: [n], or two-dimensional in the orientation that says whether input or output is scaled. */
static bool
fits(const ia3_layout_entry *e, const ia3_st_tensor *t, ia3_error *err)
{
    parsed_name p = {.canonical = ""};
    bool input = take_apart(t->name, &p) && e->feedforward && !p.from_wi;
    int long_side = input ? 1 : 0;

    if (t->ndim == 1 && t->shape[0] == e->len)
        return true;
    if (t->ndim == 2 && t->shape[long_side] == e->len && t->shape[1 - long_side] == 1)
        return true;
    FAIL(err, "tensor \"%.120s\" has the wrong shape for this backbone", t->name);
    if (t->ndim == 2)
        return ia3_fail_detail(err,
                               input ? "Its shape is [%lld, %lld], but should be [1, %d]."
                                     : "Its shape is [%lld, %lld], but should be [%d, 1].",
                               (long long) t->shape[0], (long long) t->shape[1], e->len);
    return ia3_fail_detail(err, "It should have %d values in one or two dimensions.", e->len);
}

/* Only at wo is the input scaled. */
static const char *
module(const char *tensor, size_t *len, bool *scales_input)
{
    bool t_few;
    const char *name = module_of(tensor, len, &t_few);

    *scales_input = ia3_name_ends_with(name, *len, ".wo");
    return name;
}

/* l_o, for the result of a sub-layer of attention */
static void
output(const ia3_method_rows *r, float *y)
{
    const size_t d = (size_t) r->d_model;
    const ia3_products scale = {.rows = r->rows, .cols = r->d_model, .a_stride = d, .y_stride = d};

    r->dev->ops->multiply(r->dev, y, y, r->values, &scale);
}

static void
output_bwd(const ia3_method_rows *r, void *dy, const float *y)
{
    const ia3_device_ops *ops = r->dev->ops;
    size_t mark = ops->arena_mark(r->dev);
    void *act =
        ops->arena_alloc(r->dev, (size_t) r->rows * (size_t) r->d_model * ia3_dtype_size(r->dev->dtype));

    ops->dropout_f32_to_act(r->dev, act, y, r->rows, r->d_model, (ia3_dropout){0});
    ops->scale_row_bwd(r->dev, dy, r->grads, act, r->values, r->rows, r->d_model);
    ops->arena_release(r->dev, mark);
}

static const ia3_spelling spelling = {.find = find, .fits = fits, .module = module};

const ia3_method ia3_method_ia3 = {
    .name = "ia3",
    .options = options,
    .module = add_module,
    .guess = guess,
    .spelling = &spelling,
    .peft = peft,
    .merge_suffix = SUFFIX,
    .learning_rate = 3e-3,
    .steps = 1000,
    .fused = true,
    .outputs = 1 << IA3_PART_SELF_O | 1 << IA3_PART_CROSS_O,
    .output = output,
    .output_bwd = output_bwd,
};
