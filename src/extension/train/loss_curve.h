/*
 * loss_curve.h
 *     The losses of a training as they are stored: "loss_curve" in ia3.adapter.metrics.
 */
#ifndef IA3_LOSS_CURVE_H
#define IA3_LOSS_CURVE_H

#include "utils/jsonb.h"

typedef struct Ia3LossCurve {
    int n;
    double *values; /* [n] means over equal shares of the steps; NaN where the loss was no number */
} Ia3LossCurve;

/* The numbers of a JSON array, palloc'd; what is no number becomes NaN. False when it is no array. */
extern bool Ia3LossCurveRead(JsonbContainer *array, Ia3LossCurve *curve);

/* A member that is a number, else NaN; a member that is an array, else NULL. `object` must be a JSON object. */
extern double Ia3JsonNumber(JsonbContainer *object, const char *name);
extern JsonbContainer *Ia3JsonArray(JsonbContainer *object, const char *name);

#endif
