/*
 * train_options.h
 *     The recipe of a training run, read from the arguments of ia3_train or ia3_pretrain.
 */
#ifndef IA3_RECIPE_H
#define IA3_RECIPE_H

#include "fmgr.h"
#include "utils/jsonb.h"

#include "extension/client/engine_info.h"
#include "extension/client/string_list.h"
#include "extension/tasks/method.h"
#include "extension/tasks/task.h"
#include "extension/tasks/template.h"

/* When training ends before the steps that were asked for (early_stopping.h). */
typedef enum Ia3EarlyStoppingOption {
    IA3_EARLY_NONE,
    IA3_EARLY_LOSS,
    IA3_EARLY_FOLDS
} Ia3EarlyStoppingOption;

typedef struct Ia3Recipe {
    Ia3Strings *templates;
    Ia3Strings *choices; /* as specified; NULL: the labels of the examples */
    char *backbone;      /* NULL: that of the task, or ia3.backbone for a new task */
    char *init;          /* a task reference; NULL: ones */
    char *methodName;    /* NULL: the default method */
    int32 steps, batchSize;
    bool hasSteps, hasLearningRate; /* otherwise those of the method are used */
    double learningRate, warmupRatio;
    double lmWeight, unlikelihoodWeight, lengthNormWeight;
    bool hasDropout; /* otherwise that of the backbone's configuration is used, and `dropout` is negative */
    double dropout;
    bool hasSeed;
    int64 seed; /* drawn at random if not specified */
    bool activate, calibrate;
    Ia3LossAveraging averaging;
    Ia3Optimizer optimizer;
    double weightDecay, ema;
    bool balanced;       /* weights that make the labels equally heavy */
    Jsonb *classWeights; /* weights by label; NULL: none */
    char *weightColumn;  /* the query's column with the rows' weights; NULL: none */
    Ia3EarlyStoppingOption earlyStopping;
    Ia3Wording *wording; /* of the choices; NULL: they are scored as they are */
    Ia3Truncate truncate;
    const char *methodOptions; /* those that were specified, as JSON; empty: none */
    Ia3Method method;          /* filled in by Ia3RecipeComplete */
} Ia3Recipe;

/* The options of functions that train, in no particular order. */
typedef enum Ia3Option {
    IA3_OPTION_TEMPLATE,
    IA3_OPTION_CHOICES,
    IA3_OPTION_BACKBONE,
    IA3_OPTION_INIT,
    IA3_OPTION_STEPS,
    IA3_OPTION_BATCH_SIZE,
    IA3_OPTION_LEARNING_RATE,
    IA3_OPTION_WARMUP_RATIO,
    IA3_OPTION_LM_WEIGHT,
    IA3_OPTION_UNLIKELIHOOD_WEIGHT,
    IA3_OPTION_LENGTH_NORM_WEIGHT,
    IA3_OPTION_DROPOUT,
    IA3_OPTION_SEED,
    IA3_OPTION_ACTIVATE,
    IA3_OPTION_LOSS_AVERAGING,
    IA3_OPTION_METHOD,
    IA3_OPTION_TRUNCATE,
    IA3_OPTION_OPTIMIZER,
    IA3_OPTION_WEIGHT_DECAY,
    IA3_OPTION_EMA,
    IA3_OPTION_BALANCED,
    IA3_OPTION_CLASS_WEIGHTS,
    IA3_OPTION_WEIGHT_COLUMN,
    IA3_OPTION_CALIBRATE,
    IA3_OPTION_EARLY_STOPPING,
    IA3_OPTION_VERBALIZERS,
    IA3_OPTION_DESCRIPTIONS,
    IA3_N_OPTIONS
} Ia3Option;

/* The positions of a function's options, and the defaults for those that are NULL or that the function lacks. */
typedef struct Ia3Options {
    int argument[IA3_N_OPTIONS]; /* from 1; 0: the function lacks the option */
    int methodOptions;           /* the first of those of methods */
    int32 steps, batchSize;
    double learningRate; /* it and `steps`: 0: that of the method */
    double lmWeight, unlikelihoodWeight, lengthNormWeight;
} Ia3Options;

#define IA3_DEFAULT_WARMUP 0.06

extern const Ia3Options Ia3TrainOptions, Ia3PretrainOptions;
/* Of ia3_cross_predict and ia3_cross_validate, from the argument "template" on. */
extern const Ia3Options Ia3CrossOptions;

/*
 * Reads the options of a call into a palloc'd recipe. ERROR 22023 for an unknown loss_averaging or truncate or invalid
 * choices.
 */
extern Ia3Recipe *Ia3RecipeFromArguments(FunctionCallInfo fcinfo, const Ia3Options *options);

/*
 * The recipe that is recorded with a version (jsonb), in the current memory context, for a run like the one that made it, of the
 * version's backbone, templates, choices and method. What is not recorded, since the version was imported for example, is as
 * ia3_train has it, and the seed is 0. Ia3RecipeComplete checks the numbers.
 */
extern Ia3Recipe *Ia3RecipeOfVersion(const Ia3Task *version, const Jsonb *recipe);

/*
 * Has the engine of the backbone complete the method, fills in its defaults, and checks the numbers against the engine's
 * limits. Options of the method that are not specified are those of `init` (may be NULL). ERROR 22023, which names the
 * option, for an unknown method or a number out of range, and as for Ia3MethodConfigure.
 */
extern void Ia3RecipeComplete(Ia3Recipe *recipe, const char *backbone, const Ia3Task *init);

/* Writes the part of a TRAIN request from `steps` to the method. */
extern void Ia3RecipePut(const Ia3Recipe *recipe, ia3_writer *w);

/* What else is recorded, so that the run can be repeated. */
typedef struct Ia3RecipeContext {
    const char *query;
    const char *backbone;
    const Ia3EngineInfo *engine;
    const Ia3Strings *choices; /* of the task; NULL: every row has its own */
    const char *init;          /* task@version; NULL: ones */
    int maxInputTokens;
    /* Adds the members that only one of the functions records; NULL: there are none. */
    void (*more)(Ia3JsonObject *recipe, const void *arg);
    const void *arg;
} Ia3RecipeContext;

/* The recipe as a jsonb Datum. */
extern Datum Ia3RecipeJson(const Ia3Recipe *recipe, const Ia3RecipeContext *context);

#endif
