/*
 * layout.c
 *     The flat layouts of adapters and the names of their tensors: (IA)³ as in peft, the others as adapter.h says.
 */
#include "adapter.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

#define PREFIX "base_model.model."

/* A tensor [rows, cols] ([cols] when ndim is 1), behind those added so far. */
static ia3_layout_entry *__attribute__((format(printf, 5, 6)))
add(ia3_layout *l, int ndim, int rows, int cols, const char *format, ...)
{
    ia3_layout_entry *e = &l->entries[l->n++];
    va_list args;

    va_start(args, format);
    vsnprintf(e->name, sizeof e->name, format, args);
    va_end(args);
    e->offset = l->n_values;
    e->len = rows * cols;
    e->ndim = ndim;
    e->rows = rows;
    e->cols = cols;
    l->n_values += (size_t) e->len;
    return e;
}

static void
add_vector(ia3_layout *l, int len, bool feedforward, const char *stack, int block, int layer,
           const char *module)
{
    add(l, 2, feedforward ? 1 : len, feedforward ? len : 1, PREFIX "%s.block.%d.layer.%d.%s.ia3_l", stack,
        block, layer, module)
        ->feedforward = feedforward;
}

/* n_values = n_enc·(2·inner + d_ff) + n_dec·(4·inner + d_ff) */
static void
add_ia3(ia3_layout *l)
{
    for (int i = 0; i < l->n_enc; i++) {
        add_vector(l, l->inner, false, "encoder", i, 0, "SelfAttention.k");
        add_vector(l, l->inner, false, "encoder", i, 0, "SelfAttention.v");
        add_vector(l, l->d_ff, true, "encoder", i, 1, "DenseReluDense.wo");
    }
    for (int i = 0; i < l->n_dec; i++) {
        add_vector(l, l->inner, false, "decoder", i, 0, "SelfAttention.k");
        add_vector(l, l->inner, false, "decoder", i, 0, "SelfAttention.v");
        add_vector(l, l->inner, false, "decoder", i, 1, "EncDecAttention.k");
        add_vector(l, l->inner, false, "decoder", i, 1, "EncDecAttention.v");
        add_vector(l, l->d_ff, true, "decoder", i, 2, "DenseReluDense.wo");
    }
}

/* --- other methods, place by place --- */

unsigned
ia3_method_has(Ia3Method method)
{
    static const unsigned has[IA3_N_METHODS] = {
        [IA3_METHOD_LORA] = IA3_HAS_LOW_RANK,
        [IA3_METHOD_BITFIT] = IA3_HAS_BIAS | IA3_HAS_NORM,
        [IA3_METHOD_LAYERNORM] = IA3_HAS_NORM,
        [IA3_METHOD_PROMPT] = IA3_HAS_PROMPT,
    };
    return has[method];
}

/* The linears of a part: which of the model's widths they map, and what they are called. */
typedef struct part_names {
    const char *module, *linears[3];
    int sub; /* "layer.0", … of a block; the feed-forward of an encoder block is 1, not 2 */
} part_names;

static const part_names part_table[IA3_N_PARTS] = {
    [IA3_PART_SELF_NORM] = {"layer_norm", {NULL}, 0},
    [IA3_PART_SELF_QKV] = {"SelfAttention", {"q", "k", "v"}, 0},
    [IA3_PART_SELF_O] = {"SelfAttention", {"o"}, 0},
    [IA3_PART_CROSS_NORM] = {"layer_norm", {NULL}, 1},
    [IA3_PART_CROSS_Q] = {"EncDecAttention", {"q"}, 1},
    [IA3_PART_CROSS_KV] = {"EncDecAttention", {"k", "v"}, 1},
    [IA3_PART_CROSS_O] = {"EncDecAttention", {"o"}, 1},
    [IA3_PART_FF_NORM] = {"layer_norm", {NULL}, 2},
    [IA3_PART_FF_WI] = {"DenseReluDense", {"wi_0", "wi_1"}, 2},
    [IA3_PART_FF_WO] = {"DenseReluDense", {"wo"}, 2},
};

static void
add_linear(ia3_layout *l, const char *prefix, const char *linear, int out, int in)
{
    unsigned has = ia3_method_has(l->method);

    if (has & IA3_HAS_BIAS)
        add(l, 1, 1, out, "%s.%s.bias", prefix, linear);
    if (has & IA3_HAS_LOW_RANK) {
        add(l, 2, IA3_LORA_RANK, in, "%s.%s.lora_A.weight", prefix, linear);
        add(l, 2, out, IA3_LORA_RANK, "%s.%s.lora_B.weight", prefix, linear);
    }
}

static void
add_part(ia3_layout *l, int d_model, ia3_place at)
{
    const part_names *names = &part_table[at.part];
    const char *stack = at.decoder ? "decoder" : "encoder";
    char prefix[80];

    snprintf(prefix, sizeof prefix, PREFIX "%s.block.%d.layer.%d.%s", stack, at.layer,
             names->sub - (names->sub == 2 && !at.decoder), names->module);
    if (names->linears[0] == NULL) {
        if (ia3_method_has(l->method) & IA3_HAS_NORM)
            add(l, 1, 1, d_model, "%s.scale", prefix);
        return;
    }

    bool last = at.part == IA3_PART_SELF_O || at.part == IA3_PART_CROSS_O || at.part == IA3_PART_FF_WO;
    int inside = names->sub == 2 ? l->d_ff : l->inner, n = ia3_part_linears(l, at.part);

    for (int i = 0; i < n; i++)
        add_linear(l, prefix, at.part == IA3_PART_FF_WI && n == 1 ? "wi" : names->linears[i],
                   last ? d_model : inside, last ? inside : d_model);
}

static void
add_stack(ia3_layout *l, int d_model, bool decoder)
{
    int layers = decoder ? l->n_dec : l->n_enc;

    for (int i = 0; i <= layers; i++) {
        for (int part = 0; part < IA3_N_PARTS; part++) {
            ia3_place at = {decoder, i, part};
            bool cross = part >= IA3_PART_CROSS_NORM && part <= IA3_PART_CROSS_O;

            l->places[(i + (decoder ? l->n_enc + 1 : 0)) * IA3_N_PARTS + part] = l->n_values;
            if (i < layers && (decoder || !cross))
                add_part(l, d_model, at);
            else if (i == layers && part == IA3_PART_SELF_NORM && ia3_method_has(l->method) & IA3_HAS_NORM)
                add(l, 1, 1, d_model, PREFIX "%s.final_layer_norm.scale", decoder ? "decoder" : "encoder");
        }
    }
}

/* The limits of config.c keep n_values far below 2^40. Never NULL. */
ia3_layout *
ia3_layout_create_method(const ia3_config *config, Ia3Method method)
{
    ia3_layout *l = ia3_alloc(sizeof *l);
    size_t blocks = (size_t) config->n_enc + config->n_dec + 2;

    l->method = method;
    l->n_enc = config->n_enc;
    l->n_dec = config->n_dec;
    l->inner = config->inner;
    l->d_ff = config->d_ff;
    l->gated = config->gated;
    /* at most: the 11 linears of a decoder layer with two tensors each, three norms */
    l->entries = ia3_alloc_array(blocks * 25, sizeof *l->entries);
    if (method == IA3_METHOD_IA3) {
        add_ia3(l);
        return l;
    }
    l->places = ia3_alloc_array(blocks * IA3_N_PARTS, sizeof *l->places);
    add_stack(l, config->d_model, false);
    add_stack(l, config->d_model, true);
    if (ia3_method_has(method) & IA3_HAS_PROMPT)
        add(l, 2, IA3_PROMPT_TOKENS, config->d_model, "prompt_embeddings");
    return l;
}

ia3_layout *
ia3_layout_create(const ia3_config *config)
{
    return ia3_layout_create_method(config, IA3_METHOD_IA3);
}

/* NULL is allowed. */
void
ia3_layout_free(ia3_layout *layout)
{
    if (layout == NULL)
        return;
    free(layout->entries);
    free(layout->places);
    free(layout);
}
