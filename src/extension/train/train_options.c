/*
 * train_options.c
 *     The recipe of a training run, read from the arguments of ia3_train or ia3_pretrain.
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"

#include "train_options.h"
#include "common/version.h"
#include "early_stopping.h"
#include "extension/client/client.h"
#include "extension/client/text.h"

/* AdamW's default learning rate. The methods' own are for Adafactor, whose steps are relative to the size of the values. */
#define ADAMW_RATE 1e-3

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
            [IA3_OPTION_TRUNCATE] = 19,
            [IA3_OPTION_OPTIMIZER] = 32,
            [IA3_OPTION_WEIGHT_DECAY] = 33,
            [IA3_OPTION_EMA] = 34,
            [IA3_OPTION_BALANCED] = 35,
            [IA3_OPTION_CLASS_WEIGHTS] = 36,
            [IA3_OPTION_WEIGHT_COLUMN] = 37,
            [IA3_OPTION_CALIBRATE] = 38,
            [IA3_OPTION_EARLY_STOPPING] = 39,
            [IA3_OPTION_VERBALIZERS] = 40,
            [IA3_OPTION_DESCRIPTIONS] = 41,
        },
    .methodOptions = 20,
    .batchSize = 8,
    .lmWeight = 1,
    .unlikelihoodWeight = 1,
    .lengthNormWeight = 1,
};

/* The recipe of T-Few's pretrain_3b.sh, with fewer steps. It uses the language modeling loss only. */
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
            [IA3_OPTION_TRUNCATE] = 17,
        },
    .steps = 10000,
    .batchSize = 16,
    .learningRate = 3e-4,
    .lmWeight = 1,
};

/* The options that functions end with which train without storing a version; `first` is the argument "template". */
#define UNSTORED_OPTIONS(first)                                                                              \
    {                                                                                                        \
        .argument =                                                                                          \
            {                                                                                                \
                [IA3_OPTION_TEMPLATE] = (first),                                                             \
                [IA3_OPTION_CHOICES] = (first) + 1,                                                          \
                [IA3_OPTION_BACKBONE] = (first) + 2,                                                         \
                [IA3_OPTION_INIT] = (first) + 3,                                                             \
                [IA3_OPTION_STEPS] = (first) + 4,                                                            \
                [IA3_OPTION_BATCH_SIZE] = (first) + 5,                                                       \
                [IA3_OPTION_LEARNING_RATE] = (first) + 6,                                                    \
                [IA3_OPTION_WARMUP_RATIO] = (first) + 7,                                                     \
                [IA3_OPTION_LM_WEIGHT] = (first) + 8,                                                        \
                [IA3_OPTION_UNLIKELIHOOD_WEIGHT] = (first) + 9,                                              \
                [IA3_OPTION_LENGTH_NORM_WEIGHT] = (first) + 10,                                              \
                [IA3_OPTION_DROPOUT] = (first) + 11,                                                         \
                [IA3_OPTION_SEED] = (first) + 12,                                                            \
                [IA3_OPTION_LOSS_AVERAGING] = (first) + 13,                                                  \
                [IA3_OPTION_METHOD] = (first) + 14,                                                          \
                [IA3_OPTION_TRUNCATE] = (first) + 15,                                                        \
                [IA3_OPTION_OPTIMIZER] = (first) + 28,                                                       \
                [IA3_OPTION_WEIGHT_DECAY] = (first) + 29,                                                    \
                [IA3_OPTION_EMA] = (first) + 30,                                                             \
                [IA3_OPTION_BALANCED] = (first) + 31,                                                        \
                [IA3_OPTION_CLASS_WEIGHTS] = (first) + 32,                                                   \
                [IA3_OPTION_WEIGHT_COLUMN] = (first) + 33,                                                   \
                [IA3_OPTION_EARLY_STOPPING] = (first) + 34,                                                  \
                [IA3_OPTION_VERBALIZERS] = (first) + 35,                                                     \
                [IA3_OPTION_DESCRIPTIONS] = (first) + 36,                                                    \
            },                                                                                               \
        .methodOptions = (first) + 16, .batchSize = 8, .lmWeight = 1, .unlikelihoodWeight = 1,               \
        .lengthNormWeight = 1,                                                                               \
    }

const Ia3Options Ia3CrossOptions = UNSTORED_OPTIONS(6);

/* The options of a call. */
typedef struct OptionReader {
    FunctionCallInfo fcinfo;
    const Ia3Options *options;
} OptionReader;

/* Whether the option has a value, which is then in *value. */
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
int_option(const OptionReader *reader, Ia3Option option, int32 missing)
{
    Datum datum;

    return get_option(reader, option, &datum) ? DatumGetInt32(datum) : missing;
}

static double
float_option(const OptionReader *reader, Ia3Option option, double missing)
{
    Datum datum;

    return get_option(reader, option, &datum) ? DatumGetFloat8(datum) : missing;
}

static char *
text_option(const OptionReader *reader, Ia3Option option)
{
    Datum datum;

    return get_option(reader, option, &datum) ? TextDatumGetCString(datum) : NULL;
}

static Jsonb *
jsonb_option(const OptionReader *reader, Ia3Option option)
{
    Datum datum;

    return get_option(reader, option, &datum) ? DatumGetJsonbPCopy(datum) : NULL;
}

static Ia3Wording *
wording_option(const OptionReader *reader)
{
    Ia3Wording *wording = Ia3WordingMake(jsonb_option(reader, IA3_OPTION_VERBALIZERS),
                                         jsonb_option(reader, IA3_OPTION_DESCRIPTIONS));

    Ia3WordingCheck(wording);
    return wording;
}

/* Draws a seed below 2^53, so that every program that reads the recipe's JSON gets the same number. */
static int64
draw_seed(void)
{
    uint64 seed;

    if (!pg_strong_random(&seed, sizeof seed))
        ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate a random seed")));
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
                    errhint("Valid values are \"batch\" and \"example\".")));
    return IA3_LOSS_BATCH;
}

static Ia3Optimizer
optimizer_option(const OptionReader *reader)
{
    char *value = text_option(reader, IA3_OPTION_OPTIMIZER);

    if (value == NULL || strcmp(value, "adafactor") == 0)
        return IA3_OPTIMIZER_ADAFACTOR;
    if (strcmp(value, "adamw") != 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown optimizer \"%s\"", value),
                        errhint("Valid values are \"adafactor\" and \"adamw\".")));
    return IA3_OPTIMIZER_ADAMW;
}

static Ia3Truncate
truncate_option(const OptionReader *reader)
{
    char *value = text_option(reader, IA3_OPTION_TRUNCATE);

    if (value == NULL || strcmp(value, "longest") == 0)
        return IA3_TRUNCATE_LONGEST;
    if (strcmp(value, "end") != 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown truncate \"%s\"", value),
                        errhint("Valid values are \"longest\" and \"end\".")));
    return IA3_TRUNCATE_END;
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
    r->methodName = text_option(&reader, IA3_OPTION_METHOD);
    r->methodOptions =
        options->methodOptions ? Ia3MethodOptionsFromArguments(fcinfo, options->methodOptions - 1) : "";
    r->steps = int_option(&reader, IA3_OPTION_STEPS, options->steps);
    r->batchSize = int_option(&reader, IA3_OPTION_BATCH_SIZE, options->batchSize);
    r->hasSteps = options->steps != 0 || get_option(&reader, IA3_OPTION_STEPS, &datum);
    r->learningRate = float_option(&reader, IA3_OPTION_LEARNING_RATE, options->learningRate);
    r->hasLearningRate = options->learningRate != 0 || get_option(&reader, IA3_OPTION_LEARNING_RATE, &datum);
    r->warmupRatio = float_option(&reader, IA3_OPTION_WARMUP_RATIO, IA3_DEFAULT_WARMUP);
    r->lmWeight = float_option(&reader, IA3_OPTION_LM_WEIGHT, options->lmWeight);
    r->unlikelihoodWeight =
        float_option(&reader, IA3_OPTION_UNLIKELIHOOD_WEIGHT, options->unlikelihoodWeight);
    r->lengthNormWeight = float_option(&reader, IA3_OPTION_LENGTH_NORM_WEIGHT, options->lengthNormWeight);
    r->hasDropout = get_option(&reader, IA3_OPTION_DROPOUT, &datum);
    r->dropout = float_option(&reader, IA3_OPTION_DROPOUT, -1);
    r->averaging = averaging_option(&reader);
    r->optimizer = optimizer_option(&reader);
    r->weightDecay = float_option(&reader, IA3_OPTION_WEIGHT_DECAY, 0);
    r->ema = float_option(&reader, IA3_OPTION_EMA, 0);
    r->balanced = get_option(&reader, IA3_OPTION_BALANCED, &datum) && DatumGetBool(datum);
    r->classWeights = jsonb_option(&reader, IA3_OPTION_CLASS_WEIGHTS);
    r->weightColumn = text_option(&reader, IA3_OPTION_WEIGHT_COLUMN);
    r->earlyStopping = Ia3EarlyStoppingParse(text_option(&reader, IA3_OPTION_EARLY_STOPPING));
    r->truncate = truncate_option(&reader);
    r->wording = wording_option(&reader);
    r->hasSeed = get_option(&reader, IA3_OPTION_SEED, &datum);
    r->seed = r->hasSeed ? DatumGetInt64(datum) : draw_seed();
    r->activate = get_option(&reader, IA3_OPTION_ACTIVATE, &datum) ? DatumGetBool(datum) : true;
    r->calibrate = get_option(&reader, IA3_OPTION_CALIBRATE, &datum) && DatumGetBool(datum);
    return r;
}

/* ERROR 22023 unless the number is within the engine's limits, which NaN never is. */
static void
check_limit(const Ia3EngineInfo *engine, const char *name, double value)
{
    for (int i = 0; i < engine->nLimits; i++) {
        const Ia3EngineLimit *limit = &engine->limits[i];

        if (strcmp(limit->name, name) == 0 && !(value >= limit->min && value <= limit->max))
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("%s must be between %.15g and %.15g", name, limit->min, limit->max),
                            errdetail("The value is %.15g.", value)));
    }
}

void
Ia3RecipeComplete(Ia3Recipe *r, const char *backbone, const Ia3Task *init)
{
    const Ia3EngineInfo *engine = Ia3GetEngineInfo(backbone);
    const Ia3EngineMethod method =
        *Ia3MethodFind(engine, r->methodName ? r->methodName : engine->methods[0].name);

    const char *recorded = init && strcmp(init->method, method.name) == 0 ? init->methodOptions : NULL;
    bool recordsAll = strcmp(method.name, IA3_DEFAULT_METHOD) != 0 && method.nOptions > 0;

    /* The engine is not asked if there is nothing to ask, since the answer takes long if it hangs. */
    if (!recordsAll && r->methodOptions[0] == '\0' && (recorded == NULL || recorded[0] == '\0')) {
        r->method.name = pstrdup(method.name);
        r->method.options = r->method.peftConfig = r->method.peftLacks = "";
        r->method.values = method.values;
    } else
        Ia3MethodConfigure(&r->method, backbone, method.name, recorded, r->methodOptions);
    if (!r->hasSteps)
        r->steps = (int32) method.steps;
    if (!r->hasLearningRate)
        r->learningRate = r->optimizer == IA3_OPTIMIZER_ADAMW ? ADAMW_RATE : method.learningRate;
    engine = Ia3GetEngineInfo(backbone);
    check_limit(engine, "steps", r->steps);
    check_limit(engine, "batch_size", r->batchSize);
    check_limit(engine, "learning_rate", r->learningRate);
    check_limit(engine, "warmup_ratio", r->warmupRatio);
    if (r->hasDropout)
        check_limit(engine, "dropout", r->dropout);
    check_limit(engine, "lm_weight", r->lmWeight);
    check_limit(engine, "unlikelihood_weight", r->unlikelihoodWeight);
    check_limit(engine, "length_norm_weight", r->lengthNormWeight);
    check_limit(engine, "weight_decay", r->weightDecay);
    check_limit(engine, "ema", r->ema);
    if (r->weightDecay > 0 && r->optimizer != IA3_OPTIMIZER_ADAMW)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("weight_decay needs the optimizer \"adamw\"")));
}

void
Ia3RecipePut(const Ia3Recipe *recipe, ia3_writer *w)
{
    const Ia3Method *method = &recipe->method;

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
    ia3_put_u8(w, recipe->optimizer);
    ia3_put_f64(w, recipe->weightDecay);
    ia3_put_f64(w, recipe->ema);
    ia3_put_str(w, method->name, strlen(method->name));
    Ia3PutText(w, method->options, strlen(method->options));
}

Datum
Ia3RecipeJson(const Ia3Recipe *r, const Ia3RecipeContext *context)
{
    Ia3JsonObject json;

    Ia3JsonBegin(&json);
    Ia3JsonPutString(&json, "query", context->query);
    Ia3JsonPutString(&json, "method", r->method.name);
    Ia3MethodPutOptions(r->method.options, &json);
    Ia3JsonPutStrings(&json, "template", r->templates);
    Ia3JsonPutStrings(&json, "choices", context->choices);
    Ia3WordingPut(r->wording, &json);
    Ia3JsonPutString(&json, "backbone", context->backbone);
    Ia3JsonPutString(&json, "init", context->init);
    Ia3JsonPutInteger(&json, "steps", r->steps);
    Ia3JsonPutInteger(&json, "batch_size", r->batchSize);
    Ia3JsonPutFloat(&json, "learning_rate", r->learningRate);
    Ia3JsonPutFloat(&json, "warmup_ratio", r->warmupRatio);
    Ia3JsonPutFloat(&json, "lm_weight", r->lmWeight);
    Ia3JsonPutFloat(&json, "unlikelihood_weight", r->unlikelihoodWeight);
    Ia3JsonPutFloat(&json, "length_norm_weight", r->lengthNormWeight);
    Ia3JsonPutFloat(&json, "dropout", r->dropout < 0 ? context->engine->dropoutRate : r->dropout);
    Ia3JsonPutInteger(&json, "seed", r->seed);
    Ia3JsonPutString(&json, "rendering", "jsonb"); /* how fields become text (value_text.h) */
    Ia3JsonPutString(&json, "loss_averaging", r->averaging == IA3_LOSS_EXAMPLE ? "example" : "batch");
    if (r->optimizer == IA3_OPTIMIZER_ADAMW) {
        Ia3JsonPutString(&json, "optimizer", "adamw");
        Ia3JsonPutFloat(&json, "weight_decay", r->weightDecay);
    }
    if (r->ema > 0)
        Ia3JsonPutFloat(&json, "ema", r->ema);
    if (r->balanced)
        Ia3JsonPutBool(&json, "balanced", true);
    if (r->classWeights)
        Ia3JsonPutJsonb(&json, "class_weights", r->classWeights);
    if (r->weightColumn)
        Ia3JsonPutString(&json, "weight_column", r->weightColumn);
    if (r->earlyStopping != IA3_EARLY_NONE)
        Ia3JsonPutString(&json, "early_stopping", Ia3EarlyStoppingName(r->earlyStopping));
    Ia3JsonPutInteger(&json, "max_input_tokens", context->maxInputTokens);
    Ia3JsonPutString(&json, "truncate", Ia3TruncateName(r->truncate));
    Ia3JsonPutString(&json, "device", context->engine->device);
    Ia3JsonPutString(&json, "dtype", context->engine->dtype);
    Ia3JsonPutString(&json, "ia3_version", IA3_VERSION);
    if (context->more)
        context->more(&json, context->arg);
    return Ia3JsonEnd(&json);
}
