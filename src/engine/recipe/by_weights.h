/*
 * by_weights.h
 *     Divides rows to be scored or generated into groups that can share a pass: those whose versions have the same weights.
 */
#ifndef IA3_BY_WEIGHTS_H
#define IA3_BY_WEIGHTS_H

#include "engine/model/model.h"

/* Rows of some type, and what is done with rows that have the same weights. */
typedef struct ia3_rows_by_weights {
    void *rows; /* [n], each of `size` bytes */
    size_t size;
    int n;
    const ia3_adapter *(*adapter_of)(const void *row); /* NULL: the bare backbone */
    bool (*compute)(ia3_model *m, void *rows, int n, ia3_error *err);
} ia3_rows_by_weights;

/* Calls compute for each group, with its rows in their order, until it fails. What it changes in the rows remains. */
bool ia3_compute_by_weights(ia3_model *m, const ia3_rows_by_weights *r, ia3_error *err);

#endif
