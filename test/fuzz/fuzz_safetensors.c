/*
 * fuzz_safetensors.c
 *     Fuzzes the parser of safetensors files. The tensors that it accepts must be within the file and cover its data.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/files/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ia3_error err = {0};
    ia3_safetensors *st = ia3_safetensors_parse(data, size, "fuzz", IA3_E_BAD_CHECKPOINT, &err);
    size_t covered = 0, text = 0;

    if ((st == NULL) != (err.code == IA3_E_BAD_CHECKPOINT))
        abort();
    if (st == NULL)
        return 0;
    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];

        if (t->data < data || t->bytes > (size_t) (data + size - t->data))
            abort();
        covered += t->bytes;
        if (ia3_safetensors_find(st, t->name) != t)
            abort();
    }
    for (int i = 0; i < st->n_metadata; i++)
        text += strlen(st->metadata_keys[i]) + strlen(st->metadata_values[i]);
    if (covered + text + 8 > size)
        abort();
    ia3_safetensors_free(st);
    return 0;
}
