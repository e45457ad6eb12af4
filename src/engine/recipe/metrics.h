/*
 * metrics.h
 *     What a training run tells about itself at its end: losses, and how they developed.
 */
#ifndef IA3_METRICS_H
#define IA3_METRICS_H

#include "train.h"

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
