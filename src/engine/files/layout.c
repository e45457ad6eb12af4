/*
 * layout.c
 *     Builds the layouts of adapters.
 */
#include "layout.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "ensemble.h"
#include "method.h"

#define PREFIX "base_model.model."

static ia3_layout_entry *
add(ia3_layout *l, int ndim, int slices, int rows, int cols, float start, const char *format, va_list args)
{
    if (l->n == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 64;
        l->entries = ia3_realloc(l->entries, (size_t) l->capacity * sizeof *l->entries);
    }

    ia3_layout_entry *e = &l->entries[l->n++];
    const double len = (double) slices * rows * cols;

    /* a layout with a longer tensor only says how many values it would have, which are too many (layouts.c) */
    *e = (ia3_layout_entry){.offset = l->n_values,
                            .len = len < INT_MAX ? (int) len : INT_MAX,
                            .ndim = ndim,
                            .slices = slices,
                            .rows = rows,
                            .cols = cols,
                            .uses = 1,
                            .start = start};
    vsnprintf(e->name, sizeof e->name, format, args);
    l->n_values += (size_t) len;
    return e;
}

ia3_layout_entry *
ia3_layout_add_vector(ia3_layout *l, int len, float start, const char *format, ...)
{
    va_list args;

    va_start(args, format);

    ia3_layout_entry *e = add(l, 1, 1, 1, len, start, format, args);

    va_end(args);
    return e;
}

ia3_layout_entry *
ia3_layout_add_matrix(ia3_layout *l, int rows, int cols, float start, const char *format, ...)
{
    va_list args;

    va_start(args, format);

    ia3_layout_entry *e = add(l, 2, 1, rows, cols, start, format, args);

    va_end(args);
    return e;
}

ia3_layout_entry *
ia3_layout_add_matrices(ia3_layout *l, int slices, int rows, int cols, float start, const char *format, ...)
{
    va_list args;

    va_start(args, format);

    ia3_layout_entry *e = add(l, 3, slices, rows, cols, start, format, args);

    va_end(args);
    return e;
}

const char *const ia3_kind_names[] = {
    [IA3_KIND_Q] = "SelfAttention.q",         [IA3_KIND_K] = "SelfAttention.k",
    [IA3_KIND_V] = "SelfAttention.v",         [IA3_KIND_O] = "SelfAttention.o",
    [IA3_KIND_CROSS_Q] = "EncDecAttention.q", [IA3_KIND_CROSS_K] = "EncDecAttention.k",
    [IA3_KIND_CROSS_V] = "EncDecAttention.v", [IA3_KIND_CROSS_O] = "EncDecAttention.o",
    [IA3_KIND_WI] = "DenseReluDense.wi",      [IA3_KIND_WI_0] = "DenseReluDense.wi_0",
    [IA3_KIND_WI_1] = "DenseReluDense.wi_1",  [IA3_KIND_WO] = "DenseReluDense.wo",
};

int
ia3_kind_of_tensor(const char *tensor, const char *ending)
{
    char end[64];
    int kind = 0;

    for (; kind < IA3_N_KINDS; kind++) {
        snprintf(end, sizeof end, ".%s%s", ia3_kind_names[kind], ending);
        if (ia3_name_ends_with(tensor, strlen(tensor), end))
            break;
    }
    return kind;
}

/* N in "layer.N" of a decoder block, in which the part is; the feed-forward of an encoder block has 1, not 2. */
static int
sub_of(ia3_part part)
{
    return part <= IA3_PART_SELF_O ? 0 : part <= IA3_PART_CROSS_O ? 1 : 2;
}

static void
add_norm(ia3_layout *l, const char *name, int d_model)
{
    l->variant.method->module(l, &(ia3_module){.name = name, .norm = true, .out = d_model, .in = d_model});
}

static void
add_part(ia3_layout *l, int d_model, ia3_place at)
{
    const int sub = sub_of(at.part), n = ia3_part_linears(l, at.part);
    char prefix[64], name[96];

    snprintf(prefix, sizeof prefix, PREFIX "%s.block.%d.layer.%d", at.decoder ? "decoder" : "encoder",
             at.layer, sub - (sub == 2 && !at.decoder));
    if (at.part == IA3_PART_SELF_NORM || at.part == IA3_PART_CROSS_NORM || at.part == IA3_PART_FF_NORM) {
        snprintf(name, sizeof name, "%s.layer_norm", prefix);
        add_norm(l, name, d_model);
        return;
    }

    bool last = at.part == IA3_PART_SELF_O || at.part == IA3_PART_CROSS_O || at.part == IA3_PART_FF_WO;
    int inside = sub == 2 ? l->d_ff : l->inner;

    for (int i = 0; i < n; i++) {
        ia3_kind kind = ia3_part_kind(l, at.part, i);

        const size_t before = l->n_values;

        snprintf(name, sizeof name, "%s.%s", prefix, ia3_kind_names[kind]);
        l->variant.method->module(l, &(ia3_module){.name = name,
                                                   .kind = kind,
                                                   .out = last ? d_model : inside,
                                                   .in = last ? inside : d_model});
        if (l->n_values > before)
            l->kinds |= 1 << kind;
    }
}

static void
add_stack(ia3_layout *l, int d_model, bool decoder)
{
    int layers = decoder ? l->n_dec : l->n_enc;

    for (int i = 0; i <= layers; i++) {
        for (int part = 0; part < IA3_N_PARTS; part++) {
            ia3_place at = {decoder, i, part};
            bool cross = part >= IA3_PART_CROSS_NORM && part <= IA3_PART_CROSS_O;
            const char *final =
                decoder ? PREFIX "decoder.final_layer_norm" : PREFIX "encoder.final_layer_norm";

            l->places[(i + (decoder ? l->n_enc + 1 : 0)) * IA3_N_PARTS + part] = l->n_values;
            if (i < layers && (decoder || !cross))
                add_part(l, d_model, at);
            else if (i == layers && part == IA3_PART_SELF_NORM)
                add_norm(l, final, d_model);
        }
    }
}

static int
compare_names(const void *a, const void *b, void *layout)
{
    const ia3_layout *l = layout;

    return strcmp(l->entries[*(const int *) a].name, l->entries[*(const int *) b].name);
}

static void
index_names(ia3_layout *l)
{
    l->by_name = ia3_alloc_array((size_t) l->n, sizeof *l->by_name);
    for (int i = 0; i < l->n; i++)
        l->by_name[i] = i;
    qsort_r(l->by_name, (size_t) l->n, sizeof *l->by_name, compare_names, l);
}

const char *
ia3_layout_no_mean(const ia3_layout *l)
{
    if (l->kept > 0)
        return "Each has values of other weights of the backbone, and positions of weights have no mean.";
    for (int i = 0; i < l->n; i++)
        if (l->entries[i].partner != 0)
            return "Their numbers are factors of products, and the mean of factors is not that of products.";
    return NULL;
}

const ia3_layout_entry *
ia3_layout_find(const ia3_layout *l, const char *name)
{
    int low = 0, high = l->n;

    while (low < high) {
        int middle = low + (high - low) / 2;
        const ia3_layout_entry *e = &l->entries[l->by_name[middle]];
        int order = strcmp(name, e->name);

        if (order == 0)
            return e;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/*
 * What a method adds to the work of a pass. Each row of a place is multiplied by the matrices there. The backward pass
 * needs one product for the gradient of the input and one for that of the matrix; all matrices of a group but the last are
 * multiplied once more, because the inputs of those that follow are not kept.
 */
static void
count_work(ia3_layout *l)
{
    ia3_method_cost *c = &l->cost;
    size_t places = l->n_places, place = 0;

    c->lead_rows = l->lead_rows;
    c->decoder_lead_rows = l->dec_lead_rows;
    c->below_vectors = l->hooks || l->weights;
    if (l->weights) {
        c->weights = (double) l->n_values;
        c->draws = l->variant.method->mask_draws;
        return;
    }
    for (int i = 0; i < l->n && l->entries[i].offset < l->rest; i++) {
        const ia3_layout_entry *e = &l->entries[i];

        while (place + 1 < places && l->places[place + 1] <= e->offset)
            place++;

        ia3_row_cost *row = place % IA3_N_PARTS == IA3_PART_CROSS_KV   ? &c->keys
                            : place / IA3_N_PARTS <= (size_t) l->n_enc ? &c->encoder
                                                                       : &c->decoder;

        if (e->ndim > 1 && !l->variant.method->fused) {
            row->forward += (double) e->uses * e->len;
            row->backward += (e->partner > 0 ? 3.0 : 2.0) * e->uses * e->len;
        }
    }
}

/* Whether the method changes the results of any sub-layers. */
static bool
changes_outputs(const ia3_layout *l)
{
    for (int part = 0; part < IA3_N_PARTS; part++)
        for (int decoder = 0; decoder < 2; decoder++)
            if (l->variant.method->outputs >> part & 1 &&
                ia3_place_values(l, (ia3_place){decoder, 0, (ia3_part) part}) > 0)
                return true;
    return false;
}

static bool
is_standard(const ia3_layout *l, const ia3_config *config)
{
    ia3_variant standard = ia3_variant_standard(l->variant.method);

    ia3_variant_fit(&standard, config);
    return ia3_variant_equal(&l->variant, &standard);
}

static void
add_trained(ia3_layout *l, const ia3_config *config)
{
    const ia3_reparameterization *r = l->variant.method->reparameterization;
    ia3_layout *t = ia3_alloc(sizeof *t);

    t->variant = l->variant;
    t->members = 1;
    r->tensors(t, l, config);
    t->rest = t->n_values;
    l->trained = t;
    l->cost.trained = (double) t->n_values;
    l->cost.step = r->step_work(t, l);
}

static ia3_layout *
without_tensors(const ia3_config *config, ia3_variant variant)
{
    ia3_layout *l = ia3_alloc(sizeof *l);

    l->variant = variant;
    ia3_variant_fit(&l->variant, config);
    l->members = 1;
    l->n_enc = config->n_enc;
    l->n_dec = config->n_dec;
    l->inner = config->inner;
    l->d_ff = config->d_ff;
    l->gated = config->gated;
    return l;
}

static void
add_modules(ia3_layout *l, const ia3_config *config)
{
    if (l->variant.method->module) {
        l->n_places = ((size_t) config->n_enc + (size_t) config->n_dec + 2) * IA3_N_PARTS;
        l->places = ia3_alloc_array(l->n_places, sizeof *l->places);
        add_stack(l, config->d_model, false);
        add_stack(l, config->d_model, true);
    }
    l->rest = l->n_values;
}

static void
build(ia3_layout *l, const ia3_config *config)
{
    const ia3_method *method = l->variant.method;
    ia3_layout *in_passes = l;

    if (method->expansion || method->mask_draws > 0)
        in_passes = l->expanded = without_tensors(config, l->variant);
    in_passes->weights = method->weights;
    add_modules(in_passes, config);
    if (method->tensors)
        method->tensors(l, config);
    if (method->reparameterization)
        add_trained(l, config);
    in_passes->plain = method->fused && is_standard(l, config);
    in_passes->hooks = !method->weights && (!method->fused || changes_outputs(in_passes));
    count_work(in_passes);
    if (in_passes != l) {
        index_names(in_passes);
        l->cost = in_passes->cost;
        l->cost.expanded = method->expansion ? (double) in_passes->n_values : 0;
        l->cost.positions = l->kept > 0 ? (double) (l->n_values - l->kept) : 0;
    }
}

/* The limits of config.c keep n_values far below 2^40. */
ia3_layout *
ia3_layout_create(const ia3_config *config, ia3_variant variant)
{
    ia3_layout *l = without_tensors(config, variant);

    if (variant.members > 1)
        ia3_ensemble_layout(l, config);
    else
        build(l, config);
    index_names(l);
    return l;
}

void
ia3_layout_free(ia3_layout *layout)
{
    if (layout == NULL)
        return;
    ia3_layout_free(layout->member);
    ia3_layout_free(layout->trained);
    ia3_layout_free(layout->expanded);
    free(layout->entries);
    free(layout->by_name);
    free(layout->places);
    free(layout);
}
