/*
 * fuzz_vocab.c
 *     Fuzzes the readers of vocab.json and merges.txt, and encodes and decodes with what they accept.
 *
 * An input is tokenizer_config.json, vocab.json, merges.txt and a text, with a zero byte after each file.
 */
#include "tokenizer_files.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"tokenizer_config.json", "vocab.json", "merges.txt"};
    for (int i = 0; i < 3; i++) {
        size_t len;
        const uint8_t *file = next_part(&data, &size, &len);
        files_write(names[i], file, len);
    }
    use_tokenizer(data, size);
    return 0;
}
