/*
 * fuzz_charsmap.c
 *     Fuzzes the normalizer's table ("precompiled_charsmap") in an otherwise valid model, and normalizes text with it.
 *
 * The first byte of an input is the length of the text, which follows; the rest is the table.
 */
#include "tokenizer_files.h"

static size_t
put_length(uint8_t *out, size_t n)
{
    size_t at = 0;
    for (; n >= 0x80; n >>= 7)
        out[at++] = (uint8_t) (n | 0x80);
    out[at++] = (uint8_t) n;
    return at;
}

/* Appends a piece {1 piece, 2 score, 3 type} with a score of -1. */
static size_t
put_piece(uint8_t *out, const char *piece, int type)
{
    static const uint8_t score[] = {0x15, 0, 0, 0x80, 0xbf, 0x18};
    size_t n = strlen(piece), at = 0;
    out[at++] = 0x0a;
    out[at++] = (uint8_t) (n + 2 + sizeof score + 1);
    out[at++] = 0x0a;
    out[at++] = (uint8_t) n;
    memcpy(out + at, piece, n);
    at += n;
    memcpy(out + at, score, sizeof score);
    at += sizeof score;
    out[at++] = (uint8_t) type;
    return at;
}

/* A model of a few pieces with this table. */
static size_t
make_model(uint8_t *out, const uint8_t *charsmap, size_t len)
{
    uint8_t length[10];
    size_t n = put_length(length, len), at = 0;
    at += put_piece(out + at, "<pad>", 3);
    at += put_piece(out + at, "</s>", 3);
    at += put_piece(out + at, "<unk>", 2);
    at += put_piece(out + at, "\xe2\x96\x81", 1);
    at += put_piece(out + at,
                    "\xe2\x96\x81"
                    "a",
                    1);
    for (char c = 'a'; c <= 'z'; c++)
        at += put_piece(out + at, (const char[]){c, 0}, 1);
    out[at++] = 0x1a; /* normalizer_spec */
    at += put_length(out + at, 1 + n + len);
    out[at++] = 0x12; /* precompiled_charsmap */
    memcpy(out + at, length, n);
    memcpy(out + at + n, charsmap, len);
    return at + n + len;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t text = data[0] < size - 1 ? data[0] : size - 1;
    uint8_t *model = malloc(size + 4096);
    size_t len = make_model(model, data + 1 + text, size - 1 - text);
    try_tokenizer(model, len, NULL, 0, data + 1, text);
    free(model);
    return 0;
}
