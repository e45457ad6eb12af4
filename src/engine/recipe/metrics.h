/*
 * metrics.h
 *     The metrics that a training run reports at its end: its losses and their development.
 */
#ifndef IA3_METRICS_H
#define IA3_METRICS_H

#include "train.h"

/* Averages over a job's steps, for its metrics. */
#define IA3_CURVE_POINTS 100

/* Of a run that may end early: the losses of one member of an ensemble, and where the members before it have ended. */
typedef struct ia3_early_record {
    double sums[IA3_CURVE_POINTS][4]; /* of the steps of each point, as in ia3_loss_record */
    int n[IA3_CURVE_POINTS];
    int members;
    int steps[IA3_MAX_MEMBERS];
    bool flat[IA3_MAX_MEMBERS]; /* the loss did not fall any more; else the last step was done */
} ia3_early_record;

typedef struct ia3_loss_record {
    int first; /* steps done before this request */
    int steps;
    bool may_end;   /* early */
    double sums[4]; /* loss, lm, unlikelihood, length norm, summed over the last tenth of the steps */
    int n_sums;
    double flops; /* of all steps */
    double curve[IA3_CURVE_POINTS];
    int curve_n[IA3_CURVE_POINTS];
    ia3_early_record early;
} ia3_loss_record;
void ia3_loss_record_add(ia3_loss_record *l, const ia3_train_report *report);
/* Says that a member has ended; needed only if it may end early. `flat`: early stopping has ended it. */
void ia3_loss_record_end(ia3_loss_record *l, int step, bool flat);
/*
 * Returns the metrics of TRAIN_OK (protocol.h), a JSON object in malloc'd memory. If the run may end early, the averages are over the last
 * points of each member's curve that have a tenth of its steps, and the member "early_stopping" has "rule" ("loss"),
 * "max_steps" (those of the recipe) and an element for each member of an ensemble in "steps" and "ended_by" ("flat": the loss
 * did not fall any more; "steps": max_steps were done).
 */
char *ia3_metrics_json(const ia3_loss_record *l, uint32_t examples, double seconds, uint32_t truncated);

#endif
