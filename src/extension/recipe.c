/*
 * recipe.c
 *     How a version is trained: the options of ia3_train.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "recipe.h"
#include "template.h"

/* Arguments of ia3_train, in the order of the SQL declaration. */
enum {
    ARG_TEMPLATE = 2,
    ARG_CHOICES,
    ARG_BACKBONE,
    ARG_INIT,
    ARG_STEPS,
    ARG_BATCH_SIZE,
    ARG_LEARNING_RATE,
    ARG_WARMUP_RATIO,
    ARG_LM_WEIGHT,
    ARG_UNLIKELIHOOD_WEIGHT,
    ARG_LENGTH_NORM_WEIGHT,
    ARG_DROPOUT,
    ARG_SEED,
    ARG_ACTIVATE,
    ARG_LOSS_AVERAGING
};

static int32
int_option(FunctionCallInfo fcinfo, int arg, const char *name, int32 missing, int32 min, int32 max)
{
    int32 value = PG_ARGISNULL(arg) ? missing : PG_GETARG_INT32(arg);

    if (value < min || value > max)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("%s must be between %d and %d", name, min, max), errdetail("It is %d.", value)));
    return value;
}

/* A number from min to max; NaN is refused. */
static double
float_option(FunctionCallInfo fcinfo, int arg, const char *name, double missing, double min, double max)
{
    double value = PG_ARGISNULL(arg) ? missing : PG_GETARG_FLOAT8(arg);

    if (!(value >= min && value <= max))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("%s must be between %g and %g", name, min, max), errdetail("It is %g.", value)));
    return value;
}

static char *
text_option(FunctionCallInfo fcinfo, int arg)
{
    return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/* Below 2^53, so that every reader of the recipe's JSON sees the same number. */
static int64
draw_seed(void)
{
    uint64 seed;

    if (!pg_strong_random(&seed, sizeof seed))
        ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not draw a random seed")));
    return (int64) (seed >> 11);
}

static Ia3LossAveraging
averaging_option(FunctionCallInfo fcinfo)
{
    char *value = text_option(fcinfo, ARG_LOSS_AVERAGING);

    if (value == NULL || strcmp(value, "batch") == 0)
        return IA3_LOSS_BATCH;
    if (strcmp(value, "example") == 0)
        return IA3_LOSS_EXAMPLE;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown loss_averaging \"%s\"", value),
                    errhint("It is \"batch\" or \"example\".")));
    return IA3_LOSS_BATCH;
}

static Ia3Strings *
template_option(FunctionCallInfo fcinfo)
{
    Ia3Strings *templates;

    if (!PG_ARGISNULL(ARG_TEMPLATE))
        return Ia3StringsFromArray(PG_GETARG_DATUM(ARG_TEMPLATE), "template");
    templates = palloc(sizeof(Ia3Strings));
    templates->n = 1;
    templates->items = palloc(sizeof(char *));
    templates->items[0] = pstrdup(IA3_DEFAULT_TEMPLATE);
    return templates;
}

Ia3Recipe *
Ia3RecipeFromArguments(FunctionCallInfo fcinfo)
{
    Ia3Recipe *r = palloc0(sizeof(Ia3Recipe));

    r->templates = template_option(fcinfo);
    if (!PG_ARGISNULL(ARG_CHOICES)) {
        r->choices = Ia3StringsFromArray(PG_GETARG_DATUM(ARG_CHOICES), "choices");
        Ia3CheckChoices(r->choices);
    }
    r->backbone = text_option(fcinfo, ARG_BACKBONE);
    r->init = text_option(fcinfo, ARG_INIT);
    if (r->init != NULL && pg_strcasecmp(r->init, "none") == 0)
        r->init = NULL;
    r->steps = int_option(fcinfo, ARG_STEPS, "steps", 1000, 1, 1000000);
    r->batchSize = int_option(fcinfo, ARG_BATCH_SIZE, "batch_size", 8, 1, 1024);
    r->learningRate = float_option(fcinfo, ARG_LEARNING_RATE, "learning_rate", 3e-3, 1e-9, 10);
    r->warmupRatio = float_option(fcinfo, ARG_WARMUP_RATIO, "warmup_ratio", 0.06, 0, 1);
    r->lmWeight = float_option(fcinfo, ARG_LM_WEIGHT, "lm_weight", 1, 0, 1000);
    r->unlikelihoodWeight = float_option(fcinfo, ARG_UNLIKELIHOOD_WEIGHT, "unlikelihood_weight", 1, 0, 1000);
    r->lengthNormWeight = float_option(fcinfo, ARG_LENGTH_NORM_WEIGHT, "length_norm_weight", 1, 0, 1000);
    if (r->lmWeight + r->unlikelihoodWeight + r->lengthNormWeight == 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("all loss weights are zero"),
                 errhint("At least one of lm_weight, unlikelihood_weight and length_norm_weight must be "
                         "positive.")));
    r->dropout = PG_ARGISNULL(ARG_DROPOUT) ? -1 : float_option(fcinfo, ARG_DROPOUT, "dropout", 0, 0, 0.9);
    r->seed = PG_ARGISNULL(ARG_SEED) ? draw_seed() : PG_GETARG_INT64(ARG_SEED);
    r->activate = PG_ARGISNULL(ARG_ACTIVATE) ? true : PG_GETARG_BOOL(ARG_ACTIVATE);
    r->averaging = averaging_option(fcinfo);
    return r;
}

void
Ia3RecipePut(const Ia3Recipe *recipe, ia3_writer *w)
{
    ia3_put_u32(w, recipe->steps);
    ia3_put_u32(w, recipe->batchSize);
    ia3_put_f64(w, recipe->learningRate);
    ia3_put_f64(w, recipe->warmupRatio);
    ia3_put_f64(w, recipe->lmWeight);
    ia3_put_f64(w, recipe->unlikelihoodWeight);
    ia3_put_f64(w, recipe->lengthNormWeight);
    ia3_put_f64(w, recipe->dropout);
    ia3_put_u64(w, (uint64) recipe->seed);
    ia3_put_u8(w, recipe->averaging);
}

static void
json_key(StringInfo out, const char *key)
{
    appendStringInfoString(out, out->len == 0 ? "{" : ", ");
    escape_json(out, key);
    appendStringInfoString(out, ": ");
}

static void
json_string(StringInfo out, const char *key, const char *value)
{
    json_key(out, key);
    if (value == NULL)
        appendStringInfoString(out, "null");
    else
        escape_json(out, value);
}

/* The shortest text that reads back as the same number. */
static void
json_float(StringInfo out, const char *key, double value)
{
    char digits[DOUBLE_SHORTEST_DECIMAL_LEN];

    double_to_shortest_decimal_buf(value, digits);
    json_key(out, key);
    appendStringInfoString(out, digits);
}

static void
json_integer(StringInfo out, const char *key, int64 value)
{
    json_key(out, key);
    appendStringInfo(out, INT64_FORMAT, value);
}

static void
json_strings(StringInfo out, const char *key, const Ia3Strings *strings)
{
    json_key(out, key);
    if (strings == NULL) {
        appendStringInfoString(out, "null");
        return;
    }
    appendStringInfoChar(out, '[');
    for (int i = 0; i < strings->n; i++) {
        if (i > 0)
            appendStringInfoString(out, ", ");
        escape_json(out, strings->items[i]);
    }
    appendStringInfoChar(out, ']');
}

Datum
Ia3RecipeJson(const Ia3Recipe *r, const Ia3RecipeContext *context)
{
    StringInfoData out;

    initStringInfo(&out);
    json_string(&out, "query", context->query);
    json_strings(&out, "template", r->templates);
    json_strings(&out, "choices", context->choices);
    json_string(&out, "backbone", context->backbone);
    json_string(&out, "init", context->init);
    json_integer(&out, "steps", r->steps);
    json_integer(&out, "batch_size", r->batchSize);
    json_float(&out, "learning_rate", r->learningRate);
    json_float(&out, "warmup_ratio", r->warmupRatio);
    json_float(&out, "lm_weight", r->lmWeight);
    json_float(&out, "unlikelihood_weight", r->unlikelihoodWeight);
    json_float(&out, "length_norm_weight", r->lengthNormWeight);
    json_float(&out, "dropout", r->dropout < 0 ? context->engine->dropoutRate : r->dropout);
    json_integer(&out, "seed", r->seed);
    json_string(&out, "loss_averaging", r->averaging == IA3_LOSS_EXAMPLE ? "example" : "batch");
    json_integer(&out, "max_input_tokens", context->maxInputTokens);
    json_string(&out, "device", context->engine->device);
    json_string(&out, "dtype", context->engine->dtype);
    json_string(&out, "ia3_version", IA3_VERSION);
    appendStringInfoChar(&out, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data));
}
