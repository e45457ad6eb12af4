/*
 * train.h
 *     Training with the T-Few recipe (engine.md §3): one or several jobs over one backbone.
 */
#ifndef IA3_TRAIN_H
#define IA3_TRAIN_H

#include "engine/model/choices.h"
#include "engine/model/model.h"
#include "recipe.h"

/* One example; the texts are its renderings under each template, one of which is drawn per access. */
typedef struct ia3_train_example {
    int n_texts;
    const int32_t *const *ids; /* [n_texts][n_ids[t]], </s> included */
    const int *n_ids;
    const ia3_choices *choices;
    int label;
} ia3_train_example;

typedef struct ia3_train_report {
    int step;                                                  /* steps done */
    double loss, lm_loss, unlikelihood_loss, length_norm_loss; /* of the last step, the constant dropped */
    int examples;                                              /* of the last step */
} ia3_train_report;

typedef struct ia3_train ia3_train;

/*
 * Checks the recipe (IA3_E_INVALID names the field) and copies the examples' pointers: ids and choices must
 * outlive the job. init: host values [n_values] of the recipe's method, or NULL for a fresh start as the method has
 * it.
 */
ia3_train *ia3_train_create(ia3_model *m, const ia3_train_example *examples, int n, const ia3_recipe *recipe,
                            const float *init, ia3_error *err);
void ia3_train_free(ia3_train *t);

/*
 * One optimizer step of every job in `jobs` (none of them finished), all examples in one pass. Jobs are
 * independent: the vectors of each are what they would be alone. On failure no job has moved.
 */
bool ia3_train_step(ia3_train *const *jobs, int n_jobs, ia3_error *err);
bool ia3_train_finished(const ia3_train *t); /* or paused (recipe.stop) */
void ia3_train_last(const ia3_train *t, ia3_train_report *report);
int ia3_train_batch_tokens(const ia3_train *t); /* of a typical step: what it adds to a mixed batch */

const ia3_layout *ia3_train_layout(const ia3_train *t);

/* Copies the vectors to host memory [n_values]. */
void ia3_train_values(ia3_train *t, float *values);

/*
 * Everything that the steps done so far leave behind: the vectors, the second moments, where in its random
 * order of the examples the job is. malloc'd, *len bytes (about 8 per value). A job created with the same
 * examples and recipe (but for `stop`) that is given the state goes on bit for bit as this one would. _restore
 * fails with IA3_E_INVALID for a state of other examples, another recipe or another layout, and for bytes that
 * are no state; it is called before the first step.
 */
uint8_t *ia3_train_save(ia3_train *t, size_t *len);
bool ia3_train_restore(ia3_train *t, const uint8_t *state, size_t len, ia3_error *err);

/*
 * For tests and tools: the same pass over a batch that the caller names (examples[n]; texts[n] = which of
 * each example's texts). _gradients leaves the job alone and returns the unclipped gradient [n_values], the
 * losses in *report; _step_on makes one optimizer step. Dropout follows the recipe and the job's step count.
 */
bool ia3_train_gradients(ia3_train *t, const int *examples, const int *texts, int n, float *grads,
                         ia3_train_report *report, ia3_error *err);
bool ia3_train_step_on(ia3_train *t, const int *examples, const int *texts, int n, ia3_error *err);

#endif
