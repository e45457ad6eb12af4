/*
 * safetensors_write.c
 *     Writes fp32 tensors exactly as peft's save_pretrained does.
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

static int
compare_names(const void *a, const void *b)
{
    return strcmp((*(const ia3_st_out *const *) a)->name, (*(const ia3_st_out *const *) b)->name);
}

static size_t
tensor_bytes(const ia3_st_out *t)
{
    size_t n = sizeof(float);

    for (int i = 0; i < t->ndim; i++)
        n *= (size_t) t->shape[i];
    return n;
}

/* Builds the padded header; *data_bytes is the size of the data that it describes. */
static text
write_header(const ia3_st_out *const *sorted, int n, size_t *data_bytes)
{
    text h = {0};

    *data_bytes = 0;
    append(&h, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        size_t bytes = tensor_bytes(sorted[i]);

        append(&h, ",");
        append_string(&h, sorted[i]->name);
        append(&h, ":{\"dtype\":\"F32\",\"shape\":[");
        for (int d = 0; d < sorted[i]->ndim; d++)
            append(&h, "%s%" PRId64, d ? "," : "", sorted[i]->shape[d]);
        append(&h, "],\"data_offsets\":[%zu,%zu]}", *data_bytes, *data_bytes + bytes);
        *data_bytes += bytes;
    }
    append(&h, "}");
    while (h.len % 8 != 0)
        append(&h, " ");
    return h;
}

uint8_t *
ia3_safetensors_write(const ia3_st_out *tensors, int n, size_t *len)
{
    const ia3_st_out **sorted = ia3_alloc_array(n, sizeof *sorted);
    size_t data_bytes;

    for (int i = 0; i < n; i++)
        sorted[i] = &tensors[i];
    qsort(sorted, n, sizeof *sorted, compare_names);

    text header = write_header(sorted, n, &data_bytes);
    uint8_t *out = ia3_alloc(8 + header.len + data_bytes), *p = out;

    for (int i = 0; i < 8; i++)
        *p++ = (uint8_t) ((uint64_t) header.len >> (8 * i));
    memcpy(p, header.data, header.len);
    p += header.len;
    for (int i = 0; i < n; i++) {
        size_t bytes = tensor_bytes(sorted[i]);

        if (bytes > 0)
            memcpy(p, sorted[i]->data, bytes);
        p += bytes;
    }
    *len = (size_t) (p - out);
    free(header.data);
    free(sorted);
    return out;
}
