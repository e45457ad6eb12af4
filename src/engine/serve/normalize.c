/*
 * normalize.c
 *     Converts an adapter to the stored format and lists the modules that its tensors belong to.
 */
#include "normalize.h"

#include <stdlib.h>
#include <string.h>

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

bool
ia3_normalize(const ia3_method *const *methods, ia3_layout *const *layouts, const uint8_t *payload,
              size_t len, ia3_writer *w, ia3_error *err)
{
    ia3_reader in = {.p = payload, .end = payload + len};
    size_t n, n_out;
    const uint8_t *bytes = (const uint8_t *) ia3_get_str(&in, &n);

    if (in.bad || in.p != in.end)
        return ia3_fail(err, IA3_E_PROTOCOL, "malformed NORMALIZE message");

    const ia3_layout *layout;
    float *values = ia3_adapter_parse_any(layouts, methods, bytes, n, &layout, err);

    if (values == NULL)
        return false;

    ia3_safetensors *st = ia3_safetensors_parse(bytes, n, "adapter", IA3_E_BAD_ADAPTER, err);
    uint8_t *out = ia3_adapter_serialize(layout, values, &n_out);

    if (st != NULL) {
        ia3_put_str(w, layout->method->name, strlen(layout->method->name));
        ia3_put_str(w, (const char *) out, n_out);
        ia3_put_u32(w, (uint32_t) st->n);
        ia3_put_u32(w, (uint32_t) layout->n);
        if (layout->method->spelling)
            put_modules(w, st, layout->method->spelling);
        else
            ia3_put_u32(w, 0);
    }
    free(out);
    free(values);
    ia3_safetensors_free(st);
    return st != NULL;
}
