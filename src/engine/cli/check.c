/*
 * check.c
 *     The command check: says what a checkpoint is and whether the engine can use it.
 *
 * It prints lines "item: value". A line "warning: ..." is about something odd in the checkpoint. A checkpoint that cannot
 * be used ends with "error: ...", perhaps followed by "detail: ..." and "hint: ...". ia3_check_backbone returns these lines
 * as rows (src/extension/client/check_backbone.c).
 */
#include "cli.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli_input.h"
#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/files/checkpoint.h"
#include "engine/files/directory.h"
#include "engine/files/read_file.h"
#include "engine/files/state_dict.h"

static const char text[] = "Is this about sport or about science? The match ended in a draw.";
static const char labels[] = "sport|science";

/* Prints warnings among the lines of the check, and leaves out what is not about the checkpoint. */
static void
print_warning(ia3_log_level level, const char *line, void *arg)
{
    bool *silent = arg;

    if (level >= IA3_LOG_WARNING && !*silent)
        printf("warning: %s\n", line);
}

static void
print_config(const ia3_config *c, const ia3_checkpoint *ck)
{
    static const char *const acts[] = {"relu", "gelu", "gelu_new", "silu"};

    printf("model type: %s\n", c->model_type);
    printf("architecture: feed-forward %s%s, %s, logits %s\n", c->gated ? "gated " : "", acts[c->act],
           ia3_checkpoint_head(ck) == ia3_checkpoint_embedding(ck) ? "head tied to the embedding"
                                                                   : "head of its own",
           c->scale_logits ? "scaled" : "not scaled");
    printf("layers: %d + %d\n", c->n_enc, c->n_dec);
    printf("sizes: d_model %d, d_ff %d, %d heads of %d\n", c->d_model, c->d_ff, c->n_heads, c->d_kv);
    printf("vocabulary: %d\n", c->vocab_size);
}

/* Counts weights as the engine holds them: the head is a matrix of its own also where it is tied. */
static void
print_memory(const ia3_config *c, const ia3_checkpoint *ck)
{
    uint64_t embedding = (uint64_t) c->vocab_size * c->d_model, matrices = embedding, rows = c->vocab_size,
             vectors = 0;
    bool tied = ia3_checkpoint_head(ck) == ia3_checkpoint_embedding(ck);
    int n;
    ia3_state_tensor *graph = ia3_state_dict(c, &n);

    for (int i = 0; i < n; i++) {
        bool matrix = graph[i].ndim == 2 && strstr(graph[i].name, "relative_attention_bias") == NULL;

        *(matrix ? &matrices : &vectors) += (uint64_t) graph[i].rows * graph[i].cols;
        rows += matrix ? (uint64_t) graph[i].rows : 0;
    }
    free(graph);
    printf("parameters: %" PRIu64 "\n", matrices + vectors + (tied ? 0 : embedding));
    printf("memory in float32: %" PRIu64 " MB\n", (4 * (matrices + embedding + vectors) + 999999) / 1000000);
    printf("memory in bfloat16: %" PRIu64 " MB\n",
           (2 * (matrices + embedding) + 4 * vectors + 999999) / 1000000);
    printf("memory in int8: %" PRIu64 " MB\n",
           (matrices + 4 * rows + 2 * embedding + 4 * vectors + 999999) / 1000000);
}

static void
print_weights(const ia3_checkpoint *ck)
{
    static const char *const names[] = {
        [IA3_F32] = "float32", [IA3_BF16] = "bfloat16", [IA3_F16] = "float16", [IA3_F64] = "float64"};
    int n = ia3_checkpoint_n_files(ck);
    size_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += ia3_checkpoint_file(ck, i).len;
    printf("weights: ");
    if (n == 1)
        printf("%s", ia3_checkpoint_file(ck, 0).name);
    else
        printf("%d files", n);
    printf(", %zu MB, %s\n", (bytes + 999999) / 1000000, names[ia3_checkpoint_embedding(ck)->dtype]);
}

/* The files beside the weights that a tokenizer may come from; docs/engine.md §1.5 says which of them count. */
static void
print_tokenizer_files(const char *directory)
{
    static const char *const files[] = {
        "spiece.model", "tokenizer.json",        "tokenizer.model",         "vocab.json",
        "merges.txt",   "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    int n = 0;

    printf("tokenizer files:");
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *path = ia3_join_path(directory, files[i]);

        if (access(path, F_OK) == 0)
            printf("%s %s", n++ > 0 ? "," : "", files[i]);
        free(path);
    }
    printf("%s\n", n > 0 ? "" : " none");
}

static bool
print_tokens(ia3_server *s, int32_t **ids, int *n, ia3_error *err)
{
    bool truncated;

    if (!ia3_cli_encode(s, text, sizeof text - 1, ids, n, &truncated, err))
        return false;
    printf("tokens:");
    for (int i = 0; i < *n; i++)
        printf(" %d", (*ids)[i]);
    printf("\n");
    return true;
}

/* Scores the line, with what the model needs already loaded. */
static bool
print_scores(ia3_server *s, const int32_t *ids, int n_ids, ia3_error *err)
{
    ia3_span *spans;
    int n = ia3_cli_choices(labels, &spans);
    ia3_choices *choices =
        ia3_choices_tokenize(s->tokenizer, ia3_model_config(s->model)->start_id, spans, n, err);
    double scores[2] = {0}, started = ia3_now();
    ia3_score_row row = {.ids = ids, .n_ids = n_ids, .choices = choices, .scores = scores};
    bool ok = choices != NULL && ia3_score(s->model, &row, 1, err);

    if (ok && (!isfinite(scores[0]) || !isfinite(scores[1])))
        ok = ia3_fail(err, IA3_E_BAD_CHECKPOINT, "the scores of a line are not finite");
    if (ok) {
        printf("scores: %.*s %.4f, %.*s %.4f\n", (int) spans[0].len, spans[0].data, scores[0],
               (int) spans[1].len, spans[1].data, scores[1]);
        printf("time: %.3f s for one line, %s in %s\n", ia3_now() - started, s->device->name,
               ia3_device_dtype_name(s->device));
    }
    if (choices != NULL)
        ia3_choices_free(choices);
    free(spans);
    return ok;
}

static bool
describe(ia3_server *s, ia3_error *err)
{
    ia3_checkpoint *ck = ia3_checkpoint_open(s->path, err);

    if (ck == NULL)
        return false;
    print_config(ia3_checkpoint_config(ck), ck);
    print_weights(ck);
    print_memory(ia3_checkpoint_config(ck), ck);
    print_tokenizer_files(s->path);
    s->tokenizer = ia3_tokenizer_open(s->path, ia3_checkpoint_config(ck)->vocab_size, err);
    ia3_checkpoint_close(ck);

    int32_t *ids = NULL;
    int n;
    bool ok = s->tokenizer != NULL && print_tokens(s, &ids, &n, err);

    free(ids);
    ia3_server_unload(s);
    return ok;
}

/* Loads everything as a server does. Too little memory here says nothing against the checkpoint. */
static bool
try_it(ia3_server *s, ia3_error *err)
{
    int32_t *ids = NULL;
    int n;
    bool truncated;
    bool ok = ia3_server_load(s, NULL, err) &&
              ia3_cli_encode(s, text, sizeof text - 1, &ids, &n, &truncated, err) &&
              print_scores(s, ids, n, err);

    free(ids);
    if (s->model != NULL && ok) {
        printf("digest: ");
        for (int i = 0; i < IA3_DIGEST_LEN; i++)
            printf("%02x", s->digest[i]);
        printf("\n");
    }
    if (!ok && err->code == IA3_E_MEMORY) {
        printf("warning: not loaded on this machine: %s\n", err->message);
        memset(err, 0, sizeof *err);
        ok = true;
    }
    return ok;
}

int
ia3_cli_check(const ia3_options *options)
{
    ia3_server *s = ia3_alloc(sizeof *s);
    ia3_error err = {0};
    bool silent = false;

    s->options = options;
    if (options->death_fd >= 0) { /* a session of the database has started this, and must not be outlived */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ia3_volunteer_to_oom_killer();
    }
    ia3_log_divert(print_warning, &silent);

    bool ok = ia3_directory_find(options->backbone, s->path, &err);

    if (ok)
        printf("directory: %s\n", s->path);
    ok = ok && describe(s, &err);
    silent = true; /* what is loaded a second time has been warned of */
    fflush(stdout);
    ok = ok && try_it(s, &err);
    ia3_log_divert(NULL, NULL);
    if (!ok) {
        printf("error: %s\n", err.message);
        if (err.detail[0] != '\0')
            printf("detail: %s\n", err.detail);
        if (err.hint[0] != '\0')
            printf("hint: %s\n", err.hint);
    }
    ia3_server_unload(s);
    free(s);
    return ok ? 0 : 1;
}
