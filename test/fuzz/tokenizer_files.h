/*
 * tokenizer_files.h
 *     What the fuzz targets of the tokenizer share: its files, in a directory of this process, and its use.
 */
#ifndef TOKENIZER_FILES_H
#define TOKENIZER_FILES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/files/tokenizer.h"
#include "files_directory.h"

#define FUZZ_VOCAB 8192

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Encodes the text; ids and offsets must be within their bounds, and what the ids decode to must be valid text. */
static void
try_text(const ia3_tokenizer *tok, const char *text, size_t len)
{
    ia3_error err = {0};
    int32_t *ids;
    uint32_t *offsets;
    int n, n_all;
    char buffer[64], *decoded;
    size_t decoded_len;
    if (!ia3_tokenizer_encode(tok, text, len, &ids, &offsets, &n, &err)) {
        if (err.code == 0)
            abort();
        return;
    }
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= FUZZ_VOCAB || offsets[i] > len ||
            ia3_tokenizer_piece(tok, ids[i], buffer) == NULL)
            abort();
    if (ia3_tokenizer_decode(tok, ids, n, &decoded, &decoded_len, &err)) {
        if (memchr(decoded, 0, decoded_len) != NULL || decoded[decoded_len] != 0)
            abort();
        for (size_t i = 0, k; i < decoded_len; i += k)
            if ((k = ia3_utf8_length((const uint8_t *) decoded + i, decoded_len - i)) == 0)
                abort();
        free(decoded);
    }
    free(ids);
    free(offsets);
    if (!ia3_tokenizer_encode_target(tok, text, len, &ids, &n, &err) || n < 1 ||
        ids[n - 1] != ia3_tokenizer_eos(tok) || ids[n - 1] < 0 || ids[n - 1] >= FUZZ_VOCAB)
        abort();
    free(ids);
    if (ia3_tokenizer_encode_input(tok, text, len, len - len / 4, 5, &ids, &n, &n_all, &err)) {
        if (n > 5 || n > n_all)
            abort();
        free(ids);
    }
}

/* Opens the tokenizer of the directory and uses it. A text of bytes that are not UTF-8 is not used. */
static inline void
use_tokenizer(const uint8_t *text, size_t text_len)
{
    static const char *const texts[] = {"", "a", "  A b\tc ",
                                        "\xef\xbc\xa1\xc3\xa9\xe2\x91\xa0 <extra_id_3></s>",
                                        "zzzzzzzzzzzzzzzzzzzzzzzz\xf0\x9f\x98\x80"};
    ia3_error err = {0};
    ia3_tokenizer *tok = ia3_tokenizer_open(files_path(""), FUZZ_VOCAB, &err);
    if ((tok == NULL) != (err.code == IA3_E_BAD_CHECKPOINT))
        abort();
    if (tok == NULL)
        return;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        try_text(tok, texts[i], strlen(texts[i]));
    char *exact = malloc(text_len + 1); /* reading one byte too many is noticed */
    if (text_len > 0)
        memcpy(exact, text, text_len);
    exact = realloc(exact, text_len > 0 ? text_len : 1);
    if (text_len > 0)
        try_text(tok, exact, text_len);
    free(exact);
    ia3_tokenizer_close(tok);
}

/* Opens a tokenizer from these bytes and uses it. */
static inline void
try_tokenizer(const uint8_t *model, size_t model_len, const uint8_t *config, size_t config_len,
              const uint8_t *text, size_t text_len)
{
    files_write("spiece.model", model, model_len);
    if (config_len > 0)
        files_write("tokenizer_config.json", config, config_len);
    else
        files_remove("tokenizer_config.json");
    use_tokenizer(text, text_len);
}

/* The part of an input up to the next zero byte, which *data and *size leave behind. */
static inline const uint8_t *
next_part(const uint8_t **data, size_t *size, size_t *len)
{
    const uint8_t *part = *data, *end = *size > 0 ? memchr(*data, 0, *size) : NULL;
    *len = end ? (size_t) (end - part) : *size;
    size_t taken = end ? *len + 1 : *len;
    *data += taken;
    *size -= taken;
    return part;
}

#endif
