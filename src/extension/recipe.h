/*
 * recipe.h
 *     How a version is trained: the options of ia3_train.
 */
#ifndef IA3_RECIPE_H
#define IA3_RECIPE_H

#include "string_list.h"

typedef struct Ia3Recipe {
    Ia3Strings *templates;
    Ia3Strings *choices; /* as given; NULL: the labels of the examples */
    char *backbone;      /* NULL: the task's, or ia3.backbone for a new task */
    char *init;          /* a task reference; NULL: ones */
    int32 steps, batchSize;
    double learningRate, warmupRatio;
    double lmWeight, unlikelihoodWeight, lengthNormWeight;
    double dropout; /* negative: the checkpoint's */
    int64 seed;     /* drawn when not given */
    bool activate;
    Ia3LossAveraging averaging;
} Ia3Recipe;

/*
 * Reads the options from the arguments of ia3_train (from the third on); NULL stands for the default. ERROR
 * 22023 naming the option that is out of range.
 */
extern Ia3Recipe *Ia3RecipeFromArguments(FunctionCallInfo fcinfo);

/* The numbers of a TRAIN request, from `steps` to `loss_averaging`. */
extern void Ia3RecipePut(const Ia3Recipe *recipe, ia3_writer *w);

/* What else belongs into a record from which the training can be repeated. */
typedef struct Ia3RecipeContext {
    const char *query;
    const char *backbone;
    const Ia3EngineInfo *engine;
    const Ia3Strings *choices; /* of the task; NULL: every row brought its own */
    const char *init;          /* task@version; NULL: ones */
    int maxInputTokens;
} Ia3RecipeContext;

/* The recipe as a jsonb Datum. */
extern Datum Ia3RecipeJson(const Ia3Recipe *recipe, const Ia3RecipeContext *context);

#endif
