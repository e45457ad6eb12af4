/*
 * mixture.h
 *     The examples of several tasks, on which one adapter is trained.
 */
#ifndef IA3_MIXTURE_H
#define IA3_MIXTURE_H

#include "utils/jsonb.h"

#include "common/wire.h"
#include "train_options.h"

typedef struct Ia3Mixture Ia3Mixture;

/*
 * Reads the rows of a query (train_rows.h), which must also return a column "task". `templates` is a JSON object that
 * has a template, or an array of them, for every task; NULL: all tasks use those of the recipe. The result lives in
 * the current memory context. ERROR as for Ia3ReadTrainRows and Ia3TemplateParse, 22004 for a row without a task,
 * 22023 for a task without a template and for `templates` that are not such an object.
 */
extern Ia3Mixture *Ia3MixtureRead(const char *query, const Ia3Recipe *recipe, Jsonb *templates);

/*
 * Writes the choice sets and the examples of a TRAIN request; usable as Ia3TrainJob.putExamples. The only choice of
 * an example is its label, because the language modeling loss depends on nothing else.
 */
extern void Ia3MixturePut(ia3_writer *w, void *mixture);

/* The hashes of the rows (row_hashes.h), each by the first template of its task. */
extern bytea *Ia3MixtureRowHashes(const Ia3Mixture *mixture);

/* Adds the member "tasks" to a recipe, an object with the number of rows of each task. */
extern void Ia3MixturePutTasks(const Ia3Mixture *mixture, Ia3JsonObject *recipe);

#endif
