/*
 * adapter.c
 *     Parses, checks and serialises adapters.
 */
#include "adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/half.h"
#include "ensemble.h"

static float
read_value(const ia3_st_tensor *t, size_t i)
{
    double d;
    float f;
    uint16_t h;

    if (t->dtype == IA3_F64) {
        memcpy(&d, t->data + 8 * i, sizeof d);
        return (float) d;
    }
    if (t->dtype == IA3_F32) {
        memcpy(&f, t->data + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, t->data + 2 * i, sizeof h);
    return t->dtype == IA3_BF16 ? ia3_bf16_to_f32(h) : ia3_f16_to_f32(h);
}

#define FAIL(err, format, ...) ia3_fail(err, IA3_E_BAD_ADAPTER, "adapter: " format, __VA_ARGS__)

static const ia3_layout_entry *
find(const ia3_layout *layout, const ia3_st_tensor *t, ia3_error *err)
{
    if (layout->member) {
        ia3_st_tensor alone = *t;
        const int member = ia3_ensemble_member(t->name, &alone.name);
        const ia3_layout_entry *e;

        if (member < 0 || member >= layout->members) {
            FAIL(err, "tensor \"%.200s\" does not belong to this ensemble", t->name);
            return NULL;
        }
        e = find(layout->member, &alone, err);
        return e ? &layout->entries[member * layout->member->n + (e - layout->member->entries)] : NULL;
    }
    if (layout->variant.method->spelling)
        return layout->variant.method->spelling->find(layout, t, err);

    const ia3_layout_entry *e = ia3_layout_find(layout, t->name);

    if (e == NULL) {
        FAIL(err, "tensor \"%.200s\" does not belong to this backbone", t->name);
        ia3_fail_detail(err, "An adapter has the tensors of one method for every layer, and no others.");
    }
    return e;
}

/* The shape as stored, of e->ndim numbers. */
static void
shape_of(const ia3_layout_entry *e, int64_t *shape)
{
    const int all[] = {e->slices, e->rows, e->cols};

    for (int i = 0; i < e->ndim; i++)
        shape[i] = all[3 - e->ndim + i];
}

static bool
check_shape(const ia3_layout *layout, const ia3_layout_entry *e, const ia3_st_tensor *t, ia3_error *err)
{
    if (layout->member) {
        ia3_st_tensor alone = *t;

        ia3_ensemble_member(t->name, &alone.name);
        return check_shape(layout->member,
                           &layout->member->entries[(e - layout->entries) % layout->member->n], &alone, err);
    }
    if (layout->variant.method->spelling)
        return layout->variant.method->spelling->fits(e, t, err);

    int64_t shape[3];

    shape_of(e, shape);
    if (t->ndim == e->ndim && memcmp(t->shape, shape, (size_t) e->ndim * sizeof *shape) == 0)
        return true;
    FAIL(err, "tensor \"%.120s\" has the wrong shape for this backbone", t->name);
    if (e->ndim == 1)
        return ia3_fail_detail(err, "Its shape should be [%d].", e->cols);
    if (e->ndim == 3)
        return ia3_fail_detail(err, "Its shape should be [%d, %d, %d].", e->slices, e->rows, e->cols);
    return ia3_fail_detail(err, "Its shape should be [%d, %d].", e->rows, e->cols);
}

static bool
copy_values(float *out, int len, const ia3_st_tensor *t, ia3_error *err)
{
    if (t->dtype == IA3_AUTO)
        return FAIL(err, "tensor \"%.120s\": \"dtype\" is not F32, BF16, F16 or F64", t->name);
    for (int i = 0; i < len; i++) {
        out[i] = read_value(t, (size_t) i);
        if (!isfinite(out[i]))
            return FAIL(err, "tensor \"%.120s\" has a value that is not finite at position %d", t->name, i);
    }
    return true;
}

static bool
parse_tensors(const ia3_layout *layout, const ia3_safetensors *st, float *values, bool *seen, ia3_error *err)
{
    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];
        const ia3_layout_entry *e = find(layout, t, err);

        if (e == NULL)
            return false;
        if (seen[e - layout->entries])
            return FAIL(err, "tensor \"%.120s\" duplicates the values of another tensor", t->name);
        seen[e - layout->entries] = true;
        if (!check_shape(layout, e, t, err) || !copy_values(values + e->offset, e->len, t, err))
            return false;
    }
    return st->n > 0 || ia3_fail(err, IA3_E_BAD_ADAPTER, "adapter: there are no tensors");
}

/* The part of a stored name before the number of its layer, and the part after it; the whole name if there is none. */
static size_t
split_name(const char *name, const char **rest)
{
    static const char block[] = ".block.";
    const char *at = strstr(name, block);

    if (at == NULL) {
        *rest = "";
        return strlen(name);
    }
    at += strlen(block);
    *rest = at + strspn(at, "0123456789");
    return (size_t) (at - name);
}

/* Whether two tensors belong to the same module of different layers of the same stack. */
static bool
same_kind(const char *a, const char *b)
{
    const char *rest_a, *rest_b;
    size_t n = split_name(a, &rest_a);

    return n == split_name(b, &rest_b) && strncmp(a, b, n) == 0 && strcmp(rest_a, rest_b) == 0;
}

/*
 * Gives tensors that the adapter lacks the values with which they change nothing. It may lack a kind of modules, or a
 * whole stack, because only some were trained; but if it has a module of some layers and not of all, it probably
 * belongs to another backbone. All members of an ensemble have the same tensors.
 */
static bool
fill_up(const ia3_layout *layout, const bool *seen, float *values, ia3_error *err)
{
    const int n = layout->n / layout->members; /* tensors of a member */

    for (int i = 0; i < layout->n; i++) {
        const ia3_layout_entry *e = &layout->entries[i];

        if (seen[i] != seen[i % n])
            return FAIL(err, "tensor \"%s\" is missing", layout->entries[seen[i] ? i % n : i].name);
        if (seen[i])
            continue;
        if (e->required || (e->partner != 0 && seen[i + e->partner]) ||
            (i > 0 && e[-1].partner > 0 && seen[i - 1]))
            return FAIL(err, "tensor \"%s\" is missing", e->name);
        for (int k = i / n * n; k < i / n * n + n; k++)
            if (seen[k] && same_kind(e->name, layout->entries[k].name)) {
                FAIL(err, "tensor \"%s\" is missing", e->name);
                return ia3_fail_detail(err, "Other layers have it; the adapter may be one for fewer layers.");
            }
        for (int k = 0; k < e->len; k++)
            values[e->offset + (size_t) k] = e->start;
    }
    return true;
}

static bool
valid(const ia3_layout *layout, const float *values, ia3_error *err)
{
    const ia3_layout *one = layout->member ? layout->member : layout;
    bool ok = true;

    for (size_t i = 0; ok && one->variant.method->valid && i < (size_t) layout->members; i++)
        ok = one->variant.method->valid(one, values + i * one->n_values, err);
    return ok;
}

float *
ia3_adapter_parse(const ia3_layout *layout, const uint8_t *data, size_t len, ia3_error *err)
{
    ia3_safetensors *st = ia3_safetensors_parse(data, len, "adapter", IA3_E_BAD_ADAPTER, err);

    if (st == NULL)
        return NULL;

    bool *seen = ia3_alloc_array(layout->n, sizeof *seen);
    float *values = ia3_alloc_array(layout->n_values, sizeof *values);

    if (!parse_tensors(layout, st, values, seen, err) || !fill_up(layout, seen, values, err) ||
        !valid(layout, values, err)) {
        free(values);
        values = NULL;
    }
    free(seen);
    ia3_safetensors_free(st);
    return values;
}

static bool
bears_mark(const ia3_safetensors *st, const ia3_method *method)
{
    for (int k = 0; method->marks && method->marks[k]; k++)
        for (int i = 0; i < st->n; i++)
            if (ia3_name_ends_with(st->tensors[i].name, strlen(st->tensors[i].name), method->marks[k]))
                return true;
    return false;
}

const ia3_method *
ia3_adapter_method(const ia3_method *const *methods, const uint8_t *data, size_t len)
{
    ia3_error err = {0};
    ia3_safetensors *st = ia3_safetensors_parse(data, len, "adapter", IA3_E_BAD_ADAPTER, &err);
    const ia3_method *found = methods[0];

    for (int i = 0; st && methods[i]; i++)
        if (bears_mark(st, methods[i])) {
            found = methods[i];
            break;
        }
    ia3_safetensors_free(st);
    return found;
}

bool
ia3_adapter_variant(const ia3_method *const *methods, const uint8_t *data, size_t len, ia3_variant *variant,
                    ia3_error *err)
{
    ia3_safetensors *st = ia3_safetensors_parse(data, len, "adapter", IA3_E_BAD_ADAPTER, err);

    if (st == NULL)
        return false;

    int members;
    ia3_safetensors *first = ia3_ensemble_first(st, &members);

    *variant = ia3_variant_standard(ia3_adapter_method(methods, data, len));
    if (variant->method->guess)
        variant->method->guess(first, variant);
    variant->members = members;
    free(first);
    ia3_safetensors_free(st);
    if (ia3_variant_check(variant, err))
        return true;
    err->code = IA3_E_BAD_ADAPTER;
    return false;
}

float *
ia3_adapter_parse_any(ia3_layouts *layouts, const uint8_t *data, size_t len, const ia3_layout **layout,
                      ia3_error *err)
{
    ia3_variant variant;
    float *values = NULL;

    *layout = NULL;
    if (ia3_adapter_variant(ia3_layouts_methods(layouts), data, len, &variant, err))
        *layout = ia3_layouts_get(layouts, &variant, err);
    if (*layout)
        values = ia3_adapter_parse(*layout, data, len, err);
    if (values == NULL) {
        ia3_layout_release(*layout);
        *layout = NULL;
    }
    return values;
}

uint8_t *
ia3_adapter_serialize(const ia3_layout *layout, const float *values, size_t *len)
{
    ia3_st_out *tensors = ia3_alloc_array(layout->n, sizeof *tensors);

    for (int i = 0; i < layout->n; i++) {
        const ia3_layout_entry *e = &layout->entries[i];

        tensors[i].name = e->name;
        tensors[i].ndim = e->ndim;
        shape_of(e, tensors[i].shape);
        tensors[i].data = values + e->offset;
    }

    uint8_t *out = ia3_safetensors_write(tensors, layout->n, len);

    free(tensors);
    return out;
}
