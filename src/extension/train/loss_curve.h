/*
 * loss_curve.h
 *     The losses of a training run as they are stored: "loss_curve" in ia3.adapter.metrics.
 */
#ifndef IA3_LOSS_CURVE_H
#define IA3_LOSS_CURVE_H

#include "utils/jsonb.h"

typedef struct Ia3LossCurve {
    int n;
    double *values; /* [n] means over equal shares of the steps; NaN where the loss was not a number */
} Ia3LossCurve;

/*
 * Reads a JSON array into palloc'd numbers; an element that is not a number becomes NaN. False if it is not an array.
 */
extern bool Ia3LossCurveRead(JsonbContainer *array, Ia3LossCurve *curve);

/*
 * A member of a JSON object if it is a number, otherwise NaN; a member if it is an array, otherwise NULL. The array
 * is not copied.
 */
extern double Ia3JsonNumber(JsonbContainer *object, const char *name);
extern JsonbContainer *Ia3JsonArray(JsonbContainer *object, const char *name);

#endif
