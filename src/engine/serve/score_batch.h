/*
 * score_batch.h
 *     Scoring and generating batches and training jobs. Everything here runs on the compute thread.
 */
#ifndef IA3_COMPUTE_H
#define IA3_COMPUTE_H

#include "serve.h"

/* Computes one batch, hands finished requests back. */
void ia3_run_batch(ia3_server *s, ia3_row_batch *batch);

/* The rows of a batch that are to be continued rather than scored (writer.c). Each gets its text or its error. */
void ia3_run_generation(ia3_server *s, ia3_row **rows, int n);

/* Moves the vectors of an adapter (NULL: nothing to do) to the device when it is used for the first time. */
bool ia3_adapter_to_device(ia3_server *s, ia3_cached_adapter *a, ia3_error *err);

/* The training jobs under way (trainer.c). */
typedef struct ia3_trainer ia3_trainer;
ia3_trainer *ia3_trainer_create(ia3_server *s);
void ia3_trainer_free(ia3_trainer *t);
/* Takes a request over (it comes back as DONE, at once when it cannot start). */
void ia3_trainer_add(ia3_trainer *t, ia3_request *r);
bool ia3_trainer_busy(const ia3_trainer *t);
/* One optimizer step of as many jobs as the token budget takes, in turn; cancelled jobs end first. */
void ia3_trainer_step(ia3_trainer *t);

/* Averages over a job's steps for its metrics. */
#define IA3_CURVE_POINTS 100
typedef struct ia3_loss_record {
    int first; /* steps done before these */
    int steps;
    double sums[4]; /* loss, lm, unlikelihood, length norm over the last tenth */
    int n_sums;
    double curve[IA3_CURVE_POINTS];
    int curve_n[IA3_CURVE_POINTS];
} ia3_loss_record;
void ia3_loss_record_add(ia3_loss_record *l, const ia3_train_report *report);
/* The metrics object of TRAIN_OK, malloc'd. */
char *ia3_metrics_json(const ia3_loss_record *l, uint32_t examples, double seconds, uint32_t truncated);

#endif
