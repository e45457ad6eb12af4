/*
 * train_options.c
 *     How a version is trained: the options of ia3_train.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "train_options.h"
#include "common/version.h"
#include "extension/tasks/template.h"

const Ia3Options Ia3TrainOptions = {
    .argument =
        {
            [IA3_OPTION_TEMPLATE] = 3,
            [IA3_OPTION_CHOICES] = 4,
            [IA3_OPTION_BACKBONE] = 5,
            [IA3_OPTION_INIT] = 6,
            [IA3_OPTION_STEPS] = 7,
            [IA3_OPTION_BATCH_SIZE] = 8,
            [IA3_OPTION_LEARNING_RATE] = 9,
            [IA3_OPTION_WARMUP_RATIO] = 10,
            [IA3_OPTION_LM_WEIGHT] = 11,
            [IA3_OPTION_UNLIKELIHOOD_WEIGHT] = 12,
            [IA3_OPTION_LENGTH_NORM_WEIGHT] = 13,
            [IA3_OPTION_DROPOUT] = 14,
            [IA3_OPTION_SEED] = 15,
            [IA3_OPTION_ACTIVATE] = 16,
            [IA3_OPTION_LOSS_AVERAGING] = 17,
            [IA3_OPTION_METHOD] = 18,
        },
    .steps = 1000,
    .batchSize = 8,
    .learningRate = 3e-3,
    .lmWeight = 1,
    .unlikelihoodWeight = 1,
    .lengthNormWeight = 1,
};

/* T-Few's pre-training (its pretrain_3b.sh, with fewer steps): the language model's loss and nothing else. */
const Ia3Options Ia3PretrainOptions = {
    .argument =
        {
            [IA3_OPTION_TEMPLATE] = 3,
            [IA3_OPTION_BACKBONE] = 5,
            [IA3_OPTION_INIT] = 6,
            [IA3_OPTION_STEPS] = 7,
            [IA3_OPTION_BATCH_SIZE] = 8,
            [IA3_OPTION_LEARNING_RATE] = 9,
            [IA3_OPTION_WARMUP_RATIO] = 10,
            [IA3_OPTION_DROPOUT] = 11,
            [IA3_OPTION_SEED] = 12,
            [IA3_OPTION_ACTIVATE] = 13,
            [IA3_OPTION_LOSS_AVERAGING] = 14,
        },
    .steps = 10000,
    .batchSize = 16,
    .learningRate = 3e-4,
    .lmWeight = 1,
};

/* One call's options. */
typedef struct OptionReader {
    FunctionCallInfo fcinfo;
    const Ia3Options *options;
} OptionReader;

/* True when the option has a value, which is then in *value. */
static bool
get_option(const OptionReader *reader, Ia3Option option, Datum *value)
{
    int argument = reader->options->argument[option];

    if (argument == 0 || reader->fcinfo->args[argument - 1].isnull)
        return false;
    *value = reader->fcinfo->args[argument - 1].value;
    return true;
}

static int32
int_option(const OptionReader *reader, Ia3Option option, const char *name, int32 missing, int32 min,
           int32 max)
{
    Datum datum;
    int32 value = get_option(reader, option, &datum) ? DatumGetInt32(datum) : missing;

    if (value < min || value > max)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("%s must be between %d and %d", name, min, max), errdetail("It is %d.", value)));
    return value;
}

/* A number from min to max; NaN is refused. */
static double
float_option(const OptionReader *reader, Ia3Option option, const char *name, double missing, double min,
             double max)
{
    Datum datum;
    double value = get_option(reader, option, &datum) ? DatumGetFloat8(datum) : missing;

    if (!(value >= min && value <= max))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("%s must be between %g and %g", name, min, max), errdetail("It is %g.", value)));
    return value;
}

static char *
text_option(const OptionReader *reader, Ia3Option option)
{
    Datum datum;

    return get_option(reader, option, &datum) ? TextDatumGetCString(datum) : NULL;
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
averaging_option(const OptionReader *reader)
{
    char *value = text_option(reader, IA3_OPTION_LOSS_AVERAGING);

    if (value == NULL || strcmp(value, "batch") == 0)
        return IA3_LOSS_BATCH;
    if (strcmp(value, "example") == 0)
        return IA3_LOSS_EXAMPLE;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown loss_averaging \"%s\"", value),
                    errhint("It is \"batch\" or \"example\".")));
    return IA3_LOSS_BATCH;
}

static Ia3Method
method_option(const OptionReader *reader)
{
    static const char *const names[] = IA3_METHOD_NAMES;
    char *value = text_option(reader, IA3_OPTION_METHOD);

    for (int i = 0; i < IA3_N_METHODS; i++)
        if (strcmp(value ? value : names[IA3_METHOD_IA3], names[i]) == 0)
            return (Ia3Method) i;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown method \"%s\"", value),
                    errhint("It is \"ia3\", \"lora\", \"bitfit\", \"layernorm\" or \"prompt\".")));
    return IA3_METHOD_IA3;
}

/* The learning rate of a method in T-Few's configurations. */
static double
default_learning_rate(const Ia3Options *options, Ia3Method method)
{
    switch (method) {
    case IA3_METHOD_LORA:
        return 3e-3;
    case IA3_METHOD_BITFIT:
    case IA3_METHOD_LAYERNORM:
        return 3e-4;
    case IA3_METHOD_PROMPT:
        return 0.3;
    default:
        return options->learningRate;
    }
}

static Ia3Strings *
template_option(const OptionReader *reader)
{
    Ia3Strings *templates;
    Datum datum;

    if (get_option(reader, IA3_OPTION_TEMPLATE, &datum))
        return Ia3StringsFromArray(datum, "template");
    templates = palloc(sizeof(Ia3Strings));
    templates->n = 1;
    templates->items = palloc(sizeof(char *));
    templates->items[0] = pstrdup(IA3_DEFAULT_TEMPLATE);
    return templates;
}

static void
loss_options(const OptionReader *reader, Ia3Recipe *r)
{
    const Ia3Options *o = reader->options;

    r->lmWeight = float_option(reader, IA3_OPTION_LM_WEIGHT, "lm_weight", o->lmWeight, 0, 1000);
    r->unlikelihoodWeight = float_option(reader, IA3_OPTION_UNLIKELIHOOD_WEIGHT, "unlikelihood_weight",
                                         o->unlikelihoodWeight, 0, 1000);
    r->lengthNormWeight = float_option(reader, IA3_OPTION_LENGTH_NORM_WEIGHT, "length_norm_weight",
                                       o->lengthNormWeight, 0, 1000);
    if (r->lmWeight + r->unlikelihoodWeight + r->lengthNormWeight == 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("all loss weights are zero"),
                 errhint("At least one of lm_weight, unlikelihood_weight and length_norm_weight must be "
                         "positive.")));
    r->averaging = averaging_option(reader);
}

Ia3Recipe *
Ia3RecipeFromArguments(FunctionCallInfo fcinfo, const Ia3Options *options)
{
    OptionReader reader = {fcinfo, options};
    Ia3Recipe *r = palloc0(sizeof(Ia3Recipe));
    Datum datum;

    r->templates = template_option(&reader);
    if (get_option(&reader, IA3_OPTION_CHOICES, &datum)) {
        r->choices = Ia3StringsFromArray(datum, "choices");
        Ia3CheckChoices(r->choices);
    }
    r->backbone = text_option(&reader, IA3_OPTION_BACKBONE);
    r->init = text_option(&reader, IA3_OPTION_INIT);
    if (r->init != NULL && pg_strcasecmp(r->init, "none") == 0)
        r->init = NULL;
    r->steps = int_option(&reader, IA3_OPTION_STEPS, "steps", options->steps, 1, 1000000);
    r->batchSize = int_option(&reader, IA3_OPTION_BATCH_SIZE, "batch_size", options->batchSize, 1, 1024);
    r->method = method_option(&reader);
    r->learningRate = float_option(&reader, IA3_OPTION_LEARNING_RATE, "learning_rate",
                                   default_learning_rate(options, r->method), 1e-9, 10);
    r->warmupRatio = float_option(&reader, IA3_OPTION_WARMUP_RATIO, "warmup_ratio", 0.06, 0, 1);
    r->dropout = get_option(&reader, IA3_OPTION_DROPOUT, &datum)
                     ? float_option(&reader, IA3_OPTION_DROPOUT, "dropout", 0, 0, 0.9)
                     : -1;
    loss_options(&reader, r);
    r->seed = get_option(&reader, IA3_OPTION_SEED, &datum) ? DatumGetInt64(datum) : draw_seed();
    r->activate = get_option(&reader, IA3_OPTION_ACTIVATE, &datum) ? DatumGetBool(datum) : true;
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
    ia3_put_u8(w, recipe->method);
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
    static const char *const methods[] = IA3_METHOD_NAMES;
    StringInfoData out;

    initStringInfo(&out);
    json_string(&out, "query", context->query);
    json_string(&out, "method", methods[r->method]);
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
    if (context->more)
        appendStringInfo(&out, ", %s", context->more);
    appendStringInfoChar(&out, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data));
}
