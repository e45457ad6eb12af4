/*
 * stopping.h
 *     Early stopping: a training run ends when its loss no longer falls (docs/engine.md §3.5).
 *
 * The steps after the warm-up, in which the rate is too low for the loss to say anything, are divided into windows of a
 * twentieth of the planned steps, 10 at least. The mean of the first window is the lowest so far. Each later mean either falls,
 * and becomes the lowest, or is flat: it falls if it is below the lowest by more than 1 % of all that the mean has fallen since the first
 * window. The run ends after the second flat window in a row. A window in which a loss is not a finite number says nothing, and the next two have to
 * be flat again.
 *
 * So the rule depends on nothing but the losses: neither on time, nor on what else is being trained, nor on the size of the
 * losses, since multiplying them or adding to them changes nothing.
 */
#ifndef IA3_STOPPING_H
#define IA3_STOPPING_H

#include <stdbool.h>

typedef struct ia3_stopping {
    int warmup, window; /* steps */
    int step;           /* number of losses so far */
    double sum;         /* of the losses in the present window */
    double first;       /* the mean of the first window; NaN: there is none yet */
    double lowest;
    int flat; /* windows in a row, up to the last one */
} ia3_stopping;

/* For a run of so many steps, with limits as in recipe.h. */
ia3_stopping ia3_stopping_begin(int steps, double warmup_ratio);

/* The first step after which such a run can end early; more than `steps` if it cannot. */
int ia3_stopping_earliest(int steps, double warmup_ratio);

/* Takes the loss of the next step. True if the run is to end after it. */
bool ia3_stopping_add(ia3_stopping *s, double loss);

#endif
