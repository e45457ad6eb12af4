/*
 * recipe_read.c
 *     The recipe of a training run, read from what is recorded with a version, so that the run can be repeated.
 */
#include "postgres.h"

#include <math.h>

#include "utils/fmgrprotos.h"

#include "extension/tasks/json_object.h"
#include "loss_curve.h"
#include "train_options.h"

/* A recorded number; `missing` if there is none. */
static double
number(const Jsonb *recipe, const char *key, double missing)
{
    double value = Ia3JsonNumber((JsonbContainer *) &recipe->root, key);

    return isnan(value) ? missing : value;
}

/* The same for an integer, which the caller checks against limits that are within those of int32. */
static int32
integer(const Jsonb *recipe, const char *key, int32 missing)
{
    double value = number(recipe, key, missing);

    return value > PG_INT32_MIN && value < PG_INT32_MAX ? (int32) value : -1;
}

static bool
has_number(const Jsonb *recipe, const char *key)
{
    return !isnan(number(recipe, key, NAN));
}

/* A float8 does not hold all seeds. Without one that a bigint holds, 0. */
static int64
read_seed(const Jsonb *recipe)
{
    double rough = number(recipe, "seed", 0);
    JsonbValue value;

    if (!(fabs(rough) < 9.2e18) ||
        getKeyJsonValueFromContainer((JsonbContainer *) &recipe->root, "seed", 4, &value) == NULL ||
        value.type != jbvNumeric)
        return 0;
    return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value.val.numeric)));
}

/* A recorded text, palloc'd; NULL if there is none. */
static char *
string(const Jsonb *recipe, const char *key)
{
    JsonbValue value;

    if (getKeyJsonValueFromContainer((JsonbContainer *) &recipe->root, key, strlen(key), &value) == NULL ||
        value.type != jbvString)
        return NULL;
    return pnstrdup(value.val.string.val, value.val.string.len);
}

static bool
is_string(const Jsonb *recipe, const char *key, const char *expected)
{
    char *value = string(recipe, key);

    return value != NULL && strcmp(value, expected) == 0;
}

static bool
is_true(const Jsonb *recipe, const char *key)
{
    JsonbValue value;

    return getKeyJsonValueFromContainer((JsonbContainer *) &recipe->root, key, strlen(key), &value) != NULL &&
           value.type == jbvBool && value.val.boolean;
}

/* A recorded value of any type, which the caller checks; NULL if there is none. */
static Jsonb *
recorded(const Jsonb *recipe, const char *key)
{
    JsonbValue value;

    if (getKeyJsonValueFromContainer((JsonbContainer *) &recipe->root, key, strlen(key), &value) == NULL ||
        value.type == jbvNull)
        return NULL;
    return JsonbValueToJsonb(&value);
}

Ia3Recipe *
Ia3RecipeOfVersion(const Ia3Task *version, const Jsonb *recipe)
{
    const Ia3Options *missing = &Ia3TrainOptions;
    Ia3Recipe *r = palloc0(sizeof(Ia3Recipe));

    r->templates = version->templates;
    r->choices = version->choices;
    r->wording = version->wording;
    r->backbone = version->backbone;
    r->init = string(recipe, "init");
    r->methodName = version->method;
    r->methodOptions = version->methodOptions;
    r->steps = integer(recipe, "steps", missing->steps);
    r->batchSize = integer(recipe, "batch_size", missing->batchSize);
    r->hasSteps = has_number(recipe, "steps");
    r->learningRate = number(recipe, "learning_rate", missing->learningRate);
    r->hasLearningRate = has_number(recipe, "learning_rate");
    r->warmupRatio = number(recipe, "warmup_ratio", IA3_DEFAULT_WARMUP);
    r->lmWeight = number(recipe, "lm_weight", missing->lmWeight);
    r->unlikelihoodWeight = number(recipe, "unlikelihood_weight", missing->unlikelihoodWeight);
    r->lengthNormWeight = number(recipe, "length_norm_weight", missing->lengthNormWeight);
    r->hasDropout = has_number(recipe, "dropout");
    r->dropout = number(recipe, "dropout", -1);
    r->averaging = is_string(recipe, "loss_averaging", "example") ? IA3_LOSS_EXAMPLE : IA3_LOSS_BATCH;
    r->optimizer = is_string(recipe, "optimizer", "adamw") ? IA3_OPTIMIZER_ADAMW : IA3_OPTIMIZER_ADAFACTOR;
    r->weightDecay = number(recipe, "weight_decay", 0);
    r->ema = number(recipe, "ema", 0);
    r->balanced = is_true(recipe, "balanced");
    r->classWeights = recorded(recipe, "class_weights");
    r->weightColumn = string(recipe, "weight_column");
    if (is_string(recipe, "early_stopping", "loss"))
        r->earlyStopping = IA3_EARLY_LOSS;
    else if (is_string(recipe, "early_stopping",
                       "folds")) /* the steps that were chosen are those of the version */
        r->steps = integer(recipe, "chosen_steps", r->steps);
    r->truncate = version->truncate;
    r->hasSeed = has_number(recipe, "seed");
    r->seed = read_seed(recipe);
    r->calibrate = true;
    return r;
}
