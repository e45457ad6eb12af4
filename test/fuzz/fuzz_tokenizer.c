/*
 * fuzz_tokenizer.c
 *     Fuzzes the readers of spiece.model and tokenizer_config.json, and encodes and decodes with what they accept.
 *
 * An input is the length of tokenizer_config.json in two bytes (little-endian; 0: there is no such file), the file, and
 * the model.
 */
#include "tokenizer_files.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t config = (size_t) data[0] | (size_t) data[1] << 8;
    if (config > size - 2)
        config = size - 2;
    try_tokenizer(data + 2 + config, size - 2 - config, data + 2, config, NULL, 0);
    return 0;
}
