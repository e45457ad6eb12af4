/*
 * fuzz_torch.c
 *     Fuzzes the reader of PyTorch's files: zip archives, their pickles, and the older format. Every byte of the tensors
 *     of a file that it accepts must be readable.
 */
#include <stdlib.h>

#include "engine/files/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ia3_error err = {0};
    volatile uint8_t sum = 0;
    ia3_torch_file *file = ia3_torch_parse(data, size, "file", &err);
    if ((file == NULL) != (err.code == IA3_E_BAD_CHECKPOINT))
        abort();
    for (int i = 0; file && i < file->n; i++) {
        if (ia3_torch_find(file, file->tensors[i].name) != &file->tensors[i])
            abort();
        for (size_t k = 0; k < file->tensors[i].bytes; k++)
            sum = (uint8_t) (sum + file->tensors[i].data[k]);
    }
    ia3_torch_free(file);
    return 0;
}
