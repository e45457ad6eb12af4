/*
 * scratch.h
 *     A directory that is written beside the place where it is to appear: TARGET.ia3-XXXXXX.
 *
 * As long as it is written it is locked, so that one which a killed process has left behind can be told from
 * one that is in use, by this process or another.
 */
#ifndef IA3_SCRATCH_H
#define IA3_SCRATCH_H

#include <stdbool.h>

typedef struct ia3_scratch {
    char *path; /* NULL: there is none */
    int lock;   /* descriptor */
} ia3_scratch;

/* Makes a new one, empty and for this user only, and removes those that others left for the same target. False
 * with errno, nothing left behind and s->path NULL, when it cannot be made: EBUSY when others removed it time and
 * again before it was locked. */
bool ia3_scratch_create(ia3_scratch *s, const char *target);

/* Gives it its name; it is a scratch directory no more. False with errno; then it still is one. */
bool ia3_scratch_publish(ia3_scratch *s, const char *target);

/* Removes it with the files in it, if there is one. */
void ia3_scratch_remove(ia3_scratch *s);

#endif
