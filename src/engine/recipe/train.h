/*
 * train.h
 *     Training runs ("jobs") with the T-Few recipe (docs/engine.md §3), one or several at a time on one backbone.
 */
#ifndef IA3_TRAIN_H
#define IA3_TRAIN_H

#include "engine/model/model.h"
#include "recipe.h"
#include "train_example.h"

typedef struct ia3_train_report {
    int step;                                                  /* number of steps done */
    double loss, lm_loss, unlikelihood_loss, length_norm_loss; /* of the last step (see loss.h) */
    int examples;                                              /* number of examples of the last step */
    double flops;                                              /* of the last step (engine/model/work.h) */
} ia3_train_report;

typedef struct ia3_train ia3_train;

/*
 * Creates a job. It copies the examples' pointers, so ids and choices must outlive the job. init is host memory
 * [n_values] in the layout of the recipe's variant, or NULL for the method's initial values. Errors: IA3_E_INVALID
 * (naming the field of the recipe or the example), IA3_E_UNSUPPORTED for int8 weights, IA3_E_MEMORY, IA3_E_TOO_LONG if the adapter, or
 * for a job that is going to be paused also its state, is too large for a message.
 */
ia3_train *ia3_train_create(ia3_model *m, const ia3_train_example *examples, int n, const ia3_recipe *recipe,
                            const float *init, ia3_error *err);
void ia3_train_free(ia3_train *t);

/*
 * Gives the job's examples weights [n], before anything else is done with it; without this call all weigh the same. Only
 * ratios matter: the weights are multiplied by n / Σ weights, so that their mean is 1. An example of weight 2 counts as two
 * of weight 1 would, but is drawn as often; one of weight 0 is drawn, too. loss.h says how weights enter the losses; in the
 * choice of a FISH mask they are factors of the squared gradients. IA3_E_INVALID unless all are numbers from 0 to
 * IA3_MAX_WEIGHT, and one is positive.
 */
bool ia3_train_weigh(ia3_train *t, const double *weights, ia3_error *err);

/*
 * Does one optimizer step of every job in `jobs`, or, before the first step of a method that trains only some of the
 * weights, one of the draws that decide which (the report then has step 0). No job is finished. All examples are in one
 * pass, except that jobs with weights of their own have one each, as has every draw. Each job's result is what it would
 * be without the others. On failure (IA3_E_MEMORY) no job has made a step. Some may have made their draw, which is not
 * repeated, so each can be tried again, alone or with others, with the same result in the end.
 */
bool ia3_train_step(ia3_train *const *jobs, int n_jobs, ia3_error *err);
bool ia3_train_finished(const ia3_train *t); /* true also when paused (recipe.stop) */
/* Whether the recipe's early stopping has ended the job (stopping.h), be it after the last step. */
bool ia3_train_ended_early(const ia3_train *t);
void ia3_train_last(const ia3_train *t, ia3_train_report *report);
int ia3_train_batch_tokens(const ia3_train *t); /* tokens of a typical step, for the token budget of a pass */

const ia3_layout *ia3_train_layout(const ia3_train *t);

/* Copies the adapter's values to host memory [n_values], or their average if the recipe asks for that. */
void ia3_train_values(ia3_train *t, float *values);

/*
 * _save returns the job's state after the steps so far: what is trained, the second moments, and the position in the
 * random order of the examples. It is malloc'd, *len bytes (about 8 per value that is trained). It fails with
 * IA3_E_INVALID before the weights that are trained have been chosen. A new job with the same examples, weights of examples and
 * recipe (except for `stop`) that restores this state before its first step continues exactly as this job would, bit for bit.
 * _restore fails with IA3_E_INVALID if the state belongs to other examples, another recipe or another
 * layout, or is not a valid state at all, and with IA3_E_UNSUPPORTED for other optimizers than Adafactor, averages and early stopping.
 */
uint8_t *ia3_train_save(ia3_train *t, size_t *len, ia3_error *err);
bool ia3_train_restore(ia3_train *t, const uint8_t *state, size_t len, ia3_error *err);

/*
 * For tests and tools: the same pass over a batch that the caller chooses (examples[n], and texts[n], which of the
 * example's texts to use; IA3_E_INVALID for examples with verbalizers, whose choices would have to be drawn). _gradients does not change the job; it returns the unclipped gradient [n_values], and the
 * losses in *report. _step_on does one optimizer step. Dropout is that of the recipe and the job's step count.
 */
bool ia3_train_gradients(ia3_train *t, const int *examples, const int *texts, int n, float *grads,
                         ia3_train_report *report, ia3_error *err);
bool ia3_train_step_on(ia3_train *t, const int *examples, const int *texts, int n, ia3_error *err);

#endif
