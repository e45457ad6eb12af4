/*
 * cli.c
 *     The commands info, tokenize and score.
 */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_input.h"
#include "engine/base/alloc.h"
#include "engine/base/log.h"

static bool
info(ia3_server *s)
{
    const ia3_config *c = ia3_model_config(s->model);
    printf("path\t%s\nmodel_type\t%s\ndevice\t%s (%s)\ndtype\t%s\n", s->path, c->model_type, s->device->name,
           s->device->description, ia3_device_dtype_name(s->device));
    printf("parameters\t%llu\nbytes\t%llu\nadapter_values\t%zu\n",
           (unsigned long long) ia3_model_parameters(s->model),
           (unsigned long long) ia3_model_bytes(s->model), ia3_model_layout(s->model)->n_values);
    printf(
        "vocab_size\t%d\nd_model\t%d\nd_ff\t%d\nheads\t%d x %d\nlayers\t%d + %d\ndropout_rate\t%g\ndigest\t",
        c->vocab_size, c->d_model, c->d_ff, c->n_heads, c->d_kv, c->n_enc, c->n_dec,
        (double) c->dropout_rate);
    for (int i = 0; i < IA3_DIGEST_LEN; i++)
        printf("%02x", s->digest[i]);
    printf("\n");
    return true;
}

static bool
tokenize(ia3_server *s, ia3_error *err)
{
    for (int i = 0; i < s->options->n_arguments; i++) {
        const char *text = s->options->arguments[i];
        int32_t *ids;
        int n;
        if (!ia3_tokenizer_encode(s->tokenizer, text, strlen(text), &ids, NULL, &n, err))
            return false;
        for (int k = 0; k < n; k++) {
            char buffer[64];
            printf("%d\t%d\t%s\n", k + 1, ids[k], ia3_tokenizer_piece(s->tokenizer, ids[k], buffer));
        }
        free(ids);
    }
    return true;
}

/* A batch of input lines. */
typedef struct ia3_cli_batch {
    int n, tokens;
    ia3_score_row rows[IA3_MAX_BATCH_ROWS];
} ia3_cli_batch;

/* Computes and prints the batch, then empties it. */
static bool
flush_batch(ia3_server *s, ia3_cli_batch *b, const ia3_span *choices, ia3_error *err)
{
    bool ok = b->n == 0 || ia3_score(s->model, b->rows, b->n, err);
    for (int i = 0; i < b->n; i++) {
        const ia3_score_row *row = &b->rows[i];
        int best = 0;
        for (int c = 1; c < row->choices->n; c++)
            if (row->scores[c] > row->scores[best])
                best = c;
        if (ok) {
            printf("%.*s", (int) choices[best].len, choices[best].data);
            for (int c = 0; c < row->choices->n; c++)
                printf("\t%.6f", row->scores[c]);
            printf("\n");
        }
        free((void *) row->ids);
        free(row->scores);
    }
    b->n = b->tokens = 0;
    return ok;
}

static bool
score_lines(ia3_server *s, const ia3_adapter *adapter, const ia3_choices *choices, const ia3_span *spans,
            ia3_error *err)
{
    ia3_cli_batch *b = ia3_alloc(sizeof *b);
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    bool ok = true;
    uint32_t n = 0, n_truncated = 0;
    while (ok && (len = getline(&line, &cap, stdin)) >= 0) {
        if (len > 0 && line[len - 1] == '\n')
            len--;
        ia3_score_row row = {.adapter = adapter, .choices = choices};
        int32_t *ids;
        bool truncated;
        ok = ia3_cli_encode(s, line, (size_t) len, &ids, &row.n_ids, &truncated, err);
        if (!ok)
            break;
        n++;
        n_truncated += truncated;
        row.ids = ids;
        row.scores = ia3_alloc_array((size_t) choices->n, sizeof(double));
        int tokens = ia3_score_row_tokens(&row);
        if (b->n == IA3_MAX_BATCH_ROWS || b->tokens + tokens > s->options->max_batch_tokens)
            ok = flush_batch(s, b, spans, err);
        b->rows[b->n++] = row;
        b->tokens += tokens;
    }
    ok = flush_batch(s, b, spans, err) && ok;
    ia3_cli_report_truncated(s, n_truncated, n);
    free(line);
    free(b);
    return ok;
}

bool
ia3_cli_score(ia3_server *s, ia3_error *err)
{
    ia3_span *spans;
    int n = ia3_cli_choices(s->options->choices, &spans);
    ia3_choices *choices =
        ia3_choices_tokenize(s->tokenizer, ia3_model_config(s->model)->start_id, spans, n, err);
    ia3_adapter *adapter = NULL;
    static const uint8_t no_digest[IA3_DIGEST_LEN];
    const ia3_layout *layout;
    float *values = choices ? ia3_cli_adapter(s, &layout, err) : NULL;
    if (values)
        adapter = ia3_adapter_create(s->model, layout, values, no_digest, err);
    free(values);
    bool ok = err->code == 0 && score_lines(s, adapter, choices, spans, err);
    if (adapter)
        ia3_adapter_free(s->model, adapter);
    if (choices)
        ia3_choices_free(choices);
    free(spans);
    return ok;
}

int
ia3_cli(const ia3_options *options)
{
    if (strcmp(options->command, "check") == 0)
        return ia3_cli_check(options);
    ia3_server *s = ia3_alloc(sizeof *s);
    s->options = options;
    ia3_error err = {0};
    bool ok = ia3_server_load(s, NULL, &err);
    if (ok && strcmp(options->command, "info") == 0)
        ok = info(s);
    else if (ok && strcmp(options->command, "tokenize") == 0)
        ok = tokenize(s, &err);
    else if (ok && strcmp(options->command, "score") == 0)
        ok = ia3_cli_score(s, &err);
    else if (ok)
        ok = ia3_cli_train(s, &err);
    ia3_server_unload(s);
    free(s);
    if (!ok) {
        char text[1400];
        ia3_error_join(&err, text, sizeof text);
        ia3_log(IA3_LOG_ERROR, "%s", text);
    }
    return ok ? 0 : 1;
}
