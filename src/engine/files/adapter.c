/*
 * adapter.c
 *     Adapters out of and into safetensors.
 *
 * Three spellings of (IA)³ are read: peft with the feed-forward as wo (a scaled input, [1, d_ff]) or
 * as wi_1 (a scaled output, [d_ff, 1]), and T-Few's multi_lora_b (always scaled outputs). The orientation is
 * meaning, not decoration: peft writes [1, n] for a module whose input is scaled, and a wo whose output is
 * scaled, or a k whose input is, is another model even where the lengths agree. So it is checked.
 */
#include "adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/half.h"
#include "safetensors.h"

#define PEFT_PREFIX "base_model.model."

/* A stored name taken apart. */
typedef struct parsed_name {
    char canonical[96]; /* the name in the layout */
    bool from_wi;       /* stored as the output of wi_1 */
    bool t_few;
} parsed_name;

static bool
ends_with(const char *s, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);

    return len >= n && memcmp(s + len - n, suffix, n) == 0;
}

/* False for a name that is no (IA)³ vector at all. */
static bool
take_apart(const char *name, parsed_name *p)
{
    if (strncmp(name, PEFT_PREFIX, strlen(PEFT_PREFIX)) == 0)
        name += strlen(PEFT_PREFIX);

    size_t len = strlen(name);

    p->t_few = ends_with(name, len, ".multi_lora_b");
    if (!p->t_few && !ends_with(name, len, ".ia3_l"))
        return false;
    len -= strlen(p->t_few ? ".multi_lora_b" : ".ia3_l");
    p->from_wi = ends_with(name, len, ".DenseReluDense.wi_1");
    if (len + sizeof PEFT_PREFIX + sizeof ".ia3_l" > sizeof p->canonical)
        return false;
    if (p->from_wi)
        len -= strlen("wi_1");
    snprintf(p->canonical, sizeof p->canonical, PEFT_PREFIX "%.*s%s.ia3_l", (int) len, name,
             p->from_wi ? "wo" : "");
    return true;
}

static int
compare_entries(const void *a, const void *b)
{
    return strcmp((*(const ia3_layout_entry *const *) a)->name, (*(const ia3_layout_entry *const *) b)->name);
}

static const ia3_layout_entry *
find_entry(const ia3_layout_entry *const *sorted, int n, const char *name)
{
    ia3_layout_entry key;
    const ia3_layout_entry *key_ptr = &key;

    snprintf(key.name, sizeof key.name, "%s", name);

    const ia3_layout_entry *const *found = bsearch(&key_ptr, sorted, n, sizeof *sorted, compare_entries);

    return found ? *found : NULL;
}

static float
read_value(const ia3_st_tensor *t, size_t i)
{
    float f;
    uint16_t h;

    if (t->dtype == IA3_F32) {
        memcpy(&f, t->data + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, t->data + 2 * i, sizeof h);
    return t->dtype == IA3_BF16 ? ia3_bf16_to_f32(h) : ia3_f16_to_f32(h);
}

#define FAIL(err, format, ...) ia3_fail(err, IA3_E_BAD_ADAPTER, "adapter: " format, __VA_ARGS__)

/* [n], or two-dimensional in the orientation that says what is scaled; p == NULL: as another method stores it. */
static bool
check_shape(const ia3_layout_entry *e, const parsed_name *p, const ia3_st_tensor *t, ia3_error *err)
{
    if (p == NULL) {
        if (t->ndim == e->ndim && t->shape[e->ndim - 1] == e->cols &&
            (t->ndim == 1 || t->shape[0] == e->rows))
            return true;
        FAIL(err, "tensor \"%.120s\" does not have the shape of this backbone", t->name);
        if (e->ndim == 1)
            return ia3_fail_detail(err, "Expected is [%d].", e->cols);
        return ia3_fail_detail(err, "Expected is [%d, %d].", e->rows, e->cols);
    }

    bool input = e->feedforward && !p->from_wi;
    int long_side = input ? 1 : 0;

    if (t->ndim == 1 && t->shape[0] == e->len)
        return true;
    if (t->ndim == 2 && t->shape[long_side] == e->len && t->shape[1 - long_side] == 1)
        return true;
    FAIL(err, "tensor \"%.120s\" does not have the shape of this backbone", t->name);
    if (t->ndim == 2)
        return ia3_fail_detail(err,
                               input ? "Its shape is [%lld, %lld], expected is [1, %d]."
                                     : "Its shape is [%lld, %lld], expected is [%d, 1].",
                               (long long) t->shape[0], (long long) t->shape[1], e->len);
    return ia3_fail_detail(err, "Expected are %d values in one or two dimensions.", e->len);
}

static bool
copy_values(float *out, int len, const ia3_st_tensor *t, ia3_error *err)
{
    if (t->dtype == IA3_AUTO)
        return FAIL(err, "tensor \"%.120s\": \"dtype\" is none of F32, BF16 and F16", t->name);
    for (int i = 0; i < len; i++) {
        out[i] = read_value(t, (size_t) i);
        if (!isfinite(out[i]))
            return FAIL(err, "tensor \"%.120s\" has a value that is not finite at position %d", t->name, i);
    }
    return true;
}

/* What is wrong with a tensor that has no place here. */
static bool
refuse(const ia3_st_tensor *t, const parsed_name *p, bool known_suffix, bool ia3, ia3_error *err)
{
    const char *module = known_suffix ? p->canonical : "";

    FAIL(err, "tensor \"%.200s\" is not a vector of this backbone", t->name);
    if (!ia3)
        return ia3_fail_detail(err,
                               "An adapter has the tensors of one method for every layer, and no others.");
    if (!known_suffix)
        return ia3_fail_detail(err, "Names end in .ia3_l (peft) or .multi_lora_b (T-Few).");
    if (strstr(module, ".DenseReluDense.wi.") != NULL)
        return ia3_fail_detail(err, "Scaling the output of wi is not the same as scaling the input of wo.");
    return false;
}

static bool
parse_tensors(const ia3_layout *layout, const ia3_layout_entry *const *sorted, const ia3_safetensors *st,
              float *values, bool *seen, ia3_error *err)
{
    bool ia3 = layout->method == IA3_METHOD_IA3;

    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];
        parsed_name p = {.canonical = ""};

        if (!ia3)
            snprintf(p.canonical, sizeof p.canonical, "%s", t->name);

        bool known_suffix = !ia3 || take_apart(t->name, &p);
        const ia3_layout_entry *e = known_suffix ? find_entry(sorted, layout->n, p.canonical) : NULL;

        if (e == NULL || (e->feedforward && p.t_few && !p.from_wi))
            return refuse(t, &p, known_suffix, ia3, err);
        if (p.from_wi && !layout->gated) {
            FAIL(err, "tensor \"%.120s\" is not a vector of this backbone", t->name);
            return ia3_fail_detail(err, "Its feed-forward is not gated: there is no wi_1.");
        }
        if (seen[e - layout->entries])
            return FAIL(err, "tensor \"%.120s\" gives a vector that another tensor gave already", t->name);
        seen[e - layout->entries] = true;
        if (!check_shape(e, ia3 ? &p : NULL, t, err) || !copy_values(values + e->offset, e->len, t, err))
            return false;
    }
    for (int i = 0; i < layout->n; i++)
        if (!seen[i])
            return FAIL(err, "tensor \"%s\" is missing", layout->entries[i].name);
    return true;
}

/* See adapter.h. */
float *
ia3_adapter_parse(const ia3_layout *layout, const uint8_t *data, size_t len, ia3_error *err)
{
    ia3_safetensors *st = ia3_safetensors_parse(data, len, "adapter", IA3_E_BAD_ADAPTER, err);

    if (st == NULL)
        return NULL;

    const ia3_layout_entry **sorted = ia3_alloc_array(layout->n, sizeof *sorted);
    bool *seen = ia3_alloc_array(layout->n, sizeof *seen);
    float *values = ia3_alloc_array(layout->n_values, sizeof *values);

    for (int i = 0; i < layout->n; i++)
        sorted[i] = &layout->entries[i];
    qsort(sorted, layout->n, sizeof *sorted, compare_entries);
    if (!parse_tensors(layout, sorted, st, values, seen, err)) {
        free(values);
        values = NULL;
    }
    free(seen);
    free(sorted);
    ia3_safetensors_free(st);
    return values;
}

static Ia3Method
method_of(const ia3_safetensors *st)
{
    Ia3Method method = IA3_METHOD_IA3;

    for (int i = 0; i < st->n; i++) {
        const char *name = st->tensors[i].name;
        size_t len = strlen(name);

        if (strcmp(name, "prompt_embeddings") == 0)
            return IA3_METHOD_PROMPT;
        if (ends_with(name, len, ".lora_A.weight") || ends_with(name, len, ".lora_B.weight"))
            return IA3_METHOD_LORA;
        if (ends_with(name, len, ".bias"))
            return IA3_METHOD_BITFIT;
        if (ends_with(name, len, "layer_norm.scale"))
            method = IA3_METHOD_LAYERNORM; /* unless biases follow */
    }
    return method;
}

/* See adapter.h. */
Ia3Method
ia3_adapter_method(const uint8_t *data, size_t len)
{
    ia3_error err = {0};
    ia3_safetensors *st = ia3_safetensors_parse(data, len, "adapter", IA3_E_BAD_ADAPTER, &err);
    Ia3Method method = st ? method_of(st) : IA3_METHOD_IA3;

    ia3_safetensors_free(st);
    return method;
}

/* See adapter.h. */
float *
ia3_adapter_parse_any(ia3_layout *const *layouts, const uint8_t *data, size_t len, Ia3Method *method,
                      ia3_error *err)
{
    *method = ia3_adapter_method(data, len);
    return ia3_adapter_parse(layouts[*method], data, len, err);
}

/* See adapter.h. values [n_values]; *len = bytes. */
uint8_t *
ia3_adapter_serialize(const ia3_layout *layout, const float *values, size_t *len)
{
    ia3_st_out *tensors = ia3_alloc_array(layout->n, sizeof *tensors);

    for (int i = 0; i < layout->n; i++) {
        const ia3_layout_entry *e = &layout->entries[i];

        tensors[i].name = e->name;
        tensors[i].ndim = e->ndim;
        tensors[i].shape[0] = e->ndim == 2 ? e->rows : e->cols;
        tensors[i].shape[1] = e->cols;
        tensors[i].data = values + e->offset;
    }

    uint8_t *out = ia3_safetensors_write(tensors, layout->n, len);

    free(tensors);
    return out;
}
