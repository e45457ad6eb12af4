/*
 * fuzz_adapter.c
 *     Fuzzes the parser of adapters, for all methods and for tiny backbones with and without a gate. Values that it
 *     accepts must be finite and must not change when they are written and read again.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/files/adapter.h"
#include "engine/model/methods/methods.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
try_layout(const ia3_config *config, const uint8_t *data, size_t size)
{
    ia3_error err = {0};
    ia3_variant variant;

    if (!ia3_adapter_variant(ia3_methods, data, size, &variant, &err)) {
        if (err.code != IA3_E_BAD_ADAPTER)
            abort();
        return;
    }

    ia3_layout *layout = ia3_layout_create(config, variant);
    float *values = ia3_adapter_parse(layout, data, size, &err);
    size_t len;

    if ((values == NULL) != (err.code == IA3_E_BAD_ADAPTER))
        abort();
    if (values != NULL) {
        for (size_t i = 0; i < layout->n_values; i++)
            if (!isfinite(values[i]))
                abort();

        uint8_t *out = ia3_adapter_serialize(layout, values, &len);
        float *again = ia3_adapter_parse(layout, out, len, &err);

        if (again == NULL || memcmp(again, values, layout->n_values * sizeof *values) != 0)
            abort();
        free(again);
        free(out);
        free(values);
    }
    ia3_layout_free(layout);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ia3_config gated = {
        .n_enc = 1, .n_dec = 1, .d_model = 2, .inner = 2, .d_ff = 3, .gated = true};
    static const ia3_config plain = {
        .n_enc = 1, .n_dec = 1, .d_model = 3, .inner = 2, .d_ff = 2, .gated = false};

    try_layout(&gated, data, size);
    try_layout(&plain, data, size);
    return 0;
}
