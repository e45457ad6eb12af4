/*
 * stopping.c
 *     Early stopping: a training run ends when its loss no longer falls.
 */
#include "stopping.h"

#include <math.h>

#define WINDOWS      20   /* of the planned steps */
#define MIN_WINDOW   10   /* steps */
#define MIN_FALL     0.01 /* of the whole fall so far */
#define FLAT_WINDOWS 2

ia3_stopping
ia3_stopping_begin(int steps, double warmup_ratio)
{
    const int window = steps / WINDOWS;
    return (ia3_stopping){.warmup = (int) ceil(steps * warmup_ratio),
                          .window = window > MIN_WINDOW ? window : MIN_WINDOW,
                          .first = NAN};
}

int
ia3_stopping_earliest(int steps, double warmup_ratio)
{
    const ia3_stopping s = ia3_stopping_begin(steps, warmup_ratio);
    return s.warmup + (1 + FLAT_WINDOWS) * s.window;
}

static void
add_window(ia3_stopping *s, double mean)
{
    if (!isfinite(mean))
        s->flat = 0;
    else if (isnan(s->first))
        s->first = s->lowest = mean;
    else if (mean < s->lowest - MIN_FALL * (s->first - s->lowest)) {
        s->lowest = mean;
        s->flat = 0;
    } else
        s->flat++;
}

bool
ia3_stopping_add(ia3_stopping *s, double loss)
{
    if (++s->step <= s->warmup)
        return false;
    s->sum += loss;
    if ((s->step - s->warmup) % s->window == 0) {
        add_window(s, s->sum / s->window);
        s->sum = 0;
    }
    return s->flat >= FLAT_WINDOWS;
}
