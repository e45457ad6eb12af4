/*
 * configure.c
 *     Checks the options of a method and describes the adapters that they lead to.
 */
#include "configure.h"

#include <stdlib.h>
#include <string.h>

static void
put_variant(ia3_writer *w, const ia3_layout *l)
{
    const ia3_variant *v = &l->variant;
    const char *lacks = ia3_method_peft_lacks(v->method);
    char *options = ia3_variant_text(v), *peft = NULL;
    json_t *members = v->method->peft && v->members == 1 ? v->method->peft(v) : NULL;

    if (members)
        peft = json_dumps(members, JSON_COMPACT | JSON_REAL_PRECISION(17));
    ia3_put_str(w, options, strlen(options));
    ia3_put_u64(w, l->n_values);
    ia3_put_str(w, peft, peft ? strlen(peft) : 0);
    ia3_put_str(w, lacks, lacks ? strlen(lacks) : 0);
    json_decref(members);
    free(peft);
    free(options);
}

bool
ia3_configure_read(ia3_reader *in, const ia3_method *const *methods, const char *what, ia3_variant *variant,
                   ia3_error *err)
{
    size_t n_name, n_recorded, n_options;
    const char *name = ia3_get_str(in, &n_name);
    bool of_version = ia3_get_u8(in) != 0;
    const char *recorded = ia3_get_str(in, &n_recorded), *options = ia3_get_str(in, &n_options);

    if (in->bad || in->p != in->end)
        return ia3_fail(err, IA3_E_PROTOCOL, "malformed %s message", what);

    const ia3_method *method = ia3_method_require(methods, name, n_name, err);

    if (method == NULL)
        return false;
    *variant = ia3_variant_standard(method);
    return (!of_version || ia3_variant_read(variant, method, recorded, n_recorded, err)) &&
           ia3_variant_change(variant, options, n_options, err);
}

bool
ia3_configure(ia3_layouts *layouts, const uint8_t *payload, size_t len, ia3_writer *w, ia3_error *err)
{
    ia3_reader in = {.p = payload, .end = payload + len};
    ia3_variant variant;

    if (!ia3_configure_read(&in, ia3_layouts_methods(layouts), "CONFIGURE", &variant, err))
        return false;

    const ia3_layout *l = ia3_layouts_get(layouts, &variant, err);

    if (l == NULL)
        return false;
    put_variant(w, l);
    ia3_layout_release(l);
    return true;
}
