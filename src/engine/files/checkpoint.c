/*
 * checkpoint.c
 *     Opens a Hugging Face checkpoint directory and finds the tensors that the graph needs.
 *
 * Weights come from model.safetensors or pytorch_model.bin, or from the shards that the index of either names. Files are
 * mapped read-only and never written.
 */
#include "checkpoint.h"

#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/log.h"
#include "directory.h"
#include "json_file.h"
#include "mapped_file.h"
#include "read_file.h"
#include "safetensors.h"
#include "state_dict.h"
#include "torch_file.h"

#define MAX_CONFIG (16u << 20)
#define MAX_INDEX  (100u << 20)
#define MAX_SHARDS 1024

typedef struct shard {
    char *file; /* name within the directory */
    char *path;
    ia3_mapped_file map;
    ia3_safetensors *st; /* or */
    ia3_torch_file *torch;
} shard;

typedef struct stored {
    const char *name;
    const ia3_st_tensor *tensor;
    const shard *shard;
    ia3_host_tensor host; /* data == NULL: the graph cannot use it */
    atomic_int others;    /* readers besides the next one that releases it */
} stored;

struct ia3_checkpoint {
    char *directory;
    ia3_config config;
    shard *shards;
    int n_shards;
    json_t *index; /* keeps the names of a sharded checkpoint */
    stored *tensors;
    int n_tensors; /* sorted by name */
    /* safetensors stores a shared tensor once and records its other names in the metadata */
    ia3_st_alias *aliases;
    int n_aliases; /* sorted by name */
    const ia3_host_tensor *embedding, *head;
    ia3_state_tensor *graph; /* keeps the names of a checkpoint without files */
};

/* A link whose target is not accessible exists: opening it says what is wrong. */
static bool
file_exists(const ia3_checkpoint *ck, const char *file)
{
    char *path = ia3_join_path(ck->directory, file);
    struct stat st;
    bool exists = lstat(path, &st) == 0;

    free(path);
    return exists;
}

static bool
ends_with(const char *s, const char *end)
{
    return strlen(s) >= strlen(end) && strcmp(s + strlen(s) - strlen(end), end) == 0;
}

/* Maps a shard and parses its header. */
static shard *
open_shard(ia3_checkpoint *ck, const char *file, ia3_error *err)
{
    char *path = ia3_join_path(ck->directory, file);
    ia3_mapped_file map;

    if (!ia3_mapped_open(&map, path, err)) {
        free(path);
        return NULL;
    }

    shard *s = &ck->shards[ck->n_shards++];

    *s = (shard){.file = ia3_strdup(file), .path = path, .map = map};
    if (ends_with(file, ".bin"))
        s->torch = ia3_torch_parse(map.data, map.len, path, err);
    else
        s->st = ia3_safetensors_parse(map.data, map.len, path, IA3_E_BAD_CHECKPOINT, err);
    return s->st || s->torch ? s : NULL;
}

/* The tensors of a shard [*n]. */
static const ia3_st_tensor *
shard_tensors(const shard *s, int *n)
{
    *n = s->st ? s->st->n : s->torch->n;
    return s->st ? s->st->tensors : s->torch->tensors;
}

static const ia3_st_tensor *
shard_tensor(const shard *s, const char *name)
{
    return s->st ? ia3_safetensors_find(s->st, name) : ia3_torch_find(s->torch, name);
}

static void
add_tensor(ia3_checkpoint *ck, const char *name, const ia3_st_tensor *t, const shard *s)
{
    stored *e = &ck->tensors[ck->n_tensors++];

    e->name = name;
    e->tensor = t;
    e->shard = s;
    if (t->dtype != IA3_AUTO && (t->ndim == 1 || t->ndim == 2)) {
        e->host.dtype = t->dtype;
        e->host.rows = t->ndim == 2 ? t->shape[0] : 1;
        e->host.cols = t->shape[t->ndim - 1];
        e->host.data = t->data;
        e->host.transposed = t->transposed;
    }
}

static bool
open_single(ia3_checkpoint *ck, const char *file, ia3_error *err)
{
    ck->shards = ia3_alloc_array(1, sizeof *ck->shards);

    shard *s = open_shard(ck, file, err);

    if (s == NULL)
        return false;

    int n;
    const ia3_st_tensor *tensors = shard_tensors(s, &n);

    ck->tensors = ia3_alloc_array((size_t) n + 1, sizeof *ck->tensors);
    for (int i = 0; i < n; i++)
        add_tensor(ck, tensors[i].name, &tensors[i], s);
    return true;
}

/* The shard of this name, opened when it is first used. A name outside the directory is an error. */
static shard *
shard_by_name(ia3_checkpoint *ck, const char *path, const char *file, ia3_error *err)
{
    for (int i = ck->n_shards - 1; i >= 0; i--)
        if (strcmp(ck->shards[i].file, file) == 0)
            return &ck->shards[i];
    if (file[0] == '\0' || file[0] == '.' || strchr(file, '/') != NULL) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: \"weight_map\" names \"%.120s\", which is not a file name",
                 path, file);
        return NULL;
    }
    if (ck->n_shards == MAX_SHARDS) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: \"weight_map\" names more than %d files", path, MAX_SHARDS);
        return NULL;
    }
    return open_shard(ck, file, err);
}

/* Whether the index names another file for a tensor of `s`, and that file has it, too. */
static bool
is_elsewhere(const ia3_checkpoint *ck, json_t *map, const shard *s, const char *name)
{
    const char *file = json_string_value(json_object_get(map, name));

    if (file == NULL || strcmp(file, s->file) == 0)
        return false;
    for (int i = 0; i < ck->n_shards; i++)
        if (strcmp(ck->shards[i].file, file) == 0)
            return shard_tensor(&ck->shards[i], name) != NULL;
    return false;
}

/*
 * Adds what the files contain, as transformers does: the index names the files, but it may also list names that no file
 * has, those of tied tensors for instance, and may leave out others.
 */
static void
add_indexed_tensors(ia3_checkpoint *ck, json_t *map)
{
    size_t total = 0;
    int n;

    for (int i = 0; i < ck->n_shards; i++) {
        shard_tensors(&ck->shards[i], &n);
        total += (size_t) n;
    }
    ck->tensors = ia3_alloc_array(total + 1, sizeof *ck->tensors);
    for (int i = 0; i < ck->n_shards; i++) {
        const ia3_st_tensor *tensors = shard_tensors(&ck->shards[i], &n);

        for (int j = 0; j < n; j++)
            if (!is_elsewhere(ck, map, &ck->shards[i], tensors[j].name))
                add_tensor(ck, tensors[j].name, &tensors[j], &ck->shards[i]);
    }
}

static bool
open_weight_map(ia3_checkpoint *ck, const char *path, json_t *map, ia3_error *err)
{
    const char *name;
    json_t *file;

    ck->shards = ia3_alloc_array(MAX_SHARDS, sizeof *ck->shards);
    json_object_foreach(map, name, file)
    {
        if (!json_is_string(file))
            return ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: \"weight_map\" gives no file name for \"%.120s\"",
                            path, name);

        shard *s = shard_by_name(ck, path, json_string_value(file), err);

        if (s == NULL)
            return false;
    }
    add_indexed_tensors(ck, map);
    return true;
}

static bool
open_sharded(ia3_checkpoint *ck, const char *file, ia3_error *err)
{
    char *path = ia3_join_path(ck->directory, file);
    bool ok = false;

    ck->index = ia3_json_read(path, MAX_INDEX, err);
    if (ck->index != NULL) {
        json_t *map = json_object_get(ck->index, "weight_map");

        if (!json_is_object(map))
            ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: \"weight_map\" is missing or not an object", path);
        else
            ok = open_weight_map(ck, path, map, err);
    }
    free(path);
    return ok;
}

static int
compare_stored(const void *a, const void *b)
{
    return strcmp(((const stored *) a)->name, ((const stored *) b)->name);
}

static int
compare_alias(const void *a, const void *b)
{
    return strcmp(((const ia3_st_alias *) a)->name, ((const ia3_st_alias *) b)->name);
}

static void
collect_aliases(ia3_checkpoint *ck)
{
    size_t n = 0;

    for (int i = 0; i < ck->n_shards; i++)
        n += ck->shards[i].st ? (size_t) ck->shards[i].st->n_metadata : 0;
    ck->aliases = ia3_alloc_array(n, sizeof *ck->aliases);
    for (int i = 0; i < ck->n_shards; i++) {
        const ia3_safetensors *st = ck->shards[i].st;

        for (int j = 0; st && j < st->n_metadata; j++)
            ck->aliases[ck->n_aliases++] = (ia3_st_alias){st->metadata_keys[j], st->metadata_values[j]};
    }
    qsort(ck->aliases, ck->n_aliases, sizeof *ck->aliases, compare_alias);
}

static stored *
find_stored(const ia3_checkpoint *ck, const char *name)
{
    const stored key = {.name = name};
    stored *e = bsearch(&key, ck->tensors, ck->n_tensors, sizeof *ck->tensors, compare_stored);

    if (e != NULL)
        return e;

    const ia3_st_alias alias_key = {.name = name};
    const ia3_st_alias *a =
        bsearch(&alias_key, ck->aliases, ck->n_aliases, sizeof *ck->aliases, compare_alias);

    if (a == NULL)
        return NULL;

    const stored kept = {.name = a->kept};

    return bsearch(&kept, ck->tensors, ck->n_tensors, sizeof *ck->tensors, compare_stored);
}

static void
format_shape(const ia3_st_tensor *t, char *out, size_t size)
{
    size_t n = (size_t) snprintf(out, size, "[");

    for (int i = 0; i < t->ndim && n < size; i++)
        n += (size_t) snprintf(out + n, size - n, "%s%lld", i ? ", " : "", (long long) t->shape[i]);
    if (n < size)
        snprintf(out + n, size - n, "]");
}

/* Checks that a stored tensor has the shape and a dtype that the graph needs. */
static bool
check_tensor(stored *e, int ndim, int64_t rows, int64_t cols, ia3_error *err)
{
    const ia3_st_tensor *t = e->tensor;
    char shape[128], needed[64];

    if (t->dtype == IA3_AUTO)
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT,
                        "%s: tensor \"%.120s\": \"dtype\" is not F32, BF16, F16 or F64", e->shard->path,
                        e->name);
    if (t->ndim != ndim || e->host.rows != rows || e->host.cols != cols) {
        format_shape(t, shape, sizeof shape);
        if (ndim == 1)
            snprintf(needed, sizeof needed, "[%lld]", (long long) cols);
        else
            snprintf(needed, sizeof needed, "[%lld, %lld]", (long long) rows, (long long) cols);
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT,
                        "%s: tensor \"%.120s\": \"shape\" is %s, but config.json requires %s", e->shard->path,
                        e->name, shape, needed);
    }
    return true;
}

/* The file or directory to name in errors about a missing tensor. */
static const char *
weights_name(const ia3_checkpoint *ck)
{
    return ck->n_shards == 1 ? ck->shards[0].path : ck->directory;
}

/*
 * Whether a head is the embedding under another name. A file of PyTorch has both names, of one storage or, in old files, of
 * two with the same values.
 */
static bool
is_embedding(const ia3_checkpoint *ck, const stored *head, const stored *embedding)
{
    if (head->host.transposed != embedding->host.transposed)
        return false;
    if (head->host.data == embedding->host.data)
        return true;
    return head->shard->torch && !ck->config.untied && head->tensor->dtype == embedding->tensor->dtype &&
           head->tensor->bytes == embedding->tensor->bytes &&
           memcmp(head->tensor->data, embedding->tensor->data, head->tensor->bytes) == 0;
}

static bool
resolve_roles(ia3_checkpoint *ck, ia3_error *err)
{
    static const char *const names[] = {"shared.weight", "encoder.embed_tokens.weight",
                                        "decoder.embed_tokens.weight"};
    stored *embedding = NULL, *head = find_stored(ck, "lm_head.weight");

    for (int i = 0; i < 3 && embedding == NULL; i++)
        embedding = find_stored(ck, names[i]);
    if (embedding == NULL && head != NULL) {
        if (ck->config.untied)
            ia3_log(IA3_LOG_WARNING,
                    "%s: tensor \"shared.weight\" is missing although \"tie_word_embeddings\" is false in "
                    "config.json; the head is used in its place",
                    weights_name(ck));
        embedding = head;
    }
    if (embedding == NULL)
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: tensor \"shared.weight\" is missing",
                        weights_name(ck));
    if (head == NULL && ck->config.untied)
        ia3_log(IA3_LOG_WARNING,
                "%s: tensor \"lm_head.weight\" is missing although \"tie_word_embeddings\" is false in "
                "config.json; "
                "the embedding is used in its place",
                weights_name(ck));
    if (head == NULL || is_embedding(ck, head, embedding))
        head = embedding;
    if (!check_tensor(embedding, 2, ck->config.vocab_size, ck->config.d_model, err) ||
        !check_tensor(head, 2, ck->config.vocab_size, ck->config.d_model, err))
        return false;
    ck->embedding = &embedding->host;
    ck->head = &head->host;
    ck->config.own_head = head != embedding;
    return true;
}

static bool
check_graph(ia3_checkpoint *ck, ia3_error *err)
{
    int n;
    ia3_state_tensor *graph = ia3_state_dict(&ck->config, &n);
    bool ok = true;

    for (int i = 0; ok && i < n; i++) {
        stored *e = find_stored(ck, graph[i].name);

        if (e == NULL)
            ok = ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: tensor \"%s\" is missing", weights_name(ck),
                          graph[i].name);
        else
            ok = check_tensor(e, graph[i].ndim, graph[i].rows, graph[i].cols, err);
    }
    free(graph);
    return ok;
}

static bool
open_config(ia3_checkpoint *ck, ia3_error *err)
{
    if (!file_exists(ck, "config.json") && errno == ENOENT && access(ck->directory, X_OK) == 0)
        return ia3_directory_without_config(ck->directory, err);

    char *path = ia3_join_path(ck->directory, "config.json");
    size_t len;
    char *text = ia3_read_file(path, MAX_CONFIG, &len, err);
    bool ok = text != NULL && ia3_config_parse(&ck->config, text, len, path, err);

    free(text);
    free(path);
    return ok;
}

static bool
has_prefix(const ia3_checkpoint *ck, const char *prefix)
{
    for (int i = 0; i < ck->n_tensors; i++)
        if (strncmp(ck->tensors[i].name, prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

/* Refuses models of the T5 family that are not language models with an encoder and a decoder. */
static bool
check_kind(const ia3_checkpoint *ck, ia3_error *err)
{
    if (has_prefix(ck, "transformer.") &&
        (has_prefix(ck, "classification_head.") || has_prefix(ck, "classifier."))) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: the model has a classifier and no head of a language model",
                 weights_name(ck));
        return ia3_fail_hint(
            err, "Use the checkpoint that it was fine-tuned from, and train a task with ia3_train.");
    }
    if (has_prefix(ck, "encoder.") && !has_prefix(ck, "decoder.")) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: the model has an encoder and no decoder", weights_name(ck));
        ia3_fail_detail(
            err, "Such a model computes embeddings (sentence-t5, gtr, the text encoder of an image model), "
                 "but neither probabilities of choices nor texts.");
        return ia3_fail_hint(err, "Use a checkpoint with both, such as the one that it was made from.");
    }
    return true;
}

static bool
open_weights(ia3_checkpoint *ck, ia3_error *err)
{
    /* in the order in which transformers looks for them */
    static const char *const files[] = {"model.safetensors", "model.safetensors.index.json",
                                        "pytorch_model.bin", "pytorch_model.bin.index.json"};

    for (int i = 0; i < 4; i++)
        if (file_exists(ck, files[i]))
            return i % 2 ? open_sharded(ck, files[i], err) : open_single(ck, files[i], err);
    return ia3_directory_without_weights(ck->directory, err);
}

ia3_checkpoint *
ia3_checkpoint_open(const char *directory, ia3_error *err)
{
    ia3_checkpoint *ck = ia3_alloc(sizeof *ck);

    ck->directory = ia3_strdup(directory);
    if (open_config(ck, err) && open_weights(ck, err)) {
        qsort(ck->tensors, ck->n_tensors, sizeof *ck->tensors, compare_stored);
        collect_aliases(ck);
        if (check_kind(ck, err) && resolve_roles(ck, err) && check_graph(ck, err))
            return ck;
    }
    ia3_checkpoint_close(ck);
    return NULL;
}

ia3_checkpoint *
ia3_checkpoint_in_memory(const ia3_config *config, ia3_dtype dtype, bool own_head, ia3_tensor_source source,
                         void *arg)
{
    ia3_checkpoint *ck = ia3_alloc(sizeof *ck);
    int n;

    ck->directory = ia3_strdup("");
    ck->config = *config;
    ck->config.own_head = own_head;
    ck->graph = ia3_state_dict(config, &n);
    ck->tensors = ia3_alloc_array((size_t) n + 2, sizeof *ck->tensors);
    for (int i = 0; i < n; i++)
        ck->tensors[ck->n_tensors++] =
            (stored){.name = ck->graph[i].name, .host = {NULL, dtype, ck->graph[i].rows, ck->graph[i].cols}};
    for (int i = 0; i < (own_head ? 2 : 1); i++)
        ck->tensors[ck->n_tensors++] = (stored){.name = i ? "lm_head.weight" : "shared.weight",
                                                .host = {NULL, dtype, config->vocab_size, config->d_model}};
    qsort(ck->tensors, ck->n_tensors, sizeof *ck->tensors, compare_stored);
    for (int i = 0; i < ck->n_tensors; i++) {
        ia3_host_tensor *t = &ck->tensors[i].host;

        t->data = source(ck->tensors[i].name, t->rows, t->cols, arg);
    }
    ck->embedding = &find_stored(ck, "shared.weight")->host;
    ck->head = own_head ? &find_stored(ck, "lm_head.weight")->host : ck->embedding;
    return ck;
}

void
ia3_checkpoint_close(ia3_checkpoint *ck)
{
    if (ck == NULL)
        return;
    for (int i = 0; i < ck->n_shards; i++) {
        ia3_safetensors_free(ck->shards[i].st);
        ia3_torch_free(ck->shards[i].torch);
        ia3_mapped_close(&ck->shards[i].map);
        free(ck->shards[i].file);
        free(ck->shards[i].path);
    }
    json_decref(ck->index);
    free(ck->graph);
    free(ck->tensors);
    free(ck->aliases);
    free(ck->shards);
    free(ck->directory);
    free(ck);
}

const ia3_config *
ia3_checkpoint_config(const ia3_checkpoint *ck)
{
    return &ck->config;
}

const ia3_host_tensor *
ia3_checkpoint_tensor(const ia3_checkpoint *ck, const char *name)
{
    const stored *e = find_stored(ck, name);

    return e != NULL && e->host.data != NULL ? &e->host : NULL;
}

const ia3_host_tensor *
ia3_checkpoint_embedding(const ia3_checkpoint *ck)
{
    return ck->embedding;
}

const ia3_host_tensor *
ia3_checkpoint_head(const ia3_checkpoint *ck)
{
    return ck->head;
}

int
ia3_checkpoint_n_files(const ia3_checkpoint *ck)
{
    return ck->n_shards;
}

ia3_weight_file
ia3_checkpoint_file(const ia3_checkpoint *ck, int i)
{
    const shard *s = &ck->shards[i];

    ia3_weight_file file = {
        .name = s->file, .data = s->map.data, .len = s->map.len, .safetensors = s->st != NULL};
    file.tensors = shard_tensors(s, &file.n_tensors);
    return file;
}

static stored *
stored_of(const ia3_host_tensor *t)
{
    return (stored *) ((char *) (uintptr_t) t - offsetof(stored, host));
}

void
ia3_checkpoint_share(const ia3_checkpoint *ck, const ia3_host_tensor *t)
{
    (void) ck;
    atomic_fetch_add(&stored_of(t)->others, 1);
}

void
ia3_checkpoint_release(const ia3_checkpoint *ck, const ia3_host_tensor *t)
{
    atomic_int *others = &stored_of(t)->others;
    int before = atomic_load(others);

    while (before > 0 && !atomic_compare_exchange_weak(others, &before, before - 1))
        ;
    if (before > 0)
        return;

    size_t bytes = (size_t) t->rows * (size_t) t->cols * ia3_dtype_size(t->dtype);

    for (int i = 0; i < ck->n_shards; i++)
        ia3_mapped_release(&ck->shards[i].map, t->data, bytes);
}

bool
ia3_checkpoint_unchanged(const ia3_checkpoint *ck, ia3_error *err)
{
    for (int i = 0; i < ck->n_shards; i++)
        if (!ia3_mapped_unchanged(&ck->shards[i].map)) {
            ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%s: the file changed while it was read", ck->shards[i].path);
            return ia3_fail_hint(err, "Wait until the file is complete, and load the backbone again.");
        }
    return true;
}
