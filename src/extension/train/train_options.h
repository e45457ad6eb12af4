/*
 * train_options.h
 *     How a version is trained: the options of ia3_train.
 */
#ifndef IA3_RECIPE_H
#define IA3_RECIPE_H

#include "fmgr.h"

#include "extension/client/engine_info.h"
#include "extension/client/string_list.h"
#include "extension/tasks/method.h"

typedef struct Ia3Recipe {
    Ia3Strings *templates;
    Ia3Strings *choices; /* as given; NULL: the labels of the examples */
    char *backbone;      /* NULL: the task's, or ia3.backbone for a new task */
    char *init;          /* a task reference; NULL: ones */
    char *methodName;    /* NULL: the default */
    int32 steps, batchSize;
    bool hasLearningRate; /* else the method's */
    double learningRate, warmupRatio;
    double lmWeight, unlikelihoodWeight, lengthNormWeight;
    bool hasDropout; /* else the checkpoint's, and dropout is negative */
    double dropout;
    int64 seed; /* drawn when not given */
    bool activate;
    Ia3LossAveraging averaging;
    Ia3EngineMethod method; /* from Ia3RecipeComplete on */
} Ia3Recipe;

/* Options of a function that trains, in no particular order. */
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
    IA3_N_OPTIONS
} Ia3Option;

/* Where a function has them, and what it takes for NULL and for what it does not have. */
typedef struct Ia3Options {
    int argument[IA3_N_OPTIONS]; /* from 1; 0: it does not have the option */
    int32 steps, batchSize;
    double learningRate; /* 0: the method's */
    double lmWeight, unlikelihoodWeight, lengthNormWeight;
} Ia3Options;

extern const Ia3Options Ia3TrainOptions, Ia3PretrainOptions;

/* Reads the options of a call. */
extern Ia3Recipe *Ia3RecipeFromArguments(FunctionCallInfo fcinfo, const Ia3Options *options);

/*
 * Looks the method up in what an engine of the backbone says about itself, fills in its defaults, and checks the numbers
 * against the engine's limits. ERROR 22023 naming the option that is out of range.
 */
extern void Ia3RecipeComplete(Ia3Recipe *recipe, const Ia3EngineInfo *engine);

/* The numbers of a TRAIN request, from `steps` to the method. */
extern void Ia3RecipePut(const Ia3Recipe *recipe, ia3_writer *w);

/* What else belongs into a record from which the training can be repeated. */
typedef struct Ia3RecipeContext {
    const char *query;
    const char *backbone;
    const Ia3EngineInfo *engine;
    const Ia3Strings *choices; /* of the task; NULL: every row brought its own */
    const char *init;          /* task@version; NULL: ones */
    int maxInputTokens;
    /* Adds the members that only one function has; NULL: there are none. */
    void (*more)(Ia3JsonObject *recipe, const void *arg);
    const void *arg;
} Ia3RecipeContext;

/* The recipe as a jsonb Datum. */
extern Datum Ia3RecipeJson(const Ia3Recipe *recipe, const Ia3RecipeContext *context);

#endif
