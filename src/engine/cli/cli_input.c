/*
 * cli_input.c
 *     What the commands read besides their lines of standard input: files, an adapter, a list of choices.
 */
#include "cli_input.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/log.h"
#include "engine/files/input.h"

uint8_t *
ia3_cli_read_file(const char *path, size_t *len, ia3_error *err)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = NULL;
    size_t cap = 0;
    *len = 0;
    if (f) {
        do {
            cap = cap ? 2 * cap : 65536;
            data = ia3_realloc(data, cap);
            *len += fread(data + *len, 1, cap - *len, f);
        } while (*len == cap);
        if (!ferror(f)) {
            fclose(f);
            return data;
        }
    }
    ia3_fail(err, IA3_E_INVALID, "could not read file \"%s\": %s", path, strerror(errno));
    if (f)
        fclose(f);
    free(data);
    return NULL;
}

float *
ia3_cli_adapter(ia3_server *s, const ia3_layout **layout, ia3_error *err)
{
    if (s->options->adapter == NULL)
        return NULL;
    size_t len;
    uint8_t *data = ia3_cli_read_file(s->options->adapter, &len, err);
    ia3_variant variant;
    float *values = NULL;
    *layout = NULL;
    if (data && ia3_adapter_variant(ia3_model_methods(s->model), data, len, &variant, err) &&
        (variant.method != s->options->recipe.variant.method || s->options->method_options == NULL ||
         ia3_variant_change(&variant, s->options->method_options, strlen(s->options->method_options), err)))
        *layout = ia3_layouts_get(ia3_model_layouts(s->model), &variant, err);
    if (*layout)
        values = ia3_adapter_parse(*layout, data, len, err);
    free(data);
    return values;
}

int
ia3_cli_choices(const char *text, ia3_span **spans)
{
    int n = 1;
    for (const char *p = text; *p; p++)
        n += *p == '|';
    *spans = ia3_alloc_array((size_t) n, sizeof **spans);
    const char *p = text;
    for (int i = 0; i < n; i++) {
        size_t len = strcspn(p, "|");
        (*spans)[i] = (ia3_span){.data = p, .len = (uint32_t) len};
        p += len + 1;
    }
    return n;
}

bool
ia3_cli_encode(ia3_server *s, const char *line, size_t len, int32_t **ids, int *n, bool *truncated,
               ia3_error *err)
{
    ia3_input in = {.text = line, .len = (uint32_t) len, .tail = (uint32_t) len};
    return ia3_input_encode(s->tokenizer, &in, (uint32_t) s->options->max_input_tokens, ids, n, truncated,
                            err);
}

void
ia3_cli_report_truncated(const ia3_server *s, uint32_t n_truncated, uint32_t n)
{
    if (n_truncated > 0)
        ia3_log(IA3_LOG_LOG, "%u of %u inputs were truncated to %d tokens (--max-input-tokens)", n_truncated,
                n, s->options->max_input_tokens);
}
