/*
 * safetensors_write.c
 *     Writes safetensors exactly as peft's and transformers' save_pretrained do.
 *
 * The reference writer orders tensors by dtype and then by name (here there is only one dtype), puts "__metadata__"
 * first, writes compact JSON and pads the header with spaces so that the data begins at a multiple of 8. The host must
 * be little-endian, like the format.
 */
#include "safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

typedef struct text {
    char *data;
    size_t len, cap;
} text;

static void __attribute__((format(printf, 2, 3))) append(text *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (t->cap - t->len < (size_t) n + 1) {
        t->cap = 2 * t->cap + (size_t) n + 1;
        t->data = ia3_realloc(t->data, t->cap);
    }
    va_start(args, format);
    vsnprintf(t->data + t->len, (size_t) n + 1, format, args);
    va_end(args);
    t->len += (size_t) n;
}

/* Appends a JSON string as serde_json writes it: only quotes, backslashes and control characters are escaped. */
static void
append_string(text *t, const char *s)
{
    append(t, "\"");
    for (; *s != '\0'; s++) {
        static const char plain[] = "\b\f\n\r\t\"\\", letter[] = "bfnrt\"\\";
        const char *special = strchr(plain, *s);

        if (special != NULL)
            append(t, "\\%c", letter[special - plain]);
        else if ((unsigned char) *s < 0x20)
            append(t, "\\u%04x", (unsigned) *s);
        else
            append(t, "%c", *s);
    }
    append(t, "\"");
}

/* Builds the padded header with its length before it, for tensors in the order of their data. */
uint8_t *
ia3_safetensors_header(const ia3_st_tensor *const *tensors, int n, const ia3_st_alias *aliases, int n_aliases,
                       size_t *len)
{
    static const char *const dtypes[] = {
        [IA3_F32] = "F32", [IA3_BF16] = "BF16", [IA3_F16] = "F16", [IA3_F64] = "F64"};
    text h = {0};
    size_t at = 0;

    append(&h, "        {\"__metadata__\":{\"format\":\"pt\"");
    for (int i = 0; i < n_aliases; i++) {
        append(&h, ",");
        append_string(&h, aliases[i].name);
        append(&h, ":");
        append_string(&h, aliases[i].kept);
    }
    append(&h, "}");
    for (int i = 0; i < n; i++) {
        const ia3_st_tensor *t = tensors[i];

        append(&h, ",");
        append_string(&h, t->name);
        append(&h, ":{\"dtype\":\"%s\",\"shape\":[", dtypes[t->dtype]);
        for (int d = 0; d < t->ndim; d++)
            append(&h, "%s%" PRId64, d ? "," : "", t->shape[d]);
        append(&h, "],\"data_offsets\":[%zu,%zu]}", at, at + t->bytes);
        at += t->bytes;
    }
    append(&h, "}");
    while (h.len % 8 != 0)
        append(&h, " ");
    for (int i = 0; i < 8; i++)
        h.data[i] = (char) ((uint64_t) (h.len - 8) >> (8 * i));
    *len = h.len;
    return (uint8_t *) h.data;
}

static int
compare_names(const void *a, const void *b)
{
    return strcmp((*(const ia3_st_tensor *const *) a)->name, (*(const ia3_st_tensor *const *) b)->name);
}

/* What a tensor to be written looks like in a file. */
static ia3_st_tensor
describe(const ia3_st_out *out)
{
    ia3_st_tensor t = {.name = out->name, .dtype = IA3_F32, .ndim = out->ndim, .bytes = sizeof(float)};

    for (int i = 0; i < out->ndim; i++) {
        t.shape[i] = out->shape[i];
        t.bytes *= (size_t) out->shape[i];
    }
    t.data = (const uint8_t *) out->data;
    return t;
}

uint8_t *
ia3_safetensors_write(const ia3_st_out *tensors, int n, size_t *len)
{
    ia3_st_tensor *described = ia3_alloc_array(n, sizeof *described);
    const ia3_st_tensor **sorted = ia3_alloc_array(n, sizeof *sorted);
    size_t header_len, data_bytes = 0;

    for (int i = 0; i < n; i++) {
        described[i] = describe(&tensors[i]);
        sorted[i] = &described[i];
        data_bytes += described[i].bytes;
    }
    qsort(sorted, n, sizeof *sorted, compare_names);

    uint8_t *header = ia3_safetensors_header(sorted, n, NULL, 0, &header_len);
    uint8_t *out = ia3_realloc(header, header_len + data_bytes), *p = out + header_len;

    for (int i = 0; i < n; i++) {
        if (sorted[i]->bytes > 0)
            memcpy(p, sorted[i]->data, sorted[i]->bytes);
        p += sorted[i]->bytes;
    }
    *len = (size_t) (p - out);
    free(described);
    free(sorted);
    return out;
}
