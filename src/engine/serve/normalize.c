/*
 * normalize.c
 *     See normalize.h.
 */
#include "normalize.h"

#include <stdlib.h>
#include <string.h>

#include "engine/files/safetensors.h"

#define PEFT_PREFIX "base_model.model."

static bool
ends_with(const char *s, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);

    return len >= n && memcmp(s + len - n, suffix, n) == 0;
}

/* The names have been checked: each is a vector of the backbone, and only wo scales an input. */
static void
put_modules(ia3_writer *w, const ia3_safetensors *st)
{
    ia3_put_u32(w, (uint32_t) st->n);
    for (int i = 0; i < st->n; i++) {
        const char *name = st->tensors[i].name;

        if (strncmp(name, PEFT_PREFIX, strlen(PEFT_PREFIX)) == 0)
            name += strlen(PEFT_PREFIX);

        size_t len = strlen(name);

        len -= strlen(ends_with(name, len, ".ia3_l") ? ".ia3_l" : ".multi_lora_b");
        ia3_put_str(w, name, len);
        ia3_put_u8(w, ends_with(name, len, ".wo"));
    }
}

/* See normalize.h. */
bool
ia3_normalize(ia3_layout *const *layouts, const uint8_t *payload, size_t len, ia3_writer *w, ia3_error *err)
{
    ia3_reader in = {.p = payload, .end = payload + len};
    size_t n, n_out;
    const uint8_t *bytes = (const uint8_t *) ia3_get_str(&in, &n);

    if (in.bad || in.p != in.end)
        return ia3_fail(err, IA3_E_PROTOCOL, "malformed NORMALIZE message");

    Ia3Method method;
    float *values = ia3_adapter_parse_any(layouts, bytes, n, &method, err);

    if (values == NULL)
        return false;

    ia3_safetensors *st = ia3_safetensors_parse(bytes, n, "adapter", IA3_E_BAD_ADAPTER, err);
    uint8_t *out = ia3_adapter_serialize(layouts[method], values, &n_out);

    if (st != NULL) {
        ia3_put_str(w, (const char *) out, n_out);
        if (method == IA3_METHOD_IA3)
            put_modules(w, st);
        else
            ia3_put_u32(w, 0);
    }
    free(out);
    free(values);
    ia3_safetensors_free(st);
    return st != NULL;
}
