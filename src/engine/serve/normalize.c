/*
 * normalize.c
 *     Converts an adapter to the stored format and lists the modules that its tensors belong to.
 */
#include "normalize.h"

#include <stdlib.h>
#include <string.h>

#include "engine/files/peft_config.h"
#include "engine/files/safetensors.h"

/* Lists the modules. The names have been checked: each is that of a tensor of the method. */
static void
put_modules(ia3_writer *w, const ia3_safetensors *st, const ia3_spelling *spelling)
{
    ia3_put_u32(w, (uint32_t) st->n);
    for (int i = 0; i < st->n; i++) {
        size_t len;
        bool scales_input;
        const char *name = spelling->module(st->tensors[i].name, &len, &scales_input);

        ia3_put_str(w, name, len);
        ia3_put_u8(w, scales_input);
    }
}

/* The method that PEFT has under this name, but not as it is here; NULL: none. */
static const ia3_method *
lacking(const ia3_layouts *layouts, const char *peft_type)
{
    const ia3_method *const *methods = ia3_layouts_methods(layouts);

    for (; *methods; methods++)
        if ((*methods)->peft_lacks && (*methods)->peft_type && strcmp((*methods)->peft_type, peft_type) == 0)
            return *methods;
    return NULL;
}

/* Applies what PEFT's configuration says. That of (IA)³, the first method, is checked by the extension. */
static bool
apply_config(const ia3_layouts *layouts, ia3_variant *v, const char *text, size_t len, ia3_error *err)
{
    const ia3_method *method = v->method, *other;

    if (len > 0 && v->members > 1) {
        ia3_fail(err, IA3_E_UNSUPPORTED, "there is no PEFT configuration for an ensemble");
        return ia3_fail_detail(err, "PEFT has nothing like this.");
    }
    if (len == 0 || method == ia3_layouts_methods(layouts)[0])
        return true;
    if (method->read_peft == NULL) {
        ia3_fail(err, IA3_E_UNSUPPORTED, "there is no PEFT configuration for the method \"%s\"",
                 method->name);
        return ia3_fail_detail(err, "%s", ia3_method_peft_lacks(method));
    }

    json_error_t where;
    json_t *config = json_loadb(text, len, 0, &where);
    const char *type = ia3_peft_string(config, "peft_type", NULL);
    bool ok = false;

    if (config == NULL)
        ia3_peft_fail(err, "It cannot be read: %s.", where.text);
    else if (!json_is_object(config))
        ia3_peft_fail(err, "The configuration is not an object.");
    else if (type == NULL)
        ia3_peft_fail(err, "\"peft_type\" is missing or not a string.");
    else if ((other = lacking(layouts, type)) != NULL) {
        ia3_fail(err, IA3_E_UNSUPPORTED, "adapters of PEFT's type \"%s\" are not supported", type);
        ia3_fail_detail(err, "%s", other->peft_lacks);
    } else if (strcmp(type, method->peft_type) != 0)
        ia3_peft_fail(err, "\"peft_type\" is \"%.64s\", not \"%s\".", type, method->peft_type);
    else
        ok = method->read_peft(config, v, err);
    json_decref(config);
    return ok && ia3_variant_check(v, err);
}

/* Lists the options whose values nothing told. */
static void
put_assumed(ia3_writer *w, const ia3_method *method, bool configured)
{
    const ia3_method_option *options = configured ? NULL : method->options;
    uint32_t n = 0;

    for (int i = 0; options && options[i].name; i++)
        n += options[i].hidden;
    ia3_put_u32(w, n);
    for (int i = 0; options && options[i].name; i++)
        if (options[i].hidden)
            ia3_put_str(w, options[i].name, strlen(options[i].name));
}

static bool
put_adapter(ia3_writer *w, const ia3_layout *layout, bool configured, const uint8_t *bytes, size_t len,
            ia3_error *err)
{
    float *values = ia3_adapter_parse(layout, bytes, len, err);
    ia3_safetensors *st =
        values ? ia3_safetensors_parse(bytes, len, "adapter", IA3_E_BAD_ADAPTER, err) : NULL;

    if (st != NULL) {
        const ia3_method *method = layout->variant.method;
        size_t n_out;
        uint8_t *out = ia3_adapter_serialize(layout, values, &n_out);
        char *options = ia3_variant_text(&layout->variant);

        ia3_put_str(w, method->name, strlen(method->name));
        ia3_put_str(w, options, strlen(options));
        put_assumed(w, method, configured);
        ia3_put_str(w, (const char *) out, n_out);
        ia3_put_u32(w, (uint32_t) st->n);
        ia3_put_u32(w, (uint32_t) layout->n);
        if (method->spelling && layout->members == 1)
            put_modules(w, st, method->spelling);
        else
            ia3_put_u32(w, 0);
        free(options);
        free(out);
    }
    free(values);
    ia3_safetensors_free(st);
    return st != NULL;
}

bool
ia3_normalize(ia3_layouts *layouts, const uint8_t *payload, size_t len, ia3_writer *w, ia3_error *err)
{
    ia3_reader in = {.p = payload, .end = payload + len};
    size_t n, n_config;
    const uint8_t *bytes = (const uint8_t *) ia3_get_str(&in, &n);
    const char *config = ia3_get_str(&in, &n_config);
    ia3_variant variant;

    if (in.bad || in.p != in.end)
        return ia3_fail(err, IA3_E_PROTOCOL, "malformed NORMALIZE message");
    if (!ia3_adapter_variant(ia3_layouts_methods(layouts), bytes, n, &variant, err) ||
        !apply_config(layouts, &variant, config, n_config, err))
        return false;

    const ia3_layout *layout = ia3_layouts_get(layouts, &variant, err);

    if (layout == NULL)
        return false;

    bool ok = put_adapter(w, layout, n_config > 0, bytes, n, err);

    ia3_layout_release(layout);
    return ok;
}
