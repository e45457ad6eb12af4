/*
 * cost_config.c
 *     Reads the sizes of a backbone from its configuration, as jsonb.
 *
 * The limits are those of the engine (engine/files/config.c), so that no computation with the sizes overflows.
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "cost_config.h"

#define MAX_VOCAB     10000000
#define MAX_D_MODEL   65536
#define MAX_D_KV      4096
#define MAX_HEADS     4096
#define MAX_INNER     131072
#define MAX_D_FF      1048576
#define MAX_LAYERS    1000
#define MAX_BUCKETS   65536
#define MAX_POSITIONS 1000000000

static void
invalid(const char *detail)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid configuration of a backbone"),
                    errdetail_internal("%s", detail)));
}

/* The value of a key; NULL if it is absent or null, which means the same to transformers. */
static JsonbValue *
get(Jsonb *config, const char *key)
{
    JsonbValue k = {.type = jbvString};
    JsonbValue *v;

    k.val.string.val = (char *) key;
    k.val.string.len = (int) strlen(key);
    v = findJsonbValueFromContainer(&config->root, JB_FOBJECT, &k);
    return v && v->type != jbvNull ? v : NULL;
}

/* A number; one too large for a double becomes infinity. */
static double
number(const JsonbValue *v, const char *key)
{
    if (v->type != jbvNumeric)
        invalid(psprintf("\"%s\" is not a number.", key));
    return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(v->val.numeric)));
}

static double
integer(const JsonbValue *v, const char *key, double max)
{
    double d = number(v, key);

    if (!(d >= 1 && d <= max))
        invalid(psprintf("\"%s\" must be between 1 and %.0f.", key, max));
    if (d != floor(d))
        invalid(psprintf("\"%s\" is not an integer.", key));
    return d;
}

static double
required(Jsonb *config, const char *key, double max)
{
    JsonbValue *v = get(config, key);

    if (v == NULL)
        invalid(psprintf("\"%s\" is missing.", key));
    return integer(v, key, max);
}

static double
optional(Jsonb *config, const char *key, double max, double fallback)
{
    JsonbValue *v = get(config, key);

    return v ? integer(v, key, max) : fallback;
}

static char *
string(const JsonbValue *v, const char *key)
{
    if (v->type != jbvString)
        invalid(psprintf("\"%s\" is not a string.", key));
    return pnstrdup(v->val.string.val, v->val.string.len);
}

/* Whether the feed-forward is gated: "gated-ACT", unless is_gated_act says otherwise. */
static bool
is_gated(Jsonb *config, bool fallback)
{
    JsonbValue *proj = get(config, "feed_forward_proj"), *gated = get(config, "is_gated_act");
    bool result = proj ? strncmp(string(proj, "feed_forward_proj"), "gated-", 6) == 0 : fallback;

    if (gated && gated->type != jbvBool)
        invalid("\"is_gated_act\" is not true or false.");
    return gated ? gated->val.boolean : result;
}

static bool
has_dropout(Jsonb *config)
{
    JsonbValue *v = get(config, "dropout_rate");
    double rate = v ? number(v, "dropout_rate") : 0.1;

    if (!(rate >= 0 && rate < 1))
        invalid("\"dropout_rate\" must be at least 0 and less than 1.");
    return rate > 0;
}

static ia3_sizes
read_t5(Jsonb *config, bool version1, bool biasEveryLayer)
{
    ia3_sizes s = {.vocab_size = required(config, "vocab_size", MAX_VOCAB),
                   .d_model = required(config, "d_model", MAX_D_MODEL),
                   .d_ff = required(config, "d_ff", MAX_D_FF),
                   .n_heads = required(config, "num_heads", MAX_HEADS),
                   .n_encoder = required(config, "num_layers", MAX_LAYERS)};
    double buckets = optional(config, "relative_attention_num_buckets", MAX_BUCKETS, 32);

    s.inner = s.n_heads * required(config, "d_kv", MAX_D_KV);
    if (s.inner > MAX_INNER)
        invalid(psprintf("\"num_heads\" times \"d_kv\" must not exceed %d.", MAX_INNER));
    s.n_decoder = optional(config, "num_decoder_layers", MAX_LAYERS, s.n_encoder);
    s.gated = is_gated(config, !version1);
    s.bias_values = (biasEveryLayer ? s.n_encoder + s.n_decoder : 2) * buckets * s.n_heads;
    return s;
}

static ia3_sizes
read_gpt2(Jsonb *config)
{
    ia3_sizes s = {.vocab_size = required(config, "vocab_size", MAX_VOCAB),
                   .d_model = required(config, "n_embd", MAX_D_MODEL),
                   .n_heads = required(config, "n_head", MAX_HEADS),
                   .n_decoder = required(config, "n_layer", MAX_LAYERS),
                   .n_positions = optional(config, "n_positions", MAX_POSITIONS, 1024),
                   .decoder_only = true};

    s.inner = s.d_model;
    s.d_ff = optional(config, "n_inner", MAX_D_FF, 4 * s.d_model);
    return s;
}

ia3_sizes
Ia3CostConfigRead(Jsonb *config, bool *drops)
{
    JsonbValue *v;
    char *type;

    if (!JB_ROOT_IS_OBJECT(config))
        invalid("The configuration is not an object.");
    v = get(config, "model_type");
    if (v == NULL)
        invalid("\"model_type\" is missing.");
    type = string(v, "model_type");
    if (strcmp(type, "gpt2") == 0) {
        *drops = false;
        return read_gpt2(config);
    }
    if (strcmp(type, "t5") != 0 && strcmp(type, "mt5") != 0 && strcmp(type, "umt5") != 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid configuration of a backbone"),
                 errdetail("\"model_type\" is \"%s\".", type),
                 errhint("Valid values are \"t5\", \"mt5\", \"umt5\" and, for comparison, \"gpt2\".")));
    *drops = has_dropout(config);
    return read_t5(config, strcmp(type, "t5") == 0, strcmp(type, "umt5") == 0);
}
