/*
 * fuzz_tokenizer_json.c
 *     Fuzzes the reader of tokenizer.json, and encodes and decodes with what it accepts.
 *
 * An input is the file, a zero byte, and a text.
 */
#include "tokenizer_files.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t len;
    const uint8_t *file = next_part(&data, &size, &len);
    files_write("tokenizer.json", file, len);
    use_tokenizer(data, size);
    return 0;
}
