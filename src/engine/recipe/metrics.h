/*
 * metrics.h
 *     The metrics that a training run reports at its end: its losses and their development.
 */
#ifndef IA3_METRICS_H
#define IA3_METRICS_H

#include "train.h"

/* Averages over a job's steps, for its metrics. */
#define IA3_CURVE_POINTS 100
typedef struct ia3_loss_record {
    int first; /* steps done before this request */
    int steps;
    double sums[4]; /* loss, lm, unlikelihood, length norm, summed over the last tenth of the steps */
    int n_sums;
    double flops; /* of all steps */
    double curve[IA3_CURVE_POINTS];
    int curve_n[IA3_CURVE_POINTS];
} ia3_loss_record;
void ia3_loss_record_add(ia3_loss_record *l, const ia3_train_report *report);
/* Returns the metrics of TRAIN_OK (protocol.h), a JSON object in malloc'd memory. */
char *ia3_metrics_json(const ia3_loss_record *l, uint32_t examples, double seconds, uint32_t truncated);

#endif
