/*
 * mixture.h
 *     The examples of several tasks, to train one adapter on.
 */
#ifndef IA3_MIXTURE_H
#define IA3_MIXTURE_H

#include "utils/jsonb.h"

#include "common/wire.h"
#include "train_options.h"

typedef struct Ia3Mixture Ia3Mixture;

/*
 * Reads the rows of a query (train_rows.h) that also has a column "task". `templates` is a JSON object that gives
 * every task its template or array of templates; NULL: all tasks have those of the recipe. Lives in the current
 * memory context. ERROR as for Ia3ReadTrainRows and Ia3TemplateParse, 22004 for a row without a task, 22023 for a
 * task without a template and for `templates` that is no such object.
 */
extern Ia3Mixture *Ia3MixtureRead(const char *query, const Ia3Recipe *recipe, Jsonb *templates);

/*
 * Writes choice sets and examples of a TRAIN request (an argument for Ia3TrainJob.putExamples): the only choice of
 * an example is its label, which is all that the language model's loss looks at.
 */
extern void Ia3MixturePut(ia3_writer *w, void *mixture);

/* Adds the member "tasks" to a recipe: the number of rows by task. */
extern void Ia3MixturePutTasks(const Ia3Mixture *mixture, Ia3JsonObject *recipe);

#endif
