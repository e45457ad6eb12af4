/*
 * config.c
 *     Parses and writes config.json of a T5-family checkpoint: the defaults of the three model types, transformers' rules for the
 *     activation, and limits that keep every later computation of sizes within 64 bits.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_file.h"

/* These limits are far above every published model; they ensure that computed sizes and offsets do not overflow. */
#define MAX_VOCAB   10000000
#define MAX_D_MODEL 65536
#define MAX_D_KV    4096
#define MAX_HEADS   4096
#define MAX_INNER   131072
#define MAX_D_FF    1048576
#define MAX_LAYERS  1000
#define MAX_BUCKETS 65536
#define MAX_SPAN    1000000000

/* The object being read, with what error messages need. */
typedef struct reader {
    json_t *root;
    const char *path;
    ia3_error *err;
} reader;

/* Looks up a key; NULL if it is absent or null, in which case the default applies, as in transformers. */
static json_t *
lookup(const reader *r, const char *key)
{
    json_t *v = json_object_get(r->root, key);

    return json_is_null(v) ? NULL : v;
}

static bool
check_int(const reader *r, const char *key, json_t *v, int64_t min, int64_t max, int *out)
{
    if (!json_is_integer(v))
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"%s\" is not an integer", r->path, key);

    json_int_t i = json_integer_value(v);

    if (i < min || i > max)
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"%s\" is %lld, but must be between %lld and %lld",
                        r->path, key, (long long) i, (long long) min, (long long) max);
    *out = (int) i;
    return true;
}

static bool
read_int(const reader *r, const char *key, int64_t min, int64_t max, int fallback, int *out)
{
    json_t *v = lookup(r, key);

    *out = fallback;
    return v == NULL || check_int(r, key, v, min, max, out);
}

/* Reads a number in [min, max); the comparisons are written so that NaN fails too. */
static bool
read_float(const reader *r, const char *key, double min, double max, double fallback, float *out)
{
    json_t *v = lookup(r, key);
    double d = fallback;

    if (v != NULL) {
        if (!json_is_number(v))
            return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"%s\" is not a number", r->path, key);
        d = json_number_value(v);
        if (!((float) d >= (float) min) ||
            !((float) d < (float) max)) /* as a float, which is how it is kept: 1 - 1e-9 rounds to 1 */
            return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"%s\" is %g, but must be in [%g, %g)",
                            r->path, key, d, min, max);
    }
    *out = (float) d;
    return true;
}

static bool
read_bool(const reader *r, const char *key, bool fallback, bool *out)
{
    json_t *v = lookup(r, key);

    *out = v ? json_is_true(v) : fallback;
    if (v != NULL && !json_is_boolean(v))
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"%s\" is not true or false", r->path, key);
    return true;
}

static bool
read_string(const reader *r, const char *key, const char *fallback, const char **out)
{
    json_t *v = lookup(r, key);

    *out = v ? json_string_value(v) : fallback;
    if (v != NULL && !json_is_string(v))
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"%s\" is not a string", r->path, key);
    return true;
}

/* The names are those of transformers' ACT2FN; the first name of an activation is the one that is written. */
static const struct {
    const char *name;
    ia3_activation act;
} activations[] = {{"relu", IA3_RELU},         {"gelu", IA3_GELU},
                   {"gelu_new", IA3_GELU_NEW}, {"gelu_pytorch_tanh", IA3_GELU_NEW},
                   {"silu", IA3_SILU},         {"swish", IA3_SILU}};

static bool
activation_by_name(const char *name, ia3_activation *act)
{
    for (size_t i = 0; i < sizeof activations / sizeof activations[0]; i++) {
        if (strcmp(activations[i].name, name) == 0) {
            *act = activations[i].act;
            return true;
        }
    }
    return false;
}

/*
 * feed_forward_proj is "X" or "gated-X"; exactly "gated-gelu" means gelu_new. dense_act_fn and is_gated_act take
 * precedence, because transformers 4.x sets them after deriving both from feed_forward_proj.
 */
static bool
read_activation(const reader *r, ia3_config *c, const char *fallback)
{
    const char *proj, *explicit_act;

    if (!read_string(r, "feed_forward_proj", fallback, &proj))
        return false;

    const char *dash = strchr(proj, '-');
    const char *name = dash ? dash + 1 : proj;

    if (dash != NULL && (strncmp(proj, "gated-", 6) != 0 || strchr(name, '-') != NULL))
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT,
                        "%s: \"feed_forward_proj\" is \"%.60s\", neither \"ACT\" nor \"gated-ACT\"", r->path,
                        proj);
    if (strcmp(proj, "gated-gelu") == 0)
        name = "gelu_new";
    if (!read_bool(r, "is_gated_act", dash != NULL, &c->gated) ||
        !read_string(r, "dense_act_fn", NULL, &explicit_act))
        return false;
    if (explicit_act != NULL)
        name = explicit_act;
    if (!activation_by_name(name, &c->act)) {
        ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: activation \"%.60s\" of \"%s\" is not supported", r->path,
                 name, explicit_act ? "dense_act_fn" : "feed_forward_proj");
        return ia3_fail_detail(r->err,
                               "Supported activations are relu, gelu, gelu_new and silu, plain or gated.");
    }
    return true;
}

/*
 * Whether hidden states are multiplied by d_model^-0.5 before the head. In configurations of transformers 5.x this is
 * scale_decoder_outputs. In older ones it follows tie_word_embeddings, except for mT5, which was trained without the
 * factor although some of its configurations claim tied embeddings (docs/engine.md §1.4).
 */
static bool
read_scaling(const reader *r, ia3_config *c)
{
    bool tied;

    if (!read_bool(r, "tie_word_embeddings", true, &tied))
        return false;
    c->untied = c->own_head = !tied;
    return read_bool(r, "scale_decoder_outputs", tied && strcmp(c->model_type, "mt5") != 0, &c->scale_logits);
}

static bool
read_model_type(const reader *r, ia3_config *c)
{
    const char *type;

    if (!read_string(r, "model_type", NULL, &type))
        return false;
    if (type == NULL)
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"model_type\" is missing", r->path);
    if (strcmp(type, "t5") != 0 && strcmp(type, "mt5") != 0 && strcmp(type, "umt5") != 0) {
        ia3_fail(r->err, IA3_E_BAD_CHECKPOINT, "%s: \"model_type\" is \"%.60s\", which is not supported",
                 r->path, type);
        return ia3_fail_detail(r->err, "Supported model types are t5, mt5 and umt5.");
    }
    strcpy(c->model_type, type);
    return true;
}

static bool
read_sizes(const reader *r, ia3_config *c)
{
    bool v1 = strcmp(c->model_type, "t5") == 0;

    if (!read_int(r, "vocab_size", 2, MAX_VOCAB, v1 ? 32128 : 250112, &c->vocab_size) ||
        !read_int(r, "d_model", 1, MAX_D_MODEL, 512, &c->d_model) ||
        !read_int(r, "d_kv", 1, MAX_D_KV, 64, &c->d_kv) ||
        !read_int(r, "num_heads", 1, MAX_HEADS, v1 ? 8 : 6, &c->n_heads) ||
        !read_int(r, "d_ff", 1, MAX_D_FF, v1 ? 2048 : 1024, &c->d_ff) ||
        !read_int(r, "num_layers", 1, MAX_LAYERS, v1 ? 6 : 8, &c->n_enc) ||
        !read_int(r, "num_decoder_layers", 1, MAX_LAYERS, c->n_enc, &c->n_dec) ||
        !read_int(r, "relative_attention_num_buckets", 4, MAX_BUCKETS, 32, &c->n_buckets) ||
        !read_int(r, "relative_attention_max_distance", 1, MAX_SPAN, 128, &c->max_distance))
        return false;

    c->inner = c->n_heads * c->d_kv;
    if (c->inner > MAX_INNER)
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT,
                        "%s: \"num_heads\" times \"d_kv\" is %d, but must not exceed %d", r->path, c->inner,
                        MAX_INNER);
    /* The first half of the decoder's buckets are single distances; the formula for the rest divides by
     * ln(max_distance / half), which must be positive. */
    if (c->max_distance <= c->n_buckets / 2)
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT,
                        "%s: \"relative_attention_max_distance\" is %d, but must exceed half of "
                        "\"relative_attention_num_buckets\" (%d)",
                        r->path, c->max_distance, c->n_buckets);
    return true;
}

/* "eos_token_id" is a number or a list of numbers. */
static bool
read_eos(const reader *r, ia3_config *c)
{
    const char *key = "eos_token_id";
    json_t *list = lookup(r, key);
    size_t n = json_array_size(list);

    if (!json_is_array(list))
        return read_int(r, key, 0, c->vocab_size - 1, 1, &c->eos_id);
    if (n == 0 || n > 1 + IA3_MAX_MORE_EOS)
        return ia3_fail(r->err, IA3_E_BAD_CHECKPOINT,
                        "%s: \"%s\" is a list of %zu, but must be one of 1 to %d", r->path, key, n,
                        1 + IA3_MAX_MORE_EOS);
    for (size_t i = 0; i < n; i++) {
        int *id = i == 0 ? &c->eos_id : &c->more_eos[c->n_more_eos++];

        if (!check_int(r, key, json_array_get(list, i), 0, c->vocab_size - 1, id))
            return false;
    }
    return true;
}

bool
ia3_config_ends(const ia3_config *config, int32_t token)
{
    bool ends = token == config->eos_id;

    for (int i = 0; i < config->n_more_eos; i++)
        ends = ends || token == config->more_eos[i];
    return ends;
}

static bool
read_config(const reader *r, ia3_config *c)
{
    if (!read_model_type(r, c) || !read_sizes(r, c))
        return false;
    c->bias_every_layer = strcmp(c->model_type, "umt5") == 0;
    return read_activation(r, c, strcmp(c->model_type, "t5") == 0 ? "relu" : "gated-gelu") &&
           read_float(r, "layer_norm_epsilon", 1e-30, 1, 1e-6, &c->eps) &&
           read_float(r, "dropout_rate", 0, 1, 0.1, &c->dropout_rate) && read_scaling(r, c) &&
           read_int(r, "pad_token_id", 0, c->vocab_size - 1, 0, &c->pad_id) && read_eos(r, c) &&
           read_int(r, "decoder_start_token_id", 0, c->vocab_size - 1, c->pad_id, &c->start_id);
}

bool
ia3_config_parse(ia3_config *config, const char *text, size_t len, const char *path, ia3_error *err)
{
    json_t *root = ia3_json_parse(text, len, path, err);
    reader r = {root, path, err};

    memset(config, 0, sizeof *config);

    bool ok = root != NULL && read_config(&r, config);

    json_decref(root);
    return ok;
}

static void
put_int(json_t *o, const char *key, int value)
{
    json_object_set_new(o, key, json_integer(value));
}

/* Puts the shortest decimal number that is read as the same float. */
static void
put_float(json_t *o, const char *key, float value)
{
    char text[32];

    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double) value);
        if (strtof(text, NULL) == value)
            break;
    }
    json_object_set_new(o, key, json_real(strtod(text, NULL)));
}

static void
put_activation(json_t *o, const ia3_config *c)
{
    size_t i = 0;
    char proj[32];

    while (activations[i].act != c->act)
        i++;
    snprintf(proj, sizeof proj, "%s%s", c->gated ? "gated-" : "", activations[i].name);
    json_object_set_new(o, "feed_forward_proj", json_string(proj));
    json_object_set_new(o, "dense_act_fn", json_string(activations[i].name));
    json_object_set_new(o, "is_gated_act", json_boolean(c->gated));
}

static void
put_eos(json_t *o, const ia3_config *c)
{
    if (c->n_more_eos == 0) {
        put_int(o, "eos_token_id", c->eos_id);
        return;
    }

    json_t *list = json_array();

    json_array_append_new(list, json_integer(c->eos_id));
    for (int i = 0; i < c->n_more_eos; i++)
        json_array_append_new(list, json_integer(c->more_eos[i]));
    json_object_set_new(o, "eos_token_id", list);
}

char *
ia3_config_json(const ia3_config *c)
{
    json_t *o = json_object();

    json_object_set_new(o, "model_type", json_string(c->model_type));
    put_int(o, "vocab_size", c->vocab_size);
    put_int(o, "d_model", c->d_model);
    put_int(o, "d_kv", c->d_kv);
    put_int(o, "num_heads", c->n_heads);
    put_int(o, "d_ff", c->d_ff);
    put_int(o, "num_layers", c->n_enc);
    put_int(o, "num_decoder_layers", c->n_dec);
    put_int(o, "relative_attention_num_buckets", c->n_buckets);
    put_int(o, "relative_attention_max_distance", c->max_distance);
    put_float(o, "layer_norm_epsilon", c->eps);
    put_float(o, "dropout_rate", c->dropout_rate);
    put_activation(o, c);
    json_object_set_new(o, "tie_word_embeddings", json_boolean(!c->own_head));
    json_object_set_new(o, "scale_decoder_outputs", json_boolean(c->scale_logits));
    put_int(o, "pad_token_id", c->pad_id);
    put_eos(o, c);
    put_int(o, "decoder_start_token_id", c->start_id);

    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));

    json_decref(o);
    return text;
}
