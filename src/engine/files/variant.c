/*
 * variant.c
 *     The options of methods, in JSON and as numbers.
 */
#include "variant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "method.h"

#define ENSEMBLE "ensemble"

ia3_variant
ia3_variant_standard(const ia3_method *method)
{
    ia3_variant v = {.method = method, .members = 1};

    for (int i = 0; method->options && method->options[i].name; i++)
        v.options[i] = method->options[i].standard;
    return v;
}

bool
ia3_variant_equal(const ia3_variant *a, const ia3_variant *b)
{
    bool equal = a->method == b->method && a->members == b->members;

    for (int i = 0; i < IA3_MAX_OPTIONS; i++)
        equal = equal && a->options[i] == b->options[i];
    return equal;
}

static bool
fail_unknown(const ia3_method *method, const char *name, ia3_error *err)
{
    char names[256] = "";
    int n = 0;

    while (method->options && method->options[n].name)
        n++;
    for (int i = 0; i < n; i++)
        ia3_list_name(names, sizeof names, method->options[i].name, i, n);
    ia3_fail(err, IA3_E_INVALID, "the method \"%s\" has no option \"%.64s\"", method->name, name);
    if (n == 0)
        return ia3_fail_hint(err, "It has no options.");
    return ia3_fail_hint(err, "Its options are: %s.", names);
}

/* The name of a kind without the part of the layer that it belongs to. */
static const char *
short_name(int kind)
{
    return strchr(ia3_kind_names[kind], '.') + 1;
}

/* The kinds with a name, which may be short. */
static int
kinds_named(const char *name)
{
    int bits = 0;

    for (int i = 0; i < IA3_N_KINDS; i++)
        if (strcmp(name, short_name(i)) == 0 || strcmp(name, ia3_kind_names[i]) == 0)
            bits |= 1 << i;
    return bits;
}

/* A kind of self-attention is listed together with that of cross-attention, by their short name if both are there. */
json_t *
ia3_kinds_to_json(double kinds)
{
    json_t *array = json_array();
    const int bits = (int) kinds;

    for (int i = 0; i < IA3_N_KINDS; i++) {
        const int both = kinds_named(short_name(i));

        if (i >= IA3_KIND_CROSS_Q && i <= IA3_KIND_CROSS_O)
            continue;
        if ((bits & both) == both)
            json_array_append_new(array, json_string(short_name(i)));
        else
            for (int k = i; k < IA3_N_KINDS; k++)
                if (bits & both & 1 << k)
                    json_array_append_new(array, json_string(ia3_kind_names[k]));
    }
    return array;
}

static bool
fail_kind(const char *what, const char *name, int allowed, ia3_error *err)
{
    const char *valid[IA3_N_KINDS];
    char list[128] = "";
    int n = 0;

    for (int i = 0; i < IA3_N_KINDS; i++)
        if (allowed >> i & 1 && (i < IA3_KIND_CROSS_Q || i > IA3_KIND_CROSS_O))
            valid[n++] = short_name(i);
    for (int i = 0; i < n; i++)
        ia3_list_name(list, sizeof list, valid[i], i, n);
    ia3_fail(err, IA3_E_INVALID, "invalid module \"%.64s\" in %s", name, what);
    return ia3_fail_hint(
        err,
        "Valid values are %s. Those of one kind of attention begin with \"SelfAttention.\" or "
        "\"EncDecAttention.\".",
        list);
}

bool
ia3_kinds_from_json(const char *what, const json_t *names, int allowed, double *kinds, ia3_error *err)
{
    int bits = 0;

    if (!json_is_array(names))
        return ia3_fail(err, IA3_E_INVALID, "%s must be a list", what);
    for (size_t k = 0; k < json_array_size(names); k++) {
        const char *name = json_string_value(json_array_get(names, k));

        if (name == NULL)
            return ia3_fail(err, IA3_E_INVALID, "%s has an element that is not a string", what);
        if ((kinds_named(name) & allowed) == 0)
            return fail_kind(what, name, allowed, err);
        bits |= kinds_named(name);
    }
    *kinds = bits;
    return true;
}

void
ia3_variant_fit(ia3_variant *v, const ia3_config *config)
{
    const int absent = config->gated ? 1 << IA3_KIND_WI : 1 << IA3_KIND_WI_0 | 1 << IA3_KIND_WI_1;

    for (int i = 0; v->method->options && v->method->options[i].name; i++) {
        const ia3_method_option *option = &v->method->options[i];
        if (option->kind == IA3_OPTION_KINDS)
            v->options[i] = (int) v->options[i] & ~absent;
        if (option->divisor != 0 && v->options[i] == 0) {
            const int each = option->multiple ? option->multiple : 1;
            v->options[i] = fmin(fmax(config->d_model / option->divisor / each, 1) * each, option->max);
        }
    }
}

static bool
set_option(const ia3_method_option *option, const json_t *value, double *to, ia3_error *err)
{
    if (option->kind == IA3_OPTION_KINDS)
        return ia3_kinds_from_json(option->name, value, option->kinds ? option->kinds : IA3_ALL_KINDS, to,
                                   err);
    if (option->kind == IA3_OPTION_FLAG) {
        *to = json_is_true(value);
        return json_is_boolean(value) ||
               ia3_fail(err, IA3_E_INVALID, "%s must be true or false", option->name);
    }
    if (!json_is_number(value))
        return ia3_fail(err, IA3_E_INVALID, "%s must be a number", option->name);
    *to = json_number_value(value);
    return true;
}

static bool
set_members(ia3_variant *v, const json_t *value, ia3_error *err)
{
    const double n = json_number_value(value);

    if (!json_is_number(value) || n != floor(n))
        return ia3_fail(err, IA3_E_INVALID, "%s must be a whole number", ENSEMBLE);
    v->members = (int) fmin(fmax(n, 0), IA3_MAX_MEMBERS + 1);
    return true;
}

/* Whether an option has this name; `old` allows that of earlier releases. */
static bool
is_called(const ia3_method_option *option, const char *name, bool old)
{
    return strcmp(option->name, name) == 0 ||
           (old && option->old_name && strcmp(option->old_name, name) == 0);
}

static bool
change(ia3_variant *v, const char *json, size_t len, bool old, ia3_error *err)
{
    const ia3_method_option *options = v->method->options;
    json_error_t where;
    json_t *object, *value;
    const char *name;
    bool ok = true;

    if (len == 0)
        return true;
    object = json_loadb(json, len, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(object)) {
        json_decref(object);
        return ia3_fail(err, IA3_E_INVALID, "the options of the method \"%s\" are not a JSON object",
                        v->method->name);
    }
    json_object_foreach(object, name, value)
    {
        int i = 0;

        while (options && options[i].name && !is_called(&options[i], name, old))
            i++;
        if (options && options[i].name)
            ok = set_option(&options[i], value, &v->options[i], err);
        else if (strcmp(name, ENSEMBLE) == 0)
            ok = set_members(v, value, err);
        else
            ok = fail_unknown(v->method, name, err);
        if (!ok)
            break;
    }
    json_decref(object);
    return ok && ia3_variant_check(v, err);
}

bool
ia3_variant_change(ia3_variant *v, const char *json, size_t len, ia3_error *err)
{
    return change(v, json, len, false, err);
}

bool
ia3_variant_read(ia3_variant *v, const ia3_method *method, const char *json, size_t len, ia3_error *err)
{
    *v = (ia3_variant){.method = method, .members = 1};
    for (int i = 0; method->options && method->options[i].name; i++)
        v->options[i] = method->options[i].before;
    if (change(v, json, len, true, err))
        return true;

    const ia3_error reason = *err;

    *err = (ia3_error){0};
    ia3_fail(err, IA3_E_UNSUPPORTED, "this engine does not know the options of the adapter");
    ia3_fail_detail(err, "The recorded options of the method \"%s\" are invalid: %.300s.", method->name,
                    reason.message);
    return ia3_fail_hint(err, "The version may have been made by a later release of ia3.");
}

bool
ia3_variant_check(const ia3_variant *v, ia3_error *err)
{
    if (v->members < 1 || v->members > IA3_MAX_MEMBERS)
        return ia3_fail(err, IA3_E_INVALID, "%s must be between 1 and %d", ENSEMBLE, IA3_MAX_MEMBERS);
    for (int i = 0; v->method->options && v->method->options[i].name; i++) {
        const ia3_method_option *o = &v->method->options[i];
        double value = v->options[i];

        if (o->kind == IA3_OPTION_KINDS) {
            if (value == 0)
                return ia3_fail(err, IA3_E_INVALID, "%s must not be empty", o->name);
            continue;
        }
        if (o->kind == IA3_OPTION_FLAG)
            continue;
        if (!(value >= o->min && value <= o->max)) {
            ia3_fail(err, IA3_E_INVALID, "%s must be between %.15g and %.15g", o->name, o->min, o->max);
            return ia3_fail_detail(err, "The value is %.15g.", value);
        }
        if (o->kind == IA3_OPTION_WHOLE && value != floor(value))
            return ia3_fail(err, IA3_E_INVALID, "%s must be a whole number", o->name);
        if (o->multiple != 0 && fmod(value, o->multiple) != 0)
            return ia3_fail(err, IA3_E_INVALID, "%s must be a multiple of %d with the method \"%s\"", o->name,
                            o->multiple, v->method->name);
    }
    return true;
}

static json_t *
json_of(const ia3_method_option *option, double value)
{
    if (option->kind == IA3_OPTION_KINDS)
        return ia3_kinds_to_json(value);
    if (option->kind == IA3_OPTION_FLAG)
        return json_boolean(value != 0);
    if (value == floor(value) && fabs(value) < 1e15)
        return json_integer((json_int_t) value);
    return json_real(value);
}

char *
ia3_variant_text(const ia3_variant *v)
{
    const ia3_method_option *options = v->method->options;
    json_t *object = json_object();
    char *text;

    for (int i = 0; options && options[i].name; i++)
        if (!options[i].unrecorded || v->options[i] != options[i].before)
            json_object_set_new(object, options[i].name, json_of(&options[i], v->options[i]));
    if (v->members > 1)
        json_object_set_new(object, ENSEMBLE, json_integer(v->members));
    text = json_object_size(object) > 0 ? json_dumps(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17))
                                        : ia3_strdup("");
    json_decref(object);
    return text;
}
