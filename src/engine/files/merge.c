/*
 * merge.c
 *     Writes the merged copy of a checkpoint.
 *
 * A merged weight has the shape and dtype of the original. So every safetensors file keeps its header, metadata and offsets,
 * and the index of a sharded checkpoint remains valid: only the bytes of scaled tensors differ. Files of PyTorch become
 * safetensors. This runs on a thread
 * of its own (merger.c) and uses no shared data.
 */
#include "merge.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/half.h"
#include "scratch.h"

#define CHUNK       ((size_t) 4 << 20) /* bytes copied between two checks of `cancelled` */
#define PEFT_PREFIX "base_model.model."
#define FILE_MODE   0644 /* as for files of COPY TO, because others are meant to read merged checkpoints */
#define DIR_MODE    0755

/* The files besides the weights that are copied. The model card is not one of them: it describes another model. */
static const char *const companions[] = {"config.json",
                                         "generation_config.json",
                                         "spiece.model",
                                         "tokenizer.model",
                                         "tokenizer.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "LICENSE",
                                         "added_tokens.json",
                                         "tokenizer_config.json",
                                         "LICENSE.txt",
                                         "special_tokens_map.json",
                                         "NOTICE"};

typedef struct merge {
    const ia3_checkpoint *ck;
    const ia3_layout *layout;
    const float *values;
    bool *applied; /* [layout->n] */
    const char *source;
    char *target; /* without slashes at its end */
    ia3_scratch scratch;
    const atomic_bool *cancelled;
    ia3_error *err;
} merge;

/* A file being written. */
typedef struct output {
    FILE *file;
    char *path;
} output;

static char *
join_path(const char *directory, const char *file)
{
    size_t n = strlen(directory) + strlen(file) + 2;
    char *path = ia3_alloc(n);

    snprintf(path, n, "%s/%s", directory, file);
    return path;
}

static bool
fail_file(merge *m, const char *what, const char *path)
{
    return ia3_fail(m->err, IA3_E_FILE, "could not %s \"%.300s\": %s", what, path, strerror(errno));
}

static bool
check_cancelled(merge *m)
{
    if (m->cancelled != NULL && atomic_load(m->cancelled))
        return ia3_fail(m->err, IA3_E_CANCELLED, "merge was cancelled");
    return true;
}

static bool
put(merge *m, output *out, const void *data, size_t len)
{
    return len == 0 || fwrite(data, 1, len, out->file) == len || fail_file(m, "write file", out->path);
}

/* Copies bytes [from, to) of a mapped file unchanged and releases the pages that were read. */
static bool
put_range(merge *m, output *out, const uint8_t *base, size_t from, size_t to)
{
    size_t page = (size_t) sysconf(_SC_PAGESIZE);

    while (from < to) {
        size_t n = to - from < CHUNK ? to - from : CHUNK;

        if (!check_cancelled(m) || !put(m, out, base + from, n))
            return false;

        size_t begin = (from + page - 1) / page * page, end = (from + n) / page * page;

        if (begin < end)
            madvise((void *) (base + begin), end - begin, MADV_DONTNEED);
        from += n;
    }
    return true;
}

/* Scales one row: out[i] = row[i] · (columns ? l[i] : *l), rounded to the dtype. False if a finite weight overflows. */
static bool
scale_row(ia3_dtype dtype, const uint8_t *row, int64_t cols, const float *l, bool columns, uint8_t *out)
{
    bool ok = true;

    for (int64_t i = 0; i < cols; i++) {
        float factor = columns ? l[i] : *l, weight, result;
        double twice;
        uint16_t half;

        if (dtype == IA3_F64) {
            memcpy(&twice, row + 8 * i, 8);
            weight = (float) twice;
            twice *= factor;
            result = (float) twice;
            memcpy(out + 8 * i, &twice, 8);
        } else if (dtype == IA3_F32) {
            memcpy(&weight, row + 4 * i, 4);
            result = weight * factor;
            memcpy(out + 4 * i, &result, 4);
        } else {
            memcpy(&half, row + 2 * i, 2);
            weight = dtype == IA3_BF16 ? ia3_bf16_to_f32(half) : ia3_f16_to_f32(half);
            half = dtype == IA3_BF16 ? ia3_f32_to_bf16(weight * factor) : ia3_f32_to_f16(weight * factor);
            memcpy(out + 2 * i, &half, 2);
            result = dtype == IA3_BF16 ? ia3_bf16_to_f32(half) : ia3_f16_to_f32(half);
        }
        ok = ok && (isfinite(result) || !isfinite(weight));
    }
    return ok;
}

/* Writes a tensor with its scale applied. Its shape and dtype were checked when the checkpoint was opened. */
static bool
put_scaled(merge *m, output *out, const ia3_st_tensor *t, const ia3_layout_entry *e)
{
    const float *l = m->values + e->offset;
    int64_t rows = t->shape[0], cols = t->shape[1];
    size_t row_bytes = (size_t) cols * ia3_dtype_size(t->dtype), since = CHUNK;
    uint8_t *buffer = ia3_alloc(row_bytes);
    bool ok = true;

    for (int64_t r = 0; ok && r < rows; r++, since += row_bytes) {
        if (since >= CHUNK) {
            since = 0;
            ok = check_cancelled(m);
        }
        if (ok && !scale_row(t->dtype, t->data + (size_t) r * row_bytes, cols, e->feedforward ? l : l + r,
                             e->feedforward, buffer)) {
            ok = ia3_fail(m->err, IA3_E_BAD_ADAPTER, "merged tensor \"%.120s\" is out of range", t->name);
            ia3_fail_detail(
                m->err, "A weight multiplied by its vector exceeds the range of the checkpoint's data type.");
        }
        ok = ok && put(m, out, buffer, row_bytes);
    }
    free(buffer);
    return ok;
}

/* The vector that scales a stored tensor ("X.weight" by "base_model.model.X" and the method's suffix), or NULL. */
static const ia3_layout_entry *
vector_of(const merge *m, const char *tensor)
{
    size_t n = strlen(tensor), suffix = strlen(".weight"), prefix = strlen(PEFT_PREFIX);

    if (n < suffix || strcmp(tensor + n - suffix, ".weight") != 0)
        return NULL;
    n -= suffix;
    for (int i = 0; i < m->layout->n; i++) {
        const char *name = m->layout->entries[i].name + prefix;

        if (strncmp(name, tensor, n) == 0 && strcmp(name + n, m->layout->variant.method->merge_suffix) == 0)
            return &m->layout->entries[i];
    }
    return NULL;
}

static bool
open_output(merge *m, output *out, const char *name)
{
    out->path = join_path(m->scratch.path, name);

    int fd = open(out->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);

    out->file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (out->file == NULL) {
        fail_file(m, "create file", out->path);
        if (fd >= 0)
            close(fd);
        free(out->path);
        return false;
    }
    fchmod(fd, FILE_MODE); /* explicitly, because a server's umask is 0077 */
    return true;
}

/* Closes the file; if `ok`, after writing all bytes to disk. */
static bool
close_output(merge *m, output *out, bool ok)
{
    if (ok && (fflush(out->file) != 0 || fsync(fileno(out->file)) != 0))
        ok = fail_file(m, "write file", out->path);
    if (fclose(out->file) != 0 && ok)
        ok = fail_file(m, "close file", out->path);
    free(out->path);
    return ok;
}

/* Copies a file unchanged if it exists. */
static bool
copy_companion(merge *m, const char *name)
{
    char *path = join_path(m->source, name), buffer[65536];
    int in = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    output out;
    bool ok = in >= 0 || errno == ENOENT || fail_file(m, "open file", path);

    if (in >= 0 && fstat(in, &st) == 0 && S_ISREG(st.st_mode)) {
        ssize_t n = 0;

        ok = open_output(m, &out, name);
        if (ok) {
            while (ok && (n = read(in, buffer, sizeof buffer)) > 0)
                ok = put(m, &out, buffer, (size_t) n);
            if (ok && n < 0)
                ok = fail_file(m, "read file", path);
            ok = close_output(m, &out, ok);
        }
    }
    if (in >= 0)
        close(in);
    free(path);
    return ok;
}

/* Writes a copy of a safetensors file. */
static bool
write_weights(merge *m, const ia3_weight_file *file)
{
    output out;

    if (!open_output(m, &out, file->name))
        return false;

    size_t done = 0; /* bytes of the file */
    bool ok = true;

    for (int i = 0; ok && i < file->n_tensors; i++) {
        const ia3_st_tensor *t = &file->tensors[i]; /* in the order of the data */
        const ia3_layout_entry *e = vector_of(m, t->name);

        if (e == NULL)
            continue;

        size_t at = (size_t) (t->data - file->data);

        ok = put_range(m, &out, file->data, done, at) && put_scaled(m, &out, t, e);
        done = at + t->bytes;
        m->applied[e - m->layout->entries] = true;
    }
    ok = ok && put_range(m, &out, file->data, done, file->len);
    return close_output(m, &out, ok);
}

/* The name of the safetensors file in place of one of PyTorch: pytorch_model-00001-of-00002.bin has model-… */
static char *
converted_name(const char *name)
{
    static const char prefix[] = "pytorch_", suffix[] = ".bin";
    size_t n = strlen(name), skip = strncmp(name, prefix, strlen(prefix)) == 0 ? strlen(prefix) : 0;

    if (n - skip > strlen(suffix) && strcmp(name + n - strlen(suffix), suffix) == 0)
        n -= strlen(suffix);

    char *converted = ia3_alloc(n - skip + strlen(".safetensors") + 1);

    memcpy(converted, name + skip, n - skip);
    strcpy(converted + n - skip, ".safetensors");
    return converted;
}

/* What a file of PyTorch becomes: its tensors, each stored once, and the other names of those that are tied. */
typedef struct conversion {
    const ia3_st_tensor **tensors;
    ia3_st_alias *aliases;
    int n, n_aliases;
} conversion;

/* Whether t is another name of a tensor that is kept. Old files have copies of a tied embedding. */
static bool
is_twin(const merge *m, const ia3_st_tensor *t, const ia3_st_tensor *kept)
{
    const ia3_host_tensor *embedding = ia3_checkpoint_embedding(m->ck);

    if (strcmp(t->name, "lm_head.weight") == 0 && ia3_checkpoint_head(m->ck) == embedding)
        return kept->data == embedding->data;
    return kept->data == t->data && kept->bytes == t->bytes && kept->transposed == t->transposed;
}

/* Goes through the names in descending order, so that of several names "shared.weight" is kept, as transformers does. */
static conversion
convert(const merge *m, const ia3_weight_file *file)
{
    conversion c = {.tensors = ia3_alloc_array((size_t) file->n_tensors + 1, sizeof *c.tensors),
                    .aliases = ia3_alloc_array((size_t) file->n_tensors + 1, sizeof *c.aliases)};

    for (int i = file->n_tensors - 1; i >= 0; i--) {
        const ia3_st_tensor *t = &file->tensors[i];
        int twin = 0;

        if (t->dtype == IA3_AUTO)
            continue; /* integers, which a T5 does not need */
        while (twin < c.n && !is_twin(m, t, c.tensors[twin]))
            twin++;
        if (twin < c.n && t->bytes > 0)
            c.aliases[c.n_aliases++] = (ia3_st_alias){t->name, c.tensors[twin]->name};
        else
            c.tensors[c.n++] = t;
    }
    return c;
}

static void
free_conversion(conversion *c)
{
    free(c->tensors);
    free(c->aliases);
}

static bool
put_tensor(merge *m, output *out, const ia3_st_tensor *t)
{
    const ia3_layout_entry *e = vector_of(m, t->name);

    ia3_st_tensor plain = *t;
    uint8_t *rows = NULL;

    if (t->transposed) { /* safetensors has no such thing */
        const ia3_host_tensor host = {t->data, t->dtype, t->shape[0], t->shape[1], true};

        rows = ia3_alloc(t->bytes);
        ia3_tensor_tile(&host, 0, host.rows, 0, host.cols, rows);
        plain.data = rows;
    }

    bool ok;

    if (e != NULL) {
        m->applied[e - m->layout->entries] = true;
        ok = put_scaled(m, out, &plain, e);
    } else
        ok = rows != NULL ? check_cancelled(m) && put(m, out, rows, t->bytes)
                          : put_range(m, out, t->data, 0, t->bytes);
    free(rows);
    return ok;
}

/* Writes a safetensors file with the tensors of a file of PyTorch, and enters them in the index if there is one. */
static bool
write_converted(merge *m, const ia3_weight_file *file, json_t *weight_map)
{
    conversion c = convert(m, file);
    char *name = converted_name(file->name);
    size_t len;
    uint8_t *header = ia3_safetensors_header(c.tensors, c.n, c.aliases, c.n_aliases, &len);
    output out;
    bool ok = open_output(m, &out, name);

    if (ok) {
        ok = put(m, &out, header, len);
        for (int i = 0; ok && i < c.n; i++)
            ok = put_tensor(m, &out, c.tensors[i]);
        ok = close_output(m, &out, ok);
    }
    for (int i = 0; weight_map && i < c.n; i++)
        json_object_set_new(weight_map, c.tensors[i]->name, json_string(name));
    free(header);
    free(name);
    free_conversion(&c);
    return ok;
}

static bool
write_index(merge *m, json_t *weight_map)
{
    json_t *index = json_pack("{s:{}, s:O}", "metadata", "weight_map", weight_map);
    char *text = json_dumps(index, JSON_INDENT(2) | JSON_SORT_KEYS);
    output out;
    bool ok = open_output(m, &out, "model.safetensors.index.json");

    if (ok)
        ok = close_output(m, &out, put(m, &out, text, strlen(text)));
    free(text);
    json_decref(index);
    return ok;
}

/* The weights of a checkpoint of PyTorch, as safetensors. */
static bool
write_all_converted(merge *m)
{
    int n = ia3_checkpoint_n_files(m->ck);
    json_t *weight_map = n > 1 ? json_object() : NULL;
    bool ok = true;

    for (int i = 0; ok && i < n; i++) {
        ia3_weight_file file = ia3_checkpoint_file(m->ck, i);

        ok = write_converted(m, &file, weight_map);
    }
    ok = ok && (weight_map == NULL || write_index(m, weight_map));
    json_decref(weight_map);
    return ok;
}

/* The weights of a checkpoint of safetensors, in the same files. */
static bool
write_all_weights(merge *m)
{
    int n = ia3_checkpoint_n_files(m->ck);

    for (int i = 0; i < n; i++) {
        ia3_weight_file file = ia3_checkpoint_file(m->ck, i);

        if (!write_weights(m, &file))
            return false;
    }
    ia3_weight_file first = ia3_checkpoint_file(m->ck, 0);

    return strcmp(first.name, "model.safetensors") == 0 || copy_companion(m, "model.safetensors.index.json");
}

/*
 * If two modules share a weight through an alias, it is stored once but has two vectors, so it cannot be scaled in
 * place. No published T5 shares a projection.
 */
static bool
check_applied(merge *m)
{
    for (int i = 0; i < m->layout->n; i++)
        if (!m->applied[i])
            return ia3_fail(m->err, IA3_E_BAD_CHECKPOINT,
                            "%s: the weight of \"%s\" is shared with another module and cannot be merged",
                            m->source, m->layout->entries[i].name + strlen(PEFT_PREFIX));
    return true;
}

static bool
write_all(merge *m)
{
    bool safetensors = ia3_checkpoint_file(m->ck, 0).safetensors;

    if (!(safetensors ? write_all_weights(m) : write_all_converted(m)) || !check_applied(m))
        return false;
    for (size_t i = 0; i < sizeof companions / sizeof companions[0]; i++)
        if (!copy_companion(m, companions[i]))
            return false;
    return true;
}

/* Checks that the target does not exist or is an empty directory, which rename() replaces. */
static bool
check_target(merge *m)
{
    if (m->target[0] != '/')
        return ia3_fail(m->err, IA3_E_INVALID, "\"%.300s\" is not an absolute path", m->target);

    DIR *dir = opendir(m->target);
    int entries = 0;

    if (dir == NULL && errno == ENOENT)
        return true;
    if (dir == NULL)
        return fail_file(m, "open directory", m->target);
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        entries += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return entries == 0 ||
           ia3_fail(m->err, IA3_E_INVALID, "directory \"%.300s\" exists and is not empty", m->target);
}

static bool
make_scratch(merge *m)
{
    return ia3_scratch_create(&m->scratch, m->target) || fail_file(m, "create directory", m->target);
}

static bool
sync_directory(merge *m, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (!ok)
        fail_file(m, "synchronize directory", path);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* Renames the finished directory to the target. */
static bool
publish(merge *m)
{
    char *parent = ia3_strdup(m->target);
    char *slash = strrchr(parent, '/');

    slash[slash == parent ? 1 : 0] = '\0';

    bool ok = check_cancelled(m);

    if (ok && chmod(m->scratch.path, DIR_MODE) != 0)
        ok = fail_file(m, "set permissions of directory", m->scratch.path);
    ok = ok && sync_directory(m, m->scratch.path);
    if (ok && !ia3_scratch_publish(&m->scratch, m->target))
        ok = fail_file(m, "create directory", m->target);
    ok = ok && sync_directory(m, parent);
    free(parent);
    return ok;
}

static bool
check_digest(merge *m, const uint8_t *digest)
{
    uint8_t actual[IA3_DIGEST_LEN];

    if (digest == NULL)
        return true;
    if (!ia3_checkpoint_digest(m->ck, actual, NULL, NULL, m->err))
        return false;
    if (memcmp(actual, digest, IA3_DIGEST_LEN) == 0)
        return true;
    ia3_fail(m->err, IA3_E_BAD_CHECKPOINT, "%s: the files have changed since they were loaded", m->source);
    return ia3_fail_hint(m->err, "Restore the old files, or restart the server to load the new ones.");
}

bool
ia3_merge(const char *source, const uint8_t *digest, const ia3_variant *variant, const float *values,
          const char *directory, const atomic_bool *cancelled, ia3_error *err)
{
    merge m = {.source = source, .values = values, .cancelled = cancelled, .err = err};
    ia3_checkpoint *ck = NULL;
    ia3_layout *layout = NULL;
    size_t n = strlen(directory);

    m.target = ia3_strdup(directory);
    while (n > 1 && m.target[n - 1] == '/')
        m.target[--n] = '\0';

    bool ok = check_target(&m) && (ck = ia3_checkpoint_open(source, err)) != NULL;

    if (ok) {
        m.ck = ck;
        m.layout = layout = ia3_layout_create(ia3_checkpoint_config(ck), *variant);
        m.applied = ia3_alloc_array((size_t) layout->n, sizeof *m.applied);
        ok = check_digest(&m, digest) && check_cancelled(&m) && make_scratch(&m) && write_all(&m) &&
             ia3_checkpoint_unchanged(ck, err) && publish(&m);
    }
    ia3_scratch_remove(&m.scratch);
    free(m.applied);
    free(m.target);
    ia3_layout_free(layout);
    ia3_checkpoint_close(ck);
    return ok;
}
