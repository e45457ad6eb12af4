/*
 * fuzz_config.c
 *     Fuzzes the parser of config.json. From a configuration that it accepts, all sizes must be computable.
 */
#include <stdlib.h>

#include "engine/files/adapter.h"
#include "engine/files/state_dict.h"
#include "engine/model/methods/methods.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ia3_error err = {0};
    ia3_config c;

    if (!ia3_config_parse(&c, (const char *) data, size, "fuzz", &err)) {
        if (err.code != IA3_E_BAD_CHECKPOINT)
            abort();
        return 0;
    }
    if (c.inner != (int64_t) c.n_heads * c.d_kv || c.inner < 1 || c.n_enc < 1 || c.n_dec < 1 ||
        c.max_distance <= c.n_buckets / 2 || c.start_id >= c.vocab_size || !(c.eps > 0) ||
        !(c.dropout_rate < 1))
        abort();

    int n;
    ia3_state_tensor *graph = ia3_state_dict(&c, &n);
    ia3_layout *layout = ia3_layout_create(&c, ia3_variant_standard(ia3_methods[0]));
    const ia3_layout_entry *last = &layout->entries[layout->n - 1];

    if (graph[n - 1].cols != c.d_model || last->offset + (size_t) last->len != layout->n_values)
        abort();
    ia3_layout_free(layout);
    free(graph);
    return 0;
}
